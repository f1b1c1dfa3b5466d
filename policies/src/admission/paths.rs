// SPDX-License-Identifier: Apache-2.0
//! References of Rego, and whether the input has what they lead to. Read from the parser's tree as JSON.

use std::collections::BTreeMap;

use serde_json::Value;

/// Names for names for names: more than a rule that people can read has.
const MAX_NAMES: usize = 16;

/// A reference: a name, and steps from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Path {
    pub(super) root: String,
    steps: Vec<Step>,
}

/// A step of a reference: `.name` or `["name"]`, or `[anything else]`.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Name(String),
    Any,
}

impl Path {
    /// None for what is no reference.
    pub(super) fn new(node: &Value) -> Option<Self> {
        if let Some(name) = node["Var"]["value"].as_str() {
            return Some(Self {
                root: name.to_owned(),
                steps: Vec::new(),
            });
        }
        let (inner, step) = if let Some(inner) = node.get("RefDot") {
            (inner, Step::Name(inner["field"][1].as_str()?.to_owned()))
        } else {
            let inner = node.get("RefBrack")?;
            let index = &inner["index"];
            let name = index["String"]["value"]
                .as_str()
                .or(index["RawString"]["value"].as_str());
            let step = name.map_or(Step::Any, |name| Step::Name(name.to_owned()));
            (inner, step)
        };
        let mut path = Self::new(&inner["refr"])?;
        path.steps.push(step);
        Some(path)
    }

    /// With dots; none if a step is no name.
    pub(super) fn dotted(&self) -> Option<String> {
        let mut text = self.root.clone();
        for step in &self.steps {
            let Step::Name(name) = step else { return None };
            text.push('.');
            text.push_str(name);
        }
        Some(text)
    }

    /// What one of them is.
    fn element(mut self) -> Self {
        self.steps.push(Step::Any);
        self
    }
}

/// What the names in a rule stand for: `volume` for `input.volumes[_]`.
///
/// A name that a rule uses for two things, or for something that is no reference, stands for nothing: it is not looked at,
/// since no rule may be refused that is right.
#[derive(Debug, Default)]
pub(super) struct Names(BTreeMap<String, Option<Path>>);

impl Names {
    /// Those of a file's imports and of one rule in it.
    pub(super) fn new(imports: &[(String, Path)], rule: &Value, contents: &str) -> Self {
        let mut names = Self::default();
        for (name, path) in imports {
            names.bind(name, Some(path.clone()));
        }
        names.collect(rule, contents);
        names
    }

    fn bind(&mut self, name: &str, path: Option<Path>) {
        self.0
            .entry(name.to_owned())
            .and_modify(|known| {
                if *known != path {
                    *known = None;
                }
            })
            .or_insert(path);
    }

    /// Binds every name of a pattern to nothing.
    fn unknown(&mut self, pattern: &Value) {
        if let Some(name) = pattern["Var"]["value"].as_str() {
            self.bind(name, None);
        }
        match pattern {
            Value::Array(items) => items.iter().for_each(|item| self.unknown(item)),
            Value::Object(fields) => fields.values().for_each(|field| self.unknown(field)),
            _ => {}
        }
    }

    fn pattern(&mut self, pattern: &Value, path: Option<Path>) {
        match pattern["Var"]["value"].as_str() {
            Some(name) => self.bind(name, path),
            None => self.unknown(pattern),
        }
    }

    fn collect(&mut self, node: &Value, contents: &str) {
        match node {
            Value::Array(items) => items.iter().for_each(|item| self.collect(item, contents)),
            Value::Object(fields) => {
                for (kind, inner) in fields {
                    match kind.as_str() {
                        "AssignExpr" => self.pattern(&inner["lhs"], Path::new(&inner["rhs"])),
                        "SomeIn" => {
                            self.unknown(&inner["key"]);
                            let element = Path::new(&inner["collection"]).map(Path::element);
                            self.pattern(&inner["value"], element);
                        }
                        "Every" => {
                            let element = Path::new(&inner["domain"]).map(Path::element);
                            for (place, path) in [("key", None), ("value", element)] {
                                if let Some(name) = spanned(&inner[place], contents) {
                                    self.bind(name, path);
                                }
                            }
                        }
                        "Func" => self.unknown(&inner["args"]),
                        _ => {}
                    }
                    self.collect(inner, contents);
                }
            }
            _ => {}
        }
    }

    /// The path from `input`, if it comes from there.
    fn in_input(&self, mut path: Path) -> Option<Path> {
        for _ in 0..MAX_NAMES {
            if path.root == "input" {
                return Some(path);
            }
            let mut steps = std::mem::take(&mut path.steps);
            path = self.0.get(&path.root)?.clone()?;
            path.steps.append(&mut steps);
        }
        None
    }
}

/// The text of a span.
pub(super) fn spanned<'a>(span: &Value, contents: &'a str) -> Option<&'a str> {
    let (start, end) = (span["start"].as_u64()?, span["end"].as_u64()?);
    contents.get(usize::try_from(start).ok()?..usize::try_from(end).ok()?)
}

/// What the input has.
pub(super) struct Shape(Value);

impl Shape {
    pub(super) fn new() -> Self {
        Self(schemars::schema_for!(super::Input).to_value())
    }

    /// Whether there can be something at a path.
    ///
    /// # Errors
    /// The path to the first part that there is not.
    pub(super) fn has(&self, path: Path, names: &Names) -> Result<(), String> {
        let Some(path) = names.in_input(path) else {
            return Ok(());
        };
        let mut at = &self.0;
        let mut walked = path.root;
        for step in &path.steps {
            match step {
                Step::Any => walked.push_str("[_]"),
                Step::Name(name) => {
                    walked.push('.');
                    walked.push_str(name);
                }
            }
            match self.below(at, step) {
                Ok(Some(below)) => at = below,
                Ok(None) => break,
                Err(Nothing) => return Err(walked),
            }
        }
        Ok(())
    }

    /// The schema of what a step leads to; none if it could be one of several.
    fn below<'a>(&'a self, at: &'a Value, step: &Step) -> Result<Option<&'a Value>, Nothing> {
        let at = self.resolved(at);
        let values = || at.get("additionalProperties").filter(|of| of.is_object());
        match (step, at.get("properties")) {
            (Step::Name(name), Some(properties)) => match properties.get(name) {
                Some(property) => Ok(Some(property)),
                None => Err(Nothing),
            },
            (Step::Name(_), None) => values().map(Some).ok_or(Nothing),
            (Step::Any, _) => Ok(at.get("items").or_else(values)),
        }
    }

    /// What a schema refers to, or the one alternative that is not null.
    fn resolved<'a>(&'a self, schema: &'a Value) -> &'a Value {
        if let Some(pointer) = schema["$ref"].as_str().and_then(|to| to.strip_prefix('#')) {
            return self.0.pointer(pointer).unwrap_or(schema);
        }
        let mut alternatives = schema["anyOf"].as_array().into_iter().flatten();
        alternatives
            .find(|alternative| alternative["type"] != "null")
            .map_or(schema, |one| self.resolved(one))
    }
}

/// No container has it.
struct Nothing;

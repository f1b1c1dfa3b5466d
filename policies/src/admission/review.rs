// SPDX-License-Identifier: Apache-2.0
//! What is looked for in a policy before it is taken, since the interpreter finds it late or never.
//!
//! A misspelt `input.imge.digest` is undefined: the rule would never deny, and nobody would know. A function that is
//! nowhere is an error only once it is called. A function that calls itself overflows the stack, which ends the process.

use std::collections::{BTreeMap, BTreeSet};

use regorus::{Engine, unstable::BUILTINS};
use serde_json::Value;

/// How deep functions call each other, at most: what the stack of an evaluation holds with room to spare.
const MAX_CALLS: usize = 32;

/// What is wrong, and where.
pub(super) struct Complaint {
    pub(super) file: String,
    pub(super) line: u64,
    pub(super) reason: String,
}

/// Looks at every file of the engine.
pub(super) fn review(engine: &Engine) -> Result<(), Complaint> {
    let unreadable = |reason: String| Complaint {
        file: "the policy".into(),
        line: 1,
        reason,
    };
    let text = engine
        .get_ast_as_json()
        .map_err(|error| unreadable(error.to_string()))?;
    // The depth to which JSON is read is limited.
    let ast: Value = serde_json::from_str(&text)
        .map_err(|_| unreadable("its expressions are nested too deep".into()))?;
    let modules: Vec<_> = ast
        .as_array()
        .into_iter()
        .flatten()
        .map(Module::new)
        .collect();
    let functions: BTreeSet<String> = modules.iter().flat_map(Module::functions).collect();
    let schema = serde_json::to_value(schemars::schema_for!(super::Input)).unwrap_or_default();
    let mut calls = BTreeMap::<String, Vec<Call>>::new();
    for module in &modules {
        for rule in module.rules() {
            let mut found = Vec::new();
            module.walk(rule, &functions, &schema, &mut found)?;
            if let Some(name) = module.function(rule) {
                calls.entry(name).or_default().append(&mut found);
            }
        }
    }
    let mut depths = BTreeMap::new();
    calls
        .keys()
        .try_for_each(|name| depth(name, &calls, &mut Vec::new(), &mut depths).map(|_| ()))
}

/// A call of a function that a policy defines.
struct Call {
    to: String,
    file: String,
    line: u64,
}

/// How deep the calls below `name` go.
fn depth(
    name: &str,
    calls: &BTreeMap<String, Vec<Call>>,
    above: &mut Vec<String>,
    known: &mut BTreeMap<String, usize>,
) -> Result<usize, Complaint> {
    if let Some(depth) = known.get(name) {
        return Ok(*depth);
    }
    above.push(name.to_owned());
    let mut deepest = 0;
    for call in calls.get(name).into_iter().flatten() {
        let complain = |reason| Complaint {
            file: call.file.clone(),
            line: call.line,
            reason,
        };
        if above.contains(&call.to) {
            return Err(complain(format!("the function {} calls itself", call.to)));
        }
        let below = if above.len() < MAX_CALLS {
            depth(&call.to, calls, above, known)?
        } else {
            MAX_CALLS
        };
        deepest = deepest.max(below + 1);
        if deepest > MAX_CALLS {
            let reason = format!("functions call each other more than {MAX_CALLS} deep");
            return Err(complain(reason));
        }
    }
    above.pop();
    known.insert(name.to_owned(), deepest);
    Ok(deepest)
}

/// A file as the parser reads it.
struct Module<'a> {
    file: &'a str,
    ast: &'a Value,
    /// `data.cima.admission`.
    package: String,
    /// What the file calls what it imports.
    imports: BTreeMap<String, String>,
}

/// A step of a reference: `.name`, `["name"]`, or `[anything else]`.
enum Step<'a> {
    Name(&'a str),
    Any,
}

impl<'a> Module<'a> {
    fn new(policy: &'a Value) -> Self {
        let ast = &policy["ast"];
        let contents = policy["source"]["contents"].as_str().unwrap_or_default();
        let mut imports = BTreeMap::new();
        for import in ast["imports"].as_array().into_iter().flatten() {
            let Some(path) = dotted(&import["refr"]) else {
                continue;
            };
            let span = &import["as"];
            let alias = match (span["start"].as_u64(), span["end"].as_u64()) {
                (Some(start), Some(end)) => contents.get(start as usize..end as usize),
                _ => path.rsplit('.').next(),
            };
            if let Some(alias) = alias {
                imports.insert(alias.to_owned(), path.clone());
            }
        }
        let package = dotted(&ast["package"]["refr"]).unwrap_or_default();
        Self {
            file: policy["source"]["file"].as_str().unwrap_or_default(),
            ast,
            package: format!("data.{package}"),
            imports,
        }
    }

    fn rules(&self) -> impl Iterator<Item = &'a Value> + use<'a> {
        self.ast["rules"].as_array().into_iter().flatten()
    }

    /// The full name of a rule that is a function.
    fn function(&self, rule: &Value) -> Option<String> {
        let head = &rule["Spec"]["head"]["Func"];
        let default = &rule["Default"];
        let named = if default.is_object() { default } else { head };
        dotted(&named["refr"]).map(|name| format!("{}.{name}", self.package))
    }

    fn functions(&self) -> Vec<String> {
        self.rules()
            .filter_map(|rule| self.function(rule))
            .collect()
    }

    /// Looks at everything below `node`, and notes the calls.
    fn walk(
        &self,
        node: &Value,
        functions: &BTreeSet<String>,
        schema: &Value,
        calls: &mut Vec<Call>,
    ) -> Result<(), Complaint> {
        match node {
            Value::Array(nodes) => nodes
                .iter()
                .try_for_each(|node| self.walk(node, functions, schema, calls)),
            Value::Object(fields) => {
                for (kind, inner) in fields {
                    match kind.as_str() {
                        "Call" => self.call(inner, functions, calls)?,
                        "RefDot" | "RefBrack" => self.reference(node, inner, schema)?,
                        _ => {}
                    }
                    self.walk(inner, functions, schema, calls)?;
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn complain(&self, node: &Value, reason: String) -> Complaint {
        Complaint {
            file: self.file.to_owned(),
            line: node["span"]["line"].as_u64().unwrap_or(1),
            reason,
        }
    }

    fn call(
        &self,
        call: &Value,
        functions: &BTreeSet<String>,
        calls: &mut Vec<Call>,
    ) -> Result<(), Complaint> {
        let Some(name) = dotted(&call["fcn"]) else {
            return Ok(());
        };
        let imported = name
            .split_once('.')
            .and_then(|(root, rest)| Some(format!("{}.{rest}", self.imports.get(root)?)))
            .or_else(|| self.imports.get(&name).cloned());
        let local = format!("{}.{name}", self.package);
        let own = [Some(local), imported, Some(name.clone())]
            .into_iter()
            .flatten()
            .find(|candidate| functions.contains(candidate));
        match own {
            Some(to) => calls.push(Call {
                to,
                file: self.file.to_owned(),
                line: call["span"]["line"].as_u64().unwrap_or(1),
            }),
            None if BUILTINS.contains_key(name.as_str()) || name == "print" => {}
            None => return Err(self.complain(call, format!("there is no function {name}"))),
        }
        Ok(())
    }

    /// A reference into the input names what the input has.
    fn reference(&self, node: &Value, inner: &Value, schema: &Value) -> Result<(), Complaint> {
        let mut steps = Vec::new();
        if chain(node, &mut steps) != Some("input") {
            return Ok(());
        }
        let mut at = Some(schema);
        let mut path = "input".to_owned();
        for step in steps {
            let Some(here) = at else { break };
            match step {
                Step::Any => path.push_str("[_]"),
                Step::Name(name) => {
                    path.push('.');
                    path.push_str(name);
                }
            }
            at = below(schema, here, &step).map_err(|()| {
                let reason =
                    format!("{path} is no part of the input: cima policy schema says what is");
                self.complain(inner, reason)
            })?;
        }
        Ok(())
    }
}

/// The schema of what a step leads to; none if it could be anything.
fn below<'a>(root: &'a Value, at: &'a Value, step: &Step<'_>) -> Result<Option<&'a Value>, ()> {
    let at = resolved(root, at);
    let properties = at.get("properties");
    match step {
        Step::Name(name) => match (properties, at.get("additionalProperties")) {
            (Some(properties), _) => properties.get(name).map(Some).ok_or(()),
            (None, Some(values)) => Ok(Some(values)),
            (None, None) => Err(()),
        },
        Step::Any => Ok(at
            .get("items")
            .or(at.get("additionalProperties"))
            .filter(|schema| schema.is_object())),
    }
}

/// What a schema refers to, or the one alternative that is not null.
fn resolved<'a>(root: &'a Value, schema: &'a Value) -> &'a Value {
    if let Some(pointer) = schema["$ref"].as_str().and_then(|to| to.strip_prefix('#')) {
        return root.pointer(pointer).unwrap_or(schema);
    }
    let alternatives = schema["anyOf"].as_array().into_iter().flatten();
    let one = alternatives
        .into_iter()
        .find(|alternative| alternative["type"] != "null");
    one.map_or(schema, |one| resolved(root, one))
}

/// The root of a reference and the steps from it.
fn chain<'a>(node: &'a Value, steps: &mut Vec<Step<'a>>) -> Option<&'a str> {
    if let Some(name) = node["Var"]["value"].as_str() {
        return Some(name);
    }
    let (inner, step) = if let Some(inner) = node.get("RefDot") {
        (inner, Step::Name(inner["field"][1].as_str()?))
    } else {
        let inner = node.get("RefBrack")?;
        let name = inner["index"]["String"]["value"]
            .as_str()
            .or(inner["index"]["RawString"]["value"].as_str());
        (inner, name.map_or(Step::Any, Step::Name))
    };
    let root = chain(&inner["refr"], steps)?;
    steps.push(step);
    Some(root)
}

/// A reference with dots; none if a step of it is no name.
fn dotted(node: &Value) -> Option<String> {
    let mut steps = Vec::new();
    let mut path = chain(node, &mut steps)?.to_owned();
    for step in steps {
        let Step::Name(name) = step else { return None };
        path.push('.');
        path.push_str(name);
    }
    Some(path)
}

// SPDX-License-Identifier: Apache-2.0
//! What is looked for in a policy before it is taken, since the interpreter finds it late or never.
//!
//! A misspelt `input.imge.digest` is undefined: the rule would never deny, and nobody would know. A function that is
//! nowhere is an error only once it is called. A function that calls itself overflows the stack, which ends the process.

use std::collections::{BTreeMap, BTreeSet};

use regorus::{Engine, unstable::BUILTINS};
use serde_json::Value;

use super::paths::{Names, Path, Shape, spanned};

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
    let shape = Shape::new();
    let mut calls = BTreeMap::<String, Vec<Call>>::new();
    for module in &modules {
        for rule in module.rules() {
            let mut found = Vec::new();
            let names = Names::new(&module.imports, rule, module.contents);
            module.inputs(rule, &names, &shape)?;
            module.calls(rule, &functions, &mut found)?;
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
    imports: Vec<(String, Path)>,
    /// The file's text.
    contents: &'a str,
}

impl<'a> Module<'a> {
    fn new(policy: &'a Value) -> Self {
        let ast = &policy["ast"];
        let contents = policy["source"]["contents"].as_str().unwrap_or_default();
        let mut imports = Vec::new();
        for import in ast["imports"].as_array().into_iter().flatten() {
            let Some(path) = Path::new(&import["refr"]) else {
                continue;
            };
            let last = || {
                dotted(&import["refr"])?
                    .rsplit('.')
                    .next()
                    .map(str::to_owned)
            };
            let alias = spanned(&import["as"], contents).map(str::to_owned);
            if let Some(name) = alias.or_else(last) {
                imports.push((name, path));
            }
        }
        let package = dotted(&ast["package"]["refr"]).unwrap_or_default();
        Self {
            file: policy["source"]["file"].as_str().unwrap_or_default(),
            ast,
            package: format!("data.{package}"),
            imports,
            contents,
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

    /// Looks at every reference below `node`.
    fn inputs(&self, node: &Value, names: &Names, shape: &Shape) -> Result<(), Complaint> {
        match node {
            Value::Array(nodes) => nodes
                .iter()
                .try_for_each(|node| self.inputs(node, names, shape)),
            Value::Object(fields) => {
                self.reference(node, names, shape)?;
                fields
                    .values()
                    .try_for_each(|field| self.inputs(field, names, shape))
            }
            _ => Ok(()),
        }
    }

    /// Looks at every call below `node`, and notes those of functions of the policy.
    fn calls(
        &self,
        node: &Value,
        functions: &BTreeSet<String>,
        found: &mut Vec<Call>,
    ) -> Result<(), Complaint> {
        match node {
            Value::Array(nodes) => nodes
                .iter()
                .try_for_each(|node| self.calls(node, functions, found)),
            Value::Object(fields) => {
                if let Some(call) = fields.get("Call") {
                    self.call(call, functions, found)?;
                }
                fields
                    .values()
                    .try_for_each(|field| self.calls(field, functions, found))
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
        let imported = |name: &str| {
            let (_, path) = self.imports.iter().find(|(import, _)| import == name)?;
            path.dotted()
        };
        let imported = match name.split_once('.') {
            Some((root, rest)) => imported(root).map(|root| format!("{root}.{rest}")),
            None => imported(&name),
        };
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
    fn reference(&self, node: &Value, names: &Names, shape: &Shape) -> Result<(), Complaint> {
        let Some(path) = Path::new(node) else {
            return Ok(());
        };
        shape.has(path, names).map_err(|path| {
            let inner = node.get("RefDot").or(node.get("RefBrack")).unwrap_or(node);
            let reason = format!("{path} is no part of the input: cima policy schema says what is");
            self.complain(inner, reason)
        })
    }
}

/// A reference with dots; none if a step of it is no name.
fn dotted(node: &Value) -> Option<String> {
    Path::new(node)?.dotted()
}

// SPDX-License-Identifier: Apache-2.0
//! JSON of other programs, changed in one place: objects whose members keep their order and whose values keep every byte
//! (numbers too large for us, fields of a later version). Refuses a member that is there twice: whoever
//! reads it next may take the other one. Called by `bundle` and `cima hook`.

use std::{borrow::Cow, fmt, iter};

use serde::{
    Deserialize, Deserializer,
    de::{Error as _, MapAccess, Visitor},
};
use serde_json::{Value, value::RawValue};

/// An object: members in order.
#[derive(Debug)]
pub struct Object<'a>(Vec<(Cow<'a, str>, Cow<'a, RawValue>)>);

impl<'a> Object<'a> {
    /// One without members.
    pub fn new() -> Self {
        Self(Vec::new())
    }

    /// Reads one object, and nothing after it.
    ///
    /// # Errors
    /// If that is something else, or has a member twice.
    pub fn parse(bytes: &'a [u8]) -> serde_json::Result<Self> {
        serde_json::from_slice(bytes)
    }

    /// The value of a member; `null` is none, as every engine has it.
    pub fn get(&self, name: &str) -> Option<&RawValue> {
        self.0
            .iter()
            .find(|(key, value)| key == name && value.get() != "null")
            .map(|(_, value)| value.as_ref())
    }

    /// Gives a member this value, where it stands or at the end.
    pub fn set(&mut self, name: &'static str, value: Box<RawValue>) {
        let value = Cow::Owned(value);
        match self.0.iter_mut().find(|(key, _)| key == name) {
            Some((_, old)) => *old = value,
            None => self.0.push((name.into(), value)),
        }
    }

    /// Takes a member out.
    pub fn remove(&mut self, name: &str) {
        self.0.retain(|(key, _)| key != name);
    }

    /// Whether there are no members.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The text: a member on a line, indented as the `depth`th object from outside; below that, values as they came.
    ///
    /// # Errors
    /// None that this type can hold; `serde_json` does not know.
    pub fn render(&self, depth: usize) -> serde_json::Result<Box<RawValue>> {
        if self.0.is_empty() {
            return raw("{}".to_owned());
        }
        let indent = |depth: usize| iter::repeat_n("    ", depth).collect::<String>();
        let members = self
            .0
            .iter()
            .map(|(name, value)| {
                let name = serde_json::to_string(name)?;
                Ok(format!("{}{name}: {value}", indent(depth + 1)))
            })
            .collect::<serde_json::Result<Vec<_>>>()?;
        raw(format!("{{\n{}\n{}}}", members.join(",\n"), indent(depth)))
    }
}

impl Default for Object<'_> {
    fn default() -> Self {
        Self::new()
    }
}

/// A list with `last` at its end, its other elements as they came. `null` is a list too.
///
/// # Errors
/// If it is no list.
pub fn with_last(list: Option<&RawValue>, last: &Value) -> serde_json::Result<Box<RawValue>> {
    let mut elements: Vec<&RawValue> = match list {
        Some(list) => serde_json::from_str(list.get())?,
        None => Vec::new(),
    };
    let last = raw(last.to_string())?;
    elements.push(&last);
    let texts: Vec<&str> = elements.iter().map(|element| element.get()).collect();
    raw(format!("[{}]", texts.join(",")))
}

/// The text as a value.
///
/// # Errors
/// If it is none.
pub fn raw(text: String) -> serde_json::Result<Box<RawValue>> {
    RawValue::from_string(text)
}

impl<'de: 'a, 'a> Deserialize<'de> for Object<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Members)
    }
}

struct Members;

impl<'de> Visitor<'de> for Members {
    type Value = Object<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object<'de>, A::Error> {
        let mut members: Vec<(Cow<'de, str>, Cow<'de, RawValue>)> = Vec::new();
        while let Some((name, value)) = map.next_entry::<String, &'de RawValue>()? {
            if members.iter().any(|(other, _)| *other == name) {
                return Err(A::Error::custom(format_args!("{name:?} is there twice")));
            }
            members.push((name.into(), Cow::Borrowed(value)));
        }
        Ok(Object(members))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_changed_keeps_its_order_and_every_byte() {
        let text = "{\n    \"b\": 1.00e+999,\n    \"a\": {\"z\":[ 1,2 ],\n  \"y\":18446744073709551616}\n}";
        let object = Object::parse(text.as_bytes()).unwrap();
        assert_eq!(object.render(0).unwrap().get(), text);
    }

    #[test]
    fn a_member_is_set_in_its_place_or_at_the_end() {
        let mut object = Object::parse(br#"{"a":1,"b":2,"n":null}"#).unwrap();
        assert!(object.get("n").is_none());
        object.set("a", raw("[]".into()).unwrap());
        object.set("c", raw("3".into()).unwrap());
        object.remove("n");
        let text = "{\n    \"a\": [],\n    \"b\": 2,\n    \"c\": 3\n}";
        assert_eq!(object.render(0).unwrap().get(), text);
    }

    #[test]
    fn what_readers_could_take_in_two_ways_is_refused() {
        assert!(Object::parse(br#"{"hooks":{},"h\u006foks":{}}"#).is_err());
        assert!(Object::parse(br#"{} {}"#).is_err());
        assert!(Object::parse(b"[]").is_err());
    }

    #[test]
    fn an_element_is_added_at_the_end_of_a_list() {
        let list = raw("[ {\"path\":\"/a\"} , 2.50 ]".into()).unwrap();
        let last = Value::from("x");
        assert_eq!(
            with_last(Some(&list), &last).unwrap().get(),
            "[{\"path\":\"/a\"},2.50,\"x\"]"
        );
        assert_eq!(with_last(None, &last).unwrap().get(), "[\"x\"]");
        let object = raw("{}".into()).unwrap();
        assert!(with_last(Some(&object), &last).is_err());
    }
}

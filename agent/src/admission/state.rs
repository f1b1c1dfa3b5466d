// SPDX-License-Identifier: Apache-2.0
//! What a runtime gives its hook: the container's state ("State", `runtime.md` of the OCI runtime specification). It comes
//! from whoever may connect; nothing in it is believed that the kernel can be asked.

use std::path::{Component, PathBuf};

use serde::Deserialize;

/// The longest id: engines use 64 digits, the specification sets no limit.
const LONGEST_ID: usize = 1024;

/// Why a state is refused.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Not JSON, or a field is missing.
    #[error("the container's state is not what a runtime writes: {0}")]
    Json(#[from] serde_json::Error),
    /// Nothing that names a container.
    #[error(
        "the container's id {0:?} is empty, longer than {LONGEST_ID} bytes or has a slash or control characters in it"
    )]
    Id(String),
    /// No process.
    #[error("the container {id} has no process: its pid is {pid}")]
    Pid {
        /// The container.
        id: String,
        /// As given.
        pid: i64,
    },
    /// Relative or winding.
    #[error("the bundle {} is not an absolute path without `..`", .0.display())]
    Bundle(PathBuf),
}

/// A state that could be one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// As its engine calls it.
    pub id: String,
    /// Its first process, in the pid namespace of whoever wrote this.
    pub pid: u32,
    /// Directory with its `config.json`.
    pub bundle: PathBuf,
}

/// What is read of it; its annotations are read where the runtime reads them, in `config.json`.
#[derive(Deserialize)]
struct Document {
    id: String,
    #[serde(default)]
    pid: i64,
    bundle: PathBuf,
}

impl State {
    /// Reads a state. One of a container that is gone has no process: `pid` is 0.
    ///
    /// # Errors
    /// See [`StateError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, StateError> {
        let Document { id, pid, bundle } = serde_json::from_slice(bytes)?;
        let odd = |c: char| c == '/' || c.is_control();
        if id.is_empty() || id.len() > LONGEST_ID || id.contains(odd) {
            return Err(StateError::Id(id.chars().take(80).collect()));
        }
        let winding = bundle.components().any(|part| part == Component::ParentDir);
        if !bundle.is_absolute() || winding {
            return Err(StateError::Bundle(bundle));
        }
        let pid = match u32::try_from(pid) {
            Ok(pid) if i32::try_from(pid).is_ok() => pid,
            _ => return Err(StateError::Pid { id, pid }),
        };
        Ok(Self { id, pid, bundle })
    }

    /// Its process.
    ///
    /// # Errors
    /// It has none.
    pub fn process(&self) -> Result<u32, StateError> {
        if self.pid == 0 {
            return Err(StateError::Pid {
                id: self.id.clone(),
                pid: 0,
            });
        }
        Ok(self.pid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn states_of_both_runtimes_are_read() {
        let runc = br#"{"ociVersion":"1.0.2-dev","id":"c1","status":"creating","pid":42,"bundle":"/run/b","annotations":{"a":"b"}}"#;
        let crun = br#"{"ociVersion":"1.0","id":"c1","pid":42,"root":"/r","bundle":"/run/b","status":"created"}"#;
        for state in [&runc[..], crun] {
            let state = State::parse(state).unwrap();
            assert_eq!((state.id.as_str(), state.process().unwrap()), ("c1", 42));
        }
        let gone = State::parse(br#"{"id":"c1","status":"stopped","bundle":"/run/b"}"#).unwrap();
        assert!(gone.process().unwrap_err().to_string().contains("c1"));
    }

    #[test]
    fn what_is_no_state_is_refused_with_the_reason() {
        for (text, reason) in [
            ("", "not what a runtime writes"),
            ("[]", "not what a runtime writes"),
            (r#"{"pid":1,"bundle":"/b"}"#, "`id`"),
            (r#"{"id":"","pid":1,"bundle":"/b"}"#, "is empty"),
            (r#"{"id":"../x","pid":1,"bundle":"/b"}"#, "slash"),
            (r#"{"id":"\u001b[2J","pid":1,"bundle":"/b"}"#, "control"),
            (r#"{"id":"a","pid":-1,"bundle":"/b"}"#, "its pid is -1"),
            (
                r#"{"id":"a","pid":4294967297,"bundle":"/b"}"#,
                "its pid is 4294967297",
            ),
            (r#"{"id":"a","pid":1,"bundle":"b"}"#, "absolute"),
            (r#"{"id":"a","pid":1,"bundle":"/b/../c"}"#, "absolute"),
        ] {
            let error = State::parse(text.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(reason), "{text}: {error}");
            assert!(!error.contains('\u{1b}'), "{error:?}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = State::parse(&bytes);
        }
    }
}

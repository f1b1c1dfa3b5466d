// SPDX-License-Identifier: Apache-2.0
//! A bundle's `config.json` ("Configuration" of the OCI runtime specification), into which cima's hooks are put. All else in it
//! stays as the engine wrote it. The hooks come last of their stage: what hooks before them do to the
//! root is seen. Called by `cima-runtime`.

use std::path::{Path, PathBuf};

use serde_json::{Value, json, value::RawValue};

use crate::{
    config::Config,
    file::{FileError, Place, Sync},
    json::{Object, with_last},
};

/// The largest `config.json`: engines write ten kilobytes, and a mount is a line.
pub const LARGEST_CONFIG: u64 = 16 << 20;
/// The stages that the hook is for, as `config.json` and `--stage` call them.
pub const STAGES: [&str; 2] = ["createRuntime", "poststop"];

/// Why a container is not made.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// See [`FileError`].
    #[error("no hook can be added, so no container is made: {0}")]
    File(#[from] FileError),
    /// No bundle.
    #[error("there is no {}, so no container is made", .0.display())]
    Missing(PathBuf),
    /// Its content.
    #[error("no hook can be added to {}, so no container is made: {error}", .path.display())]
    Content {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        #[source]
        error: serde_json::Error,
    },
}

/// Puts the hooks into the configuration of the bundle at `bundle`; whether it was changed: not if they
/// are there already.
///
/// # Errors
/// See [`BundleError`]; nothing is changed then.
pub fn add_hooks(bundle: &Path, config: &Config) -> Result<bool, BundleError> {
    let path = bundle.join("config.json");
    let place = Place::open(&path, LARGEST_CONFIG)?;
    let Some(bytes) = place.bytes() else {
        return Err(BundleError::Missing(path));
    };
    let with_hooks =
        with_hooks(bytes, config).map_err(|error| BundleError::Content { path, error })?;
    if let Some(text) = &with_hooks {
        // A bundle does not outlive the boot, and a container waits for this.
        place.write(text.get().as_bytes(), Sync::No)?;
    }
    Ok(with_hooks.is_some())
}

/// The configuration with the hooks, or nothing if it has them.
fn with_hooks(bytes: &[u8], config: &Config) -> serde_json::Result<Option<Box<RawValue>>> {
    let mut document = Object::parse(bytes)?;
    let old = document.get("hooks").map(ToOwned::to_owned);
    let mut hooks = match &old {
        Some(hooks) => serde_json::from_str(hooks.get())?,
        None => Object::new(),
    };
    let mut changed = false;
    for stage in STAGES {
        let hook = hook(config, stage);
        let list = hooks.get(stage);
        let there: Vec<Value> = match list {
            Some(list) => serde_json::from_str(list.get())?,
            None => Vec::new(),
        };
        if !there.contains(&hook) {
            let list = with_last(list, &hook)?;
            hooks.set(stage, list);
            changed = true;
        }
    }
    let hooks = hooks.render(1)?;
    document.set("hooks", hooks);
    changed.then(|| document.render(0)).transpose()
}

/// Without a timeout of the runtime's: the hook has its own, and is the one to say so.
fn hook(config: &Config, stage: &str) -> Value {
    let mut args = vec!["cima-hook", "--stage", stage];
    args.extend(config.hook_args.iter().map(String::as_str));
    json!({"path": config.hook, "args": args})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn added(text: &str) -> serde_json::Result<Option<String>> {
        let config = Config {
            hook_args: vec!["--timeout".into(), "9".into()],
            ..Config::default()
        };
        let text = with_hooks(text.as_bytes(), &config)?;
        Ok(text.map(|text| text.get().to_owned()))
    }

    #[test]
    fn hooks_come_last_and_all_else_keeps_every_byte() {
        let config = r#"{"ociVersion":"1.0.2","linux":{"resources":{"memory":{"limit":9223372036854771712.0}},"future":1E2},
            "hooks":{"prestart":[{"path":"/proc/1/exe","args":["libnetwork-setkey"]}],"createRuntime":[{"path":"/first", "timeout":1}]}, "z":[]}"#;
        let expected = r#"{
    "ociVersion": "1.0.2",
    "linux": {"resources":{"memory":{"limit":9223372036854771712.0}},"future":1E2},
    "hooks": {
        "prestart": [{"path":"/proc/1/exe","args":["libnetwork-setkey"]}],
        "createRuntime": [{"path":"/first", "timeout":1},{"args":["cima-hook","--stage","createRuntime","--timeout","9"],"path":"/usr/libexec/cima/cima-hook"}],
        "poststop": [{"args":["cima-hook","--stage","poststop","--timeout","9"],"path":"/usr/libexec/cima/cima-hook"}]
    },
    "z": []
}"#;
        let once = added(config).unwrap().unwrap();
        assert_eq!(once, expected);
        assert_eq!(added(&once).unwrap(), None);
    }

    #[test]
    fn a_configuration_without_hooks_gets_some() {
        for text in [
            "{}",
            r#"{"hooks":null}"#,
            r#"{"hooks":{"createRuntime":null}}"#,
        ] {
            let text = added(text).unwrap().unwrap();
            let value: Value = serde_json::from_str(&text).unwrap();
            assert_eq!(
                value["hooks"]["createRuntime"].as_array().map(Vec::len),
                Some(1)
            );
            assert_eq!(value["hooks"]["poststop"].as_array().map(Vec::len), Some(1));
        }
    }

    #[test]
    fn a_configuration_that_cannot_be_understood_is_refused() {
        for text in [
            "",
            "[]",
            r#"{"hooks":[]}"#,
            r#"{"hooks":{"poststop":{}}}"#,
            r#"{"hooks":{},"hooks":{}}"#,
        ] {
            assert!(added(text).is_err(), "{text}");
        }
    }
}

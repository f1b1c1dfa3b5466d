// SPDX-License-Identifier: Apache-2.0
//! The input, its schema and its example.

use std::{fs, path::Path};

use cima_policies::admission::{EXAMPLE, Input, schema_text};
use serde_json::{Value, json};

use crate::{example, example_with};

fn validator() -> jsonschema::Validator {
    jsonschema::validator_for(&serde_json::from_str(&schema_text()).unwrap()).unwrap()
}

/// With `CIMA_WRITE_SCHEMA=1` in the environment, writes the file.
#[test]
fn the_schema_beside_the_code_is_that_of_the_types() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("admission.schema.json");
    if std::env::var_os("CIMA_WRITE_SCHEMA").is_some() {
        fs::write(&file, schema_text()).unwrap();
    }
    let committed = fs::read_to_string(file).unwrap();
    assert_eq!(
        committed,
        schema_text(),
        "run the test with CIMA_WRITE_SCHEMA=1"
    );
}

#[test]
fn the_example_is_an_input_with_all_its_fields_and_comes_back() {
    let value: Value = serde_json::from_str(EXAMPLE).unwrap();
    let input = example();
    assert_eq!(serde_json::to_value(&input).unwrap(), value);
    let validator = validator();
    let errors: Vec<_> = validator
        .iter_errors(&value)
        .map(|error| error.to_string())
        .collect();
    assert_eq!(errors, [""; 0]);
    assert_eq!(
        input.privileges.privileged,
        input.privileges.amount_to_privileged()
    );
}

#[test]
fn schema_and_reader_refuse_the_same() {
    let validator = validator();
    for (pointer, value) in [
        ("/version", json!(2)),
        ("/version", Value::Null),
        ("/other", json!(1)),
        ("/image/digest", json!("sha256:8C2F")),
        ("/image/other", json!("")),
        ("/container/engine", json!("lxc")),
        ("/container/id", Value::Null),
        ("/privileges/namespaces/pid", json!("other")),
        ("/privileges/capabilities/bounding", json!("CAP_CHOWN")),
        ("/volumes", json!([{}])),
        ("/process/uid", json!(-1)),
        ("/annotations", json!({"a": 1})),
        ("/hook/stage", json!("poststop")),
    ] {
        let mut input: Value = serde_json::from_str(EXAMPLE).unwrap();
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        let parent = input.pointer_mut(parent).unwrap().as_object_mut().unwrap();
        if value.is_null() {
            parent.remove(key);
        } else {
            parent.insert(key.into(), value);
        }
        assert!(!validator.is_valid(&input), "{pointer}");
        let error = Input::parse(input.to_string().as_bytes())
            .unwrap_err()
            .to_string();
        assert!(error.starts_with("the input is not valid: "), "{error}");
    }
    let unmeasured = example_with(&[("/image", json!({"error": "no such store"}))]);
    assert!(validator.is_valid(&serde_json::to_value(unmeasured).unwrap()));
}

#[test]
fn privileged_is_what_the_engines_flag_makes() {
    let mut privileges = example().privileges;
    assert!(!privileges.amount_to_privileged());
    privileges.capabilities.bounding = every_capability();
    assert!(!privileges.amount_to_privileged(), "it has a filter");
    privileges.seccomp = serde_json::from_value(json!({"mode": "unconfined"})).unwrap();
    assert!(
        !privileges.amount_to_privileged(),
        "it has a profile, and no devices"
    );
    privileges.all_devices = true;
    assert!(privileges.amount_to_privileged());
    privileges.all_devices = false;
    privileges.apparmor = None;
    assert!(privileges.amount_to_privileged());
    privileges
        .capabilities
        .bounding
        .retain(|name| name != "CAP_SYS_ADMIN");
    assert!(!privileges.amount_to_privileged());
}

/// As podman writes them for `--privileged` on Linux 6.1.
fn every_capability() -> Vec<String> {
    "AUDIT_CONTROL AUDIT_READ AUDIT_WRITE BLOCK_SUSPEND BPF CHECKPOINT_RESTORE CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER \
     FSETID IPC_LOCK IPC_OWNER KILL LEASE LINUX_IMMUTABLE MAC_ADMIN MAC_OVERRIDE MKNOD NET_ADMIN NET_BIND_SERVICE \
     NET_BROADCAST NET_RAW PERFMON SETFCAP SETGID SETPCAP SETUID SYSLOG SYS_ADMIN SYS_BOOT SYS_CHROOT SYS_MODULE SYS_NICE \
     SYS_PACCT SYS_PTRACE SYS_RAWIO SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG WAKE_ALARM"
        .split_whitespace()
        .map(|name| format!("CAP_{name}"))
        .collect()
}

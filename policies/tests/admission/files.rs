// SPDX-License-Identifier: Apache-2.0
//! A policy read from a directory, and its digest.

use std::{fs, os::unix::fs::symlink, path::Path};

use cima_policies::admission::{Admission, MAX_FILES, MAX_RULES, PolicySource};
use sha2::{Digest as _, Sha256};

use crate::{example, rules};

fn write(dir: &Path, name: &str, text: &str) {
    fs::write(dir.join(name), text).unwrap();
}

#[test]
fn a_directory_is_its_rego_files_and_its_data() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    write(dir, "b.rego", &rules("deny contains data.why"));
    write(dir, "a.rego", &rules("deny contains \"a\""));
    write(dir, "data.json", "{\"why\": \"b\"}");
    write(dir, ".hidden.rego", "no rego");
    write(dir, "README", "no rego");
    fs::create_dir(dir.join("below")).unwrap();
    write(&dir.join("below"), "c.rego", "no rego");
    let admission = Admission::read(dir).unwrap();
    assert_eq!(admission.decide(&example()).denied, ["a", "b"]);
    let names: Vec<_> = admission
        .files()
        .iter()
        .map(|file| file.name.as_str())
        .collect();
    assert_eq!(names, ["a.rego", "b.rego", "data.json"]);
    let data = admission.files().iter().last().unwrap();
    assert_eq!(data.sha256()[..], Sha256::digest(b"{\"why\": \"b\"}")[..]);
}

#[test]
fn the_digest_is_over_names_and_contents() {
    let (one, two) = (rules("deny contains \"a\""), rules("x := 1"));
    let of = |files: &[(&str, &str)]| {
        let sources = files.iter().map(|(name, text)| PolicySource {
            name: (*name).into(),
            text: (*text).into(),
        });
        Admission::compile(sources.collect(), None)
            .unwrap()
            .files()
            .digest()
    };
    // As documented, by hand.
    let mut bytes = b"cima-admission-policy-v1\0\x02\0\0\0".to_vec();
    for part in ["1.rego", &one, "2.rego", &two] {
        bytes.extend((part.len() as u32).to_le_bytes());
        bytes.extend(part.as_bytes());
    }
    let digest = of(&[("1.rego", &one), ("2.rego", &two)]);
    assert_eq!(digest.0[..], Sha256::digest(&bytes)[..]);
    assert!(digest.to_string().starts_with("sha256:") && digest.to_string().len() == 71);
    assert_eq!(
        of(&[("2.rego", &two), ("1.rego", &one)]),
        digest,
        "the order does not count"
    );
    assert_ne!(of(&[("2.rego", &one), ("1.rego", &two)]), digest);
    assert_ne!(of(&[("1.rego", &one)]), digest);
    assert_ne!(
        of(&[("1.rego", &one), ("2.rego", &(two.clone() + "\n"))]),
        digest
    );
    let nothing = Sha256::digest(b"cima-admission-policy-v1\0\0\0\0\0");
    assert_eq!(Admission::allow_all().files().digest().0[..], nothing[..]);
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let refused = |words: &[&str], make: &dyn Fn(&Path)| {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "a.rego", &rules("deny contains \"a\""));
        make(dir.path());
        let error = Admission::read(dir.path()).unwrap_err().to_string();
        for word in words {
            assert!(error.contains(word), "{word}: {error}");
        }
        assert_eq!(error.lines().count(), 1, "{error}");
    };
    refused(&["has no file *.rego"], &|dir| {
        fs::remove_file(dir.join("a.rego")).unwrap();
    });
    refused(&["cannot read", "No such file"], &|dir| {
        fs::remove_dir_all(dir).unwrap();
    });
    refused(&["b.rego is no regular file"], &|dir| {
        fs::create_dir(dir.join("b.rego")).unwrap();
    });
    refused(&["b.rego is no regular file"], &|dir| {
        symlink("/dev/zero", dir.join("b.rego")).unwrap();
    });
    refused(&["data.json", "No such file"], &|dir| {
        symlink("nothing", dir.join("data.json")).unwrap();
    });
    refused(&["b.rego is not UTF-8"], &|dir| {
        fs::write(dir.join("b.rego"), b"\xff").unwrap();
    });
    refused(&["b.rego has more than 1048576 bytes"], &|dir| {
        write(dir, "b.rego", &"#".repeat(MAX_RULES as usize + 1));
    });
    refused(&["has more than 256 files"], &|dir| {
        for number in 0..MAX_FILES {
            write(dir, &format!("{number}.rego"), "");
        }
    });
    refused(&["b.rego, line 2: "], &|dir| {
        write(dir, "b.rego", "package x\n}");
    });
}

// SPDX-License-Identifier: Apache-2.0
//! `cima digest`, `cima diff` and `cima reference`, of trees made for it and of their manifests.

use std::{
    fs::{self, Permissions},
    os::unix::{
        ffi::OsStrExt as _,
        fs::{PermissionsExt as _, symlink},
    },
    path::Path,
    process::{Command, Stdio},
};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::command::{Ran, cima, cima_reading, command};

/// A tree with a program, a script, a link to its interpreter, data and an odd name.
fn tree() -> TempDir {
    let scratch = tempfile::tempdir().unwrap();
    let at = |path: &str| scratch.path().join(path);
    fs::create_dir_all(at("usr/bin")).unwrap();
    for (path, content, mode) in [
        ("usr/bin/dash", "\x7fELF dash", 0o755),
        ("usr/bin/script", "#!/bin/sh -e\n", 0o644),
        ("usr/lib.so", "\x7fELF lib", 0o644),
        ("usr/run", "run", 0o711),
        ("data", "data", 0o600),
        ("odd \n\\", "", 0o644),
    ] {
        fs::write(at(path), content).unwrap();
        fs::set_permissions(at(path), Permissions::from_mode(mode)).unwrap();
    }
    symlink("usr/bin", at("bin")).unwrap();
    symlink("../bin/dash", at("usr/bin/sh")).unwrap();
    scratch
}

fn dir(path: &Path) -> String {
    format!("dir:{}", path.display())
}

fn digest(source: &str) -> String {
    let ran = cima(["digest", source]);
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""));
    let (digest, named) = ran.out.trim_end().split_once("  ").unwrap();
    assert_eq!(named, source);
    digest.to_owned()
}

/// The manifest of a tree, in a file beside it.
fn manifest(tree: &TempDir, out: &TempDir, name: &str) -> String {
    let file = out.path().join(name);
    let ran = cima([
        "digest",
        &dir(tree.path()),
        "--manifest",
        file.to_str().unwrap(),
    ]);
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""));
    file.to_str().unwrap().to_owned()
}

#[test]
fn a_tree_and_its_manifest_have_one_digest() {
    let (tree, out) = (tree(), tempfile::tempdir().unwrap());
    let source = dir(tree.path());
    let digest = digest(&source);
    assert!(
        digest.starts_with("sha256:") && digest.len() == 71,
        "{digest}"
    );
    let file = manifest(&tree, &out, "manifest");
    assert_eq!(self::digest(&format!("manifest:{file}")), digest);
    let text = fs::read(&file).unwrap();
    assert_eq!(
        fs::metadata(&file).unwrap().permissions().mode() & 0o777,
        0o644
    );

    let ran = cima(["digest", &source, "--manifest", "-"]);
    assert_eq!(ran.bytes, text, "only the manifest is on standard output");
    let ran = cima_reading(["digest", "manifest:-"], &text);
    assert_eq!(ran.out, format!("{digest}  manifest:-\n"));

    let ran = cima(["digest", "--json", &source]);
    let expected = json!({"source": source, "image": digest, "entries": 10, "bytes": 37});
    assert_eq!(ran.json(), expected);
    for threads in ["1", "7"] {
        let ran = cima(["digest", "--threads", threads, &source]);
        assert!(ran.out.starts_with(&digest), "{}", ran.out);
    }
}

#[test]
fn a_digest_that_is_not_the_one_expected_is_a_negative_verdict() {
    let tree = tree();
    let source = dir(tree.path());
    let digest = digest(&source);
    assert_eq!(cima(["digest", &source, "--expect", &digest]).code, Some(0));
    let other = format!("sha256:{}", "0".repeat(64));
    let ran = cima(["digest", &source, "--expect", &other]);
    assert_eq!(ran.code, Some(1));
    assert!(
        ran.err.contains(&format!("is {digest}, not {other}")),
        "{}",
        ran.err
    );
    cima(["digest", &source, "--expect", "sha256:1"]).refused_usage("sha256:1");
}

trait Usage {
    fn refused_usage(&self, word: &str);
}

impl Usage for Ran {
    #[track_caller]
    fn refused_usage(&self, word: &str) {
        assert_eq!(self.code, Some(2), "{self:?}");
        assert!(self.err.contains(word), "{}", self.err);
    }
}

#[test]
fn a_source_that_is_none_is_refused_by_name() {
    let scratch = tempfile::tempdir().unwrap();
    let at = |name: &str| scratch.path().join(name).display().to_string();
    fs::write(at("file"), "no image").unwrap();
    cima(["digest", "nothing"]).refused_usage("\"nothing\" is no source");
    cima(["digest", "dir:"]).refused_usage("\"dir:\" names nothing");
    cima(["digest", "--platform", "linux", "dir:/"]).refused_usage("is no platform");
    cima(["digest", "--max-bytes", "much", "dir:/"]).refused_usage("much");
    for (source, words) in [
        (format!("dir:{}", at("none")), vec!["none", "No such file"]),
        (
            format!("dir:{}", at("file")),
            vec!["file", "Not a directory"],
        ),
        (format!("oci:{}", at("none")), vec!["none", "No such file"]),
        (
            format!("docker-archive:{}", at("file")),
            vec!["file", "no archive of an image"],
        ),
        (
            format!("manifest:{}", at("none")),
            vec!["none", "No such file"],
        ),
        (
            format!("manifest:{}", at("file")),
            vec!["file", "line 1 is cut"],
        ),
        (
            "overlay:nobody-is-called-so".into(),
            vec!["no process is in a container \"nobody-is-called-so\""],
        ),
    ] {
        cima(["digest", &source]).refused(&words);
    }
}

#[test]
fn limits_are_the_users() {
    let tree = tree();
    let source = dir(tree.path());
    cima(["digest", "--max-entries", "9", &source]).refused(&["more than 9 files and directories"]);
    cima(["digest", "--max-bytes", "36B", &source]).refused(&["more than 36 bytes"]);
    assert_eq!(
        cima([
            "digest",
            "--max-entries",
            "10",
            "--max-bytes",
            "37B",
            &source
        ])
        .code,
        Some(0)
    );
}

#[test]
fn a_manifest_with_any_byte_altered_is_refused_with_its_line_or_is_another_image() {
    let (tree, out) = (tree(), tempfile::tempdir().unwrap());
    let file = manifest(&tree, &out, "manifest");
    let text = fs::read_to_string(&file).unwrap();
    let refused = |altered: &str, words: &[&str]| {
        assert_ne!(altered, text, "{words:?}");
        cima_reading(["digest", "manifest:-"], altered.as_bytes()).refused(words);
    };
    let other = "its first line says sha256:";
    refused(&text.replace("\"0600\"", "\"0644\""), &[other]);
    refused(&text.replace("\"uid\":0", "\"uid\":1"), &[other]);
    refused(&text.replace("\"size\":4", "\"size\":5"), &[other]);
    refused(&text.replace("../bin/dash", "../bin/evil"), &[other]);
    refused(
        &text.replace("\"path\":\"data\"", "\"path\":\"date\""),
        &[other],
    );
    refused(
        &text.replace("\"0600\"", "\"600\""),
        &["line 3, \"data\"", "four octal digits"],
    );
    refused(
        &text.replace("\"0600\"", "\"10600\""),
        &["line 3", "four octal digits"],
    );
    refused(
        &text.replace("\"size\":4,", ""),
        &["line 3", "not what its type has"],
    );
    refused(
        &text.replace("\"size\":4", "\"size\":-4"),
        &["line 3 is no entry"],
    );
    refused(
        &text.replace("\"size\":4", "\"size\":4,\"extra\":1"),
        &["line 3 is no entry", "extra"],
    );
    refused(
        &text.replace("\\\\x0a", "\\n"),
        &["line 4", "not written as bytes are"],
    );
    refused(
        &text.replace("\"path\":\"usr/run\"", "\"path\":\"nowhere/run\""),
        &["line 11", "order"],
    );
    refused(
        &text.replace("\"path\":\"usr/run\"", "\"path\":\"zzz/run\""),
        &["\"zzz/run\" is in no directory"],
    );
    refused(&text[..text.len() - 1], &["line 11 is cut"]);
    refused(
        &text.replace("cima-manifest\":1", "cima-manifest\":2"),
        &["line 1"],
    );
    refused(&text[text.find('\n').unwrap() + 1..], &["line 1"]);
    let mut lines: Vec<_> = text.lines().collect();
    lines.swap(3, 4);
    refused(&(lines.join("\n") + "\n"), &["line 5", "not in order"]);
    let twice = text.replacen("{\"path\":\"data\"", "{\"path\":\"bin\"", 1);
    refused(&twice, &["line 3", "\"bin\" is in the image already"]);
    refused(
        &text.replace(
            "\"path\":\"data\"",
            &format!("\"path\":\"{}\"", "x".repeat(300_000)),
        ),
        &["line 3 is longer"],
    );
}

#[test]
fn a_difference_says_what_changed() {
    let (first, second, out) = (tree(), tree(), tempfile::tempdir().unwrap());
    let at = |path: &str| second.path().join(path);
    let same = cima(["diff", &dir(first.path()), &dir(second.path())]);
    assert_eq!(
        (same.code, same.out.as_str(), same.err.as_str()),
        (Some(0), "", "")
    );

    fs::write(at("data"), "atad").unwrap();
    fs::set_permissions(at("usr/run"), Permissions::from_mode(0o4711)).unwrap();
    fs::remove_file(at("usr/bin/sh")).unwrap();
    symlink("bash", at("usr/bin/sh")).unwrap();
    fs::remove_file(at("usr/lib.so")).unwrap();
    fs::create_dir(at("usr/lib.so")).unwrap();
    fs::write(at("usr/lib.so/new"), "").unwrap();
    fs::remove_file(at("odd \n\\")).unwrap();
    std::os::unix::fs::chown(at("usr/bin/dash"), Some(7), Some(8)).unwrap();
    let sha256 = |text: &str| image_digest::ContentDigest::of(text.as_bytes());
    let manifest = format!("manifest:{}", manifest(&first, &out, "manifest"));
    for first in [dir(first.path()), manifest] {
        let ran = cima(["diff", &first, &dir(second.path())]);
        assert_eq!((ran.code, ran.err.as_str()), (Some(1), ""));
        let expected = [
            format!(
                "~ data: content {} (4 bytes) -> {} (4 bytes)",
                sha256("data"),
                sha256("atad")
            ),
            r"- odd \x0a\x5c".into(),
            // The kernel takes away what chown could give to another.
            "~ usr/bin/dash: owner 0:0 -> 7:8".into(),
            "~ usr/bin/sh: target ../bin/dash -> bash".into(),
            "~ usr/lib.so: type file -> directory, mode 0644 -> 0755".into(),
            "+ usr/lib.so/new".into(),
            "~ usr/run: mode 0711 -> 4711".into(),
        ];
        assert_eq!(ran.out.lines().collect::<Vec<_>>(), expected);
    }
    let ran = cima(["diff", "--json", &dir(first.path()), &dir(second.path())]);
    let lines: Vec<Value> = ran
        .out
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(
        lines[1],
        json!({"path": r"odd \x0a\x5c", "change": "removed", "type": "file"})
    );
    assert_eq!(
        lines[2],
        json!({"path": "usr/bin/dash", "change": "changed",
        "owner": [{"uid": 0, "gid": 0}, {"uid": 7, "gid": 8}]})
    );
    assert_eq!(
        lines[5],
        json!({"path": "usr/lib.so/new", "change": "added", "type": "file"})
    );
}

#[test]
fn a_reference_has_all_that_can_be_mapped_executable() {
    let (tree, out) = (tree(), tempfile::tempdir().unwrap());
    let source = dir(tree.path());
    let ran = cima(["reference", &source]);
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""));
    let reference = ran.json();
    assert_eq!(reference["cima-reference"], 1);
    assert_eq!(reference["image"], digest(&source).as_str());
    let sha256 =
        |text: &str| image_digest::ContentDigest::of(text.as_bytes()).to_string()[7..].to_owned();
    // The script is not executable, what interprets it is found through two links.
    let expected = json!([
        {"path": "/usr/bin/dash", "sha256": sha256("\x7fELF dash"), "why": ["elf", "mode", "interpreter"]},
        {"path": "/usr/lib.so", "sha256": sha256("\x7fELF lib"), "why": ["elf"]},
        {"path": "/usr/run", "sha256": sha256("run"), "why": ["mode"]},
    ]);
    assert_eq!(reference["executables"], expected);

    let file = out.path().join("reference.json");
    let ran = cima(["reference", &source, "-o", file.to_str().unwrap()]);
    assert_eq!((ran.code, ran.out.as_str()), (Some(0), ""));
    let written = image_digest::reference::Reference::read(fs::File::open(&file).unwrap()).unwrap();
    assert_eq!(serde_json::to_value(written).unwrap(), reference);

    let ran = cima(["reference", "--label", &source]);
    assert_eq!(
        ran.out,
        format!("io.cima.image.digest={}\n", digest(&source))
    );
    let manifest = format!("manifest:{}", manifest(&tree, &out, "manifest"));
    assert_eq!(cima(["reference", "--label", &manifest]).out, ran.out);
    cima(["reference", &manifest]).refused(&["does not say which of its files are executables"]);
}

#[test]
fn a_cache_is_made_used_and_refused_when_it_is_none() {
    let out = tempfile::tempdir().unwrap();
    // Where digests are kept: /tmp may be a tmpfs.
    let target = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let tree = tempfile::tempdir_in(target).unwrap();
    fs::write(tree.path().join("file"), "content").unwrap();
    let source = dir(tree.path());
    let cache = out.path().join("cache");
    let cached = || cima(["digest", "--cache", cache.to_str().unwrap(), &source]);
    let first = cached();
    assert_eq!(first.code, Some(0), "{first:?}");
    let written = fs::read(&cache).unwrap();
    assert_eq!(cached().out, first.out);
    assert_eq!(fs::read(&cache).unwrap(), written);
    fs::write(tree.path().join("file"), "CONTENT").unwrap();
    assert_ne!(cached().out, first.out);
    fs::write(&cache, "garbage").unwrap();
    cached().refused(&["cache is no cache"]);
}

#[test]
fn a_mount_inside_a_tree_is_refused_by_name() {
    let tree = tree();
    let script = "mount -t tmpfs tmpfs \"$1/usr\" && exec \"$2\" digest \"dir:$1\"";
    let program = command();
    let ran = Command::new("unshare")
        .args(["--mount", "sh", "-c", script, "sh"])
        .arg(tree.path())
        .arg(program.get_program())
        .output()
        .unwrap();
    Ran::from(ran).refused(&["\"usr\" is a mount point"]);
}

#[test]
fn whoever_reads_a_part_of_it_is_content() {
    let tree = tree();
    let source = dir(tree.path());
    for words in [&["digest", "--manifest", "-"][..], &["reference"]] {
        let mut child = command()
            .args(words)
            .arg(&source)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        assert_eq!(child.wait().unwrap().code(), Some(0));
    }
    // Nothing that a terminal obeys is shown of a name.
    let odd = std::ffi::OsStr::from_bytes(b"\x1b[2J\xff");
    fs::write(tree.path().join(odd), "").unwrap();
    let empty = tempfile::tempdir().unwrap();
    let ran = cima(["diff", &dir(empty.path()), &source]);
    assert!(ran.out.contains(r"+ \x1b[2J\xff"), "{}", ran.out);
}

#[test]
fn what_is_no_regular_file_is_written_to_and_stays_what_it_is() {
    let (tree, out) = (tree(), tempfile::tempdir().unwrap());
    let source = dir(tree.path());
    let text = fs::read(manifest(&tree, &out, "manifest")).unwrap();
    let at = |name: &str| out.path().join(name).to_str().unwrap().to_owned();
    let run = |program: &str, args: &[&str]| {
        assert!(Command::new(program).args(args).status().unwrap().success());
    };
    run("mknod", &[&at("null"), "c", "1", "3"]);
    run("mkfifo", &[&at("pipe")]);
    fs::create_dir(at("folder")).unwrap();
    fs::write(at("folder/file"), "before").unwrap();
    symlink("folder/file", at("link")).unwrap();
    let kind = |name: &str| fs::symlink_metadata(at(name)).unwrap().file_type();
    let names = ["null", "pipe", "link"];
    let before = names.map(kind);

    for words in [["digest", "--manifest"], ["reference", "-o"]] {
        let ran = cima([words[0], words[1], &at("null"), &source]);
        assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""));
        cima([words[0], words[1], "/dev/full", &source]).refused(&["cannot write to /dev/full"]);
        cima([words[0], words[1], &at("folder"), &source]).refused(&["folder", "Is a directory"]);
        cima([words[0], words[1], &at("no/file"), &source]).refused(&["no/file", "No such file"]);
    }
    let reader = Command::new("cat")
        .arg(at("pipe"))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    for name in ["pipe", "link"] {
        assert_eq!(
            cima(["digest", "--manifest", &at(name), &source]).code,
            Some(0)
        );
    }
    assert_eq!(reader.wait_with_output().unwrap().stdout, text);
    assert_eq!(fs::read(at("folder/file")).unwrap(), text);
    assert_eq!(names.map(kind), before);
    let left =
        fs::read_dir(out.path()).unwrap().count() + fs::read_dir(at("folder")).unwrap().count();
    assert_eq!(left, 6, "no temporary file is left");
}

#[test]
fn what_cannot_go_together_is_refused_in_one_sentence() {
    let (tree, out) = (tree(), tempfile::tempdir().unwrap());
    let source = dir(tree.path());
    cima(["digest", "--json", "--manifest", "-", &source]).refused(&["both go to standard output"]);
    let file = manifest(&tree, &out, "manifest");
    let text = fs::read(&file).unwrap();
    let ran = cima_reading(["diff", "manifest:-", "manifest:-"], &text);
    ran.refused(&["standard input has one manifest"]);
    let ran = cima_reading(["diff", "manifest:-", &source], &text);
    assert_eq!((ran.code, ran.out.as_str()), (Some(0), ""));
    cima_reading(["digest", "manifest:-"], &text[..9]).refused(&["standard input: line 1 is cut"]);
    cima(["reference", "--label", "-o", "x", &source]).refused_usage("cannot be used with");
}

#[test]
fn a_manifest_has_one_spelling() {
    let (tree, out) = (tree(), tempfile::tempdir().unwrap());
    let text = fs::read_to_string(manifest(&tree, &out, "manifest")).unwrap();
    for (from, to) in [
        ("\"path\":\"data\"", "\"path\":\"/data\""),
        ("\"path\":\"data\"", "\"path\":\"./data\""),
        ("\"path\":\"data\"", "\"path\": \"data\""),
        ("\"path\":\"data\"", "\"path\":\"d\\u0061ta\""),
        ("\"size\":4", "\"size\":4,\"target\":null"),
    ] {
        let altered = text.replace(from, to);
        assert_ne!(altered, text);
        cima_reading(["digest", "manifest:-"], altered.as_bytes()).refused(&["line 3, \""]);
    }
}

#[test]
fn two_images_share_a_cache_and_neither_drops_what_is_of_the_other() {
    let out = tempfile::tempdir().unwrap();
    // Where digests are kept: /tmp may be a tmpfs. Where none are, every cache has the size of an empty one.
    let target = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let trees = ["first", "second", "third"].map(|name| {
        let tree = tempfile::tempdir_in(target).unwrap();
        if name != "third" {
            fs::write(tree.path().join(name), name).unwrap();
        }
        tree
    });
    let [first, second, empty] = trees.each_ref().map(|tree| dir(tree.path()));
    let size = |words: &[&str]| {
        let file = out.path().join("cache");
        let ran = cima(words.iter().chain(&["--cache", file.to_str().unwrap()]));
        assert_ne!(ran.code, Some(2), "{}", ran.err);
        let size = fs::metadata(&file).unwrap().len();
        fs::remove_file(file).unwrap();
        size
    };
    let none = size(&["digest", &empty]);
    let one = size(&["digest", &first]) - none;
    assert_eq!(size(&["diff", &first, &second]), none + 2 * one);
    assert_eq!(size(&["diff", &first, &empty]), none + one);
}

#[test]
fn nothing_of_an_image_or_a_manifest_is_obeyed_by_a_terminal() {
    let (tree, out) = (tree(), tempfile::tempdir().unwrap());
    let text = fs::read_to_string(manifest(&tree, &out, "manifest")).unwrap();
    let odd = "\u{1b}[2J\u{9b}\u{202e}";
    for altered in [
        text.replace("\"size\":4", &format!("\"{odd}\":4")),
        text.replace("\"size\":4", &format!("\"{}\":4", r"\u001b[2J\u009b")),
        text.replace("\"symlink\"", &format!("\"{}\"", r"\n\u001b[2J")),
        text.replace("\"path\":\"data\"", &format!("\"path\":\"{odd}\"")),
    ] {
        let ran = cima_reading(["digest", "manifest:-"], altered.as_bytes());
        ran.refused(&["line "]);
        assert!(
            ran.err
                .trim_end()
                .bytes()
                .all(|byte| matches!(byte, b' '..=b'~')),
            "{:?}",
            ran.err
        );
    }
    // Labels are the publisher's, and JSON has every character of them.
    let layout = layout(odd);
    let source = format!("oci:{}", layout.path().display());
    for words in [&["digest", "--json"][..], &["reference"]] {
        let ran = cima(words.iter().chain(&[source.as_str()]));
        assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""));
        let plain = |byte: &u8| matches!(byte, b' '..=b'~' | b'\n');
        assert!(ran.bytes.iter().all(plain), "{:?}", ran.out);
        let json = ran.json();
        let labels = json.get("published").unwrap_or(&json);
        assert_eq!(labels["labels"], json!({"label": odd}));
        assert_eq!(labels["annotations"], json!({"annotation": odd}));
    }
}

/// An OCI layout of one empty layer, whose publisher says this of it.
fn layout(said: &str) -> TempDir {
    let scratch = tempfile::tempdir().unwrap();
    let blobs = scratch.path().join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    let blob = |kind: &str, bytes: &[u8]| {
        let digest = image_digest::ContentDigest::of(bytes).to_string();
        fs::write(blobs.join(&digest[7..]), bytes).unwrap();
        json!({"mediaType": format!("application/vnd.oci.image.{kind}"), "digest": digest, "size": bytes.len()})
    };
    let layer = blob("layer.v1.tar", &[0; 1024]);
    let config = json!({
        "os": "linux", "architecture": "amd64", "config": {"Labels": {"label": said}},
        "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]},
    });
    let manifest = json!({
        "schemaVersion": 2, "config": blob("config.v1+json", config.to_string().as_bytes()), "layers": [layer],
        "annotations": {"annotation": said},
    });
    let manifest = blob("manifest.v1+json", manifest.to_string().as_bytes());
    let index = json!({"schemaVersion": 2, "manifests": [manifest]});
    fs::write(scratch.path().join("index.json"), index.to_string()).unwrap();
    fs::write(
        scratch.path().join("oci-layout"),
        r#"{"imageLayoutVersion":"1.0.0"}"#,
    )
    .unwrap();
    scratch
}

#[test]
fn help_has_examples_and_exit_codes() {
    for command in ["digest", "diff", "reference"] {
        let ran = cima([command, "--help"]);
        assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""));
        for said in ["Sources:", "manifest:FILE", "Examples:", "Exit codes: 0 "] {
            assert!(ran.out.contains(said), "{command}: {said}");
        }
        let ran = cima([command]);
        ran.refused_usage("required arguments");
    }
}

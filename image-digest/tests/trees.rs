// SPDX-License-Identifier: Apache-2.0
//! Manifests, differences and references, of trees that are given: every type of entry, odd names, random ones.

use image_digest::diff::{Change, What, diff};
use image_digest::manifest::{self, ManifestError};
use image_digest::reference::Reference;
use image_digest::{ContentDigest, Device, Format, Image, Limits, Meta, Node, Published, Tree};
use proptest::prelude::*;
use serde_json::{Value, json};

fn file(content: &str, mode: u32) -> Node {
    Node::File {
        meta: Meta::new(mode, 0, 0),
        size: content.len() as u64,
        content: ContentDigest::of(content.as_bytes()),
    }
}

fn link(target: &str) -> Node {
    Node::Symlink {
        uid: 0,
        gid: 0,
        target: target.into(),
    }
}

fn tree<'a>(entries: impl IntoIterator<Item = (&'a str, Node)>) -> Tree {
    let mut tree = Tree::default();
    for (path, node) in entries {
        tree.insert(path.as_bytes(), node).expect("an entry");
    }
    tree
}

/// One of each type, with and without what may be absent.
fn each_type() -> Tree {
    let meta = Meta::new(0o1777, 1, u32::MAX - 1);
    let capable = Meta::new(0o4755, 0, 7).with_capability(vec![1, 0, 0, 2, 0xff]);
    let device = |major, minor| Device { major, minor };
    tree([
        ("a", Node::Directory(meta.clone())),
        ("a-b", Node::Directory(Meta::default())),
        (
            "a/b",
            Node::BlockDevice(meta.clone(), device(4095, 1 << 19)),
        ),
        ("a/c", Node::CharDevice(capable.clone(), device(1, 3))),
        ("empty", file("", 0)),
        ("fifo", Node::Fifo(meta.clone())),
        ("link", link("../\u{1b}[2J \\ \"")),
        ("program", file("x", 0o755)),
        ("socket", Node::Socket(meta)),
        ("with", Node::Directory(capable)),
    ])
}

fn written(tree: &Tree) -> String {
    let mut text = Vec::new();
    manifest::write(tree, &mut text).expect("memory takes everything");
    String::from_utf8(text).expect("it is ASCII")
}

fn read(text: &str) -> Result<Tree, ManifestError> {
    manifest::read(text.as_bytes(), Limits::default())
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    let odd: &[&[u8]] = &[
        b"a",
        b"a-",
        b"b",
        b"..a",
        b"\\",
        b"\\x41",
        b"\n",
        b"\x1b[2J",
        b"\xff\xfe",
        b" ",
        b"\"",
        b"\xe2\x80\xae",
        b"\x7f",
        b".wh.a",
    ];
    let any = proptest::collection::vec(any::<u8>(), 1..256).prop_map(|name| {
        let plain = |byte| if matches!(byte, 0 | b'/') { b'_' } else { byte };
        let name: Vec<u8> = name.into_iter().map(plain).collect();
        if matches!(&name[..], b"." | b"..") {
            b"_".to_vec()
        } else {
            name
        }
    });
    prop_oneof![4 => proptest::sample::select(odd).prop_map(<[u8]>::to_vec), 1 => any]
}

fn node() -> impl Strategy<Value = Node> {
    let number = || prop_oneof![Just(0), any::<u32>()];
    let capability = proptest::option::weighted(0.2, proptest::collection::vec(any::<u8>(), 0..30));
    let meta = (0_u32..0o10000, number(), number(), capability).prop_map(
        |(mode, uid, gid, capability)| {
            let meta = Meta::new(mode, uid, gid);
            match capability {
                Some(value) => meta.with_capability(value),
                None => meta,
            }
        },
    );
    let target = proptest::collection::vec(any::<u8>(), 0..50);
    (
        0..12,
        meta,
        any::<u64>(),
        number(),
        any::<[u8; 32]>(),
        target,
    )
        .prop_map(|(kind, meta, size, minor, bytes, target)| {
            let device = Device {
                major: meta.gid,
                minor,
            };
            match kind {
                0 => Node::CharDevice(meta, device),
                1 => Node::BlockDevice(meta, device),
                2 => Node::Fifo(meta),
                3 => Node::Socket(meta),
                4 => Node::Symlink {
                    uid: meta.uid,
                    gid: meta.gid,
                    target,
                },
                5 | 6 => Node::File {
                    meta,
                    size,
                    content: ContentDigest::new(bytes),
                },
                _ => Node::Directory(meta),
            }
        })
}

fn random() -> impl Strategy<Value = Tree> {
    let path = proptest::collection::vec(name(), 1..4).prop_map(|names| names.join(&b'/'));
    proptest::collection::vec((path, node()), 0..60).prop_map(|entries| {
        let mut tree = Tree::default();
        for (path, node) in entries {
            // Below nothing, or there already: another history has it.
            let _ = tree.insert(&path, node);
        }
        tree
    })
}

/// The second tree, made of the first and what is said to be another.
fn applied(first: &Tree, second: &Tree) -> Tree {
    let differences = diff(first, second);
    let mut entries: Vec<(Vec<u8>, Node)> = Vec::new();
    for (path, node) in first.entries() {
        let node = match differences
            .iter()
            .find(|one| one.path == path)
            .map(|one| &one.what)
        {
            None => node.clone(),
            Some(What::Removed(was)) => {
                assert_eq!(was, node);
                continue;
            }
            Some(What::Added(_)) => panic!("it was there before"),
            Some(What::Changed(changes)) => {
                assert!(!changes.is_empty());
                second.get(&path).expect("it is in both").clone()
            }
        };
        entries.push((path, node));
    }
    for difference in differences {
        if let What::Added(node) = difference.what {
            entries.push((difference.path, node));
        }
    }
    entries
        .sort_by(|(one, _), (other, _)| one.split(|b| *b == b'/').cmp(other.split(|b| *b == b'/')));
    let mut tree = Tree::default();
    for (path, node) in entries {
        tree.insert(&path, node).expect("what is left is a tree");
    }
    tree
}

proptest! {
    #[test]
    fn a_manifest_is_read_as_the_tree_that_it_was_written_of(tree in random()) {
        let text = written(&tree);
        prop_assert!(text.bytes().all(|byte| matches!(byte, b' '..=b'~' | b'\n')));
        let again = read(&text).expect("what was written is read");
        prop_assert_eq!(&again, &tree);
        prop_assert_eq!(again.digest(), tree.digest());
    }

    #[test]
    fn a_difference_is_all_that_is_another(first in random(), second in random()) {
        prop_assert_eq!(diff(&first, &second).is_empty(), first.digest() == second.digest());
        prop_assert_eq!(&applied(&first, &second), &second);
        prop_assert!(diff(&first, &first).is_empty());
    }

    #[test]
    fn no_text_is_a_manifest_but_the_one_that_is_written(
        tree in random(),
        at in any::<proptest::sample::Index>(),
        byte in 0_u8..128,
    ) {
        let mut text = written(&tree).into_bytes();
        let at = at.index(text.len());
        text[at] = byte;
        let text = String::from_utf8(text).expect("it is ASCII");
        // With the digest that its entries come to, if that is all that is wrong.
        let text = match read(&text) {
            Err(ManifestError::Digest { said, found }) => {
                text.replacen(&said.to_string(), &found.to_string(), 1)
            }
            _ => text,
        };
        if let Ok(tree) = read(&text) {
            prop_assert_eq!(written(&tree), text);
        }
    }
}

#[test]
fn a_manifest_of_every_type_is_written_as_the_specification_says() {
    let tree = each_type();
    let lines = [
        &format!("{{\"cima-manifest\":1,\"image\":\"{}\"}}", tree.digest()),
        r#"{"path":"a","type":"directory","mode":"1777","uid":1,"gid":4294967294}"#,
        r#"{"path":"a/b","type":"block","mode":"1777","uid":1,"gid":4294967294,"major":4095,"minor":524288}"#,
        r#"{"path":"a/c","type":"char","mode":"4755","uid":0,"gid":7,"capability":"01000002ff","major":1,"minor":3}"#,
        r#"{"path":"a-b","type":"directory","mode":"0755","uid":0,"gid":0}"#,
        &format!(
            r#"{{"path":"empty","type":"file","mode":"0000","uid":0,"gid":0,"size":0,"sha256":"{}"}}"#,
            &ContentDigest::of(b"").to_string()[7..]
        ),
        r#"{"path":"fifo","type":"fifo","mode":"1777","uid":1,"gid":4294967294}"#,
        r#"{"path":"link","type":"symlink","uid":0,"gid":0,"target":"../\\x1b[2J \\x5c \""}"#,
        &format!(
            r#"{{"path":"program","type":"file","mode":"0755","uid":0,"gid":0,"size":1,"sha256":"{}"}}"#,
            &ContentDigest::of(b"x").to_string()[7..]
        ),
        r#"{"path":"socket","type":"socket","mode":"1777","uid":1,"gid":4294967294}"#,
        r#"{"path":"with","type":"directory","mode":"4755","uid":0,"gid":7,"capability":"01000002ff"}"#,
    ];
    assert_eq!(
        written(&tree),
        lines.map(|line| format!("{line}\n")).concat()
    );
    assert_eq!(read(&written(&tree)).expect("a manifest"), tree);
}

#[test]
fn another_spelling_of_an_entry_is_refused_with_its_line() {
    let text = written(&each_type());
    for (from, to, said) in [
        (
            r#""path":"fifo""#,
            r#""path":"/fifo""#,
            "line 7, \"/fifo\": its path is not names",
        ),
        (
            r#""path":"fifo""#,
            r#""path":"fifo/""#,
            "line 7, \"fifo/\": its path is not names",
        ),
        (
            r#""path":"a/b""#,
            r#""path":"a/./b""#,
            "line 3, \"a/./b\": its path is not names",
        ),
        (
            r#""path":"a/b""#,
            r#""path":"a//b""#,
            "line 3, \"a//b\": its path is not names",
        ),
        (
            r#""path":"a/b""#,
            r#""path":"""#,
            "line 3, \"\": its path is not names",
        ),
        (r#""path":"a/b""#, r#""path":"../b""#, "has \"..\" in it"),
        (r#""path":"a/b""#, r#""path":"b\\x00""#, "has a NUL in it"),
        (
            r#""path":"fifo""#,
            r#""path":"f\u0069fo""#,
            "line 7, \"fifo\": it is spelled in another way",
        ),
        (
            r#"{"path":"fifo","#,
            r#"{ "path":"fifo","#,
            "line 7, \"fifo\": it is spelled",
        ),
        (
            r#""path":"fifo","type":"fifo""#,
            r#""type":"fifo","path":"fifo""#,
            "line 7, \"fifo\": it is spelled",
        ),
        (
            r#""size":1,"#,
            r#""capability":null,"size":1,"#,
            "line 9, \"program\": it is spelled",
        ),
        (
            r#""size":1,"#,
            r#""size":1,"size":1,"#,
            "line 9 is no entry: duplicate field",
        ),
        (r#""size":1,"#, r#""size":1.0,"#, "line 9 is no entry"),
        (
            r#""size":1,"#,
            r#""size":18446744073709551616,"#,
            "line 9 is no entry",
        ),
        (
            r#""size":1,"#,
            r#""size":1,"major":1,"#,
            "it has not what its type has",
        ),
        (
            r#""mode":"0755","uid":0,"gid":0,"size""#,
            r#""uid":0,"gid":0,"size""#,
            "it has no mode",
        ),
        (
            r#""target":"#,
            r#""mode":"0777","target":"#,
            "line 8, \"link\": it has not what its type has",
        ),
        (
            "01000002ff",
            "01000002FF",
            "its capability is not hexadecimal",
        ),
        (
            "01000002ff",
            "01000002f",
            "its capability is not hexadecimal",
        ),
        ("{\"cima", "{ \"cima", "line 1 is not the first line"),
        (
            "\"image\":\"sha256:",
            "\"image\":\"SHA256:",
            "line 1 is not the first line",
        ),
    ] {
        let altered = text.replacen(from, to, 1);
        assert_ne!(altered, text, "{from}");
        let error = read(&altered).expect_err(to).to_string();
        assert!(error.contains(said), "{error}, not {said}");
    }
    for end in ["\n", "x\n", "{}\n"] {
        let error = read(&format!("{text}{end}")).expect_err(end).to_string();
        assert!(error.starts_with("line 12 is no entry"), "{error}");
    }
    let error = read("").expect_err("nothing").to_string();
    assert!(error.starts_with("line 1"), "{error}");
}

#[test]
fn no_error_about_a_manifest_or_reference_has_a_control_character_or_is_long() {
    let long = "\u{1b}[2J\u{9b}\u{202e}\n".repeat(1000);
    let odd = serde_json::to_string(&long).expect("JSON");
    let text = written(&each_type());
    let reference = reference(&Image::default()).to_string();
    let manifests = [
        text.replacen("\"type\":\"fifo\"", &format!("\"type\":{odd}"), 1),
        text.replacen("\"type\":\"fifo\"", &format!("{odd}:1"), 1),
        text.replacen("\"path\":\"fifo\"", &format!("\"path\":{odd}"), 1),
        text.replacen("\"mode\":\"0755\"", &format!("\"mode\":{odd}"), 1),
        text.replacen(
            "\"image\":\"sha256:",
            &format!("\"image\":{odd},\"x\":\""),
            1,
        ),
    ];
    let references = [
        reference.replacen("\"labels\":{", &format!("{odd}:1,\"labels\":{{"), 1),
        reference.replacen(
            "\"labels\":{",
            &format!("\"labels\":{{{odd}:\"\",{odd}:\"\""),
            1,
        ),
        reference.replacen("\"config\":null", &format!("\"config\":{odd}"), 1),
        reference.replacen(
            "\"executables\":[",
            &format!("\"executables\":[{{\"path\":{odd},\"sha256\":\"\",\"why\":[\"elf\"]}}"),
            1,
        ),
    ];
    let manifests = manifests
        .iter()
        .map(|text| read(text).expect_err(text).to_string());
    let references = references.iter().map(|text| {
        Reference::read(text.as_bytes())
            .expect_err(text)
            .to_string()
    });
    for error in manifests.chain(references) {
        assert!(
            error.bytes().all(|byte| matches!(byte, b' '..=b'~')),
            "{error:?}"
        );
        assert!(error.len() < 500, "{error}");
    }
}

#[test]
fn an_image_of_too_many_entries_is_refused_while_its_manifest_is_read() {
    let text = written(&each_type());
    let few = Limits {
        entries: 9,
        ..Limits::default()
    };
    // What follows is no manifest, and is not come to.
    let text = format!("{text}garbage\n");
    let error = manifest::read(text.as_bytes(), few)
        .expect_err("ten")
        .to_string();
    assert!(error.contains("more than 9 files"), "{error}");
}

#[test]
fn the_longest_entry_has_a_line_that_is_read() {
    let name = vec![0xff; 255];
    let mut tree = Tree::default();
    let mut path = Vec::new();
    for _ in 0..15 {
        path.extend(&name);
        tree.insert(&path, Node::Directory(Meta::default()))
            .expect("a directory");
        path.push(b'/');
    }
    path.extend(&name);
    assert_eq!(path.len(), 4095);
    let target = vec![0xff; 4095];
    tree.insert(
        &path,
        Node::Symlink {
            uid: 0,
            gid: 0,
            target,
        },
    )
    .expect("a link");
    let capability = Meta::new(0, 0, 0).with_capability(vec![0xff; 65_536]);
    path.truncate(255 * 15 + 14);
    path.extend(b"/x");
    tree.insert(&path, Node::Fifo(capability)).expect("a fifo");
    assert_eq!(read(&written(&tree)).expect("a manifest"), tree);
}

#[test]
fn each_thing_that_counts_is_told_as_a_change_of_its_own() {
    let meta = |mode, uid, gid| Meta::new(mode, uid, gid);
    let device = |major, minor| Device { major, minor };
    let plain = meta(0o644, 0, 0);
    let content = |text: &str| (text.len() as u64, ContentDigest::of(text.as_bytes()));
    let owned = |uid, gid| Node::Symlink {
        uid,
        gid,
        target: b"x".to_vec(),
    };
    for (a, b, changes) in [
        (
            file("a", 0),
            file("bb", 0),
            vec![Change::Content(content("a"), content("bb"))],
        ),
        (
            file("a", 0o644),
            file("a", 0o4755),
            vec![Change::Mode(0o644, 0o4755)],
        ),
        (
            owned(0, 0),
            owned(7, 0),
            vec![Change::Owner((0, 0), (7, 0))],
        ),
        (
            Node::Fifo(plain.clone()),
            Node::Fifo(meta(0o644, 0, 8)),
            vec![Change::Owner((0, 0), (0, 8))],
        ),
        (
            Node::Directory(plain.clone()),
            Node::Directory(plain.clone().with_capability(vec![])),
            vec![Change::Capability(None, Some(vec![]))],
        ),
        (
            Node::Socket(plain.clone().with_capability(vec![1])),
            Node::Socket(plain.clone().with_capability(vec![2])),
            vec![Change::Capability(Some(vec![1]), Some(vec![2]))],
        ),
        (
            link("a"),
            link("b"),
            vec![Change::Target(b"a".to_vec(), b"b".to_vec())],
        ),
        (
            Node::CharDevice(plain.clone(), device(1, 3)),
            Node::CharDevice(plain.clone(), device(1, 5)),
            vec![Change::Device(device(1, 3), device(1, 5))],
        ),
        (
            Node::BlockDevice(plain.clone(), device(1, 3)),
            Node::BlockDevice(plain.clone(), device(2, 3)),
            vec![Change::Device(device(1, 3), device(2, 3))],
        ),
        (
            Node::CharDevice(plain.clone(), device(1, 3)),
            Node::BlockDevice(plain.clone(), device(1, 3)),
            vec![Change::Type("char", "block")],
        ),
        (
            file("", 0o644),
            Node::Fifo(meta(0o600, 1, 2)),
            vec![
                Change::Type("file", "fifo"),
                Change::Mode(0o644, 0o600),
                Change::Owner((0, 0), (1, 2)),
            ],
        ),
    ] {
        let found = diff(&tree([("x", a)]), &tree([("x", b)]));
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].what, What::Changed(changes));
    }
}

#[test]
fn what_is_in_a_directory_that_comes_or_goes_is_told_as_well() {
    let dir = || Node::Directory(Meta::default());
    let first = tree([
        ("a", dir()),
        ("a/b", dir()),
        ("a/b/c", file("", 0)),
        ("z", file("", 0)),
    ]);
    let second = tree([
        ("a", file("", 0o755)),
        ("a-b", file("", 0)),
        ("z", file("", 0)),
    ]);
    let told = |first: &Tree, second: &Tree| {
        let lines = diff(first, second).into_iter().map(|one| one.to_string());
        lines.collect::<Vec<_>>()
    };
    assert_eq!(
        told(&first, &second),
        ["~ a: type directory -> file", "- a/b", "- a/b/c", "+ a-b"]
    );
    assert_eq!(
        told(&second, &first),
        ["~ a: type file -> directory", "+ a/b", "+ a/b/c", "- a-b"]
    );
    assert_eq!(
        told(&Tree::default(), &first),
        ["+ a", "+ a/b", "+ a/b/c", "+ z"]
    );
}

fn reference(image: &Image) -> Value {
    let mut text = Vec::new();
    Reference::of(image)
        .write(&mut text)
        .expect("memory takes everything");
    assert!(text.iter().all(|byte| matches!(byte, b' '..=b'~' | b'\n')));
    let read = Reference::read(&text[..]).expect("what was written is read");
    assert_eq!(read, Reference::of(image));
    serde_json::from_slice(&text).expect("JSON")
}

/// An image of these entries, with the format that their contents' first bytes say.
fn image(entries: &[(&str, Node)], scripts: &[(&str, &str)]) -> Image {
    let mut image = Image {
        tree: tree(entries.iter().cloned()),
        ..Image::default()
    };
    for (content, interpreter) in scripts {
        let format = Format::Script(interpreter.as_bytes().to_vec());
        image
            .formats
            .insert(ContentDigest::of(content.as_bytes()), format);
    }
    image.formats.insert(ContentDigest::of(b"elf"), Format::Elf);
    image
}

fn executables(image: &Image) -> Vec<(String, Vec<String>)> {
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let list = |value: &Value| value.as_array().expect("a list").iter().map(text).collect();
    let reference = reference(image);
    let executables = reference["executables"].as_array().expect("a list").iter();
    executables
        .map(|one| (text(&one["path"]), list(&one["why"])))
        .collect()
}

#[test]
fn an_interpreter_is_the_file_that_a_kernel_would_open() {
    let dir = || Node::Directory(Meta::default());
    let loops = ("loop", link("loop"));
    let mut entries = vec![
        ("bin", link("/usr/bin")),
        ("etc", dir()),
        loops,
        ("opt", dir()),
        ("opt/out", link("../../../../usr/bin/python")),
        ("opt/up", link("..")),
        ("pipe", Node::Fifo(Meta::default())),
        ("script", file("script", 0o644)),
        ("usr", dir()),
        ("usr/bin", dir()),
        ("usr/bin/python", link("./../bin//python3")),
        ("usr/bin/python3", file("python3", 0o644)),
        ("usr/local", dir()),
        ("usr/local/bin", link("../bin")),
    ];
    // 40 links, each to the one before; the first is to a file.
    let names: Vec<String> = (1..=41).map(|n| format!("z{n:02}")).collect();
    let targets: Vec<String> = (0..41).map(|n| format!("z{n:02}")).collect();
    entries.push(("z00", file("z00", 0o644)));
    for (name, target) in names.iter().zip(&targets) {
        entries.push((name.as_str(), link(target)));
    }
    let python = Some("/usr/bin/python3");
    for (interpreter, expected) in [
        ("/usr/bin/python3", python),
        ("/bin/python", python),
        ("//bin/./python", python),
        ("/../../bin/python3", python),
        ("/usr/local/bin/python", python),
        // ".." is above where a link led to, not above its name.
        ("/usr/local/bin/../bin/python", python),
        ("/bin/../python", None),
        ("/opt/up/bin/python", python),
        ("/opt/out", python),
        ("/script", Some("/script")),
        ("/z40", Some("/z00")),
        ("/z41", None),
        ("/loop", None),
        ("/loop/x", None),
        ("/pipe", None),
        ("/usr/bin", None),
        ("/", None),
        ("/usr/bin/python3/x", None),
        ("/absent", None),
        ("/absent/../usr/bin/python3", None),
        // From wherever it is called.
        ("usr/bin/python3", None),
    ] {
        let found = executables(&image(&entries, &[("script", interpreter)]));
        let expected = expected.map(|path| (path.to_owned(), vec!["interpreter".to_owned()]));
        assert_eq!(found, Vec::from_iter(expected), "{interpreter}");
    }
}

#[test]
fn an_executable_is_each_file_that_could_be_mapped_so_and_nothing_else() {
    let dir = || Node::Directory(Meta::new(0o755, 0, 0));
    let entries = [
        ("a", dir()),
        ("a/group", file("data", 0o010)),
        ("a/lib\u{e9}", file("elf", 0o600)),
        ("a/lib.so", file("elf", 0o600)),
        ("a-others", file("data", 0o001)),
        ("data", file("data", 0o666)),
        ("fifo", Node::Fifo(Meta::new(0o777, 0, 0))),
        ("link", link("a/lib.so")),
        ("owner", file("elf", 0o100)),
    ];
    let mode = |path: &str, why: &[&str]| {
        (
            path.to_owned(),
            why.iter().map(|why| (*why).to_owned()).collect(),
        )
    };
    // Two names of one content are two; a directory, then what is beside it.
    let expected: Vec<(String, Vec<String>)> = vec![
        mode("/a/group", &["mode"]),
        mode("/a/lib.so", &["elf"]),
        mode(r"/a/lib\xc3\xa9", &["elf"]),
        mode("/a-others", &["mode"]),
        mode("/owner", &["elf", "mode"]),
    ];
    assert_eq!(executables(&image(&entries, &[])), expected);
}

#[test]
fn a_reference_says_what_was_published() {
    let mut image = image(&[("x", file("x", 0o755))], &[]);
    let digest = |byte: &str| format!("sha256:{}", byte.repeat(32));
    image.published = Some(Published {
        reference: Some("v1".into()),
        manifest: Some(digest("1a")),
        config: format!("sha512:{}", "2b".repeat(64)),
        platform: "linux/amd64".into(),
        labels: [("odd".to_owned(), "\u{9b}2J\u{202e}\u{7f}𝄞\"\\".to_owned())].into(),
        annotations: [("io.cima.image.digest".to_owned(), digest("3c"))].into(),
    });
    let expected = json!({
        "cima-reference": 1,
        "image": image.tree.digest().to_string(),
        "name": "v1",
        "manifest": digest("1a"),
        "config": format!("sha512:{}", "2b".repeat(64)),
        "platform": "linux/amd64",
        "labels": {"odd": "\u{9b}2J\u{202e}\u{7f}𝄞\"\\"},
        "annotations": {"io.cima.image.digest": digest("3c")},
        "executables": [{
            "path": "/x",
            "sha256": &ContentDigest::of(b"x").to_string()[7..],
            "why": ["mode"],
        }],
    });
    assert_eq!(reference(&image), expected);
}

#[test]
fn a_reference_that_nobody_would_write_is_refused() {
    let entries = [("a", file("elf", 0o755)), ("b", file("elf", 0o644))];
    let text = reference(&image(&entries, &[])).to_string();
    let read = |text: &str| Reference::read(text.as_bytes());
    assert!(
        read(&text).is_ok(),
        "white space and the order of keys mean nothing"
    );
    let sha256 = &ContentDigest::of(b"elf").to_string()[7..];
    let shorter = &sha256[1..];
    for (from, to, said) in [
        (
            "\"cima-reference\":1",
            "\"cima-reference\":2",
            "of version 2",
        ),
        ("\"cima-reference\":1,", "", "missing field"),
        ("\"name\":null,", "", "missing field"),
        ("\"name\":null", "\"name\":null,\"more\":1", "unknown field"),
        (
            "\"labels\":{}",
            "\"labels\":{\"a\":\"\",\"b\":\"\",\"a\":\"\"}",
            "is there twice",
        ),
        ("\"labels\":{}", "\"labels\":{\"a\":1}", "expected a string"),
        ("\"image\":\"sha256:", "\"image\":\"sha256:0", "its image"),
        (
            "\"manifest\":null",
            "\"manifest\":\"x\"",
            "its manifest \\\"x\\\" is no digest",
        ),
        ("\"config\":null", "\"config\":\"sha256:1\"", "its config"),
        (sha256, shorter, "\"/a\": its sha256 is no digest"),
        ("\"/a\"", "\"a\"", "\"a\": its path begins without"),
        ("\"/a\"", "\"//a\"", "\"//a\": its path is not names"),
        ("\"/a\"", "\"/\"", "\"/\": its path is not names"),
        (
            "\"/a\"",
            "\"/../a\"",
            "\"/../a\": its path is no path inside",
        ),
        (
            "\"/a\"",
            "\"/\u{e9}\"",
            "its path is not written as bytes are",
        ),
        ("\"/a\"", "\"/b\"", "\"/b\": it is there twice"),
        ("\"/a\"", "\"/c\"", "\"/b\": it is not in order"),
        ("[\"elf\",\"mode\"]", "[]", "\"/a\": it says not why"),
        (
            "[\"elf\",\"mode\"]",
            "[\"mode\",\"elf\"]",
            "not each once and in order",
        ),
        (
            "[\"elf\",\"mode\"]",
            "[\"elf\",\"elf\"]",
            "not each once and in order",
        ),
        ("[\"elf\",\"mode\"]", "[\"other\"]", "unknown variant"),
    ] {
        let altered = text.replacen(from, to, 1);
        assert_ne!(altered, text, "{from}");
        let error = read(&altered).expect_err(to).to_string();
        let said = said.replace("\\\"", "\"");
        assert!(error.contains(&said), "{error}, not {said}");
    }
}

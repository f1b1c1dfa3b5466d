// SPDX-License-Identifier: Apache-2.0
//! Images that lie, break off or ask for too much: each is refused with the layer and the entry named, or means
//! one thing. What is refused is what readers understand differently, or what leads out of the image.

mod common;

use std::fs;

use common::oci::{self, Packing};
use common::tar::{Member, archive, checksum, directory, file, link, member};
use common::{image, limited};
use image_digest::{Image, Limits};

const XATTR: &str = "SCHILY.xattr.";

/// What reading an image with this archive as its upper layer comes to, over one with a file `below`.
fn read(upper: &[u8], limits: Limits) -> Result<Image, String> {
    let scratch = tempfile::tempdir().expect("a directory");
    let lower = archive(&[directory("d"), file("d/below", "below")]);
    let layout = oci::layout(&[lower, upper.to_vec()], &[Packing::Gzip]);
    oci::write_directory(&layout, scratch.path());
    let source = format!("oci:{}", scratch.path().display());
    limited(&source, limits).map_err(|error| error.to_string())
}

fn refusal(upper: &[u8]) -> String {
    let error = read(upper, Limits::default()).expect_err("it is hostile");
    assert!(error.contains("layer 2 (sha256:"), "{error}");
    assert!(!error.bytes().any(|byte| byte < b' '), "{error:?}");
    error
}

#[test]
fn an_entry_that_could_lead_out_or_mean_two_things_is_refused_by_name() {
    let long = "n".repeat(256);
    let cases: Vec<(&str, Member, &str)> = vec![
        (
            "parent",
            file("../x", ""),
            r#"entry "../x" is refused: it has "..""#,
        ),
        (
            "parent inside",
            file("a/../../x", ""),
            r#""a/../../x" is refused"#,
        ),
        (
            "absolute parent",
            file("/../x", ""),
            r#""/../x" is refused"#,
        ),
        (
            "NUL",
            file("a", "").attribute("path", b"a\0b"),
            r#""a\x00b" is refused: it has a NUL"#,
        ),
        (
            "long name",
            file(&long, ""),
            "a name of more than 255 bytes",
        ),
        (
            "long path",
            file("a/".repeat(2048) + "x", ""),
            "more than 4095 bytes",
        ),
        (
            "terminal's escape",
            file("\x1b]0;x/..", ""),
            r#""\x1b]0;x/.." is refused"#,
        ),
        (
            "link out",
            link(b'1', "x", "../../etc/shadow"),
            r#""x" is refused: it is a hard link to "../../etc/shadow""#,
        ),
        (
            "link to nothing",
            link(b'1', "x", "nothing"),
            "no file of this image",
        ),
        (
            "link to directory",
            link(b'1', "x", "d"),
            "no file of this image",
        ),
        (
            "link to itself",
            link(b'1', "x", "x"),
            "no file of this image",
        ),
        ("empty target", link(b'2', "x", ""), "a link to nothing"),
        (
            "whiteout of all",
            file(".wh.", ""),
            "no whiteout that means anything",
        ),
        (
            "whiteout of parent",
            file(".wh...", ""),
            "no whiteout that means anything",
        ),
        ("whiteout as directory", directory(".wh.x"), "no whiteout"),
        ("below a whiteout", file(".wh.x/y", ""), "no whiteout"),
        (
            "overlay's whiteout",
            member(b'3', "x"),
            "which an overlay takes for a whiteout",
        ),
        (
            "overlay's attribute",
            directory("x").attribute(&format!("{XATTR}trusted.overlay.opaque"), "y"),
            "an attribute of overlayfs's own",
        ),
        (
            "overlay's attribute, rootless",
            directory("x").attribute(&format!("{XATTR}user.overlay.redirect"), "/etc"),
            "an attribute of overlayfs's own",
        ),
        (
            "capabilities",
            file("x", "").attribute(&format!("{XATTR}security.capability"), "\x01\0\0\x02x"),
            "none that a kernel would store",
        ),
        (
            "owner",
            file("x", "").owned_by(1 << 32, 0),
            "its owner or group is no number",
        ),
        (
            "owner -1",
            file("x", "").owned_by(0, 0xffff_ffff),
            "its owner or group is no number",
        ),
        (
            "device",
            Member {
                device: (4096, 0),
                ..member(b'4', "x")
            },
            "numbers are none that Linux has",
        ),
        (
            "directory with content",
            Member {
                content: vec![0; 512],
                ..directory("x")
            },
            "no file and claims to have content",
        ),
        (
            "file that is a directory",
            file("x/", ""),
            "a directory's name",
        ),
        (
            "volume label",
            member(b'V', "x"),
            "none that an image can have",
        ),
        (
            "multi-volume",
            member(b'M', "x"),
            "none that an image can have",
        ),
        (
            "holes",
            file("x", "12345")
                .attribute("GNU.sparse.map", "0,5,3,5")
                .attribute("GNU.sparse.size", "5"),
            "its map of holes does not fit",
        ),
    ];
    for (case, member, sentence) in cases {
        let error = refusal(&archive(&[file("before", "x"), member]));
        assert!(error.contains(sentence), "{case}: {error}");
    }
}

#[test]
fn an_entry_below_a_file_of_its_layer_is_refused() {
    for above in [
        file("x", ""),
        link(b'2', "x", "/etc"),
        link(b'1', "x", "d/below"),
    ] {
        let error = refusal(&archive(&[above, file("x/passwd", "")]));
        assert!(
            error.contains(r#"entry "x/passwd" is refused: "x" is no directory"#),
            "{error}"
        );
    }
}

#[test]
fn a_link_to_nothing_is_refused_though_another_takes_its_place() {
    let error = refusal(&archive(&[link(b'1', "x", "nothing"), file("x", "")]));
    assert!(
        error.contains(r#"entry "x" is refused: it is a hard link to "nothing""#),
        "{error}"
    );
}

#[test]
fn a_link_of_a_lower_layer_is_no_way_through() {
    let scratch = tempfile::tempdir().expect("a directory");
    let lower = archive(&[link(b'2', "x", "/etc")]);
    let upper = archive(&[file("x/passwd", "mine")]);
    oci::write_directory(
        &oci::layout(&[lower, upper], &[Packing::Plain]),
        scratch.path(),
    );
    let image = image(&format!("oci:{}", scratch.path().display())).expect("it means one thing");
    // As overlayfs has it: a directory takes the link's place.
    let paths: Vec<_> = image.tree.entries().map(|(path, _)| path).collect();
    assert_eq!(paths, [&b"x"[..], b"x/passwd"]);
}

#[test]
fn what_comes_twice_is_the_later() {
    let twice = archive(&[
        file("x", "one"),
        file("./x", "two"),
        link(b'2', "//x", "three"),
        file("/x", "").with_mode(0),
    ]);
    let once = archive(&[file("x", "").with_mode(0)]);
    let digest = |archive: &[u8]| {
        read(archive, Limits::default())
            .expect("an image")
            .tree
            .digest()
    };
    assert_eq!(digest(&twice), digest(&once));
}

#[test]
fn bytes_that_readers_take_differently_are_refused() {
    let gnu_name = Member {
        content: b"longname\0".to_vec(),
        ..member(b'L', "././@LongLink")
    };
    let global = Member {
        content: b"16 path=elsewhere\n".to_vec(),
        ..member(b'g', "pax")
    };
    let mut zero_inside = file("a", "").bytes();
    zero_inside.extend([0; 512]);
    zero_inside.extend(archive(&[file("b", "")]));
    let mut behind = archive(&[file("a", "")]);
    behind.extend(archive(&[file("b", "")]));
    let mut broken = archive(&[file("a", "x")]);
    broken[0] ^= 1;
    let mut negative = archive(&[file("a", "x")]);
    negative[124..136].copy_from_slice(&[0xff; 12]);
    checksum(&mut negative);
    let cases = [
        (
            "two long names",
            archive(&[gnu_name, file("a", "").attribute("path", "b")]),
            "readers differ in which holds",
        ),
        (
            "global",
            archive(&[global, file("a", "")]),
            "at byte 0 is a header for all that follows",
        ),
        (
            "zero block inside",
            zero_inside,
            "an empty block is before it",
        ),
        (
            "behind the end",
            behind,
            "something behind its end mark, at byte 1536",
        ),
        (
            "checksum",
            broken,
            "at byte 0 is no header that can be read",
        ),
        (
            "negative size",
            negative,
            "at byte 0 is no header that can be read",
        ),
    ];
    for (case, archive, sentence) in cases {
        let error = refusal(&archive);
        assert!(error.contains(sentence), "{case}: {error}");
    }
}

#[test]
fn a_comment_for_all_is_none_of_the_images_business() {
    let comment = Member {
        content: b"20 comment=0123abcd\n".to_vec(),
        ..member(b'g', "pax_global_header")
    };
    assert!(read(&archive(&[comment, file("a", "")]), Limits::default()).is_ok());
}

#[test]
fn a_layer_cut_at_any_byte_is_refused() {
    let whole = archive(&[
        file("a", [1; 700]),
        link(b'2', "p".repeat(300), "target"),
        directory("z"),
    ]);
    let scratch = tempfile::tempdir().expect("a directory");
    for cut in (0..whole.len()).step_by(37) {
        // As an archive that nobody signed: the documents are made for what is left.
        let path = scratch.path().join("image.tar");
        let mut docker = oci::docker(std::slice::from_ref(&whole));
        docker
            .iter_mut()
            .find(|(name, _)| name == "0/layer.tar")
            .expect("it")
            .1
            .truncate(cut);
        oci::write_archive(&docker, &path, Packing::Plain);
        let error = image(&format!("docker-archive:{}", path.display()));
        let error = error.expect_err("it is cut").to_string();
        assert!(error.contains("layer 1 (0/layer.tar): "), "{cut}: {error}");
    }
    // And one whose documents fit what is left, where it is cut inside an entry.
    let cut_inside = &whole[..512 + 700];
    let error = refusal(cut_inside);
    assert!(
        error.contains("it is cut: it ends inside \"a\", at byte 1212"),
        "{error}"
    );
    let error = refusal(&whole[..1536 + 700]);
    assert!(
        error.contains("it is cut: it ends inside a header"),
        "{error}"
    );
}

#[test]
fn a_compressed_layer_that_is_cut_or_damaged_is_named() {
    for packing in [Packing::Gzip, Packing::Zstd] {
        let layer = archive(&[file("a", [7; 9000])]);
        let packed = oci::packed(&layer, packing);
        for (case, bytes) in [
            ("cut", packed[..packed.len() - 5].to_vec()),
            ("garbage", [&packed[..20], &[0x55; 30]].concat()),
        ] {
            let scratch = tempfile::tempdir().expect("a directory");
            // Documents for the damaged blob, so that only its compression tells.
            let mut files = oci::Files::new();
            let config = serde_json::to_vec(&oci::config(std::slice::from_ref(&layer)));
            let config = oci::blob(
                &mut files,
                "application/vnd.oci.image.config.v1+json",
                config.expect("JSON"),
            );
            let blob = oci::blob(
                &mut files,
                "application/vnd.oci.image.layer.v1.tar+gzip",
                bytes,
            );
            let manifest =
                serde_json::json!({"schemaVersion": 2, "config": config, "layers": [blob]});
            let manifest = serde_json::to_vec(&manifest).expect("JSON");
            let manifest = oci::blob(
                &mut files,
                "application/vnd.oci.image.manifest.v1+json",
                manifest,
            );
            oci::add_index(&mut files, &[manifest]);
            oci::write_directory(&files, scratch.path());
            let error = image(&format!("oci:{}", scratch.path().display()));
            let error = error.expect_err("it is damaged").to_string();
            assert!(
                error.contains("layer 1 (sha256:"),
                "{packing:?}, {case}: {error}"
            );
            assert!(
                error.contains("does not unpack"),
                "{packing:?}, {case}: {error}"
            );
        }
    }
}

#[test]
fn any_byte_of_a_layout_that_is_another_is_told() {
    let layer = archive(&[file("a", "content")]);
    let layout = oci::layout(&[layer], &[Packing::Gzip]);
    let scratch = tempfile::tempdir().expect("a directory");
    let source = format!("oci:{}", scratch.path().display());
    oci::write_directory(&layout, scratch.path());
    assert!(image(&source).is_ok());
    for (name, bytes) in layout.iter().filter(|(name, _)| name.starts_with("blobs/")) {
        for at in (0..bytes.len()).step_by(11) {
            let mut other = bytes.clone();
            other[at] ^= 1;
            fs::write(scratch.path().join(name), &other).expect("a file");
            let error = image(&source).expect_err("another byte").to_string();
            assert!(
                error.contains("it should be sha256:"),
                "{name} at {at}: {error}"
            );
        }
        for (other, sentence) in [
            (bytes[..bytes.len() - 1].to_vec(), "fewer"),
            ([&bytes[..], b"\n"].concat(), "more"),
        ] {
            fs::write(scratch.path().join(name), &other).expect("a file");
            let error = image(&source).expect_err("another length").to_string();
            assert!(error.contains(sentence), "{name}: {error}");
        }
        fs::write(scratch.path().join(name), bytes).expect("a file");
    }
}

#[test]
fn an_archive_other_than_the_config_lists_is_refused() {
    let layer = archive(&[file("a", "content")]);
    let other = archive(&[file("a", "another")]);
    let scratch = tempfile::tempdir().expect("a directory");
    let path = scratch.path().join("image.tar");
    let mut docker = oci::docker(&[layer]);
    docker
        .iter_mut()
        .find(|(name, _)| name == "0/layer.tar")
        .expect("it")
        .1 = other;
    oci::write_archive(&docker, &path, Packing::Plain);
    let error = image(&format!("docker-archive:{}", path.display())).expect_err("another");
    let error = error.to_string();
    assert!(
        error.contains("its archive is not the one that the image's config lists"),
        "{error}"
    );
}

#[test]
fn a_million_entries_are_an_image_and_one_more_than_the_limit_is_none() {
    let member = file("x", "");
    let mut layer = Vec::with_capacity(520 << 20);
    for number in 0..1_000_000 {
        let path = format!("d{}/{number}", number % 1000).into_bytes();
        layer.extend(
            Member {
                path,
                ..member.clone()
            }
            .bytes(),
        );
    }
    layer.extend([0; 1024]);
    let image = read(&layer, Limits::default()).expect("many are no crime");
    // Those of the layer below and the implied directories are among them.
    assert_eq!(image.tree.entries().count(), 1_000_000 + 1000 + 2);
    let limits = Limits {
        entries: 1_000_000 + 1000 + 1,
        ..Limits::default()
    };
    let error = read(&layer, limits).expect_err("too many");
    assert!(
        error.contains("more than 1001001 files and directories"),
        "{error}"
    );
}

#[test]
fn depth_and_long_names_cost_what_their_bytes_cost() {
    // As deep as a path can be, beside one another.
    let deep: Vec<_> = (0..200)
        .map(|number| file(format!("{number}/{}x", "a/".repeat(2040)), ""))
        .collect();
    let image = read(&archive(&deep), Limits::default()).expect("deep is no crime");
    assert_eq!(image.tree.entries().count(), 200 * 2042 + 2);
    let limits = Limits {
        path_bytes: 100 << 20,
        ..Limits::default()
    };
    let error = read(&archive(&deep), limits).expect_err("too deep, too often");
    assert!(
        error.contains("the paths of the image have more than"),
        "{error}"
    );
    // Ten thousand deep has no path that anybody could open.
    let error = refusal(&archive(&[file("a/".repeat(10_000) + "x", "")]));
    assert!(error.contains("more than 4095 bytes"), "{error}");
    let names: Vec<_> = (0..50)
        .map(|number| file(vec![format!("{number:0>255}"); 15].join("/"), ""))
        .collect();
    assert!(read(&archive(&names), Limits::default()).is_ok());
}

#[test]
fn a_bomb_is_stopped_at_its_limit() {
    let limits = Limits {
        content_bytes: 64 << 20,
        ..Limits::default()
    };
    let zeros = archive(&[file("zeros", vec![0; 80 << 20])]);
    let error = read(&zeros, limits).expect_err("a bomb");
    assert!(
        error.contains("layer 2") && error.contains("more than 67108864 bytes"),
        "{error}"
    );
    // A file that is one hole, as pax and GNU write it: no byte of it is in the archive.
    let hole = file("hole", "")
        .attribute("GNU.sparse.map", "")
        .attribute("GNU.sparse.size", (1_u64 << 60).to_string());
    let error = read(&archive(&[hole]), limits).expect_err("a bomb");
    assert!(error.contains("more than 67108864 bytes"), "{error}");
    // Headers without end.
    let headers = file("x", "").attribute("comment", vec![b'x'; 2 << 20]);
    let error = refusal(&archive(&[headers]));
    assert!(error.contains("metadata exceeds limit"), "{error}");
    // A size that no archive has.
    let error = refusal(&[file("x", "").with_size(1 << 40).bytes(), vec![0; 4096]].concat());
    assert!(error.contains("it is cut: it ends inside \"x\""), "{error}");
    let error = refusal(&[file("x", "").with_size(u64::MAX / 2).bytes(), vec![0; 4096]].concat());
    assert!(
        error.contains("claims more bytes than a file can have"),
        "{error}"
    );
}

#[test]
fn files_with_holes_are_what_they_are_without() {
    // GNU tar's own archives of one file with holes, in each of its formats.
    let scratch = tempfile::tempdir().expect("a directory");
    let path = scratch.path().join("sparse");
    let sparse = fs::File::create(&path).expect("a file");
    sparse.set_len(3 << 20).expect("a hole");
    for (at, text) in [(1 << 20, "middle"), ((2 << 20) + 5, "later")] {
        std::os::unix::fs::FileExt::write_all_at(&sparse, text.as_bytes(), at).expect("a write");
    }
    let content = fs::read(&path).expect("the file");
    let plain = file("sparse", content).with_mode(0o644);
    let whole = read(&archive(&[plain]), Limits::default())
        .expect("an image")
        .tree
        .digest();
    for format in [
        "--format=gnu",
        "--sparse-version=0.0",
        "--sparse-version=0.1",
        "--sparse-version=1.0",
    ] {
        let tar = std::process::Command::new("tar")
            .args(["--sparse", "--owner=0", "--group=0", "--mode=0644", format])
            .args(if format.starts_with("--sparse") {
                &["--format=pax"][..]
            } else {
                &[]
            })
            .args([
                "-C",
                &scratch.path().to_string_lossy(),
                "-cf",
                "-",
                "sparse",
            ])
            .output()
            .expect("GNU tar");
        assert!(
            tar.status.success(),
            "{}",
            String::from_utf8_lossy(&tar.stderr)
        );
        assert!(tar.stdout.len() < 1 << 20, "{format} kept the holes");
        let image = read(&tar.stdout, Limits::default())
            .unwrap_or_else(|error| panic!("{format}: {error}"));
        assert_eq!(image.tree.digest(), whole, "{format}");
    }
}

#[test]
fn a_place_that_holds_no_image_says_so() {
    let scratch = tempfile::tempdir().expect("a directory");
    let shown = scratch.path().display().to_string();
    let at = |name: &str| scratch.path().join(name);
    fs::write(at("garbage"), [0x77; 5000]).expect("a file");
    fs::write(at("empty"), []).expect("a file");
    fs::create_dir(at("no-index")).expect("a directory");
    fs::create_dir(at("bad-index")).expect("a directory");
    fs::write(at("bad-index/index.json"), "{\"manifests\": 7}").expect("a file");
    fs::create_dir(at("linked")).expect("a directory");
    std::os::unix::fs::symlink("/etc/passwd", at("linked/index.json")).expect("a link");
    let fifo = std::process::Command::new("mkfifo")
        .arg(at("fifo"))
        .status()
        .expect("mkfifo");
    assert!(fifo.success());
    let twice = [file("manifest.json", "[]"), file("./manifest.json", "[]")];
    fs::write(at("twice"), archive(&twice)).expect("a file");
    for (source, sentence) in [
        ("oci:/nowhere", "/nowhere cannot be opened: No such file"),
        (
            "oci-archive:/nowhere",
            "/nowhere cannot be opened: No such file",
        ),
        ("oci-archive:{}/fifo", "it is no regular file"),
        ("docker-archive:{}", "it is no regular file"),
        (
            "docker-archive:{}/garbage",
            "is no archive of an image: at byte 0 is no header",
        ),
        (
            "docker-archive:{}/empty",
            "it has no file \"manifest.json\"",
        ),
        ("docker-archive:{}/twice", "has \"manifest.json\" twice"),
        (
            "oci:{}/no-index",
            "it has no file \"index.json\": No such file",
        ),
        (
            "oci:{}/bad-index",
            "\"index.json\" is not what it should be: invalid type",
        ),
        (
            "oci:{}/linked",
            "it has no file \"index.json\": Too many levels of symbolic links",
        ),
    ] {
        let source = source.replace("{}", &shown);
        let error = image(&source).expect_err("no image").to_string();
        assert!(error.contains(sentence), "{source}: {error}");
        assert!(error.contains('/'), "the place is named: {error}");
    }
}

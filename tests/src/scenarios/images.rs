// SPDX-License-Identifier: Apache-2.0
//! One image, one digest: from the store of the engine that built it, from layouts and archives of
//! several tools, from trees that another tool unpacked, and from below its containers. The images are
//! built here, by buildah and podman, with all that layers can have.

use std::collections::BTreeMap;
use std::fs;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use image_digest::audit::{Audit, Engine, Stubs, audit};
use image_digest::source::{Container, Options};
use image_digest::{Limits, Progress};
use serde_json::Value;

use super::Scenario;
use crate::act::{ACT, Actor};
use crate::agent::CIMA;
use crate::claims::Claims;
use crate::podman::{Runtime, TINY, podman};
use crate::process::{self, Ran};

pub(crate) const SCENARIO: Scenario = Scenario {
    name: "images",
    about: "one image has one digest, whoever built, stored, copied, unpacked or runs it",
    play,
};

/// Where everything is made.
const SITE: &str = "/var/tmp/images";
/// Copies are compressed by an emulated processor.
const LIMIT: Duration = Duration::from_secs(180);

/// What buildah puts into the lower layer of an image, and then takes away or replaces in the upper.
const LOWER: &str = r#"
set -eu
cd "$1"
mkdir -p usr/bin etc opt/gone opt/opaque/inner opt/stays var/empty dev
printf '\177ELF lower' >usr/bin/tool; chmod 4755 usr/bin/tool
printf '#!/usr/bin/tool\n' >usr/bin/script; chmod 0755 usr/bin/script
setcap cap_net_raw,cap_net_admin=ep usr/bin/tool
printf data >etc/data; chmod 0600 etc/data; chown 1000:2000 etc/data
ln usr/bin/script etc/hard
ln -s ../etc/data usr/bin/soft; ln -s /etc/shadow etc/absolute; ln -s nowhere etc/dangling
chown -h 7:8 etc/dangling
mknod dev/null c 1 3; mknod dev/disk b 8 300; chmod 0666 dev/null
mkfifo -m 0640 opt/fifo
touch opt/gone/a opt/gone/b opt/opaque/a opt/opaque/inner/b opt/stays/a
chmod 1777 var/empty; chmod 2750 opt/stays; chown 33:44 opt/stays
printf odd >"$(printf 'opt/odd \n\\ \377name')"
printf x >"opt/$(printf %0255d 0)"
printf file >opt/becomes-directory
mkdir opt/becomes-file; touch opt/becomes-file/inside
"#;

const UPPER: &str = r#"
set -eu
cd "$1"
rm -r opt/gone
rm -r opt/opaque; mkdir opt/opaque; touch opt/opaque/new
rm opt/becomes-directory; mkdir opt/becomes-directory; printf in >opt/becomes-directory/inside
rm -r opt/becomes-file; printf file >opt/becomes-file
rm opt/stays/a; printf changed >etc/data
ln usr/bin/tool opt/tool-again
chmod 0700 var/empty
"#;

fn play(claims: &mut Claims, _arguments: &[String]) {
    fs::create_dir_all(SITE).expect("a directory");
    let built = claims.claim("buildah builds an image of two layers", build);
    let Some(()) = built else { return };
    claims.claim("podman builds one on top of it", build_with_podman);
    let mut digests = BTreeMap::new();
    for image in ["localhost/two:1", "localhost/three:1"] {
        let name = image.split(['/', ':']).nth(1).expect("a name");
        let Some(digest) = claims.claim(&format!("{name}: the store has its digest"), || {
            digest(&format!("containers-storage:{image}"))
        }) else {
            continue;
        };
        for (what, source) in copies(name, image) {
            claims.claim(&format!("{name}: {what} has the same"), || {
                assert_eq!(digest_of(&source()), digest);
            });
        }
        for runtime in Runtime::ALL {
            claims.claim(
                &format!(
                    "{name}: below a container of {} is the same",
                    runtime.name()
                ),
                || {
                    below(runtime, image, &digest);
                },
            );
        }
        claims.claim(
            &format!("{name}: an overlay of its lower directories shows the same"),
            || {
                mounted(image, &digest);
            },
        );
        digests.insert(name.to_owned(), digest);
    }
    claims.claim("the two images differ, and the difference is named", differ);
    claims.claim(
        "the reference of an image lists what can be executed",
        reference,
    );
    claims.claim(
        "a manifest of an image gives its digest, one altered does not",
        || {
            manifest(&digests["two"]);
        },
    );
    claims.claim(
        "a changed lower file is another digest, and named",
        tampered,
    );
    claims.claim(
        "a known digest is not used for what was written meanwhile, however",
        || {
            cached();
        },
    );
    for runtime in Runtime::ALL {
        audits(claims, runtime);
    }
}

/// A script for `sh`, with one argument.
#[track_caller]
fn shell(script: &str, argument: &str) {
    process::run_within(LIMIT, &["sh", "-c", script, "sh", argument]).succeeded();
}

#[track_caller]
fn run(words: &[&str]) -> String {
    process::run_within(LIMIT, words).succeeded()
}

#[track_caller]
fn cima(words: &[&str]) -> Ran {
    let words: Vec<_> = [CIMA].iter().chain(words).copied().collect();
    process::run_within(LIMIT, &words)
}

#[track_caller]
fn digest(source: &str) -> String {
    let json = cima(&["digest", "--json", source]).succeeded();
    let json: Value = serde_json::from_str(&json).expect("JSON");
    json["image"].as_str().expect("a digest").to_owned()
}

#[track_caller]
fn digest_of(source: &str) -> String {
    digest(source)
}

fn build() {
    let from = |base: &str| run(&["buildah", "from", base]).trim().to_owned();
    let change = |container: &str, script: &str| {
        let root = run(&["buildah", "mount", container]);
        shell(script, root.trim());
        run(&["buildah", "umount", container]);
    };
    let lower = from("scratch");
    change(&lower, LOWER);
    run(&["buildah", "commit", "-q", &lower, "localhost/one:1"]);
    let upper = from("localhost/one:1");
    change(&upper, UPPER);
    let label = "org.opencontainers.image.title=two";
    run(&["buildah", "config", "--label", label, &upper]);
    run(&["buildah", "commit", "-q", &upper, "localhost/two:1"]);
    run(&["buildah", "rm", "--all"]);
}

fn build_with_podman() {
    let context = Path::new(SITE).join("context");
    fs::create_dir_all(&context).expect("a directory");
    let file = format!(
        "FROM {TINY}\nRUN rm -r /root && mkdir /root && echo x >/root/x && ln /bin/busybox /root/again\n\
         RUN rm /bin/vi && ln -s /nowhere /bin/vi && chmod 0700 /tmp && mkfifo /tmp/fifo\n\
         COPY extra /opt/extra\nCMD [\"/bin/sh\"]\n"
    );
    fs::write(context.join("Containerfile"), file).expect("a file");
    fs::write(context.join("extra"), "extra").expect("a file");
    let context = context.to_str().expect("text");
    run(&[
        "podman",
        "build",
        "-q",
        "--layers",
        "--isolation",
        "chroot",
        "-t",
        "localhost/three:1",
        context,
    ]);
}

type Source = Box<dyn Fn() -> String>;

/// The image in other places: what is claimed, and what makes it and names it.
fn copies(name: &str, image: &str) -> Vec<(&'static str, Source)> {
    let stored = format!("containers-storage:{image}");
    let at = |what: &str| format!("{SITE}/{name}-{what}");
    let copied = |what: &str, options: &[&str], kind: &str| -> Source {
        let to = format!("{kind}:{}:v1", at(what));
        let options: Vec<String> = options.iter().map(|option| (*option).to_owned()).collect();
        let stored = stored.clone();
        Box::new(move || {
            let mut words = vec!["skopeo", "copy", "-q"];
            words.extend(options.iter().map(String::as_str));
            words.extend([stored.as_str(), to.as_str()]);
            run(&words);
            to.clone()
        })
    };
    let layout = at("oci");
    let bundle = at("bundle");
    let unpacked: Source = Box::new(move || {
        run(&[
            "umoci",
            "unpack",
            "--image",
            &format!("{layout}:v1"),
            &bundle,
        ]);
        format!("dir:{bundle}/rootfs")
    });
    let (layout, bundle) = (at("oci"), at("bundle"));
    let repacked: Source = Box::new(move || {
        // As umoci writes layers: what it found changed since it unpacked.
        fs::write(format!("{bundle}/rootfs/added"), "added").expect("a file");
        run(&[
            "umoci",
            "repack",
            "--image",
            &format!("{layout}:v2"),
            &bundle,
        ]);
        fs::remove_file(format!("{bundle}/rootfs/added")).expect("a file");
        run(&[
            "umoci",
            "repack",
            "--image",
            &format!("{layout}:v3"),
            &bundle,
        ]);
        format!("oci:{layout}:v3")
    });
    let archive = at("save.tar");
    let saved_image = image.to_owned();
    let saved: Source = Box::new(move || {
        run(&[
            "podman",
            "save",
            "-q",
            "--format",
            "docker-archive",
            "-o",
            &archive,
            &saved_image,
        ]);
        format!("docker-archive:{archive}")
    });
    let vfs = format!("[vfs@{}+{}-run]", at("vfs"), at("vfs"));
    let (from, to) = (stored.clone(), format!("containers-storage:{vfs}{image}"));
    let in_vfs: Source = Box::new(move || {
        run(&["skopeo", "copy", "-q", &from, &to]);
        to.clone()
    });
    vec![
        ("skopeo's layout, gzip", copied("oci", &[], "oci")),
        ("umoci's tree of it", unpacked),
        ("umoci's layers of that tree", repacked),
        (
            "skopeo's layout, zstd",
            copied("zstd", &["--dest-compress-format", "zstd"], "oci"),
        ),
        ("skopeo's archive", copied("oci.tar", &[], "oci-archive")),
        ("podman's docker archive", saved),
        ("a store without overlays", in_vfs),
    ]
}

/// A container is started, writes, and is stopped: its image is what it was.
fn below(runtime: Runtime, image: &str, digest: &str) {
    // An image without a shell has a container that was made and never started.
    let has_shell = image.contains("three");
    let command: &[&str] = if has_shell {
        &[
            "run",
            "-d",
            "--name",
            "below",
            image,
            "sh",
            "-c",
            "echo x >/etc/new; rm /bin/ls; sleep 600",
        ]
    } else {
        &["create", "--name", "below", image, "/usr/bin/tool"]
    };
    podman(runtime, command).succeeded();
    if has_shell {
        let pid = crate::podman::pid_of("below");
        assert_eq!(
            digest_of(&format!("overlay:{pid}")),
            *digest,
            "by its process"
        );
    }
    let id = run(&["podman", "inspect", "-f", "{{.Id}}", "below"]);
    for name in ["below", id.trim(), &id[..12]] {
        assert_eq!(digest_of(&format!("overlay:{name}")), *digest, "by {name}");
    }
    podman(runtime, &["rm", "-f", "-t", "0", "below"]).succeeded();
}

/// The lower directories of an image, the top one first.
fn lower_directories(image: &str) -> Vec<PathBuf> {
    let inspect = run(&["podman", "image", "inspect", image]);
    let inspect: Value = serde_json::from_str(&inspect).expect("JSON");
    let data = &inspect[0]["GraphDriver"]["Data"];
    let upper = data["UpperDir"].as_str().expect("a directory");
    let lower = data["LowerDir"].as_str().unwrap_or("");
    let all = std::iter::once(upper).chain(lower.split(':').filter(|path| !path.is_empty()));
    all.map(PathBuf::from).collect()
}

/// What the kernel shows of the lower directories is what is read of them without it.
fn mounted(image: &str, digest: &str) {
    let lower: Vec<_> = lower_directories(image)
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    let at = format!("{SITE}/mounted");
    fs::create_dir_all(&at).expect("a directory");
    // An overlay wants two.
    let empty = format!("{SITE}/empty");
    fs::create_dir_all(&empty).expect("a directory");
    let options = format!("ro,lowerdir={}:{empty}", lower.join(":"));
    run(&["mount", "-t", "overlay", "overlay", "-o", &options, &at]);
    let shown = digest_of(&format!("dir:{at}"));
    run(&["umount", &at]);
    assert_eq!(shown, *digest);
}

fn differ() {
    let sources = [
        "containers-storage:localhost/one:1",
        "containers-storage:localhost/two:1",
    ];
    let ran = cima(&["diff", sources[0], sources[1]]);
    assert_eq!(ran.code(), Some(1), "{}", ran.stderr);
    for line in [
        "- opt/gone/a",
        "+ opt/opaque/new",
        "+ opt/tool-again",
        "~ etc/data: content",
        "~ opt/becomes-file: type",
        "~ var/empty: mode",
    ] {
        assert!(
            ran.stdout.lines().any(|has| has.starts_with(line)),
            "{line}: {}",
            ran.stdout
        );
    }
    let same = format!("oci:{SITE}/two-oci:v1");
    assert_eq!(cima(&["diff", sources[1], &same]).code(), Some(0), "same");
}

fn reference() {
    let out = format!("{SITE}/reference.json");
    cima(&[
        "reference",
        "containers-storage:localhost/two:1",
        "-o",
        &out,
    ])
    .succeeded();
    let reference = fs::read_to_string(&out).expect("the reference");
    let reference: Value = serde_json::from_str(&reference).expect("JSON");
    let text = reference.to_string();
    for executable in [
        "usr/bin/tool",
        "usr/bin/script",
        "opt/tool-again",
        "etc/hard",
    ] {
        assert!(text.contains(executable), "{executable}: {text}");
    }
    assert!(!text.contains("etc/data"), "{text}");
    assert_eq!(
        reference["image"].as_str(),
        Some(digest("containers-storage:localhost/two:1").as_str())
    );
    // The engine's own word for what was published.
    let inspect = run(&["podman", "image", "inspect", "localhost/two:1"]);
    let inspect: Value = serde_json::from_str(&inspect).expect("JSON");
    let id = inspect[0]["Id"].as_str().expect("an id");
    assert!(
        text.contains(&format!("sha256:{id}")),
        "config's digest: {text}"
    );
    let manifest = inspect[0]["Digest"].as_str().expect("a digest");
    assert!(text.contains(manifest), "manifest's digest: {text}");
    assert!(text.contains("org.opencontainers.image.title"), "{text}");
}

fn manifest(digest: &str) {
    let file = format!("{SITE}/manifest");
    let source = "containers-storage:localhost/two:1";
    cima(&["digest", source, "--manifest", &file]).succeeded();
    assert_eq!(digest_of(&format!("manifest:{file}")), *digest);
    let text = fs::read_to_string(&file).expect("the manifest");
    let altered = text.replacen("\"0600\"", "\"0644\"", 1);
    assert_ne!(text, altered, "there is a file with mode 0600");
    fs::write(&file, altered).expect("the manifest");
    let ran = cima(&["digest", &format!("manifest:{file}")]);
    assert_eq!(ran.code(), Some(2), "{}{}", ran.stdout, ran.stderr);
}

/// An intruder on the node writes into a layer.
fn tampered() {
    let source = "containers-storage:localhost/two:1";
    let (before, manifest) = (digest(source), format!("{SITE}/before"));
    cima(&["digest", source, "--manifest", &manifest]).succeeded();
    let layers = lower_directories("localhost/two:1");
    let mut victim = layers.iter().map(|layer| layer.join("usr/bin/script"));
    let victim = victim
        .rfind(|path| path.exists())
        .expect("it is in a layer");
    let bytes = fs::read(&victim).expect("the file");
    fs::write(&victim, b"#!/usr/bin/evil\n").expect("the file");
    assert_ne!(digest(source), before);
    let ran = cima(&["diff", &format!("manifest:{manifest}"), source]);
    assert_eq!(ran.code(), Some(1), "{}", ran.stderr);
    assert!(
        ran.stdout.contains("usr/bin/script: content"),
        "{}",
        ran.stdout
    );
    fs::write(&victim, bytes).expect("the file");
    assert_eq!(digest(source), before);
}

/// The digest with a cache is the digest without, while a file is written through a mapping, with stores that
/// no system call tells of, and by `io_uring`.
fn cached() {
    let (tree, cache) = (format!("{SITE}/tree"), format!("{SITE}/cache"));
    fs::create_dir_all(&tree).expect("a directory");
    let file = format!("{tree}/file");
    fs::write(&file, vec![b'x'; 100_000]).expect("a file");
    let source = format!("dir:{tree}");
    let mut before = String::new();
    let mut same = |changed: bool, when: &str| {
        let ran = cima(&["digest", "--json", "--cache", &cache, &source]).succeeded();
        let json: Value = serde_json::from_str(&ran).expect("JSON");
        let known = json["image"].as_str().expect("a digest").to_owned();
        assert_eq!(known, digest(&source), "{when}");
        assert_eq!(known != before, changed, "{when}");
        before = known;
    };
    same(true, "for the first time");
    same(false, "again");
    let acts = [
        "write", &file, "share", "close", "wait", "store", "one", "wait", "store", "two", "wait",
        "unmap",
    ];
    let mut actor = Actor::of(Command::new(ACT).args(acts));
    same(false, "mapped, and nothing stored so far");
    actor.go_on();
    same(true, "stored to");
    same(false, "again, while the mapping stays");
    actor.go_on();
    same(true, "stored to a page that is dirty already");
    actor.finish();
    same(false, "the mapping is gone");
    run(&[ACT, "uring", &file, "three"]);
    same(true, "written by io_uring");
    same(false, "and again");
}

/// What the engine itself leaves in an upper directory is known, what the container wrote is found.
fn audits(claims: &mut Claims, runtime: Runtime) {
    let name = runtime.name();
    let volume = format!("{SITE}/volume");
    fs::create_dir_all(&volume).expect("a directory");
    let volume = format!("{volume}:/data/deep:ro");
    let found = |script: &str| -> Vec<String> {
        let container = [
            "run", "-d", "--name", "audited", "-v", &volume, TINY, "sh", "-c", script,
        ];
        podman(runtime, &container).succeeded();
        // Until the script is done; a sleeping container's mounts are there.
        let inspect = "{{.GraphDriver.Data.UpperDir}}";
        let upper = run(&["podman", "inspect", "-f", inspect, "audited"]);
        let done = format!("{}/done", upper.trim());
        let deadline = std::time::Instant::now() + Duration::from_secs(30);
        while script.contains("/done") && !Path::new(&done).exists() {
            assert!(
                std::time::Instant::now() < deadline,
                "the script is not done"
            );
            std::thread::sleep(Duration::from_millis(50));
        }
        let findings = findings("audited", runtime);
        podman(runtime, &["rm", "-f", "-t", "0", "audited"]).succeeded();
        findings
    };
    claims.claim(
        &format!("{name}: a container that wrote nothing has a clean upper directory"),
        || {
            assert_eq!(found("sleep 600"), Vec::<String>::new());
        },
    );
    claims.claim(
        &format!("{name}: what a container wrote, changed and deleted is found"),
        || {
            let script = "echo x >/etc/new; chmod 0700 /tmp; rm /bin/vi; echo y >/etc/passwd; \
                      ln -s /x /etc/hostname-link; echo z >/run/x; touch /done; sleep 600";
            let found = found(script).join("\n");
            for path in [
                "etc/new",
                "tmp",
                "bin/vi",
                "etc/passwd",
                "etc/hostname-link",
                "run/x",
                "done",
            ] {
                assert!(found.contains(path), "{path}: {found}");
            }
        },
    );
}

/// What is found in a container's upper directory, as who decides on its start would ask.
fn findings(container: &str, runtime: Runtime) -> Vec<String> {
    let container = Container::find(container).expect("podman has it");
    let progress = Progress::default();
    let options = Options {
        limits: Limits::default(),
        platform: None,
        threads: NonZero::<usize>::MIN,
        cache: None,
        progress: &progress,
    };
    let image = container.read(&options).expect("it has an image");
    let stubs = Stubs::shipped().expect("it is tested");
    let engines = match runtime {
        Runtime::Crun => [Engine::Podman, Engine::Crun],
        Runtime::Runc => [Engine::Podman, Engine::Runc],
    };
    let question = Audit {
        stubs: &stubs,
        engines: &engines,
        mount_points: container.mount_points(),
        image: Some(&image.tree),
        root: container.root(),
        user_attributes: container.user_attributes(),
        limits: Limits::default(),
    };
    let upper = container.upper().expect("it can be written");
    let findings = audit(upper, &question).expect("it can be looked at");
    findings.iter().map(ToString::to_string).collect()
}

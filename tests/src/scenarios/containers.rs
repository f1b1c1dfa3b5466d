// SPDX-License-Identifier: Apache-2.0
//! Who runs: each measurement has its container, and each container its image, measured before its
//! first instruction; whatever the container does to its namespaces, and whatever happens to the agent.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{DirEntryExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use super::Scenario;
use crate::agent::{CIMA, Site, eventually, text};
use crate::claims::Claims;
use crate::hooks::{self, HOOK, created, digest_of, event_of, executed, listed};
use crate::podman::{self, DEBIAN, Runtime, TINY, podman};
use crate::process;

pub(crate) const SCENARIO: Scenario = Scenario {
    name: "containers",
    about: "each measurement has its container, and each container its image, measured before it runs",
    play,
};

/// A program of containers that are registered no more.
const STRANGER: &str = "stranger";

/// Containers that start at once.
const MANY: usize = 100;

fn play(claims: &mut Claims, _arguments: &[String]) {
    let site = hooks::site("violation");
    let agent = site.start();
    for runtime in Runtime::ALL {
        let with = |claim: &str| format!("{}: {claim}", runtime.name());
        claims.claim(
            &with("the image is in the list before anything of the container"),
            || image_first(&site, runtime),
        );
        claims.claim(
            &with("the list says image, command, user and volumes"),
            || told(&site, runtime),
        );
        claims.claim(
            &with("what `podman exec` runs is its container's, and who entered is said"),
            || entered(&site, runtime),
        );
        claims.claim(
            &with("a container that makes namespaces inside stays its container"),
            || nested(&site, runtime),
        );
        claims.claim(
            &with("what is executed from a mount over /usr is seen, with the volume"),
            || mounted_over(&site, runtime),
        );
        claims.claim(
            &with("its end is said, by the runtime or by the kernel"),
            || ends(&site, runtime),
        );
    }
    claims.claim("nsenter from the host is said, with who did it", || {
        nsenter(&site);
    });
    claims.claim(
        "what is known of an image is kept, also when its directory was removed, and a second start reads nothing anew",
        || {
            kept(&site);
        },
    );
    claims.claim(
        "a container without layers (vfs): all of its directory is measured",
        || {
            directory(&site);
        },
    );
    claims.claim(
        "two hooks of one container that ask at once: it is registered once",
        || {
            twice(&site);
        },
    );
    for runtime in Runtime::ALL {
        for moved in [false, true] {
            let how = if moved {
                "by a mount that is moved"
            } else {
                "by pivot_root"
            };
            claims.claim(
                &format!(
                    "{}: a container that gets another root than was measured ({how}) is registered no more",
                    runtime.name()
                ),
                || other_root(&site, runtime, moved),
            );
        }
        claims.claim(
            &format!(
                "{}: so is one in which its runtime has another root for what it executes first",
                runtime.name()
            ),
            || other_child(&site, runtime),
        );
    }
    claims.claim(
        &format!("of {MANY} containers that start at once none is taken for another"),
        || many(&site),
    );
    claims.claim("nothing in the other containers is unregistered", || {
        let events = site.policy_events();
        let strangers: Vec<_> = events
            .iter()
            .filter(|(name, _)| name.contains(":unregistered:") && !name.contains(STRANGER))
            .collect();
        assert!(strangers.is_empty(), "{strangers:?}");
    });
    let survivor = claims.claim("a container is there while the agent is not", || {
        podman(
            Runtime::Crun,
            &["run", "-d", "--name", "survivor", DEBIAN, "sleep", "600"],
        )
        .succeeded();
        created(&site).pop().expect("it is in the list")
    });
    agent.stop();
    let agent = site.start();
    if let Some(survivor) = survivor {
        claims.claim(
            "after a restart of the agent it is still that container",
            || {
                podman(Runtime::Crun, &["exec", "survivor", "/usr/bin/factor", "7"]).succeeded();
                event_of(&site, "the execution", &survivor["container"], |event| {
                    executed(event).ends_with("/factor")
                });
                let image = text(&survivor["image"]);
                listed(&site, &format!("cima-exec:sha256:{image}:/usr/bin/factor"));
            },
        );
        claims.claim("and its end is seen", || {
            podman(Runtime::Crun, &["rm", "-f", "-t", "0", "survivor"]).succeeded();
            gone(&site, &survivor["container"]);
        });
    }
    claims.claim(
        "a container that ended while no agent ran is said to have ended unseen",
        || {
            podman(
                Runtime::Crun,
                &["run", "-d", "--name", "lost", TINY, "sleep", "600"],
            )
            .succeeded();
            let lost = created(&site).pop().expect("it is in the list");
            agent.kill();
            podman(Runtime::Crun, &["rm", "-f", "-t", "0", "lost"]).succeeded();
            let agent = site.start();
            assert_eq!(text(&gone(&site, &lost["container"])["cause"]), "UNSEEN");
            agent.stop();
        },
    );
    claims.claim("cima verify finds the list in the TPM", || {
        site.verify().succeeded();
    });
}

/// Waits until a container is said to be gone.
#[track_caller]
fn gone(site: &Site, container: &Value) -> Value {
    eventually("it is gone", || {
        let events = site.context_events();
        events
            .into_iter()
            .map(|event| event["gone"].clone())
            .find(|gone| gone["container"] == *container)
    })
}

fn image_first(site: &Site, runtime: Runtime) {
    podman::run(runtime, DEBIAN, &["/usr/bin/stat", "/"]).succeeded();
    let image = digest_of(DEBIAN);
    listed(site, &format!("cima-exec:{image}:/usr/bin/stat"));
    let events = site.policy_events();
    let first = events.iter().position(|(name, _)| name.contains(&image));
    let first = first.map(|at| events[at].clone());
    assert_eq!(
        first,
        Some((format!("cima-image:{image}"), format!("v1;image={image}")))
    );
}

fn told(site: &Site, runtime: Runtime) {
    fs::create_dir_all("/srv/data").expect("a directory can be made");
    podman(
        runtime,
        &[
            "run",
            "--rm",
            "--name",
            "told",
            "--user",
            "7:8",
            "--env",
            "SECRET=1",
            "--volume",
            "/srv/data:/data:ro,noexec",
            DEBIAN,
            "/bin/true",
            "--an argument",
        ],
    )
    .succeeded();
    let told = created(site).pop().expect("it is in the list");
    assert_eq!(told["allowed"], true, "{told}");
    assert_eq!(
        format!("sha256:{}", text(&told["image"])),
        digest_of(DEBIAN)
    );
    let input: Value = serde_json::from_str(&text(&told["input"])).expect("the input is JSON");
    assert_eq!(input["container"]["engine"], "podman", "{input}");
    assert_eq!(input["container"]["name"], "told", "{input}");
    assert_eq!(input["image"]["reference"], DEBIAN, "{input}");
    assert!(
        text(&input["image"]["config_digest"]).starts_with("sha256:"),
        "{input}"
    );
    assert!(
        text(&input["image"]["manifest_digest"]).starts_with("sha256:"),
        "{input}"
    );
    assert_eq!(input["upper"]["audited"], true, "{}", input["upper"]);
    assert_eq!(input["upper"]["dirty"], false, "{}", input["upper"]);
    assert_eq!(
        input["process"]["args"],
        serde_json::json!(["/bin/true", "--an argument"])
    );
    assert_eq!(
        (&input["process"]["uid"], &input["process"]["gid"]),
        (&7.into(), &8.into())
    );
    assert!(
        !text(&told["input"]).contains("SECRET=1"),
        "values of the environment are secrets"
    );
    assert_eq!(input["privileges"]["privileged"], false);
    let volumes = input["volumes"].as_array().expect("an array");
    let own: Vec<_> = volumes
        .iter()
        .filter(|volume| !text(&volume["source"]).contains(&text(&told["id"])))
        .collect();
    let [volume] = own[..] else {
        panic!("one volume is not the engine's: {volumes:?}")
    };
    assert_eq!(
        (&volume["source"], &volume["destination"]),
        (&"/srv/data".into(), &"/data".into())
    );
    assert_eq!(
        (&volume["writable"], &volume["executable"]),
        (&false.into(), &false.into())
    );
}

fn entered(site: &Site, runtime: Runtime) {
    let name = format!("entered-{}", runtime.name());
    podman(
        runtime,
        &["run", "-d", "--name", &name, DEBIAN, "sleep", "600"],
    )
    .succeeded();
    let told = created(site).pop().expect("it is in the list");
    podman(runtime, &["exec", &name, "/usr/bin/tac", "/etc/passwd"]).succeeded();
    let event = event_of(site, "the execution", &told["container"], |event| {
        executed(event) == "/usr/bin/tac"
    });
    assert_eq!(event["identity"]["container_id"], told["id"]);
    let joined = eventually("the entry", || {
        let events = site.context_events();
        events
            .into_iter()
            .map(|event| event["change"].clone())
            .find(|change| change["kind"] == "JOINED" && change["container"] == told["container"])
    });
    assert!(
        joined["task"]["ancestors"]
            .as_array()
            .is_some_and(|all| !all.is_empty()),
        "{joined}"
    );
    podman(runtime, &["rm", "-f", "-t", "0", &name]).succeeded();
}

fn nested(site: &Site, runtime: Runtime) {
    podman(
        runtime,
        &[
            "run",
            "--rm",
            "--cap-add",
            "SYS_ADMIN",
            "--security-opt",
            "seccomp=unconfined",
            DEBIAN,
            "unshare",
            "--mount",
            "--pid",
            "--fork",
            "unshare",
            "--mount",
            "/usr/bin/nl",
            "/etc/passwd",
        ],
    )
    .succeeded();
    let told = created(site).pop().expect("it is in the list");
    let event = event_of(site, "the execution inside", &told["container"], |event| {
        executed(event) == "/usr/bin/nl"
    });
    assert_ne!(
        event["identity"]["mnt_generation"], told["mnt_generation"],
        "it is another mount namespace"
    );
    listed(
        site,
        &format!("cima-exec:sha256:{}:/usr/bin/nl", text(&told["image"])),
    );
}

fn mounted_over(site: &Site, runtime: Runtime) {
    let dir = format!("/srv/over-{}", runtime.name());
    fs::create_dir_all(format!("{dir}/bin")).expect("a directory can be made");
    // Static, and named like an applet of its own.
    fs::copy("/usr/bin/busybox", format!("{dir}/bin/true")).expect("a program can be copied");
    podman(
        runtime,
        &[
            "run",
            "--rm",
            "--cap-add",
            "SYS_ADMIN",
            "--security-opt",
            "seccomp=unconfined",
            "--volume",
            &format!("{dir}:/vol"),
            TINY,
            "sh",
            "-c",
            "mkdir /usr && mount --bind /vol /usr && exec /usr/bin/true",
        ],
    )
    .succeeded();
    let told = created(site).pop().expect("it is in the list");
    let event = event_of(site, "the planted program", &told["container"], |event| {
        text(&event["mapping"]["file"]["path"]) == "/usr/bin/true"
    });
    assert_eq!(text(&event["mapping"]["volume"]), dir);
    let image = text(&told["image"]);
    listed(site, &format!("cima-exec:sha256:{image}:/usr/bin/true"));
}

fn ends(site: &Site, runtime: Runtime) {
    podman(runtime, &["run", "--rm", TINY, "sh", "-c", "exit 3"]).failed();
    let told = created(site).pop().expect("it is in the list");
    let ended = event_of(
        site,
        "the end of its process",
        &told["container"],
        |event| event["ended"].is_object(),
    );
    assert_eq!(ended["ended"]["status"], 3 << 8, "{ended}");
    let gone = gone(site, &told["container"]);
    println!("     its runtime: {}", gone["cause"]);
}

fn nsenter(site: &Site) {
    podman(
        Runtime::Crun,
        &["run", "-d", "--name", "target", TINY, "sleep", "600"],
    )
    .succeeded();
    let told = created(site).pop().expect("it is in the list");
    let pid = podman::pid_of("target");
    process::run(&["nsenter", "-t", &pid, "-m", "/bin/busybox", "true"]).succeeded();
    let joined = eventually("the entry", || {
        let events = site.context_events();
        events
            .into_iter()
            .map(|event| event["change"].clone())
            .find(|change| {
                change["kind"] == "JOINED"
                    && change["container"] == told["container"]
                    && change["task"]["process"]["comm"] == "nsenter"
            })
    });
    assert_eq!(joined["flags"], 0x2_0000, "the mount namespace: {joined}");
    podman(Runtime::Crun, &["rm", "-f", "-t", "0", "target"]).succeeded();
}

/// Without it each start would hash all of the image again.
fn kept(site: &Site) {
    let known = Path::new("/var/lib/cima/images");
    let files = || fs::read_dir(known).map_or(0, Iterator::count);
    assert!(files() > 0, "nothing is known");
    fs::remove_dir_all(known).expect("it can be removed");
    podman::run(Runtime::Crun, TINY, &["true"]).succeeded();
    assert_eq!(files(), 1);
    // With nothing running the engine lets go of its store, and mounts it again: the same files all the same. A file
    // of digests to which one was added is another.
    let running = podman(Runtime::Crun, &["ps", "--quiet"]).succeeded();
    assert_eq!(running, "", "nothing runs");
    let known_now = || {
        let entries = fs::read_dir(known).into_iter().flatten().flatten();
        let inodes: Vec<_> = entries.map(|entry| (entry.ino(), entry.path())).collect();
        inodes
    };
    let before = known_now();
    podman::run(Runtime::Crun, TINY, &["true"]).succeeded();
    assert_eq!(known_now(), before);
    assert!(!site.log().contains("cannot be kept"), "{}", site.log());
}

/// A store whose driver copies: what the image had and what was written cannot be told apart, and all of it counts.
fn directory(site: &Site) {
    let store = |words: &[&str]| {
        let podman = [
            "podman",
            "--root",
            "/var/lib/copies",
            "--runroot",
            "/run/copies",
            "--storage-driver",
            "vfs",
            "--runtime",
            "crun",
        ];
        process::run(&[&podman, words].concat())
    };
    process::run(&["podman", "save", "--quiet", "-o", "/tmp/tiny.tar", TINY]).succeeded();
    store(&["load", "--quiet", "-i", "/tmp/tiny.tar"]).succeeded();
    store(&["run", "--name", "copied", TINY, "true"]).succeeded();
    let mount = store(&["mount", "copied"]).succeeded();
    let mount = mount.trim_end();
    let digest_now = || {
        let said = process::run(&[CIMA, "digest", &format!("dir:{mount}")]).succeeded();
        said.split_whitespace()
            .next()
            .unwrap_or_default()
            .to_owned()
    };
    let started = || {
        store(&["start", "--attach", "copied"]).succeeded();
        let told = created(site).pop().expect("it is in the list");
        let input: Value = serde_json::from_str(&text(&told["input"])).expect("JSON");
        assert_eq!(input["image"]["source"], "directory", "{input}");
        format!("sha256:{}", text(&told["image"]))
    };
    // Mount points are made before the hook is asked, and stay.
    let clean = started();
    assert_eq!(clean, digest_now());
    fs::write(format!("{mount}/bin/planted"), "#!/bin/sh\n").expect("it can be written");
    let planted = started();
    assert_ne!(planted, clean);
    assert_eq!(planted, digest_now());
    store(&["rm", "-f", "copied"]).succeeded();
}

/// A hook that is asked by two at once, as by an engine and by a wrapper.
fn twice(site: &Site) {
    let before = created(site).len();
    let hook = "/tmp/twice.sh";
    // Without `wait`: crun's hooks begin with SIGCHLD blocked, for which dash would wait.
    let ask = format!("echo \"$state\" | {HOOK} --stage createRuntime");
    let script = format!(
        "#!/bin/sh\nrm -f /tmp/asked\nstate=$(cat)\n({ask}; echo $? >/tmp/asked) &\n{ask} || exit 1\nuntil [ -s /tmp/asked ]; do sleep 0.1; done\nexit $(cat /tmp/asked)\n"
    );
    install_script(hook, &script);
    let bundle = bundle(MANY, "crun", &layer_of(TINY), &["expr", "2", "+", "2"]);
    add_hook(&bundle, "createRuntime", &[hook]);
    process::run(&["crun", "run", "--bundle", &bundle, "twice"]).succeeded();
    assert_eq!(created(site).len(), before + 1);
    assert!(!site.log().contains("registered already"), "{}", site.log());
}

/// A hook that shows cimad another configuration than its runtime has read: the root that is measured is not the one
/// that the container gets.
fn other_root(site: &Site, runtime: Runtime, moved: bool) {
    // Equal entries are listed once: its own name for each.
    let number = MANY + 1 + 2 * usize::from(moved);
    let program = format!("{STRANGER}-{number}-{}", runtime.name());
    let decoy = bundle(number, runtime.name(), &layer_of(TINY), &["true"]);
    let (name, hook) = (runtime.name(), "/tmp/liar.sh");
    let bundle = bundle(number + 1, name, &layer_of(TINY), &[&program]);
    let shown = fs::read_to_string(format!("{decoy}/config.json")).expect("it was made");
    let mut shown: Value = serde_json::from_str(&shown).expect("it is JSON");
    shown["root"]["path"] = format!("{decoy}/rootfs").into();
    fs::write(format!("{bundle}/shown.json"), shown.to_string()).expect("it can be written");
    let script = format!(
        "#!/bin/sh\ncd {bundle} && cp config.json true.json && cp shown.json config.json\n{HOOK} --stage createRuntime\ndone=$?\ncp true.json config.json\nexit $done\n"
    );
    install_script(hook, &script);
    plant(&bundle, &program);
    add_hook(&bundle, "createRuntime", &[hook]);
    let mut words = vec![name, "run"];
    if moved {
        words.push("--no-pivot");
    }
    process::run(
        &[
            &words[..],
            &["--bundle", &bundle, &format!("liar-{number}-{name}")],
        ]
        .concat(),
    );
    disowned(site, &program, &format!("{bundle}/rootfs"));
    process::run(&[name, "delete", "--force", &format!("liar-{number}-{name}")]);
    process::run(&["umount", &format!("{bundle}/rootfs")]).succeeded();
    process::run(&["umount", &format!("{decoy}/rootfs")]).succeeded();
}

/// A runtime that executes something in the container before its first process does: with the host's root, as hooks are, that
/// is the container's doing; with any other, it is not the container that was measured.
fn other_child(site: &Site, runtime: Runtime) {
    let name = runtime.name();
    let number = MANY + 5;
    let program = format!("{STRANGER}-{number}-{name}");
    let inner = format!("/{STRANGER}/busybox");
    for (is_other, hook) in [
        (false, vec!["/usr/bin/true"]),
        (
            true,
            vec!["/usr/sbin/chroot", "/tmp/elsewhere", &inner, "true"],
        ),
    ] {
        let make = format!(
            "mkdir -p /tmp/elsewhere/{STRANGER} && cp /usr/bin/busybox /tmp/elsewhere{inner}"
        );
        process::run(&["sh", "-ec", &make]).succeeded();
        let bundle = bundle(number, name, &layer_of(TINY), &[&program]);
        plant(&bundle, &program);
        add_hook(
            &bundle,
            "createRuntime",
            &[HOOK, "--stage", "createRuntime"],
        );
        add_hook(&bundle, "createContainer", &hook);
        let id = format!("child-{is_other}-{name}");
        process::run(&[name, "run", "--bundle", &bundle, &id]);
        if is_other {
            disowned(site, &program, "/tmp/elsewhere");
        } else {
            let told = created(site).pop().expect("it is in the list");
            event_of(site, "the first execution", &told["container"], |event| {
                executed(event).ends_with(&program)
            });
        }
        process::run(&[name, "delete", "--force", &id]);
        process::run(&["umount", &format!("{bundle}/rootfs")]).succeeded();
    }
}

/// The last container is said to have got another root, which is on the same file system as `root`, and `program`, which it
/// executed, is a stranger's.
#[track_caller]
fn disowned(site: &Site, program: &str, root: &str) {
    let told = created(site).pop().expect("it is in the list");
    assert_eq!(told["allowed"], true, "{told}");
    let change = eventually("it is said to have another root", || {
        let events = site.context_events();
        events
            .into_iter()
            .map(|event| event["change"].clone())
            .find(|change| change["other_root"] == true && change["container"] == told["container"])
    });
    let device = fs::metadata(root).expect("it is there").dev();
    let device = rustix::fs::major(device) << 20 | rustix::fs::minor(device);
    assert_eq!(change["root_device"], device, "{change}");
    let image = text(&told["image"]);
    listed(site, &format!("cima-violation:root:sha256:{image}:/"));
    listed(
        site,
        &format!("cima-violation:unregistered:unregistered:/bin/{program}"),
    );
    site.caught_up();
    let events = site.context_events();
    let own = |event: &&Value| {
        event["identity"]["container"] == told["container"]
            && event["execution"].is_object()
            && executed(event).ends_with(program)
    };
    let ran: Vec<_> = events.iter().filter(own).collect();
    assert!(ran.is_empty(), "{change}: {ran:?}");
}

/// A program of this name, in a container's root.
fn plant(bundle: &str, program: &str) {
    let path = format!("{bundle}/rootfs/bin/{program}");
    fs::copy(format!("{bundle}/rootfs/bin/busybox"), path).expect("it can be planted");
}

/// Directory of an image's only layer.
#[track_caller]
fn layer_of(image: &str) -> String {
    let layer = "{{.GraphDriver.Data.UpperDir}}";
    let said = process::run(&["podman", "inspect", "-f", layer, image]).succeeded();
    said.trim_end().to_owned()
}

fn install_script(path: &str, script: &str) {
    fs::write(path, script).expect("a script can be written");
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("a mode can be set");
}

/// Has the runtime itself call a hook, with these words.
fn add_hook(bundle: &str, stage: &str, words: &[&str]) {
    let path = format!("{bundle}/config.json");
    let text = fs::read_to_string(&path).expect("it was made");
    let mut config: Value = serde_json::from_str(&text).expect("it is JSON");
    config["hooks"][stage] = serde_json::json!([{"path": words[0], "args": words}]);
    fs::write(path, config.to_string()).expect("it can be written");
}

/// Bundles as an engine makes them, without the engine, which takes fifty times longer: an overlay over the image for
/// each, run by `cima-runtime`.
fn many(site: &Site) {
    let image = layer_of(TINY);
    let before = created(site).len();
    for runtime in Runtime::ALL {
        let config = format!("runtime = \"/usr/bin/{}\"\n", runtime.name());
        fs::write(format!("/tmp/{}.toml", runtime.name()), config).expect("it can be written");
    }
    let children: Vec<_> = (0..MANY)
        .map(|number| {
            let runtime = Runtime::ALL[number % 2].name();
            let args = ["expr", &number.to_string(), "+", "1000000"];
            let bundle = bundle(number, runtime, &image, &args);
            Command::new("/usr/libexec/cima/cima-runtime")
                .args(["--cima-config", &format!("/tmp/{runtime}.toml")])
                .args(["run", "--bundle", &bundle, &format!("many-{number}")])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .spawn()
                .expect("the runtime can be started")
        })
        .collect();
    for child in children {
        let done = child.wait_with_output().expect("the runtime ends");
        assert!(
            done.status.success(),
            "{}",
            String::from_utf8_lossy(&done.stderr)
        );
    }
    site.caught_up();
    let told: Vec<_> = created(site).split_off(before);
    assert_eq!(told.len(), MANY);
    let events = site.context_events();
    let images: BTreeSet<_> = told.iter().map(|one| text(&one["image"])).collect();
    assert_eq!(
        images,
        BTreeSet::from([digest_of(TINY).trim_start_matches("sha256:").to_owned()])
    );
    for one in &told {
        let number = text(&one["id"]).trim_start_matches("many-").to_owned();
        let of_one = || {
            let own = |event: &&Value| event["identity"]["container"] == one["container"];
            events.iter().filter(own)
        };
        let expr: Vec<_> = of_one()
            .filter(|event| event["execution"]["args"][0] == "expr")
            .collect();
        let [expr] = expr[..] else {
            panic!("container {number} executed expr {} times", expr.len());
        };
        assert_eq!(
            text(&expr["execution"]["args"][1]),
            number,
            "it is another's"
        );
        assert!(of_one().all(|event| event["identity"]["container_id"] == one["id"]));
    }
}

/// Makes the bundle of a container of the image with this only layer.
#[track_caller]
fn bundle(number: usize, runtime: &str, image: &str, args: &[&str]) -> String {
    let bundle = format!("/tmp/many/{number}");
    let script = format!(
        "rm -rf {bundle} && mkdir -p {bundle}/rootfs {bundle}/upper {bundle}/work && cd {bundle} && {runtime} spec &&
        mount -t overlay overlay -o lowerdir={image},upperdir={bundle}/upper,workdir={bundle}/work rootfs"
    );
    process::run(&["sh", "-ec", &script]).succeeded();
    let path = format!("{bundle}/config.json");
    let text = fs::read_to_string(&path).expect("the runtime made it");
    let mut config: Value = serde_json::from_str(&text).expect("it is JSON");
    config["process"]["terminal"] = false.into();
    config["process"]["args"] = serde_json::json!(args);
    fs::write(path, config.to_string()).expect("it can be written");
    bundle
}

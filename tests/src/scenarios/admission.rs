// SPDX-License-Identifier: Apache-2.0
//! Admission: what the policy denies does not run, and says why; what cannot be judged does not run either; and
//! nothing that is said on the socket harms the agent.

use std::fs::{self, Permissions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use super::Scenario;
use crate::agent::{CIMA, Site, text};
use crate::claims::Claims;
use crate::hooks::{self, HOOK, created, digest_of, shipped, take_rules, write_rules};
use crate::podman::{self, DEBIAN, Runtime, TINY, podman};
use crate::process;

pub(crate) const SCENARIO: Scenario = Scenario {
    name: "admission",
    about: "what the admission policy denies does not run, and nothing said on the socket harms the agent",
    play,
};

/// Nobody's, as far as the guest knows.
const NOBODY: &str = "65534";

fn play(claims: &mut Claims, _arguments: &[String]) {
    let site = hooks::site("violation");
    let agent = site.start();
    claims.claim(
        "the shipped policy lets containers start, and `cima policy explain` says so",
        || explained(&site),
    );
    claims.claim("cima hook check says that the hook fires", || {
        process::run_within(
            Duration::from_secs(300),
            &[CIMA, "hook", "check", "--engine", "podman"],
        )
        .succeeded();
    });
    for runtime in Runtime::ALL {
        let with = |claim: &str| format!("{}: {claim}", runtime.name());
        claims.claim(
            &with("an image that is not listed is denied, one that is starts"),
            || listed_images(&site, runtime),
        );
        claims.claim(
            &with("a volume that is not listed is denied, and one that can be executed from"),
            || volumes(&site, runtime),
        );
        claims.claim(
            &with("another command than the image's pinned one is denied"),
            || command(&site, runtime),
        );
        claims.claim(&with("--privileged is denied"), || {
            privileged(&site, runtime);
        });
        claims.claim(
            &with("a container with a dirty upper directory does not start again"),
            || dirty(&site, runtime),
        );
        claims.claim(
            &with("a tampered lower file makes another image, which is denied"),
            || tampered(&site, runtime),
        );
    }
    claims.claim(
        "policies that are wrong are not taken, and the ones before stay",
        || wrong_policy(&site),
    );
    claims.claim("a policy that does not end denies in time", || {
        endless(&site);
    });
    claims.claim(
        "garbage and huge messages on the socket are closed, and cimad goes on",
        || garbage(&site),
    );
    claims.claim("another user cannot connect", || other_user(&site));
    claims.claim(
        "a hook that lies is told so, and nothing is registered",
        || lies(&site),
    );
    agent.stop();
    claims.claim(
        "without the agent a container does not start, and is told why",
        || {
            podman(Runtime::Crun, &["run", "--rm", TINY, "true"]).failed();
            let said = podman(Runtime::Runc, &["run", "--rm", TINY, "true"]).failed();
            assert!(said.contains("hook.sock"), "{said}");
        },
    );
    claims.claim(
        "unless the hook is told to fail open: then it runs, unregistered",
        || {
            process::run(&[
                CIMA, "hook", "install", "--engine", "podman", "--fail", "open",
            ])
            .succeeded();
            podman::run(Runtime::Crun, DEBIAN, &["/usr/bin/cksum", "/etc/passwd"]).succeeded();
            let agent = site.start();
            hooks::listed(
                &site,
                "cima-violation:unregistered:unregistered:/usr/bin/cksum",
            );
            agent.stop();
        },
    );
    claims.claim("cima verify finds the list in the TPM", || {
        site.verify().succeeded();
    });
}

/// Runs a container that is to be denied with this reason; fails if anything of it ran.
#[track_caller]
fn denied(site: &Site, runtime: Runtime, options: &[&str], reason: &str) {
    let before = created(site).len();
    let words = [&["run", "--rm"], options].concat();
    let said = podman(runtime, &words).failed();
    // crun keeps to itself what a hook says.
    if runtime == Runtime::Runc {
        assert!(said.contains(reason), "podman says {said}");
    }
    is_denied(site, before, reason);
}

/// The last container is in the list as denied, and nothing of it as executed.
#[track_caller]
fn is_denied(site: &Site, before: usize, reason: &str) {
    let told = created(site);
    assert_eq!(told.len(), before + 1, "it is in the list");
    let told = &told[before];
    assert_eq!(told["allowed"], false, "{told}");
    assert!(told["reasons"].to_string().contains(reason), "{told}");
    site.caught_up();
    let events = site.context_events();
    let of_it = |event: &&Value| event["identity"]["container"] == told["container"];
    let ran: Vec<_> = events.iter().filter(of_it).collect();
    assert!(ran.is_empty(), "{ran:?}");
}

fn explained(site: &Site) {
    podman(
        Runtime::Crun,
        &["run", "-d", "--name", "explained", TINY, "sleep", "600"],
    )
    .succeeded();
    let told = created(site).pop().expect("it is in the list");
    for name in [&text(&told["id"])[..12], &text(&told["id"])] {
        let said = process::run(&[CIMA, "policy", "explain", name]).succeeded();
        assert!(
            said.starts_with("allowed\n") && said.contains(TINY),
            "{said}"
        );
        assert!(
            said.contains(&format!("sha256:{}", text(&told["image"]))),
            "{said}"
        );
    }
    let said = process::run(&[CIMA, "policy", "explain", "--json", &text(&told["id"])]).succeeded();
    let said: Value = serde_json::from_str(&said).expect("JSON");
    assert_eq!(said["allowed"], true, "{said}");
    podman(Runtime::Crun, &["rm", "-f", "-t", "0", "explained"]).succeeded();
    let unknown = process::run(&[CIMA, "policy", "explain", "000000000000"]);
    assert_eq!(unknown.code(), Some(2));
}

fn listed_images(site: &Site, runtime: Runtime) {
    let data = json!({"cima": {"images": {digest_of(DEBIAN): "debian"}}}).to_string();
    take_rules(
        site,
        &[
            ("images.rego", &shipped("image_allow_list.rego")),
            ("data.json", &data),
        ],
    );
    denied(site, runtime, &[TINY, "true"], &digest_of(TINY));
    podman::run(runtime, DEBIAN, &["true"]).succeeded();
}

fn volumes(site: &Site, runtime: Runtime) {
    fs::create_dir_all("/srv/listed").expect("a directory can be made");
    fs::create_dir_all("/srv/other").expect("a directory can be made");
    let data = json!({"cima": {"volumes": [{"source": "/srv/listed"}]}}).to_string();
    take_rules(
        site,
        &[
            ("volumes.rego", &shipped("volumes.rego")),
            ("data.json", &data),
        ],
    );
    denied(
        site,
        runtime,
        &["-v", "/srv/other:/data:ro", TINY, "true"],
        "/srv/other",
    );
    denied(
        site,
        runtime,
        &["-v", "/srv/listed:/data", TINY, "true"],
        "writable",
    );
    podman(
        runtime,
        &["run", "--rm", "-v", "/srv/listed:/data:ro", TINY, "true"],
    )
    .succeeded();
    take_rules(
        site,
        &[("executable.rego", &shipped("no_executable_volume.rego"))],
    );
    denied(
        site,
        runtime,
        &["-v", "/srv/listed:/data:ro", TINY, "true"],
        "noexec",
    );
    podman(
        runtime,
        &[
            "run",
            "--rm",
            "-v",
            "/srv/listed:/data:ro,noexec",
            TINY,
            "true",
        ],
    )
    .succeeded();
}

fn command(site: &Site, runtime: Runtime) {
    let commands =
        json!({"cima": {"commands": {digest_of(TINY): [["/bin/date", "-u"]]}}}).to_string();
    take_rules(
        site,
        &[
            ("commands.rego", &shipped("commands.rego")),
            ("data.json", &commands),
        ],
    );
    denied(site, runtime, &[TINY, "/bin/sh", "-c", "date"], "/bin/sh");
    podman::run(runtime, TINY, &["/bin/date", "-u"]).succeeded();
}

fn privileged(site: &Site, runtime: Runtime) {
    take_rules(site, &[("privileged.rego", &shipped("no_privileged.rego"))]);
    denied(site, runtime, &["--privileged", TINY, "true"], "privileged");
    podman::run(runtime, TINY, &["true"]).succeeded();
}

fn dirty(site: &Site, runtime: Runtime) {
    take_rules(site, &[("clean.rego", &shipped("clean_upper.rego"))]);
    let name = format!("dirty-{}", runtime.name());
    podman(runtime, &["run", "--name", &name, DEBIAN, "true"]).succeeded();
    podman(runtime, &["start", "--attach", &name]).succeeded();
    // From the outside, as somebody would who has come to the node's disk.
    let upper = process::run(&[
        "podman",
        "inspect",
        "-f",
        "{{.GraphDriver.Data.UpperDir}}",
        &name,
    ])
    .succeeded();
    let planted = Path::new(upper.trim_end()).join("usr/bin/planted");
    fs::create_dir_all(planted.parent().expect("it has one")).expect("a directory can be made");
    fs::copy("/usr/bin/id", &planted).expect("a program can be planted");
    let before = created(site).len();
    podman(runtime, &["start", "--attach", &name]).failed();
    is_denied(site, before, "usr/bin/planted");
    podman(runtime, &["rm", "-f", &name]).succeeded();
}

fn tampered(site: &Site, runtime: Runtime) {
    let data = json!({"cima": {"images": {digest_of(DEBIAN): "debian"}}}).to_string();
    take_rules(
        site,
        &[
            ("images.rego", &shipped("image_allow_list.rego")),
            ("data.json", &data),
        ],
    );
    podman::run(runtime, DEBIAN, &["true"]).succeeded();
    let layer = process::run(&[
        "podman",
        "inspect",
        "-f",
        "{{.GraphDriver.Data.UpperDir}}",
        DEBIAN,
    ])
    .succeeded();
    let file = PathBuf::from(layer.trim_end()).join("usr/bin/sort");
    let good = fs::read(&file).expect("the image has it");
    fs::write(&file, [&good[..], b"\0"].concat()).expect("it can be changed");
    denied(site, runtime, &[DEBIAN, "true"], "sha256:");
    fs::write(&file, good).expect("it can be changed back");
    podman::run(runtime, DEBIAN, &["true"]).succeeded();
}

fn wrong_policy(site: &Site) {
    take_rules(
        site,
        &[(
            "deny.rego",
            "package cima.admission\nimport rego.v1\ndeny contains \"everything is denied\" if true\n",
        )],
    );
    write_rules(
        site,
        &[(
            "broken.rego",
            "package cima.admission\n\ndeny[x] { x := }\n",
        )],
    );
    let reload = process::run(&[CIMA, "policy", "reload"]);
    assert_eq!(reload.code(), Some(1), "{}", reload.stderr);
    assert!(
        reload.stdout.contains("broken.rego") && reload.stdout.contains("line 3"),
        "{}",
        reload.stdout
    );
    denied(site, Runtime::Crun, &[TINY, "true"], "everything is denied");
}

fn endless(site: &Site) {
    let rule = "package cima.admission\nimport rego.v1\ndeny contains \"never\" if {\n\tsome x in numbers.range(1, 100000)\n\tsome y in numbers.range(1, 100000)\n\tx * y < 0\n}\n";
    take_rules(site, &[("endless.rego", rule)]);
    denied(site, Runtime::Crun, &[TINY, "true"], "took longer");
    hooks::take_shipped_rules(site);
    podman::run(Runtime::Crun, TINY, &["true"]).succeeded();
}

fn garbage(site: &Site) {
    let socket = "/run/cima/hook.sock";
    let say = |bytes: &[u8]| {
        let mut stream = UnixStream::connect(socket).expect("root can connect");
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .expect("a timeout can be set");
        // It may be closed before all is said.
        let _ = stream.write_all(bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let _ = stream.read_to_end(&mut Vec::new());
    };
    say(b"");
    say(b"GET / HTTP/1.1\r\n\r\n");
    say(&vec![0xff; 4 << 20]);
    // HTTP/2's preface, then a frame of 16 MiB.
    say(&[
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".as_slice(),
        &[0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1],
        &vec![7; 1 << 20],
    ]
    .concat());
    let hook = |state: &[u8]| {
        let file = "/tmp/state";
        fs::write(file, state).expect("a state can be written");
        process::run(&["sh", "-c", &format!("{HOOK} --stage createRuntime <{file}")])
    };
    for state in [
        &b""[..],
        b"{",
        b"[]",
        b"\xff\xfe",
        &vec![b'x'; 3 << 20],
        br#"{"id":"x","pid":1,"bundle":"/"}"#,
    ] {
        let ran = hook(state);
        assert!(
            ran.code() == Some(1) || ran.code() == Some(2),
            "{:?}: {}",
            ran.code(),
            ran.stderr
        );
        assert!(
            !ran.stderr.is_empty() && !ran.stderr.contains("panicked"),
            "{}",
            ran.stderr
        );
    }
    podman::run(Runtime::Crun, TINY, &["true"]).succeeded();
    assert!(!site.log().contains("panicked"), "{}", site.log());
}

fn other_user(site: &Site) {
    fs::copy(HOOK, "/tmp/cima-hook").expect("a program can be copied");
    let ask = |mode: u32| {
        fs::set_permissions("/run/cima/hook.sock", Permissions::from_mode(mode))
            .expect("a mode can be set");
        let state = r#"{"id":"x","pid":1,"status":"created","bundle":"/"}"#;
        let command = format!(
            "echo '{state}' | setpriv --reuid {NOBODY} --regid {NOBODY} --clear-groups /tmp/cima-hook --stage createRuntime --socket /run/cima/hook.sock"
        );
        process::run(&["sh", "-c", &command]).failed()
    };
    let said = ask(0o600);
    assert!(said.contains("ermission denied"), "{said}");
    // Were it open to all, cimad would still look at who comes.
    ask(0o666);
    fs::set_permissions("/run/cima/hook.sock", Permissions::from_mode(0o600))
        .expect("a mode can be set");
    assert!(
        site.log().contains(&format!("user {NOBODY} may not ask")),
        "{}",
        site.log()
    );
}

fn lies(site: &Site) {
    let before = created(site).len();
    let bundle = Path::new("/tmp/bundle");
    fs::create_dir_all(bundle.join("rootfs")).expect("a directory can be made");
    let config = |args: &str| {
        format!(
            r#"{{"ociVersion":"1.0.2","root":{{"path":"rootfs"}},"process":{{"cwd":"/","args":{args},"user":{{"uid":0,"gid":0}}}}}}"#
        )
    };
    let hook = |pid: &str| {
        let state = format!(
            r#"{{"ociVersion":"1.0.2","id":"liar","pid":{pid},"status":"created","bundle":"/tmp/bundle"}}"#
        );
        fs::write("/tmp/state", state).expect("a state can be written");
        process::run(&[
            "sh",
            "-c",
            &format!("{HOOK} --stage createRuntime </tmp/state"),
        ])
        .failed()
    };
    fs::write(bundle.join("config.json"), config("[\"x\"]"))
        .expect("a configuration can be written");
    // Of a process that is gone, of the host's, and of one whose number nobody has.
    let mut child = std::process::Command::new("true")
        .spawn()
        .expect("true can be started");
    child.wait().expect("it ends");
    let said = hook(&child.id().to_string());
    assert!(said.contains("gone"), "{said}");
    let said = hook("1");
    assert!(said.contains("host"), "{said}");
    let mut idle = std::process::Command::new("unshare")
        .args(["-m", "sleep", "600"])
        .spawn()
        .expect("unshare can be started");
    std::thread::sleep(Duration::from_secs(1));
    let pid = idle.id().to_string();
    fs::write(bundle.join("config.json"), config("7")).expect("a configuration can be written");
    let said = hook(&pid);
    assert!(said.contains("config.json"), "{said}");
    fs::rename(bundle.join("config.json"), bundle.join("other.json")).expect("it can be renamed");
    symlink("other.json", bundle.join("config.json")).expect("a link can be made");
    let said = hook(&pid);
    assert!(said.contains("link"), "{said}");
    let _ = idle.kill();
    let _ = idle.wait();
    assert_eq!(created(site).len(), before, "something was registered");
}

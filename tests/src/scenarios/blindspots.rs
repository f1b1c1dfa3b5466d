// SPDX-License-Identifier: Apache-2.0
//! What is executed without being a plain file that is mapped to be executed: each is
//! measured or a violation. A claim for each row of docs/BLIND-SPOTS.md.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use serde_json::Value;

use super::Scenario;
use crate::act::{ACT, Container, executed, expect, violation};
use crate::agent::{Site, eventually, sha256sum};
use crate::claims::Claims;
use crate::podman::TINY;
use crate::process;
use crate::work;

pub(crate) const SCENARIO: Scenario = Scenario {
    name: "blindspots",
    about: "mprotect, memfds, memory, scripts, modules and others: each is measured or a violation",
    play,
};

/// On the host, and in the container.
const VOLUME: &str = "/var/blindspots:/spots";

/// What the claims share.
struct Stage<'a> {
    site: &'a Site,
    container: Container,
}

fn play(claims: &mut Claims, _arguments: &[String]) {
    let site = Site::new("blindspots");
    fs::create_dir_all("/var/blindspots").expect("/var can be written");
    let agent = site.start();
    let stage = Stage {
        site: &site,
        container: Container::start("blindspots", TINY, &["-v", VOLUME]),
    };
    mappings(claims, &stage);
    memory(claims, &stage);
    scripts(claims, &stage);
    modules(claims, &stage);
    agent.stop();
    claims.claim("the list with all of it replays to the TPM", || {
        site.verify().succeeded();
    });
}

impl Stage<'_> {
    /// Puts a program there; its path in the container.
    fn program(&self, name: &str) -> String {
        let path = format!("/spots/{name}");
        work::install(&self.container.path(&path), name);
        path
    }

    /// Puts a file there that can be executed; its path in the container.
    fn script(&self, name: &str, text: &str) -> String {
        let path = format!("/spots/{name}");
        let host = self.container.path(&path);
        fs::write(&host, text).expect("a file can be written");
        fs::set_permissions(&host, Permissions::from_mode(0o755)).expect("it is ours");
        path
    }

    fn digest(&self, path: &str) -> String {
        format!("sha256:{}", sha256sum(&self.container.path(path)))
    }

    /// Waits until these files are in the list as executed, with what sha256sum finds.
    fn measured(&self, paths: &[&str]) {
        let event = |path: &&str| executed(path, &format!("v1;{}", self.digest(path)));
        let wanted: Vec<_> = paths.iter().map(event).collect();
        expect(self.site, &wanted);
    }

    /// The first context event of which this is true, once it is in the list.
    fn context(&self, what: &str, is_it: impl Fn(&Value) -> bool) -> Value {
        let wanted = |event: &Value| Some(event[what].clone()).filter(&is_it);
        eventually("it is in the list", || {
            self.site.context_events().iter().find_map(wanted)
        })
    }
}

fn mappings(claims: &mut Claims, stage: &Stage<'_>) {
    claims.claim(
        "mprotect makes a mapping of a file executable: a violation that knows the file",
        || {
            let path = stage.program("protected");
            stage
                .container
                .act(&["open", &path, "map", "r", "protect", "rx"]);
            expect(stage.site, &[violation("mprotect", "", "file")]);
            let file = fs::metadata(stage.container.path(&path)).expect("it is there");
            stage.context("breach", |breach| breach["file"]["inode"] == file.ino());
        },
    );
    claims.claim(
        "a deleted file is executed: measured, without a name",
        || {
            let path = stage.program("deleted");
            let payload = format!("v1;{}", stage.digest(&path));
            let acts = stage.container.begin(&["open", &path, "wait", "run"]);
            fs::remove_file(stage.container.path(&path)).expect("it is there");
            acts.finish();
            expect(
                stage.site,
                &[executed(&format!("{path}%20(deleted)"), &payload)],
            );
        },
    );
    claims.claim(
        "a file that was executed under its name is deleted and executed: measured again, without a name",
        || {
            let path = stage.program("deleted-later");
            let payload = format!("v1;{}", stage.digest(&path));
            // Said, then known to be: within one process, whose namespaces stay.
            let words = ["open", &path, "run", "run", "run", "wait", "run"];
            let acts = stage.container.begin(&words);
            fs::remove_file(stage.container.path(&path)).expect("it is there");
            acts.finish();
            let deleted = format!("{path}%20(deleted)");
            expect(
                stage.site,
                &[executed(&path, &payload), executed(&deleted, &payload)],
            );
        },
    );
    claims.claim(
        "a file opened with O_DIRECT is mapped executable: a violation",
        || {
            let path = stage.program("direct");
            stage.container.act(&["direct", &path, "map", "rx"]);
            // EOPNOTSUPP
            expect(stage.site, &[violation("hash", &path, "errno=95")]);
        },
    );
    claims.claim(
        "a device is mapped executable: a violation, since it has no content to hash",
        || {
            let node = stage.container.path("/spots/zero");
            let node = node.to_str().expect("a plain path");
            process::run(&["mknod", node, "c", "1", "5"]).succeeded();
            stage.container.act(&["open", "/spots/zero", "map", "rx"]);
            // S_IFCHR
            expect(
                stage.site,
                &[violation("hash", "/spots/zero", "type=20000")],
            );
        },
    );
}

fn memory(claims: &mut Claims, stage: &Stage<'_>) {
    let program = "/spots/in-memory";
    let filled = |name: &'static str, then: &[&'static str]| {
        stage.program("in-memory");
        let acts = [&["memfd", name, "fill", program], then].concat();
        stage.container.act(&acts);
        stage.digest(program)
    };
    claims.claim(
        "a memfd that can still be written is executed: a violation with its digest",
        || {
            let digest = filled("open", &["run"]);
            let detail = format!("open;{digest}");
            expect(
                stage.site,
                &[violation("writer", "/memfd:open%20(deleted)", &detail)],
            );
        },
    );
    claims.claim("a sealed memfd is executed: measured", || {
        let digest = filled("sealed", &["seal", "run"]);
        let wanted = executed("/memfd:sealed%20(deleted)", &format!("v1;{digest}"));
        expect(stage.site, &[wanted]);
    });
    claims.claim(
        "shared memory of System V is attached to be executed: a violation",
        || {
            stage.container.act(&["segment"]);
            // EOPNOTSUPP
            let path = "/SYSV00000000%20(deleted)";
            expect(stage.site, &[violation("hash", path, "errno=95")]);
        },
    );
    claims.claim(
        "memory without a file is mapped executable: a violation that knows the program",
        || anonymous(stage, &["anonymous", "rx"]),
    );
    claims.claim(
        "mprotect makes memory without a file executable: a violation that knows the program",
        || anonymous(stage, &["anonymous", "rw", "protect", "rx"]),
    );
}

/// One more context event than before tells of it, with the program's inode.
fn anonymous(stage: &Stage<'_>, acts: &[&str]) {
    let program = fs::metadata(ACT).expect("it is there").ino();
    let told = || {
        let events = stage.site.context_events().into_iter();
        let breaches = events.map(|event| event["breach"].clone());
        breaches
            .filter(|breach| breach["kind"] == "ANONYMOUS" && breach["file"]["inode"] == program)
            .count()
    };
    let before = told();
    stage.container.act(acts);
    expect(stage.site, &[violation("anonymous", "", "memory")]);
    eventually("it is told", || (told() == before + 1).then_some(()));
}

fn scripts(claims: &mut Claims, stage: &Stage<'_>) {
    claims.claim(
        "a script is executed: it is measured, and so is its interpreter",
        || {
            let script = stage.script("script", "#!/bin/sh\nexit 0\n");
            stage.container.run(&[&script]).succeeded();
            stage.measured(&[&script, "/bin/busybox"]);
            let how = stage.context("mapping", |mapping| mapping["file"]["path"] == script);
            assert_eq!(how["how"], "SCRIPT", "{how}");
        },
    );
    claims.claim(
        "a script whose interpreter is a script: both are measured",
        || {
            let inner = stage.script("inner", "#!/bin/sh\nexit 0\n");
            let outer = stage.script("outer", &format!("#!{inner}\n"));
            stage.container.run(&[&outer]).succeeded();
            stage.measured(&[&inner, &outer]);
        },
    );
    claims.claim("a script is executed by its descriptor: measured", || {
        let script = stage.script("by-descriptor", "#!/bin/sh\nexit 0\n");
        stage.container.act(&["open", &script, "run"]);
        stage.measured(&[&script]);
    });
    claims.claim(
        "a script is changed and executed again: measured as it is now",
        || {
            let script = stage.script("changed", "#!/bin/sh\nexit 0\n");
            stage.container.run(&[&script]).succeeded();
            stage.measured(&[&script]);
            stage.script(
                "changed",
                "#!/bin/sh\nexit $0\n".replace("$0", "0 ").as_str(),
            );
            stage.container.run(&[&script]).succeeded();
            stage.measured(&[&script]);
        },
    );
    claims.claim(
        "a file that binfmt_misc hands to an interpreter: both are measured",
        || {
            let directory = "/proc/sys/fs/binfmt_misc";
            process::run(&["mount", "-t", "binfmt_misc", "none", directory]).succeeded();
            let rule = ":cima:M::CIMA-TEST::/bin/ash:";
            fs::write(format!("{directory}/register"), rule).expect("it takes rules");
            let file = stage.script("misc", "CIMA-TEST=1\nexit 0\n");
            stage.container.run(&[&file]).succeeded();
            stage.measured(&[&file, "/bin/busybox"]);
            fs::write(format!("{directory}/cima"), "-1").expect("it forgets them");
        },
    );
}

fn modules(claims: &mut Claims, stage: &Stage<'_>) {
    claims.claim(
        "a module is loaded from a file: measured, and called a kernel read",
        || {
            let module = process::run(&["modinfo", "-n", "dummy"]).succeeded();
            let path = "/spots/module";
            fs::copy(module.trim_end(), stage.container.path(path)).expect("it is there");
            stage.container.act(&["open", path, "module"]);
            assert!(
                fs::exists("/sys/module/dummy").is_ok_and(|loaded| loaded),
                "it is not loaded"
            );
            process::run(&["rmmod", "dummy"]).succeeded();
            stage.measured(&[path]);
            let how = stage.context("mapping", |mapping| mapping["file"]["path"] == path);
            assert_eq!(how["how"], "KERNEL_READ", "{how}");
        },
    );
    claims.claim(
        "a file that the kernel refuses as a module: measured all the same",
        || {
            let path = stage.program("no-module");
            stage.container.act(&["open", &path, "ignore", "module"]);
            stage.measured(&[&path]);
        },
    );
    claims.claim("a module is loaded from memory: a violation", || {
        stage.container.act(&["anonymous", "rw", "ignore", "load"]);
        // LOADING_MODULE
        expect(stage.site, &[violation("kernel-load", "", "id=2")]);
    });
}

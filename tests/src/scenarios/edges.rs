// SPDX-License-Identifier: Apache-2.0
//! What does not look like a plain program: memory without a file, memfds, deleted
//! files, paths that are long or full of odd bytes, files that cannot be hashed.
//! The calls are made by perl's `syscall` inside a container.

use std::collections::BTreeSet;

use super::Scenario;
use crate::agent::{Site, eventually, sha256sum, text};
use crate::claims::Claims;
use crate::podman::{self, DEBIAN, Runtime};
use crate::process;

pub(crate) const SCENARIO: Scenario = Scenario {
    name: "edges",
    about: "anonymous memory, memfds, deleted files, odd and long paths, files that cannot be hashed",
    play,
};

/// `mmap(0, 4096, PROT_READ|PROT_EXEC, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0)`
const ANONYMOUS: &str = "exit(syscall(9, 0, 4096, 5, 0x22, -1, 0) == -1)";

/// A copy of tac in a memfd, executed.
const MEMFD: &str = r#"
my $name = "hidden"; my $fd = syscall(319, $name, 0);
open(my $out, ">&=", $fd) or die; open(my $in, "<", "/usr/bin/tac") or die;
local $/; syswrite($out, <$in>); exec "/proc/self/fd/$fd", "/etc/hostname" or die"#;

/// A copy of tac, executed when it has no name any more.
const DELETED: &str = r#"
system("cp /usr/bin/tac /tmp/gone"); open(my $f, "<", "/tmp/gone") or die; unlink "/tmp/gone";
$^F = 255; open(my $g, "<&=", fileno($f)); my $fd = fileno($f); fcntl($f, 2, 0);
exec "/proc/self/fd/$fd", "/etc/hostname" or die"#;

/// A mapping of a file opened with `O_DIRECT`, which IMA does not hash.
const DIRECT: &str = r#"
system("cp /usr/bin/tac /var/tmp/direct"); sysopen(my $f, "/var/tmp/direct", 0x4000) or die;
exit(syscall(9, 0, 4096, 5, 2, fileno($f), 0) == -1)"#;

fn play(claims: &mut Claims, _arguments: &[String]) {
    let site = Site::new("edges");
    let agent = site.start();
    let tac = sha256sum(std::path::Path::new("/usr/bin/tac"));
    claims.claim("who logged in is known of what a session starts", || {
        logged_in(&site);
    });
    claims.claim(
        "anonymous executable memory does not disturb the probe",
        || {
            perl(ANONYMOUS);
        },
    );
    claims.claim(
        "a program in a memfd that can still be written is a violation with its digest",
        || {
            perl(MEMFD);
            let event = mapping(&site, "/memfd:hidden (deleted)");
            assert_eq!(event["file"]["memfd"], true, "{event}");
            assert_eq!(event["writer"], true, "{event}");
            let wanted = (
                "cima-violation:writer:unregistered:/memfd:hidden%20(deleted)".to_owned(),
                format!("v1;writer;open;sha256:{tac}"),
            );
            assert!(site.policy_events().contains(&wanted));
        },
    );
    claims.claim("a deleted program is measured, with no links left", || {
        perl(DELETED);
        let event = mapping(&site, "/tmp/gone (deleted)");
        assert!(
            event["file"]["links"] == 0 || event["file"]["links"].is_null(),
            "{event}"
        );
        assert_eq!(event["file"]["overlay"], true, "{event}");
        assert!(
            site.policy_events()
                .contains(&exec("/tmp/gone%20(deleted)", &tac))
        );
    });
    claims.claim("every byte of a name is kept, none can forge another entry", || {
        shell("cp /usr/bin/tac $'/tmp/a b\\n%\\xff\\x1b[2J'; $'/tmp/a b\\n%\\xff\\x1b[2J' /etc/hostname");
        let wanted = exec("/tmp/a%20b%0A%25%FF%1B[2J", &tac);
        eventually("it is in the list", || site.policy_events().contains(&wanted).then_some(()));
    });
    claims.claim("a path of 1,000 bytes is whole", || {
        let dir = format!("/tmp{}", format!("/{}", "d".repeat(199)).repeat(5));
        shell(&format!(
            "mkdir -p {dir}; cp /usr/bin/tac {dir}/tac; {dir}/tac /etc/hostname"
        ));
        let wanted = exec(&format!("{dir}/tac"), &tac);
        eventually("it is in the list", || {
            site.policy_events().contains(&wanted).then_some(())
        });
    });
    claims.claim("a path beyond PATH_MAX is a violation with the file's digest", || {
        let part = "p".repeat(250);
        shell(&format!(
            "cd /tmp; for i in $(seq 20); do mkdir {part}; cd ./{part} 2>/dev/null || cd -P {part}; done; cp /usr/bin/tac tac; ./tac /etc/hostname"
        ));
        let events = eventually("there is a violation", || {
            let found: BTreeSet<_> =
                site.policy_events().into_iter().filter(|(name, _)| name.starts_with("cima-violation:path:")).collect();
            (!found.is_empty()).then_some(found)
        });
        assert!(events.iter().any(|(_, payload)| payload.contains(&tac)), "{events:?}");
    });
    claims.claim(
        "a file that cannot be hashed is a violation, not a silent skip",
        || {
            perl(DIRECT);
            let wanted = (
                "cima-violation:hash:unregistered:/var/tmp/direct".to_owned(),
                // EOPNOTSUPP
                "v1;hash;errno=95".to_owned(),
            );
            eventually("there is a violation", || {
                site.policy_events().contains(&wanted).then_some(())
            });
        },
    );
    claims.claim("the probes' debug messages are in the agent's log", || {
        eventually("there is one", || {
            site.log().contains("no hash: error -95").then_some(())
        });
    });
    agent.stop();
    claims.claim("the list with all of it replays to the TPM", || {
        site.verify().succeeded();
    });
}

/// A login, as `pam_loginuid` makes it, then a container.
fn logged_in(site: &Site) {
    let session = format!(
        "echo 1000 > /proc/self/loginuid; exec podman run --rm {DEBIAN} /usr/bin/tac /etc/hostname"
    );
    process::run(&["sh", "-c", &session]).succeeded();
    let task = eventually("the execution is in the list", || {
        let events = site.context_events().into_iter();
        let mut executions = events.map(|event| event["execution"].clone());
        executions
            .find(|execution| text(&execution["file"]["path"]) == "/usr/bin/tac")
            .map(|execution| execution["task"].clone())
    });
    assert_eq!(task["login_uid"], 1000, "{task}");
    assert!(task["session"].is_u64(), "{task}");
    assert_eq!(task["uid"], 0, "{task}");
}

fn perl(script: &str) {
    podman::run(Runtime::Crun, DEBIAN, &["perl", "-e", script]).succeeded();
}

fn shell(script: &str) {
    podman::run(Runtime::Crun, DEBIAN, &["bash", "-c", script]).succeeded();
}

/// The policy event of a program in a container that no hook announced.
fn exec(path: &str, sha256: &str) -> (String, String) {
    (
        format!("cima-exec:unregistered:{path}"),
        format!("v1;sha256:{sha256}"),
    )
}

/// The context event of a mapping, once it is in the list.
fn mapping(site: &Site, path: &str) -> serde_json::Value {
    eventually("it is in the list", || {
        let events = site
            .context_events()
            .into_iter()
            .map(|event| event["mapping"].clone());
        events
            .into_iter()
            .find(|mapping| text(&mapping["file"]["path"]) == path)
    })
}

// SPDX-License-Identifier: Apache-2.0
//! `docs/incident.md`: four incidents are played on two nodes, then each command of the guide is run, in order, and says what the
//! guide says that it does. One machine is both nodes, one after the other, and the responder's; the first of them says that
//! its boot is another.

use std::fs;
use std::os::unix::fs::symlink;
use std::time::Duration;

use serde_json::Value;

use super::Scenario;
use crate::agent::{CIMA, Site, eventually, text};
use crate::claims::Claims;
use crate::guide::{self, Block};
use crate::podman::{DEBIAN, Runtime, podman};
use crate::{hooks, host_list, process};

pub(crate) const SCENARIO: Scenario = Scenario {
    name: "incident",
    about: "every command that the guide for incident responders has, on lists of four incidents",
    play,
};

const GUIDE: &str = "/cima/share/incident.md";
/// Where the responder works.
const OUT: &str = "/out/incident";
const SHOP: &str = "localhost/shop:1";
const PAY: &str = "localhost/pay:1";
/// What the sink `ima-file` wants.
const RULE: &str = "measure func=FILE_CHECK mask=MAY_READ fsname=devtmpfs fowner=60990\n";
const VOLUME: &str = "/srv/uploads:/var/uploads";
const BACKDOOR: &str = "/srv/uploads/.cache/kworker";
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
const OTHER_BOOT: &str = "3d2f8a16-7c04-4b5e-9a61-5e0c1b7f4d92\n";
/// Who logs in to a node and enters a container.
const LOGIN: &str = "1000";
/// What a node's agent keeps, and where it is put when the machine becomes the next node.
const STATE: &str = "/var/lib/cima";
const LIMIT: Duration = Duration::from_secs(120);

fn play(claims: &mut Claims, _arguments: &[String]) {
    for directory in ["references", "keys"] {
        fs::create_dir_all(format!("{OUT}/{directory}")).expect("the host takes files");
    }
    claims.claim("publishers say what their images are", publish);
    claims.claim("the nodes' keys are known", || {
        let key = process::run(&[CIMA, "evidence", "key", "--json"]).succeeded();
        for node in ["web-1", "web-2"] {
            fs::write(format!("{OUT}/keys/{node}.json"), &key).expect("the host takes files");
        }
    });
    for (program, place) in [("cima", "/usr/bin/cima"), ("cimad", "/usr/sbin/cimad")] {
        symlink(format!("/cima/bin/{program}"), place).expect("the root can be written");
    }
    let guide = fs::read_to_string(GUIDE).expect("it is staged");
    let blocks = guide::blocks(&guide);
    let site = hooks::site("violation");
    fs::write("/tmp/boot_id", OTHER_BOOT).expect("/tmp can be written");
    process::run(&["mount", "--bind", "/tmp/boot_id", BOOT_ID]).succeeded();
    let agent = site.start();
    claims.claim("web-2: a volume has a backdoor", volume);
    copies(claims, &site, &blocks, "web-2");
    agent.stop();
    site.unload().succeeded();
    process::run(&["umount", BOOT_ID]).succeeded();
    fs::rename(STATE, format!("{STATE}-web-2")).expect("a directory can be renamed");
    host_list::write_rules(RULE);
    let agent = site.start();
    claims.claim("web-1: a volume has a backdoor", volume);
    claims.claim(
        "web-1: a container writes a program, executes it, and is started again",
        upper,
    );
    claims.claim("web-1: an image is not the published one", rebuilt);
    claims.claim("web-1: somebody enters a container", entered);
    copies(claims, &site, &blocks, "web-1");
    agent.stop();
    for block in blocks.iter().filter(|block| block.who == "responder") {
        claims.claim(&block.commands.join("; "), || follow(block, ""));
    }
    claims.claim(
        "what is written as JSON is as its schema says",
        as_schemas_say,
    );
    claims.claim(
        "no container is there but those, each has its name, and nothing is a violation",
        || {
            let all = ask(&["ps"]);
            let names: Vec<_> = all
                .iter()
                .map(|own| text(&own["container"]["name"]))
                .collect();
            assert_eq!(names, ["web", "web", "cart", "cart", "pay", "db"]);
            assert!(ask(&["events", "--violations"]).is_empty());
        },
    );
    claims.claim("it had commands", || {
        assert!(blocks.len() >= 15, "{blocks:?}");
    });
}

/// Has a node's list copied, as the guide says.
fn copies(claims: &mut Claims, site: &Site, blocks: &[Block], node: &str) {
    // What goes on is in the list two seconds later, at most.
    std::thread::sleep(Duration::from_secs(3));
    site.caught_up();
    for block in blocks.iter().filter(|block| block.who == "node") {
        let commands = block.commands.join("; ");
        claims.claim(&format!("{node}: {commands}"), || follow(block, node));
    }
}

/// Runs the commands of a block.
#[track_caller]
fn follow(block: &Block, node: &str) {
    let commands = block.commands.join("\n");
    let script = format!("cd {OUT}\nexport NODE={node} NONCE=5f1c08a9\n{commands}");
    let ran = process::run_within(LIMIT, &["sh", "-e", "-c", &script]);
    let said = format!("{}{}", ran.stdout, ran.stderr);
    said.lines().for_each(|line| println!("     {line}"));
    assert_eq!(ran.code(), Some(block.code), "{said}");
    if let Some(lacking) = block.lacks(&said) {
        panic!("it does not say \"{lacking}\", or not there");
    }
}

/// Images and their references; then one image is rebuilt under its name.
fn publish() {
    let change = |path: &str| format!("cp /usr/bin/factor {path} && echo >> {path}");
    commit(DEBIAN, &change("/usr/bin/shop"), SHOP);
    commit(SHOP, &change("/usr/bin/pay"), PAY);
    for (image, name) in [(SHOP, "shop"), (PAY, "pay")] {
        let to = format!("{OUT}/references/{name}.json");
        let of = format!("containers-storage:{image}");
        process::run_within(LIMIT, &[CIMA, "reference", &of, "-o", &to]).succeeded();
    }
    commit(PAY, "echo >> /usr/bin/pay", PAY);
}

/// What `script` makes of an image is `name`.
#[track_caller]
fn commit(image: &str, script: &str, name: &str) {
    let run = ["run", "--name", "made", image, "sh", "-ec", script];
    podman(Runtime::Crun, &run).succeeded();
    podman(Runtime::Crun, &["commit", "-q", "made", name]).succeeded();
    podman(Runtime::Crun, &["rm", "made"]).succeeded();
}

/// Starts a container that goes on.
#[track_caller]
fn start(name: &str, options: &[&str], image: &str, script: &str) {
    let words = [
        &["run", "-d", "--name", name],
        options,
        &[image, "sh", "-c", script],
    ];
    podman(Runtime::Crun, &words.concat()).succeeded();
}

/// Somebody puts a program into a volume, and what runs in the container starts it.
fn volume() {
    let _ = podman(Runtime::Crun, &["rm", "-f", "-t", "0", "web"]);
    let _ = fs::remove_dir_all("/srv/uploads");
    fs::create_dir_all("/srv/uploads/.cache").expect("a directory can be made");
    let script = "shop 15; until /var/uploads/.cache/kworker 21; do sleep 1; done 2> /dev/null; exec sleep 900";
    start("web", &["-v", VOLUME], SHOP, script);
    let plant = format!(
        "cp /usr/bin/factor /tmp/kworker; echo x >> /tmp/kworker; cp /tmp/kworker {BACKDOOR}"
    );
    process::run(&["sh", "-ec", &plant]).succeeded();
    logged("web", "3 7");
}

/// The container itself writes a program, and executes it; when it is started again, the program is there before.
fn upper() {
    let script = "shop 15; [ -e /usr/bin/updater ] || { cp /usr/bin/factor /usr/bin/updater; echo y >> /usr/bin/updater; }; updater 33; exec sleep 900";
    start("cart", &[], SHOP, script);
    logged("cart", "3 11");
    podman(Runtime::Crun, &["stop", "-t", "0", "cart"]).succeeded();
    podman(Runtime::Crun, &["start", "cart"]).succeeded();
    eventually("it ran twice", || {
        let logs = podman(Runtime::Crun, &["logs", "cart"]).succeeded();
        (logs.matches("3 11").count() == 2).then_some(())
    });
}

fn rebuilt() {
    start("pay", &[], PAY, "pay 35; exec sleep 900");
    logged("pay", "5 7");
}

/// Somebody who logged in brings a program into a container, and starts it there.
fn entered() {
    start("db", &[], SHOP, "shop 15; exec sleep 900");
    logged("db", "3 5");
    let enter = format!(
        "echo {LOGIN} > /proc/self/loginuid; cp /usr/bin/factor /root/dump; echo z >> /root/dump;
        podman cp /root/dump db:/tmp/dump; podman exec db sh -c '/tmp/dump 77; exit 0'"
    );
    process::run(&["sh", "-ec", &enter]).succeeded();
}

#[track_caller]
fn logged(container: &str, text: &str) {
    eventually(&format!("{container} says {text}"), || {
        let logs = podman(Runtime::Crun, &["logs", container]).succeeded();
        logs.contains(text).then_some(())
    });
}

fn as_schemas_say() {
    let files = ask(&["files", "-c", "web"]);
    let digest = files[0]["digest"]
        .as_str()
        .expect("it was hashed")
        .to_owned();
    let event = ask(&["events", "--limit", "1"])[0]["id"]
        .as_str()
        .expect("it has one")
        .to_owned();
    for (of, words) in [
        ("event", &["events", "--limit", "0"][..]),
        ("container", &["ps"]),
        ("file", &["files"]),
        ("sighting", &["whereis", &digest]),
        ("process", &["tree"]),
        ("shown", &["show", &event]),
        ("list", &["index", "status"]),
        ("explanation", &["explain", "--reference", "references/"]),
    ] {
        let schema = process::run(&[CIMA, "schema", of]).succeeded();
        let schema = serde_json::from_str(&schema).expect("a schema is JSON");
        let validator = jsonschema::validator_for(&schema).expect("it is a schema");
        let lines = ask(words);
        assert!(!lines.is_empty(), "{words:?}");
        for line in lines {
            let faults = validator.iter_errors(&line).map(|fault| fault.to_string());
            let faults: Vec<_> = faults.collect();
            assert!(faults.is_empty(), "{of}: {faults:?} in {line}");
        }
    }
}

/// The lines of JSON of an answer.
#[track_caller]
fn ask(words: &[&str]) -> Vec<Value> {
    let words = words.join(" ");
    let command = format!("cd {OUT} && cima {words} --from nodes/ --json");
    let ran = process::run_within(LIMIT, &["sh", "-c", &command]);
    assert_ne!(ran.code(), Some(2), "{}", ran.stderr);
    let lines = ran.stdout.lines();
    lines
        .map(|line| serde_json::from_str(line).expect("a line of JSON"))
        .collect()
}

// SPDX-License-Identifier: Apache-2.0
//! `docs/KEYLIME.md`, as far as publishers and nodes have commands in it: each is run, in order. What the operator does with what comes
//! of it, `keylime-plugin/tests/test_guide.py` does.

use std::fs;
use std::os::unix::fs::symlink;

use super::Scenario;
use crate::agent::Site;
use crate::claims::Claims;
use crate::guide;
use crate::hooks;
use crate::process::{self, Ran};

pub(crate) const SCENARIO: Scenario = Scenario {
    name: "attest-guide",
    about: "every command that the guide for Keylime has for publishers and nodes",
    play,
};

const GUIDE: &str = "/cima/share/KEYLIME.md";
/// Where the files are that the operator gets.
const OUT: &str = "/out/attest";
/// The operator's choice.
const NONCE: &str = "5f1c08a9";
/// There is no service manager in a guest: cimad is started as its unit says.
const START: &str = "systemctl enable --now cimad";

fn play(claims: &mut Claims, _arguments: &[String]) {
    fs::create_dir_all(OUT).expect("the host takes files");
    let site = Site::shipped();
    hooks::install();
    for (program, place) in [("cima", "/usr/bin/cima"), ("cimad", "/usr/sbin/cimad")] {
        symlink(format!("/cima/bin/{program}"), place).expect("the root can be written");
    }
    fs::create_dir_all("/run/cima").expect("/run can be written");
    let guide = fs::read_to_string(GUIDE).expect("it is staged");
    let commands = commands(&guide);
    let mut agent = None;
    for (command, code) in &commands {
        claims.claim(command, || {
            if command == START {
                agent = Some(site.start());
                return;
            }
            let ran = run(command);
            assert_eq!(ran.code(), Some(*code), "{}{}", ran.stdout, ran.stderr);
            ran.stdout.lines().for_each(|line| println!("     {line}"));
        });
    }
    claims.claim("it had commands, and the agent ran to its end", || {
        assert!(commands.len() >= 15, "{commands:?}");
        agent.expect("the guide starts it").stop();
    });
}

/// A line each, of the blocks for publishers and nodes, and what it ends with.
fn commands(guide: &str) -> Vec<(String, i32)> {
    guide::blocks(guide)
        .into_iter()
        .filter(|block| ["publisher", "node"].contains(&block.who.as_str()))
        .flat_map(|block| {
            let commands = block.commands.into_iter();
            commands.map(move |command| (command, block.code))
        })
        .collect()
}

fn run(command: &str) -> Ran {
    let script = format!("cd {OUT} && export NONCE={NONCE} && {command}");
    process::run(&["sh", "-e", "-c", &script])
}

#[cfg(test)]
mod tests {
    use super::{START, commands};

    #[test]
    fn the_guide_has_commands_and_starts_the_agent() {
        let commands = commands(include_str!("../../../docs/KEYLIME.md"));
        assert!(commands.iter().any(|(command, _)| command == START));
        let is_operators = |(command, _): &(String, i32)| command.contains("keylime");
        assert!(!commands.iter().any(is_operators));
    }
}

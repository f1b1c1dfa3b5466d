// SPDX-License-Identifier: Apache-2.0
//! The command lines of OCI runtimes, as far as `cima-runtime` needs them: does this one make a container, and from
//! which bundle? Knows the options of runc and crun. An option it does not know might take the next
//! word as its value, so that a bundle could be overlooked: with one, nothing that makes a container is let through.

use std::{
    ffi::{OsStr, OsString},
    os::unix::ffi::OsStrExt as _,
    path::PathBuf,
    slice::Iter,
};

/// Global options with a value.
const GLOBAL_VALUES: [&str; 7] = [
    "cgroup-manager",
    "criu",
    "log",
    "log-format",
    "log-level",
    "root",
    "rootless",
];
/// Global options without.
const GLOBAL_FLAGS: [&str; 6] = ["debug", "h", "help", "systemd-cgroup", "v", "version"];
/// The commands that make a container.
const MAKING: [&str; 3] = ["create", "restore", "run"];
/// Their options with a value.
const VALUES: [&str; 14] = [
    "b",
    "bundle",
    "console-socket",
    "empty-ns",
    "image-path",
    "lsm-mount-context",
    "lsm-profile",
    "manage-cgroups-mode",
    "parent-path",
    "pid-file",
    "pidfd-socket",
    "preserve-fds",
    "status-fd",
    "work-path",
];
/// Their options without.
const FLAGS: [&str; 16] = [
    "auto-dedup",
    "d",
    "detach",
    "ext-unix-sk",
    "file-locks",
    "h",
    "help",
    "keep",
    "lazy-pages",
    "no-new-keyring",
    "no-pivot",
    "no-subreaper",
    "shell-job",
    "stop",
    "tcp-close",
    "tcp-established",
];

/// What a command line asks for.
#[derive(Debug, PartialEq, Eq)]
pub struct CommandLine {
    /// Where engines look for a runtime's last words.
    pub log: Option<PathBuf>,
    /// Whether they are to be JSON.
    pub json: bool,
    /// What is done.
    pub call: Result<Call, CommandLineError>,
}

/// What a runtime is called for.
#[derive(Debug, PartialEq, Eq)]
pub enum Call {
    /// A container is made from the bundle at this path.
    Makes {
        /// The current directory, if nothing is said.
        bundle: PathBuf,
    },
    /// All else.
    Other,
}

/// Why it is not known which container would be made.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandLineError {
    /// Perhaps with a value, perhaps not.
    #[error(
        "the option {0:?} is not known to cima-runtime, which can therefore not tell the bundle of the container: \
         no container is made"
    )]
    Unknown(OsString),
    /// Another file than the bundle's `config.json`.
    #[error(
        "the option {0:?} names another configuration than the bundle's, and no hook can be added there: \
         no container is made"
    )]
    OtherConfig(OsString),
    /// runc takes what follows the id for arguments, crun for options.
    #[error(
        "the option {0:?} follows the container's id, where runtimes do not agree about its meaning: \
         no container is made"
    )]
    AfterId(OsString),
    /// The end.
    #[error("the option {0:?} has no value: no container is made")]
    NoValue(OsString),
}

/// An argument.
enum Word<'a> {
    Option {
        name: &'a [u8],
        value: Option<&'a OsStr>,
    },
    /// `--`: no options after it.
    End,
    Plain,
}

impl CommandLine {
    /// Understands the arguments after the program's name.
    pub fn parse(args: &[OsString]) -> Self {
        let mut line = Self {
            log: None,
            json: false,
            call: Ok(Call::Other),
        };
        let mut rest = args.iter();
        line.call = line.global(&mut rest);
        line
    }

    fn global(&mut self, rest: &mut Iter<'_, OsString>) -> Result<Call, CommandLineError> {
        while let Some(argument) = rest.next() {
            let (name, value) = match word(argument) {
                Word::Option { name, value } => (name, value),
                Word::End => match rest.next() {
                    Some(command) => return called(command, rest),
                    None => break,
                },
                Word::Plain => return called(argument, rest),
            };
            if is_one_of(name, &GLOBAL_VALUES) {
                let value = match value.or_else(|| rest.next().map(OsString::as_os_str)) {
                    Some(value) => value,
                    None => break,
                };
                match name {
                    b"log" => self.log = Some(value.into()),
                    b"log-format" => self.json = value == "json",
                    _ => {}
                }
            } else if !is_one_of(name, &GLOBAL_FLAGS) {
                // `state`, `kill` and the like must go through whatever a later runtime learns.
                let makes = rest.any(|word| is_one_of(word.as_bytes(), &MAKING));
                return match makes {
                    true => Err(CommandLineError::Unknown(argument.clone())),
                    false => Ok(Call::Other),
                };
            }
        }
        Ok(Call::Other)
    }
}

fn called(command: &OsStr, rest: &mut Iter<'_, OsString>) -> Result<Call, CommandLineError> {
    if !is_one_of(command.as_bytes(), &MAKING) {
        return Ok(Call::Other);
    }
    let mut bundle = PathBuf::from(".");
    let mut id = false;
    while let Some(argument) = rest.next() {
        let (name, value) = match word(argument) {
            Word::Option { .. } if id => return Err(CommandLineError::AfterId(argument.clone())),
            Word::Option { name, value } => (name, value),
            Word::End => break,
            Word::Plain => {
                id = true;
                continue;
            }
        };
        match name {
            b"f" | b"config" => return Err(CommandLineError::OtherConfig(argument.clone())),
            name if is_one_of(name, &VALUES) => {
                let value = value
                    .or_else(|| rest.next().map(OsString::as_os_str))
                    .ok_or_else(|| CommandLineError::NoValue(argument.clone()))?;
                if name == b"b" || name == b"bundle" {
                    bundle = value.into();
                }
            }
            name if is_one_of(name, &FLAGS) => {}
            _ => return Err(CommandLineError::Unknown(argument.clone())),
        }
    }
    Ok(Call::Makes { bundle })
}

/// `--name`, `--name=value`, and both with one dash: Go's parser of options makes no difference.
fn word(argument: &OsStr) -> Word<'_> {
    let bytes = argument.as_bytes();
    let option = match bytes {
        b"--" => return Word::End,
        [b'-', b'-', option @ ..] => option,
        [b'-', option @ ..] if !option.is_empty() => option,
        _ => return Word::Plain,
    };
    match option.iter().position(|&byte| byte == b'=') {
        Some(at) => Word::Option {
            name: &option[..at],
            value: Some(OsStr::from_bytes(&option[at + 1..])),
        },
        None => Word::Option {
            name: option,
            value: None,
        },
    }
}

fn is_one_of(name: &[u8], names: &[&str]) -> bool {
    names.iter().any(|other| other.as_bytes() == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> CommandLine {
        let args: Vec<OsString> = line.split(' ').map(OsString::from).collect();
        CommandLine::parse(&args)
    }

    fn makes(bundle: &str) -> Result<Call, CommandLineError> {
        Ok(Call::Makes {
            bundle: bundle.into(),
        })
    }

    #[test]
    fn what_containerds_shim_asks_for_docker_is_understood() {
        let line = parse(
            "--root /run/docker/runtime-runc/moby \
             --log /run/containerd/io.containerd.runtime.v2.task/moby/4f2a/log.json --log-format json \
             create --bundle /run/containerd/io.containerd.runtime.v2.task/moby/4f2a \
             --pid-file /run/containerd/io.containerd.runtime.v2.task/moby/4f2a/init.pid \
             --console-socket /tmp/pty1/pty.sock 4f2a",
        );
        assert_eq!(
            line.call,
            makes("/run/containerd/io.containerd.runtime.v2.task/moby/4f2a")
        );
        let log = "/run/containerd/io.containerd.runtime.v2.task/moby/4f2a/log.json";
        assert_eq!(line.log, Some(log.into()));
        assert!(line.json);
    }

    #[test]
    fn command_lines_that_make_a_container_and_its_bundle() {
        for (line, bundle) in [
            ("create --bundle /b c1", "/b"),
            ("create c1", "."),
            ("run -b /b c1", "/b"),
            ("run -b=/b c1", "/b"),
            ("run -bundle /b c1", "/b"),
            ("run --detach --bundle=/b --preserve-fds 3 c1", "/b"),
            ("run --pid-file create --bundle /b c1", "/b"),
            ("run --bundle /a --bundle /b c1", "/b"),
            (
                "--root=/r --systemd-cgroup create --no-pivot --bundle /b c1",
                "/b",
            ),
            ("--root create create --bundle /b c1", "/b"),
            (
                "-root state --rootless true --criu /c create -b /b c1",
                "/b",
            ),
            (
                "--cgroup-manager=cgroupfs --debug --log-level debug run --bundle /b c1",
                "/b",
            ),
            (
                "restore --image-path /i --work-path /w --bundle /b --detach c1",
                "/b",
            ),
            ("-- create --bundle /b -- -c1", "/b"),
        ] {
            assert_eq!(parse(line).call, makes(bundle), "{line}");
        }
    }

    #[test]
    fn all_else_is_passed_on() {
        for line in [
            "--version",
            "-v",
            "",
            "features",
            "--root /r state c1",
            "--root /r --log /l --log-format json start c1",
            "--root /r exec --process /p --detach --pid-file /f c1",
            "--root /r kill --all c1 9",
            "--root create delete --force c1",
            "--root",
            "--option-of-a-later-version x delete c1",
            "exec c1 create",
        ] {
            assert_eq!(parse(line).call, Ok(Call::Other), "{line}");
        }
    }

    #[test]
    fn what_could_hide_the_bundle_makes_no_container() {
        use CommandLineError::{AfterId, NoValue, OtherConfig, Unknown};
        for (line, error) in [
            ("--later x create -b /b c1", Unknown("--later".into())),
            ("create --later x -b /b c1", Unknown("--later".into())),
            ("create --bund /b c1", Unknown("--bund".into())),
            ("create -b/b c1", Unknown("-b/b".into())),
            ("create --config /c c1", OtherConfig("--config".into())),
            ("run -f /c c1", OtherConfig("-f".into())),
            ("create c1 --bundle /b", AfterId("--bundle".into())),
            ("create --bundle", NoValue("--bundle".into())),
        ] {
            assert_eq!(parse(line).call, Err(error), "{line}");
        }
    }
}

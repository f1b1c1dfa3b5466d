// SPDX-License-Identifier: Apache-2.0
//! An OCI runtime for engines that have no hooks (docker, containerd): adds cima's hook to each container's configuration and
//! becomes the real runtime. Its command line is the real runtime's, `--help` included; docs/HOOK.md describes it.

use std::{
    env,
    ffi::OsString,
    fs::OpenOptions,
    io::{self, Write as _},
    os::unix::{fs::OpenOptionsExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use cima_hook::{
    bundle::{self, BundleError},
    command_line::{Call, CommandLine, CommandLineError},
    config::{self, Config, ConfigError},
    printable,
};
use serde_json::json;

/// As first argument: another file than [`config::FILE`], for a second runtime of the same engine.
const OTHER_CONFIG: &str = "--cima-config";

#[derive(Debug, thiserror::Error)]
enum RuntimeError {
    #[error(transparent)]
    CommandLine(#[from] CommandLineError),
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Bundle(#[from] BundleError),
    #[error("cannot start the runtime {}: {error}", .runtime.display())]
    Start {
        runtime: PathBuf,
        #[source]
        error: io::Error,
    },
}

fn main() -> ExitCode {
    let mut args: Vec<OsString> = env::args_os().skip(1).collect();
    let mut config = PathBuf::from(config::FILE);
    if args.len() > 1 && args[0] == OTHER_CONFIG {
        config = args.drain(..2).nth(1).map_or(config, PathBuf::from);
    }
    let line = CommandLine::parse(&args);
    let (log, json) = (line.log, line.json);
    // There is no way back from a start that succeeds.
    let Err(error) = become_runtime(&config, line.call, &args);
    let text = printable(&error.to_string());
    _ = writeln!(io::stderr(), "cima-runtime: {text}");
    if let Some(log) = log {
        tell_engine(&log, json, &text);
    }
    ExitCode::from(2)
}

fn become_runtime(
    config: &Path,
    call: Result<Call, CommandLineError>,
    args: &[OsString],
) -> Result<std::convert::Infallible, RuntimeError> {
    let config = Config::load(config)?;
    let runtime = config.runtime()?;
    if let Call::Makes { bundle } = call? {
        bundle::add_hooks(&bundle, &config)?;
    }
    let error = Command::new(&runtime).args(args).exec();
    Err(RuntimeError::Start { runtime, error })
}

/// The shim shows people the last line of the runtime's log. That there is none is no reason for another error.
fn tell_engine(log: &Path, json: bool, text: &str) {
    let line = match json {
        true => json!({"level": "error", "msg": format!("cima-runtime: {text}")}).to_string(),
        false => format!(
            "level=error msg=\"cima-runtime: {}\"",
            text.replace('"', "'")
        ),
    };
    _ = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o644)
        .open(log)
        .and_then(|mut log| writeln!(log, "{line}"));
}

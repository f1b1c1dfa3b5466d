// SPDX-License-Identifier: Apache-2.0
//! The guest's TPM: swtpm with a state of its own, made anew for each run.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::command::{Held, TICK, own_process_group, run_tool, tool};
use crate::error::{Doing as _, Error};
use crate::{Result, check_interrupt};

/// A running software TPM.
#[derive(Debug)]
pub(crate) struct SoftwareTpm {
    /// The control socket that QEMU connects to.
    pub(crate) socket: PathBuf,
    _process: Held,
}

impl SoftwareTpm {
    /// Makes a fresh TPM with these PCR banks and starts it. Its files lie in
    /// `scratch`, which must be absolute: swtpm changes its directory.
    pub(crate) fn start(scratch: &Path, banks: &[String]) -> Result<Self> {
        let state = scratch.join("tpm");
        std::fs::create_dir(&state).doing("make the directory", &state)?;
        run_tool(
            "Making a fresh TPM",
            tool("swtpm_setup")?
                .args(["--tpm2", "--overwrite", "--pcr-banks", &banks.join(",")])
                .arg("--tpmstate")
                .arg(&state),
        )?;
        let socket = scratch.join("tpm.sock");
        let log = scratch.join("tpm.log");
        let mut process = Held::spawn("swtpm", |command| {
            command
                .args(["socket", "--tpm2", "--terminate", "--tpmstate"])
                .arg(format!("dir={}", state.display()))
                .arg("--ctrl")
                .arg(format!("type=unixio,path={}", socket.display()))
                .arg("--log")
                .arg(format!("file={}", log.display()))
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            own_process_group(command);
        })?;
        let asked = Instant::now();
        while !socket.exists() {
            check_interrupt()?;
            if process.ended().is_some() || asked.elapsed() > Duration::from_secs(10) {
                return Err(Error::TpmDidNotStart {
                    output: std::fs::read_to_string(&log).unwrap_or_default(),
                });
            }
            std::thread::sleep(TICK);
        }
        Ok(Self {
            socket,
            _process: process,
        })
    }
}

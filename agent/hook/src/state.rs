// SPDX-License-Identifier: Apache-2.0
//! The state of a container as a runtime gives it to a hook on standard input ("State" in `runtime.md` of the OCI
//! runtime specification). Reads it within a size and a time; cimad judges what it says. Called by `cima-hook`.

use std::{
    io,
    os::fd::AsFd,
    time::{Duration, Instant},
};

use cima_api::LARGEST_STATE;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::Deserialize;

/// What the hook is called for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// The container is made and runs nothing yet: cimad is asked, and the answer holds.
    Create,
    /// The container is gone: cimad is told.
    Stop,
}

/// A state, and what the hook itself needs of it.
#[derive(Debug, PartialEq, Eq)]
pub struct State {
    /// The document as it came.
    pub bytes: Vec<u8>,
    /// The container's id.
    pub id: String,
    status: String,
}

/// Why there is no state.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Standard input failed.
    #[error("cannot read the container's state from standard input: {0}")]
    Read(#[source] io::Error),
    /// The runtime keeps standard input open.
    #[error(
        "the runtime did not end the container's state on standard input within {} s",
        .0.as_secs()
    )]
    Slow(Duration),
    /// More than is sent to cimad.
    #[error("the container's state on standard input is larger than {LARGEST_STATE} bytes")]
    Large,
    /// No such document.
    #[error("standard input is not the state of a container as OCI runtimes give it to hooks: {0}")]
    Json(#[source] serde_json::Error),
    /// Between creation and end there is no stage that this hook is for.
    #[error(
        "a container whose status is {0:?} is neither being created nor stopped: \
         install cima-hook for createRuntime and poststop only, or say which it is with --stage"
    )]
    Status(String),
}

#[derive(Deserialize)]
struct Document {
    id: String,
    status: String,
}

impl State {
    /// Reads a state up to the end of `input`.
    ///
    /// # Errors
    /// See [`StateError`].
    pub fn read(input: impl AsFd, within: Duration) -> Result<Self, StateError> {
        let bytes = read(input, within)?;
        let Document { id, status } = serde_json::from_slice(&bytes).map_err(StateError::Json)?;
        Ok(Self { bytes, id, status })
    }

    /// What the hook is called for, by the status: hook files of podman and CRI-O have one command line for all stages.
    /// runc says `creating` at createRuntime, crun `created`.
    ///
    /// # Errors
    /// [`StateError::Status`].
    pub fn stage(&self) -> Result<Stage, StateError> {
        match self.status.as_str() {
            "creating" | "created" => Ok(Stage::Create),
            "stopped" => Ok(Stage::Stop),
            status => Err(StateError::Status(status.to_owned())),
        }
    }
}

fn read(input: impl AsFd, within: Duration) -> Result<Vec<u8>, StateError> {
    let end = Instant::now() + within;
    let mut bytes = Vec::with_capacity(4096);
    let mut chunk = [0; 4096];
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).map_err(|_| StateError::Slow(within))?;
        let mut waiting = [PollFd::new(&input, PollFlags::IN)];
        match poll(&mut waiting, Some(&timeout)) {
            Ok(0) => return Err(StateError::Slow(within)),
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return Err(StateError::Read(error.into())),
        }
        match rustix::io::read(&input, &mut chunk) {
            Ok(0) => return Ok(bytes),
            Ok(count) => bytes.extend_from_slice(&chunk[..count]),
            Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => continue,
            Err(error) => return Err(StateError::Read(error.into())),
        }
        if bytes.len() > LARGEST_STATE {
            return Err(StateError::Large);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Write as _, thread};

    use super::*;

    fn given(bytes: &'static [u8]) -> Result<State, StateError> {
        let (reader, mut writer) = io::pipe().unwrap();
        let writing = thread::spawn(move || _ = writer.write_all(bytes));
        let state = State::read(&reader, Duration::from_secs(5));
        drop(reader);
        writing.join().unwrap();
        state
    }

    #[test]
    fn the_states_of_runc_and_crun_say_their_stage() {
        for (status, stage) in [
            ("creating", Stage::Create),
            ("created", Stage::Create),
            ("stopped", Stage::Stop),
        ] {
            let text = format!(r#"{{"ociVersion":"1.0.2","id":"c1","status":"{status}","pid":7}}"#);
            let state = given(text.leak().as_bytes()).unwrap();
            assert_eq!((state.id.as_str(), state.stage().unwrap()), ("c1", stage));
        }
        let running = given(br#"{"id":"c1","status":"running"}"#).unwrap();
        assert!(matches!(running.stage(), Err(StateError::Status(_))));
    }

    #[test]
    fn what_is_no_state_is_refused() {
        for bytes in [&b""[..], b"null", b"{}", b"{\"id\":7}", b"\xff\xfe"] {
            assert!(matches!(given(bytes), Err(StateError::Json(_))));
        }
    }

    #[test]
    fn a_state_without_an_end_is_given_up() {
        let (reader, mut writer) = io::pipe().unwrap();
        writer.write_all(br#"{"id":"c1""#).unwrap();
        let state = State::read(&reader, Duration::from_millis(50));
        assert!(matches!(state, Err(StateError::Slow(_))));
    }

    #[test]
    fn a_huge_state_is_refused_at_the_limit() {
        let huge = vec![b' '; LARGEST_STATE + 1].leak();
        assert!(matches!(given(huge), Err(StateError::Large)));
    }
}

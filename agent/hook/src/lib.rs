// SPDX-License-Identifier: Apache-2.0
//! What container runtimes start. `cima-hook` asks cimad whether a container may start; `cima-runtime`
//! adds that hook to containers of engines that have no hooks. Both start with every container: they link
//! nothing else of the agent. `cima hook` installs and checks them, and shares `client`, `file` and `json`.

pub mod bundle;
pub mod client;
pub mod command_line;
pub mod config;
pub mod file;
pub mod json;
pub mod peer;
pub mod state;
mod text;

pub use text::printable;

/// Where the hook is installed.
pub const HOOK: &str = "/usr/libexec/cima/cima-hook";
/// Where the runtime that adds the hook is installed.
pub const RUNTIME: &str = "/usr/libexec/cima/cima-runtime";
/// How long cimad may take to measure an image of many gigabytes, unless told otherwise, in seconds.
pub const SECONDS_TO_MEASURE: u64 = 120;
/// The longest that can be asked for, in seconds.
pub const MOST_SECONDS: u64 = 3600;

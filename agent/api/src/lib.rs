// SPDX-License-Identifier: Apache-2.0
//! What is spoken on cimad's socket. Owns the schema (`agent/proto/hook.proto`), where the socket is, and how large a
//! message may be; server and clients are elsewhere.

/// Messages, client and server as `agent/proto/hook.proto` has them.
#[allow(
    missing_docs,
    unused_qualifications,
    clippy::all,
    clippy::pedantic,
    clippy::restriction,
    reason = "generated: the schema has the comments"
)]
mod generated {
    tonic::include_proto!("cima.hook.v1");
}

pub use generated::*;

/// Where root's hooks find cimad.
pub const SOCKET: &str = "/run/cima/hook.sock";
/// The largest state of a container that is sent: runtimes write a few hundred bytes, and annotations.
pub const LARGEST_STATE: usize = 1 << 20;
/// The largest message either side takes: a state and its envelope.
pub const LARGEST_MESSAGE: usize = LARGEST_STATE + (4 << 10);
/// The largest reply of a watched list: the longest record that readers take, and its envelope.
pub const LARGEST_REPLY: usize = (16 << 20) + (8 << 10);

/// Where the hooks of a user's own containers find cimad.
pub fn socket_of_user(uid: u32) -> String {
    format!("/run/cima/hook-{uid}.sock")
}

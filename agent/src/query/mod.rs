// SPDX-License-Identifier: Apache-2.0
//! What ran where, asked of lists: an index that finds, the one vocabulary of filters, and answers read from the lists
//! themselves.
//!
//! Reads only; needs no daemon, no TPM and no other node. Trusts nothing in a list: what it shows is escaped, and what
//! its own hashes do not vouch for is marked. Whether a list is what a TPM vouches for, `verify` says.

mod ask;
mod cursor;
mod event;
mod explain;
mod fact;
mod files;
mod filter;
mod index;
mod kind;
mod lists;
mod live;
pub mod moment;
mod records;
mod show;
mod summary;
mod tree;

pub use ask::{Page, Query, QueryError};
pub use event::{Ancestor, ContainerName, Event, Process, VERSION};
pub use explain::{Admission, Drift, Explanation, Finding, ImageClaim, Launcher, Volume, Why};
pub use files::{File, Sighting};
pub use filter::{DigestPattern, Filter, FilterError, Pattern, User};
pub use index::{Freshness, Index, IndexError};
pub use kind::Kind;
pub use lists::{From, List, ListsError, find};
pub use live::Live;
pub use records::RecordsError;
pub use show::Shown;
pub use summary::{Standing, State, Summary};
pub use tree::{Branch, Executed, Tree};

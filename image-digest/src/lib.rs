// SPDX-License-Identifier: Apache-2.0
//! One digest for a whole container image (`cima-image-v1`): the same from the layers that a
//! publisher pushed and from the files that a node has on its disk. SPEC.md has every byte.
//!
//! Owns what an image is ([`Tree`]), what its layers mean ([`Layer`]) and how both are hashed: pure, given
//! entries, each with the digest of its content. [`source`] reads them, from archives and from disks. Refuses what
//! could be understood in two ways, naming the entry.
//!
//! ```
//! use image_digest::{ContentDigest, Layer, Meta, Node, Tree};
//!
//! let mut layer = Layer::default();
//! let content = ContentDigest::of(b"#!/bin/sh\n");
//! let file = Node::File { meta: Meta::new(0o755, 0, 0), size: 10, content };
//! layer.add(b"./usr/bin/true", file)?;
//!
//! let mut image = Tree::default();
//! layer.lay_over(&mut image)?;
//! println!("{}", image.digest());
//! # Ok::<(), image_digest::LayerError>(())
//! ```
pub mod audit;
mod cache;
mod content;
pub mod diff;
mod digest;
mod escape;
#[doc(hidden)]
pub mod fuzzing;
mod image;
mod layer;
mod lease;
mod limits;
pub mod manifest;
mod node;
mod path;
mod progress;
pub mod reference;
pub mod source;
mod tree;

pub use cache::{Cache, CacheError};
pub use content::{Content, ContentHash, Format, Formats};
pub use digest::{ContentDigest, DigestError, ImageDigest};
pub use escape::{ascii_json, escaped, unescaped};
pub use image::{Image, Published};
pub use layer::{Layer, LayerError, LayerSize};
pub use limits::{LimitError, Limits};
pub use node::{Device, Meta, Node};
pub use path::PathError;
pub use progress::Progress;
pub use tree::{Tree, TreeError};

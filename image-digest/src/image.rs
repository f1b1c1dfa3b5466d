// SPDX-License-Identifier: Apache-2.0
//! What a source comes to.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::{Formats, Tree};

/// An image as it was read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Image {
    /// Its files.
    pub tree: Tree,
    /// What a kernel could run of their contents.
    pub formats: Formats,
    /// What its publisher says of it, if it came with layers.
    pub published: Option<Published>,
}

/// An image's documents (OCI image specification: manifest, config). Their digests were checked.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Published {
    /// Name or tag under which it was found.
    pub reference: Option<String>,
    /// `sha256:` and hexadecimal digits of the manifest; a docker archive has none.
    pub manifest: Option<String>,
    /// The same of the config.
    pub config: String,
    /// `os/architecture[/variant]` of the config.
    pub platform: String,
    /// The config's labels.
    pub labels: BTreeMap<String, String>,
    /// The manifest's annotations.
    pub annotations: BTreeMap<String, String>,
}

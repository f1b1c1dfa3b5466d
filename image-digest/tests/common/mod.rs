// SPDX-License-Identifier: Apache-2.0
//! Images for tests, written byte by byte: archives here share no code with those who read them.
#![allow(dead_code, reason = "each test file uses its part")]
#![allow(
    clippy::allow_attributes,
    reason = "what is unused differs between the test files"
)]

pub(crate) mod oci;
pub(crate) mod tar;
pub(crate) mod vectors;

use std::num::NonZero;

use image_digest::source::{Options, Source, SourceError, read};
use image_digest::{Image, Limits, Progress};

/// Reads a source as it is written on a command line.
pub(crate) fn image(source: &str) -> Result<Image, SourceError> {
    limited(source, Limits::default())
}

pub(crate) fn limited(source: &str, limits: Limits) -> Result<Image, SourceError> {
    let source: Source = source.parse().expect("a source");
    let options = Options {
        limits,
        platform: Some("linux/amd64".parse().expect("a platform")),
        threads: NonZero::new(2).expect("two"),
        cache: None,
        progress: &Progress::default(),
    };
    read(&source, &options)
}

// SPDX-License-Identifier: Apache-2.0
//! What fuzz targets and nobody else calls: one layer's archive, without the image around it.

use crate::limits::Budget;
use crate::source::layer::read_archive;
use crate::source::tar::Input;
use crate::{Layer, Limits};

impl Input for &[u8] {
    fn skip(&mut self, bytes: u64) -> std::io::Result<()> {
        let bytes = usize::try_from(bytes)
            .ok()
            .filter(|bytes| *bytes <= self.len());
        let bytes = bytes.ok_or(std::io::ErrorKind::UnexpectedEof)?;
        *self = &self[bytes..];
        Ok(())
    }
}

/// The layer that an archive means.
///
/// # Errors
/// What is wrong with it, as text.
pub fn read_layer(archive: &[u8], limits: Limits) -> Result<Layer, String> {
    let read = read_archive(archive, &Budget::new(limits));
    read.map(|read| read.layer)
        .map_err(|error| error.to_string())
}

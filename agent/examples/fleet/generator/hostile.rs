// SPDX-License-Identifier: Apache-2.0
//! Lists with all that somebody might put into one.
use super::*;
pub(crate) fn generate(_: &Fleet) -> io::Result<Written> {
    Ok(Written::default())
}

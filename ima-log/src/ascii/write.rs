// SPDX-License-Identifier: Apache-2.0
//! Writing a line of the ASCII list.
//!
//! Byte for byte the kernel's line for every template it has. One it does not know it could not
//! have listed: this crate then shows the template data as one column of hex, and reads it back.

use std::io::{self, Write};

use super::{NotShowable, field};
use crate::{Entry, EscapedName, MAX_PCR};

impl Entry {
    /// The line, without its newline. Bytes, not text: names need not be UTF-8.
    ///
    /// # Errors
    /// [`NotShowable`] if the line would not read back as this entry.
    pub fn to_ascii(&self) -> Result<Vec<u8>, NotShowable> {
        let name = self.template.name();
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_graphic()) {
            let name = EscapedName(name.as_bytes()).to_string();
            return Err(NotShowable::TemplateName { name });
        }
        if self.pcr > MAX_PCR {
            return Err(NotShowable::Pcr { pcr: self.pcr });
        }
        let hash = hex::encode(self.template_hash.bytes());
        let mut line = format!("{:2} {hash} {name}", self.pcr).into_bytes();
        if self.template.format().is_some() {
            for field in self.raw_fields()? {
                line.push(b' ');
                field::show(field?, &self.template, self.byte_order, &mut line)?;
            }
        } else {
            line.push(b' ');
            line.extend_from_slice(hex::encode(&self.data).as_bytes());
        }
        Ok(line)
    }

    /// Writes the line and its newline with one `write_all`: whoever follows the growing list
    /// sees whole lines (Keylime's readers rely on it).
    ///
    /// # Errors
    /// Those of the writer; [`NotShowable`] as [`io::ErrorKind::InvalidData`].
    pub fn write_ascii(&self, writer: &mut impl Write) -> io::Result<()> {
        let mut line = self
            .to_ascii()
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        line.push(b'\n');
        writer.write_all(&line)
    }
}

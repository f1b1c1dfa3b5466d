// SPDX-License-Identifier: Apache-2.0
//! Rows for people, in columns as wide as what is in them.

use std::io::{self, Write};

/// Columns are no wider, whatever a hostile name asks for.
const WIDEST: usize = 64;

/// A table whose last column is as long as it likes.
#[derive(Debug, Default)]
pub(super) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(super) fn with_header(names: &[&str]) -> Self {
        let mut table = Self::default();
        table.push(names.iter().map(|name| (*name).to_owned()));
        table
    }

    pub(super) fn push(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    pub(super) fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(String::len).max().unwrap_or(0).min(WIDEST)
        };
        let widths: Vec<_> = (0..columns).map(width).collect();
        for row in &self.rows {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                line.push_str(&format!("{cell:width$}  "));
            }
            writeln!(out, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

// SPDX-License-Identifier: Apache-2.0
//! What fuzz targets share: a bound on the memory that a parser holds at its peak, and
//! entries that must be the same in every form. Used by the targets here and in
//! `agent/fuzz`; linking it puts a counting allocator below the whole target.

mod forms;
mod memory;

pub use forms::{line_of, record_of, same_in_both_orders};
pub use memory::within;

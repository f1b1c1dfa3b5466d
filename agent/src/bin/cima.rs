// SPDX-License-Identifier: Apache-2.0
//! The command for publishers, operators and responders.

fn main() {}

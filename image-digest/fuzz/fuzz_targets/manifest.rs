// SPDX-License-Identifier: Apache-2.0
//! The manifest reader: what it takes is written as the same image, byte for byte the same if it was
//! written by us, in little memory.
#![no_main]

use ima_log_fuzz::within;
use image_digest::{Limits, manifest};
use libfuzzer_sys::fuzz_target;

/// An error shows what it is about; a line's buffer grows in steps.
const OWN: usize = 64 << 10;

fuzz_target!(|text: &[u8]| {
    // With the digest that its entries come to, if that is all that is wrong.
    let text = match manifest::read(text, Limits::default()) {
        Err(manifest::ManifestError::Digest { said, found }) => {
            let text = String::from_utf8_lossy(text);
            text.replacen(&said.to_string(), &found.to_string(), 1)
                .into_bytes()
        }
        _ => text.to_vec(),
    };
    let read = within(OWN + 64 * text.len(), || {
        manifest::read(&text[..], Limits::default())
    });
    let Ok(tree) = read else { return };
    let mut written = Vec::new();
    manifest::write(&tree, &mut written).expect("memory takes everything");
    let again = manifest::read(&written[..], Limits::default()).expect("what was written is read");
    assert_eq!(again, tree);
    assert_eq!(again.digest(), tree.digest());
    let mut twice = Vec::new();
    manifest::write(&again, &mut twice).expect("memory takes everything");
    assert_eq!(written, twice);
});

// SPDX-License-Identifier: Apache-2.0
//! The manifest reader: what it takes is what is written of the image that it makes of it, byte for byte, in
//! little memory; what it says of the rest is printable. The same image has no difference, another has.
#![no_main]

use ima_log_fuzz::within;
use image_digest::{Image, Limits, Tree, diff::diff, manifest, reference::Reference};
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
    let tree = match read {
        Ok(tree) => tree,
        Err(error) => {
            let said = error.to_string();
            // A path may be quoted as a whole; what else is, is cut.
            assert!(said.len() <= 1000 + 4 * text.len());
            assert!(said.bytes().all(|byte| matches!(byte, b' '..=b'~')));
            return;
        }
    };
    let mut written = Vec::new();
    manifest::write(&tree, &mut written).expect("memory takes everything");
    assert_eq!(written, text, "an image has one manifest");
    assert!(diff(&tree, &tree).is_empty());
    let nothing = Tree::default();
    let entries = tree.entries().count();
    assert_eq!(diff(&nothing, &tree).len(), entries);
    assert_eq!(tree.digest() == nothing.digest(), entries == 0);
    // No manifest makes a reference that is not read.
    let image = Image {
        tree,
        ..Image::default()
    };
    let (reference, mut document) = (Reference::of(&image), Vec::new());
    reference
        .write(&mut document)
        .expect("memory takes everything");
    let read = Reference::read(&document[..]).expect("what was written is read");
    assert_eq!(read, reference);
});

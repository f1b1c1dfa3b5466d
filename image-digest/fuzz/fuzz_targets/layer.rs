// SPDX-License-Identifier: Apache-2.0
//! Layers: whatever archives say, the files they come to are a tree, the same one when its entries are
//! walked and when its manifest is read, and what was refused changed nothing. In little memory.
//!
//! An input is two layers, parted where its first two bytes say. One that begins with `T` is an archive as it
//! is; any other is a list of members, from which an archive with sums that fit is made.
#![no_main]

use ima_log_fuzz::within;
use image_digest::{Limits, Tree, fuzzing, manifest};
use libfuzzer_sys::fuzz_target;

/// The reader's own buffers.
const OWN: usize = 9 << 20;
const LIMITS: Limits = Limits {
    entries: 20_000,
    path_bytes: 4 << 20,
    content_bytes: 16 << 20,
};

fuzz_target!(|input: &[u8]| {
    let Some((at, input)) = input.split_first_chunk() else {
        return;
    };
    let at = usize::from(u16::from_le_bytes(*at)).min(input.len());
    let mut image = Tree::default();
    for layer in [&input[..at], &input[at..]] {
        let archive = match layer {
            [b'T', archive @ ..] => archive.to_vec(),
            members => made(members),
        };
        let memory = OWN
            + 64 * archive.len()
            + 4 * LIMITS.path_bytes as usize
            + 400 * LIMITS.entries as usize;
        let read = within(memory, || fuzzing::read_layer(&archive, LIMITS));
        let Ok(layer) = read else { continue };
        let before = image.clone();
        if layer.lay_over(&mut image).is_err() {
            assert_eq!(image, before, "what was refused changed nothing");
        }
    }
    let mut walked = Tree::default();
    for (path, node) in image.entries() {
        assert!(path.len() <= 4095 && !path.starts_with(b"/"));
        let names = path.split(|byte| *byte == b'/');
        assert!(
            names
                .clone()
                .all(|name| !matches!(name, b"" | b"." | b".."))
        );
        walked
            .insert(&path, node.clone())
            .expect("it is a tree, in order");
    }
    assert_eq!(walked, image);
    let mut written = Vec::new();
    manifest::write(&image, &mut written).expect("memory takes everything");
    let read = manifest::read(&written[..], Limits::default()).expect("what was written is read");
    assert_eq!(read, image);
    assert_eq!(read.digest(), image.digest());
});

/// Members: type, mode and owner in a byte each, then name, target and content, each with its length before it.
fn made(mut bytes: &[u8]) -> Vec<u8> {
    let mut archive = Vec::new();
    while let [kind, mode, owner, rest @ ..] = bytes {
        let mut rest = rest;
        let mut piece = || {
            let (length, after) = rest.split_first().unwrap_or((&0, &[]));
            let (piece, after) = after.split_at(usize::from(*length).min(after.len()));
            rest = after;
            piece
        };
        let (name, target, content) = (piece(), piece(), piece());
        bytes = rest;
        let kind = b"0012345671"[usize::from(*kind) % 10];
        let name = aliased(name);
        let target = aliased(target);
        let content = if kind == b'0' { content } else { &[] };
        member(&mut archive, kind, &name, &target, content, [*mode, *owner]);
    }
    archive.extend([0; 1024]);
    archive
}

/// Short names that meet one another, and whiteouts of them, out of bytes that do not know of it.
fn aliased(name: &[u8]) -> Vec<u8> {
    let words: [&[u8]; 12] = [
        b"a",
        b"b",
        b"c",
        b"/",
        b"/",
        b".wh.",
        b".wh..wh..opq",
        b"..",
        b".",
        b"dd",
        b".wh.a",
        b"\xff",
    ];
    let words = name.iter().map(|byte| match byte {
        0..=11 => words[usize::from(*byte)],
        byte => std::slice::from_ref(byte),
    });
    words.collect::<Vec<_>>().concat()
}

fn member(
    archive: &mut Vec<u8>,
    kind: u8,
    name: &[u8],
    target: &[u8],
    content: &[u8],
    [mode, owner]: [u8; 2],
) {
    let mut header = [0_u8; 512];
    let mut put = |at: usize, bytes: &[u8]| {
        let bytes = &bytes[..bytes.len().min(100)];
        header[at..at + bytes.len()].copy_from_slice(bytes);
    };
    put(0, name);
    put(100, format!("{:07o}", u32::from(mode) * 8).as_bytes());
    put(108, format!("{owner:07o}").as_bytes());
    put(116, b"0000001");
    put(124, format!("{:011o}", content.len()).as_bytes());
    put(136, b"00000000000");
    put(156, &[kind]);
    put(157, target);
    put(257, b"ustar\x0000");
    put(329, format!("{:07o}", owner % 4).as_bytes());
    put(337, format!("{:07o}", mode % 4).as_bytes());
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().copied().map(u32::from).sum();
    header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    archive.extend(header);
    archive.extend(content);
    archive.resize(archive.len().next_multiple_of(512), 0);
}

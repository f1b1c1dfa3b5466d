// SPDX-License-Identifier: GPL-2.0-only
//! What need not be done twice: digests of contents that have not changed, and
//! reports that would say nothing new.
//!
//! The kernel may hand an element of a hash map to another key while a program still
//! reads it. So a digest carries a seal over itself and its key, and one that does
//! not fit is none. Functions that need much stack have a frame of their own, here
//! and elsewhere: a program and what it calls share 512 bytes.

use core::mem::MaybeUninit;

use cima_abi::{DIGEST_LEN, NO_HASH};

use crate::{
    content::ContentId,
    maps::{DIGESTS, SAID, Stat, count},
    siphash::SipHash,
};

/// The digest of a content at a reading of its clock.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Digest {
    pub clock: u64,
    /// The kernel's `enum hash_algo`, or [`NO_HASH`].
    pub algo: u64,
    /// In words: what is hashed and copied most is aligned.
    pub words: [u64; DIGEST_LEN / 8],
    seal: u64,
}

impl Digest {
    /// No digest. Made where it is to lie, word by word: what the compiler would make of an
    /// array's initial value is a loop over bytes.
    #[inline(always)]
    pub fn none(place: &mut MaybeUninit<Self>) -> &mut Self {
        let digest = place.as_mut_ptr();
        // SAFETY: every field of a live place is written before it is called a value.
        unsafe {
            for i in 0..DIGEST_LEN / 8 {
                let word = (&raw mut (*digest).words).cast::<u64>().add(i);
                word.write_volatile(0);
            }
            (*digest).clock = 0;
            (*digest).seal = 0;
            (*digest).algo = u64::from(NO_HASH);
            &mut *digest
        }
    }

    #[inline(always)]
    fn seal(&self, id: &ContentId) -> u64 {
        let mut hash = SipHash::new();
        hash.word(id.sb);
        hash.word(id.inode);
        hash.word(id.generation);
        hash.word(self.clock);
        hash.word(self.algo);
        for word in &self.words {
            hash.word(*word);
        }
        hash.finish()
    }
}

/// What a report was about.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Report {
    pub content: ContentId,
    pub clock: u64,
    /// Keyed hash of everything else.
    pub rest: u64,
}

/// The digest of the content, if it was taken at this very reading of its clock.
#[inline(never)]
pub fn recall(id: &ContentId, clock: u64, digest: &mut Digest) -> bool {
    let Some(element) = DIGESTS.get_ptr(id) else {
        return false;
    };
    // SAFETY: a plain copy of a map element, word by word; a torn one does not fit its seal.
    unsafe {
        digest.clock = (&raw const (*element).clock).read_volatile();
        digest.algo = (&raw const (*element).algo).read_volatile();
        for (i, word) in digest.words.iter_mut().enumerate() {
            *word = (&raw const (*element).words)
                .cast::<u64>()
                .add(i)
                .read_volatile();
        }
        digest.seal = (&raw const (*element).seal).read_volatile();
    }
    let holds = digest.clock == clock && digest.seal == digest.seal(id);
    if !holds {
        digest.algo = u64::from(NO_HASH);
    }
    holds
}

/// Whether the content was measured, at whatever reading.
#[inline(always)]
pub fn was_measured(id: &ContentId) -> bool {
    DIGESTS.get_ptr(id).is_some()
}

/// Keeps a digest. A full map forgets the one that was not used for longest.
#[inline(never)]
pub fn keep(id: &ContentId, digest: &mut Digest) {
    digest.seal = digest.seal(id);
    // Without room there is no digest next time, which costs a hash.
    let _ = DIGESTS.insert(id, &*digest, 0);
}

/// Remembers that a content was measured whose digest may not be kept: without a seal it
/// is never recalled.
#[inline(always)]
pub fn mark(id: &ContentId, digest: &Digest) {
    // Its seal is still 0, which fits no digest but by a chance of one in 2^64.
    let _ = DIGESTS.insert(id, digest, 0);
}

/// Whether this was reported before.
#[inline(always)]
pub fn is_said(report: &Report) -> bool {
    let said = SAID.get_ptr(report).is_some();
    if said {
        count(Stat::Said);
    }
    said
}

/// Remembers a report that the agent is sure to get.
#[inline(always)]
pub fn said(report: &Report) {
    let _ = SAID.insert(report, 1, 0);
}

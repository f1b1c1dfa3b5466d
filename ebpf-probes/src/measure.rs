// SPDX-License-Identifier: GPL-2.0-only
//! Measures a file that is about to be executed in some way: takes its digest,
//! from the kernel or from the cache, and reports it unless that is nothing new.
//!
//! Sound first. A digest is kept only if nobody could write the content before, while and
//! after it was hashed, and it is used only while that is still so: a reading of the
//! content's clock is taken before the first byte is read, and every opening for writing,
//! by whatever system call, moves the clock on. Who can write without opening has it open already,
//! and is counted in `i_writecount` until the last mapping is gone.

use core::mem::MaybeUninit;

use aya_ebpf::{EbpfContext, helpers::generated::bpf_ima_file_hash};
use aya_log_ebpf::debug;
use cima_abi::{DIGEST_LEN, Kind, NS_COUNT, Stat, flag};

use crate::{
    cache::{self, Digest, Report},
    content::{Content, ContentId},
    file::File,
    hand::{Hashed, hand, is_to_be_listed},
    maps::{self, count},
    memo,
    record::{Event, How, emit},
    scope::InScope,
    siphash::SipHash,
};

/// Room for the path of a report, its NUL included. A longer one is reported every time.
const PATH: usize = 192;

/// Measures `file` for the current task.
#[inline(always)]
pub fn measure(ctx: &impl EbpfContext, who: &InScope, file: File, how: &How) {
    let rest = describe(who, file, how.kind);
    if let Some(error) = of_content(who, file, how, rest) {
        debug!(ctx, "no hash: error {} for pid {}", error, who.task.tgid());
    }
}

/// The same, with what a report says besides the content; 0: it is to be said every time.
/// Returns the error if the kernel could not hash.
#[inline(never)]
fn of_content(who: &InScope, file: File, how: &How, rest: u64) -> Option<i32> {
    let mut content = Content::unknown();
    let mut report = Report {
        content: ContentId::default(),
        clock: 0,
        rest,
    };
    content.find(&mut report.content, file);
    report.clock = report.content.clock();
    let mut place = MaybeUninit::uninit();
    let digest = Digest::none(&mut place);
    let mut stable = content.is_cacheable() && !content.has_writer();
    if stable && rest != 0 && cache::is_said(&report) {
        if how.kind as u8 == Kind::Map as u8 {
            memo::note(file, &report);
        }
        return None;
    }
    let mut flags = if content.copied_up {
        flag::COPIED_UP
    } else {
        0
    };
    let mut error = 0;
    if stable && cache::recall(&report.content, report.clock, digest) {
        count(Stat::CacheHit);
    } else {
        error = take(file, digest);
        count(Stat::Hashed);
        stable &= error == 0;
        // Before the last look, so that whoever opens it after that look finds it measured.
        if stable {
            digest.clock = report.clock;
            cache::keep(&report.content, digest);
        } else if error == 0 {
            cache::mark(&report.content, digest);
        }
        if report.content.clock() != report.clock || content.has_writer() {
            flags |= flag::WRITER;
            stable = false;
        }
        if !stable {
            count(Stat::Uncacheable);
        }
    }
    let heard = emit(&Event {
        who,
        file,
        how,
        digest,
        error,
        flags,
    });
    let is_last_word = heard && stable && rest != 0;
    if is_to_be_listed(who) {
        hand(
            who,
            &Hashed {
                file,
                digest,
                error,
                flags,
                report: &report,
                is_last_word,
            },
        );
    } else if is_last_word {
        cache::said(&report);
    }
    (error != 0).then_some(error)
}

/// The kernel's own hash of the whole file; a negative errno if there is none.
#[inline(always)]
fn take(file: File, digest: &mut Digest) -> i32 {
    // SAFETY: the helper writes at most DIGEST_LEN bytes.
    let result = unsafe {
        bpf_ima_file_hash(
            file.as_ptr(),
            (&raw mut digest.words).cast(),
            DIGEST_LEN as u32,
        )
    };
    if result < 0 {
        return result as i32;
    }
    digest.algo = result as u64;
    0
}

/// Keyed hash of what a report says besides the content: for whom, by which path, how.
/// 0: the path is too long or cannot be made, or it is the self-test, which is always told.
#[inline(never)]
fn describe(who: &InScope, file: File, kind: Kind) -> u64 {
    if who.flags & flag::SELF_TEST != 0 {
        return 0;
    }
    let mut path = MaybeUninit::<[u64; PATH / 8]>::uninit();
    let path: *mut u64 = path.as_mut_ptr().cast();
    for i in 0..PATH / 8 {
        // One store each: the compiler's own way to clear memory is a loop over bytes here.
        // SAFETY: inside the buffer.
        unsafe { path.add(i).write_volatile(0) };
    }
    // SAFETY: the buffer has PATH bytes.
    let length = unsafe { file.path(path.cast(), PATH) };
    if length <= 0 || length > PATH as i64 {
        return 0;
    }
    let length = length as usize;
    let mut hash = SipHash::new();
    hash.word(kind as u64 | (length as u64) << 8);
    let ns = who.task.namespaces();
    for pair in 0..NS_COUNT / 2 {
        hash.word(u64::from(ns[2 * pair]) | u64::from(ns[2 * pair + 1]) << 32);
    }
    hash.word(maps::epoch());
    hash.word(who.task.mount_generation());
    hash.word(who.task.cgroup());
    hash.word(who.container);
    for i in 0..PATH / 8 {
        let from = i * 8;
        if from >= length {
            break;
        }
        // SAFETY: inside the buffer, all of which was written.
        let word = unsafe { path.add(i).read() };
        // The kernel leaves what it does not need behind the path: that is not part of it.
        let rest = length - from;
        let word = if rest >= 8 {
            word
        } else {
            word & ((1 << (8 * rest)) - 1)
        };
        hash.word(word);
    }
    hash.finish()
}

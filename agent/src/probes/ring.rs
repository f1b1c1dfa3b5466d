// SPDX-License-Identifier: Apache-2.0
//! The kernel's ring buffer, read without taking: a record stays in it until it is
//! released, so that an agent that dies in between leaves it to the next.
//!
//! Layout (`kernel/bpf/ringbuf.c`, 6.1 and 6.12): a page with the consumer's position,
//! a page with the producer's, then the data twice in a row, so that no record wraps. Positions
//! are bytes since the buffer was made. A record is `u32 length and state ‖ u32 page offset ‖ bytes`,
//! padded to 8.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
    ptr::NonNull,
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
};

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

const HEADER: u64 = 8;
/// `BPF_RINGBUF_BUSY_BIT`: reserved, not written yet.
const BUSY: u32 = 1 << 31;
/// `BPF_RINGBUF_DISCARD_BIT`: reserved, then given up.
const DISCARDED: u32 = 1 << 30;

/// A ring buffer of the kernel, mapped. `F` keeps its descriptor open.
#[derive(Debug)]
pub(super) struct Ring<F> {
    fd: F,
    /// The consumer's page, writable.
    consumer: Region,
    /// The producer's page and the data twice.
    producer: Region,
    page: usize,
    /// Bytes of data, a power of two.
    capacity: u64,
    /// Where reading goes on.
    cursor: u64,
}

impl<F: AsFd> Ring<F> {
    /// Maps the ring buffer `fd` of `capacity` bytes; reading begins at what was released last.
    pub(super) fn map(fd: F, capacity: u32) -> io::Result<Self> {
        let page = rustix::param::page_size();
        let bytes = capacity as usize;
        let consumer = Region::map(fd.as_fd(), 0, page, ProtFlags::READ | ProtFlags::WRITE)?;
        let producer = Region::map(fd.as_fd(), page, page + 2 * bytes, ProtFlags::READ)?;
        let cursor = consumer.position().load(Ordering::Acquire);
        Ok(Self {
            fd,
            consumer,
            producer,
            page,
            capacity: capacity.into(),
            cursor,
        })
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Where reading goes on, in bytes since the buffer was made.
    pub(super) fn cursor(&self) -> u64 {
        self.cursor
    }

    /// Goes on at `position`, if that is ahead, the producer has been there and a record
    /// may begin there.
    pub(super) fn skip_to(&mut self, position: u64) {
        let aligned = position.is_multiple_of(HEADER);
        if aligned && position > self.cursor && position <= self.end() {
            self.cursor = position;
            self.release(position);
        }
    }

    /// Where the kernel will write next.
    pub(super) fn end(&self) -> u64 {
        self.producer.position().load(Ordering::Acquire)
    }

    /// Bytes that wait, read or not, until they are released.
    pub(super) fn fill(&self) -> u64 {
        let released = self.consumer.position().load(Ordering::Relaxed);
        self.end().saturating_sub(released)
    }

    pub(super) fn capacity(&self) -> u64 {
        self.capacity
    }

    /// The next record that is complete, and the position behind it.
    pub(super) fn next(&mut self) -> Option<(&[u8], u64)> {
        loop {
            if self.cursor >= self.end() {
                return None;
            }
            let offset = self.page + (self.cursor & (self.capacity - 1)) as usize;
            let header = self.producer.word(offset).load(Ordering::Acquire);
            if header & BUSY != 0 {
                return None;
            }
            let length = u64::from(header & !(BUSY | DISCARDED)).min(self.capacity - HEADER);
            self.cursor += (HEADER + length).next_multiple_of(HEADER);
            if header & DISCARDED == 0 {
                let at = offset + HEADER as usize;
                return Some((self.producer.bytes(at, length as usize), self.cursor));
            }
        }
    }

    /// Gives everything before `position` back to the kernel.
    pub(super) fn release(&self, position: u64) {
        // After all reads of those bytes; the kernel pairs it with an acquire.
        self.consumer.position().store(position, Ordering::Release);
    }
}

/// Memory shared with the kernel.
#[derive(Debug)]
struct Region {
    start: NonNull<u8>,
    len: usize,
}

#[expect(
    unsafe_code,
    reason = "memory that the kernel writes has no owner in Rust"
)]
// SAFETY: the region is plain memory, valid in every thread; who holds it decides who reads.
unsafe impl Send for Region {}

impl Region {
    fn map(fd: BorrowedFd<'_>, offset: usize, len: usize, prot: ProtFlags) -> io::Result<Self> {
        #[expect(unsafe_code, reason = "mmap")]
        // SAFETY: a fresh mapping at an address that the kernel chooses: it overlaps nothing.
        let start = unsafe {
            mmap(
                std::ptr::null_mut(),
                len,
                prot,
                MapFlags::SHARED,
                fd,
                offset as u64,
            )
        }?;
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Self { start, len })
    }

    /// The position at the region's start.
    fn position(&self) -> &AtomicU64 {
        #[expect(unsafe_code, reason = "shared with the kernel")]
        // SAFETY: a page begins with it, aligned; both sides access it atomically.
        unsafe {
            self.start.cast::<AtomicU64>().as_ref()
        }
    }

    /// The word at `offset`, a multiple of 8 inside the region.
    fn word(&self, offset: usize) -> &AtomicU32 {
        assert!(offset.is_multiple_of(8) && offset + 4 <= self.len);
        #[expect(unsafe_code, reason = "shared with the kernel")]
        // SAFETY: inside the region and aligned, as just checked; the kernel sets it atomically.
        unsafe {
            self.start.add(offset).cast::<AtomicU32>().as_ref()
        }
    }

    /// Bytes of a complete record.
    fn bytes(&self, offset: usize, len: usize) -> &[u8] {
        assert!(offset + len <= self.len);
        #[expect(unsafe_code, reason = "shared with the kernel")]
        // SAFETY: inside the region. The kernel does not touch a complete record before it is
        // released, which takes the ring's `&mut self` that this borrow holds off.
        unsafe {
            std::slice::from_raw_parts(self.start.add(offset).as_ptr(), len)
        }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        #[expect(unsafe_code, reason = "munmap")]
        // SAFETY: the mapping is ours, and no borrow of it outlives the region. An error is a
        // wrong address, which it is not.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), self.len) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs::File, os::unix::fs::FileExt};

    const CAPACITY: u32 = 4096;

    /// A file with the buffer's layout; the kernel's second view of the data is a copy here.
    struct Fake(File);

    impl Fake {
        fn new() -> Self {
            let file = tempfile::tempfile().unwrap();
            let page = rustix::param::page_size() as u64;
            file.set_len(2 * page + 2 * u64::from(CAPACITY)).unwrap();
            Self(file)
        }

        fn ring(&self) -> Ring<File> {
            Ring::map(self.0.try_clone().unwrap(), CAPACITY).unwrap()
        }

        fn put(&self, position: u64, header: u32, bytes: &[u8]) -> u64 {
            let page = rustix::param::page_size() as u64;
            let mut record = header.to_ne_bytes().to_vec();
            record.extend([0; 4]);
            record.extend(bytes);
            for (i, byte) in record.iter().enumerate() {
                let at = (position + i as u64) % u64::from(CAPACITY);
                for copy in 0..2 {
                    let at = 2 * page + at + copy * u64::from(CAPACITY);
                    self.0.write_all_at(&[*byte], at).unwrap();
                }
            }
            let end = position + (record.len() as u64).next_multiple_of(8);
            self.0.write_all_at(&end.to_ne_bytes(), page).unwrap();
            end
        }
    }

    #[test]
    fn a_record_stays_until_it_is_released() {
        let fake = Fake::new();
        let end = fake.put(0, 5, b"first");
        fake.put(end, 6, b"second");
        let mut ring = fake.ring();
        assert_eq!(ring.next().unwrap(), (&b"first"[..], end));
        drop(ring);
        let mut ring = fake.ring();
        assert_eq!(ring.next().unwrap().0, b"first", "it was not released");
        ring.release(end);
        drop(ring);
        let mut ring = fake.ring();
        assert_eq!(ring.next().unwrap().0, b"second");
        assert!(ring.next().is_none());
    }

    #[test]
    fn what_is_being_written_is_waited_for_and_what_was_given_up_is_passed_over() {
        let fake = Fake::new();
        let first = fake.put(0, 3 | DISCARDED, b"no!");
        fake.put(first, 4 | BUSY, b"late");
        let mut ring = fake.ring();
        assert!(ring.next().is_none());
        fake.put(first, 4, b"late");
        assert_eq!(ring.next().unwrap().0, b"late");
    }

    #[test]
    fn a_record_may_lie_across_the_end_of_the_buffer() {
        let fake = Fake::new();
        let position = u64::from(CAPACITY) - 16;
        fake.put(position, 20, b"twenty bytes of text");
        let mut ring = fake.ring();
        ring.skip_to(position);
        assert_eq!(ring.next().unwrap().0, b"twenty bytes of text");
    }

    #[test]
    fn a_position_that_the_kernel_has_not_reached_is_not_taken() {
        let fake = Fake::new();
        let end = fake.put(0, 5, b"first");
        let mut ring = fake.ring();
        for wrong in [end + 8, end - 3] {
            ring.skip_to(wrong);
            assert_eq!(ring.cursor(), 0);
        }
        ring.skip_to(end);
        assert_eq!((ring.cursor(), ring.fill()), (end, 0));
    }
}

// SPDX-License-Identifier: Apache-2.0
//! Reads a value of a bolt database, which is how containerd keeps what it knows (`go.etcd.io/bbolt`, file format 2). Only
//! as much of the format as leads to a value; every number in it is another's word. No lock is taken: containerd
//! holds it as long as it runs. A page is never changed while one of the two last transactions needs it, so bytes that
//! were read while at most one transaction ended are whole (`stable`).

use std::{
    fs::File,
    io::{self, Read as _},
    path::Path,
};

const MAGIC: u32 = 0xED0C_DAED;
const VERSION: u32 = 2;
/// Bytes in front of a page's elements: id, flags, count, overflow.
const PAGE_HEADER: usize = 16;
const BRANCH: u16 = 1;
const LEAF: u16 = 2;
/// Bytes of a branch's and of a leaf's element.
const ELEMENT: usize = 16;
/// Flag of a leaf's element whose value is a bucket.
const BUCKET: u32 = 1;
/// Bytes in front of a bucket that lies in its value: root, sequence.
const BUCKET_HEADER: usize = 16;
/// Deeper than any tree of a file that is read.
const DEPTH: usize = 32;
/// The largest file that is read.
const LARGEST: u64 = 256 << 20;
/// How often a file that is being written is read again.
const TRIES: usize = 10;

/// A database in memory.
#[derive(Debug)]
pub(super) struct Bolt {
    data: Vec<u8>,
    page_size: usize,
    root: u64,
    transaction: u64,
}

/// A page, or a bucket that lies in its parent's value.
#[derive(Clone, Copy)]
struct Page<'a>(&'a [u8]);

impl Bolt {
    /// Reads the file, again if too much was written to it meanwhile.
    ///
    /// # Errors
    /// It cannot be read, is too large, is no such database, or is written without end.
    pub(super) fn read(path: &Path) -> io::Result<Self> {
        let odd = |why: &str| io::Error::new(io::ErrorKind::InvalidData, why.to_owned());
        for _ in 0..TRIES {
            let mut data = Vec::new();
            File::open(path)?.take(LARGEST + 1).read_to_end(&mut data)?;
            if data.len() as u64 > LARGEST {
                return Err(odd("it is larger than any that is read"));
            }
            let bolt = Self::of(data).ok_or_else(|| odd("it is no bolt database"))?;
            let mut again = Vec::new();
            let metas = 2 * bolt.page_size as u64;
            File::open(path)?.take(metas).read_to_end(&mut again)?;
            let now = Self::of(again).map(|bolt| bolt.transaction);
            if now.is_some_and(|now| now.saturating_sub(bolt.transaction) <= 1) {
                return Ok(bolt);
            }
        }
        Err(odd("it is written without end"))
    }

    /// The state after the last transaction that is whole in `data`.
    fn of(data: Vec<u8>) -> Option<Self> {
        let first = meta(&data, 0);
        // Where the second one is, a first that is torn does not say.
        let sizes = first
            .map(|meta| meta.0)
            .into_iter()
            .chain([4096, 8192, 16384, 65536]);
        let second = sizes.into_iter().find_map(|size| meta(&data, size));
        let (page_size, root, transaction) = [first, second]
            .into_iter()
            .flatten()
            .max_by_key(|meta| meta.2)?;
        Some(Self {
            data,
            page_size,
            root,
            transaction,
        })
    }

    /// The value at the end of a path of buckets.
    pub(super) fn get(&self, path: &[&[u8]]) -> Option<&[u8]> {
        let (key, buckets) = path.split_last()?;
        let mut page = self.page(self.root)?;
        for bucket in buckets {
            let (flags, value) = self.find(page, bucket)?;
            if flags & BUCKET == 0 {
                return None;
            }
            page = match u64_at(value, 0)? {
                0 => Page(value.get(BUCKET_HEADER..)?),
                root => self.page(root)?,
            };
        }
        let (flags, value) = self.find(page, key)?;
        (flags & BUCKET == 0).then_some(value)
    }

    fn page(&self, number: u64) -> Option<Page<'_>> {
        let at = usize::try_from(number).ok()?.checked_mul(self.page_size)?;
        let overflow = usize::try_from(u32_at(&self.data, at.checked_add(12)?)?).ok()?;
        let len = overflow.checked_add(1)?.checked_mul(self.page_size)?;
        self.data.get(at..at.checked_add(len)?).map(Page)
    }

    /// Flags and value of a key below a page.
    fn find<'a>(&'a self, mut page: Page<'a>, key: &[u8]) -> Option<(u32, &'a [u8])> {
        for _ in 0..DEPTH {
            match page.flags()? {
                LEAF => return page.leaf(key),
                // The last child that begins with this key or one before.
                BRANCH => page = self.page(page.child(key)?)?,
                _ => return None,
            }
        }
        None
    }
}

impl<'a> Page<'a> {
    fn flags(self) -> Option<u16> {
        u16_at(self.0, 8)
    }

    fn count(self) -> Option<usize> {
        u16_at(self.0, 10).map(usize::from)
    }

    /// The element's place, and bytes from `pos` (counted from there), of length `len`.
    fn bytes(self, element: usize, pos: u32, len: u32) -> Option<&'a [u8]> {
        let at = element.checked_add(usize::try_from(pos).ok()?)?;
        self.0.get(at..at.checked_add(usize::try_from(len).ok()?)?)
    }

    fn leaf(self, wanted: &[u8]) -> Option<(u32, &'a [u8])> {
        for number in 0..self.count()? {
            let at = PAGE_HEADER + number * ELEMENT;
            let (flags, pos) = (u32_at(self.0, at)?, u32_at(self.0, at + 4)?);
            let (key, value) = (u32_at(self.0, at + 8)?, u32_at(self.0, at + 12)?);
            if self.bytes(at, pos, key)? == wanted {
                return Some((flags, self.bytes(at, pos.checked_add(key)?, value)?));
            }
        }
        None
    }

    fn child(self, wanted: &[u8]) -> Option<u64> {
        let mut child = None;
        for number in 0..self.count()? {
            let at = PAGE_HEADER + number * ELEMENT;
            let key = self.bytes(at, u32_at(self.0, at)?, u32_at(self.0, at + 4)?)?;
            if child.is_some() && key > wanted {
                break;
            }
            child = u64_at(self.0, at + 8);
        }
        child
    }
}

/// Page size, root and transaction of the meta page at `page`, if its sum is right.
fn meta(data: &[u8], page: usize) -> Option<(usize, u64, u64)> {
    /// Bytes in front of the sum: magic, version, page size, flags, root, sequence, free list, last page, transaction.
    const SUMMED: usize = 56;
    let at = page.checked_add(PAGE_HEADER)?;
    let meta = data.get(at..at.checked_add(SUMMED + 8)?)?;
    let is_one = u32_at(meta, 0)? == MAGIC && u32_at(meta, 4)? == VERSION;
    let size = usize::try_from(u32_at(meta, 8)?).ok()?;
    let sum = fnv1a(&meta[..SUMMED]);
    let whole = is_one && size.is_power_of_two() && size >= 512 && u64_at(meta, SUMMED)? == sum;
    whole.then_some((size, u64_at(meta, 16)?, u64_at(meta, 48)?))
}

/// FNV-1a, 64 bits.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |sum, byte| {
        (sum ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    const SIZE: usize = 4096;

    /// A value, or a bucket.
    pub(in crate::admission) enum Item {
        Value(&'static str),
        Bucket(Vec<(&'static str, Item)>),
    }

    /// A leaf with these items; buckets lie in their values.
    fn leaf(items: &[(&'static str, Item)]) -> Vec<u8> {
        let mut elements = Vec::new();
        let mut bytes = Vec::new();
        for (number, (key, item)) in items.iter().enumerate() {
            let (flags, value) = match item {
                Item::Value(text) => (0u32, text.as_bytes().to_vec()),
                Item::Bucket(items) => (BUCKET, [vec![0; BUCKET_HEADER], leaf(items)].concat()),
            };
            let pos = (items.len() - number) * ELEMENT + bytes.len();
            for word in [flags, pos as u32, key.len() as u32, value.len() as u32] {
                elements.extend(word.to_le_bytes());
            }
            bytes.extend(key.as_bytes());
            bytes.extend(value);
        }
        let mut page = vec![0; PAGE_HEADER];
        page[8..10].copy_from_slice(&LEAF.to_le_bytes());
        page[10..12].copy_from_slice(&(items.len() as u16).to_le_bytes());
        [page, elements, bytes].concat()
    }

    /// A database: two meta pages, a branch, a leaf for each of two halves.
    pub(in crate::admission) fn database(halves: &[Vec<(&'static str, Item)>; 2]) -> Vec<u8> {
        let mut data = Vec::new();
        for transaction in [7u64, 8] {
            let mut meta = Vec::new();
            for word in [MAGIC, VERSION, SIZE as u32, 0] {
                meta.extend(word.to_le_bytes());
            }
            for word in [2u64, 0, 0, 5, transaction] {
                meta.extend(word.to_le_bytes());
            }
            meta.extend(fnv1a(&meta).to_le_bytes());
            data.extend([vec![0; PAGE_HEADER], meta].concat());
            data.resize(data.len().next_multiple_of(SIZE), 0);
        }
        let mut branch = vec![0; PAGE_HEADER];
        branch[8..10].copy_from_slice(&BRANCH.to_le_bytes());
        branch[10..12].copy_from_slice(&2u16.to_le_bytes());
        let keys = [halves[0][0].0, halves[1][0].0];
        let mut after = 0;
        for (number, key) in keys.iter().enumerate() {
            let pos = (2 - number) * ELEMENT + after;
            branch.extend((pos as u32).to_le_bytes());
            branch.extend((key.len() as u32).to_le_bytes());
            branch.extend((3 + number as u64).to_le_bytes());
            after += key.len();
        }
        branch.extend(keys.concat().bytes());
        for page in [branch, leaf(&halves[0]), leaf(&halves[1])] {
            data.extend(page);
            data.resize(data.len().next_multiple_of(SIZE), 0);
        }
        data
    }

    fn sample() -> Vec<u8> {
        let inner = vec![("image", Item::Value("site/web:1")), ("x", Item::Value(""))];
        database(&[
            vec![("a", Item::Value("1")), ("b", Item::Bucket(inner))],
            vec![("m", Item::Value("2")), ("z", Item::Value("3"))],
        ])
    }

    #[test]
    fn a_value_is_found_through_branches_and_buckets() {
        let bolt = Bolt::of(sample()).unwrap();
        assert_eq!(bolt.transaction, 8);
        let get = |path: &[&str]| {
            let path: Vec<_> = path.iter().map(|part| part.as_bytes()).collect();
            bolt.get(&path)
                .map(|value| String::from_utf8(value.to_vec()).unwrap())
        };
        for (path, value) in [
            (&["a"][..], Some("1")),
            (&["z"], Some("3")),
            (&["b", "image"], Some("site/web:1")),
            (&["b", "x"], Some("")),
            (&["b"], None),
            (&["a", "image"], None),
            (&["b", "none"], None),
            (&["none"], None),
            (&[], None),
        ] {
            assert_eq!(get(path).as_deref(), value, "{path:?}");
        }
    }

    #[test]
    fn a_torn_meta_page_leaves_the_other() {
        for (torn, transaction) in [(0, 8), (1, 7)] {
            let mut data = sample();
            data[torn * SIZE + PAGE_HEADER + 20] ^= 1;
            assert_eq!(Bolt::of(data).unwrap().transaction, transaction);
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("meta.db");
        std::fs::write(&path, sample()).unwrap();
        assert!(Bolt::read(&path).unwrap().get(&[b"a"]).is_some());
        std::fs::write(&path, "garbage").unwrap();
        assert!(
            Bolt::read(&path)
                .unwrap_err()
                .to_string()
                .contains("no bolt database")
        );
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic_or_run_for_ever(edits in proptest::collection::vec((0..5 * SIZE, any::<u8>()), 0..40)) {
            let mut data = sample();
            for (at, byte) in edits {
                data[at] = byte;
            }
            if let Some(bolt) = Bolt::of(data) {
                for path in [&[&b"b"[..], b"image"][..], &[b"z"]] {
                    let _ = bolt.get(path);
                }
            }
        }
    }
}

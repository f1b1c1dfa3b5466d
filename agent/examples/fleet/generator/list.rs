// SPDX-License-Identifier: Apache-2.0
//! A list on its way to the disk, with the PCR beside it: what `ledger` and a TPM make, without syncing and waiting.

use std::{
    collections::HashSet,
    fs::{self, File},
    io::{self, BufWriter, Write as _},
    ops::AddAssign,
    path::{Path, PathBuf},
};

use cima_agent::measure::{Batch, PolicyEvent, batch_name};
use ima_log::{Digest, Entry, HashAlgorithm, Replay};

pub(super) const PCR: u32 = 13;
const BANKS: [HashAlgorithm; 2] = [HashAlgorithm::Sha1, HashAlgorithm::Sha256];
/// As the ledger: no group is begun in a segment that has so many bytes.
const SEGMENT_BYTES: u64 = 64 << 20;

/// How much.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Written {
    pub(crate) entries: u64,
    pub(crate) bytes: u64,
}

impl AddAssign for Written {
    fn add_assign(&mut self, other: Self) {
        self.entries += other.entries;
        self.bytes += other.bytes;
    }
}

/// The list of a boot of a node.
pub(super) struct List {
    node: PathBuf,
    dir: PathBuf,
    segment: BufWriter<File>,
    number: u32,
    /// Bytes of the segment.
    len: u64,
    written: Written,
    replay: Replay,
    listed: HashSet<PolicyEvent>,
    next_batch: u64,
    record: Vec<u8>,
}

impl List {
    /// An empty one below the directory of a node.
    pub(super) fn new(node: &Path, boot_id: &str) -> io::Result<Self> {
        let dir = node.join("ledger").join(boot_id);
        if dir.exists() {
            // What another seed left there would be read as a part of this.
            fs::remove_dir_all(&dir)?;
        }
        fs::create_dir_all(&dir)?;
        Ok(Self {
            node: node.to_owned(),
            segment: segment(&dir, 1)?,
            dir,
            number: 1,
            len: 0,
            written: Written::default(),
            replay: Replay::new(&BANKS),
            listed: HashSet::new(),
            next_batch: 0,
            record: Vec::new(),
        })
    }

    pub(super) fn entries(&self) -> u64 {
        self.written.entries
    }

    /// What the PCR holds.
    pub(super) fn values(&self) -> Vec<Digest> {
        BANKS
            .iter()
            .filter_map(|bank| self.replay.value(PCR, *bank))
            .collect()
    }

    /// The policy events that are new in this boot, then the batch.
    pub(super) fn commit(&mut self, events: Vec<PolicyEvent>, batch: Batch) -> io::Result<()> {
        for event in events {
            if !self.listed.contains(&event) {
                self.push(&event.name, event.payload.as_bytes())?;
                self.listed.insert(event);
            }
        }
        if batch.is_empty() {
            return Ok(());
        }
        let seq = self.next_batch;
        self.next_batch += 1;
        self.push(&batch_name(seq), &batch.into_payload(seq))
    }

    /// An entry of any kind.
    pub(super) fn push(&mut self, name: &str, payload: &[u8]) -> io::Result<()> {
        let entry = Entry::ima_buf(PCR, HashAlgorithm::Sha256, name, payload);
        let entry = entry.map_err(io::Error::other)?;
        let values = [
            entry.template_hash,
            entry.template_digest(HashAlgorithm::Sha256),
        ];
        self.replay.extend_values(PCR, &values);
        if self.len >= SEGMENT_BYTES {
            self.segment.flush()?;
            self.number += 1;
            self.segment = segment(&self.dir, self.number)?;
            self.len = 0;
        }
        self.record.clear();
        entry.append_binary(&mut self.record);
        self.segment.write_all(&self.record)?;
        let bytes = self.record.len() as u64;
        self.len += bytes;
        self.written += Written { entries: 1, bytes };
        Ok(())
    }

    /// The last of it, and what the PCR holds by then.
    pub(super) fn finish(mut self) -> io::Result<Written> {
        self.segment.flush()?;
        let mut pcrs = String::new();
        for value in self.values() {
            let (bank, hex) = (value.algorithm(), hex::encode_upper(value.bytes()));
            pcrs.push_str(&format!("  {bank}:\n    {PCR}: 0x{hex}\n"));
        }
        fs::write(self.node.join("pcrs.yaml"), pcrs)?;
        Ok(self.written)
    }
}

fn segment(dir: &Path, number: u32) -> io::Result<BufWriter<File>> {
    let file = File::create(dir.join(format!("{number:08}.ima")))?;
    Ok(BufWriter::with_capacity(1 << 20, file))
}

// SPDX-License-Identifier: Apache-2.0
//! Judging a list that grows against a TPM that is being extended.
//!
//! The agent (and a kernel) appends an entry, *then* extends it. So the PCR is read
//! first and the list after it: whatever the PCR held then is in the list, and an
//! honest list has a beginning that replays to it. The rest is either new or was never
//! extended. To tell them apart the first look fixes how many entries must be in the
//! PCR: all that it finds. A later look, with the PCR read anew, is good when at least
//! these are. Nothing that is good had to be believed: the entries after them were
//! appended since, and are reported as such.
//!
//! Banks are read one by one, so each may hold another beginning; the shortest counts.

use std::{thread, time::Duration};

use ima_log::{Digest, Entry};

use super::source::{Entries, Source, SourceError};
use crate::{
    sink::{Sink, SinkError},
    verify::{Judge, Judgement},
};

/// How often a list that moves is looked at.
const LOOKS: u32 = 5;
/// Time between two looks: far longer than one extend takes, whatever the TPM.
const PAUSE: Duration = Duration::from_millis(200);

/// What prevented a judgement.
#[derive(Debug, thiserror::Error)]
pub enum LiveError {
    /// See [`SourceError`].
    #[error(transparent)]
    Source(#[from] SourceError),
    /// See [`SinkError`].
    #[error(transparent)]
    Tpm(#[from] SinkError),
}

/// The last look's judgement.
pub(super) struct Looked {
    pub(super) judgement: Judgement,
    /// How many looks there were.
    pub(super) looks: u32,
    /// Whether the PCR changed between the last two.
    pub(super) moving: bool,
}

/// Judges `source`, already opened as `entries`, against what `tpm` holds; `judge` makes
/// a judge for the values read. Standard input can be looked at once only.
pub(super) fn judge(
    source: &Source,
    entries: Entries,
    tpm: &mut dyn Sink,
    judge: impl Fn(Vec<Digest>) -> Judge,
) -> Result<Looked, LiveError> {
    let mut opened = Some(entries);
    let mut required = None;
    let mut last: Option<(Vec<Digest>, u64)> = None;
    let mut looks = 0;
    loop {
        looks += 1;
        let values = tpm.read()?;
        let entries = match opened.take() {
            Some(entries) => entries,
            None => source.open()?,
        };
        let (judge, torn) = read(entries, judge(values.clone()))?;
        let count = judge.entries();
        let judgement = judge.finish(*required.get_or_insert(count));
        let moving = last.as_ref().is_some_and(|(before, _)| *before != values);
        // Half a record at the end is one being written only if others were before it.
        let grew = last.as_ref().is_some_and(|(_, before)| count > *before);
        let settled = judgement.is_good() && (torn.is_none() || grew);
        let may_change = judgement.lags() || (judgement.is_good() && torn.is_some());
        let still = last.is_some() && !moving && !grew;
        if settled || !may_change || still || looks == LOOKS || *source == Source::Stdin {
            return match torn {
                Some(error) if !settled => Err(error.into()),
                _ => Ok(Looked {
                    judgement,
                    looks,
                    moving,
                }),
            };
        }
        last = Some((values, count));
        thread::sleep(PAUSE);
    }
}

/// Reads the list to its end; a torn end is given beside the judge, any other error ends it.
pub(super) fn read(
    mut entries: Entries,
    mut judge: Judge,
) -> Result<(Judge, Option<SourceError>), SourceError> {
    let mut entry = Entry::default();
    while let Some(read) = entries.read(&mut entry) {
        match read {
            Ok(place) => judge.push(place, &entry),
            Err(error) if error.is_torn() && entries.read(&mut entry).is_none() => {
                return Ok((judge, Some(error)));
            }
            Err(error) => return Err(error),
        }
    }
    Ok((judge, None))
}

#[cfg(test)]
mod tests {
    use std::{fs, fs::OpenOptions, io::Write, path::PathBuf};

    use ima_log::{HashAlgorithm, Replay};
    use tempfile::TempDir;

    use super::*;
    use crate::verify::Anchor;

    const BANK: HashAlgorithm = HashAlgorithm::Sha256;

    fn entry(n: u64) -> Entry {
        Entry::ima_buf(13, BANK, format!("entry-{n}"), &n.to_le_bytes()).unwrap()
    }

    /// An agent and its TPM. After each read of the PCR it does what its pace says.
    struct AtWork {
        list: PathBuf,
        _dir: TempDir,
        pcr: Replay,
        listed: u64,
        extended: u64,
        /// Entries listed, then extended.
        pace: (u64, u64),
    }

    impl AtWork {
        fn new(listed: u64, extended: u64, pace: (u64, u64)) -> Self {
            let dir = tempfile::tempdir().unwrap();
            let list = dir.path().join("list.ima");
            fs::write(&list, b"").unwrap();
            let mut agent = Self {
                list,
                _dir: dir,
                pcr: Replay::new(&[BANK]),
                listed: 0,
                extended: 0,
                pace,
            };
            agent.work(listed, extended);
            agent
        }

        fn work(&mut self, list: u64, extend: u64) {
            for _ in 0..list {
                let entry = entry(self.listed);
                self.append(&entry.to_binary());
                self.listed += 1;
            }
            for _ in 0..extend.min(self.listed - self.extended) {
                self.pcr.extend(&entry(self.extended));
                self.extended += 1;
            }
        }

        fn append(&self, bytes: &[u8]) {
            let mut file = OpenOptions::new().append(true).open(&self.list).unwrap();
            file.write_all(bytes).unwrap();
        }

        fn judged(mut self) -> Result<Looked, LiveError> {
            let source = Source::File(self.list.clone());
            let entries = source.open()?;
            judge(&source, entries, &mut self, |values| {
                let values = values.into_iter().map(|value| (13, value)).collect();
                Judge::new(Anchor::Exactly(values))
            })
        }
    }

    impl Sink for AtWork {
        fn pcr(&self) -> Option<u32> {
            Some(13)
        }

        fn read(&mut self) -> Result<Vec<Digest>, SinkError> {
            let value = self.pcr.value(13, BANK);
            let (list, extend) = self.pace;
            self.work(list, extend);
            Ok(value.into_iter().collect())
        }

        fn extend(&mut self, _: &Entry, _: &[Digest]) -> Result<(), SinkError> {
            unreachable!("a verifier extends nothing")
        }

        fn reopen(&mut self) -> Result<(), SinkError> {
            Ok(())
        }
    }

    #[test]
    fn an_agent_that_rests_needs_one_look() {
        let looked = AtWork::new(5, 5, (0, 0)).judged().unwrap();
        assert!(looked.judgement.is_good());
        assert_eq!((looked.looks, looked.judgement.since), (1, 0));
    }

    #[test]
    fn what_an_agent_lists_meanwhile_is_not_held_against_it() {
        // Each look finds 3 entries that the PCR, read before them, did not hold.
        let looked = AtWork::new(5, 5, (3, 3)).judged().unwrap();
        assert!(looked.judgement.is_good());
        assert_eq!(looked.looks, 2);
        assert_eq!((looked.judgement.entries, looked.judgement.since), (11, 3));
    }

    #[test]
    fn an_entry_that_is_never_extended_is_found_though_others_follow() {
        let looked = AtWork::new(5, 4, (0, 0)).judged().unwrap();
        assert!(looked.judgement.lags() && !looked.moving);
        assert_eq!(looked.looks, 2);
        let looked = AtWork::new(5, 4, (1, 0)).judged().unwrap();
        assert!(looked.judgement.lags());
        assert_eq!(looked.looks, LOOKS);
    }

    #[test]
    fn an_agent_that_is_far_behind_is_said_to_be() {
        let looked = AtWork::new(100, 4, (0, 1)).judged().unwrap();
        assert!(looked.judgement.lags() && looked.moving);
        assert_eq!(looked.looks, LOOKS);
    }

    #[test]
    fn a_list_that_does_not_fit_is_not_looked_at_again() {
        let mut agent = AtWork::new(5, 5, (0, 0));
        agent.pcr.extend(&entry(7));
        let looked = agent.judged().unwrap();
        assert!(!looked.judgement.is_good());
        assert_eq!(looked.looks, 1);
    }

    #[test]
    fn a_torn_end_that_stays_is_an_error() {
        let agent = AtWork::new(5, 5, (0, 0));
        agent.append(&entry(5).to_binary()[..20]);
        let error = agent.judged().err().unwrap().to_string();
        assert!(error.contains("record 5"), "{error}");
    }
}

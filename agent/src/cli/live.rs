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
//!
//! A host's list is read before the ledger beside it, which is written before it: what the agent put into the one by then
//! is in the other. What the ledger has besides must be in the host's list at a later look.

use std::{thread, time::Duration};

use ima_log::{Digest, Entry};

use super::source::{Damage, Entries, Source, SourceError};
use crate::{
    sink::{Sink, SinkError},
    verify::{Extent, HostJudge, Judge, Judgement, Place},
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

/// What one look found.
struct Look {
    judgement: Judgement,
    torn: Option<Torn>,
    extent: Extent,
}

/// The list ends inside a record.
struct Torn {
    damage: Damage,
    in_ledger: bool,
}

impl Torn {
    fn tell(self, judgement: &mut Judgement) {
        let Damage { place, said, .. } = self.damage;
        judgement.torn(place, said, self.in_ledger);
    }
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
    look_on(*source == Source::Stdin, tpm, |values, required| {
        let (judge, torn) = read(reopened(&mut opened, source)?, judge(values.to_vec()))?;
        let torn = torn.map(|damage| Torn {
            damage,
            in_ledger: false,
        });
        let host = judge.entries();
        let extent = Extent { host, ledger: 0 };
        let judgement = judge.finish(required.unwrap_or(extent).host);
        Ok(Look {
            judgement,
            torn,
            extent,
        })
    })
}

/// The same of a host's list and, if there is one, its ledger.
pub(super) fn judge_host(
    mut lists: HostLists<'_>,
    tpm: &mut dyn Sink,
    judge: impl Fn(Vec<Digest>) -> HostJudge,
) -> Result<Looked, LiveError> {
    let once = lists.has_stdin();
    look_on(once, tpm, |values, required| {
        lists.look(judge(values.to_vec()), required)
    })
}

/// Looks until what is found is good, cannot become so, or was looked at often enough.
fn look_on(
    once: bool,
    tpm: &mut dyn Sink,
    mut look: impl FnMut(&[Digest], Option<Extent>) -> Result<Look, SourceError>,
) -> Result<Looked, LiveError> {
    let mut required = None;
    let mut last: Option<(Vec<Digest>, Extent)> = None;
    let mut looks = 0;
    loop {
        looks += 1;
        let values = tpm.read()?;
        let Look {
            mut judgement,
            torn,
            extent,
        } = look(&values, required)?;
        required.get_or_insert(extent);
        let moving = last.as_ref().is_some_and(|(before, _)| *before != values);
        // Half a record at the end is one being written only if others were before it.
        let grew = last
            .as_ref()
            .is_some_and(|(_, before)| extent.host > before.host || extent.ledger > before.ledger);
        let settled = judgement.holds() && (torn.is_none() || grew);
        let may_change = judgement.lags() || (judgement.holds() && torn.is_some());
        let still = last.is_some() && !moving && !grew;
        if settled || !may_change || still || looks == LOOKS || once {
            if let Some(torn) = torn.filter(|_| !settled) {
                torn.tell(&mut judgement);
            }
            return Ok(Looked {
                judgement,
                looks,
                moving,
            });
        }
        last = Some((values, extent));
        thread::sleep(PAUSE);
    }
}

/// A host's list and the ledger beside it, each opened or to be opened.
pub(super) struct HostLists<'a> {
    host: (&'a Source, Option<Entries>),
    ledger: Option<(Source, Option<Entries>)>,
}

impl<'a> HostLists<'a> {
    pub(super) fn new(
        host: &'a Source,
        entries: Entries,
        ledger: Option<(Source, Entries)>,
    ) -> Self {
        Self {
            host: (host, Some(entries)),
            ledger: ledger.map(|(source, entries)| (source, Some(entries))),
        }
    }

    fn has_stdin(&self) -> bool {
        let ledger = self.ledger.as_ref().map(|(source, _)| source);
        *self.host.0 == Source::Stdin || ledger == Some(&Source::Stdin)
    }

    /// Against values that do not change: one look, and a torn end is a fault.
    pub(super) fn once(&mut self, judge: HostJudge) -> Result<Looked, SourceError> {
        let Look {
            mut judgement,
            torn,
            ..
        } = self.look(judge, None)?;
        if let Some(torn) = torn {
            torn.tell(&mut judgement);
        }
        Ok(Looked {
            judgement,
            looks: 1,
            moving: false,
        })
    }

    fn look(
        &mut self,
        mut judge: HostJudge,
        required: Option<Extent>,
    ) -> Result<Look, SourceError> {
        let (source, opened) = &mut self.host;
        let entries = reopened(opened, source)?;
        let torn = each(entries, |read| match read {
            Ok((place, entry)) => judge.push(place, entry),
            Err(Damage { place, torn, said }) => judge.damaged(place, torn, said),
        })?;
        let of = |in_ledger| move |damage| Torn { damage, in_ledger };
        let mut torn = torn.filter(|_| !judge.is_behind()).map(of(false));
        if let Some((source, opened)) = &mut self.ledger {
            let entries = reopened(opened, source)?;
            let of_ledger = each(entries, |read| match read {
                Ok((place, entry)) => judge.push_ledger(place, entry),
                Err(Damage { place, torn, said }) => judge.damaged_ledger(place, torn, said),
            })?;
            torn = torn.or(of_ledger.map(of(true)));
        }
        let extent = judge.extent();
        let required = required.unwrap_or(extent);
        let unlisted = judge.unlisted(required);
        if let Some(index) = unlisted.filter(|_| *self.host.0 != Source::Stdin) {
            name(self.host.0, index, &mut judge)?;
        }
        let judgement = judge.finish(required);
        Ok(Look {
            judgement,
            torn,
            extent,
        })
    }
}

/// Reads the host's list again, up to the entry of this index.
fn name(host: &Source, index: u64, judge: &mut HostJudge) -> Result<(), SourceError> {
    let mut entries = host.open()?;
    let mut entry = Entry::default();
    while let Some(read) = entries.read(&mut entry) {
        let place = read?;
        if place.index == index {
            judge.name(place, &entry);
            break;
        }
    }
    Ok(())
}

fn reopened(opened: &mut Option<Entries>, source: &Source) -> Result<Entries, SourceError> {
    match opened.take() {
        Some(entries) => Ok(entries),
        None => source.open(),
    }
}

/// Reads the list to its end; a torn end is given beside the judge.
pub(super) fn read(
    entries: Entries,
    mut judge: Judge,
) -> Result<(Judge, Option<Damage>), SourceError> {
    let torn = each(entries, |read| match read {
        Ok((place, entry)) => judge.push(place, entry),
        Err(Damage { place, torn, said }) => judge.damaged(place, torn, said),
    })?;
    let torn = torn.filter(|_| !judge.is_behind());
    Ok((judge, torn))
}

/// Hands over each entry of a list, and each record that is none; if that is one that the list ends in, it is given. Whatever cannot be read of
/// a segment, the next one goes on.
fn each(
    mut entries: Entries,
    mut take: impl FnMut(Result<(Place, &Entry), Damage>),
) -> Result<Option<Damage>, SourceError> {
    let mut entry = Entry::default();
    let mut damage: Option<Damage> = None;
    while let Some(read) = entries.read(&mut entry) {
        if let Some(damage) = damage.take() {
            take(Err(damage));
        }
        match read {
            Ok(place) => take(Ok((place, &entry))),
            Err(error) => damage = Some(entries.damage(error)?),
        }
    }
    match damage {
        Some(damage) if !damage.torn => {
            take(Err(damage));
            Ok(None)
        }
        damage => Ok(damage),
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, fs::OpenOptions, io::Write, path::PathBuf};

    use ima_log::{HashAlgorithm, Replay};
    use tempfile::TempDir;

    use super::*;
    use crate::{
        measure::{Batch, ContextEvent, PolicyEvent, batch_name, proto},
        verify::Anchor,
    };

    const BANK: HashAlgorithm = HashAlgorithm::Sha256;

    /// The first begins a list of cima's.
    fn entry(n: u64) -> Entry {
        let mut start = Batch::new();
        let says = proto::Start {
            pcr: Some(13),
            sink: "kernel".into(),
            ..Default::default()
        };
        let says = proto::context_event::What::Start(says);
        start.push(ContextEvent::of_agent(0, says));
        let (name, payload) = match n {
            0 => (batch_name(0), start.into_payload(0)),
            n => (format!("cima-image:{n}"), n.to_le_bytes().to_vec()),
        };
        Entry::ima_buf(13, BANK, name, &payload).unwrap()
    }

    /// An agent and its TPM. After each read of the PCR it does what its pace says.
    struct AtWork {
        list: PathBuf,
        dir: TempDir,
        pcr: Replay,
        listed: u64,
        extended: u64,
        /// Entries listed, then extended.
        pace: (u64, u64),
        host: Option<Host>,
    }

    /// A host's list that the agent puts its entries into, and the kernel, which extends each at once.
    struct Host {
        list: PathBuf,
        put: u64,
        /// Entries put into it after each read of the PCR, before the agent lists others.
        puts: u64,
    }

    impl AtWork {
        fn new(listed: u64, extended: u64, pace: (u64, u64)) -> Self {
            let dir = tempfile::tempdir().unwrap();
            let list = dir.path().join("list.ima");
            fs::write(&list, b"").unwrap();
            let mut agent = Self {
                list,
                dir,
                pcr: Replay::new(&[BANK]),
                listed: 0,
                extended: 0,
                pace,
                host: None,
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

        /// With a host's list that has the first `put` of its entries.
        fn in_host(listed: u64, put: u64, lists: u64, puts: u64) -> Self {
            let mut agent = Self::new(listed, 0, (lists, 0));
            let list = agent.dir.path().join("host.ima");
            fs::write(&list, b"").unwrap();
            agent.host = Some(Host { list, put: 0, puts });
            agent.put(put);
            agent
        }

        fn put(&mut self, count: u64) {
            let Some(host) = &mut self.host else { return };
            let mut file = OpenOptions::new().append(true).open(&host.list).unwrap();
            for _ in 0..count.min(self.listed - host.put) {
                let entry = entry(host.put);
                file.write_all(&entry.to_binary()).unwrap();
                self.pcr.extend(&entry);
                host.put += 1;
            }
        }

        fn judged_in_host(mut self) -> Looked {
            let host = Source::File(self.host.as_ref().unwrap().list.clone());
            let ledger = Source::File(self.list.clone());
            let entries = ledger.open().unwrap();
            let lists = HostLists::new(&host, host.open().unwrap(), Some((ledger, entries)));
            judge_host(lists, &mut self, |values| {
                let values = values.into_iter().map(|value| (13, value)).collect();
                HostJudge::new(Anchor::Exactly(values), None, true)
            })
            .unwrap()
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
            self.put(self.host.as_ref().map_or(0, |host| host.puts));
            let (list, extend) = self.pace;
            self.work(list, extend);
            Ok(value.into_iter().collect())
        }

        fn lists(&mut self, _: &Entry) -> Option<bool> {
            None
        }

        fn last_batch(&self) -> Option<u64> {
            None
        }

        fn heard(&mut self) -> Vec<PolicyEvent> {
            Vec::new()
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
    fn a_torn_end_that_stays_is_a_fault_and_what_is_before_it_is_usable() {
        let agent = AtWork::new(5, 5, (0, 0));
        agent.append(&entry(5).to_binary()[..20]);
        let judgement = agent.judged().unwrap().judgement;
        let said = judgement.sentence();
        assert!(said.contains("entry 5, at byte"), "{said}");
        assert!(said.contains("after 20 of its bytes"), "{said}");
        let usable = judgement.usable();
        assert_eq!((usable.entries, usable.in_pcr), (5, Some(true)));
    }

    #[test]
    fn what_an_agent_puts_into_the_hosts_list_meanwhile_is_not_held_against_it() {
        let looked = AtWork::in_host(5, 5, 0, 0).judged_in_host();
        assert!(looked.judgement.is_good(), "{:?}", looked.judgement.faults);
        assert_eq!(looked.looks, 1);
        // Its ledger is ahead by what is under way.
        let looked = AtWork::in_host(5, 4, 2, 2).judged_in_host();
        assert!(looked.judgement.is_good(), "{:?}", looked.judgement.faults);
        assert!(looked.looks > 1);
        let host = looked.judgement.host.unwrap();
        assert!(host.ledger_since > 0 && host.ledger.unwrap() > host.entries);
        let said = looked.judgement.sentence();
        assert!(said.contains("of the ledger"), "{said}");
    }

    #[test]
    fn an_entry_that_is_never_put_into_the_hosts_list_is_found_though_the_agent_goes_on() {
        for (lists, looks) in [(0, 2), (1, LOOKS)] {
            let looked = AtWork::in_host(5, 4, lists, 0).judged_in_host();
            assert!(looked.judgement.lags(), "{:?}", looked.judgement.faults);
            assert_eq!(looked.looks, looks);
        }
    }
}

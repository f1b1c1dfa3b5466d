// SPDX-License-Identifier: Apache-2.0
//! The judge over whole lists, as they come and with every hash made right (a mutated list
//! fails at its first entry otherwise): it agrees with `ima_log::Verifier`, finds a list good by its
//! own PCR values only, and says nothing that a terminal would obey.
#![no_main]

use cima_agent::verify::{Anchor, Judge, Judgement, Place};
use cima_agent_fuzz::json_of;
use ima_log::{
    AsciiReader, BinaryReader, Digest, Entry, HashAlgorithm, Replay, Template, Verifier,
};
use libfuzzer_sys::fuzz_target;

const BANK: HashAlgorithm = HashAlgorithm::Sha256;

fuzz_target!(|list: &[u8]| {
    let text = list
        .first()
        .is_some_and(|byte| *byte == b' ' || byte.is_ascii_digit());
    let entries: Vec<Entry> = if text {
        AsciiReader::detect(list)
            .map_while(Result::ok)
            .map(|(_, entry)| entry)
            .collect()
    } else {
        BinaryReader::detect(list)
            .map_while(Result::ok)
            .map(|(_, entry)| entry)
            .collect()
    };
    judged(&entries);
    let repaired: Vec<Entry> = entries.iter().map(repaired).collect();
    if repaired != entries {
        judged(&repaired);
    }
});

/// The same entry with the hashes that its data have.
fn repaired(entry: &Entry) -> Entry {
    let made = entry.fields().ok().and_then(|fields| {
        let payload = fields
            .payload
            .filter(|_| entry.template == Template::ImaBuf)?;
        Entry::ima_buf(entry.pcr, BANK, fields.name, payload).ok()
    });
    made.unwrap_or_else(|| entry.clone().with_hash(entry.template_hash.algorithm()))
}

fn judged(entries: &[Entry]) {
    let values = values(entries);
    let good = judgement(entries, Anchor::Exactly(values.clone()), false);
    let mut verifier = Verifier::new(values.clone());
    entries.iter().for_each(|entry| verifier.push(entry));
    let verdict = verifier.finish();
    // Of a cima list, and of batches in any, the judge asks for more.
    assert!(!good.is_good() || verdict.holds());
    let plain = entries.iter().all(|entry| {
        entry
            .fields()
            .is_ok_and(|fields| !fields.name.starts_with(b"cima-"))
    });
    assert!(!plain || good.is_good() == (verdict.holds() && !entries.is_empty()));
    if good.is_good() && good.cima {
        no_other_order_is_good(entries, &values);
    }
    nothing_else_anchors(entries, &values);
    entries.iter().for_each(|entry| drop(json_of(entry)));
}

/// What the list gives, from power-on.
fn values(entries: &[Entry]) -> Vec<(u32, Digest)> {
    let mut replay = Replay::new(&[BANK]);
    entries.iter().for_each(|entry| replay.extend(entry));
    let mut pcrs: Vec<u32> = entries.iter().map(|entry| entry.pcr).collect();
    pcrs.sort_unstable();
    pcrs.dedup();
    pcrs.into_iter()
        .map(|pcr| (pcr, replay.value(pcr, BANK).expect("its bank")))
        .collect()
}

fn judgement(entries: &[Entry], anchor: Anchor, trust_start: bool) -> Judgement {
    let mut judge = Judge::new(anchor).trusting_start(trust_start);
    let mut offset = 0;
    for (index, entry) in entries.iter().enumerate() {
        let (index, segment) = (index as u64, None);
        judge.push(
            Place {
                index,
                offset,
                segment,
            },
            entry,
        );
        offset += entry.to_binary().len() as u64;
    }
    assert_eq!(judge.entries(), entries.len() as u64);
    let judgement = judge.finish(entries.len() as u64);
    let said = |text: &str| assert!(!text.contains(char::is_control), "{text:?}");
    said(&judgement.sentence());
    judgement
        .faults
        .iter()
        .for_each(|fault| said(&fault.to_string()));
    judgement
        .warnings()
        .iter()
        .for_each(|warning| said(&warning.to_string()));
    assert_eq!(judgement.is_good(), judgement.main_fault().is_none());
    judgement
}

/// Dropping an entry or swapping two that differ is noticed.
fn no_other_order_is_good(entries: &[Entry], values: &[(u32, Digest)]) {
    for at in 0..entries.len().min(8) {
        let mut altered = entries.to_vec();
        altered.remove(at);
        let anchor = Anchor::Exactly(values.to_vec());
        assert!(
            !judgement(&altered, anchor.clone(), true).is_good(),
            "without entry {at}"
        );
        let mut altered = entries.to_vec();
        altered.swap(at, (at + 1) % entries.len());
        assert!(
            altered == entries || !judgement(&altered, anchor, true).is_good(),
            "swapped at {at}"
        );
    }
}

/// No list is good by values that it does not give, whatever it claims of its start.
fn nothing_else_anchors(entries: &[Entry], values: &[(u32, Digest)]) {
    let other = BANK.digest(b"what a TPM holds");
    let others: Vec<_> = values.iter().map(|(pcr, _)| (*pcr, other)).collect();
    for trust_start in [false, true] {
        assert!(!judgement(entries, Anchor::Exactly(others.clone()), trust_start).is_good());
        assert!(!judgement(entries, Anchor::Among(others.clone()), trust_start).is_good());
        assert!(!judgement(entries, Anchor::Absent, trust_start).is_good());
    }
}

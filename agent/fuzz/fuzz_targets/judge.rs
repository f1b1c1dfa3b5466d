// SPDX-License-Identifier: Apache-2.0
//! The judge over whole lists, as they come and with every hash made right (a mutated list
//! fails at its first entry otherwise): it agrees with `ima_log::Verifier`, finds a list good by its
//! own PCR values only, and says nothing that a terminal would obey. As a host's list with itself for a ledger it is good only if
//! `ima_log::Verifier` finds it so; and what a list says, put into a host's list as a sink does, is good with its ledger and
//! without any entry of either is not.
#![no_main]

use cima_agent::{
    measure::{PAYLOAD_PREFIX, file_name, proto},
    verify::{Anchor, HostJudge, Judge, Judgement, Place},
};
use cima_agent_fuzz::json_of;
use ima_log::{
    AsciiReader, BinaryReader, Digest, Entry, HashAlgorithm, Replay, Template, Verifier,
};
use libfuzzer_sys::fuzz_target;
use prost::Message as _;

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
    in_a_host(&entries);
    let repaired: Vec<Entry> = entries.iter().map(repaired).collect();
    if repaired != entries {
        judged(&repaired);
    }
    let judgement = of_host(&repaired, Some(&repaired));
    assert!(!judgement.is_good() || holds(&repaired));
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
    let holds = holds(entries);
    // Of a cima list, and of batches in any, the judge asks for more.
    assert!(!good.is_good() || holds);
    let plain = entries.iter().all(|entry| {
        entry
            .fields()
            .is_ok_and(|fields| !fields.name.starts_with(b"cima-"))
    });
    assert!(!plain || good.is_good() == (holds && !entries.is_empty()));
    if good.is_good() && good.cima {
        no_other_order_is_good(entries, &values);
    }
    nothing_else_anchors(entries, &values);
    entries.iter().for_each(|entry| drop(json_of(entry)));
}

/// Whether the list is in the PCRs that it gives, and right in itself.
fn holds(entries: &[Entry]) -> bool {
    let mut verifier = Verifier::new(values(entries));
    entries.iter().for_each(|entry| verifier.push(entry));
    verifier.finish().holds()
}

/// The policy events of a list, as an agent that keeps its list in the host's says them.
fn in_a_host(entries: &[Entry]) {
    for sink in ["kernel", "ima-file"] {
        let mut ledger = vec![said("cima-ctx:0", &start(sink)).expect("a batch")];
        let is_policy_event = |name: &str| {
            let is_cimas = name.starts_with("cima-") && name.bytes().all(|b| b.is_ascii_graphic());
            is_cimas && !name.starts_with("cima-ctx:") && !name.starts_with("cima-violation:chain")
        };
        for entry in entries.iter().take(8) {
            let Ok(fields) = entry.fields() else { continue };
            let name = String::from_utf8_lossy(fields.name);
            let payload = fields.payload.unwrap_or_default();
            if is_policy_event(&name)
                && let Some(entry) = said(&name, payload)
                && !ledger.contains(&entry)
            {
                ledger.push(entry);
            }
        }
        for seq in 1..=3 {
            let last = proto::Batch {
                seq,
                ..Default::default()
            };
            let last = [PAYLOAD_PREFIX, &last.encode_to_vec()].concat();
            ledger.push(said(&format!("cima-ctx:{seq}"), &last).expect("a batch"));
        }
        let host = |ledger: &[Entry]| -> Vec<Entry> {
            let listed = ledger.iter().map(|entry| listed(sink, entry));
            listed.collect()
        };
        let whole = host(&ledger);
        let judgement = of_host(&whole, Some(&ledger));
        assert!(judgement.is_good(), "{:?}", judgement.faults);
        // Three batches are behind everything. What a sink is tried with, only one that is taken says.
        for at in 0..ledger.len() {
            let mut lacking = ledger.clone();
            lacking.remove(at);
            assert!(!of_host(&host(&lacking), Some(&ledger)).is_good(), "{at}");
            let judgement = of_host(&whole, Some(&lacking));
            let is_trial = ledger[at].display_name().starts_with("cima-sink:");
            assert!(is_trial || !judgement.is_good(), "{at}");
        }
    }
}

fn said(name: &str, payload: &[u8]) -> Option<Entry> {
    Entry::ima_buf(10, BANK, name, payload).ok()
}

fn listed(sink: &str, entry: &Entry) -> Entry {
    if sink == "kernel" {
        return entry.clone();
    }
    let fields = entry.fields().expect("it was made here");
    let name = file_name(std::str::from_utf8(fields.name).expect("ASCII"));
    let digest = BANK.digest(fields.payload.expect("it was made here"));
    Entry::ima_sig(10, digest, name, &[]).expect("a shorter name than the entry's")
}

/// The first batch of such a list.
fn start(sink: &str) -> Vec<u8> {
    let start = proto::Start {
        pcr: Some(10),
        sink: sink.to_owned(),
        ..Default::default()
    };
    let event = proto::ContextEvent {
        what: Some(proto::context_event::What::Start(start)),
        ..Default::default()
    };
    let batch = proto::Batch {
        events: vec![event],
        ..Default::default()
    };
    [PAYLOAD_PREFIX, &batch.encode_to_vec()].concat()
}

/// The judgement over a host's list that was extended as it is.
fn of_host(host: &[Entry], ledger: Option<&[Entry]>) -> Judgement {
    let place = |index: usize| Place {
        index: index as u64,
        offset: 0,
        segment: None,
    };
    let anchor = Anchor::Exactly(values(host));
    let mut judge = HostJudge::new(anchor, None, ledger.is_some());
    for (index, entry) in host.iter().enumerate() {
        judge.push(place(index), entry);
    }
    for (index, entry) in ledger.unwrap_or_default().iter().enumerate() {
        judge.push_ledger(place(index), entry);
    }
    let extent = judge.extent();
    if let Some(index) = judge.unlisted(extent) {
        let index = usize::try_from(index).expect("an index");
        judge.name(place(index), &host[index]);
    }
    let judgement = judge.finish(extent);
    printable(&judgement);
    judgement
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
    printable(&judgement);
    judgement
}

fn printable(judgement: &Judgement) {
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

// SPDX-License-Identifier: Apache-2.0
//! One event in full: with its bytes, where they stand, and what a PCR held when they were in it.

use ima_log::{Digest, Entry, HashAlgorithm, Replay};
use schemars::JsonSchema;
use serde::Serialize;

use super::{
    Event, List, Query, QueryError, VERSION,
    cursor::Hit,
    index::{Indexed, event_id, segment_and_offset},
    records::{At, Records},
};
use crate::{
    cli::entry_json::EntryJson,
    measure::{Anchorage, proto},
    verify::{Place, Start},
};

/// An event, and what vouches for it.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Shown {
    /// Of this JSON: 1.
    pub v: u32,
    /// The event.
    pub event: Event,
    /// The list.
    pub list: String,
    /// The segment of the list; absent: it is one file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub segment: Option<u32>,
    /// Where the entry begins in it, in bytes.
    pub offset: u64,
    /// The template hash, as the list has it.
    pub template_hash: String,
    /// What anchors the list, as it says: `kernel`, `ima-file`, `pcr` or `none`; absent: it is a kernel's own list.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sink: Option<String>,
    /// What each bank was extended with; empty where nothing was, and with `ima-file`, whose entries the host's list has in another
    /// form.
    pub extended: Vec<String>,
    /// The PCR.
    pub pcr: u32,
    /// What each bank held with this entry, if it held before the list what the list says; empty where others extend the
    /// PCR, too: the host's list has what lies between.
    pub pcr_after: Vec<String>,
    /// The entry's template data, hexadecimal: what the hashes are of.
    pub data_hex: String,
    /// The whole entry, as `cima log --json` has it.
    pub entry: serde_json::Value,
}

/// Banks that are replayed.
const BANKS: [HashAlgorithm; 4] = HashAlgorithm::ALL;

impl Query<'_> {
    /// The event that is called `name`, in full; `None`: there is none.
    ///
    /// # Errors
    /// See [`QueryError`].
    pub fn show(&mut self, name: &str) -> Result<Option<Shown>, QueryError> {
        let Some(hit) = self.named(name)? else {
            return Ok(None);
        };
        let event = self.event(&hit)?;
        let Some(list) = self.index.list(hit.id) else {
            return Ok(None);
        };
        let (id, own) = (list.id, list.list.clone());
        let (segment, offset) = segment_and_offset(hit.place);
        let entry = self.entry(id, &own, &hit)?.clone();
        let place = Place {
            index: hit.entry.cast_unsigned(),
            offset,
            segment: own.segmented.then_some(segment),
        };
        let json = serde_json::to_value(EntryJson::new(place, &entry));
        let (sink, held) = held_after(&own, place.index, entry.pcr)?;
        let banks = match sink {
            None | Some(Anchorage::Kernel | Anchorage::Pcr) => &BANKS[..],
            Some(Anchorage::ImaFile | Anchorage::None) => &[],
        };
        Ok(Some(Shown {
            v: VERSION,
            event,
            list: own.to_string(),
            segment: place.segment,
            offset,
            template_hash: entry.template_hash.to_string(),
            sink: sink.map(|sink| sink.name().to_owned()),
            extended: banks
                .iter()
                .map(|bank| entry.extend_value(*bank).to_string())
                .collect(),
            pcr: entry.pcr,
            pcr_after: held.iter().map(ToString::to_string).collect(),
            data_hex: hex::encode(&entry.data),
            entry: json.unwrap_or_default(),
        }))
    }

    /// The row of the event that is called `name`: see [`Event::id`].
    pub(crate) fn named(&self, name: &str) -> Result<Option<Hit>, QueryError> {
        let Some((node, boot, entry, nth)) = parts(name) else {
            return Ok(None);
        };
        for list in &self.index.lists {
            let own_boot = list.boot.as_deref().unwrap_or("-");
            if list.list.node == node
                && own_boot.starts_with(boot)
                && let Some(hit) = self.in_list(list, entry, nth)?
            {
                return Ok(Some(hit));
            }
        }
        Ok(None)
    }

    /// The rows of a list are in the order of its entries.
    fn in_list(
        &self,
        list: &Indexed,
        entry: i64,
        nth: Option<u32>,
    ) -> Result<Option<Hit>, QueryError> {
        let (mut low, mut high) = (0, list.rows);
        while low < high {
            let middle = low + (high - low) / 2;
            match self.hit(event_id(list.id, middle))? {
                Some(hit) if hit.entry < entry => low = middle + 1,
                _ => high = middle,
            }
        }
        while let Some(hit) = self.hit(event_id(list.id, low))? {
            if hit.entry != entry {
                break;
            }
            if nth.is_none() || hit.nth == nth {
                return Ok(Some(hit));
            }
            low += 1;
        }
        Ok(None)
    }
}

/// `<node>/<boot>/<entry>.<event>`.
fn parts(name: &str) -> Option<(&str, &str, i64, Option<u32>)> {
    let (rest, entry) = name.rsplit_once('/')?;
    let (node, boot) = rest.rsplit_once('/')?;
    let (entry, nth) = match entry.split_once('.') {
        Some((entry, nth)) => (entry, Some(nth.parse().ok()?)),
        None => (entry, None),
    };
    let entry = entry.parse().ok().filter(|entry| *entry >= 0)?;
    Some((node, boot, entry, nth))
}

/// What anchors the list, and what the PCR's banks held when the entry of that number was in it: from what the list says that they held
/// before it, and zeros where it says nothing.
fn held_after(
    list: &List,
    entry: u64,
    pcr: u32,
) -> Result<(Option<Anchorage>, Vec<Digest>), QueryError> {
    let mut records = Records::new(list, At::START)?;
    let mut own = Entry::default();
    let mut replay = Replay::new(&BANKS);
    let mut banks: Vec<HashAlgorithm> = Vec::new();
    let mut sink = None;
    while let Some(read) = records.read(&mut own) {
        // What lies behind what cannot be read was extended on something that is not known.
        let Ok(at) = read else {
            return Ok((sink, Vec::new()));
        };
        if let Some(start) = begins(at.entry, &own) {
            sink = Some(start.anchorage);
            if start.anchorage != Anchorage::Pcr {
                return Ok((sink, Vec::new()));
            }
            banks = start.values.iter().map(Digest::algorithm).collect();
            for value in start.values {
                replay = replay.with_start(pcr, value);
            }
        }
        replay.extend(&own);
        if at.entry >= entry {
            break;
        }
    }
    // Of a kernel's list nobody says which banks there are.
    if banks.is_empty() {
        banks = vec![HashAlgorithm::Sha1, HashAlgorithm::Sha256];
    }
    let values = banks.into_iter().filter_map(|bank| replay.value(pcr, bank));
    Ok((sink, values.collect()))
}

/// What a Start says that banks held, where it counts: at the list's beginning, and where the chain is broken.
fn begins(number: u64, entry: &Entry) -> Option<Start> {
    let start = Start::of(entry)?;
    let counts = number == 0 || start.reason == proto::start::Reason::ChainBroken;
    counts.then_some(start)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_found_by_its_name() {
        assert_eq!(
            parts("web/8c2d2a94/17.3"),
            Some(("web", "8c2d2a94", 17, Some(3)))
        );
        assert_eq!(
            parts("dc1/web/8c2d/17"),
            Some(("dc1/web", "8c2d", 17, None))
        );
        for name in [
            "",
            "web",
            "17",
            "web/17",
            "web/8c/x",
            "web/8c/-1",
            "web/8c/1.x",
        ] {
            assert_eq!(parts(name), None, "{name}");
        }
    }
}

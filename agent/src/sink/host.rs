// SPDX-License-Identifier: Apache-2.0
//! Sinks that have the kernel list the entries in its own IMA list and extend its PCR. What they have in common: an
//! entry is given to the kernel, and counts once the list has it. The kernel lists the same only once, so that whatever a crash
//! left half done can be given to it again.

use std::collections::HashSet;

use ima_log::{Digest, Entry};

use super::{Sink, SinkError, host_list::HostList};
use crate::measure::{Anchorage, HostForm, HostKey};

/// The kernel's PCR (`CONFIG_IMA_MEASURE_PCR_IDX`, 10 wherever it was not changed).
pub const HOST_PCR: u32 = 10;

/// A way to have the kernel list something.
pub(super) trait Submit: Send {
    /// Which it is.
    fn anchorage(&self) -> Anchorage;

    /// How the list has what was given.
    fn form(&self) -> HostForm;

    /// Gives the kernel an entry; whether it was listed, the list tells.
    fn submit(&mut self, name: &str, payload: &[u8]) -> Result<(), SinkError>;

    /// What the site lacks if nothing is listed.
    fn lacks(&self) -> String;
}

/// An anchor in the host's list.
pub(super) struct HostSink<S> {
    submit: S,
    list: HostList,
    /// Given to the kernel, and not seen in the list.
    unseen: Vec<Entry>,
    /// What the list had when it was first asked.
    had: Option<HashSet<HostKey>>,
}

impl<S: Submit> HostSink<S> {
    /// Opens the list, and has the kernel list which sink this is: there is no other way to know whether a rule asks it to.
    pub(super) fn open(submit: S) -> Result<Self, SinkError> {
        let mut sink = Self {
            submit,
            list: HostList::open()?,
            unseen: Vec::new(),
            had: None,
        };
        let event = crate::measure::PolicyEvent::sink(sink.submit.anchorage());
        let entry = Entry::ima_buf(
            HOST_PCR,
            ima_log::HashAlgorithm::Sha256,
            &event.name,
            event.payload.as_bytes(),
        );
        let entry = entry.map_err(|_| sink.unlisted(&event.name))?;
        sink.give(&entry)?;
        sink.settle()?;
        Ok(sink)
    }

    fn give(&mut self, entry: &Entry) -> Result<(), SinkError> {
        let fields = entry.fields().ok();
        let (name, payload) = match &fields {
            Some(fields) => (fields.name, fields.payload.unwrap_or_default()),
            None => return Err(self.unlisted("?")),
        };
        let name = String::from_utf8_lossy(name);
        self.submit.submit(&name, payload)
    }

    /// Drops what the list has by now.
    fn look(&mut self) -> Result<(), SinkError> {
        let form = self.submit.form();
        let mut keys = HashSet::new();
        self.list
            .news(|entry| keys.extend(form.key_of_listed(entry)))?;
        self.drop_listed(&keys);
        Ok(())
    }

    /// The same with all of the list: the kernel may have had it for long.
    fn look_through(&mut self) -> Result<(), SinkError> {
        let form = self.submit.form();
        let wanted: HashSet<_> = self
            .unseen
            .iter()
            .flat_map(|one| form.keys_of_own(one))
            .collect();
        let mut keys = HashSet::new();
        HostList::open()?.news(|entry| {
            keys.extend(form.key_of_listed(entry).filter(|key| wanted.contains(key)));
        })?;
        self.drop_listed(&keys);
        Ok(())
    }

    fn drop_listed(&mut self, keys: &HashSet<HostKey>) {
        let form = self.submit.form();
        let is_listed =
            |entry: &Entry| form.keys_of_own(entry).iter().any(|key| keys.contains(key));
        self.unseen.retain(|entry| !is_listed(entry));
    }

    fn unlisted(&self, name: &str) -> SinkError {
        SinkError::Unlisted {
            name: name.to_owned(),
            lacks: self.submit.lacks(),
        }
    }
}

impl<S: Submit> Sink for HostSink<S> {
    fn anchorage(&self) -> Anchorage {
        self.submit.anchorage()
    }

    fn pcr(&self) -> Option<u32> {
        Some(HOST_PCR)
    }

    /// The PCR is the kernel's: what it holds, only the kernel's list tells.
    fn read(&mut self) -> Result<Vec<Digest>, SinkError> {
        Ok(Vec::new())
    }

    fn lists(&mut self, entry: &Entry) -> Result<Option<bool>, SinkError> {
        let form = self.submit.form();
        let had = match &mut self.had {
            Some(had) => had,
            had => {
                let mut keys = HashSet::new();
                HostList::open()?.news(|entry| keys.extend(form.key_of_listed(entry)))?;
                had.insert(keys)
            }
        };
        Ok(Some(
            form.keys_of_own(entry).iter().any(|key| had.contains(key)),
        ))
    }

    fn extend(&mut self, entry: &Entry, _: &[Digest]) -> Result<(), SinkError> {
        self.had = None;
        // Before: if it fails half way, the list tells.
        self.unseen.push(entry.clone());
        self.give(entry)
    }

    fn settle(&mut self) -> Result<(), SinkError> {
        if self.unseen.is_empty() {
            return Ok(());
        }
        self.look()?;
        if self.unseen.is_empty() {
            return Ok(());
        }
        self.look_through()?;
        for entry in self.unseen.clone() {
            self.give(&entry)?;
        }
        if !self.unseen.is_empty() {
            self.look_through()?;
        }
        match self.unseen.first() {
            None => Ok(()),
            Some(entry) => Err(self.unlisted(&entry.display_name())),
        }
    }

    fn reopen(&mut self) -> Result<(), SinkError> {
        self.list = HostList::open()?;
        Ok(())
    }
}

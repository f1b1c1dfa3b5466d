// SPDX-License-Identifier: Apache-2.0
//! Sinks that have the kernel list the entries in its own IMA list and extend its PCR. What they have in common: an
//! entry is given to the kernel, and counts once the list has it. The kernel lists the same only once (unless it was built with
//! `CONFIG_IMA_DISABLE_HTABLE`: then it is there more than once), so that whatever a crash left half done can be given to it again.

use std::{collections::HashSet, path::Path};

use ima_log::{Digest, Entry};

use super::{Sink, SinkError, host_list::HostList};
use crate::measure::{Anchorage, HostForm, HostKey, PolicyEvent, batch_number, is_of_kernel};

/// The kernel's PCR (`CONFIG_IMA_MEASURE_PCR_IDX`, 10 wherever it was not changed).
pub const HOST_PCR: u32 = 10;

/// A way to have the kernel list something.
pub(super) trait Submit: Send {
    /// Which it is.
    fn anchorage(&self) -> Anchorage;

    /// How the list has what was given.
    fn form(&self) -> HostForm {
        // Every sink that gives something to the kernel has one.
        self.anchorage().host_form().unwrap_or(HostForm::Buffer)
    }

    /// Gives the kernel an entry. True: it says that it is in the list; else that tells.
    fn submit(&mut self, name: &str, payload: &[u8]) -> Result<bool, SinkError>;

    /// What the site lacks if nothing is listed.
    fn lacks(&self) -> String;
}

/// An anchor in the host's list.
pub(super) struct HostSink<S> {
    submit: S,
    list: HostList,
    /// To be given to the kernel, or given, and not in the list as far as is known.
    unseen: Vec<Entry>,
    /// What the list had when it was opened, until something is given to it.
    had: Option<Had>,
    /// What the kernel may have listed by itself, and nobody asked for yet.
    heard: Vec<(HostKey, PolicyEvent)>,
    /// Keys of what was asked for since the last settling: the list has it.
    listed: HashSet<HostKey>,
    /// Whether the list could not be read when somebody asked for what is new.
    deaf: bool,
}

/// What a list has of ours.
#[derive(Debug, Default)]
struct Had {
    keys: HashSet<HostKey>,
    /// The highest number of a batch.
    batch: Option<u64>,
}

impl Had {
    fn note(&mut self, form: HostForm, entry: &Entry) {
        let Some(key) = form.key_of_listed(entry) else {
            return;
        };
        self.keys.insert(key);
        let number = entry
            .fields()
            .ok()
            .and_then(|fields| batch_number(fields.name));
        self.batch = self.batch.max(number);
    }
}

impl<S: Submit> HostSink<S> {
    /// Opens the list, and has the kernel list which sink this is: there is no other way to know whether a rule asks it to.
    pub(super) fn open(submit: S, list: &Path) -> Result<Self, SinkError> {
        let mut sink = Self {
            submit,
            list: HostList::open(list)?,
            unseen: Vec::new(),
            had: None,
            heard: Vec::new(),
            listed: HashSet::new(),
            deaf: false,
        };
        let mut had = Had::default();
        let form = sink.submit.form();
        let heard = &mut sink.heard;
        sink.list.news(|entry| {
            had.note(form, entry);
            heard.extend(of_kernel(form, entry));
        })?;
        sink.had = Some(had);
        let event = PolicyEvent::sink(sink.submit.anchorage());
        let entry = Entry::ima_buf(
            HOST_PCR,
            ima_log::HashAlgorithm::Sha256,
            &event.name,
            event.payload.as_bytes(),
        );
        let entry = entry.map_err(|_| sink.unlisted(&event.name))?;
        let had = sink.had.take();
        sink.extend(&entry, &[])?;
        sink.settle()?;
        sink.had = had;
        Ok(sink)
    }

    fn give(&mut self, entry: &Entry) -> Result<bool, SinkError> {
        let fields = entry.fields().ok();
        let (name, payload) = match &fields {
            Some(fields) => (fields.name, fields.payload.unwrap_or_default()),
            None => return Err(self.unlisted("?")),
        };
        let name = String::from_utf8_lossy(name);
        self.submit.submit(&name, payload)
    }

    /// Drops what the list has by now, and takes note of what else is new in it.
    fn look(&mut self) -> Result<(), SinkError> {
        let (form, wanted) = self.wanted();
        let mut keys = HashSet::new();
        let heard = &mut self.heard;
        self.list.news(|entry| {
            if !note(form, &wanted, entry, &mut keys) {
                heard.extend(of_kernel(form, entry));
            }
        })?;
        self.drop_listed(&keys);
        Ok(())
    }

    /// The same with all of the list: the kernel may have had it for long.
    fn look_through(&mut self) -> Result<(), SinkError> {
        let (form, wanted) = self.wanted();
        let mut keys = HashSet::new();
        let mut list = self.list.again()?;
        list.news(|entry| {
            note(form, &wanted, entry, &mut keys);
        })?;
        self.drop_listed(&keys);
        Ok(())
    }

    /// Whether it is one of what was asked for. Each key costs a hash of what it says, and there is rarely one to compare with.
    fn is_listed(&self, entry: &Entry) -> bool {
        !self.listed.is_empty() && entry.fields().is_ok_and(|fields| is_of_kernel(&fields)) && {
            let mut keys = self.submit.form().keys_of_own(entry);
            keys.any(|key| self.listed.contains(&key))
        }
    }

    fn wanted(&self) -> (HostForm, HashSet<HostKey>) {
        let form = self.submit.form();
        let unseen = self.unseen.iter();
        (form, unseen.flat_map(|one| form.keys_of_own(one)).collect())
    }

    fn drop_listed(&mut self, keys: &HashSet<HostKey>) {
        let form = self.submit.form();
        let is_listed = |entry: &Entry| form.keys_of_own(entry).any(|key| keys.contains(&key));
        self.unseen.retain(|entry| !is_listed(entry));
    }

    fn unlisted(&self, name: &str) -> SinkError {
        SinkError::Unlisted {
            name: name.to_owned(),
            lacks: self.submit.lacks(),
        }
    }
}

/// Whether an entry of the list is wanted.
fn note(
    form: HostForm,
    wanted: &HashSet<HostKey>,
    listed: &Entry,
    found: &mut HashSet<HostKey>,
) -> bool {
    let key = form.key_of_listed(listed);
    let key = key.filter(|key| wanted.contains(key));
    found.extend(key);
    key.is_some()
}

/// What an entry says, if the kernel may have listed it by itself.
fn of_kernel(form: HostForm, listed: &Entry) -> Option<(HostKey, PolicyEvent)> {
    if form != HostForm::Buffer {
        return None;
    }
    let key = form.key_of_listed(listed)?;
    let fields = listed.fields().ok().filter(is_of_kernel)?;
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).ok();
    let event = PolicyEvent {
        name: text(fields.name)?,
        payload: text(fields.payload?)?,
    };
    Some((key, event))
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

    fn lists(&mut self, entry: &Entry) -> Option<bool> {
        let had = self.had.as_ref()?;
        let mut keys = self.submit.form().keys_of_own(entry);
        Some(keys.any(|key| had.keys.contains(&key)))
    }

    fn last_batch(&self) -> Option<u64> {
        self.had.as_ref()?.batch
    }

    fn heard(&mut self) -> Vec<PolicyEvent> {
        self.deaf = self.look().is_err();
        let (keys, events): (Vec<_>, _) = std::mem::take(&mut self.heard).into_iter().unzip();
        self.listed.extend(keys);
        events
    }

    fn extend(&mut self, entry: &Entry, _: &[Digest]) -> Result<(), SinkError> {
        self.had = None;
        if !self.is_listed(entry) && self.unseen.last() != Some(entry) {
            self.unseen.push(entry.clone());
        }
        Ok(())
    }

    fn settle(&mut self) -> Result<(), SinkError> {
        if self.deaf {
            // Nothing is given to the kernel while nobody knows what it lists by itself.
            self.look()?;
            self.deaf = false;
        }
        self.listed.clear();
        if self.unseen.is_empty() {
            return Ok(());
        }
        let mut unseen = std::mem::take(&mut self.unseen).into_iter();
        while let Some(entry) = unseen.next() {
            match self.give(&entry) {
                Ok(true) => {}
                Ok(false) => self.unseen.push(entry),
                // Again, the next time.
                Err(error) => {
                    self.unseen.push(entry);
                    self.unseen.extend(unseen);
                    return Err(error);
                }
            }
        }
        if !self.unseen.is_empty() {
            self.look()?;
        }
        if !self.unseen.is_empty() {
            // It may be there for long, from before the last look.
            self.look_through()?;
        }
        match self.unseen.first() {
            None => Ok(()),
            Some(entry) => Err(self.unlisted(&entry.display_name())),
        }
    }

    fn reopen(&mut self) -> Result<(), SinkError> {
        self.list = self.list.reopened()?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs::File,
        io::{Seek as _, SeekFrom, Write as _},
        sync::{Arc, Mutex},
    };

    use ima_log::HashAlgorithm;

    use super::*;

    /// A kernel that lists what it is given, once, unless it is told to forget the next few.
    #[derive(Debug, Clone)]
    struct Kernel(Arc<Mutex<(File, Vec<Entry>, usize)>>);

    impl Kernel {
        fn new(file: File) -> Self {
            Self(Arc::new(Mutex::new((file, Vec::new(), 0))))
        }

        fn forgets(&self, count: usize) {
            self.0.lock().unwrap().2 = count;
        }

        fn listed(&self) -> usize {
            self.0.lock().unwrap().1.len()
        }

        /// Lists it unasked.
        fn lists(&mut self, name: &str, payload: &[u8]) {
            self.submit(name, payload).unwrap();
        }
    }

    impl Submit for Kernel {
        fn anchorage(&self) -> Anchorage {
            Anchorage::Kernel
        }

        fn submit(&mut self, name: &str, payload: &[u8]) -> Result<bool, SinkError> {
            let (file, listed, forgets) = &mut *self.0.lock().unwrap();
            let entry = own(name, payload);
            if *forgets > 0 {
                *forgets -= 1;
            } else if !listed.contains(&entry) {
                let mut bytes = Vec::new();
                entry.append_binary(&mut bytes);
                file.write_all(&bytes).unwrap();
                listed.push(entry);
            }
            Ok(false)
        }

        fn lacks(&self) -> String {
            "a memory".to_owned()
        }
    }

    fn own(name: &str, payload: &[u8]) -> Entry {
        Entry::ima_buf(HOST_PCR, HashAlgorithm::Sha256, name, payload).unwrap()
    }

    #[test]
    fn an_entry_counts_once_the_list_has_it_and_is_given_again_until_then() {
        let list = tempfile::NamedTempFile::new().unwrap();
        let kernel = Kernel::new(list.reopen().unwrap());
        let mut sink = HostSink::open(kernel.clone(), list.path()).unwrap();
        assert_eq!(kernel.listed(), 1, "which sink it is");
        let (one, two) = (own("cima-ctx:0", b"v1;a"), own("cima-ctx:1", b"v1;b"));
        assert_eq!(sink.lists(&one), Some(false));
        kernel.forgets(1);
        sink.extend(&one, &[]).unwrap();
        sink.extend(&two, &[]).unwrap();
        assert!(sink.settle().is_err());
        assert_eq!(kernel.listed(), 2, "which sink, and the second");
        sink.settle().unwrap();
        assert_eq!(kernel.listed(), 3);
        // What a crash left: it is in the list for long.
        let mut sink = HostSink::open(kernel.clone(), list.path()).unwrap();
        assert_eq!(sink.lists(&one), Some(true));
        sink.extend(&one, &[]).unwrap();
        sink.settle().unwrap();
        assert_eq!(kernel.listed(), 3);
        let three = own("cima-ctx:2", b"v1;c");
        kernel.forgets(usize::MAX);
        sink.extend(&three, &[]).unwrap();
        let error = sink.settle().unwrap_err().to_string();
        assert!(error.contains("cima-ctx:2: it lacks a memory"), "{error}");
        kernel.forgets(0);
        sink.reopen().unwrap();
        sink.settle().unwrap();
        assert_eq!(kernel.listed(), 4);
        sink.settle().unwrap();
    }

    #[test]
    fn what_the_kernel_lists_by_itself_is_told_once_and_not_given_to_it() {
        let list = tempfile::NamedTempFile::new().unwrap();
        let mut kernel = Kernel::new(list.reopen().unwrap());
        kernel.lists("cima-exec:unregistered:/a", b"v1;a");
        let mut sink = HostSink::open(kernel.clone(), list.path()).unwrap();
        let heard = |sink: &mut HostSink<Kernel>| {
            let events = sink.heard().into_iter();
            events.map(|event| event.name).collect::<Vec<_>>()
        };
        assert_eq!(heard(&mut sink), ["cima-exec:unregistered:/a"]);
        kernel.lists("cima-violation:writer:unregistered:/b", b"v1;b");
        kernel.lists("cima-violation:loss:agent:", b"v1;agents");
        kernel.lists("cima-exec:unregistered:\u{fe}", b"v1;\xff");
        kernel.lists("/bin/sh", b"v1;hosts");
        assert_eq!(heard(&mut sink), ["cima-violation:writer:unregistered:/b"]);
        assert_eq!(heard(&mut sink), [""; 0]);
        let given = kernel.listed();
        let said = own("cima-violation:writer:unregistered:/b", b"v1;b");
        kernel.forgets(1);
        sink.extend(&said, &[]).unwrap();
        sink.settle().unwrap();
        assert_eq!(kernel.listed(), given);
        assert_eq!(kernel.0.lock().unwrap().2, 1, "it was not given");
        kernel.forgets(0);
        // Seen while an entry is looked for.
        kernel.lists("cima-exec:unregistered:/c", b"v1;c");
        sink.extend(&own("cima-ctx:0", b"v1;x"), &[]).unwrap();
        sink.settle().unwrap();
        assert_eq!(heard(&mut sink), ["cima-exec:unregistered:/c"]);
    }

    #[test]
    fn a_list_that_cannot_be_read_is_an_error_at_the_next_settling() {
        let list = tempfile::NamedTempFile::new().unwrap();
        let mut kernel = Kernel::new(list.reopen().unwrap());
        kernel.lists("cima-exec:unregistered:/before", b"v1;b");
        let mut sink = HostSink::open(kernel.clone(), list.path()).unwrap();
        assert_eq!(sink.heard().len(), 1);
        kernel.0.lock().unwrap().0.write_all(&[0xff; 50]).unwrap();
        assert_eq!(sink.heard(), []);
        assert_eq!(
            sink.heard(),
            [],
            "who looks again reads nothing behind what is wrong"
        );
        assert!(matches!(sink.settle(), Err(SinkError::HostList { .. })));
        // And so it stays, until it can be read.
        sink.reopen().unwrap();
        let given = kernel.listed();
        sink.extend(&own("cima-ctx:0", b"v1;x"), &[]).unwrap();
        assert!(matches!(sink.settle(), Err(SinkError::HostList { .. })));
        assert_eq!(kernel.listed(), given);
        let end = list.as_file().metadata().unwrap().len() - 50;
        list.as_file().set_len(end).unwrap();
        kernel.0.lock().unwrap().0.seek(SeekFrom::End(0)).unwrap();
        kernel.lists("cima-exec:unregistered:/a", b"v1;a");
        sink.reopen().unwrap();
        sink.settle().unwrap();
        let heard: Vec<_> = sink.heard().into_iter().map(|event| event.name).collect();
        assert_eq!(heard, ["cima-exec:unregistered:/a"]);
    }

    #[test]
    fn a_kernel_that_lists_nothing_is_found_out_at_once() {
        let list = tempfile::NamedTempFile::new().unwrap();
        let kernel = Kernel::new(list.reopen().unwrap());
        kernel.forgets(usize::MAX);
        let opened = HostSink::open(kernel, list.path());
        assert!(matches!(opened.err(), Some(SinkError::Unlisted { .. })));
        let torn = tempfile::NamedTempFile::new().unwrap();
        torn.as_file().write_all(&[0xff; 50]).unwrap();
        let kernel = Kernel::new(list.reopen().unwrap());
        let opened = HostSink::open(kernel, torn.path());
        assert!(matches!(opened.err(), Some(SinkError::HostList { .. })));
    }
}

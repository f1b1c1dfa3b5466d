// SPDX-License-Identifier: Apache-2.0
//! The BPF programs of `tests/bpf`, which call the kfunc of kmod-bridge: loaded by libbpf,
//! told whom to measure and as what, and heard.

use std::cell::RefCell;
use std::sync::Mutex;

use libbpf_rs::{Link, MapCore, MapFlags, Object, ObjectBuilder, PrintLevel, RingBufferBuilder};

const OBJECT: &str = "/cima/lib/measure.bpf.o";

/// What libbpf said, the verifier's log included.
static SAID: Mutex<String> = Mutex::new(String::new());

/// `struct cima_measurement` of `kmod-bridge/uapi/cima.h`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Measurement {
    pub(crate) provenance: u32,
    pub(crate) flags: u32,
    pub(crate) image: [u8; 32],
    pub(crate) error: i32,
    pub(crate) algorithm: u32,
    pub(crate) digest: [u8; 64],
}

pub(crate) const UNREGISTERED: u32 = 0;
pub(crate) const UNMEASURED: u32 = 1;
pub(crate) const IMAGE: u32 = 2;
pub(crate) const HASHED: u32 = 1;
pub(crate) const WRITER: u32 = 2;
pub(crate) const COPIED_UP: u32 = 4;

impl Measurement {
    /// In a container that no hook announced, to be hashed by the kfunc.
    pub(crate) const PLAIN: Self = Self {
        provenance: UNREGISTERED,
        flags: 0,
        image: [0; 32],
        error: 0,
        algorithm: 0,
        digest: [0; 64],
    };

    fn to_bytes(&self) -> Vec<u8> {
        let Self {
            provenance,
            flags,
            image,
            error,
            algorithm,
            digest,
        } = self;
        [
            &provenance.to_ne_bytes()[..],
            &flags.to_ne_bytes(),
            image,
            &error.to_ne_bytes(),
            &algorithm.to_ne_bytes(),
            digest,
        ]
        .concat()
    }

    #[track_caller]
    fn from_bytes(bytes: &[u8]) -> Self {
        Self {
            provenance: u32::from_ne_bytes(part(bytes, 0)),
            flags: u32::from_ne_bytes(part(bytes, 4)),
            image: part(bytes, 8),
            error: i32::from_ne_bytes(part(bytes, 40)),
            algorithm: u32::from_ne_bytes(part(bytes, 44)),
            digest: part(bytes, 48),
        }
    }
}

#[track_caller]
fn part<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("it has N bytes")
}

/// What came back from one call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) returned: i64,
    pub(crate) measurement: Measurement,
}

/// The program `measure`, attached until it goes out of scope.
pub(crate) struct Kfunc {
    object: Object,
    _link: Link,
}

impl Kfunc {
    /// Loads and attaches it.
    #[track_caller]
    pub(crate) fn attach() -> Self {
        let object = load("measure").unwrap_or_else(|said| panic!("it does not load: {said}"));
        let program = object
            .progs_mut()
            .find(|program| program.name() == "measure")
            .expect("it was loaded");
        let link = program.attach_lsm().expect("it can be attached");
        Self {
            object,
            _link: link,
        }
    }

    /// From now on what tasks of the name `comm` map executable is measured as `measurement`, of
    /// which the last byte is kept from the kfunc if `short`.
    #[track_caller]
    pub(crate) fn set(&self, comm: &str, measurement: &Measurement, short: bool) {
        let mut settings = vec![0; 16];
        settings[..comm.len()].copy_from_slice(comm.as_bytes());
        settings.extend(u32::from(short).to_ne_bytes());
        settings.extend([0; 4]);
        settings.extend(measurement.to_bytes());
        let map = self.map("settings");
        map.update(&0u32.to_ne_bytes(), &settings, MapFlags::ANY)
            .expect("the settings can be written");
    }

    /// What came back since the last time.
    #[track_caller]
    pub(crate) fn heard(&self) -> Vec<Told> {
        let told = RefCell::new(Vec::new());
        let map = self.map("told");
        let mut builder = RingBufferBuilder::new();
        builder
            .add(&map, |bytes: &[u8]| {
                told.borrow_mut().push(Told {
                    returned: i64::from_ne_bytes(part(bytes, 0)),
                    measurement: Measurement::from_bytes(&bytes[8..]),
                });
                0
            })
            .expect("it is a ring buffer");
        let ring = builder.build().expect("a ring buffer can be read");
        ring.consume().expect("a ring buffer can be read");
        drop(ring);
        told.into_inner()
    }

    #[track_caller]
    fn map(&self, name: &str) -> libbpf_rs::Map<'_> {
        self.object
            .maps()
            .find(|map| map.name() == name)
            .expect("the object has this map")
    }
}

/// Loads one of the object's programs; what libbpf and the verifier say if it does not load.
pub(crate) fn load(name: &str) -> Result<Object, String> {
    libbpf_rs::set_print(Some((PrintLevel::Info, |_, text| {
        if let Ok(mut said) = SAID.lock() {
            said.push_str(&text);
        }
    })));
    SAID.lock().map_err(|error| error.to_string())?.clear();
    let mut object = ObjectBuilder::default()
        .open_file(OBJECT)
        .map_err(|error| error.to_string())?;
    for mut program in object.progs_mut() {
        let wanted = program.name() == name;
        program.set_autoload(wanted);
    }
    object.load().map_err(|error| {
        let said = SAID.lock().map(|said| said.clone()).unwrap_or_default();
        format!("{error}: {said}")
    })
}

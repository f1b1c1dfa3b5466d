// SPDX-License-Identifier: Apache-2.0
//! The power goes, at moments that a seed chooses: what was not synced is gone, the TPM
//! starts from zero. After each cut the list of the boot before holds all that its TPM
//! had been extended with, and a new one begins. The machine is booted with `resets`;
//! the stage that the scenario has reached is kept in /out, on the host: to sync it on
//! the guest's disk would sync the list as well.
//!
//! Every other boot's TPM is swtpm in the guest, slow, with a journal of its extends on
//! the host: then what it had been extended with is known to the last one before the cut.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use ima_log::{BinaryReader, Digest, HashAlgorithm};

use super::Scenario;
use crate::agent::{CIMA, Site, eventually};
use crate::claims::Claims;
use crate::process;
use crate::tpm_proxy::SoftTpm;
use crate::work::{Load, Random, assert_sound};

pub(crate) const SCENARIO: Scenario = Scenario {
    name: "powercut",
    about: "after a power cut the old list holds what its TPM held, and a new list begins",
    play,
};

const CUTS: u64 = 6;
const STAGE: &str = "/out/stage";
const JOURNAL: &str = "/out/extends";
const PCR: u32 = 13;
/// From one execution of the container to the next.
const EVERY: Duration = Duration::from_millis(40);

/// What one boot leaves to the next.
struct Stage {
    cuts: u64,
    counts: (u32, u32),
    seed: u64,
    /// The list of the boot before.
    list: PathBuf,
    /// What its PCR was last seen to hold, if it was the machine's own.
    pcr: Option<String>,
}

impl Stage {
    /// `None` in the first boot.
    fn read() -> Option<Self> {
        let text = fs::read_to_string(STAGE).ok()?;
        let mut words = text.split_whitespace();
        let mut number = || words.next()?.parse().ok();
        let (cuts, passed, failed, seed) = (number()?, number()?, number()?, number()?);
        Some(Self {
            cuts,
            counts: (u32::try_from(passed).ok()?, u32::try_from(failed).ok()?),
            seed,
            list: words.next()?.into(),
            pcr: words.next().map(str::to_owned),
        })
    }

    /// Leaves it on the host.
    fn write(&self) {
        let (passed, failed) = self.counts;
        let text = format!(
            "{} {passed} {failed} {} {} {}",
            self.cuts,
            self.seed,
            self.list.display(),
            self.pcr.as_deref().unwrap_or_default()
        );
        fs::write(STAGE, text).expect("/out can be written");
    }
}

fn play(claims: &mut Claims, arguments: &[String]) {
    let site = Site::on_disk("powercut");
    let before = Stage::read();
    let mut random = match &before {
        Some(stage) => Random::new(&[stage.seed.to_string()]),
        None => Random::new(arguments),
    };
    let cuts = before.as_ref().map_or(0, |stage| stage.cuts);
    if let Some(stage) = &before {
        claims.go_on_from(stage.counts);
        after_cut(claims, stage);
    }
    if cuts < CUTS {
        cut(claims, &site, &mut random, cuts);
    } else {
        claims.claim(
            "the last boot's list is whole and replays to its TPM",
            || {
                let agent = site.start();
                let load = Load::start(Path::new("/tmp/powercut-load"), 0, EVERY);
                load.wait_for(20);
                let executed = load.finish();
                eventually("all of it is in the list", || {
                    executed.last_is_in(&site.entries()).then_some(())
                });
                agent.stop();
                executed.assert_in(&site.entries());
                assert_sound(&site.entries());
                site.verify().succeeded();
            },
        );
    }
}

/// Starts cimad and a load, and resets the machine in the middle of it.
fn cut(claims: &mut Claims, site: &Site, random: &mut Random, cuts: u64) {
    let tpm = (cuts % 2 == 1).then(slow_tpm);
    site.configure(&tpm.as_ref().map(SoftTpm::sink).unwrap_or_default());
    let agent = site.launch();
    // One in three goes while cimad is starting.
    let (_agent, _load) = if cuts % 3 == 2 {
        thread::sleep(Duration::from_millis(random.below(1500)));
        (agent, None)
    } else {
        let agent = agent.ready();
        claims.claim("a new list begins in the boot's own directory", || {
            let (boot, entries) = (site.list(), site.entries());
            assert!(boot.is_dir(), "{} is there", boot.display());
            assert_sound(&entries);
            let start = &entries[0]["batch"]["events"][0]["start"];
            assert_eq!(start["reason"], "BOOT", "its start: {start}");
        });
        let load = Load::start(Path::new("/tmp/powercut-load"), 0, EVERY);
        load.wait_for(4);
        thread::sleep(Duration::from_millis(random.below(3000)));
        (agent, Some(load))
    };
    let stage = Stage {
        cuts: cuts + 1,
        counts: claims.counts(),
        seed: random.below(u64::MAX),
        list: site.list(),
        pcr: tpm.is_none().then(pcr),
    };
    stage.write();
    println!("     the power goes");
    // Not so long that nothing is left to be lost, but a line must leave the machine.
    thread::sleep(Duration::from_millis(20 + random.below(60)));
    fs::write("/proc/sysrq-trigger", "b").expect("sysrq is there");
    thread::sleep(Duration::from_secs(60));
    panic!("the machine was not reset");
}

fn slow_tpm() -> SoftTpm {
    let tpm = SoftTpm::start("powercut");
    tpm.delay_extends(Duration::from_millis(15));
    tpm.keep_journal(Path::new(JOURNAL));
    tpm
}

fn after_cut(claims: &mut Claims, stage: &Stage) {
    let name = format!(
        "cut {}: the old list reads, torn at its end at worst",
        stage.cuts
    );
    claims.claim(&name, || {
        if !stage.list.exists() {
            return;
        }
        let list = stage.list.to_str().expect("a plain path");
        let ran = process::run(&[CIMA, "log", list]);
        match ran.code() {
            Some(0) => {}
            Some(2) => assert!(ran.stderr.contains("ends inside"), "{}", ran.stderr),
            _ => panic!("{}{}", ran.stdout, ran.stderr),
        }
    });
    let name = format!(
        "cut {}: the old list holds all that the TPM had been extended with",
        stage.cuts
    );
    claims.claim(&name, || {
        let listed = extend_values(&stage.list);
        let extended = match &stage.pcr {
            Some(pcr) => replayed_to(&listed, pcr),
            None => journal_in(&listed),
        };
        let more = listed.len() - extended;
        println!("     the TPM had {extended} entries, {more} more are listed");
    });
}

/// What each entry extends the sha256 bank with, up to the torn end.
fn extend_values(list: &Path) -> Vec<Digest> {
    let mut segments: Vec<_> = fs::read_dir(list)
        .into_iter()
        .flatten()
        .filter_map(|file| Some(file.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|e| e == "ima"))
        .collect();
    segments.sort();
    let bytes: Vec<_> = segments
        .iter()
        .map(|path| fs::read(path).expect("a segment can be read"))
        .collect();
    let records = bytes
        .iter()
        .flat_map(|bytes| BinaryReader::detect(bytes.as_slice()).map_while(Result::ok));
    records
        .map(|record| record.1.extend_value(HashAlgorithm::Sha256))
        .collect()
}

/// How many entries it takes to come to this value of the PCR.
#[track_caller]
fn replayed_to(listed: &[Digest], pcr: &str) -> usize {
    let pcr: Digest = format!("sha256:{pcr}").parse().expect("a digest");
    let mut value = Digest::new(HashAlgorithm::Sha256, &[0; 32]).expect("32 bytes");
    if value == pcr {
        return 0;
    }
    let at = listed.iter().position(|entry| {
        value = value.extended(entry);
        value == pcr
    });
    at.expect("the list's replay comes to the value that the PCR held") + 1
}

/// How many extends there were: they must be the list's first, in order.
#[track_caller]
fn journal_in(listed: &[Digest]) -> usize {
    let journal = fs::read_to_string(JOURNAL).expect("the TPM kept one");
    let extended: Vec<_> = journal.lines().collect();
    let listed: Vec<_> = listed
        .iter()
        .map(|digest| digest.to_string().replace("sha256:", ""))
        .collect();
    let same = extended.iter().zip(&listed).take_while(|(a, b)| *a == b);
    let same = same.count();
    assert_eq!(
        same,
        extended.len(),
        "entries in the list of those that the TPM was extended with; {} are listed",
        listed.len()
    );
    same
}

/// What the PCR holds now, in hexadecimal.
fn pcr() -> String {
    let said = process::run(&["tpm2_pcrread", &format!("sha256:{PCR}")]).succeeded();
    let value = said.split("0x").nth(1).map(str::trim);
    value.expect("it says the value").to_lowercase()
}

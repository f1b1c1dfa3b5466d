// SPDX-License-Identifier: Apache-2.0
//! The kfunc: what a BPF program says of a file is in the list before the file is mapped, in
//! the bytes of docs/FORMATS.md; and who may call it how.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;

use super::{counter, device};
use crate::act::{ACT, Actor};
use crate::agent::sha256sum;
use crate::claims::Claims;
use crate::host_list;
use crate::kfunc::{self, COPIED_UP, HASHED, IMAGE, Kfunc, Measurement, Told, UNMEASURED, WRITER};
use crate::process;

/// Where the programs lie that are measured: on ext4.
const DIR: &str = "/root/kfunc";
/// The program of `tests/act`, and its task's name.
const PROGRAM: &str = "/root/kfunc/act";
const COMM: &str = "act";

const EEXIST: i64 = -17;
const ENOENT: i64 = -2;
const EINVAL: i64 = -22;
/// `enum hash_algo`, `include/uapi/linux/hash_info.h`.
const SHA1: u32 = 2;
const SHA256: u32 = 4;

pub(super) fn without_a_rule(claims: &mut Claims) {
    claims.claim(
        "without a rule the kfunc returns ENOENT, and hashes all the same",
        || {
            fs::create_dir_all(DIR).expect("the root disk can be written");
            fs::copy(ACT, PROGRAM).expect("the root disk can be written");
            let kfunc = Kfunc::attach();
            let told = said_of(&kfunc, &Measurement::PLAIN, &["fork"]);
            assert_eq!(told.returned, ENOENT);
            assert_eq!(digest(&told), sha256_of(PROGRAM));
            assert!(host_list::entries().is_empty());
        },
    );
}

pub(super) fn play(claims: &mut Claims) {
    let Some(kfunc) = claims.claim("a BPF program that calls the kfunc loads", Kfunc::attach)
    else {
        return;
    };
    claims.claim(
        "a program finds itself in the list and PCR, by its first act",
        || first_act(&kfunc),
    );
    claims.claim(
        "the container's image, or why there is none, is in the name",
        || {
            provenance(&kfunc);
        },
    );
    claims.claim(
        "what is mapped later is listed, whatever it is called",
        || mapped(&kfunc),
    );
    claims.claim(
        "what cannot be hashed, or can be written, is a violation",
        || violations(&kfunc),
    );
    claims.claim("a path that is too long is a violation", || {
        too_long(&kfunc);
    });
    claims.claim("what the caller knows of the file is taken", || {
        hashed_before(&kfunc);
    });
    claims.claim(
        "on overlayfs a writable mapping counts, whose file is closed",
        || overlay(&kfunc),
    );
    claims.claim("two hundred random measurements", || random(&kfunc));
    claims.claim("twenty programs at once: each is listed, once", || {
        storm(&kfunc);
    });
    claims.claim("what makes no sense is EINVAL, and not listed", || {
        nonsense(&kfunc);
    });
    claims.claim(
        "the module does not go while a BPF program might call it",
        || {
            let said = process::run(&["rmmod", "cima"]).failed();
            assert!(said.contains("is in use"), "rmmod says {said}");
        },
    );
    drop(kfunc);
    claims.claim(
        "the verifier refuses calls that could not be safe",
        refused_at_load,
    );
    claims.claim("and it goes when the last such program is gone", || {
        unload();
        super::insmod("").succeeded();
    });
}

/// Unloads the module: the last program's references to it are dropped after a grace period.
#[track_caller]
pub(super) fn unload() {
    for _ in 0..100 {
        if process::run(&["rmmod", "cima"]).code() == Some(0) {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    panic!("the module is still in use");
}

fn first_act(kfunc: &Kfunc) {
    let program = format!("{DIR}/busybox-first");
    fs::copy("/bin/busybox", &program).expect("the root disk can be written");
    kfunc.set("busybox-first", &Measurement::PLAIN, false);
    let list = process::run(&[&program, "cat", host_list::ASCII]).succeeded();
    let line = list.lines().last().expect("the list is not empty");
    let name = format!("cima-exec:unregistered:{program}");
    assert!(line.contains(&format!(" {name} ")), "the last is {line}");
    let told = kfunc.heard();
    assert_eq!(told.len(), 1, "a static program has one executable mapping");
    assert_eq!(told[0].returned, 0);
    assert_eq!(digest(&told[0]), sha256_of(&program));
    assert_eq!(host_list::count(&name, &payload(&program)), 1);
    host_list::replays();
}

fn provenance(kfunc: &Kfunc) {
    let image: [u8; 32] =
        std::array::from_fn(|at| u8::try_from(at * 7 % 256).expect("it is below 256"));
    let hex: String = image.iter().map(|byte| format!("{byte:02x}")).collect();
    let of_image = Measurement {
        provenance: IMAGE,
        image,
        ..Measurement::PLAIN
    };
    let unmeasured = Measurement {
        provenance: UNMEASURED,
        ..Measurement::PLAIN
    };
    for (measurement, said) in [
        (of_image, format!("sha256:{hex}")),
        (unmeasured, "unmeasured".to_owned()),
        (Measurement::PLAIN, "unregistered".to_owned()),
    ] {
        let name = format!("cima-exec:{said}:{PROGRAM}");
        assert_eq!(
            said_of(kfunc, &measurement, &["fork"]).returned,
            0,
            "{name}"
        );
        assert_eq!(
            said_of(kfunc, &measurement, &["fork"]).returned,
            EEXIST,
            "{name}"
        );
        assert_eq!(host_list::count(&name, &payload(PROGRAM)), 1, "{name}");
    }
}

fn mapped(kfunc: &Kfunc) {
    for (file, escaped) in [
        ("plain.so", "plain.so"),
        ("a b%41", "a%20b%2541"),
        ("line\nbreak\u{1b}[2J", "line%0Abreak%1B[2J"),
        ("ü", "%C3%BC"),
    ] {
        let path = format!("{DIR}/{file}");
        fs::write(&path, format!("content of {file}")).expect("the root disk can be written");
        let told = said_of(kfunc, &Measurement::PLAIN, &["open", &path, "map", "rx"]);
        assert_eq!(told.returned, 0, "{path}");
        let name = format!("cima-exec:unregistered:{DIR}/{escaped}");
        assert_eq!(host_list::count(&name, &payload(&path)), 1, "{name}");
    }
    let path = format!("{DIR}/deleted");
    fs::write(&path, "deleted").expect("the root disk can be written");
    let expected = payload(&path);
    kfunc.set(COMM, &Measurement::PLAIN, false);
    let actor = Actor::of(Command::new(PROGRAM).args(["open", &path, "wait", "map", "rx"]));
    fs::remove_file(&path).expect("it is there");
    actor.finish();
    let name = format!("cima-exec:unregistered:{path}%20(deleted)");
    assert_eq!(host_list::count(&name, &expected), 1, "{name}");
    kfunc.heard();
}

fn violations(kfunc: &Kfunc) {
    let path = format!("{DIR}/violated");
    fs::write(&path, "violated").expect("the root disk can be written");
    let digest = sha256_of(&path);
    let file = format!("unregistered:{path}");
    let unhashed = counter("hash_failed");
    // What is done; the name without "cima-violation:"; the payload.
    let cases: &[(&[&str], String, String)] = &[
        (
            &["write", &path, "map", "rx"],
            format!("writer:{file}"),
            format!("v1;writer;open;sha256:{digest}"),
        ),
        (
            &["direct", &path, "map", "rx"],
            format!("hash:{file}"),
            "v1;hash;errno=95".to_owned(),
        ),
        (
            &["open", "/dev/zero", "map", "rx"],
            "hash:unregistered:/dev/zero".to_owned(),
            "v1;hash;type=20000".to_owned(),
        ),
        (
            &["memfd", "m", "fill", &path, "map", "rx"],
            "writer:unregistered:/memfd:m%20(deleted)".to_owned(),
            format!("v1;writer;open;sha256:{digest}"),
        ),
    ];
    for (acts, name, payload) in cases {
        let name = format!("cima-violation:{name}");
        assert_eq!(
            said_of(kfunc, &Measurement::PLAIN, acts).returned,
            0,
            "{name}"
        );
        assert_eq!(host_list::count(&name, payload), 1, "{name} with {payload}");
    }
    assert_eq!(counter("hash_failed"), unhashed + 2);
    let acts = ["memfd", "s", "fill", &path, "seal", "map", "rx"];
    assert_eq!(said_of(kfunc, &Measurement::PLAIN, &acts).returned, 0);
    let name = "cima-exec:unregistered:/memfd:s%20(deleted)";
    assert_eq!(host_list::count(name, &payload(&path)), 1, "a sealed memfd");
}

/// The writer is counted in the upper layer's inode, not in the overlay's.
fn overlay(kfunc: &Kfunc) {
    let dir = format!("{DIR}/overlay");
    for part in ["lower", "upper", "work", "merged"] {
        fs::create_dir_all(format!("{dir}/{part}")).expect("the root disk can be written");
    }
    let layers = format!("lowerdir={dir}/lower,upperdir={dir}/upper,workdir={dir}/work");
    let merged = format!("{dir}/merged");
    process::run(&["modprobe", "overlay"]).succeeded();
    process::run(&["mount", "-t", "overlay", "-o", &layers, "o", &merged]).succeeded();
    let path = format!("{merged}/written");
    fs::write(&path, "written").expect("the overlay can be written");
    let acts = ["write", &path, "share", "close", "open", &path, "map", "rx"];
    assert_eq!(said_of(kfunc, &Measurement::PLAIN, &acts).returned, 0);
    let name = format!("cima-violation:writer:unregistered:{path}");
    let digest = format!("v1;writer;open;sha256:{}", sha256_of(&path));
    assert_eq!(host_list::count(&name, &digest), 1, "{name}");
    let acts = ["open", &path, "map", "rx"];
    assert_eq!(said_of(kfunc, &Measurement::PLAIN, &acts).returned, 0);
    let name = format!("cima-exec:unregistered:{path}");
    assert_eq!(host_list::count(&name, &payload(&path)), 1, "{name}, later");
    process::run(&["umount", &merged]).succeeded();
}

/// Whatever a program passes, it gets an errno or an entry of the documented form.
fn random(kfunc: &Kfunc) {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut any = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        u32::try_from(state >> 32).expect("it is half of it")
    };
    let before = host_list::entries().len();
    let mut listed = 0;
    for _ in 0..200 {
        let small = any() % 8;
        let measurement = Measurement {
            provenance: if small < 6 { small / 2 } else { any() },
            flags: if any() % 4 > 0 { any() % 8 } else { any() },
            image: if small < 4 {
                [0; 32]
            } else {
                [any().to_ne_bytes()[0]; 32]
            },
            error: [0, -1, -4095, any().cast_signed()][any() as usize % 4],
            algorithm: [SHA256, any() % 32, any()][any() as usize % 3],
            digest: [any().to_ne_bytes()[1]; 64],
        };
        match said_of(kfunc, &measurement, &["fork"]).returned {
            0 => listed += 1,
            EEXIST | EINVAL => {}
            other => panic!("{measurement:?} gives {other}"),
        }
    }
    let entries = host_list::entries().split_off(before);
    assert_eq!(
        entries.len(),
        listed,
        "those it was told of are in the list"
    );
    let image = |text: &str| {
        ["unregistered", "unmeasured"].contains(&text)
            || text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
    };
    for entry in &entries {
        let name = entry.name.replace("sha256:", "");
        let parts: Vec<&str> = name.split(':').collect();
        let fine = match parts[..] {
            ["cima-exec", of, path] => image(of) && path == PROGRAM,
            ["cima-violation", "hash" | "writer", of, path] => image(of) && path == PROGRAM,
            _ => false,
        };
        assert!(fine && entry.payload.starts_with(b"v1;"), "{entry:?}");
    }
    println!("     {listed} of them are listed");
}

/// A program below directories whose names are longer than `PATH_MAX` together.
fn too_long(kfunc: &Kfunc) {
    let name = "d".repeat(250);
    let begin = std::env::current_dir().expect("there is one");
    std::env::set_current_dir(DIR).expect("it is there");
    for _ in 0..18 {
        fs::create_dir(&name).expect("the root disk can be written");
        std::env::set_current_dir(&name).expect("it is there");
    }
    fs::copy(ACT, "deep").expect("the root disk can be written");
    kfunc.set("deep", &Measurement::PLAIN, false);
    let inode = fs::metadata("deep").expect("it is there").ino();
    let ran = Command::new("./deep").arg("fork").status();
    std::env::set_current_dir(begin).expect("it is there");
    assert!(ran.is_ok_and(|status| status.success()), "it runs");
    assert_eq!(kfunc.heard()[0].returned, 0);
    let payload = format!("v1;path;inode={inode};sha256:{}", sha256_of(ACT));
    assert_eq!(
        host_list::count("cima-violation:path:unregistered:", &payload),
        1
    );
}

fn hashed_before(kfunc: &Kfunc) {
    let mut digest = [0; 64];
    digest[..32].fill(0xab);
    let known = Measurement {
        flags: HASHED,
        algorithm: SHA256,
        digest,
        ..Measurement::PLAIN
    };
    let hex = "ab".repeat(32);
    let flagged = |flag| Measurement {
        flags: HASHED | flag,
        ..known.clone()
    };
    let failed = |error, algorithm| Measurement {
        error,
        algorithm,
        ..known.clone()
    };
    let violation = |kind: &str| format!("cima-violation:{kind}:unregistered:{PROGRAM}");
    for (measurement, name, payload) in [
        (
            known.clone(),
            format!("cima-exec:unregistered:{PROGRAM}"),
            format!("v1;sha256:{hex}"),
        ),
        (
            flagged(WRITER),
            violation("writer"),
            format!("v1;writer;open;sha256:{hex}"),
        ),
        (
            flagged(COPIED_UP | WRITER),
            violation("writer"),
            format!("v1;writer;copied-up;sha256:{hex}"),
        ),
        (
            failed(-5, 0),
            violation("hash"),
            "v1;hash;errno=5".to_owned(),
        ),
        (
            failed(0, SHA1),
            violation("hash"),
            "v1;hash;algorithm=2".to_owned(),
        ),
        (
            failed(0, u32::MAX),
            violation("hash"),
            "v1;hash;algorithm=4294967295".to_owned(),
        ),
    ] {
        let told = said_of(kfunc, &measurement, &["fork"]);
        assert_eq!(told.returned, 0, "{name} with {payload}");
        assert_eq!(told.measurement, measurement, "it is given back as it was");
        assert_eq!(
            host_list::count(&name, &payload),
            1,
            "{name} with {payload}"
        );
    }
}

fn storm(kfunc: &Kfunc) {
    kfunc.set(COMM, &Measurement::PLAIN, false);
    let script = format!(
        "cd {DIR}; for n in $(seq 20); do mkdir s$n; cp act s$n/act; echo $n >> s$n/act; done; \
         for n in $(seq 20); do s$n/act fork & s$n/act fork & done; wait"
    );
    process::run(&["sh", "-c", &script]).succeeded();
    let told = kfunc.heard();
    let with = |returned| told.iter().filter(|told| told.returned == returned).count();
    assert_eq!((with(0), with(EEXIST)), (20, 20), "{told:?}");
    for n in 1..=20 {
        let path = format!("{DIR}/s{n}/act");
        let name = format!("cima-exec:unregistered:{path}");
        assert_eq!(host_list::count(&name, &payload(&path)), 1, "{name}");
    }
}

fn nonsense(kfunc: &Kfunc) {
    let plain = Measurement::PLAIN;
    let listed = host_list::entries().len();
    let refused = counter("refused");
    let cases = [
        Measurement {
            provenance: 3,
            ..plain.clone()
        },
        Measurement {
            provenance: u32::MAX,
            ..plain.clone()
        },
        Measurement {
            flags: 8,
            ..plain.clone()
        },
        Measurement {
            image: [1; 32],
            ..plain.clone()
        },
        Measurement {
            flags: HASHED,
            error: 1,
            ..plain.clone()
        },
        Measurement {
            flags: HASHED,
            error: i32::MIN,
            ..plain.clone()
        },
    ];
    for measurement in &cases {
        let told = said_of(kfunc, measurement, &["fork"]);
        assert_eq!(told.returned, EINVAL, "{measurement:?}");
        assert_eq!(&told.measurement, measurement, "nothing was written to it");
    }
    kfunc.set(COMM, &plain, true);
    process::run(&[PROGRAM, "fork"]).succeeded();
    assert_eq!(
        kfunc.heard()[0].returned,
        EINVAL,
        "a measurement without its last byte"
    );
    assert_eq!(host_list::entries().len(), listed);
    assert_eq!(counter("refused"), refused + 7);
    let told = said_of(kfunc, &plain, &["anonymous", "rx"]);
    assert_eq!(told.returned, EINVAL, "memory without a file");
    assert_eq!(told.measurement, plain, "nothing was written to it");
    let anonymous = |entry: &host_list::Entry| entry.name.contains("anonymous");
    assert!(!host_list::entries().iter().any(anonymous));
}

fn refused_at_load() {
    let series = std::env::var("CIMA_GUEST_KERNEL").unwrap_or_default();
    // kmod-bridge/kfunc.c: 6.1 knows neither filters nor trusted arguments.
    let old = series == "6.1";
    let not_lsm = if old {
        "" // It looks at the arguments first.
    } else {
        "calling kernel function cima_measure_file is not allowed"
    };
    for (name, why) in [
        ("not_sleepable", "sleepable"),
        ("not_lsm", not_lsm),
        ("a_number", ""),
        ("too_long", "stack"),
        ("walked", "R1 must be"),
    ] {
        let loaded = kfunc::load(name);
        if name == "walked" && old {
            assert!(loaded.is_ok(), "6.1 takes any pointer to a file");
            continue;
        }
        match loaded {
            Ok(_) => panic!("{name} is loaded"),
            Err(said) => assert!(said.contains(why), "{name}: it says {said}"),
        }
    }
    assert_eq!(device::submit("cima-ctx:after", "v1;"), "LISTED");
}

/// What came back of the last executable mapping that the program of `tests/act` made.
#[track_caller]
fn said_of(kfunc: &Kfunc, measurement: &Measurement, acts: &[&str]) -> Told {
    kfunc.heard();
    kfunc.set(COMM, measurement, false);
    let words = [&[PROGRAM], acts].concat();
    process::run(&words).succeeded();
    kfunc.heard().pop().expect("the kfunc was called")
}

fn digest(told: &Told) -> String {
    assert_eq!(told.measurement.error, 0);
    assert_eq!(told.measurement.algorithm, SHA256);
    told.measurement.digest[..32]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

fn payload(path: &str) -> String {
    format!("v1;sha256:{}", sha256_of(path))
}

#[track_caller]
fn sha256_of(path: &str) -> String {
    sha256sum(Path::new(path))
}

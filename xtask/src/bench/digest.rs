// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask bench digest`: how long `cima digest` takes for a tree of files, for the layers of the same
//! image and for a tree measured before, beside tools that read or hash the same bytes. On the host:
//! nothing here touches a kernel's or a TPM's state.
//!
//! ```text
//! target/cima/bench/digest/tree/      the files, made once, the same on every machine
//! target/cima/bench/digest/layout/    the image of them, an OCI layout with gzip layers
//! ```

use std::fmt;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::json;

use crate::build::{self, Part};
use crate::error::{Doing as _, Error, Verdict};
use crate::setup::{self, Need};
use crate::workspace;

pub(super) const ABOUT: &str =
    "digests of a tree, of its layers and of a tree measured before, beside tools";

/// Files of the tree, and directories of its first level: each is a layer.
const FILES: usize = 55_000;
const LAYERS: usize = 4;
/// What the tree must have for the figures to count.
const LEAST_BYTES: u64 = 1_000_000_000;

#[derive(clap::Args)]
pub(super) struct Args {
    /// How often each is timed; the median counts
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Hash this tree instead of the one that is made for it; the layers stay those
    #[arg(long, value_name = "DIR")]
    tree: Option<PathBuf>,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

impl Args {
    /// What `bench all` runs.
    pub(super) fn usual(json: bool) -> Self {
        Self {
            rounds: 7,
            tree: None,
            json,
        }
    }
}

/// One command that is timed.
struct Contestant {
    name: &'static str,
    command: Command,
}

/// What came of one.
#[derive(Serialize)]
struct Timed {
    name: &'static str,
    median_ms: f64,
    least_ms: f64,
    /// Peak of the resident set; of cima alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    peak_mib: Option<f64>,
}

/// A ratio that has a target.
#[derive(Serialize)]
struct Target {
    what: &'static str,
    found: f64,
    at_most: f64,
}

#[derive(Serialize)]
struct Report {
    files: usize,
    bytes: u64,
    cores: usize,
    timed: Vec<Timed>,
    targets: Vec<Target>,
}

const TREE: &str = "cima digest dir:";
const AGAIN: &str = "cima digest dir:, measured before";
const LAYOUT: &str = "cima digest oci:, gzip layers";
const OPENSSL: &str = "find | xargs openssl dgst -sha256";
const SHA256SUM: &str = "find | xargs sha256sum";
const GZIP: &str = "gzip -dc of the layers";

pub(super) fn run(args: &Args) -> Result<Verdict, Error> {
    setup::ensure(&[Need::Programs])?;
    build::build(&[Part::Programs])?;
    let place = workspace::target().join("cima/bench/digest");
    let tree = Tree::make(&place, args.tree.as_deref())?;
    let report = tree.race(args.rounds.max(5))?;
    if args.json {
        let report = json!({"bench": "digest", "report": report});
        println!("{report:#}");
    } else {
        print!("{report}");
    }
    Ok(Verdict::from_passed(report.met()))
}

/// The tree and its image.
struct Tree {
    place: PathBuf,
    root: PathBuf,
    files: usize,
    bytes: u64,
}

impl Tree {
    /// Makes what is not there from before.
    fn make(place: &Path, other: Option<&Path>) -> Result<Self, Error> {
        let (tree, done) = (place.join("tree"), place.join("made-3"));
        if !done.exists() {
            println!(
                "Making a tree of {FILES} files and its image in {}.",
                place.display()
            );
            if place.exists() {
                fs::remove_dir_all(place).doing("remove", place)?;
            }
            fs::create_dir_all(&tree).doing("make", &tree)?;
            write_files(&tree)?;
            write_layout(place)?;
            fs::write(&done, "").doing("write", &done)?;
        }
        let root = other.map_or(tree, Path::to_owned);
        let (mut files, mut bytes) = (0, 0);
        for entry in walkdir::WalkDir::new(&root) {
            let metadata = entry.and_then(|entry| entry.metadata());
            let metadata = metadata.map_err(io::Error::from).doing("walk", &root)?;
            if metadata.is_file() {
                files += 1;
                bytes += metadata.len();
            }
        }
        if bytes < LEAST_BYTES {
            let message = format!("The tree in {} has {bytes} bytes only.", root.display());
            return Err(Error::Environment(message));
        }
        Ok(Self {
            place: place.to_owned(),
            root,
            files,
            bytes,
        })
    }

    fn race(&self, rounds: usize) -> Result<Report, Error> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let cache = self.place.join("cache");
        let _ = fs::remove_file(&cache);
        let mut contestants = self.contestants(cores, &cache);
        let mut times: Vec<Vec<f64>> = contestants.iter().map(|_| Vec::new()).collect();
        let mut peaks = vec![0_u64; contestants.len()];
        // The first round warms the page cache up, and fills cima's own; cima's memory is looked at, no
        // time counts.
        for round in 0..=rounds {
            for (index, contestant) in contestants.iter_mut().enumerate() {
                cima_guests::check_interrupt()?;
                let looks = round == 0 && contestant.name.starts_with("cima");
                let (time, peak) = ran(contestant, looks)?;
                peaks[index] = peaks[index].max(peak);
                if round > 0 {
                    times[index].push(time.as_secs_f64() * 1e3);
                }
            }
        }
        let timed = contestants.iter().zip(times).zip(peaks);
        let timed: Vec<_> = timed
            .map(|((contestant, mut times), peak)| {
                times.sort_by(f64::total_cmp);
                Timed {
                    name: contestant.name,
                    median_ms: times[times.len() / 2],
                    least_ms: times[0],
                    peak_mib: (contestant.name.starts_with("cima")).then_some(peak as f64 / 1024.0),
                }
            })
            .collect();
        let targets = targets(&timed);
        Ok(Report {
            files: self.files,
            bytes: self.bytes,
            cores,
            timed,
            targets,
        })
    }

    fn contestants(&self, cores: usize, cache: &Path) -> Vec<Contestant> {
        let layout = self.place.join("layout");
        let (tree, layout) = (self.root.display(), layout.display());
        let cima = workspace::stage().join("bin/cima");
        let cima = |name, arguments: &[&str]| {
            let mut command = Command::new(&cima);
            command.arg("digest").args(arguments);
            Contestant { name, command }
        };
        let shell = |name, script: String| {
            let mut command = Command::new("sh");
            command.args(["-ec", &script]);
            Contestant { name, command }
        };
        let hashed =
            |program: &str| format!("find {tree} -type f -print0 | xargs -0 -P{cores} {program}");
        let dir = format!("dir:{tree}");
        let mut contestants = vec![
            cima(TREE, &[&dir]),
            cima(AGAIN, &["--cache", &cache.to_string_lossy(), &dir]),
            cima(LAYOUT, &[&format!("oci:{layout}")]),
            shell(OPENSSL, hashed("openssl dgst -sha256")),
            shell(SHA256SUM, hashed("sha256sum")),
            shell(
                GZIP,
                format!("for one in {layout}/layers/*; do gzip -dc $one; done"),
            ),
        ];
        for (name, program, script) in [
            (
                "nix-hash",
                "nix-hash",
                format!("nix-hash --type sha256 {tree}"),
            ),
            ("casync digest", "casync", format!("casync digest {tree}")),
            ("mtree", "mtree", format!("mtree -c -K sha256 -p {tree}")),
            (
                "cfsctl compute-id",
                "cfsctl",
                format!("cfsctl compute-id {tree}"),
            ),
        ] {
            if installed(program) {
                contestants.push(shell(name, script));
            }
        }
        contestants
    }
}

fn installed(program: &str) -> bool {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&paths).any(|directory| directory.join(program).is_file())
}

/// Runs one; how long it took or, if it is looked at, the most that it had resident, in KiB. Who is looked at
/// is slower.
fn ran(contestant: &mut Contestant, looks: bool) -> Result<(Duration, u64), Error> {
    let failed = |why: String| Error::Environment(format!("`{}` {why}.", contestant.name));
    let started = Instant::now();
    let mut child = contestant
        .command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .map_err(|error| failed(format!("cannot be started: {error}")))?;
    let status = PathBuf::from(format!("/proc/{}/status", child.id()));
    let mut peak = 0;
    let ended = loop {
        if !looks {
            break child.wait();
        }
        peak = peak.max(resident_peak(&status));
        match child.try_wait() {
            Ok(None) => std::thread::sleep(Duration::from_millis(1)),
            Ok(Some(status)) => break Ok(status),
            Err(error) => break Err(error),
        }
    };
    let ended = ended.map_err(|error| failed(format!("is lost: {error}")))?;
    let time = started.elapsed();
    if !ended.success() {
        return Err(failed(format!("ended with {ended}")));
    }
    Ok((time, peak))
}

/// `VmHWM` only rises: what it was at the last look is the peak but for the last millisecond.
fn resident_peak(status: &Path) -> u64 {
    let status = fs::read_to_string(status).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let number = line.and_then(|line| line.trim().strip_suffix(" kB"));
    number.and_then(|number| number.parse().ok()).unwrap_or(0)
}

fn targets(timed: &[Timed]) -> Vec<Target> {
    let of = |name: &str| timed.iter().find(|one| one.name == name);
    let median = |name: &str| of(name).map_or(f64::NAN, |one| one.median_ms);
    let ratio = |what, one: &str, other: &str, at_most| Target {
        what,
        found: median(one) / median(other),
        at_most,
    };
    let peak = timed
        .iter()
        .filter_map(|one| one.peak_mib)
        .fold(0.0, f64::max);
    vec![
        ratio("tree, to openssl on all cores", TREE, OPENSSL, 0.80),
        ratio("tree, to sha256sum on all cores", TREE, SHA256SUM, 0.40),
        ratio("layers, to unpacking them with gzip", LAYOUT, GZIP, 1.15),
        ratio("tree measured before, to the first time", AGAIN, TREE, 0.30),
        Target {
            what: "peak memory, MiB",
            found: peak,
            at_most: 96.0,
        },
    ]
}

impl Target {
    fn met(&self) -> bool {
        self.found <= self.at_most
    }
}

impl Report {
    fn met(&self) -> bool {
        self.targets.iter().all(Target::met)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let megabytes = self.bytes as f64 / 1e6;
        writeln!(
            f,
            "{} files, {megabytes:.0} MB, {} cores",
            self.files, self.cores
        )?;
        writeln!(
            f,
            "{:<42} {:>10} {:>10} {:>9}",
            "", "median ms", "least ms", "peak MiB"
        )?;
        for one in &self.timed {
            write!(
                f,
                "{:<42} {:>10.0} {:>10.0}",
                one.name, one.median_ms, one.least_ms
            )?;
            match one.peak_mib {
                Some(peak) => writeln!(f, " {peak:>9.1}")?,
                None => writeln!(f)?,
            }
        }
        for target in &self.targets {
            let met = if target.met() { "met" } else { "MISSED" };
            writeln!(
                f,
                "{:<42} {:>10.2} <= {:.2} {met}",
                target.what, target.found, target.at_most
            )?;
        }
        Ok(())
    }
}

/// Numbers that look random and are the same everywhere (xorshift64*, Vigna 2016).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, bound: u64) -> u64 {
        (self.next() >> 11) % bound
    }
}

/// Most files are small, most bytes are in few, and a directory has a dozen files: as below `/usr` of a
/// distribution.
fn write_files(tree: &Path) -> Result<(), Error> {
    const IN_A_DIRECTORY: usize = 12;
    let mut numbers = Numbers(0x0063_696d_6131);
    for number in 0..FILES {
        let directory = number / IN_A_DIRECTORY;
        let folder = tree.join(format!(
            "layer{}/usr/share/package{:03}/part{directory:04}",
            directory % LAYERS,
            directory / 40
        ));
        if number % IN_A_DIRECTORY == 0 {
            fs::create_dir_all(&folder).doing("make", &folder)?;
        }
        let size = HUGE
            .get(number / 1000)
            .filter(|_| number % 1000 == 999)
            .map_or_else(|| size(&mut numbers), |megabytes| megabytes << 20);
        let path = folder.join(format!("file{number:05}"));
        write_file(&path, size, &mut numbers).doing("write", &path)?;
    }
    Ok(())
}

/// Sizes of files below `/usr` of a Debian 12 with compilers: so many of 1,000 have at most so many bytes.
const SIZES: [(u64, u64); 11] = [
    (0, 20),
    (100, 448),
    (250, 797),
    (500, 1_477),
    (750, 4_109),
    (900, 19_834),
    (950, 47_163),
    (990, 268_576),
    (995, 571_400),
    (999, 3_386_286),
    (1000, 24 << 20),
];
/// The six largest there, in MiB: compilers' libraries and archives of classes.
const HUGE: [u64; 6] = [60, 72, 90, 104, 111, 142];

fn size(numbers: &mut Numbers) -> u64 {
    let millionth = numbers.below(1_000_000);
    let between = SIZES.windows(2).find_map(|pair| {
        let [(from, least), (to, most)] = [pair[0], pair[1]];
        let (from, to) = (from * 1000, to * 1000);
        let inside = (from..to).contains(&millionth);
        inside.then(|| least + (most - least) * (millionth - from) / (to - from))
    });
    // Every number is below the last bound.
    between.unwrap_or(0)
}

/// Words and, among them, bytes that do not compress: gzip makes about a third of it.
fn write_file(path: &Path, size: u64, numbers: &mut Numbers) -> io::Result<()> {
    const WORDS: [&str; 16] = [
        "container",
        "image",
        "layer",
        "measure",
        "digest",
        "kernel",
        "the",
        "of",
        "list",
        "entry",
        "policy",
        "verify",
        "extend",
        "and",
        "module",
        "library",
    ];
    let mut file = BufWriter::new(File::create(path)?);
    let mut left = size;
    while left > 0 {
        let number = numbers.next();
        let random = number.to_le_bytes();
        let word = WORDS[(number >> 60) as usize].as_bytes();
        let piece = if (number >> 40).is_multiple_of(4) {
            &random[..]
        } else {
            word
        };
        let piece = &piece[..piece.len().min(usize::try_from(left).unwrap_or(usize::MAX))];
        file.write_all(piece)?;
        left -= piece.len() as u64;
    }
    file.flush()
}

/// The image of the tree: GNU tar and gzip make its layers.
fn write_layout(place: &Path) -> Result<(), Error> {
    let layout = place.join("layout");
    let (blobs, layers) = (layout.join("blobs/sha256"), layout.join("layers"));
    for folder in [&blobs, &layers] {
        fs::create_dir_all(folder).doing("make", folder)?;
    }
    let (mut diff_ids, mut descriptors) = (Vec::new(), Vec::new());
    for number in 0..LAYERS {
        let archive = layers.join(format!("{number}"));
        let mut tar = Command::new("tar");
        tar.args(["--format=pax", "--sort=name", "--numeric-owner", "-C"])
            .arg(place.join("tree"))
            .arg("-cf")
            .arg(&archive)
            .arg(format!("layer{number}"));
        cima_guests::run_tool("Packing a layer", &mut tar)?;
        diff_ids.push(sha256_of(&archive)?);
        let mut gzip = Command::new("gzip");
        gzip.args(["-6", "-n"]).arg(&archive);
        cima_guests::run_tool("Compressing a layer", &mut gzip)?;
        let packed = layers.join(format!("{number}.gz"));
        let blob = blob(&blobs, &packed)?;
        descriptors.push(described(
            blob,
            "application/vnd.oci.image.layer.v1.tar+gzip",
        ));
    }
    let document = |value: serde_json::Value| {
        let path = place.join("document");
        fs::write(&path, value.to_string()).doing("write", &path)?;
        blob(&blobs, &path)
    };
    let config = document(json!({
        "architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": diff_ids},
    }))?;
    let manifest = document(json!({
        "schemaVersion": 2,
        "config": described(config, "application/vnd.oci.image.config.v1+json"),
        "layers": descriptors,
    }))?;
    let manifest = described(manifest, "application/vnd.oci.image.manifest.v1+json");
    let index = json!({"schemaVersion": 2, "manifests": [manifest]});
    for (name, content) in [
        ("index.json", index.to_string()),
        ("oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#.to_owned()),
    ] {
        let path = layout.join(name);
        fs::write(&path, content).doing("write", &path)?;
    }
    Ok(())
}

/// Makes a file a blob by a second name for it; its digest and size.
fn blob(blobs: &Path, file: &Path) -> Result<(String, u64), Error> {
    let digest = sha256_of(file)?;
    let blob = blobs.join(digest.trim_start_matches("sha256:"));
    let size = fs::metadata(file).doing("look at", file)?.len();
    if !blob.exists() {
        fs::copy(file, &blob).doing("copy to", &blob)?;
    }
    Ok((digest, size))
}

fn described((digest, size): (String, u64), media_type: &str) -> serde_json::Value {
    json!({"mediaType": media_type, "digest": digest, "size": size})
}

fn sha256_of(path: &Path) -> Result<String, Error> {
    let mut sha256sum = Command::new("sha256sum");
    let output = sha256sum.arg("--").arg(path).output();
    let output = output.doing("hash", path)?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    match text.get(..64) {
        Some(digest) if output.status.success() => Ok(format!("sha256:{digest}")),
        _ => {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            let message = format!("sha256sum of {} failed: {said}", path.display());
            Err(Error::Environment(message))
        }
    }
}

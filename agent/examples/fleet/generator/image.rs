// SPDX-License-Identifier: Apache-2.0
//! Forty images, ten kinds of four teams, on six distributions. A file of a distribution has one digest in all its images.

use ima_log::Digest;
use image_digest::ImageDigest;

use super::numbers::digest_of;

const TEAMS: [&str; 4] = ["shop", "bank", "mail", "lab"];
const BASES: [&str; 6] = [
    "debian-12",
    "debian-13",
    "alpine-3.20",
    "ubi-9",
    "ubuntu-24.04",
    "wolfi",
];

/// Kinds, each with what it runs at first.
const KINDS: [(&str, &[&str]); 10] = [
    ("web", &["--listen", "0.0.0.0:8080"]),
    ("api", &["--config", "/etc/api.toml"]),
    ("worker", &["--queue", "jobs", "--threads", "4"]),
    ("postgres", &["-D", "/var/lib/postgresql/data"]),
    ("redis", &["/etc/redis.conf", "--protected-mode", "yes"]),
    ("builder", &["serve", "--root", "/work"]),
    ("runner", &["agent", "--root", "/work", "--labels", "ci"]),
    ("cron", &["-f"]),
    ("metrics", &["--scrape", "15s"]),
    ("shell", &["--idle"]),
];

/// Tools of every distribution, with arguments; `#` becomes a number.
const TOOLS: [(&str, &[&[&str]]); 24] = [
    (
        "sh",
        &[
            &["-c", "curl -fsS http://127.0.0.1:8080/healthz"],
            &["-c", "exec /usr/local/bin/task-# --once"],
            &["/usr/local/bin/entrypoint.sh", "run", "#"],
        ],
    ),
    ("make", &[&["-C", "/work/src/part-#", "-j2", "all"]]),
    (
        "curl",
        &[
            &["-fsS", "http://127.0.0.1:8080/healthz"],
            &["-fsS", "http://10.88.0.#:8080/status"],
        ],
    ),
    ("cat", &[&["/proc/#/status"], &["/etc/hostname"]]),
    ("grep", &[&["-c", "ERROR", "/var/log/app-#.log"]]),
    ("sed", &[&["-i", "s/^port=.*/port=#/", "/tmp/app.conf"]]),
    ("awk", &[&["{ print $#+1 }", "/proc/loadavg"]]),
    ("date", &[&["+%s"]]),
    ("sleep", &[&["5"]]),
    ("ps", &[&["-o", "pid,comm"]]),
    ("id", &[&["-u"]]),
    ("find", &[&["/srv", "-newer", "/tmp/stamp-#"]]),
    ("head", &[&["-n", "1", "/srv/part-#.csv"]]),
    ("wc", &[&["-l", "/srv/part-#.csv"]]),
    ("mkdir", &[&["-p", "/tmp/run-#"]]),
    ("rm", &[&["-rf", "/tmp/run-#"]]),
    ("cp", &[&["-a", "/srv/part-#.csv", "/tmp"]]),
    ("env", &[&["LC_ALL=C", "sort", "/srv/part-#.csv"]]),
    ("tar", &[&["-czf", "/backup/#.tar.gz", "/srv"]]),
    ("python3", &[&["/app/task.py", "--job", "#"]]),
    ("git", &[&["-C", "/work/src", "rev-parse", "HEAD~#"]]),
    ("ls", &[&["-l", "/srv"]]),
    ("gzip", &[&["-9", "/srv/part-#.csv"]]),
    ("true", &[&[]]),
];
/// Of them who starts others.
pub(super) const SHELL: usize = 0;
pub(super) const MAKE: usize = 1;
/// The program that a container begins with: behind the tools.
pub(super) const MAIN: usize = TOOLS.len();

const LIBRARIES: [&str; 16] = [
    "ld-linux-x86-64.so.2",
    "libc.so.6",
    "libm.so.6",
    "libz.so.1",
    "libcrypto.so.3",
    "libssl.so.3",
    "libcurl.so.4",
    "libselinux.so.1",
    "libpcre2-8.so.0",
    "libtinfo.so.6",
    "libreadline.so.8",
    "libacl.so.1",
    "libstdc++.so.6",
    "libgcc_s.so.1",
    "libsystemd.so.0",
    "libpq.so.5",
];

/// What a container is made of.
pub(super) struct Image {
    /// Team and kind.
    pub(super) name: String,
    pub(super) reference: String,
    pub(super) kind: &'static str,
    pub(super) digest: ImageDigest,
    pub(super) files: Vec<ImageFile>,
    /// By [`SHELL`] and the like.
    pub(super) programs: Vec<Program>,
    /// What the first program is given.
    pub(super) arguments: &'static [&'static str],
}

pub(super) struct ImageFile {
    pub(super) path: String,
    pub(super) digest: Digest,
    pub(super) inode: u64,
    pub(super) size: u64,
}

pub(super) struct Program {
    pub(super) name: String,
    /// Index of its file, and of those it maps.
    pub(super) file: usize,
    pub(super) libraries: Vec<usize>,
    /// One of them, with the name in front.
    pub(super) arguments: &'static [&'static [&'static str]],
}

impl Image {
    /// All of them: the same for any seed, as what a registry has does not depend on who runs it.
    pub(super) fn all() -> Vec<Self> {
        let of_team = |team| (0..KINDS.len()).map(move |kind| Self::new(team, kind));
        (0..TEAMS.len()).flat_map(of_team).collect()
    }

    fn new(team: usize, kind: usize) -> Self {
        let base = BASES[(team * 3 + kind) % BASES.len()];
        let (kind, arguments) = KINDS[kind];
        let name = format!("{}/{kind}", TEAMS[team]);
        let digest = digest_of(&format!("image/{name}/{base}"));
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest.bytes());
        let mut image = Self {
            reference: format!("registry.example/{name}:1.{team}"),
            kind,
            digest: ImageDigest::new(bytes),
            files: Vec::new(),
            programs: Vec::new(),
            arguments,
            name,
        };
        for library in LIBRARIES {
            image.add(base, format!("/usr/lib/x86_64-linux-gnu/{library}"));
        }
        for (tool, arguments) in TOOLS {
            image.add_program(base, tool, arguments);
        }
        let of_image = image.name.clone();
        image.add_program(&of_image, kind, &[]);
        image
    }

    /// Every program has the loader, libc and up to three more.
    fn add_program(
        &mut self,
        owner: &str,
        name: &str,
        arguments: &'static [&'static [&'static str]],
    ) {
        let path = format!("/usr/bin/{name}");
        let first = digest_of(&path).bytes()[0];
        let more = (0..first % 4).map(|nth| 2 + usize::from(first / 4 + nth * 5) % 14);
        self.programs.push(Program {
            name: name.to_owned(),
            libraries: [0, 1].into_iter().chain(more).collect(),
            file: self.files.len(),
            arguments,
        });
        self.add(owner, path);
    }

    fn add(&mut self, owner: &str, path: String) {
        let digest = digest_of(&format!("file/{owner}/{path}"));
        let of = |at: usize| u64::from(digest.bytes()[at]);
        self.files.push(ImageFile {
            path,
            digest,
            inode: 1_000_000 + of(0) * 65_536 + of(1) * 256 + of(2),
            size: 14_000 + of(3) * 4_096,
        });
    }
}

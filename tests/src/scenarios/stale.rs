// SPDX-License-Identifier: Apache-2.0
//! No digest of yesterday: a file that nobody touched is hashed once, and one that was
//! changed, in whatever way, is measured as it is now or called a violation.
//!
//! Each place where a container finds files is a [`Place`]; in each, each way to
//! change a file has a [`Subject`] of its own, so that one's entries prove nothing about another.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use super::Scenario;
use crate::act::{ACT, Actor, Container, Event, executed, expect, expect_none, violation};
use crate::agent::{Site, sha256sum};
use crate::claims::Claims;
use crate::metrics::Files;
use crate::podman::TINY;
use crate::process;
use crate::work;

pub(crate) const SCENARIO: Scenario = Scenario {
    name: "stale",
    about: "an unchanged file is hashed once; a changed one is never measured with the digest of before",
    play,
};

const SOCKET: &str = "/run/cima-stale.sock";

/// Where a container finds a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Tmpfs,
    Ext4,
    /// In the image: changed by the container it is copied up.
    Lower,
    /// In the container's own layer.
    Upper,
    /// As [`Place::Lower`], in an overlay that copies attributes up alone.
    Metacopy,
    /// Of another machine, which tells nobody what it changes.
    Ninep,
}

impl Place {
    /// Those that tell of changes.
    const LOCAL: [Self; 5] = [
        Self::Tmpfs,
        Self::Ext4,
        Self::Lower,
        Self::Upper,
        Self::Metacopy,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Tmpfs => "tmpfs",
            Self::Ext4 => "ext4",
            Self::Lower => "lower",
            Self::Upper => "upper",
            Self::Metacopy => "metacopy",
            Self::Ninep => "9p",
        }
    }

    /// As the container sees it.
    fn directory(self) -> &'static str {
        match self {
            Self::Tmpfs => "/in/tmpfs",
            Self::Ext4 => "/in/ext4",
            Self::Lower | Self::Upper => "/stale",
            Self::Metacopy => "/in/metacopy",
            Self::Ninep => "/in/9p",
        }
    }
}

/// What the places are made of on the host.
struct Places {
    /// The layer of the image.
    layer: PathBuf,
    /// The lower directory of the overlay with metacopy.
    metacopy: PathBuf,
}

/// Directories of the host, and the volumes that they become.
const VOLUMES: [&str; 4] = [
    "/tmp/stale-in:/in/tmpfs",
    "/var/stale/in:/in/ext4",
    "/var/stale/merged:/in/metacopy",
    "/out/stale-in:/in/9p",
];

impl Places {
    fn make() -> Self {
        for volume in VOLUMES {
            let (host, _) = volume.split_once(':').expect("it is a volume");
            fs::create_dir_all(host).expect("the guest's disks can be written");
        }
        let inspect = [
            "podman",
            "image",
            "inspect",
            "-f",
            "{{.GraphDriver.Data.UpperDir}}",
            TINY,
        ];
        let layer = PathBuf::from(process::run(&inspect).succeeded().trim_end()).join("stale");
        let metacopy = PathBuf::from("/var/stale/lower");
        for directory in [&layer, &metacopy] {
            fs::create_dir_all(directory).expect("the guest's disks can be written");
        }
        let made = Self { layer, metacopy };
        made.mount_overlay();
        made
    }

    fn mount_overlay(&self) {
        for directory in ["upper", "work"] {
            fs::create_dir_all(Path::new("/var/stale").join(directory)).expect("/var is a disk");
        }
        let options = format!(
            "metacopy=on,redirect_dir=on,lowerdir={},upperdir=/var/stale/upper,workdir=/var/stale/work",
            self.metacopy.display()
        );
        let words = [
            "mount",
            "-t",
            "overlay",
            "overlay",
            "-o",
            &options,
            "/var/stale/merged",
        ];
        process::run(&words).succeeded();
    }
}

/// A program in one place that one claim is about. Its content has a number.
struct Subject<'a> {
    container: &'a Container,
    place: Place,
    /// As the container sees it.
    path: String,
    name: String,
}

impl<'a> Subject<'a> {
    /// Puts content 0 in its place.
    fn new(stage: &'a Stage<'_>, place: Place, claim: &str) -> Self {
        let name = format!("{}-{claim}", place.name());
        let subject = Self {
            container: &stage.container,
            place,
            path: format!("{}/{name}", place.directory()),
            name,
        };
        let directory = match place {
            Place::Lower => &stage.places.layer,
            Place::Metacopy => &stage.places.metacopy,
            _ => &subject.container.path(place.directory()),
        };
        work::install(&directory.join(&subject.name), &subject.content('0'));
        subject
    }

    /// One in each of these places.
    fn each(stage: &'a Stage<'_>, places: &[Place], claim: &str) -> Vec<Self> {
        let new = |place: &Place| Self::new(stage, *place, claim);
        places.iter().map(new).collect()
    }

    fn content(&self, number: char) -> String {
        format!("{}={number}", self.name)
    }

    /// Where the host finds it, through the container's mounts.
    fn host(&self) -> PathBuf {
        self.container.path(&self.path)
    }

    fn execute(&self) {
        self.container.run(&[&self.path]).succeeded();
    }

    /// Maps it executable: also while somebody writes it, when it cannot be executed.
    fn map(&self) {
        self.container.act(&["open", &self.path, "map", "rx"]);
    }

    fn begin(&self, acts: &str) -> Actor {
        let fill = |word| match word {
            "PATH" => self.path.clone(),
            "A" | "B" => self.content(word.chars().next().unwrap_or_default()),
            other => other.to_owned(),
        };
        let acts: Vec<String> = acts.split(' ').map(fill).collect();
        let acts: Vec<&str> = acts.iter().map(String::as_str).collect();
        self.container.begin(&acts)
    }

    /// A process that has mapped it so often that it is nothing new in any respect, and
    /// maps it once more when it is let go.
    fn begin_used(&self) -> Actor {
        const ONCE: &str = "open PATH map rx unmap close";
        self.begin(&format!("{ONCE} {ONCE} {ONCE} {ONCE} wait {ONCE}"))
    }

    /// Opens it for writing through the container's mounts, and overwrites it.
    fn overwrite(&self, number: char) {
        overwrite(&self.host(), &self.content(number));
    }

    /// The digest of this content, which sha256sum finds in the file now.
    fn digest(&self, number: char) -> String {
        let payload = work::payload(&self.content(number));
        let digest = payload.strip_prefix("v1;").unwrap_or_default();
        assert_eq!(
            digest,
            format!("sha256:{}", sha256sum(&self.host())),
            "{} has another content",
            self.path
        );
        digest.to_owned()
    }

    /// It was measured with the content that it has now.
    fn measured(&self, number: char) -> Event {
        executed(&self.path, &format!("v1;{}", self.digest(number)))
    }

    /// It was called a violation, with the content that it has now.
    fn open(&self, number: char) -> Event {
        let detail = format!("open;{}", self.digest(number));
        violation("writer", &self.path, &detail)
    }

    fn is_breached(&self, (name, payload): &Event) -> bool {
        name.starts_with("cima-violation:") && name.ends_with(&self.name) && payload.contains(';')
    }
}

/// What all claims share.
struct Stage<'a> {
    site: &'a Site,
    places: Places,
    container: Container,
}

impl Stage<'_> {
    fn files(&self) -> Files {
        Files::now(self.site, Path::new(SOCKET))
    }
}

fn play(claims: &mut Claims, _arguments: &[String]) {
    let site = Site::new("stale");
    site.configure(&format!("[metrics]\nlisten = \"unix:{SOCKET}\"\n"));
    let places = Places::make();
    let agent = site.start();
    let stage = Stage {
        container: container("stale"),
        site: &site,
        places,
    };
    hashed_once(claims, &stage);
    written(claims, &stage);
    writers(claims, &stage);
    without_change_state(claims, &stage);
    claims.claim(
        "an image mounted again at the same place, changed meanwhile: the new content, for the same inode number",
        || mounted_again(&stage),
    );
    agent.stop();
    claims.claim("the list with all of it replays to the TPM", || {
        stage.site.verify().succeeded();
    });
}

fn container(name: &str) -> Container {
    let options: Vec<&str> = VOLUMES.iter().flat_map(|volume| ["-v", volume]).collect();
    Container::start(name, TINY, &options)
}

fn hashed_once(claims: &mut Claims, stage: &Stage<'_>) {
    claims.claim(
        "an unchanged file is hashed once, however often and by whichever container it is executed; on tmpfs each time",
        || {
            let subjects = Subject::each(stage, &Place::LOCAL, "unchanged");
            let other = container("other");
            let before = stage.files();
            for subject in &subjects {
                (0..3).for_each(|_| subject.execute());
                if subject.place != Place::Upper {
                    other.run(&[&subject.path]).succeeded();
                }
            }
            let came = stage.files().since(before);
            let wanted = Files { hashed: 8, cache_hit: 3, said: 8, uncacheable: 4 };
            assert_eq!(came, wanted, "five files, four of them seen by two containers, one on tmpfs");
            expect(stage.site, &measured(&subjects, '0'));
        },
    );
    claims.claim(
        "attributes of a lower file copied up: hashed again if its content was copied, too",
        || {
            let subjects = Subject::each(stage, &[Place::Lower, Place::Metacopy], "attributes");
            subjects.iter().for_each(Subject::execute);
            let before = stage.files();
            for subject in &subjects {
                let mode = Permissions::from_mode(0o711);
                fs::set_permissions(subject.host(), mode).expect("it can be changed");
                subject.execute();
            }
            let came = stage.files().since(before);
            assert_eq!((came.hashed, came.uncacheable), (1, 0), "{came:?}");
            for subject in &subjects {
                subject.overwrite('1');
                subject.execute();
            }
            expect(stage.site, &measured(&subjects, '1'));
            unbroken(stage, &subjects);
        },
    );
}

fn measured(subjects: &[Subject<'_>], number: char) -> Vec<Event> {
    let measured = |subject: &Subject<'_>| subject.measured(number);
    subjects.iter().map(measured).collect()
}

/// Nothing of this was a violation.
fn unbroken(stage: &Stage<'_>, subjects: &[Subject<'_>]) {
    expect_none(stage.site, |event| {
        subjects.iter().any(|subject| subject.is_breached(event))
    });
}

/// A change that is over when the file is executed again.
struct Change {
    how: &'static str,
    /// In the names of its subjects.
    name: &'static str,
    make: fn(&Subject<'_>),
    /// Number of the content that it leaves.
    leaves: char,
}

const CHANGES: [Change; 5] = [
    Change {
        how: "overwritten in place with its size, its times set back",
        name: "overwritten",
        make: overwritten_with_its_times,
        leaves: '1',
    },
    Change {
        how: "written by io_uring, which also opens it",
        name: "uring",
        make: |subject| {
            let content = subject.content('1');
            subject.container.act(&["uring", &subject.path, &content]);
        },
        leaves: '1',
    },
    Change {
        how: "replaced by a rename",
        name: "renamed",
        make: |subject| {
            let new = subject.host().with_extension("new");
            work::install(&new, &subject.content('1'));
            fs::rename(new, subject.host()).expect("it can be renamed");
        },
        leaves: '1',
    },
    Change {
        how: "written through a shared mapping that is gone",
        name: "unmapped",
        make: |subject| {
            let content = subject.content('1');
            let acts = ["write", &subject.path, "share", "close", "store", &content];
            subject.container.act(&acts);
        },
        leaves: '1',
    },
    Change {
        how: "truncated by path, without being opened",
        name: "truncated",
        make: |subject| subject.container.act(&["truncate", &subject.path]),
        leaves: '\0',
    },
];

fn overwritten_with_its_times(subject: &Subject<'_>) {
    let metadata = fs::metadata(subject.host()).expect("it is there");
    subject.overwrite('1');
    let file = File::open(subject.host()).expect("it is there");
    file.set_modified(metadata.modified().expect("it has times"))
        .expect("its times can be set");
}

fn written(claims: &mut Claims, stage: &Stage<'_>) {
    for change in CHANGES {
        let name = format!("a file {}: the new content is measured", change.how);
        claims.claim(&name, || changed(stage, &change));
    }
    claims.claim(
        "nine contents within a few ticks of the clock, by one process: each is measured",
        || in_a_row(stage),
    );
    claims.claim(
        "a lower file written below the overlay: both containers of the image are measured with the new content",
        || below(stage),
    );
    claims.claim(
        "written by one process while another maps it, again and again: the last content is measured",
        || raced(stage),
    );
}

fn changed(stage: &Stage<'_>, change: &Change) {
    let subjects = Subject::each(stage, &Place::LOCAL, change.name);
    subjects.iter().for_each(Subject::execute);
    expect(stage.site, &measured(&subjects, '0'));
    for subject in &subjects {
        let user = subject.begin_used();
        (change.make)(subject);
        user.finish();
    }
    expect(stage.site, &measured(&subjects, change.leaves));
    subjects.iter().for_each(Subject::execute);
    expect(stage.site, &measured(&subjects, change.leaves));
    unbroken(stage, &subjects);
}

fn in_a_row(stage: &Stage<'_>) {
    let subjects = Subject::each(stage, &Place::LOCAL, "row");
    for subject in &subjects {
        let contents: Vec<String> = ('1'..='9').map(|number| subject.content(number)).collect();
        let mut acts = vec!["open", &subject.path, "map", "rx", "unmap", "close"];
        for content in &contents {
            acts.extend(["write", &subject.path, "put", content, "close"]);
            for _ in 0..3 {
                acts.extend(["open", &subject.path, "map", "rx", "unmap", "close"]);
            }
        }
        subject.container.act(&acts);
        let measured = |content| executed(&subject.path, &work::payload(content));
        let wanted: Vec<Event> = contents.iter().map(|content| measured(content)).collect();
        expect(stage.site, &wanted);
    }
    unbroken(stage, &subjects);
}

fn below(stage: &Stage<'_>) {
    let other = container("below");
    let subject = Subject::new(stage, Place::Lower, "below");
    for number in ['1', '2'] {
        subject.execute();
        other.run(&[&subject.path]).succeeded();
        overwrite(
            &stage.places.layer.join(&subject.name),
            &subject.content(number),
        );
    }
    let before = stage.files();
    subject.execute();
    other.run(&[&subject.path]).succeeded();
    let came = stage.files().since(before);
    assert_eq!((came.hashed, came.cache_hit), (1, 1), "{came:?}");
    expect(stage.site, &[subject.measured('2')]);
    let first = work::payload(&subject.content('1'));
    expect(stage.site, &[executed(&subject.path, &first)]);
}

fn raced(stage: &Stage<'_>) {
    for subject in Subject::each(stage, &[Place::Tmpfs, Place::Ext4, Place::Upper], "raced") {
        let (one, two) = (subject.content('1'), subject.content('2'));
        let mut writes = Vec::new();
        let mut maps = Vec::new();
        for _ in 0..150 {
            for content in [&one, &two] {
                writes.extend(["write", &subject.path, "put", content, "close"]);
            }
            maps.extend(["open", &subject.path, "map", "rx", "unmap", "close"]);
        }
        let last = subject.content('3');
        writes.extend(["write", &subject.path, "put", &last, "close"]);
        std::thread::scope(|scope| {
            scope.spawn(|| subject.container.act(&writes));
            subject.container.act(&maps);
        });
        subject.execute();
        expect(stage.site, &[subject.measured('3')]);
    }
}

/// Somebody can write the file while it is mapped.
fn writers(claims: &mut Claims, stage: &Stage<'_>) {
    claims.claim(
        "a shared mapping that stays, its file closed, written without any system call: a violation with each content",
        || shared_mapping(stage),
    );
    claims.claim(
        "mapped executable while somebody has it open for writing: a violation, and none when he has closed it",
        || {
            let subjects = Subject::each(stage, &Place::LOCAL, "open");
            for subject in &subjects {
                let user = subject.begin_used();
                let writer = subject.begin("write PATH wait");
                user.finish();
                expect(stage.site, &[subject.open('0')]);
                writer.finish();
                subject.map();
            }
            expect(stage.site, &measured(&subjects, '0'));
        },
    );
    claims.claim(
        "mapped between two stores into a shared mapping, the second without a page fault: executed afterwards it is measured",
        || second_store(stage),
    );
    claims.claim(
        "opened for writing while a process has it mapped executable: a violation",
        || {
            for subject in Subject::each(stage, &[Place::Tmpfs, Place::Ext4, Place::Upper], "used")
            {
                opened_while_mapped(stage, &subject);
            }
        },
    );
    claims.claim(
        "a lower file in use that is copied up: none, since what is mapped stays as it is",
        || {
            let subjects = Subject::each(stage, &[Place::Lower, Place::Metacopy], "spared");
            for subject in &subjects {
                let user = subject.begin("open PATH map rx close wait");
                subject.overwrite('1');
                user.finish();
                subject.execute();
            }
            expect(stage.site, &measured(&subjects, '1'));
            unbroken(stage, &subjects);
        },
    );
    claims.claim(
        "the lower file mapped by a descriptor of before its copy-up: a violation, since the upper one is hashed",
        || {
            for subject in Subject::each(stage, &[Place::Lower, Place::Metacopy], "copied") {
                let user = subject.begin("open PATH wait map rx wait");
                copied_up(stage, &subject, user);
            }
        },
    );
}

fn shared_mapping(stage: &Stage<'_>) {
    for subject in Subject::each(stage, &Place::LOCAL, "shared") {
        let mut writer = subject.begin("write PATH share close wait store A wait store B wait");
        for number in ['0', 'A', 'B'] {
            if number != '0' {
                writer.go_on();
            }
            subject.map();
            expect(stage.site, &[subject.open(number)]);
        }
        writer.finish();
        subject.execute();
        expect(stage.site, &[subject.measured('B')]);
    }
}

/// Mapped between two stores of which the kernel sees only the first, and executed when
/// the mapping is gone.
fn second_store(stage: &Stage<'_>) {
    for subject in Subject::each(stage, &Place::LOCAL, "second") {
        let mut writer = subject.begin("write PATH share close store A wait store B wait");
        subject.map();
        writer.go_on();
        writer.finish();
        subject.execute();
        expect(stage.site, &[subject.measured('B')]);
    }
}

fn opened_while_mapped(stage: &Stage<'_>, subject: &Subject<'_>) {
    let user = subject.begin("open PATH map rx close wait");
    expect(stage.site, &[subject.measured('0')]);
    subject.overwrite('1');
    let wanted = violation("writer", &subject.path, "mapped");
    expect(stage.site, &[wanted]);
    user.finish();
}

fn copied_up(stage: &Stage<'_>, subject: &Subject<'_>, mut user: Actor) {
    subject.execute();
    subject.overwrite('1');
    user.go_on();
    let detail = format!("copied-up;{}", subject.digest('1'));
    let wanted = violation("writer", &subject.path, &detail);
    expect(stage.site, &[wanted]);
    user.finish();
    subject.execute();
    expect(stage.site, &[subject.measured('1')]);
}

fn without_change_state(claims: &mut Claims, stage: &Stage<'_>) {
    claims.claim(
        "on a file system that does not tell of changes a file is hashed at each execution",
        || {
            let subject = Subject::new(stage, Place::Ninep, "foreign");
            let before = stage.files();
            (0..3).for_each(|_| subject.execute());
            let came = stage.files().since(before);
            assert_eq!((came.hashed, came.uncacheable), (3, 3), "{came:?}");
            subject.overwrite('1');
            subject.execute();
            expect(stage.site, &[subject.measured('1')]);
        },
    );
    claims.claim(
        "there, too, opened for writing while a process has it mapped executable: a violation",
        || opened_while_mapped(stage, &Subject::new(stage, Place::Ninep, "used")),
    );
}

/// A file system in a file, which is changed while it is not mounted.
fn mounted_again(stage: &Stage<'_>) {
    const IMAGE: &str = "/var/stale/image";
    const PROGRAM: &str = "/var/stale/mounted/again";
    let image = File::create(IMAGE).expect("/var can be written");
    image.set_len(4 << 20).expect("there is room");
    process::run(&["mkfs.ext4", "-q", IMAGE]).succeeded();
    fs::create_dir_all("/var/stale/mounted").expect("/var can be written");
    let mount = || process::run(&["mount", "-o", "loop", IMAGE, "/var/stale/mounted"]).succeeded();
    let unmount = || process::run(&["umount", "/var/stale/mounted"]).succeeded();
    let execute = || {
        // A container is what has namespaces of its own; it takes the mounts along.
        let run = work::container(ACT).args(["open", PROGRAM, "run"]).status();
        assert!(run.is_ok_and(|status| status.success()), "it runs");
    };
    mount();
    work::install(Path::new(PROGRAM), "again=0");
    unmount();
    for number in ['1', '2'] {
        mount();
        execute();
        unmount();
        patch(IMAGE, &format!("again={number}"));
    }
    mount();
    execute();
    let wanted = ["again=0", "again=1", "again=2"];
    expect(
        stage.site,
        &wanted.map(|content| executed(PROGRAM, &work::payload(content))),
    );
    unmount();
}

/// Overwrites the last bytes of the program in the image, which are like these but for the last.
fn patch(image: &str, content: &str) {
    let bytes = fs::read(image).expect("the image is there");
    let known = &content.as_bytes()[..content.len() - 1];
    let file = File::options().write(true).open(image).expect("it is ours");
    // The block, and whatever copy the journal has.
    let places = bytes.windows(known.len()).enumerate();
    for (place, _) in places.filter(|(_, bytes)| *bytes == known) {
        file.write_all_at(content.as_bytes(), place as u64)
            .expect("the image can be written");
    }
}

/// Overwrites a program's last bytes, and waits for nothing.
fn overwrite(path: &Path, content: &str) {
    let file = File::options().write(true).open(path);
    let file = file.expect("it can be written");
    let place = file.metadata().expect("it has a size").len() - content.len() as u64;
    file.write_all_at(content.as_bytes(), place)
        .expect("it can be written");
}

// SPDX-License-Identifier: Apache-2.0
//! The verbs that ask what ran: of a fleet's lists, of lists that grow, tear and change, and of a hostile node's.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs::{self, OpenOptions},
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::LazyLock,
};

use ima_log::{HashAlgorithm, Replay};
use serde_json::{Value, json};
use tempfile::{TempDir, tempdir};

use crate::{
    command::{Ran, cima},
    fleet::generator::{Fleet, generate, hostile},
    list::entries,
};

/// The lists of two nodes, and an index of them.
struct Asked {
    dir: TempDir,
    places: Vec<PathBuf>,
}

impl Asked {
    fn fleet(fill: fn(&Fleet) -> std::io::Result<crate::fleet::generator::Written>) -> Self {
        let dir = tempdir().unwrap();
        let nodes = dir.path().join("nodes");
        let fleet = Fleet {
            dir: nodes.clone(),
            nodes: 2,
            containers: 8,
            entries: 2_000,
            seed: 7,
            start_s: 1_790_000_000,
        };
        fill(&fleet).unwrap();
        Self {
            dir,
            places: vec![nodes],
        }
    }

    fn file(list: &[u8]) -> Self {
        let dir = tempdir().unwrap();
        let path = dir.path().join("list.ima");
        fs::write(&path, list).unwrap();
        Self {
            dir,
            places: vec![path],
        }
    }

    fn index(&self) -> PathBuf {
        self.dir.path().join("x.index")
    }

    fn ask(&self, words: &[&str]) -> Ran {
        let mut all: Vec<_> = words.iter().map(|word| (*word).to_owned()).collect();
        for place in &self.places {
            all.push(format!("--from={}", place.display()));
        }
        all.push(format!("--index={}", self.index().display()));
        cima(all)
    }

    /// The lines of JSON of an answer.
    #[track_caller]
    fn lines(&self, words: &[&str]) -> Vec<Value> {
        let ran = self.ask(&[words, &["--json"]].concat());
        assert_eq!(ran.code, Some(0), "{words:?}: {}", ran.err);
        lines(&ran.out)
    }

    /// The boots' directories, by node.
    fn boots(&self) -> BTreeMap<String, PathBuf> {
        let below = |path: &Path| fs::read_dir(path).unwrap().next().unwrap().unwrap().path();
        let nodes = fs::read_dir(&self.places[0]).unwrap();
        nodes
            .map(|node| {
                let node = node.unwrap();
                let name = node.file_name().to_string_lossy().into_owned();
                (name, below(&node.path().join("ledger")))
            })
            .collect()
    }
}

fn lines(text: &str) -> Vec<Value> {
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

static FLEET: LazyLock<Asked> = LazyLock::new(|| {
    let asked = Asked::fleet(generate);
    assert_eq!(asked.ask(&["index", "build"]).code, Some(0));
    asked
});

/// Every word that `--kind` takes.
fn kinds() -> String {
    let schema = cima(["schema", "event"]).json();
    let kinds = schema["$defs"]["Kind"]["oneOf"].as_array().unwrap();
    let words: Vec<_> = kinds
        .iter()
        .flat_map(|kind| match &kind["enum"] {
            Value::Array(words) => words.clone(),
            _ => vec![kind["const"].clone()],
        })
        .map(|word| word.as_str().unwrap().to_owned())
        .collect();
    words.join(",")
}

/// Every event of the fleet, of every kind.
static ALL: LazyLock<Vec<Value>> =
    LazyLock::new(|| FLEET.lines(&["events", "--limit=0", "--kind", &kinds()]));

fn text<'a>(event: &'a Value, pointer: &str) -> &'a str {
    event.pointer(pointer).and_then(Value::as_str).unwrap_or("")
}

#[test]
fn every_event_of_every_list_is_found_once_and_in_the_lists_order() {
    let mut expected = BTreeSet::new();
    for (node, boot) in FLEET.boots() {
        let ran = cima(["log", boot.to_str().unwrap(), "--json"]);
        let id = boot.file_name().unwrap().to_str().unwrap();
        for entry in lines(&ran.out) {
            let name = format!("{node}/{}/{}", &id[..8], entry["index"]);
            match entry.pointer("/batch/events").and_then(Value::as_array) {
                Some(events) => {
                    expected.extend((0..events.len()).map(|event| format!("{name}.{event}")));
                }
                None => _ = expected.insert(name),
            }
        }
    }
    let found: BTreeSet<_> = ALL
        .iter()
        .map(|event| text(event, "/id").to_owned())
        .collect();
    assert_eq!(found.len(), ALL.len(), "something is there twice");
    assert_eq!(found, expected);
    for node in ["node-01", "node-02"] {
        let own = ALL.iter().filter(|event| event["node"] == node);
        let places: Vec<_> = own
            .map(|event| (event["entry"].as_u64(), event["event"].as_u64()))
            .collect();
        assert!(places.is_sorted(), "{node}");
    }
}

#[test]
fn what_a_filter_leaves_is_what_the_events_themselves_say() {
    type Fits = fn(&Value) -> bool;
    let cases: &[(&[&str], Fits)] = &[
        (&["--node", "node-02"], |event| event["node"] == "node-02"),
        (&["--kind", "exec"], |event| event["kind"] == "exec"),
        (&["--violations"], |event| event["violation"] == true),
        (&["--path", "/usr/bin"], |event| {
            text(event, "/path").starts_with("/usr/bin")
        }),
        (&["--path", "*/lib*"], |event| {
            text(event, "/path").contains("/lib")
        }),
        (&["--path", "=/usr/bin/web"], |event| {
            text(event, "/path") == "/usr/bin/web"
        }),
        (&["--user", "0"], |event| {
            event.pointer("/process/uid") == Some(&0.into())
        }),
        (&["--image", "registry.example/shop"], |event| {
            text(event, "/container/image_name").starts_with("registry.example/shop")
        }),
        (
            &[
                "--kind", "map,exec", "--path", "/usr/bin", "--node", "node-01",
            ],
            |event| {
                (event["kind"] == "map" || event["kind"] == "exec")
                    && text(event, "/path").starts_with("/usr/bin")
                    && event["node"] == "node-01"
            },
        ),
    ];
    let shown = |event: &&Value| {
        let hidden = ["image", "measured", "agent", "sink", "host"];
        !hidden.contains(&text(event, "/kind"))
    };
    for (words, fits) in cases {
        let found = FLEET.lines(&[&["events", "--limit=0"], *words].concat());
        let expected: Vec<_> = ALL
            .iter()
            .filter(|event| fits(event))
            .filter(shown)
            .collect();
        assert_eq!(found.iter().collect::<Vec<_>>(), expected, "{words:?}");
        assert!(!found.is_empty(), "{words:?}");
    }
}

#[test]
fn containers_digests_processes_and_times_are_found_by_their_values() {
    let shown = |event: &&&Value| {
        let hidden = ["image", "measured", "agent", "sink", "host"];
        !hidden.contains(&text(event, "/kind"))
    };
    let ids = |events: &[Value]| -> BTreeSet<String> {
        events
            .iter()
            .map(|event| text(event, "/id").to_owned())
            .collect()
    };
    let some = ALL
        .iter()
        .filter(|event| event["kind"] == "map")
        .nth(9)
        .unwrap();
    let id = text(some, "/container/id");
    let of_container = |event: &&Value| text(event, "/container/id") == id;
    let expected: Vec<_> = ALL
        .iter()
        .filter(of_container)
        .filter(|event| shown(&event))
        .cloned()
        .collect();
    let found = FLEET.lines(&["events", "--limit=0", "--container", &id[..12]]);
    assert_eq!(ids(&found), ids(&expected));

    let digest = text(some, "/digest");
    let of_digest = |event: &&Value| {
        let several = event["digests"].as_array().map_or(&[][..], Vec::as_slice);
        text(event, "/digest") == digest || several.iter().any(|own| own == digest)
    };
    let expected: Vec<_> = ALL
        .iter()
        .filter(of_digest)
        .filter(|event| shown(&event))
        .cloned()
        .collect();
    let found = FLEET.lines(&["events", "--limit=0", "--digest", &digest[7..20]]);
    assert_eq!(ids(&found), ids(&expected));

    let pid = some.pointer("/process/pid").unwrap();
    let of_pid = |event: &&Value| {
        event.pointer("/process/pid") == Some(pid) || event.get("init_pid") == Some(pid)
    };
    let expected: Vec<_> = ALL.iter().filter(of_pid).cloned().collect();
    let found = FLEET.lines(&["events", "--limit=0", "--pid", &pid.to_string()]);
    assert_eq!(ids(&found), ids(&expected));

    let mut times: Vec<_> = ALL.iter().map(|event| text(event, "/time")).collect();
    times.retain(|time| !time.is_empty());
    times.sort_unstable();
    let (since, until) = (times[times.len() / 3], times[times.len() / 2]);
    let then = |event: &&Value| {
        let time = event["time"].as_str().or(event["not_before"].as_str());
        time.is_some_and(|time| since <= time && time < until)
    };
    let expected: Vec<_> = ALL
        .iter()
        .filter(then)
        .filter(|event| shown(&event))
        .cloned()
        .collect();
    let found = FLEET.lines(&["events", "--limit=0", "--since", since, "--until", until]);
    assert_eq!(ids(&found), ids(&expected));
    assert!(found.len() > 100, "{}", found.len());
}

#[test]
fn pages_in_both_directions_give_every_event_once() {
    let whole = FLEET.lines(&["events", "--limit=0", "--kind=exec"]);
    for reverse in [false, true] {
        let mut after: Option<String> = None;
        let mut found = Vec::new();
        loop {
            let mut words = vec!["events", "--limit=61", "--kind=exec", "--json"];
            words.extend(reverse.then_some("--reverse"));
            words.extend(after.as_deref().map(|_| "--after"));
            words.extend(after.as_deref());
            let ran = FLEET.ask(&words);
            assert_eq!(ran.code, Some(0), "{ran:?}");
            found.extend(lines(&ran.out));
            let token = ran.err.split("--after ").nth(1);
            let Some(token) = token.and_then(|rest| rest.split(',').next()) else {
                break;
            };
            after = Some(token.to_owned());
        }
        if reverse {
            found.reverse();
        }
        for node in ["node-01", "node-02"] {
            let of = |events: &[Value]| -> Vec<Value> {
                events
                    .iter()
                    .filter(|event| event["node"] == node)
                    .cloned()
                    .collect()
            };
            assert_eq!(of(&found), of(&whole), "{node}, backwards: {reverse}");
        }
    }
    FLEET
        .ask(&["events", "--after", "deadbeef-1.2"])
        .refused(&["deadbeef-1.2"]);
}

#[test]
fn a_digest_is_found_on_every_node_and_in_every_container_that_had_it() {
    let mut places: HashMap<&str, BTreeSet<(&str, &str)>> = HashMap::new();
    for event in ALL.iter().filter(|event| event["kind"] == "map") {
        let place = (text(event, "/node"), text(event, "/container/id"));
        places
            .entry(text(event, "/digest"))
            .or_default()
            .insert(place);
    }
    let widest = places
        .iter()
        .max_by_key(|(_, places)| places.len())
        .unwrap();
    assert!(widest.1.len() > 4, "{widest:?}");
    let found = FLEET.lines(&["whereis", widest.0]);
    let named = |line: &Value| {
        let id = line.pointer("/container/id").and_then(Value::as_str);
        (
            text(line, "/node").to_owned(),
            id.unwrap_or_default().to_owned(),
        )
    };
    let found: BTreeSet<_> = found.iter().map(named).collect();
    let expected = widest
        .1
        .iter()
        .map(|(node, id)| ((*node).to_owned(), (*id).to_owned()));
    assert_eq!(found, expected.collect());

    let nowhere = FLEET.ask(&["whereis", &"0".repeat(64)]);
    assert_eq!((nowhere.code, nowhere.out.trim()), (Some(1), "nowhere"));
    let ran = FLEET.ask(&["whereis", "' OR 1=1 --"]);
    assert_eq!(ran.code, Some(2), "{ran:?}");
    assert!(ran.err.contains("is no digest"), "{}", ran.err);
}

#[test]
fn files_are_counted_as_the_events_tell() {
    let mut executed: BTreeMap<(String, String), BTreeSet<String>> = BTreeMap::new();
    for event in ALL.iter().filter(|event| event["kind"] == "map") {
        let key = (
            text(event, "/path").to_owned(),
            text(event, "/digest").to_owned(),
        );
        let container = text(event, "/container/id").to_owned();
        executed.entry(key).or_default().insert(container);
    }
    let found = FLEET.lines(&["files", "--limit=0", "--path", "/usr/bin"]);
    assert!(!found.is_empty());
    for file in &found {
        let key = (
            text(file, "/path").to_owned(),
            text(file, "/digest").to_owned(),
        );
        let Some(containers) = executed.get(&key).filter(|_| !key.1.is_empty()) else {
            // Listed for verifiers, and the event was lost, or of another way to execute.
            continue;
        };
        assert_eq!(
            file["containers"].as_u64(),
            Some(containers.len() as u64),
            "{file}"
        );
    }
    let paths: BTreeSet<_> = found.iter().map(|file| text(file, "/path")).collect();
    for (path, _) in executed
        .keys()
        .filter(|(path, _)| path.starts_with("/usr/bin"))
    {
        assert!(paths.contains(path.as_str()), "{path}");
    }
}

#[test]
fn containers_are_told_with_their_image_their_end_and_what_was_wrong() {
    let containers = FLEET.lines(&["ps"]);
    let created: Vec<_> = ALL
        .iter()
        .filter(|event| event["kind"] == "created")
        .collect();
    let announced = containers
        .iter()
        .filter(|own| own.pointer("/container/number").is_some());
    assert_eq!(announced.count(), created.len());
    for own in &containers {
        let id = text(own, "/container/id");
        let number = own.pointer("/container/number");
        let events = ALL.iter().filter(|event| {
            event["node"] == own["node"]
                && text(event, "/container/id") == id
                && event.pointer("/container/number") == number
        });
        let wrong =
            events.filter(|event| event["violation"] == true && event.get("event").is_some());
        assert_eq!(
            own["violations"].as_u64(),
            Some(wrong.count() as u64),
            "{own}"
        );
    }
    for verdict in ["clean", "violations", "denied", "unannounced"] {
        let some = containers.iter().any(|own| own["verdict"] == verdict);
        assert!(some, "no container is {verdict}");
    }
}

#[test]
fn an_image_that_is_another_than_was_published_under_its_name_speaks_against_a_container() {
    let containers = FLEET.lines(&["ps"]);
    let own = containers.iter().find(|own| own["verdict"] == "clean");
    let own = own.unwrap();
    let id = text(own, "/container/id");
    let files = FLEET.lines(&["files", "-c", id]);
    let [known, changed, ..] = &files[..] else {
        panic!("{files:?}")
    };
    let executable = |file: &Value, digest: &str| {
        let sha256 = digest.trim_start_matches("sha256:");
        json!({"path": file["path"], "sha256": sha256, "why": ["elf"]})
    };
    let other = "5".repeat(64);
    let mut executables = [
        executable(known, text(known, "/digest")),
        executable(changed, &other),
    ];
    executables.sort_by_key(|own| text(own, "/path").to_owned());
    let published = format!("sha256:{}", "a".repeat(64));
    let reference = json!({
        "cima-reference": 1, "image": published, "name": text(own, "/container/image_name"),
        "manifest": null, "config": null, "platform": null, "labels": {}, "annotations": {},
        "executables": executables,
    });
    let path = FLEET.dir.path().join("reference.json");
    fs::write(&path, reference.to_string()).unwrap();
    let alone = FLEET.ask(&["explain", id, "--json"]);
    assert_eq!(alone.code, Some(0), "{alone:?}");
    assert_eq!(lines(&alone.out)[0]["verdict"], "unknown");
    let reference = format!("--reference={}", path.display());
    let ran = FLEET.ask(&["explain", id, &reference, "--json"]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    let said = lines(&ran.out).remove(0);
    assert_eq!(said["image"]["published"], json!([published]), "{said}");
    assert_eq!(said["as_referenced"], 1, "{said}");
    let reasons = said["reasons"].to_string();
    assert!(reasons.contains("none that was published as"), "{reasons}");
    let drift = said["drift"].as_array().unwrap();
    let drift = drift.iter().find(|own| own["path"] == changed["path"]);
    assert_eq!(drift.unwrap()["expected"], format!("sha256:{other}"));
}

#[test]
fn an_event_is_shown_with_what_its_hashes_are_of_and_with_the_pcr_after_it() {
    let (node, boot) = FLEET.boots().into_iter().next().unwrap();
    let segment = fs::read(boot.join("00000001.ima")).unwrap();
    let all = entries(&segment);
    let mut replay = Replay::new(&[HashAlgorithm::Sha256]);
    let number = all.len() / 2;
    all[..=number].iter().for_each(|entry| replay.extend(entry));
    let id = boot.file_name().unwrap().to_str().unwrap();
    let shown = FLEET
        .lines(&["show", &format!("{node}/{}/{number}", &id[..8])])
        .remove(0);
    let data = hex::decode(text(&shown, "/data_hex")).unwrap();
    let hash = HashAlgorithm::Sha1.digest(&data).to_string();
    assert_eq!(text(&shown, "/template_hash"), hash);
    let value = replay.value(13, HashAlgorithm::Sha256).unwrap().to_string();
    let after = shown["pcr_after"].as_array().unwrap();
    assert!(after.iter().any(|own| own == value.as_str()), "{after:?}");
    let ran = FLEET.ask(&["show", "node-01/00000000/1"]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
}

#[test]
fn a_list_that_grows_is_followed_a_torn_end_is_told_and_another_list_is_read_anew() {
    let list = fs::read(FLEET.boots()["node-01"].join("00000001.ima")).unwrap();
    let cuts: Vec<_> = entries(&list)
        .iter()
        .scan(0, |end, entry| {
            *end += entry.to_binary().len();
            Some(*end)
        })
        .collect();
    let asked = Asked::file(&list[..cuts[99]]);
    let count = |asked: &Asked| {
        let ran = asked.ask(&["index", "status", "--json"]);
        assert_eq!(ran.code, Some(0), "{ran:?}");
        (lines(&ran.out)[0]["entries"].as_u64().unwrap(), ran.err)
    };
    assert_eq!(count(&asked), (100, String::new()));
    let append = |bytes: &[u8]| {
        let mut file = OpenOptions::new()
            .append(true)
            .open(&asked.places[0])
            .unwrap();
        file.write_all(bytes).unwrap();
    };
    // Half of an entry.
    append(&list[cuts[99]..cuts[149] - 10]);
    let (entries, note) = count(&asked);
    assert_eq!(entries, 149);
    assert!(note.contains("the 149 entries before are here"), "{note}");
    append(&list[cuts[149] - 10..cuts[199]]);
    assert_eq!(count(&asked), (200, String::new()));
    // What was followed is what is made anew.
    let followed = asked.lines(&["events", "--limit=0", "--kind", &kinds()]);
    let summaries = asked.lines(&["ps"]);
    let files = asked.lines(&["files", "--limit=0"]);
    fs::remove_file(asked.index()).unwrap();
    assert_eq!(
        asked.lines(&["events", "--limit=0", "--kind", &kinds()]),
        followed
    );
    assert_eq!(asked.lines(&["ps"]), summaries);
    let key = |file: &Value| (file["path"].to_string(), file["digest"].to_string());
    let sorted = |mut files: Vec<Value>| {
        files.sort_by_key(key);
        files
    };
    assert_eq!(sorted(asked.lines(&["files", "--limit=0"])), sorted(files));
    // Shorter than it was.
    fs::write(&asked.places[0], &list[..cuts[49]]).unwrap();
    let (entries, note) = count(&asked);
    assert_eq!(entries, 50);
    assert!(
        note.contains("is no longer the list that was indexed"),
        "{note}"
    );
    // As long, but another.
    let mut other = list[..cuts[49]].to_vec();
    let last = other.len() - 1;
    other[last] ^= 1;
    other[cuts[48] + 5] ^= 1;
    fs::write(&asked.places[0], other).unwrap();
    assert!(
        count(&asked).1.contains("is no longer"),
        "it was not noticed"
    );
}

#[test]
fn a_file_that_is_no_index_is_left_alone() {
    let asked = Asked::file(&[]);
    for garbage in [&b"not a database"[..], &[0; 4096], b""] {
        fs::write(asked.index(), garbage).unwrap();
        let ran = asked.ask(&["ps"]);
        if garbage.is_empty() {
            continue;
        }
        ran.refused(&["is no index of cima's", "x.index"]);
        assert_eq!(fs::read(asked.index()).unwrap(), garbage);
    }
}

#[test]
fn an_index_that_is_broken_or_of_another_version_is_made_anew() {
    let asked = Asked::fleet(generate);
    let ps = asked.lines(&["ps"]);
    let mut bytes = fs::read(asked.index()).unwrap();
    // The user_version, in the header of SQLite's files.
    bytes[60..64].copy_from_slice(&99_u32.to_be_bytes());
    fs::write(asked.index(), &bytes).unwrap();
    assert_eq!(asked.lines(&["ps"]), ps);
    let mut bytes = fs::read(asked.index()).unwrap();
    let middle = bytes.len() / 2;
    bytes[200..middle].fill(0x55);
    fs::write(asked.index(), &bytes).unwrap();
    assert_eq!(asked.lines(&["ps"]), ps);
}

#[test]
fn an_export_overwrites_no_list_and_an_index_of_somebody_else_is_not_believed() {
    let list = fs::read(FLEET.boots()["node-01"].join("00000001.ima")).unwrap();
    let asked = Asked::file(&list);
    let own = asked.places[0].to_str().unwrap();
    asked
        .ask(&["export", "-o", own])
        .refused(&["a list that is to be read", own]);
    assert_eq!(fs::read(own).unwrap(), list);
    assert_eq!(asked.ask(&["ps"]).code, Some(0));
    let mode = |mode| fs::Permissions::from_mode(mode);
    fs::set_permissions(asked.index(), mode(0o666)).unwrap();
    asked.ask(&["ps"]).refused(&["is not this user's alone"]);
}

#[test]
fn damage_within_a_list_is_told_for_as_long_as_it_is_there() {
    let list = fs::read(FLEET.boots()["node-01"].join("00000001.ima")).unwrap();
    let dir = tempdir().unwrap();
    let boot = dir.path().join("web");
    fs::create_dir(&boot).unwrap();
    let end = |entries: &[ima_log::Entry]| -> usize {
        entries.iter().map(|entry| entry.to_binary().len()).sum()
    };
    let all = entries(&list);
    let (torn, rest) = (end(&all[..60]) - 9, end(&all[..60]));
    fs::write(boot.join("00000001.ima"), &list[..torn]).unwrap();
    fs::write(boot.join("00000002.ima"), &list[rest..end(&all[..90])]).unwrap();
    let asked = Asked {
        dir,
        places: vec![boot.clone()],
    };
    let ran = asked.ask(&["index", "status", "--json"]);
    assert_eq!(lines(&ran.out)[0]["entries"], 59 + 30);
    assert!(ran.err.contains("cannot be read on"), "{}", ran.err);
    fs::write(boot.join("00000002.ima"), &list[rest..end(&all[..120])]).unwrap();
    let ran = asked.ask(&["index", "status", "--json"]);
    assert_eq!(lines(&ran.out)[0]["entries"], 59 + 60);
    assert!(ran.err.contains("cannot be read on"), "{}", ran.err);
    // What a PCR held behind it nobody can say.
    let name = asked.lines(&["events", "-l=1", "-r"]);
    let shown = asked.lines(&["show", text(&name[0], "/id")]).remove(0);
    assert_eq!(shown["pcr_after"], serde_json::json!([]));
}

#[test]
fn what_cannot_be_asked_is_refused_in_a_sentence() {
    for (words, said) in [
        (
            &["events", "--since", "soon"][..],
            &["--since", "\"soon\" is no time"][..],
        ),
        (
            &["events", "--since=2h", "--until=3h"],
            &["--until is not after --since"],
        ),
        (&["ps", "--from", "/nonexistent"], &["/nonexistent"]),
        (&["files", "--pid", "1"], &["--pid chooses nothing here"]),
        (
            &["tree", "--violations"],
            &["--violations chooses nothing here"],
        ),
    ] {
        FLEET.ask(words).refused(said);
    }
    let empty = tempdir().unwrap();
    let from = format!("--from={}", empty.path().display());
    cima(["ps", &from]).refused(&["has no lists"]);
}

#[test]
fn what_is_written_as_json_is_as_its_schema_says() {
    let some = text(&ALL[40], "/id").to_owned();
    let digest = ALL.iter().find(|event| event["kind"] == "map").unwrap();
    let digest = text(digest, "/digest").to_owned();
    let name = text(&FLEET.lines(&["ps"])[0], "/container/name").to_owned();
    let cases: &[(&str, &[&str])] = &[
        ("event", &["events", "--limit=500"]),
        ("container", &["ps"]),
        ("file", &["files", "--limit=50"]),
        ("sighting", &["whereis", &digest]),
        ("process", &["tree", "--limit=100"]),
        ("shown", &["show", &some]),
        ("list", &["index", "status"]),
        ("explanation", &["explain", &name]),
    ];
    for (of, words) in cases {
        let schema = cima(["schema", of]).json();
        let validator = jsonschema::validator_for(&schema).unwrap();
        let ran = FLEET.ask(&[*words, &["--json"]].concat());
        assert_ne!(ran.code, Some(2), "{words:?}: {}", ran.err);
        let lines = lines(&ran.out);
        assert!(!lines.is_empty(), "{words:?}");
        for line in lines {
            let errors: Vec<_> = validator
                .iter_errors(&line)
                .map(|e| e.to_string())
                .collect();
            assert!(errors.is_empty(), "{of}: {errors:?} in {line}");
            assert_eq!(line["v"], 1);
        }
    }
}

#[test]
fn every_schema_is_published_as_it_is() {
    let published = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/schema");
    let of = [
        "event",
        "container",
        "file",
        "sighting",
        "process",
        "shown",
        "explanation",
        "list",
    ];
    for of in of {
        let path = published.join(format!("{of}.json"));
        let text = fs::read_to_string(&path).unwrap_or_default();
        let again = format!("cima schema {of} > docs/schema/{of}.json");
        assert!(text == cima(["schema", of]).out, "{again}");
    }
    assert_eq!(fs::read_dir(published).unwrap().count(), of.len());
}

#[test]
fn an_export_has_every_event_and_no_cell_that_a_spreadsheet_computes() {
    let ran = FLEET.ask(&["export"]);
    let events = FLEET.ask(&["events", "--limit=0", "--json"]);
    assert_eq!((ran.code, ran.out), (Some(0), events.out));
    let csv = FLEET.dir.path().join("out.csv");
    let ran = FLEET.ask(&["export", "--format=csv", "-o", csv.to_str().unwrap()]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let mut reader = csv::Reader::from_path(&csv).unwrap();
    let mut rows = 0;
    for record in reader.records() {
        rows += 1;
        let record = record.unwrap();
        let formula = |cell: &str| cell.starts_with(['=', '+', '-', '@']);
        assert!(!record.iter().any(formula), "{record:?}");
    }
    assert_eq!(
        rows,
        lines(&FLEET.ask(&["events", "--limit=0", "--json"]).out).len()
    );
}

#[test]
fn a_canonical_event_log_is_of_one_list_and_without_filters_the_lists_own() {
    for format in ["cel-json", "cel-tlv"] {
        let format = format!("--format={format}");
        FLEET.ask(&["export", &format]).refused(&["is of one list"]);
        let ran = FLEET.ask(&["export", &format, "--node", "node-01"]);
        assert_eq!(ran.code, Some(0), "{}", ran.err);
        let boot = &FLEET.boots()["node-01"];
        let own = cima(["log", boot.to_str().unwrap(), &format]);
        assert!(ran.bytes == own.bytes, "{format}");
    }
}

#[test]
fn of_a_hostile_node_everything_is_shown_and_nothing_obeyed() {
    let asked = Asked::fleet(hostile::generate);
    let verbs: &[&[&str]] = &[
        &["index", "status"],
        &["ps"],
        &["events", "--limit=0"],
        &["files", "--limit=0"],
        &["tree", "--limit=0"],
        &["explain"],
        &["events", "--violations", "--reverse", "--limit=0"],
        &[
            "events",
            "--since=2000-01-01",
            "--until=2100-01-01",
            "--limit=0",
        ],
    ];
    for words in verbs {
        let ran = asked.ask(words);
        assert_ne!(ran.code, Some(2), "{words:?}: {}", ran.err);
        assert_ne!(ran.code, None, "{words:?}: {}", ran.err);
        inert(&ran, words);
        let json = asked.ask(&[*words, &["--json"]].concat());
        assert_eq!(json.code, ran.code, "{words:?}");
        inert(&json, words);
        lines(&json.out);
    }
    let ran = asked.ask(&["ps"]);
    assert!(ran.err.contains("both claim the boot"), "{}", ran.err);
    let marked = asked.lines(&["tree", "--limit=0"]);
    assert!(
        marked.iter().any(|own| own["circle"] == true),
        "no circle is marked"
    );
    let ids: Vec<_> = asked.lines(&["events", "--limit=0"]);
    for event in ids.iter().step_by(7) {
        let shown = asked.ask(&["show", text(event, "/id")]);
        assert_eq!(shown.code, Some(0), "{event}: {}", shown.err);
        inert(&shown, &["show"]);
    }
}

/// Nothing that a terminal obeys.
#[track_caller]
fn inert(ran: &Ran, words: &[&str]) {
    for text in [&ran.out, &ran.err] {
        let obeyed = |c: char| c != '\n' && !(' '..='~').contains(&c);
        let found = text.find(obeyed);
        assert_eq!(
            found.map(|at| &text[at.saturating_sub(40)..]),
            None,
            "{words:?}"
        );
    }
}

#[test]
fn every_command_has_a_manual_page_with_examples_and_completions() {
    let dir = tempdir().unwrap();
    let ran = cima(["man", dir.path().to_str().unwrap()]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let verbs = [
        "ps",
        "events",
        "show",
        "tree",
        "files",
        "whereis",
        "watch",
        "explain",
        "export",
        "verify",
        "log",
        "index-build",
        "index-status",
        "schema",
    ];
    for verb in verbs {
        let page = dir.path().join(format!("cima-{verb}.1"));
        let text = fs::read_to_string(&page).unwrap_or_else(|error| panic!("{verb}: {error}"));
        assert!(text.contains("Examples:"), "{verb}");
        assert!(text.contains("Exit codes:"), "{verb}");
    }
    for shell in ["bash", "zsh", "fish"] {
        let script = cima(["completions", shell]).out;
        for verb in ["whereis", "explain"] {
            assert!(script.contains(verb), "{shell} {verb}");
        }
    }
    cima(["man", "/nonexistent"]).refused(&["/nonexistent"]);
}

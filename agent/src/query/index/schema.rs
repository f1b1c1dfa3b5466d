// SPDX-License-Identifier: Apache-2.0
//! The tables.
//!
//! An index finds, the lists tell: a row says where in a list something stands, and as much of it as it can be asked for by. What is
//! shown is read from the list itself, at that place.
//!
//! Numbers of events are `list << 32 | row`, so that rows in their order are each list's events in its own order, whatever times
//! they claim. Times are microseconds since boot; `clock` makes dates of them.

/// In the file's header: `cima`.
pub(super) const APPLICATION: i32 = 0x6369_6d61;
/// Of these tables, and of what is put into them.
pub(super) const VERSION: i32 = 1;

pub(super) const TABLES: &str = "
CREATE TABLE list (
    id INTEGER PRIMARY KEY,
    node TEXT NOT NULL,
    path BLOB NOT NULL,
    segmented INTEGER NOT NULL,
    boot TEXT,
    segment INTEGER NOT NULL,       -- where reading goes on
    offset INTEGER NOT NULL,
    entries INTEGER NOT NULL,
    rows INTEGER NOT NULL,
    last_place INTEGER,             -- the last entry that was read
    last_hash BLOB,
    clock INTEGER,                  -- of the last Start
    ends INTEGER,                   -- microseconds since 1970 of the last event
    damage TEXT,                    -- why the rest cannot be read
    torn INTEGER NOT NULL,          -- whether the rest may yet come
    UNIQUE (node, path)
);
CREATE TABLE clock (
    list INTEGER NOT NULL,
    first INTEGER NOT NULL,         -- the event from which on it holds
    offset_ns INTEGER NOT NULL,     -- CLOCK_REALTIME minus CLOCK_BOOTTIME
    PRIMARY KEY (list, first)
) WITHOUT ROWID;
CREATE TABLE container (
    id INTEGER PRIMARY KEY,
    list INTEGER NOT NULL,
    sort INTEGER NOT NULL,          -- 0 registered, 1 a namespace that nobody announced, 2 stands for any of an image, 3 the host
    became INTEGER,                 -- of a namespace: the container that was then announced
    number INTEGER,                 -- 0: Created.container
    inode INTEGER,
    generation INTEGER,
    cid TEXT NOT NULL,
    name TEXT NOT NULL,
    image TEXT NOT NULL,            -- sha256:HEX, 'unmeasured' or ''
    reference TEXT NOT NULL,        -- the image's name
    created INTEGER,                -- the event
    allowed INTEGER,
    created_us INTEGER,             -- times since 1970
    gone_us INTEGER,
    gone INTEGER,                   -- Gone.cause
    first_us INTEGER,
    last_us INTEGER,
    pid INTEGER,
    status INTEGER,                 -- with which its first process ended
    executions INTEGER NOT NULL,
    events INTEGER NOT NULL,
    violations INTEGER NOT NULL
);
CREATE TABLE file (
    id INTEGER PRIMARY KEY,
    key INTEGER NOT NULL,           -- the first 8 bytes of its own key
    path BLOB NOT NULL,
    digest TEXT                     -- algorithm:HEX
);
CREATE TABLE event (
    id INTEGER PRIMARY KEY,
    place INTEGER NOT NULL,         -- segment << 40 | offset
    entry INTEGER NOT NULL,
    nth INTEGER,
    time INTEGER,                   -- of an entry as a whole: of the last event before it
    kind INTEGER NOT NULL,
    container INTEGER,
    file INTEGER,
    uid INTEGER,
    login INTEGER,
    pid INTEGER,
    violation INTEGER
);
CREATE TABLE sighting (             -- of a file in a container
    container INTEGER NOT NULL,
    file INTEGER NOT NULL,
    first INTEGER NOT NULL,         -- events
    last INTEGER NOT NULL,
    count INTEGER NOT NULL,         -- of executions
    PRIMARY KEY (container, file)   -- a list's containers are its own: the table only grows at its end
) WITHOUT ROWID;
CREATE TABLE zone (                 -- of neighbouring events
    first INTEGER PRIMARY KEY,
    last INTEGER NOT NULL,
    earliest INTEGER,               -- microseconds since 1970
    latest INTEGER
);
";

/// Made when the tables are full: filling them is faster so.
pub(super) const INDICES: &str = "
CREATE INDEX IF NOT EXISTS event_container ON event (container);
CREATE INDEX IF NOT EXISTS event_violation ON event (id) WHERE violation = 1;
CREATE INDEX IF NOT EXISTS file_key ON file (key);
CREATE INDEX IF NOT EXISTS file_digest ON file (digest) WHERE digest IS NOT NULL;
CREATE INDEX IF NOT EXISTS file_path ON file (path);
CREATE INDEX IF NOT EXISTS container_became ON container (became) WHERE became IS NOT NULL;
CREATE INDEX IF NOT EXISTS sighting_file ON sighting (file);
";

/// How far a list's number is shifted in an event's.
const LIST: u32 = 32;
/// How far a segment's number is shifted in a place.
const SEGMENT: u32 = 40;

/// The number of a list's row.
pub(crate) fn event_id(list: i64, row: i64) -> i64 {
    list << LIST | row
}

/// The list of an event.
pub(crate) fn list_of(event: i64) -> i64 {
    event >> LIST
}

/// Where an entry begins; saturates where no list is that long.
pub(super) fn place(segment: u32, offset: u64) -> i64 {
    let offset = offset.min((1 << SEGMENT) - 1);
    i64::from(segment) << SEGMENT | i64::try_from(offset).unwrap_or(i64::MAX)
}

/// [`place`] taken apart.
pub(crate) fn segment_and_offset(place: i64) -> (u32, u64) {
    let segment = u32::try_from(place >> SEGMENT).unwrap_or(u32::MAX);
    (segment, place.cast_unsigned() & ((1 << SEGMENT) - 1))
}

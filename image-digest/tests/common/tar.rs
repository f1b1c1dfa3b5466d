// SPDX-License-Identifier: Apache-2.0
//! Tar archives (POSIX.1-2001, ustar and pax interchange formats).

/// One member, before it is bytes.
#[derive(Debug, Clone)]
pub(crate) struct Member {
    pub(crate) path: Vec<u8>,
    pub(crate) kind: u8,
    pub(crate) mode: u32,
    pub(crate) uid: u64,
    pub(crate) gid: u64,
    pub(crate) content: Vec<u8>,
    /// Instead of the content's length.
    pub(crate) size: Option<u64>,
    pub(crate) target: Vec<u8>,
    pub(crate) device: (u32, u32),
    /// Attributes of pax's kind, in front of it.
    pub(crate) pax: Vec<(Vec<u8>, Vec<u8>)>,
}

pub(crate) fn member(kind: u8, path: impl AsRef<[u8]>) -> Member {
    Member {
        path: path.as_ref().to_vec(),
        kind,
        mode: if kind == b'5' { 0o755 } else { 0o644 },
        uid: 0,
        gid: 0,
        content: Vec::new(),
        size: None,
        target: Vec::new(),
        device: (0, 0),
        pax: Vec::new(),
    }
}

pub(crate) fn file(path: impl AsRef<[u8]>, content: impl AsRef<[u8]>) -> Member {
    Member {
        content: content.as_ref().to_vec(),
        ..member(b'0', path)
    }
}

pub(crate) fn directory(path: impl AsRef<[u8]>) -> Member {
    member(b'5', path)
}

pub(crate) fn link(kind: u8, path: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Member {
    Member {
        target: target.as_ref().to_vec(),
        ..member(kind, path)
    }
}

impl Member {
    #[must_use]
    pub(crate) fn attribute(mut self, key: &str, value: impl AsRef<[u8]>) -> Self {
        let pair = (key.as_bytes().to_vec(), value.as_ref().to_vec());
        self.pax.push(pair);
        self
    }

    #[must_use]
    pub(crate) fn owned_by(self, uid: u64, gid: u64) -> Self {
        Self { uid, gid, ..self }
    }

    #[must_use]
    pub(crate) fn with_mode(self, mode: u32) -> Self {
        Self { mode, ..self }
    }

    #[must_use]
    pub(crate) fn with_size(self, size: u64) -> Self {
        Self {
            size: Some(size),
            ..self
        }
    }

    /// Its header, content and padding. What does not fit an ustar header goes to attributes.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut pax = self.pax.clone();
        let mut long = |key: &str, value: &[u8]| {
            let given = pax.iter().any(|(has, _)| has == key.as_bytes());
            if value.len() > 100 && !given {
                pax.push((key.into(), value.to_vec()));
            }
        };
        long("path", &self.path);
        long("linkpath", &self.target);
        let mut bytes = Vec::new();
        if !pax.is_empty() {
            let records: Vec<u8> = pax
                .iter()
                .flat_map(|(key, value)| record(key, value))
                .collect();
            bytes = file("pax", &records).header(b'x', records.len() as u64);
            bytes.extend(padded(&records));
        }
        let size = self.size.unwrap_or(self.content.len() as u64);
        bytes.extend(self.header(self.kind, size));
        bytes.extend(padded(&self.content));
        bytes
    }

    fn header(&self, kind: u8, size: u64) -> Vec<u8> {
        let mut header = [0_u8; 512];
        let mut put = |at: usize, width: usize, bytes: &[u8]| {
            let bytes = &bytes[..bytes.len().min(width)];
            header[at..at + bytes.len()].copy_from_slice(bytes);
        };
        put(0, 100, &self.path);
        put(100, 8, &number(self.mode.into(), 8));
        put(108, 8, &number(self.uid, 8));
        put(116, 8, &number(self.gid, 8));
        put(124, 12, &number(size, 12));
        put(136, 12, &number(1_700_000_000, 12));
        put(148, 8, b"        ");
        put(156, 1, &[kind]);
        put(157, 100, &self.target);
        put(257, 8, b"ustar\x0000");
        put(329, 8, &number(self.device.0.into(), 8));
        put(337, 8, &number(self.device.1.into(), 8));
        checksum(&mut header);
        header.to_vec()
    }
}

/// Octal, or GNU's base 256 where that is too narrow.
fn number(value: u64, width: usize) -> Vec<u8> {
    let octal = format!("{value:0digits$o}", digits = width - 1);
    if octal.len() < width {
        return octal.into_bytes();
    }
    let mut bytes = vec![0; width - 8];
    bytes.extend(value.to_be_bytes());
    let bytes = &bytes[bytes.len() - width..];
    let mut bytes = bytes.to_vec();
    bytes[0] |= 0x80;
    bytes
}

pub(crate) fn checksum(header: &mut [u8]) {
    header[148..156].fill(b' ');
    let sum: u32 = header[..512].iter().copied().map(u32::from).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

/// `LENGTH KEY=VALUE\n`, the length with itself.
fn record(key: &[u8], value: &[u8]) -> Vec<u8> {
    let rest = [b" ", key, b"=", value, b"\n"].concat();
    let mut length = rest.len();
    while length != rest.len() + length.to_string().len() {
        length = rest.len() + length.to_string().len();
    }
    [length.to_string().as_bytes(), &rest].concat()
}

fn padded(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

/// An archive with its end mark.
pub(crate) fn archive<'a>(members: impl IntoIterator<Item = &'a Member>) -> Vec<u8> {
    let mut bytes: Vec<u8> = members.into_iter().flat_map(Member::bytes).collect();
    bytes.extend([0; 1024]);
    bytes
}

// SPDX-License-Identifier: Apache-2.0
//! `/proc/PID/mountinfo` (`proc_pid_mountinfo(5)`), and what it says of an overlay. Pure: given bytes.
//!
//! Two escapes lie over one another: the kernel's octal ones of every field (`mangle`, `seq_show_option`), and
//! overlayfs's own backslashes inside the values of its options (`fs/overlayfs/params.c`). The lines of
//! a container may come from who is in it: nothing is assumed of them. Read by `container`.

use crate::source::directory::OverlayAttributes;

/// Why a line is none of mountinfo's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{}\" is no line of mountinfo", line.escape_ascii())]
pub struct MountInfoError {
    line: Vec<u8>,
}

/// What cannot be read of an overlay's options.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OverlayOptionsError {
    /// Files whose content is somewhere else (composefs, Linux 6.5).
    #[error("the overlay has the data-only layer \"{}\", whose files have no names; such images are not read", .0.escape_ascii())]
    DataOnly(Vec<u8>),
    /// An overlay always has one.
    #[error("the overlay shows no lower directory")]
    NoLower,
    /// Two values of what can be one.
    #[error("the overlay shows the option \"{0}\" twice")]
    Twice(&'static str),
}

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mount {
    pub(crate) id: u64,
    /// `major:minor` of its file system.
    pub(crate) device: Vec<u8>,
    /// What of the file system is mounted.
    pub(crate) root: Vec<u8>,
    /// Seen from the process's root.
    pub(crate) point: Vec<u8>,
    pub(crate) kind: Vec<u8>,
    pub(crate) source: Vec<u8>,
    /// Of the file system, in order: an option can be there more than once.
    pub(crate) options: Vec<(Vec<u8>, Vec<u8>)>,
}

/// The directories of an overlay as it was told them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Overlay {
    /// The top one first.
    pub(crate) lower: Vec<Vec<u8>>,
    pub(crate) upper: Option<Vec<u8>>,
    pub(crate) attributes: OverlayAttributes,
}

/// All lines of a mountinfo.
pub(crate) fn parse(text: &[u8]) -> Result<Vec<Mount>, MountInfoError> {
    text.split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| {
            mount(line).ok_or_else(|| MountInfoError {
                line: line.to_vec(),
            })
        })
        .collect()
}

fn mount(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|byte| *byte == b' ');
    let id = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
    let _parent = fields.next()?;
    let device = fields.next()?.to_vec();
    let root = plain(fields.next()?);
    let point = plain(fields.next()?);
    let _of_the_mount = fields.next()?;
    // Any number of optional fields, then a dash.
    while fields.next()? != b"-" {}
    let kind = plain(fields.next()?);
    let source = plain(fields.next()?);
    let options = fields.next()?;
    let options = options
        .split(|byte| *byte == b',')
        .map(|option| {
            let (name, value) = halves(option, b'=').unwrap_or((option, b""));
            (plain(name), plain(value))
        })
        .collect();
    Some(Mount {
        id,
        device,
        root,
        point,
        kind,
        source,
        options,
    })
}

impl Mount {
    /// Its directories, of a mount of type `overlay`.
    pub(crate) fn overlay(&self) -> Result<Overlay, OverlayOptionsError> {
        let mut overlay = Overlay {
            lower: Vec::new(),
            upper: None,
            attributes: OverlayAttributes::Trusted,
        };
        for (name, value) in &self.options {
            match &name[..] {
                b"lowerdir" if !overlay.lower.is_empty() => {
                    return Err(OverlayOptionsError::Twice("lowerdir"));
                }
                b"lowerdir" => overlay.lower = lower_directories(value)?,
                // Told one by one through fsconfig(2), these have no escapes of overlayfs's own.
                b"lowerdir+" => overlay.lower.push(value.clone()),
                b"datadir+" => return Err(OverlayOptionsError::DataOnly(value.clone())),
                b"upperdir" if overlay.upper.is_some() => {
                    return Err(OverlayOptionsError::Twice("upperdir"));
                }
                b"upperdir" => overlay.upper = Some(unescape(value)),
                b"userxattr" => overlay.attributes = OverlayAttributes::User,
                _ => {}
            }
        }
        if overlay.lower.is_empty() {
            return Err(OverlayOptionsError::NoLower);
        }
        Ok(overlay)
    }
}

/// Parts `lowerdir=` at its colons. An empty part stands before a data-only layer (`a:b::data`).
fn lower_directories(list: &[u8]) -> Result<Vec<Vec<u8>>, OverlayOptionsError> {
    let mut directories: Vec<Vec<u8>> = vec![Vec::new()];
    let mut data = false;
    let mut bytes = list.iter();
    while let Some(byte) = bytes.next() {
        let byte = match byte {
            b':' => {
                data |= directories.last().is_some_and(Vec::is_empty);
                directories.push(Vec::new());
                continue;
            }
            // What follows a backslash is itself, whatever it is.
            b'\\' => match bytes.next() {
                Some(byte) => byte,
                None => break,
            },
            byte => byte,
        };
        if let Some(last) = directories.last_mut() {
            last.push(*byte);
        }
    }
    let last = directories.last().cloned().unwrap_or_default();
    if data {
        return Err(OverlayOptionsError::DataOnly(last));
    }
    if last.is_empty() {
        return Err(OverlayOptionsError::NoLower);
    }
    Ok(directories)
}

/// Overlayfs's own escapes away.
fn unescape(value: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(value.len());
    let mut bytes = value.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => plain.extend(bytes.next()),
            byte => plain.push(*byte),
        }
    }
    plain
}

/// The kernel's octal escapes away: a backslash and three digits.
fn plain(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((byte, behind)) = rest.split_first() {
        if *byte == b'\\'
            && let Some((digits, behind)) = behind.split_first_chunk::<3>()
            && let Some(escaped) = octal(*digits)
        {
            plain.push(escaped);
            rest = behind;
        } else {
            plain.push(*byte);
            rest = behind;
        }
    }
    plain
}

fn octal(digits: [u8; 3]) -> Option<u8> {
    let text = std::str::from_utf8(&digits).ok()?;
    if !text.bytes().all(|digit| (b'0'..=b'7').contains(&digit)) {
        return None;
    }
    u8::from_str_radix(text, 8).ok()
}

fn halves(bytes: &[u8], at: u8) -> Option<(&[u8], &[u8])> {
    let position = bytes.iter().position(|byte| *byte == at)?;
    Some((&bytes[..position], &bytes[position + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn overlay_of(line: &str) -> Result<Overlay, OverlayOptionsError> {
        let mounts = parse(line.as_bytes()).unwrap();
        assert_eq!(mounts[0].kind, b"overlay");
        mounts[0].overlay()
    }

    fn paths(overlay: &Overlay) -> Vec<String> {
        let text = |path: &Vec<u8>| String::from_utf8(path.clone()).unwrap();
        overlay.lower.iter().map(text).collect()
    }

    #[test]
    fn the_lines_of_each_engine_are_read() {
        // podman 4.3 on 6.1
        let podman = "612 606 0:58 / / rw,nodev,relatime - overlay overlay rw,context=\"system_u:object_r:container_file_t:s0:c1\\054c2\",lowerdir=/var/lib/containers/storage/overlay/l/AQSJZ2CZWD4J3J7LGEUVOIFKUB:/var/lib/containers/storage/overlay/l/7OWDGA3KVCHBYHW6KDRSQXBGMY,upperdir=/var/lib/containers/storage/overlay/5d0c/diff,workdir=/var/lib/containers/storage/overlay/5d0c/work,metacopy=on,volatile\n";
        let read = overlay_of(podman).unwrap();
        assert_eq!(
            paths(&read),
            [
                "/var/lib/containers/storage/overlay/l/AQSJZ2CZWD4J3J7LGEUVOIFKUB",
                "/var/lib/containers/storage/overlay/l/7OWDGA3KVCHBYHW6KDRSQXBGMY"
            ]
        );
        let upper = b"/var/lib/containers/storage/overlay/5d0c/diff";
        assert_eq!(read.upper.as_deref(), Some(&upper[..]));
        assert_eq!(read.attributes, OverlayAttributes::Trusted);

        let rootless = "700 6 0:60 / / rw,relatime - overlay overlay rw,lowerdir=l/A:l/B,upperdir=5d0c/diff,workdir=5d0c/work,userxattr";
        let read = overlay_of(rootless).unwrap();
        assert_eq!(paths(&read), ["l/A", "l/B"]);
        assert_eq!(read.attributes, OverlayAttributes::User);

        let docker = "1001 800 0:51 / / rw,relatime master:303 shared:9 - overlay overlay rw,lowerdir=/var/lib/docker/overlay2/l/C:/var/lib/docker/overlay2/l/D,upperdir=/var/lib/docker/overlay2/ab/diff,workdir=/var/lib/docker/overlay2/ab/work,nouserxattr";
        let mounts = parse(docker.as_bytes()).unwrap();
        assert_eq!((mounts[0].id, &mounts[0].device[..]), (1001, &b"0:51"[..]));
        assert_eq!(
            mounts[0].overlay().unwrap().attributes,
            OverlayAttributes::Trusted
        );

        let containerd = "96 81 0:46 / / ro,relatime - overlay overlay rw,lowerdir=/var/lib/containerd/io.containerd.snapshotter.v1.overlayfs/snapshots/1/fs,upperdir=/var/lib/containerd/io.containerd.snapshotter.v1.overlayfs/snapshots/2/fs,workdir=/var/lib/containerd/io.containerd.snapshotter.v1.overlayfs/snapshots/2/work,uuid=on,nouserxattr";
        assert_eq!(paths(&overlay_of(containerd).unwrap()).len(), 1);

        let one_by_one = "96 81 0:46 / / ro - overlay overlay ro,lowerdir+=/a:b,lowerdir+=/c,redirect_dir=on,metacopy=on";
        let read = overlay_of(one_by_one).unwrap();
        assert_eq!(paths(&read), ["/a:b", "/c"]);
        assert_eq!(read.upper, None);
    }

    #[test]
    fn both_kinds_of_escapes_are_undone_in_their_order() {
        // Written by Linux 6.18 for: lowerdir=a\,b:c\:d:e f:g\\h
        let line = "48 27 0:39 / /tmp/m\\011n rw - overlay overlay rw,lowerdir=a\\134\\054b:c\\134:d:e\\040f:g\\134\\134h,upperdir=u\\134\\054x,workdir=w";
        let read = overlay_of(line).unwrap();
        assert_eq!(paths(&read), ["a,b", "c:d", "e f", "g\\h"]);
        assert_eq!(read.upper.as_deref(), Some(&b"u,x"[..]));
        assert_eq!(parse(line.as_bytes()).unwrap()[0].point, b"/tmp/m\tn");
        // Neither digits nor three of them: no escape.
        assert_eq!(plain(b"\\08 \\777 \\4"), b"\\08 \\777 \\4");
    }

    #[test]
    fn what_has_files_without_names_is_refused() {
        let line = |options: &str| format!("1 1 0:1 / / rw - overlay o {options}");
        for (options, error) in [
            (
                "rw,lowerdir=a:b::data",
                OverlayOptionsError::DataOnly(b"data".into()),
            ),
            (
                "rw,lowerdir+=a,datadir+=d",
                OverlayOptionsError::DataOnly(b"d".into()),
            ),
            ("rw,upperdir=u", OverlayOptionsError::NoLower),
            ("rw,lowerdir=", OverlayOptionsError::NoLower),
            (
                "lowerdir=a,lowerdir=b",
                OverlayOptionsError::Twice("lowerdir"),
            ),
        ] {
            assert_eq!(overlay_of(&line(options)), Err(error), "{options}");
        }
    }

    #[test]
    fn a_line_that_is_none_is_refused_and_its_control_bytes_stay_away() {
        for line in [&b"1 2 0:1 / /"[..], b"x 2 0:1 / / rw - t s o", b"\x1b[2J"] {
            let error = parse(line).unwrap_err().to_string();
            assert!(!error.contains('\x1b'), "{error}");
        }
    }
}

// SPDX-License-Identifier: Apache-2.0
//! What is mounted at a process's root, from `/proc/PID/mountinfo` (proc(5)): pure, given the text.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;

use super::directory::OverlayAttributes;

/// A process's root mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RootMount {
    pub(crate) file_system: String,
    /// If it is an overlay.
    pub(crate) overlay: Option<Overlay>,
}

/// An overlay's options.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Overlay {
    /// The lowest first, as they were given to the kernel.
    pub(crate) lower: Vec<PathBuf>,
    pub(crate) upper: Option<PathBuf>,
    pub(crate) attributes: OverlayAttributes,
    /// Some have only data for files of others.
    pub(crate) has_data_only: bool,
}

/// The last mount at `/`: it covers the others.
pub(crate) fn root_mount(mountinfo: &[u8]) -> Option<RootMount> {
    let mut lines = mountinfo.split(|byte| *byte == b'\n').rev();
    lines.find_map(|line| {
        let mut words = line.split(|byte| *byte == b' ');
        if words.nth(4)? != b"/" {
            return None;
        }
        // Optional fields, as many as there are, end at a dash.
        words.find(|word| *word == b"-")?;
        let file_system = String::from_utf8_lossy(words.next()?).into_owned();
        let options = words.nth(1)?;
        let overlay = (file_system == "overlay").then(|| overlay(options));
        Some(RootMount {
            file_system,
            overlay,
        })
    })
}

fn overlay(options: &[u8]) -> Overlay {
    let mut overlay = Overlay {
        lower: Vec::new(),
        upper: None,
        attributes: OverlayAttributes::Trusted,
        has_data_only: false,
    };
    for option in options.split(|byte| *byte == b',') {
        let (name, value) = match option.iter().position(|byte| *byte == b'=') {
            Some(at) => (&option[..at], unescaped(&option[at + 1..])),
            None => (option, Vec::new()),
        };
        match name {
            b"lowerdir" => {
                overlay.has_data_only |= value.windows(2).any(|two| two == b"::");
                overlay.lower = split_at_colons(&value);
            }
            // Since 6.7, one option for each.
            b"lowerdir+" => overlay.lower.push(path(value)),
            b"datadir+" => overlay.has_data_only = true,
            b"upperdir" => overlay.upper = Some(path(value)),
            b"userxattr" => overlay.attributes = OverlayAttributes::User,
            _ => {}
        }
    }
    // The kernel has the top one first.
    overlay.lower.reverse();
    overlay
}

/// The kernel writes what parts words and options as octal numbers (`seq_show_option`,
/// `include/linux/seq_file.h`).
fn unescaped(text: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, after @ ..] = rest {
        rest = after;
        bytes.push(match (first, after) {
            (
                b'\\',
                [
                    a @ b'0'..=b'3',
                    b @ b'0'..=b'7',
                    c @ b'0'..=b'7',
                    after @ ..,
                ],
            ) => {
                rest = after;
                (a - b'0') << 6 | (b - b'0') << 3 | (c - b'0')
            }
            _ => *first,
        });
    }
    bytes
}

/// Directories whose names have colons and backslashes have backslashes before them
/// (`ovl_split_lowerdirs`, `fs/overlayfs`).
fn split_at_colons(text: &[u8]) -> Vec<PathBuf> {
    let (mut all, mut one) = (Vec::new(), Vec::new());
    let mut bytes = text.iter().copied();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => one.extend(bytes.next()),
            b':' => all.push(std::mem::take(&mut one)),
            byte => one.push(byte),
        }
    }
    all.push(one);
    all.retain(|path| !path.is_empty());
    all.into_iter().map(path).collect()
}

fn path(bytes: Vec<u8>) -> PathBuf {
    OsString::from_vec(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn overlay_of(line: &str) -> Overlay {
        let root = root_mount(line.as_bytes()).expect("a root");
        root.overlay.expect("an overlay")
    }

    fn paths(paths: &[&str]) -> Vec<PathBuf> {
        paths.iter().map(PathBuf::from).collect()
    }

    #[test]
    fn lower_directories_are_found_as_engines_and_kernels_write_them() {
        let podman = "22 1 0:35 / / rw,relatime - overlay overlay rw,lowerdir=/s/overlay/l/TOP:/s/overlay/l/BASE,\
                      upperdir=/s/overlay/abc/diff,workdir=/s/overlay/abc/work,metacopy=on,volatile\n\
                      23 22 0:36 / /proc rw - proc proc rw\n";
        let overlay = overlay_of(podman);
        assert_eq!(
            overlay.lower,
            paths(&["/s/overlay/l/BASE", "/s/overlay/l/TOP"])
        );
        assert_eq!(overlay.upper, Some("/s/overlay/abc/diff".into()));
        assert_eq!(overlay.attributes, OverlayAttributes::Trusted);

        let by_one = "9 1 0:35 / / rw shared:4 master:2 - overlay none rw,lowerdir+=/top,lowerdir+=/base,userxattr";
        let overlay = overlay_of(by_one);
        assert_eq!(overlay.lower, paths(&["/base", "/top"]));
        assert_eq!(overlay.upper, None);
        assert_eq!(overlay.attributes, OverlayAttributes::User);
        assert!(!overlay.has_data_only);

        let odd = r"9 1 0:35 / / rw - overlay none rw,lowerdir=/a\054b\040c:/d\134:e:/f\134\134";
        assert_eq!(overlay_of(odd).lower, paths(&[r"/f\", "/d:e", "/a,b c"]));

        for data in ["lowerdir=/a::/data", "lowerdir+=/a,datadir+=/data"] {
            assert!(overlay_of(&format!("9 1 0:35 / / rw - overlay none rw,{data}")).has_data_only);
        }
    }

    #[test]
    fn the_mount_that_covers_the_others_counts() {
        let text = "1 0 0:1 / / rw - rootfs rootfs rw\n22 1 8:1 /sub / rw - ext4 /dev/sda rw\n\
                    23 22 0:9 / /etc rw - overlay overlay rw,lowerdir=/x\n";
        let root = root_mount(text.as_bytes()).expect("a root");
        assert_eq!(root.file_system, "ext4");
        assert_eq!(root.overlay, None);
        for garbage in [
            &b""[..],
            b"\n\n",
            b"1 2 3",
            b"1 2 3 4 / rw",
            b"\xff - / - \xff",
        ] {
            assert_eq!(root_mount(garbage), None);
        }
    }
}

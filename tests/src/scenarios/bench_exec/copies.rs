// SPDX-License-Identifier: Apache-2.0
//! The programs that a bench executes, copied as often as it needs new ones: on the
//! root's ext4, or in the lower layer of an overlay of it.

use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};

use clap::ValueEnum;

use crate::load::FILES;
use crate::process;

/// What the overlays are made of.
const LAYERS: &str = "/var/bench-layers";

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Program {
    Static,
    Libraries,
}

impl Program {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Static => "static",
            Self::Libraries => "libraries",
        }
    }

    /// The program's file, and those of its libraries beside it.
    pub(super) fn files(self) -> Vec<PathBuf> {
        let directory = Path::new(FILES).join(self.name());
        fs::read_dir(&directory)
            .unwrap_or_else(|error| panic!("{} cannot be listed: {error}", directory.display()))
            .map(|entry| entry.expect("a directory can be listed").path())
            .collect()
    }
}

/// Copies, each in a directory that is named by its number. Gone when dropped.
pub(super) struct Copies {
    directory: PathBuf,
    /// Its layers, if it is an overlay.
    layers: Option<PathBuf>,
}

impl Copies {
    /// Copies on disk and in the page cache, so that executing one reads nothing; of the user `owner`.
    pub(super) fn make(
        program: Program,
        directory: &Path,
        count: usize,
        (owner, overlay): (u32, bool),
    ) -> Self {
        fs::create_dir_all(directory).expect("the root can be written");
        let layers = overlay.then(|| Path::new(LAYERS).join(program.name()));
        let place = layers.as_ref().map(|layers| layers.join("lower"));
        fill(place.as_deref().unwrap_or(directory), program, count, owner);
        if let Some(layers) = &layers {
            mount(layers, directory);
        }
        Self {
            directory: directory.to_owned(),
            layers,
        }
    }

    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }
}

impl Drop for Copies {
    fn drop(&mut self) {
        if let Some(layers) = &self.layers {
            let place = self.directory.to_str().expect("a plain path");
            process::run(&["umount", place]).succeeded();
            fs::remove_dir_all(layers).expect("layers can be removed");
        }
        fs::remove_dir_all(&self.directory).expect("copies can be removed");
    }
}

fn fill(place: &Path, program: Program, count: usize, owner: u32) {
    let files = program.files();
    let mut made = Vec::new();
    for number in 0..count {
        let to = place.join(number.to_string());
        fs::create_dir_all(&to).expect("the root can be written");
        for file in &files {
            let copy = to.join(file.file_name().expect("a file has a name"));
            fs::copy(file, &copy).expect("a file can be copied");
            chown(&copy, Some(owner), None).expect("root gives files away");
            made.push(copy);
        }
    }
    rustix::fs::sync();
    for copy in made {
        fs::read(&copy).expect("a copy can be read");
    }
}

fn mount(layers: &Path, directory: &Path) {
    for layer in ["upper", "work"] {
        fs::create_dir_all(layers.join(layer)).expect("the root can be written");
    }
    process::run(&["modprobe", "overlay"]).succeeded();
    let at = layers.display();
    let layers = format!("lowerdir={at}/lower,upperdir={at}/upper,workdir={at}/work");
    let place = directory.to_str().expect("a plain path");
    process::run(&["mount", "-t", "overlay", "-o", &layers, "overlay", place]).succeeded();
}

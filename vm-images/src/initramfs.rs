// SPDX-License-Identifier: Apache-2.0
//! The initramfs: busybox, the modules that reach the disks, and
//! `recipe/initramfs-init.sh`. Not compressed: an emulated processor unpacks
//! slower than QEMU copies.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};

use crate::Result;
use crate::error::Doing as _;

pub(crate) const INIT: &str = include_str!("../recipe/initramfs-init.sh");
const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const FILE: u32 = 0o100_644;

/// Writes the initramfs `image`. `modules` come in the order to load them in.
pub(crate) fn make(image: &Path, busybox: &Path, modules: &[PathBuf]) -> Result<()> {
    let mut archive = Archive {
        out: BufWriter::new(File::create(image).doing("make", image)?),
        inode: 0,
        image,
    };
    for dir in ["bin", "dev", "proc", "sys", "sysroot", "modules"] {
        archive.add(dir, DIRECTORY, &[])?;
    }
    archive.add("init", PROGRAM, INIT.as_bytes())?;
    archive.add("bin/busybox", PROGRAM, &read(busybox)?)?;
    let mut order = String::new();
    for module in modules {
        let name = module.file_name().unwrap_or_default().to_string_lossy();
        archive.add(&format!("modules/{name}"), FILE, &read(module)?)?;
        order.push_str(&name);
        order.push('\n');
    }
    archive.add("modules/order", FILE, order.as_bytes())?;
    let mut out = cpio::newc::trailer(archive.out).doing("write", image)?;
    out.flush().doing("write", image)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).doing("read", path)
}

struct Archive<'a> {
    out: BufWriter<File>,
    inode: u32,
    image: &'a Path,
}

impl Archive<'_> {
    fn add(&mut self, name: &str, mode: u32, content: &[u8]) -> Result<()> {
        self.inode += 1;
        let size = u32::try_from(content.len())
            .map_err(std::io::Error::other)
            .doing("pack a file that large into", self.image)?;
        let mut entry = cpio::newc::Builder::new(name)
            .ino(self.inode)
            .mode(mode)
            .write(&mut self.out, size);
        entry.write_all(content).doing("write", self.image)?;
        entry.finish().map(drop).doing("write", self.image)
    }
}

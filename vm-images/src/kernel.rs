// SPDX-License-Identifier: Apache-2.0
//! Debian's kernels: finds the newest package of a series, fetches it, and makes
//! of it what QEMU boots: the kernel itself, a disk of all its modules and an
//! initramfs with those that reach the disks.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use crate::command::{as_root, run_tool, tool};
use crate::disk::{self, Use};
use crate::error::{Doing as _, Error};
use crate::{Layout, Result, initramfs};

const BOOT_MODULES: &str = include_str!("../recipe/boot-modules.txt");
/// Counted up when this file makes something else of the same package.
const FORMAT: &str = "1";

/// A kernel series that cima supports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Series {
    /// Debian 12's own kernel.
    V6_1,
    /// The kernel of Debian 13, built for Debian 12.
    V6_12,
}

impl Series {
    /// Every series, oldest first.
    pub const ALL: [Self; 2] = [Self::V6_1, Self::V6_12];

    /// As in `uname -r`: "6.1" or "6.12".
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V6_1 => "6.1",
            Self::V6_12 => "6.12",
        }
    }

    /// Packages that hold a kernel of this series, as apt-cache's regular
    /// expression: not the cloud, real-time and debug flavours.
    fn package_pattern(self) -> &'static str {
        match self {
            Self::V6_1 => r"^linux-image-6\.1\.0-[0-9]+-amd64(-unsigned)?$",
            Self::V6_12 => r"^linux-image-6\.12\.[0-9]+\+deb12-amd64(-unsigned)?$",
        }
    }
}

impl fmt::Display for Series {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl std::str::FromStr for Series {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|series| series.as_str() == text)
            .ok_or_else(|| {
                format!(
                    "there are guests for the kernels {} and {}",
                    Self::V6_1,
                    Self::V6_12
                )
            })
    }
}

/// A kernel that is ready to boot.
#[derive(Debug, Clone)]
pub struct Kernel {
    /// The series it belongs to.
    pub series: Series,
    /// The Debian package it came in.
    pub package: String,
    directory: PathBuf,
    /// In bytes.
    pub(crate) initramfs_size: u64,
}

impl Kernel {
    /// What QEMU's `-kernel` takes.
    pub(crate) fn image(&self) -> PathBuf {
        self.directory.join("kernel")
    }

    pub(crate) fn initramfs(&self) -> PathBuf {
        self.directory.join("initramfs.cpio")
    }

    pub(crate) fn modules_disk(&self) -> PathBuf {
        self.directory.join("modules.img")
    }

    /// The Debian package itself.
    pub(crate) fn archive(&self) -> Result<PathBuf> {
        downloaded(&self.directory)?.ok_or_else(|| Error::Unexpected {
            what: format!("There is no package {}", self.package),
            within: self.directory.clone(),
        })
    }
}

/// Returns the kernel of `series`, made now if it was not before.
pub(crate) fn prepare(
    layout: &Layout,
    series: Series,
    refresh: bool,
    busybox: &Path,
) -> Result<Kernel> {
    let kernels = layout.kernels();
    std::fs::create_dir_all(&kernels).doing("make the directory", &kernels)?;
    let remembered = kernels.join(series.as_str());
    let package = match std::fs::read_to_string(&remembered) {
        Ok(package) if !refresh => package,
        _ => newest_package(series, refresh)?,
    };
    let mut kernel = Kernel {
        series,
        directory: kernels.join(&package),
        package,
        initramfs_size: 0,
    };
    let stamp = kernel.directory.join("stamp");
    let recipe = recipe_digest(busybox)?;
    if !std::fs::read_to_string(&stamp).is_ok_and(|of| of == recipe) {
        eprintln!("[{series}] preparing {}", kernel.package);
        make(&kernel, busybox)?;
        std::fs::write(&stamp, recipe).doing("write", &stamp)?;
        std::fs::write(&remembered, &kernel.package).doing("write", &remembered)?;
        forget_older(&kernels, &kernel)?;
    }
    let initramfs = kernel.initramfs();
    kernel.initramfs_size = std::fs::metadata(&initramfs)
        .doing("look at", &initramfs)?
        .len();
    Ok(kernel)
}

fn recipe_digest(busybox: &Path) -> Result<String> {
    let mut digest = Sha256::new();
    for part in [FORMAT, BOOT_MODULES, initramfs::INIT] {
        digest.update(part);
        digest.update([0]);
    }
    digest.update(std::fs::read(busybox).doing("read", busybox)?);
    Ok(hex::encode(digest.finalize()))
}

/// Asks apt for the newest kernel package of `series`.
fn newest_package(series: Series, update: bool) -> Result<String> {
    if update {
        update_package_lists()?;
    }
    if let Some(package) = search(series)? {
        return Ok(package);
    }
    update_package_lists()?;
    search(series)?.ok_or_else(|| Error::NoKernel {
        series,
        pattern: series.package_pattern().to_owned(),
    })
}

/// Brings apt's lists up to date: a new machine has none.
pub(crate) fn update_package_lists() -> Result<()> {
    eprintln!("Bringing apt's package lists up to date");
    run_tool(
        "Bringing apt's package lists up to date",
        as_root("apt-get")?.args(["-q", "update"]),
    )
    .map(drop)
}

fn search(series: Series) -> Result<Option<String>> {
    let listed = run_tool(
        "Looking for a kernel package",
        tool("apt-cache")?.args(["search", "--names-only", series.package_pattern()]),
    )?;
    Ok(newest(&listed))
}

/// The newest of the packages that `apt-cache search` listed; of two names of
/// one version, the signed package.
fn newest(listed: &str) -> Option<String> {
    listed
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .max_by_key(|name| (version_numbers(name), !name.ends_with("-unsigned")))
        .map(str::to_owned)
}

fn version_numbers(name: &str) -> Vec<u32> {
    name.split(|c: char| !c.is_ascii_digit())
        .filter_map(|digits| digits.parse().ok())
        .collect()
}

/// Fetches and unpacks the package, and makes the three files that a run needs.
fn make(kernel: &Kernel, busybox: &Path) -> Result<()> {
    let dir = &kernel.directory;
    std::fs::create_dir_all(dir).doing("make the directory", dir)?;
    let package = fetch(kernel)?;
    let scratch = tempfile::tempdir_in(dir).doing("make a directory in", dir)?;
    let tree = scratch.path().join("tree");
    run_tool(
        "Unpacking the kernel package",
        tool("dpkg")?.arg("-x").arg(&package).arg(&tree),
    )?;
    let (vmlinuz, version) = find_vmlinuz(&tree)?;
    extract_kernel(&vmlinuz, &kernel.image(), scratch.path())?;
    run_tool(
        "Resolving what the kernel's modules depend on",
        tool("depmod")?.arg("-b").arg(&tree).arg(&version),
    )?;
    let modules = boot_modules(&tree.join("lib/modules").join(&version), scratch.path())?;
    initramfs::make(&kernel.initramfs(), busybox, &modules)?;
    let modules_tree = tree.join("lib/modules");
    disk::make(
        &modules_tree,
        &kernel.modules_disk(),
        "modules",
        Use::ReadOnly,
    )
}

/// Fetches the package, unless an earlier attempt did.
fn fetch(kernel: &Kernel) -> Result<PathBuf> {
    if let Some(package) = downloaded(&kernel.directory)? {
        return Ok(package);
    }
    run_tool(
        "Fetching the kernel package",
        // Apt would drop its rights to a user that cannot write here, and warn.
        tool("apt-get")?
            .args([
                "-q",
                "-o",
                "APT::Sandbox::User=root",
                "download",
                &kernel.package,
            ])
            .current_dir(&kernel.directory),
    )?;
    downloaded(&kernel.directory)?.ok_or_else(|| Error::Unexpected {
        what: "apt-get download left no package".to_owned(),
        within: kernel.directory.clone(),
    })
}

fn downloaded(dir: &Path) -> Result<Option<PathBuf>> {
    Ok(std::fs::read_dir(dir)
        .doing("list", dir)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|ext| ext == "deb")))
}

fn find_vmlinuz(tree: &Path) -> Result<(PathBuf, String)> {
    let boot = tree.join("boot");
    std::fs::read_dir(&boot)
        .doing("list", &boot)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find_map(|path| {
            let version = path
                .file_name()?
                .to_str()?
                .strip_prefix("vmlinuz-")?
                .to_owned();
            Some((path, version))
        })
        .ok_or_else(|| Error::Unexpected {
            what: "There is no vmlinuz".to_owned(),
            within: boot,
        })
}

/// Takes the plain ELF kernel out of `vmlinuz`: QEMU starts it by its PVH entry
/// point, which spares the guest unpacking itself (1.3 s for zstd, 4.2 s for xz
/// under emulation). A kernel packed in another way is booted as it is.
fn extract_kernel(vmlinuz: &Path, image: &Path, scratch: &Path) -> Result<()> {
    let bytes = std::fs::read(vmlinuz).doing("read", vmlinuz)?;
    let payload = payload(&bytes).ok_or_else(|| Error::Unexpected {
        what: "The setup header makes no sense".to_owned(),
        within: vmlinuz.to_owned(),
    })?;
    let (packer, extension) = match payload {
        [0xfd, b'7', b'z', b'X', b'Z', ..] => ("xz", "xz"),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => ("zstd", "zst"),
        _ => {
            return std::fs::copy(vmlinuz, image)
                .map(drop)
                .doing("copy", vmlinuz);
        }
    };
    let packed = scratch.join("vmlinux").with_extension(extension);
    std::fs::write(&packed, payload).doing("write", &packed)?;
    run_tool(
        "Unpacking the kernel",
        tool(packer)?.args(["-q", "-d", "-f"]).arg(&packed),
    )?;
    let unpacked = scratch.join("vmlinux");
    std::fs::rename(&unpacked, image).doing("rename", &unpacked)
}

/// The compressed kernel within a bzImage: `payload_offset` and `payload_length`
/// of the boot protocol (Documentation/arch/x86/boot.rst), without the 4 bytes
/// of unpacked size at its end.
fn payload(bzimage: &[u8]) -> Option<&[u8]> {
    let word = |at: usize| -> Option<usize> {
        let bytes = bzimage.get(at..at + 4)?.try_into().ok()?;
        usize::try_from(u32::from_le_bytes(bytes)).ok()
    };
    let setup_sectors = match *bzimage.get(0x1f1)? {
        0 => 4,
        sectors => usize::from(sectors),
    };
    let start = (setup_sectors + 1) * 512 + word(0x248)?;
    let length = word(0x24c)?.checked_sub(4)?;
    bzimage.get(start..start + length)
}

/// The modules that the initramfs loads, unpacked, in loading order.
fn boot_modules(modules: &Path, scratch: &Path) -> Result<Vec<PathBuf>> {
    let read = |name: &str| {
        let path = modules.join(name);
        std::fs::read_to_string(&path).doing("read", &path)
    };
    let order =
        loading_order(&read("modules.dep")?, &read("modules.builtin")?).map_err(|name| {
            Error::Unexpected {
                what: format!("The package has no module {name}"),
                within: modules.to_owned(),
            }
        })?;
    let mut unpacked = Vec::new();
    for relative in order {
        let module = modules.join(&relative);
        let copy = scratch.join(module.file_name().unwrap_or_default());
        std::fs::copy(&module, &copy).doing("copy", &module)?;
        if copy.extension().is_some_and(|ext| ext == "xz") {
            run_tool(
                "Unpacking a kernel module",
                tool("xz")?.args(["-q", "-d"]).arg(&copy),
            )?;
            unpacked.push(copy.with_extension(""));
        } else {
            unpacked.push(copy);
        }
    }
    Ok(unpacked)
}

/// The wanted modules and what they depend on, each once, dependencies first.
/// Fails with the name of a module that is neither there nor built in.
fn loading_order(modules_dep: &str, modules_builtin: &str) -> Result<Vec<String>, String> {
    let dependencies: HashMap<String, (&str, &str)> = modules_dep
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(path, needs)| (module_name(path), (path, needs)))
        .collect();
    let builtin: Vec<String> = modules_builtin.lines().map(module_name).collect();
    let mut order: Vec<String> = Vec::new();
    for name in wanted_modules() {
        let Some((path, needs)) = dependencies.get(name) else {
            if builtin.iter().any(|have| have == name) {
                continue;
            }
            return Err(name.to_owned());
        };
        // modules.dep lists all of a module's dependencies, the deepest last.
        for path in needs.split_whitespace().rev().chain([*path]) {
            if !order.iter().any(|have| have == path) {
                order.push(path.to_owned());
            }
        }
    }
    Ok(order)
}

fn wanted_modules() -> impl Iterator<Item = &'static str> {
    BOOT_MODULES
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
}

/// "kernel/fs/ext4/ext4.ko.xz" is `ext4`; the kernel treats `-` as `_`.
fn module_name(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split(".ko").next().unwrap_or(file).replace('-', "_")
}

/// Removes the kernels that `kernel` takes the place of.
fn forget_older(kernels: &Path, kernel: &Kernel) -> Result<()> {
    let same_series = format!("linux-image-{}.", kernel.series);
    for entry in std::fs::read_dir(kernels).doing("list", kernels)?.flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with(&same_series) && *name != kernel.package {
            std::fs::remove_dir_all(entry.path()).doing("remove", &entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{loading_order, module_name, newest, payload};

    #[test]
    fn the_newest_package_is_found_by_number_not_by_letter() {
        let listed = "linux-image-6.1.0-9-amd64 - Linux 6.1\n\
                      linux-image-6.1.0-56-amd64-unsigned - Linux 6.1\n\
                      linux-image-6.1.0-56-amd64 - Linux 6.1 (signed)\n\
                      linux-image-6.1.0-47-amd64 - Linux 6.1\n";
        assert_eq!(
            newest(listed).as_deref(),
            Some("linux-image-6.1.0-56-amd64")
        );
        let only_unsigned = "linux-image-6.12.9+deb12-amd64-unsigned - x\n\
                             linux-image-6.12.117+deb12-amd64-unsigned - x\n";
        assert_eq!(
            newest(only_unsigned).as_deref(),
            Some("linux-image-6.12.117+deb12-amd64-unsigned")
        );
        assert_eq!(newest(""), None);
    }

    #[test]
    fn a_module_is_loaded_after_what_it_depends_on_and_once() {
        let dep = "kernel/drivers/virtio/virtio_pci.ko: kernel/drivers/virtio/virtio.ko\n\
                   kernel/drivers/block/virtio_blk.ko: kernel/drivers/virtio/virtio.ko\n\
                   kernel/fs/ext4/ext4.ko.xz: kernel/fs/mbcache.ko.xz kernel/lib/crc16.ko.xz\n\
                   kernel/drivers/char/virtio_console.ko:\n\
                   kernel/fs/9p/9p.ko: kernel/net/9p/9pnet.ko\n\
                   kernel/net/9p/9pnet_virtio.ko: kernel/net/9p/9pnet.ko\n";
        let order = loading_order(dep, "kernel/crypto/crc32c_generic.ko\n").expect("an order");
        let names: Vec<String> = order.iter().map(|path| module_name(path)).collect();
        assert_eq!(
            names,
            [
                "virtio",
                "virtio_pci",
                "virtio_blk",
                "crc16",
                "mbcache",
                "ext4",
                "virtio_console",
                "9pnet",
                "9p",
                "9pnet_virtio"
            ]
        );
        assert_eq!(loading_order("", ""), Err("virtio_pci".to_owned()));
    }

    #[test]
    fn the_payload_of_a_kernel_is_where_its_setup_header_says() {
        let mut image = vec![0u8; 2048];
        image[0x1f1] = 1;
        image[0x248..0x24c].copy_from_slice(&16u32.to_le_bytes());
        image[0x24c..0x250].copy_from_slice(&12u32.to_le_bytes());
        image[1040..1048].copy_from_slice(b"a kernel");
        assert_eq!(payload(&image), Some(&b"a kernel"[..]));
        assert_eq!(payload(&image[..1044]), None);
        assert_eq!(payload(b"MZ"), None);
    }
}

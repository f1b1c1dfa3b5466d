// SPDX-License-Identifier: Apache-2.0
//! The headers of a guest's kernel, for modules: the packages that belong to it,
//! fetched and unpacked beside it, so that nothing is installed and each kernel has its own.

use std::path::{Path, PathBuf};

use crate::command::{run_tool, tool};
use crate::error::{Doing as _, Error};
use crate::{Kernel, Layout, Result};

/// Counted up when this file makes something else of the same packages.
const FORMAT: &str = "1";

/// What a module is built with.
#[derive(Debug, Clone)]
pub struct Headers {
    /// The kernel's name for itself, `uname -r`.
    pub release: String,
    /// What kbuild takes as `-C`.
    pub build: PathBuf,
    /// The kernel as ELF, which has its BTF.
    pub vmlinux: PathBuf,
    /// The kernel's program of this name; the headers of 6.1 have none.
    pub resolve_btfids: Option<PathBuf>,
}

/// Returns the headers of `kernel`, fetched now if they were not before.
pub(crate) fn prepare(layout: &Layout, kernel: &Kernel) -> Result<Headers> {
    let directory = layout.kernels().join(&kernel.package).join("headers");
    let stamp = directory.join("stamp");
    if !std::fs::read_to_string(&stamp).is_ok_and(|of| of == FORMAT) {
        eprintln!("[{}] fetching the kernel's headers", kernel.series);
        make(kernel, &directory)?;
        std::fs::write(&stamp, FORMAT).doing("write", &stamp)?;
    }
    let release = release(&kernel.package).to_owned();
    let sources = directory.join("tree/usr/src");
    let programs = directory.join("tree/usr/lib");
    Ok(Headers {
        build: sources.join(format!("linux-headers-{release}")),
        vmlinux: kernel.image(),
        resolve_btfids: resolver_below(&programs)?,
        release,
    })
}

/// "linux-image-6.1.0-9-amd64-unsigned" holds the kernel 6.1.0-9-amd64.
fn release(package: &str) -> &str {
    let name = package.strip_prefix("linux-image-").unwrap_or(package);
    name.strip_suffix("-unsigned").unwrap_or(name)
}

fn make(kernel: &Kernel, directory: &Path) -> Result<()> {
    if directory.exists() {
        std::fs::remove_dir_all(directory).doing("remove", directory)?;
    }
    std::fs::create_dir_all(directory).doing("make the directory", directory)?;
    let version = run_tool(
        "Asking for the version of the kernel package",
        tool("dpkg-deb")?
            .arg("-f")
            .arg(kernel.archive()?)
            .arg("Version"),
    )?;
    let wanted = format!("linux-headers-{}", release(&kernel.package));
    let headers = fetch(&format!("{wanted}={}", version.trim()), directory)?;
    let depends = run_tool(
        "Asking what the kernel's headers depend on",
        tool("dpkg-deb")?.arg("-f").arg(&headers).arg("Depends"),
    )?;
    let tree = directory.join("tree");
    unpack(&headers, &tree)?;
    for package in parts(&depends) {
        unpack(&fetch(&package, directory)?, &tree)?;
    }
    relocate(&tree, release(&kernel.package))
}

/// Of what the headers depend on, the parts of their tree, as apt-get takes them:
/// "name" or "name=version".
fn parts(depends: &str) -> Vec<String> {
    depends
        .split(',')
        .map(str::trim)
        .filter(|one| one.starts_with("linux-headers-") || one.starts_with("linux-kbuild-"))
        .map(|one| match one.split_once(" (= ") {
            Some((name, version)) => format!("{name}={}", version.trim_end_matches(')')),
            None => one.split(' ').next().unwrap_or(one).to_owned(),
        })
        .collect()
}

fn fetch(package: &str, directory: &Path) -> Result<PathBuf> {
    let scratch = tempfile::tempdir_in(directory).doing("make a directory in", directory)?;
    run_tool(
        "Fetching a package of the kernel's headers (`cargo xtask vm build --refresh` looks for a newer kernel)",
        tool("apt-get")?
            .args(["-q", "-o", "APT::Sandbox::User=root", "download", package])
            .current_dir(scratch.path()),
    )?;
    let fetched = std::fs::read_dir(scratch.path())
        .doing("list", scratch.path())?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .next()
        .ok_or_else(|| Error::Unexpected {
            what: format!("apt-get download left nothing of {package}"),
            within: directory.to_owned(),
        })?;
    let kept = directory.join(fetched.file_name().unwrap_or_default());
    std::fs::rename(&fetched, &kept).doing("rename", &fetched)?;
    Ok(kept)
}

fn unpack(package: &Path, tree: &Path) -> Result<()> {
    run_tool(
        "Unpacking a package of the kernel's headers",
        tool("dpkg")?.arg("-x").arg(package).arg(tree),
    )
    .map(drop)
}

/// The headers' Makefile is one line that includes that of the common headers by
/// the place where they would be installed.
fn relocate(tree: &Path, release: &str) -> Result<()> {
    let path = tree.join(format!("usr/src/linux-headers-{release}/Makefile"));
    let text = std::fs::read_to_string(&path).doing("read", &path)?;
    let here = text.replace(
        "include /usr/src/",
        &format!("include {}/usr/src/", tree.display()),
    );
    if here == text {
        return Err(Error::Unexpected {
            what: "The headers' Makefile includes nothing below /usr/src".to_owned(),
            within: path,
        });
    }
    std::fs::write(&path, here).doing("write", &path)
}

/// `linux-kbuild-*/tools/bpf/resolve_btfids/resolve_btfids`, if it is there.
fn resolver_below(programs: &Path) -> Result<Option<PathBuf>> {
    Ok(std::fs::read_dir(programs)
        .doing("list", programs)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .map(|kbuild| kbuild.join("tools/bpf/resolve_btfids/resolve_btfids"))
        .find(|program| program.exists()))
}

#[cfg(test)]
mod tests {
    use super::{parts, release};

    #[test]
    fn the_release_is_in_the_packages_name() {
        assert_eq!(release("linux-image-6.1.0-9-amd64"), "6.1.0-9-amd64");
        assert_eq!(
            release("linux-image-6.12.9+deb12-amd64-unsigned"),
            "6.12.9+deb12-amd64"
        );
    }

    #[test]
    fn only_parts_of_the_tree_are_fetched_in_the_version_asked_for() {
        let depends = "linux-base (>= 4.12~), linux-headers-6.1.0-9-common (= 6.1.9-2), \
                       linux-image-6.1.0-9-amd64 (= 6.1.9-2) | linux-image-6.1.0-9-amd64-unsigned (= 6.1.9-2), \
                       linux-kbuild-6.1 (>= 6.1.9-2), gcc-12";
        assert_eq!(
            parts(depends),
            ["linux-headers-6.1.0-9-common=6.1.9-2", "linux-kbuild-6.1"]
        );
    }
}

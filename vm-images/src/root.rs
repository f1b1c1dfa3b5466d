// SPDX-License-Identifier: Apache-2.0
//! The root disk: Debian packages by mmdebstrap, set up by `recipe/customize.sh`
//! on the host and by `recipe/provision.sh` in a guest of its own, whose podman
//! takes the container images. Kept until its recipe changes.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sha2::{Digest as _, Sha256};

use crate::command::{as_root, is_root, run_tool, tool};
use crate::disk::{self, Use};
use crate::error::{Doing as _, Error};
use crate::kernel::{Kernel, update_package_lists};
use crate::machine::{Run, Staged};
use crate::runner::{self, RootDisk};
use crate::{Layout, Result, Verdict};

const PACKAGES: &str = include_str!("../recipe/packages.txt");
const CUSTOMIZE: &str = include_str!("../recipe/customize.sh");
const PROVISION: &str = include_str!("../recipe/provision.sh");
const RELEASE: &str = "bookworm";
/// Counted up when this file makes something else of the same recipe.
const FORMAT: &str = "1";
/// Room for what scenarios and containers write, in bytes.
const FREE: u64 = 3 << 30;

/// The root as far as it is made.
#[derive(Debug)]
pub(crate) struct Root {
    /// A static busybox, for initramfs images.
    pub(crate) busybox: PathBuf,
    /// Whether the container images are in; else [`provision`] must be called.
    pub(crate) provisioned: bool,
}

/// The finished root disk.
pub(crate) fn image(layout: &Layout) -> PathBuf {
    directory(layout).join("root.img")
}

/// The root disk before the container images are in.
fn raw_image(layout: &Layout) -> PathBuf {
    directory(layout).join("root.new")
}

fn directory(layout: &Layout) -> PathBuf {
    layout.roots().join(recipe_key())
}

/// Names the recipe: any change to it makes another root. Which mirror the
/// packages come from, and which day, does not count.
fn recipe_key() -> String {
    let mut digest = Sha256::new();
    let packages = packages().join(" ");
    for part in [FORMAT, RELEASE, &packages, CUSTOMIZE, PROVISION] {
        digest.update(part);
        digest.update([0]);
    }
    hex::encode(&digest.finalize()[..8])
}

fn packages() -> Vec<&'static str> {
    PACKAGES
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .collect()
}

/// Returns the root of this recipe, made now if it was not before.
pub(crate) fn prepare(layout: &Layout) -> Result<Root> {
    let dir = directory(layout);
    let busybox = dir.join("busybox");
    if image(layout).exists() {
        return Ok(Root {
            busybox,
            provisioned: true,
        });
    }
    eprintln!(
        "Making the guests' root from {} packages (about a minute)",
        packages().len()
    );
    std::fs::create_dir_all(&dir).doing("make the directory", &dir)?;
    let tree = dir.join("tree");
    remove_tree(&tree)?;
    let made = bootstrap(&dir, &tree).and_then(|()| {
        let from = tree.join("usr/bin/busybox");
        std::fs::copy(&from, &busybox).doing("copy", &from)?;
        disk::make(&tree, &raw_image(layout), "root", Use::Root { free: FREE })
    });
    remove_tree(&tree)?;
    made?;
    own(&raw_image(layout))?;
    Ok(Root {
        busybox,
        provisioned: false,
    })
}

/// Installs the packages under `tree` and lets the recipe set it up.
fn bootstrap(dir: &Path, tree: &Path) -> Result<()> {
    tool("mmdebstrap")?;
    let customize = dir.join("customize.sh");
    std::fs::write(&customize, CUSTOMIZE).doing("write", &customize)?;
    std::fs::set_permissions(&customize, Permissions::from_mode(0o755))
        .doing("make executable", &customize)?;
    run_tool(
        "Making the guests' root",
        // In namespaces of its own: stopped half way, neither its children nor
        // what it mounted below the tree outlive it.
        as_root("unshare")?
            .args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc"])
            .arg("mmdebstrap")
            .args([
                "--quiet",
                "--mode=root",
                "--variant=minbase",
                "--architectures=amd64",
            ])
            .arg(format!("--include={}", packages().join(",")))
            .arg(format!("--customize-hook={}", customize.display()))
            .arg(RELEASE)
            .arg(tree)
            .args(sources()?),
    )
    .map(drop)
}

/// The lines of a sources.list for the guest: where this machine's own apt gets
/// Debian 12 from.
fn sources() -> Result<Vec<String>> {
    let mut sources = configured_sources()?;
    if sources.is_empty() {
        update_package_lists()?;
        sources = configured_sources()?;
    }
    if sources.is_empty() {
        return Err(Error::NoSource);
    }
    Ok(sources)
}

fn configured_sources() -> Result<Vec<String>> {
    let targets = run_tool(
        "Asking apt for its sources",
        tool("apt-get")?.args([
            "indextargets",
            "--format",
            "$(CREATED_BY)|$(ORIGIN)|$(COMPONENT)|$(RELEASE)|$(REPO_URI)",
        ]),
    )?;
    Ok(debian_sources(&targets))
}

fn debian_sources(targets: &str) -> Vec<String> {
    let mut sources: Vec<String> = targets
        .lines()
        .filter_map(|line| line.strip_prefix("Packages|Debian|main|")?.split_once('|'))
        .filter(|(release, _)| {
            ["", "-updates", "-security"]
                .iter()
                .any(|pocket| *release == format!("{RELEASE}{pocket}"))
        })
        .map(|(release, uri)| format!("deb {uri} {release} main"))
        .collect();
    sources.dedup();
    sources
}

fn remove_tree(tree: &Path) -> Result<()> {
    if !tree.exists() {
        return Ok(());
    }
    run_tool(
        "Removing the tree that the root disk was made from",
        as_root("rm")?.args(["-rf", "--one-file-system"]).arg(tree),
    )
    .map(drop)
}

/// Gives a file that sudo made to the user who asked for it.
fn own(path: &Path) -> Result<()> {
    if is_root() {
        return Ok(());
    }
    use std::os::unix::fs::MetadataExt as _;
    let us = std::fs::metadata("/proc/self").doing("look at", Path::new("/proc/self"))?;
    run_tool(
        "Taking over the root disk",
        as_root("chown")?
            .arg(format!("{}:{}", us.uid(), us.gid()))
            .arg(path),
    )
    .map(drop)
}

/// Boots a guest that writes to the root disk and puts the container images in.
pub(crate) fn provision(layout: &Layout, kernel: &Kernel) -> Result<()> {
    eprintln!("Putting the container images into the guests' root");
    let dir = directory(layout);
    let script = dir.join("provision.sh");
    std::fs::write(&script, PROVISION).doing("write", &script)?;
    let raw = raw_image(layout);
    let run = Run {
        staged: vec![Staged::new(script, "provision.sh")],
        time_limit: Duration::from_secs(600),
        ..Run::new(
            kernel.series,
            "provision",
            ["/bin/sh", "/cima/provision.sh"],
        )
    };
    let disk = RootDisk {
        image: &raw,
        persist: true,
    };
    let mut log = Vec::new();
    let outcome = runner::run_on(disk, layout, kernel, &run, &mut log)?;
    if outcome.verdict != Verdict::Passed {
        return Err(Error::NotProvisioned {
            verdict: outcome.verdict.to_string(),
            output: format!("{}{}", String::from_utf8_lossy(&log), outcome.evidence),
        });
    }
    run_tool(
        "Checking the root disk",
        tool("e2fsck")?.args(["-f", "-p"]).arg(&raw),
    )?;
    let done = image(layout);
    std::fs::rename(&raw, &done).doing("rename", &raw)?;
    forget_older(layout)
}

/// Removes the roots of other recipes.
fn forget_older(layout: &Layout) -> Result<()> {
    let roots = layout.roots();
    for entry in std::fs::read_dir(&roots).doing("list", &roots)?.flatten() {
        if entry.path() != directory(layout) {
            std::fs::remove_dir_all(entry.path()).doing("remove", &entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::debian_sources;

    #[test]
    fn the_root_comes_from_debian_alone() {
        let targets = "Packages|Debian|main|bookworm|http://mirror.example/debian/\n\
                       Packages|Debian|main|bookworm|http://mirror.example/debian/\n\
                       Packages|Debian|contrib|bookworm|http://mirror.example/debian/\n\
                       Packages|Debian|main|bookworm-security|http://mirror.example/security/\n\
                       Packages|Debian|main|bookworm-backports|http://mirror.example/debian/\n\
                       Packages|Elsewhere|main|bookworm|http://third.example/\n\
                       Translations|Debian|main|bookworm|http://mirror.example/debian/\n";
        assert_eq!(
            debian_sources(targets),
            [
                "deb http://mirror.example/debian/ bookworm main",
                "deb http://mirror.example/security/ bookworm-security main"
            ]
        );
    }
}

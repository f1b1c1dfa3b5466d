// SPDX-License-Identifier: Apache-2.0
//! The guest machines of cima: Debian's kernels with a Debian root under QEMU
//! and a software TPM, in which a command runs as on a real node.
//!
//! Owns the recipe (`recipe/`), everything under `target/vm`, and the processes
//! of a run. Knows nothing of cima's own programs: a [`Run`] says which host
//! files to stage and which command to start. Called by `cargo xtask`.

mod command;
mod console;
mod disk;
mod error;
mod headers;
mod initramfs;
mod interrupt;
mod kernel;
mod layout;
mod machine;
mod root;
mod runner;
mod tpm;

pub use command::{as_root, is_root, run_tool};
pub use console::Trouble;
pub use error::Error;
pub use headers::Headers;
pub use interrupt::{check_interrupt, request_interrupt};
pub use kernel::{Kernel, Series};
pub use layout::Layout;
pub use machine::{Clock, DEFAULT_LSM, Run, Staged, Tpm};
pub use runner::{Outcome, Verdict};

/// The result of everything here that can fail for a reason outside the guest.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The Debian packages that a host needs to build and run guests, with the
/// program each is wanted for.
pub const HOST_PACKAGES: &[(&str, &str)] = &[
    ("qemu-system-x86", "runs the guests"),
    ("swtpm", "is the guests' TPM"),
    ("swtpm-tools", "makes a fresh TPM for each run"),
    ("mmdebstrap", "makes the guests' root"),
    ("e2fsprogs", "makes the guests' disks"),
    ("kmod", "finds what a kernel's modules depend on"),
    ("xz-utils", "unpacks kernels and modules"),
    ("zstd", "unpacks kernels"),
];

/// Guests built under one target directory.
#[derive(Debug)]
pub struct Guests {
    layout: Layout,
}

impl Guests {
    /// Guests whose files live under `target`/vm. Does nothing yet: a kernel or
    /// the root is built when something first asks for it.
    #[must_use]
    pub fn new(target: &std::path::Path) -> Self {
        Self {
            layout: Layout::new(target),
        }
    }

    /// Where the files of these guests lie.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Makes whatever lacks for `series`: the kernel, its modules disk and the
    /// root. With `refresh`, asks the archive for a newer kernel.
    ///
    /// # Errors
    /// When the archive has no such kernel, or a tool is missing or fails.
    pub fn prepare(&self, series: Series, refresh: bool) -> Result<Kernel> {
        let _lock = self.layout.lock()?;
        let root = root::prepare(&self.layout)?;
        let kernel = kernel::prepare(&self.layout, series, refresh, &root.busybox)?;
        if !root.provisioned {
            // Any kernel would do; the newest is the quickest to boot.
            let kernel = kernel::prepare(&self.layout, Series::V6_12, false, &root.busybox)?;
            root::provision(&self.layout, &kernel)?;
        }
        Ok(kernel)
    }

    /// The headers of the kernel that guests of `series` boot, fetched if they lack.
    ///
    /// # Errors
    /// When the archive has no such kernel, or no headers of it any more.
    pub fn headers(&self, series: Series) -> Result<Headers> {
        let kernel = self.prepare(series, false)?;
        let _lock = self.layout.lock()?;
        headers::prepare(&self.layout, &kernel)
    }

    /// Boots a guest, runs the command of `run` in it, copies its output to
    /// `output` as it comes, and says how it ended.
    ///
    /// # Errors
    /// When the guest could not be built or started. What goes wrong inside the
    /// guest is not an error but the [`Outcome`]'s verdict.
    pub fn run(&self, run: &Run, output: &mut dyn std::io::Write) -> Result<Outcome> {
        let kernel = self.prepare(run.series, false)?;
        runner::run(&self.layout, &kernel, run, output)
    }

    /// Boots a guest whose command talks to this terminal, and waits for its end.
    ///
    /// # Errors
    /// When the guest could not be built or started.
    pub fn shell(&self, run: &Run) -> Result<Outcome> {
        let kernel = self.prepare(run.series, false)?;
        runner::shell(&self.layout, &kernel, run)
    }
}

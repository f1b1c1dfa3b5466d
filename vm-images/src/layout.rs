// SPDX-License-Identifier: Apache-2.0
//! Where everything lies under `target/vm`:
//!
//! ```text
//! lock                       held while something is being built
//! root/KEY/root.img          the root disk, KEY = digest of its recipe
//! root/KEY/busybox           the static shell that the initramfs takes
//! kernels/SERIES             name of the package that a series stands for
//! kernels/PACKAGE/…          kernel, modules disk, initramfs of that package
//! kernels/PACKAGE/headers/   its headers, for modules
//! runs/SERIES-LABEL/…        console.log, scenario.log and out/ of a run
//! ```

use std::fs::File;
use std::path::{Path, PathBuf};

use crate::error::Doing as _;
use crate::{Result, Series};

/// Paths under `target/vm`.
#[derive(Debug, Clone)]
pub struct Layout {
    base: PathBuf,
}

impl Layout {
    pub(crate) fn new(target: &Path) -> Self {
        Self {
            base: target.join("vm"),
        }
    }

    /// Waits for any other build of guests here to end, and keeps others out.
    pub(crate) fn lock(&self) -> Result<File> {
        std::fs::create_dir_all(&self.base).doing("make the directory", &self.base)?;
        let path = self.base.join("lock");
        let file = File::create(&path).doing("make", &path)?;
        file.lock().doing("lock", &path)?;
        Ok(file)
    }

    pub(crate) fn roots(&self) -> PathBuf {
        self.base.join("root")
    }

    pub(crate) fn kernels(&self) -> PathBuf {
        self.base.join("kernels")
    }

    /// The directory that a run leaves its logs and results in.
    #[must_use]
    pub fn run_directory(&self, series: Series, label: &str) -> PathBuf {
        self.base.join("runs").join(format!("{series}-{label}"))
    }
}

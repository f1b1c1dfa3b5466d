// SPDX-License-Identifier: Apache-2.0
//! Which of an index's images is meant.

use std::fmt;
use std::str::FromStr;

/// `OS/ARCHITECTURE[/VARIANT]`, in the words of the image specification (those of Go).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Platform {
    /// `linux`.
    pub os: String,
    /// `amd64`, `arm64`, `riscv64`.
    pub architecture: String,
    /// `v7`, `v8`; none: any.
    pub variant: Option<String>,
}

/// Why a text is no platform.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{}\" is no platform: it should be OS/ARCHITECTURE or OS/ARCHITECTURE/VARIANT, as linux/arm64", .0.escape_default())]
pub struct PlatformError(String);

impl FromStr for Platform {
    type Err = PlatformError;

    fn from_str(text: &str) -> Result<Self, PlatformError> {
        let parts: Vec<_> = text.split('/').collect();
        let (os, architecture, variant) = match parts[..] {
            [os, architecture] => (os, architecture, None),
            [os, architecture, variant] => (os, architecture, Some(variant)),
            _ => return Err(PlatformError(text.to_owned())),
        };
        if parts.contains(&"") {
            return Err(PlatformError(text.to_owned()));
        }
        Ok(Self {
            os: os.to_owned(),
            architecture: architecture.to_owned(),
            variant: variant.map(str::to_owned),
        })
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) => write!(f, "/{variant}"),
            None => Ok(()),
        }
    }
}

/// That of this host.
impl Default for Platform {
    fn default() -> Self {
        // Rust's names, and Go's where they differ.
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "x86" => "386",
            "aarch64" => "arm64",
            "powerpc64" if cfg!(target_endian = "little") => "ppc64le",
            "powerpc64" => "ppc64",
            "loongarch64" => "loong64",
            same => same,
        };
        Self {
            os: std::env::consts::OS.to_owned(),
            architecture: architecture.to_owned(),
            variant: None,
        }
    }
}

impl Platform {
    /// Whether an image for `other` is meant by this.
    pub(crate) fn takes(&self, other: &oci_spec::image::Platform) -> bool {
        let same_variant = match (&self.variant, other.variant()) {
            (None, _) => true,
            (Some(wanted), found) => found.as_ref() == Some(wanted),
        };
        other.os().to_string() == self.os
            && other.architecture().to_string() == self.architecture
            && same_variant
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_platform_is_two_or_three_words() {
        for text in ["linux/amd64", "linux/arm/v7"] {
            assert_eq!(
                text.parse::<Platform>().map(|p| p.to_string()),
                Ok(text.into())
            );
        }
        for text in ["linux", "linux/", "/amd64", "linux/arm/v7/x", ""] {
            assert!(text.parse::<Platform>().is_err(), "{text}");
        }
    }
}

// SPDX-License-Identifier: Apache-2.0
//! Template names and the fields they stand for.
//!
//! Mirrors `builtin_templates[]` and `supported_fields[]` (`security/integrity/ima/ima_template.c`,
//! Linux 6.12). A custom `ima_template_fmt=` appears in the list under its format string, such
//! as `d-ng|n-ng|sig`: known fields make a known template. Any other name is kept and replayed.

use std::borrow::Cow;
use std::fmt;

/// The template of an entry, as named in the list.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Template {
    /// `ima`: `d|n`, the original. Its record carries no data length, its hash pads the name.
    Ima,
    /// `ima-ng`: `d-ng|n-ng`.
    ImaNg,
    /// `ima-sig`: `d-ng|n-ng|sig`.
    ImaSig,
    /// `ima-buf`: `d-ng|n-ng|buf`.
    ImaBuf,
    /// Any other name: a built-in of newer kernels, a format string, or unknown.
    /// Make it with [`Template::from_name`], which never puts one of the four above here.
    Other(String),
}

/// What one field of a template holds. The variants' docs give the kernel's field id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FieldKind {
    /// `d`: a bare digest, SHA-1 or MD5.
    Digest,
    /// `n`: event name, at most 255 bytes.
    Name,
    /// `d-ng`: `<algorithm>:\0<digest>`.
    DigestNg,
    /// `d-ngv2`: `<ima|verity>:<algorithm>:\0<digest>`.
    DigestNgV2,
    /// `n-ng`: event name and a NUL.
    NameNg,
    /// `sig`: `security.ima` signature, or EVM portable signature; may be empty.
    Signature,
    /// `buf`: the measured buffer.
    Buffer,
    /// `d-modsig`: as `d-ng`, of the file without its appended signature; may be empty.
    ModsigDigest,
    /// `modsig`: appended signature; may be empty.
    Modsig,
    /// `evmsig`: EVM portable signature; may be empty.
    EvmSignature,
    /// `xattrnames`: names joined by `|`, and a NUL.
    XattrNames,
    /// `xattrlengths`: lengths, one `u32` each.
    XattrLengths,
    /// `xattrvalues`: values, one after the other.
    XattrValues,
    /// `iuid`: `u32` owner.
    InodeUid,
    /// `igid`: `u32` group.
    InodeGid,
    /// `imode`: `u16` mode.
    InodeMode,
}

/// How the bytes of a field are laid out (`enum data_formats` in `ima_template_lib.c`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DataFormat {
    Hex,
    DigestWithAlgorithm,
    String,
    U16,
    U32,
}

impl FieldKind {
    const ALL: [Self; 16] = [
        Self::Digest,
        Self::Name,
        Self::DigestNg,
        Self::DigestNgV2,
        Self::NameNg,
        Self::Signature,
        Self::Buffer,
        Self::ModsigDigest,
        Self::Modsig,
        Self::EvmSignature,
        Self::XattrNames,
        Self::XattrLengths,
        Self::XattrValues,
        Self::InodeUid,
        Self::InodeGid,
        Self::InodeMode,
    ];

    /// The kernel's field id, as in `ima_template_fmt=`.
    #[must_use]
    pub const fn id(self) -> &'static str {
        match self {
            Self::Digest => "d",
            Self::Name => "n",
            Self::DigestNg => "d-ng",
            Self::DigestNgV2 => "d-ngv2",
            Self::NameNg => "n-ng",
            Self::Signature => "sig",
            Self::Buffer => "buf",
            Self::ModsigDigest => "d-modsig",
            Self::Modsig => "modsig",
            Self::EvmSignature => "evmsig",
            Self::XattrNames => "xattrnames",
            Self::XattrLengths => "xattrlengths",
            Self::XattrValues => "xattrvalues",
            Self::InodeUid => "iuid",
            Self::InodeGid => "igid",
            Self::InodeMode => "imode",
        }
    }

    /// The field of this kernel id.
    #[must_use]
    pub fn from_id(id: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|k| k.id() == id)
    }

    pub(crate) const fn data_format(self) -> DataFormat {
        match self {
            Self::DigestNg | Self::DigestNgV2 | Self::ModsigDigest => {
                DataFormat::DigestWithAlgorithm
            }
            Self::Name | Self::NameNg | Self::XattrNames => DataFormat::String,
            Self::InodeUid | Self::InodeGid => DataFormat::U32,
            Self::InodeMode => DataFormat::U16,
            Self::Digest
            | Self::Signature
            | Self::Buffer
            | Self::Modsig
            | Self::EvmSignature
            | Self::XattrLengths
            | Self::XattrValues => DataFormat::Hex,
        }
    }
}

impl Template {
    /// The template of this name. Never fails: an unknown name is kept.
    #[must_use]
    pub fn from_name(name: &str) -> Self {
        match name {
            "ima" => Self::Ima,
            "ima-ng" => Self::ImaNg,
            "ima-sig" => Self::ImaSig,
            "ima-buf" => Self::ImaBuf,
            other => Self::Other(other.to_owned()),
        }
    }

    /// The name, as in the list.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Ima => "ima",
            Self::ImaNg => "ima-ng",
            Self::ImaSig => "ima-sig",
            Self::ImaBuf => "ima-buf",
            Self::Other(name) => name,
        }
    }

    /// The fields of an entry of this template, or `None` if the template is unknown.
    #[must_use]
    pub fn format(&self) -> Option<Cow<'static, [FieldKind]>> {
        use FieldKind as F;
        Some(Cow::Borrowed(match self {
            Self::Ima => &[F::Digest, F::Name],
            Self::ImaNg => &[F::DigestNg, F::NameNg],
            Self::ImaSig => &[F::DigestNg, F::NameNg, F::Signature],
            Self::ImaBuf => &[F::DigestNg, F::NameNg, F::Buffer],
            Self::Other(name) => match name.as_str() {
                "ima-ngv2" => &[F::DigestNgV2, F::NameNg],
                "ima-sigv2" => &[F::DigestNgV2, F::NameNg, F::Signature],
                "ima-modsig" => &[
                    F::DigestNg,
                    F::NameNg,
                    F::Signature,
                    F::ModsigDigest,
                    F::Modsig,
                ],
                "evm-sig" => &[
                    F::DigestNg,
                    F::NameNg,
                    F::EvmSignature,
                    F::XattrNames,
                    F::XattrLengths,
                    F::XattrValues,
                    F::InodeUid,
                    F::InodeGid,
                    F::InodeMode,
                ],
                format => {
                    return format
                        .split('|')
                        .map(F::from_id)
                        .collect::<Option<_>>()
                        .map(Cow::Owned);
                }
            },
        }))
    }

    /// Whether the binary record carries a `u32` length before the template data.
    /// All do but the original (`ima_measurements_show`, `ima_fs.c`).
    pub(crate) fn has_data_len(&self) -> bool {
        self.name() != "ima"
    }
}

/// The name, as in the list.
impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

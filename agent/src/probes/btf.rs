// SPDX-License-Identifier: Apache-2.0
//! Where the running kernel keeps the fields that the probes read: each row of
//! `cima_abi::offsets` resolved in `/sys/kernel/btf/vmlinux`. A row without an
//! answer stops the agent: a probe never reads from a guessed place.

use std::collections::BTreeMap;

use cima_abi::offsets::{ARG_SETATTR, Offset, SIZE_INODE, SIZE_UPID, TABLE};
use libbpf_rs::btf::{
    Btf, HasSize as _,
    types::{Composite, Func, FuncProto, MemberAttr, Struct},
};

/// The kernel's types, as a file (Linux ≥ 5.4 with `CONFIG_DEBUG_INFO_BTF`).
pub const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

/// Why the kernel's structures could not be read.
#[derive(Debug, thiserror::Error)]
pub enum BtfError {
    /// No usable BTF.
    #[error(
        "the kernel's type information at {VMLINUX} cannot be read: {0}; cima needs a kernel built with CONFIG_DEBUG_INFO_BTF"
    )]
    Unreadable(#[source] libbpf_rs::Error),
    /// Measurements would be skipped without a trace.
    #[error(
        "this kernel skips a sleepable LSM program while another task sleeps in it (it lacks the change \"bpf: Remove prog->active check for bpf_lsm and bpf_iter\"): executions would go unmeasured; update the kernel"
    )]
    SkipsPrograms,
    /// A field that this version of the probes does not know how to find.
    #[error(
        "this kernel has no {wanted} in its type information, so the probes cannot read it; this kernel is not supported yet"
    )]
    Missing {
        /// The alternatives that were looked for.
        wanted: String,
    },
}

/// Before `bpf: Remove prog->active check for bpf_lsm and bpf_iter` (6.2, in the stable
/// 6.1 series), the kernel skips an LSM program while another task sleeps in it on the
/// same CPU. The change renamed the guard; where its new name exists, LSM programs are free of it.
const UNGUARDED: &str = "__bpf_prog_enter_sleepable_recur";

/// Values for the probes' read-only globals.
#[derive(Debug)]
pub struct Offsets(BTreeMap<&'static str, u64>);

impl Offsets {
    /// Resolves every row in the running kernel's BTF.
    ///
    /// # Errors
    /// No BTF, or a field that this kernel does not have.
    pub fn from_running_kernel() -> Result<Self, BtfError> {
        let btf = Btf::from_path(VMLINUX).map_err(BtfError::Unreadable)?;
        if btf.type_by_name::<Func<'_>>(UNGUARDED).is_none() {
            return Err(BtfError::SkipsPrograms);
        }
        Self::resolve(&btf, TABLE)
    }

    fn resolve(btf: &Btf<'_>, table: &'static [Offset]) -> Result<Self, BtfError> {
        let mut offsets = BTreeMap::new();
        for row in table {
            let offset = row
                .alternatives
                .iter()
                .find_map(|(name, path)| field(btf, name, path))
                .ok_or_else(|| BtfError::Missing {
                    wanted: row_name(row),
                })?;
            offsets.insert(row.global, offset);
        }
        offsets.insert(SIZE_UPID, size(btf, "upid")?);
        offsets.insert(SIZE_INODE, size(btf, "inode")?);
        offsets.insert(ARG_SETATTR, dentry_of_setattr(btf)?);
        Ok(Self(offsets))
    }

    /// Each global's name and value.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &u64)> {
        self.0.iter().map(|(name, value)| (*name, value))
    }
}

/// Bytes of a structure.
fn size(btf: &Btf<'_>, name: &str) -> Result<u64, BtfError> {
    let found: Option<Struct<'_>> = btf.type_by_name(name);
    let found = found.ok_or_else(|| BtfError::Missing {
        wanted: format!("struct {name}"),
    })?;
    Ok(found.size() as u64)
}

/// Position of the dentry among the arguments of `inode_setattr`, which are it and the
/// attributes, with an idmap in front since Linux 6.8.
fn dentry_of_setattr(btf: &Btf<'_>) -> Result<u64, BtfError> {
    const HOOK: &str = "bpf_lsm_inode_setattr";
    let arguments = btf
        .type_by_name::<Func<'_>>(HOOK)
        .and_then(|hook| hook.next_type())
        .and_then(|ty| FuncProto::try_from(ty).ok())
        .map(|prototype| prototype.len());
    match arguments {
        Some(2) => Ok(0),
        Some(3) => Ok(1),
        _ => Err(BtfError::Missing {
            wanted: format!("{HOOK} with two or three arguments"),
        }),
    }
}

fn row_name(row: &Offset) -> String {
    let names: Vec<_> = row
        .alternatives
        .iter()
        .map(|(s, f)| format!("{s}.{f}"))
        .collect();
    names.join(" or ")
}

/// Offset in bytes of `path` (fields of embedded structs, dot-separated) in struct `name`.
fn field(btf: &Btf<'_>, name: &str, path: &str) -> Option<u64> {
    let root: Struct<'_> = btf.type_by_name(name)?;
    let mut composite = Composite::from(root);
    let mut bits = 0;
    let mut steps = path.split('.').peekable();
    while let Some(step) = steps.next() {
        let (offset, next) = member(btf, &composite, step)?;
        bits += offset;
        if steps.peek().is_some() {
            composite = next?;
        }
    }
    (bits % 8 == 0).then_some(bits / 8)
}

/// Bit offset of a member and its type if it is a struct or union; looks through anonymous ones.
fn member<'btf>(
    btf: &'btf Btf<'_>,
    composite: &Composite<'btf>,
    wanted: &str,
) -> Option<(u64, Option<Composite<'btf>>)> {
    for index in 0..composite.len() {
        let field = composite.get(index)?;
        let MemberAttr::Normal { offset } = field.attr else {
            continue;
        };
        let inner = || {
            let ty = btf.type_by_id::<libbpf_rs::btf::BtfType<'_>>(field.ty)?;
            Composite::try_from(ty.skip_mods_and_typedefs()).ok()
        };
        match field.name {
            Some(name) if name == wanted => return Some((u64::from(offset), inner())),
            // An empty name is an anonymous member, too.
            Some(name) if !name.is_empty() => {}
            _ => {
                if let Some(found) = inner().and_then(|inner| member(btf, &inner, wanted)) {
                    return Some((u64::from(offset) + found.0, found.1));
                }
            }
        }
    }
    None
}

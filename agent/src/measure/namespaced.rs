// SPDX-License-Identifier: Apache-2.0
//! The namespaced digest: binds a file's digest to the namespaces it was mapped in.
//!
//! SHA-256 over, each with its length as u32le in front: the domain tag, the hash
//! algorithm's name, the whole file digest, the boot id (text), then the identity:
//! mount namespace inode (u32le) and generation (u64le), pid, user, uts, net, ipc and
//! cgroup namespace inodes (u32le each), cgroup id (u64le), container id (text).
//! Changing the order, a width or the tag is a format break.

use cima_abi::Ns;
use ima_log::Digest;
use sha2::{Digest as _, Sha256};

use crate::containers::Identity;

const DOMAIN: &[u8] = b"cima-namespaced-v1";

/// The namespaced digest of a file in a container, on the boot `boot_id`.
pub fn namespaced_digest(file: &Digest, identity: &Identity, boot_id: &str) -> [u8; 32] {
    let mut hash = Sha256::new();
    let mut field = |bytes: &[u8]| {
        // No field is near 4 GiB: ids and digests are short, boot id and container id are fixed.
        hash.update(u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes());
        hash.update(bytes);
    };
    field(DOMAIN);
    field(file.algorithm().name().as_bytes());
    field(file.bytes());
    field(boot_id.as_bytes());
    field(&identity.ns(Ns::Mnt).to_le_bytes());
    field(&identity.mnt_generation.to_le_bytes());
    for ns in [Ns::Pid, Ns::User, Ns::Uts, Ns::Net, Ns::Ipc, Ns::Cgroup] {
        field(&identity.ns(ns).to_le_bytes());
    }
    field(&identity.cgroup_id.to_le_bytes());
    field(identity.container_id.as_bytes());
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::containers::Provenance;
    use ima_log::HashAlgorithm;
    use proptest::prelude::*;

    const BOOT: &str = "8c2d2a94-3f0e-4a0b-9d6e-0a3f5ad0c1d2";

    fn identity() -> impl Strategy<Value = Identity> {
        (
            any::<[u32; 8]>(),
            any::<u64>(),
            any::<u64>(),
            "[0-9a-f]{64}|",
        )
            .prop_map(|(ns, mnt_generation, cgroup_id, container_id)| Identity {
                ns,
                mnt_generation,
                cgroup_id,
                cgroup: Vec::new(),
                container_id,
                container: 0,
                provenance: Provenance::Unregistered,
                volumes: Arc::from([]),
            })
    }

    #[test]
    fn the_format_has_not_changed() {
        let identity = Identity {
            ns: [1, 2, 3, 4, 5, 6, 7, 8],
            mnt_generation: 9,
            cgroup_id: 10,
            cgroup: Vec::new(),
            container_id: "c".repeat(64),
            container: 0,
            provenance: Provenance::Unregistered,
            volumes: Arc::from([]),
        };
        let digest = namespaced_digest(&HashAlgorithm::Sha256.digest(b"abc"), &identity, BOOT);
        // Computed with Python's hashlib from the description above.
        assert_eq!(
            hex::encode(digest),
            "3b52bb7e1ef725962480349556839bc42be1cc027d29ff88b1fd5216d0b6784c"
        );
    }

    proptest! {
        #[test]
        fn every_byte_of_the_file_digest_counts(file: [u8; 32], byte in 0..32usize, flip in 1..=255u8, id in identity()) {
            let digest = |bytes: &[u8]| Digest::new(HashAlgorithm::Sha256, bytes).unwrap();
            let mut changed = file;
            changed[byte] ^= flip;
            prop_assert_ne!(
                namespaced_digest(&digest(&file), &id, BOOT),
                namespaced_digest(&digest(&changed), &id, BOOT)
            );
        }

        #[test]
        fn every_part_of_the_identity_counts(file: [u8; 32], id in identity(), part in 0..11usize, flip in 1..=u32::MAX) {
            let digest = Digest::new(HashAlgorithm::Sha256, &file).unwrap();
            let mut changed = id.clone();
            let mut boot = BOOT.to_owned();
            match part {
                // All but the time namespace, which is not part of the identity.
                0..7 => changed.ns[part] ^= flip,
                7 => changed.mnt_generation ^= u64::from(flip) << 32,
                8 => changed.cgroup_id ^= u64::from(flip),
                9 => changed.container_id.push('0'),
                _ => boot.replace_range(0..1, "9"),
            }
            prop_assert_ne!(namespaced_digest(&digest, &id, BOOT), namespaced_digest(&digest, &changed, &boot));
        }

        #[test]
        fn the_algorithm_counts(file: [u8; 48], id in identity()) {
            // Same leading bytes under another algorithm: not the same statement.
            let short = Digest::new(HashAlgorithm::Sha256, &file[..32]).unwrap();
            let long = Digest::new(HashAlgorithm::Sha384, &file).unwrap();
            prop_assert_ne!(namespaced_digest(&short, &id, BOOT), namespaced_digest(&long, &id, BOOT));
        }
    }
}

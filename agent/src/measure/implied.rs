// SPDX-License-Identifier: Apache-2.0
//! The other direction: which policy events a context event of a list goes with, for who reads the list. A test
//! holds it against [`measure`](super::measure).

use super::{
    PolicyEvent, S_IFMT, S_IFREG, SelfPart, Violation, lost,
    proto::{self, context_event::What},
};
use crate::containers::Provenance;
use ima_log::{Digest, HashAlgorithm};

/// The policy events that are in a list which has this event: of a task in a container of `provenance`, at `time_ns` since
/// boot; `file` is what the event refers to. Whether an execution was a violation is not in its event: none is given.
pub fn implied(
    event: &proto::ContextEvent,
    file: &proto::File,
    time_ns: u64,
    provenance: &Provenance,
) -> Vec<PolicyEvent> {
    let of_file =
        |kind, detail: &str| vec![PolicyEvent::violation(kind, provenance, &file.path, detail)];
    match &event.what {
        Some(What::Mapping(mapping)) => vec![of_mapping(mapping, file, provenance)],
        Some(What::Breach(breach)) => match of_breach(breach) {
            Some((kind, detail)) => of_file(kind, &detail),
            None => Vec::new(),
        },
        Some(What::Refused(_)) => of_file(Violation::Unregistered, "denied"),
        Some(What::Change(change)) if change.other_root => {
            let root = PolicyEvent::violation(Violation::Root, provenance, b"/", "other");
            vec![root]
        }
        Some(What::Loss(loss)) => vec![lost(&loss.cause, loss.count, time_ns)],
        Some(What::Parts(parts)) => {
            let of_part = |part: &proto::Part| of_agent(&part.name, &part.digest);
            parts.parts.iter().map(of_part).collect()
        }
        Some(What::PolicyLoaded(loaded)) => {
            let policy = SelfPart::Policy.to_string();
            let name = match loaded.name.as_str() {
                "" => &policy,
                name => name,
            };
            vec![of_agent(
                name,
                &format!("sha256:{}", hex::encode(&loaded.sha256)),
            )]
        }
        Some(What::Created(created)) if created.allowed => {
            let image = created.image[..].try_into().ok();
            let image =
                image.map(|image| PolicyEvent::image(&image_digest::ImageDigest::new(image)));
            image.into_iter().collect()
        }
        _ => Vec::new(),
    }
}

fn of_mapping(
    mapping: &proto::Mapping,
    file: &proto::File,
    provenance: &Provenance,
) -> PolicyEvent {
    let violation =
        |kind, detail: &str| PolicyEvent::violation(kind, provenance, &file.path, detail);
    let kind = file.mode & S_IFMT;
    if kind != S_IFREG {
        return violation(Violation::Hash, &format!("type={kind:o}"));
    }
    if let Some(algorithm) = mapping.algorithm.strip_prefix("kernel:") {
        return violation(Violation::Hash, &format!("algorithm={algorithm}"));
    }
    let algorithm = HashAlgorithm::from_name(&mapping.algorithm);
    let digest = algorithm.and_then(|algorithm| Digest::new(algorithm, &mapping.digest).ok());
    let Some(digest) = digest else {
        let errno = i64::from(mapping.hash_error);
        return violation(Violation::Hash, &format!("errno={}", -errno));
    };
    if mapping.copied_up {
        violation(Violation::Writer, &format!("copied-up;{digest}"))
    } else if mapping.writer {
        violation(Violation::Writer, &format!("open;{digest}"))
    } else if file.path_unknown {
        let detail = format!("inode={};{digest}", file.inode);
        violation(Violation::Path, &detail)
    } else {
        PolicyEvent::exec(provenance, &file.path, &digest)
    }
}

/// `None`: of a kind that this version does not know.
fn of_breach(breach: &proto::Breach) -> Option<(Violation, String)> {
    use proto::breach::Kind;
    Some(match Kind::try_from(breach.kind).ok()? {
        Kind::Written => (Violation::Writer, "mapped".into()),
        Kind::Mprotect => (Violation::Mprotect, "file".into()),
        Kind::Anonymous => (Violation::Anonymous, "memory".into()),
        Kind::KernelLoad => {
            let detail = format!("id={}", breach.kernel_load_id);
            (Violation::KernelLoad, detail)
        }
    })
}

fn of_agent(part: &str, digest: &str) -> PolicyEvent {
    PolicyEvent {
        name: format!("cima-agent:{part}"),
        payload: format!("v1;{digest}"),
    }
}

#[cfg(test)]
mod tests {
    use cima_abi::{Change, flag};
    use image_digest::ImageDigest;
    use proptest::prelude::*;
    use zerocopy::FromZeros as _;

    use super::*;
    use crate::{
        containers::{Identities, Registered, Registry},
        measure::{Batch, Executed, loss, measure},
        probes::{Breach, ChangeKind, Event, Hash, Home, How, Object, Subject, What as Seen},
        shared::Shared,
        verify::BatchView,
    };

    const BOOT: &str = "8c2d2a94-3f0e-4a0b-9d6e-0a3f5ad0c1d2";
    const IMAGE: [u8; 32] = [7; 32];

    fn what() -> impl Strategy<Value = Seen> {
        let how = prop_oneof![
            Just(How::Script),
            Just(How::KernelRead { id: 2 }),
            Just(How::Mapped {
                prot: 5,
                map_flags: 2
            })
        ];
        let hash = prop_oneof![
            any::<u8>().prop_map(|of| Hash::Digest(HashAlgorithm::Sha384.digest(&[of]))),
            any::<u8>().prop_map(Hash::Unusable),
            (-200..0).prop_map(Hash::Failed),
        ];
        let breach = prop_oneof![
            Just(Breach::Written),
            Just(Breach::Mprotect { prot: 7 }),
            Just(Breach::Anonymous {
                prot: 7,
                map_flags: 1
            }),
            any::<u64>().prop_map(|id| Breach::KernelLoad { id }),
        ];
        prop_oneof![
            (how, hash).prop_map(|(how, hash)| Seen::Measured { how, hash }),
            breach.prop_map(Seen::Breach),
            Just(Seen::Denied),
            Just(Seen::Ended { status: 0 }),
            Just(Seen::Change(ChangeKind::Pivoted, Change::new_zeroed())),
        ]
    }

    prop_compose! {
        fn event()(
            what in what(),
            flags in prop::sample::subsequence(vec![flag::WRITER, flag::COPIED_UP, flag::OTHER_ROOT, flag::UNREGISTERED], 0..4),
            mode in prop::sample::select(vec![0o100_755, 0o020_666, 0]),
            path in prop::option::of(any::<Vec<u8>>()),
            container in 0..4u64,
            time_ns: u64,
            inode: u64,
        ) -> Event {
            Event {
                what, time_ns,
                tgid: 4, start_ns: 1, tid: 4, ns_tgid: 1,
                subject: Shared::new(Subject {
                    comm: Vec::new(), uid: 0, gid: 0, login_uid: None, session: None,
                    ancestors: Shared::new(Vec::new()),
                }),
                home: Shared::new(Home {
                    ns: [1; cima_abi::NS_COUNT],
                    mnt_generation: 1, cgroup_id: 2, cgroup: Vec::new(), cgroup_truncated: false, container,
                }),
                file: Shared::new(Object {
                    id: cima_abi::FileId { inode, mode, size: 1, fs_magic: 2, device: 3, generation: 4, links: 5 },
                    path, overlay: false, memfd: false,
                }),
                flags: flags.into_iter().fold(0, |all, flag| all | flag),
            }
        }
    }

    /// Container 1 has an image, 2 none that could be measured, nobody knows the others.
    fn provenance(container: u64) -> Provenance {
        match container {
            1 => Provenance::Image(ImageDigest::new(IMAGE)),
            2 => Provenance::Unmeasured,
            _ => Provenance::Unregistered,
        }
    }

    proptest! {
        #[test]
        fn what_a_batch_implies_is_what_was_measured_with_it(events in prop::collection::vec(event(), 1..9)) {
            let registry = Registry::default();
            for (number, image) in [(1, &IMAGE[..]), (2, &[])] {
                registry.insert(Registered::of(&proto::Created {
                    container: number,
                    image: image.to_vec(),
                    ..Default::default()
                }));
            }
            let mut identities = Identities::new(registry);
            let (mut batch, mut said) = (Batch::new(), Vec::new());
            for event in &events {
                let measured = measure(event, &identities.of(event), BOOT, &mut Executed::default());
                batch.push(measured.context);
                said.push(measured.policy_event);
            }
            let payload = batch.into_payload(0);
            let view = BatchView::of(&payload).unwrap();
            for (event, said) in view.events().zip(said) {
                let file = event.file.unwrap_or_default();
                let container = event.identity.unwrap().container;
                let implied = implied(&event.event.unwrap(), &file, event.time_ns, &provenance(container));
                prop_assert_eq!(implied, Vec::from_iter(said));
            }
        }
    }

    #[test]
    fn what_the_agent_says_of_itself_implies_what_it_says_to_verifiers() {
        let nobody = Provenance::Unregistered;
        let of = |what: What, time_ns| {
            let event = proto::ContextEvent {
                what: Some(what),
                ..Default::default()
            };
            implied(&event, &proto::File::default(), time_ns, &nobody)
        };
        let (event, context) = loss("map-ring-full", 3, 17, 99);
        let mut batch = Batch::new();
        batch.push(context);
        let payload = batch.into_payload(0);
        let view = BatchView::of(&payload).unwrap();
        let of_loss = view.events().next().unwrap();
        let of_loss = of(of_loss.event.unwrap().what.unwrap(), of_loss.time_ns);
        assert_eq!(of_loss, [event]);

        let digest = HashAlgorithm::Sha256.digest(b"a part");
        let part = |part: SelfPart| proto::Part {
            name: part.to_string(),
            digest: digest.to_string(),
        };
        let parts = [SelfPart::Binary, SelfPart::Probes];
        let said = parts.map(|part| PolicyEvent::agent(part, &digest));
        let parts = parts.map(part).to_vec();
        assert_eq!(of(What::Parts(proto::Parts { parts }), 0), said);
        for (name, part) in [
            ("", SelfPart::Policy),
            ("policy", SelfPart::Policy),
            ("admission", SelfPart::Admission),
        ] {
            let loaded = proto::PolicyLoaded {
                sha256: digest.bytes().to_vec(),
                name: name.into(),
            };
            let said = PolicyEvent::agent(part, &digest);
            assert_eq!(of(What::PolicyLoaded(loaded), 0), [said]);
        }
        for (allowed, image, said) in [
            (true, &IMAGE[..], true),
            (false, &IMAGE[..], false),
            (true, &[], false),
        ] {
            let created = proto::Created {
                allowed,
                image: image.to_vec(),
                ..Default::default()
            };
            let image = PolicyEvent::image(&ImageDigest::new(IMAGE));
            let expected = said.then_some(image);
            assert_eq!(of(What::Created(created), 0), Vec::from_iter(expected));
        }
    }

    #[test]
    fn an_execution_implies_nothing_since_its_event_does_not_say_whether_it_was_a_violation() {
        let command = proto::ContextEvent {
            what: Some(What::Execution(1)),
            ..Default::default()
        };
        let nobody = Provenance::Unregistered;
        assert_eq!(implied(&command, &proto::File::default(), 0, &nobody), []);
    }
}

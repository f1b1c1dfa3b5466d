// SPDX-License-Identifier: Apache-2.0
//! What a list says of registered containers, as far as policy events name it.

use std::collections::HashMap;

use image_digest::ImageDigest;

use crate::{containers::Provenance, measure::proto};

/// The containers that were made so far, by number.
#[derive(Debug, Default)]
pub(super) struct Containers(HashMap<u64, Container>);

#[derive(Debug, Clone, Copy)]
struct Container {
    image: Option<ImageDigest>,
    gone: bool,
}

impl Containers {
    pub(super) fn created(&mut self, created: &proto::Created) {
        if created.allowed {
            let image = created.image[..].try_into().ok().map(ImageDigest::new);
            let container = Container { image, gone: false };
            self.0.insert(created.container, container);
        }
    }

    pub(super) fn gone(&mut self, number: u64) {
        if let Some(container) = self.0.get_mut(&number) {
            container.gone = true;
        }
    }

    /// What policy events may call the container of this number. The agent forgets one a while after its end, and an
    /// event that comes later still is nobody's.
    pub(super) fn provenances(&self, number: u64) -> impl Iterator<Item = Provenance> + use<> {
        let known = self.0.get(&number);
        let own = known.map(|known| {
            known
                .image
                .map_or(Provenance::Unmeasured, Provenance::Image)
        });
        let nobody = known.is_none_or(|known| known.gone);
        own.into_iter()
            .chain(nobody.then_some(Provenance::Unregistered))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_is_its_image_and_after_its_end_perhaps_nobody() {
        let image = [7; 32];
        let mut containers = Containers::default();
        let of = |containers: &Containers, number| Vec::from_iter(containers.provenances(number));
        assert_eq!(of(&containers, 0), [Provenance::Unregistered]);
        assert_eq!(of(&containers, 1), [Provenance::Unregistered]);
        let mut created = proto::Created {
            container: 1,
            image: image.to_vec(),
            ..Default::default()
        };
        containers.created(&created);
        assert_eq!(of(&containers, 1), [Provenance::Unregistered], "denied");
        created.allowed = true;
        containers.created(&created);
        let own = Provenance::Image(ImageDigest::new(image));
        assert_eq!(of(&containers, 1), [own]);
        containers.gone(1);
        assert_eq!(of(&containers, 1), [own, Provenance::Unregistered]);
        created.image.clear();
        containers.created(&created);
        assert_eq!(of(&containers, 1), [Provenance::Unmeasured]);
    }
}

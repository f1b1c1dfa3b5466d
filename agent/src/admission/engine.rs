// SPDX-License-Identifier: Apache-2.0
//! Which engine made a container, and what its own store says of name and image. The store's files are read, never the engine's
//! command, which may be waiting for this very hook.
//!
//! podman's and CRI-O's image comes with the overlay (`image_digest::source`, containers/storage); docker and
//! containerd have their own files. What a store says is what its engine believes: the digest that is measured stands beside it.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use image_digest::{Published, audit};
use serde::{Deserialize, de::DeserializeOwned};

use super::bolt::Bolt;

/// The largest document of a store that is read.
const LARGEST: u64 = 32 << 20;
/// Where docker keeps what it has, unless it is told otherwise.
const DOCKER: &str = "/var/lib/docker";
const DOCKER_CONFIG: &str = "/etc/docker/daemon.json";

/// A container engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Engine {
    /// podman, buildah
    Podman,
    /// dockerd
    Docker,
    /// containerd, without docker
    Containerd,
    /// CRI-O
    CriO,
    /// None of these.
    Unknown,
}

/// What a store says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Claim {
    /// The container's name.
    pub(super) name: Option<String>,
    /// The image's name.
    pub(super) reference: Option<String>,
    /// `sha256:` and 64 digits, of the manifest.
    pub(super) manifest: Option<String>,
    /// The same of the config.
    pub(super) config: Option<String>,
}

/// What came with a container's overlay, from the store around it.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Beside<'a> {
    /// The container's name.
    pub(super) name: Option<&'a str>,
    /// Of its image.
    pub(super) published: Option<&'a Published>,
}

impl Engine {
    /// Who made a container in this bundle, whose place engines choose; annotations are anybody's.
    pub(super) fn of(bundle: &Path, annotations: &HashMap<String, String>) -> Self {
        let parts: Vec<_> = bundle.iter().filter_map(|part| part.to_str()).collect();
        let shim = parts
            .iter()
            .position(|part| *part == "io.containerd.runtime.v2.task");
        match shim.and_then(|at| parts.get(at + 1)) {
            // The namespace of docker's containers in containerd.
            Some(&"moby") => Self::Docker,
            Some(_) => Self::Containerd,
            None if parts.contains(&"overlay-containers") || parts.contains(&"vfs-containers") => {
                // Both have the same store, and CRI-O takes no annotation of this name from others.
                match annotations.get("io.container.manager").map(String::as_str) {
                    Some("cri-o") => Self::CriO,
                    _ => Self::Podman,
                }
            }
            None => Self::Unknown,
        }
    }

    /// Whose stubs may be in the upper directory: the engine's and both runtimes'. Of an unknown one, anybody's.
    pub(super) fn stubs(self) -> &'static [audit::Engine] {
        use audit::Engine::{Containerd, CriO, Crun, Docker, Podman, Runc};
        match self {
            Self::Podman => &[Podman, Crun, Runc],
            Self::Docker => &[Docker, Crun, Runc],
            Self::Containerd => &[Containerd, Crun, Runc],
            Self::CriO => &[CriO, Crun, Runc],
            Self::Unknown => &[],
        }
    }

    /// What its store says of container `id` in `bundle`.
    pub(super) fn claim(
        self,
        id: &str,
        bundle: &Path,
        annotations: &HashMap<String, String>,
        beside: Beside<'_>,
    ) -> Claim {
        let Beside { name, published } = beside;
        let annotation = |key: &str| annotations.get(key).cloned();
        match self {
            Self::Docker => {
                let root = docker_root(Path::new(DOCKER_CONFIG));
                docker(&root, id).unwrap_or_else(|error| {
                    tracing::warn!("docker's store says nothing of container {id}: {error}");
                    Claim::default()
                })
            }
            Self::Containerd => {
                let told = containerd(bundle, id).unwrap_or_else(|error| {
                    tracing::warn!("containerd's store says nothing of container {id}: {error}");
                    Claim::default()
                });
                Claim {
                    name: annotation("io.kubernetes.cri.container-name")
                        .or_else(|| annotation("nerdctl/name")),
                    ..told
                }
            }
            Self::Podman | Self::CriO | Self::Unknown => Claim {
                name: annotation("io.kubernetes.cri-o.ContainerName")
                    .or_else(|| annotation("io.podman.annotations.name"))
                    .or_else(|| name.map(str::to_owned)),
                reference: published.and_then(|published| published.reference.clone()),
                manifest: published.and_then(|published| published.manifest.clone()),
                config: published.map(|published| published.config.clone()),
            },
        }
    }
}

#[derive(Deserialize)]
struct DockerDaemon {
    #[serde(rename = "data-root")]
    data_root: Option<PathBuf>,
}

fn docker_root(config: &Path) -> PathBuf {
    let told = document::<DockerDaemon>(config).ok();
    told.and_then(|told| told.data_root)
        .unwrap_or_else(|| DOCKER.into())
}

/// `containers/<id>/config.v2.json` of docker.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerContainer {
    #[serde(default)]
    name: String,
    /// Digest of the config.
    image: String,
    #[serde(default)]
    config: DockerConfig,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase")]
struct DockerConfig {
    /// As it was asked for.
    #[serde(default)]
    image: String,
}

/// `image/<driver>/repositories.json`: repository to names and digests, to the config's digest.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerRepositories {
    repositories: HashMap<String, HashMap<String, String>>,
}

fn docker(root: &Path, id: &str) -> io::Result<Claim> {
    let path = root.join("containers").join(id).join("config.v2.json");
    let container: DockerContainer = document(&path)?;
    let mut claim = Claim {
        name: Some(container.name.trim_start_matches('/').to_owned()).filter(|n| !n.is_empty()),
        reference: Some(container.config.image).filter(|name| !name.is_empty()),
        manifest: None,
        config: Some(container.image.clone()),
    };
    let Ok(drivers) = std::fs::read_dir(root.join("image")) else {
        return Ok(claim);
    };
    for driver in drivers.flatten() {
        let path = driver.path().join("repositories.json");
        let Ok(known) = document::<DockerRepositories>(&path) else {
            continue;
        };
        let names = known.repositories.values().flatten();
        let mut manifests: Vec<_> = names
            .filter(|(_, config)| **config == container.image)
            .filter_map(|(name, _)| name.split_once('@'))
            .map(|(_, digest)| digest.to_owned())
            .collect();
        manifests.sort();
        manifests.dedup();
        // An image that was pulled under several manifests: which of them is meant, nobody says.
        if let [manifest] = &manifests[..] {
            claim.manifest = Some(manifest.clone());
        }
    }
    Ok(claim)
}

/// Of containerd's store, which has its place from that of the bundle: `/run/containerd/io.containerd.runtime.v2.task/<namespace>/<id>`
/// belongs to `/var/lib/containerd`, and what docker starts to its own.
fn containerd(bundle: &Path, id: &str) -> io::Result<Claim> {
    let odd = |why: &str| io::Error::new(io::ErrorKind::InvalidData, why.to_owned());
    let mut parts = bundle.ancestors().skip(1);
    let namespace = parts
        .next()
        .and_then(Path::file_name)
        .and_then(|name| name.to_str());
    let namespace = namespace.ok_or_else(|| odd("its bundle has no namespace in it"))?;
    let state = parts
        .nth(1)
        .and_then(|state| state.strip_prefix("/run").ok());
    let state = state.ok_or_else(|| odd("its bundle does not lie below /run"))?;
    containerd_in(&Path::new("/var/lib").join(state), namespace, id)
}

/// A document of the content store, as far as it leads to an image's config.
#[derive(Deserialize)]
struct Content {
    config: Option<Descriptor>,
    manifests: Option<Vec<Descriptor>>,
}

#[derive(Deserialize)]
struct Descriptor {
    digest: String,
    platform: Option<ContentPlatform>,
}

#[derive(Deserialize)]
struct ContentPlatform {
    architecture: String,
    os: String,
}

fn containerd_in(root: &Path, namespace: &str, id: &str) -> io::Result<Claim> {
    let path = root.join("io.containerd.metadata.v1.bolt/meta.db");
    let named =
        |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    let store = Bolt::read(&path).map_err(named)?;
    let text = |path: &[&[u8]]| {
        let value = store.get(&[&[b"v1", namespace.as_bytes()], path].concat())?;
        Some(String::from_utf8_lossy(value).into_owned())
    };
    let reference = text(&[b"containers", id.as_bytes(), b"image"]).filter(|name| !name.is_empty());
    let Some(reference) = reference else {
        return Ok(Claim::default());
    };
    let target = text(&[b"images", reference.as_bytes(), b"target", b"digest"]);
    let mut claim = Claim {
        name: None,
        reference: Some(reference),
        manifest: target,
        config: None,
    };
    let blobs = root.join("io.containerd.content.v1.content/blobs/sha256");
    // An index, then a manifest; each is as long as containerd keeps what the image came from.
    for _ in 0..2 {
        let digits = claim
            .manifest
            .as_deref()
            .and_then(|digest| digest.strip_prefix("sha256:"));
        let digits = digits.filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
        let Some(Ok(content)) = digits.map(|digits| document::<Content>(&blobs.join(digits)))
        else {
            break;
        };
        if let Some(config) = content.config {
            claim.config = Some(config.digest);
            break;
        }
        let is_ours = |one: &Descriptor| {
            one.platform
                .as_ref()
                .is_none_or(|platform| platform.os == "linux" && platform.architecture == GO_ARCH)
        };
        let ours = content.manifests.into_iter().flatten().find(is_ours);
        claim.manifest = ours.map(|ours| ours.digest);
    }
    Ok(claim)
}

/// This machine's architecture, as images name it.
const GO_ARCH: &str = if cfg!(target_arch = "aarch64") {
    "arm64"
} else {
    "amd64"
};

fn document<T: DeserializeOwned>(path: &Path) -> io::Result<T> {
    let named =
        |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(LARGEST).read_to_end(&mut bytes))
        .map_err(named)?;
    serde_json::from_slice(&bytes).map_err(|error| named(error.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn an_engine_is_known_by_its_signature_and_its_bundles() {
        let none = HashMap::new();
        let manager =
            |name: &str| HashMap::from([("io.container.manager".to_owned(), name.to_owned())]);
        for (bundle, annotations, engine) in [
            ("/x", manager("libpod"), Engine::Unknown),
            (
                "/run/containers/storage/overlay-containers/ab/userdata",
                manager("cri-o"),
                Engine::CriO,
            ),
            (
                "/run/containerd/io.containerd.runtime.v2.task/moby/ab",
                manager("cri-o"),
                Engine::Docker,
            ),
            (
                "/var/lib/containers/storage/overlay-containers/ab/userdata",
                none.clone(),
                Engine::Podman,
            ),
            (
                "/run/containerd/io.containerd.runtime.v2.task/moby/ab",
                none.clone(),
                Engine::Docker,
            ),
            (
                "/run/docker/containerd/daemon/io.containerd.runtime.v2.task/moby/ab",
                none.clone(),
                Engine::Docker,
            ),
            (
                "/run/containerd/io.containerd.runtime.v2.task/k8s.io/ab",
                none.clone(),
                Engine::Containerd,
            ),
            ("/home/me/bundle", none, Engine::Unknown),
        ] {
            assert_eq!(
                Engine::of(Path::new(bundle), &annotations),
                engine,
                "{bundle}"
            );
        }
    }

    #[test]
    fn dockers_store_names_image_and_manifest() {
        let dir = tempfile::tempdir().unwrap();
        let root = docker_root(&dir.path().join("none"));
        assert_eq!(root, Path::new(DOCKER));
        let config = dir.path().join("daemon.json");
        fs::write(&config, format!(r#"{{"data-root":{:?}}}"#, dir.path())).unwrap();
        let root = docker_root(&config);
        assert!(docker(&root, "c1").is_err());
        fs::create_dir_all(root.join("containers/c1")).unwrap();
        fs::create_dir_all(root.join("image/overlay2")).unwrap();
        fs::write(
            root.join("containers/c1/config.v2.json"),
            r#"{"Name":"/web","Image":"sha256:aa","Config":{"Image":"site/web:1"},"State":{}}"#,
        )
        .unwrap();
        let repositories =
            |text: &str| fs::write(root.join("image/overlay2/repositories.json"), text).unwrap();
        repositories(
            r#"{"Repositories":{"site/web":{"site/web:1":"sha256:aa","site/web@sha256:bb":"sha256:aa"}}}"#,
        );
        let claim = docker(&root, "c1").unwrap();
        assert_eq!(claim.name.as_deref(), Some("web"));
        assert_eq!(claim.reference.as_deref(), Some("site/web:1"));
        assert_eq!(claim.config.as_deref(), Some("sha256:aa"));
        assert_eq!(claim.manifest.as_deref(), Some("sha256:bb"));
        repositories(
            r#"{"Repositories":{"a":{"a@sha256:bb":"sha256:aa","a@sha256:cc":"sha256:aa"}}}"#,
        );
        assert_eq!(
            docker(&root, "c1").unwrap().manifest,
            None,
            "it could be either"
        );
    }

    #[test]
    fn containerds_store_names_image_manifest_and_config() {
        use super::super::bolt::tests::{Item, database};
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        assert!(containerd_in(root, "site", "c1").is_err());
        let digest = |digit: &str| format!("sha256:{}", digit.repeat(64));
        let index: &'static str = Box::leak(digest("a").into_boxed_str());
        let image = Item::Bucket(vec![(
            "target",
            Item::Bucket(vec![("digest", Item::Value(index))]),
        )]);
        let containers = Item::Bucket(vec![(
            "c1",
            Item::Bucket(vec![("image", Item::Value("site/web:1"))]),
        )]);
        let site = Item::Bucket(vec![
            ("containers", containers),
            ("images", Item::Bucket(vec![("site/web:1", image)])),
        ]);
        let data = database(&[
            vec![("v1", Item::Bucket(vec![("site", site)]))],
            vec![("z", Item::Value(""))],
        ]);
        fs::create_dir_all(root.join("io.containerd.metadata.v1.bolt")).unwrap();
        fs::write(root.join("io.containerd.metadata.v1.bolt/meta.db"), data).unwrap();
        let told = containerd_in(root, "site", "c1").unwrap();
        assert_eq!(told.reference.as_deref(), Some("site/web:1"));
        assert_eq!(
            (told.manifest.as_deref(), &told.config),
            (Some(index), &None)
        );
        let blobs = root.join("io.containerd.content.v1.content/blobs/sha256");
        fs::create_dir_all(&blobs).unwrap();
        let other = r#"{"digest":"sha256:00","platform":{"os":"windows","architecture":"amd64"}}"#;
        let ours = format!(
            r#"{{"digest":"{}","platform":{{"os":"linux","architecture":"{GO_ARCH}"}}}}"#,
            digest("b")
        );
        fs::write(
            blobs.join("a".repeat(64)),
            format!(r#"{{"manifests":[{other},{ours}]}}"#),
        )
        .unwrap();
        fs::write(
            blobs.join("b".repeat(64)),
            format!(r#"{{"config":{{"digest":"{}"}},"layers":[]}}"#, digest("c")),
        )
        .unwrap();
        let told = containerd_in(root, "site", "c1").unwrap();
        assert_eq!(told.manifest, Some(digest("b")));
        assert_eq!(told.config, Some(digest("c")));
        assert_eq!(containerd_in(root, "site", "c2").unwrap(), Claim::default());
        let bundle = Path::new("/home/x/c1");
        assert!(
            containerd(bundle, "c1")
                .unwrap_err()
                .to_string()
                .contains("/run")
        );
    }
}

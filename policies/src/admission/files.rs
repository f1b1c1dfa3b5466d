// SPDX-License-Identifier: Apache-2.0
//! The files of an admission policy: how they are read from a directory, and the one digest over them.

use std::{
    ffi::OsString,
    fmt,
    fs::{self, File},
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use sha2::{Digest as _, Sha256};

/// Files of one policy.
pub const MAX_FILES: usize = 256;
/// Bytes of one file of rules: the interpreter reads no more.
pub const MAX_RULES: u64 = 1 << 20;
/// Bytes of `data.json`: a list of 200,000 digests.
pub const MAX_DATA: u64 = 16 << 20;
/// The name of the data of a policy.
pub const DATA: &str = "data.json";

/// What the digest of a policy begins with. Another value is another format.
const DOMAIN: &[u8] = b"cima-admission-policy-v1\0";

/// Why the files of a policy were not read.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// The file system refuses.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// What.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A directory, a pipe, a device.
    #[error("{} is no regular file", .0.display())]
    NotRegular(PathBuf),
    /// More than a policy needs.
    #[error("{} has more than {limit} bytes", path.display())]
    TooLarge {
        /// Which file.
        path: PathBuf,
        /// The limit.
        limit: u64,
    },
    /// More than a policy needs.
    #[error("{} has more than {MAX_FILES} files *.rego", .0.display())]
    TooMany(PathBuf),
    /// Not text.
    #[error("{} is not UTF-8", .0.display())]
    NotText(PathBuf),
    /// Nothing there.
    #[error("{} has no file *.rego", .0.display())]
    Empty(PathBuf),
}

/// A file of a policy: rules in Rego, or data in JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicySource {
    /// Its name: in messages, and a part of the policy's digest.
    pub name: String,
    /// What is in it.
    pub text: String,
}

impl PolicySource {
    /// Reads one file, of at most `limit` bytes, under the name `name`.
    ///
    /// # Errors
    /// See [`FilesError`]; each names the file.
    pub fn read(path: &Path, name: String, limit: u64) -> Result<Self, FilesError> {
        let failed = |source| FilesError::Read {
            path: path.to_owned(),
            source,
        };
        // Before it is opened: to open a pipe waits for a writer.
        if !fs::metadata(path).map_err(failed)?.is_file() {
            return Err(FilesError::NotRegular(path.to_owned()));
        }
        let mut bytes = Vec::new();
        let file = File::open(path).map_err(failed)?;
        file.take(limit + 1)
            .read_to_end(&mut bytes)
            .map_err(failed)?;
        if bytes.len() as u64 > limit {
            return Err(FilesError::TooLarge {
                path: path.to_owned(),
                limit,
            });
        }
        let text = String::from_utf8(bytes).map_err(|_| FilesError::NotText(path.to_owned()))?;
        Ok(Self { name, text })
    }

    /// The SHA-256 of what is in it.
    pub fn sha256(&self) -> [u8; 32] {
        Sha256::digest(self.text.as_bytes()).into()
    }
}

/// Every file that a policy is made of, sorted by name: what is to be measured of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PolicyFiles(Vec<PolicySource>);

impl PolicyFiles {
    pub(super) fn new(mut files: Vec<PolicySource>) -> Self {
        files.sort_by(|a, b| a.name.as_bytes().cmp(b.name.as_bytes()));
        Self(files)
    }

    /// The files, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = &PolicySource> {
        self.0.iter()
    }

    /// One digest over names and contents.
    ///
    /// SHA-256 over `cima-admission-policy-v1` and a zero byte, the number of files, then name and content of each, sorted
    /// by the bytes of the name; numbers are u32 little endian, and each name and content is preceded by its length. No
    /// two policies give the same bytes. A policy that allows everything has no files, and the digest of that.
    pub fn digest(&self) -> PolicyDigest {
        let mut hash = Sha256::new();
        hash.update(DOMAIN);
        // Limits keep numbers and lengths far below 2³².
        let mut number = |of: usize| hash.update((of as u32).to_le_bytes());
        number(self.0.len());
        for PolicySource { name, text } in &self.0 {
            for part in [name, text] {
                hash.update((part.len() as u32).to_le_bytes());
                hash.update(part.as_bytes());
            }
        }
        PolicyDigest(hash.finalize().into())
    }
}

/// The digest of a policy: [`PolicyFiles::digest`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PolicyDigest(pub [u8; 32]);

impl fmt::Display for PolicyDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sha256:")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// The files of a directory: `*.rego`, and `data.json` if there is one. Hidden files (an editor's) and directories below
/// are no part of a policy.
///
/// # Errors
/// See [`FilesError`]; each names the file or the directory.
pub fn sources(dir: &Path) -> Result<(Vec<PolicySource>, Option<PolicySource>), FilesError> {
    let failed = |source| FilesError::Read {
        path: dir.to_owned(),
        source,
    };
    let mut names: Vec<OsString> = Vec::new();
    for entry in fs::read_dir(dir).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        let bytes = name.as_encoded_bytes();
        if !bytes.ends_with(b".rego") || bytes.starts_with(b".") {
            continue;
        }
        if names.len() == MAX_FILES {
            return Err(FilesError::TooMany(dir.to_owned()));
        }
        names.push(name);
    }
    if names.is_empty() {
        return Err(FilesError::Empty(dir.to_owned()));
    }
    names.sort_by(|a, b| a.as_encoded_bytes().cmp(b.as_encoded_bytes()));
    let sources = names
        .into_iter()
        .map(|name| {
            let path = dir.join(&name);
            let name = name
                .into_string()
                .map_err(|_| FilesError::NotText(path.clone()))?;
            PolicySource::read(&path, name, MAX_RULES)
        })
        .collect::<Result<_, _>>()?;
    let path = dir.join(DATA);
    // Whatever has the name is the data, or an error: a broken link does not mean "no data".
    let data = match fs::symlink_metadata(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        _ => Some(PolicySource::read(&path, DATA.into(), MAX_DATA)?),
    };
    Ok((sources, data))
}

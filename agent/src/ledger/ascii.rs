// SPDX-License-Identifier: Apache-2.0
//! The list once more, as the kernel shows its own in `ascii_runtime_measurements`: for agents of verifiers that read a file in its
//! place (Keylime's `ima_ml_path`). They open it once and keep their place in it; so it is never cut or renamed under them, unless somebody
//! else wrote it. A line is written by one write, and before its entry is extended. Who reads at that very moment may see part of a line
//! that is longer than a page, as of any file.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Seek as _, Write as _},
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use ima_log::Entry;

use super::{LedgerError, at};

/// The file.
#[derive(Debug)]
pub(super) struct AsciiList {
    path: PathBuf,
    file: File,
    /// Bytes of the lines so far.
    len: u64,
}

impl AsciiList {
    /// The file at `path`, which is made if need be; [`AsciiList::put`] is to be told of each entry of the list, from the first on.
    pub(super) fn open(path: &Path) -> Result<Self, LedgerError> {
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir).map_err(at("create", dir))?;
        }
        Ok(Self {
            path: path.to_owned(),
            file: file(path).map_err(at("open", path))?,
            len: 0,
        })
    }

    /// Has the entry in the file, behind those before it; it may be there from before.
    pub(super) fn put(&mut self, entry: &Entry) -> Result<(), LedgerError> {
        let mut line = entry
            .to_ascii()
            .map_err(|reason| at("write to", &self.path)(io::Error::other(reason)))?;
        line.push(b'\n');
        self.put_line(&line).map_err(at("write to", &self.path))?;
        self.len += line.len() as u64;
        Ok(())
    }

    fn put_line(&mut self, line: &[u8]) -> io::Result<()> {
        let found = self.found(line.len())?;
        if line.starts_with(&found) {
            // Nothing, or what a crash left of it.
            return write(&mut self.file, &line[found.len()..]);
        }
        tracing::error!(
            "{} is not this boot's list: it is made anew, and who reads it must open it again",
            self.path.display()
        );
        self.replace()?;
        write(&mut self.file, line)
    }

    /// What is behind the lines so far, up to `len` bytes.
    fn found(&self, len: usize) -> io::Result<Vec<u8>> {
        let mut found = vec![0; len];
        let mut read = 0;
        while read < len {
            match self
                .file
                .read_at(&mut found[read..], self.len + read as u64)
            {
                Ok(0) => break,
                Ok(more) => read += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        found.truncate(read);
        Ok(found)
    }

    /// Another file in its place, with the lines so far.
    fn replace(&mut self) -> io::Result<()> {
        let beside = self.path.with_extension("new");
        match fs::remove_file(&beside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut new = file(&beside)?;
        self.file.rewind()?;
        io::copy(&mut (&self.file).take(self.len), &mut new)?;
        fs::rename(&beside, &self.path)?;
        self.file = new;
        Ok(())
    }
}

fn file(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(0o640)
        .open(path)
}

/// By one write, unless the disk takes less.
fn write(file: &mut File, bytes: &[u8]) -> io::Result<()> {
    if bytes.is_empty() {
        return Ok(());
    }
    file.write_all(bytes)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use ima_log::HashAlgorithm;

    use super::*;

    fn entry(n: usize) -> Entry {
        Entry::ima_buf(
            10,
            HashAlgorithm::Sha256,
            format!("cima-image:{n}"),
            b"v1;x",
        )
        .unwrap()
    }

    fn lines(entries: impl IntoIterator<Item = usize>) -> String {
        let line = |n| String::from_utf8(entry(n).to_ascii().unwrap()).unwrap() + "\n";
        entries.into_iter().map(line).collect()
    }

    #[test]
    fn lines_are_appended_and_what_a_crash_left_is_gone_on_with() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/ascii");
        let mut list = AsciiList::open(&path).unwrap();
        for n in 0..3 {
            list.put(&entry(n)).unwrap();
        }
        let whole = lines(0..3);
        assert_eq!(fs::read_to_string(&path).unwrap(), whole);
        let inode = fs::metadata(&path).unwrap().ino();
        for cut in 0..=whole.len() {
            OpenOptions::new()
                .write(true)
                .open(&path)
                .unwrap()
                .set_len(cut as u64)
                .unwrap();
            let mut list = AsciiList::open(&path).unwrap();
            for n in 0..3 {
                list.put(&entry(n)).unwrap();
            }
            assert_eq!(fs::read_to_string(&path).unwrap(), whole, "{cut}");
        }
        assert_eq!(
            fs::metadata(&path).unwrap().ino(),
            inode,
            "it is the same file"
        );
    }

    #[test]
    fn another_list_in_its_place_is_replaced_from_where_they_part() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ascii");
        for other in [lines([0, 1, 7, 8]), lines([5]), "no list\n".to_owned()] {
            fs::write(&path, &other).unwrap();
            let mut reader = File::open(&path).unwrap();
            let mut list = AsciiList::open(&path).unwrap();
            for n in 0..4 {
                list.put(&entry(n)).unwrap();
            }
            assert_eq!(fs::read_to_string(&path).unwrap(), lines(0..4));
            let mut seen = String::new();
            reader.read_to_string(&mut seen).unwrap();
            assert_eq!(
                seen, other,
                "who reads the old one is not given something in between"
            );
        }
    }

    #[test]
    fn a_file_that_cannot_be_is_an_error_that_names_it() {
        let dir = tempfile::tempdir().unwrap();
        let error = AsciiList::open(dir.path()).unwrap_err().to_string();
        assert!(error.contains(&*dir.path().to_string_lossy()), "{error}");
    }
}

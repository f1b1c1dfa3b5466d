// SPDX-License-Identifier: Apache-2.0
//! One layer: a blob is unpacked by one thread while another reads the archive and hashes what is in it.
//!
//! What the blob and the archive should be by their digests is checked to their ends, and told first: that a
//! blob is not the one meant says more than what is wrong in it.

use std::io::{self, BufRead as _, BufReader, Read};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use flate2::bufread::MultiGzDecoder;
use zstd::stream::read::Decoder as ZstdDecoder;

use super::checked::{Checked, CheckedError, Expected};
use super::tar::{Input, Member, TarError, TarReader, What};
use crate::limits::Budget;
use crate::{ContentHash, Formats, Layer, LayerError, LimitError, Node, Progress};

/// Unpacked bytes that one thread hands to the other at once, and how many such pieces may wait.
const PIECE: usize = 256 << 10;
const PIECES: usize = 4;

/// Why a layer is refused.
#[derive(Debug, thiserror::Error)]
pub enum LayerReadError {
    /// The blob is not what was meant.
    #[error(transparent)]
    Blob(#[from] CheckedError),
    /// It does not unpack.
    #[error("it does not unpack: {0}")]
    Unpack(#[source] io::Error),
    /// A compression that images do not have.
    #[error("it is compressed by {0}, which the image specification does not have")]
    Compression(&'static str),
    /// The archive.
    #[error(transparent)]
    Tar(#[from] TarError),
    /// What an entry means.
    #[error(transparent)]
    Layer(#[from] LayerError),
    /// It asks for too much.
    #[error(transparent)]
    Limit(#[from] LimitError),
    /// The archive is another than the image's config says.
    #[error("its archive is not the one that the image's config lists: {0}")]
    DiffId(#[source] CheckedError),
}

/// What a layer came to.
#[derive(Debug, Default)]
pub(crate) struct LayerRead {
    pub(crate) layer: Layer,
    pub(crate) formats: Formats,
}

/// A layer's bytes and what they should be.
pub(crate) struct LayerBlob {
    pub(crate) reader: Box<dyn Read + Send>,
    /// Of the blob.
    pub(crate) blob: Expected,
    /// Of the archive in it, the config's `diff_id`.
    pub(crate) archive: Expected,
}

/// Reads a layer.
pub(crate) fn read(
    blob: LayerBlob,
    budget: &Budget,
    progress: &Progress,
) -> Result<LayerRead, LayerReadError> {
    let (to, from) = sync_channel(PIECES);
    let mut stored = Checked::new(blob.reader, blob.blob);
    thread::scope(|scope| {
        let unpacking = scope.spawn(move || {
            let unpacked = unpack(&mut stored, &to, budget, progress);
            // The reader of the pieces must see their end before the rest is checked.
            drop(to);
            stored.finish()?;
            unpacked
        });
        let mut archive = Checked::new(Pieces::new(from), blob.archive);
        let read = read_archive(&mut archive, budget);
        let checked = match &read {
            Ok(_) => archive.finish().map_err(LayerReadError::DiffId),
            Err(_) => Ok(()),
        };
        drop(archive);
        match unpacking.join() {
            Ok(unpacked) => unpacked?,
            Err(panic) => std::panic::resume_unwind(panic),
        }
        let read = read?;
        checked?;
        Ok(read)
    })
}

/// Unpacks into pieces until the blob ends or nobody wants more.
fn unpack(
    stored: &mut Checked<Box<dyn Read + Send>>,
    to: &SyncSender<Vec<u8>>,
    budget: &Budget,
    progress: &Progress,
) -> Result<(), LayerReadError> {
    let mut stored = BufReader::with_capacity(PIECE, Counted { stored, progress });
    let head = stored.fill_buf().map_err(LayerReadError::Unpack)?;
    let mut unpacked: Box<dyn Read> = match head {
        [0x1f, 0x8b, ..] => Box::new(MultiGzDecoder::new(stored)),
        // A frame, or one to be skipped, as seekable archives begin with (RFC 8878, 3.1).
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => {
            Box::new(ZstdDecoder::with_buffer(stored).map_err(LayerReadError::Unpack)?)
        }
        [b'B', b'Z', b'h', ..] => return Err(LayerReadError::Compression("bzip2")),
        [0xfd, b'7', b'z', b'X', b'Z', ..] => return Err(LayerReadError::Compression("xz")),
        _ => Box::new(stored),
    };
    loop {
        let mut piece = vec![0; PIECE];
        let mut filled = 0;
        while filled < PIECE {
            match unpacked.read(&mut piece[filled..]) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(LayerReadError::Unpack(error)),
            }
        }
        piece.truncate(filled);
        budget.spend_content(filled as u64)?;
        if filled == 0 || to.send(piece).is_err() {
            return Ok(());
        }
    }
}

/// Tells the progress what passes.
struct Counted<'a, R> {
    stored: &'a mut Checked<R>,
    progress: &'a Progress,
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.stored.read(buffer)?;
        self.progress.advance(read as u64);
        Ok(read)
    }
}

/// The pieces as a stream.
struct Pieces {
    from: Receiver<Vec<u8>>,
    piece: Vec<u8>,
    used: usize,
}

impl Pieces {
    fn new(from: Receiver<Vec<u8>>) -> Self {
        Self {
            from,
            piece: Vec::new(),
            used: 0,
        }
    }
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.used == self.piece.len() {
            // Whoever unpacks is gone: at the end, or with an error that is told in its place.
            self.piece = self.from.recv().unwrap_or_default();
            self.used = 0;
        }
        let rest = &self.piece[self.used..];
        let read = rest.len().min(buffer.len());
        buffer[..read].copy_from_slice(&rest[..read]);
        self.used += read;
        Ok(read)
    }
}

impl Input for &mut Checked<Pieces> {
    /// All of it counts for the archive's digest.
    fn skip(&mut self, bytes: u64) -> io::Result<()> {
        let skipped = io::copy(&mut Read::by_ref(self).take(bytes), &mut io::sink())?;
        if skipped < bytes {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(())
    }
}

/// Reads an archive to its end.
pub(crate) fn read_archive(
    archive: impl Input,
    budget: &Budget,
) -> Result<LayerRead, LayerReadError> {
    let mut read = LayerRead::default();
    let mut archive = TarReader::new(archive);
    while let Some(member) = archive.next()? {
        let before = read.layer.size();
        add(&mut read, member, &mut archive, budget)?;
        let after = read.layer.size();
        budget.spend_entries(
            after.entries - before.entries,
            after.path_bytes - before.path_bytes,
        )?;
    }
    archive.finish()?;
    Ok(read)
}

fn add(
    read: &mut LayerRead,
    member: Member,
    archive: &mut TarReader<impl Input>,
    budget: &Budget,
) -> Result<(), LayerReadError> {
    let path = &member.path;
    let node = match member.what {
        What::HardLink(target) => return Ok(read.layer.add_link(path, &target)?),
        What::Directory(meta) => Node::Directory(meta),
        What::Symlink { uid, gid, target } => Node::Symlink { uid, gid, target },
        What::CharDevice(meta, device) => Node::CharDevice(meta, device),
        What::BlockDevice(meta, device) => Node::BlockDevice(meta, device),
        What::Fifo(meta) => Node::Fifo(meta),
        What::File(meta) => {
            // Holes are in no byte that was counted so far.
            budget.spend_content(member.size - member.stored)?;
            let mut hash = ContentHash::default();
            archive.content(|bytes| {
                hash.update(bytes);
                Ok::<_, TarError>(())
            })?;
            let content = hash.finish();
            if let Some(format) = content.format {
                read.formats.insert(content.digest, format);
            }
            Node::File {
                meta,
                size: content.size,
                content: content.digest,
            }
        }
    };
    Ok(read.layer.add(path, node)?)
}

// SPDX-License-Identifier: Apache-2.0
//! All layers of an image: read side by side, laid over one another in order.

use std::num::NonZero;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use super::checked::Expected;
use super::files::{Files, FilesError};
use super::layer::{self, LayerBlob, LayerRead, LayerReadError};
use crate::limits::Budget;
use crate::{Formats, LayerError, Progress, Tree};

/// Why an image's layers give no files.
#[derive(Debug, thiserror::Error)]
pub enum StackError {
    /// A layer that is not there.
    #[error("layer {number} ({name}): {source}")]
    Files {
        /// From 1, the lowest.
        number: usize,
        /// As the image's documents have it.
        name: String,
        /// Why.
        #[source]
        source: FilesError,
    },
    /// A layer that is refused.
    #[error("layer {number} ({name}): {source}")]
    Read {
        /// From 1, the lowest.
        number: usize,
        /// As the image's documents have it.
        name: String,
        /// Why.
        #[source]
        source: LayerReadError,
    },
    /// A layer that does not fit those below.
    #[error("layer {number} ({name}): {source}")]
    Over {
        /// From 1, the lowest.
        number: usize,
        /// As the image's documents have it.
        name: String,
        /// Why.
        #[source]
        source: LayerError,
    },
}

/// Where a layer lies and what it should be.
pub(crate) struct LayerPlace {
    /// For people.
    pub(crate) name: String,
    pub(crate) file: String,
    pub(crate) blob: Expected,
    pub(crate) archive: Expected,
}

/// The files that the layers, lowest first, come to.
pub(crate) fn read(
    layers: &[LayerPlace],
    files: &Files,
    threads: NonZero<usize>,
    budget: &Budget,
    progress: &Progress,
) -> Result<(Tree, Formats), StackError> {
    // All that is known to come is told at once, so that the time left is too.
    let sizes = layers.iter().filter_map(|place| place.blob.size);
    progress.expect(sizes.fold(0, u64::saturating_add));
    let next = AtomicUsize::new(0);
    let failed = AtomicBool::new(false);
    let results: Vec<_> = layers.iter().map(|_| Mutex::new(None)).collect();
    let work = || {
        while !failed.load(Ordering::Relaxed) {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let (Some(place), Some(result)) = (layers.get(index), results.get(index)) else {
                return;
            };
            let read = read_one(index + 1, place, files, budget, progress);
            failed.fetch_or(read.is_err(), Ordering::Relaxed);
            *result.lock().unwrap_or_else(PoisonError::into_inner) = Some(read);
        }
    };
    thread::scope(|scope| {
        for _ in 0..threads.get().min(layers.len()) {
            scope.spawn(work);
        }
    });
    // Of several that failed the lowest is told; none is missing unless one failed.
    let results = results
        .into_iter()
        .filter_map(|result| result.into_inner().unwrap_or_else(PoisonError::into_inner));
    let mut read = results.collect::<Result<Vec<_>, _>>()?;
    let (mut tree, mut formats) = (Tree::default(), Formats::default());
    for (index, (place, layer)) in layers.iter().zip(read.drain(..)).enumerate() {
        let over = layer.layer.lay_over(&mut tree);
        over.map_err(|source| StackError::Over {
            number: index + 1,
            name: place.name.clone(),
            source,
        })?;
        formats.extend(layer.formats);
    }
    Ok((tree, formats))
}

fn read_one(
    number: usize,
    place: &LayerPlace,
    files: &Files,
    budget: &Budget,
    progress: &Progress,
) -> Result<LayerRead, StackError> {
    let name = || place.name.clone();
    let opened = files
        .open(&place.file)
        .map_err(|source| StackError::Files {
            number,
            name: name(),
            source,
        })?;
    if place.blob.size.is_none() {
        progress.expect(opened.size);
    }
    let blob = LayerBlob {
        reader: opened.reader,
        blob: place.blob.clone(),
        archive: place.archive.clone(),
    };
    layer::read(blob, budget, progress).map_err(|source| StackError::Read {
        number,
        name: name(),
        source,
    })
}

//! `docker load`: every image of an archive, or none.
//!
//! The archive is spooled, read into a plan, and the layers that are not there yet are unpacked
//! at the same time where the driver allows. Then one transaction records layers, images and
//! names. Before it nothing is visible, and any failure leaves nothing behind.

use std::collections::HashMap;
use std::io::{self, Read};
use std::num::NonZero;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;

use berth_layers::{Applied, Ingest, LayerError, NewLayer, Parent};
use berth_types::reference::Reference;
use berth_types::{ChainId, DiffId, ImageId};

use crate::archive::{Blob, Planned, Spool, plan};
use crate::store::{note_tar_size, set_parent};
use crate::{ImageError, ImageStore, NewImage};

/// How many bytes of a layer are read between two reports.
const REPORT_EVERY: u64 = 512 << 10;
/// How often a load starts over because a layer that it counted on was removed meanwhile.
const ATTEMPTS: u32 = 4;

/// Progress of a layer that is being unpacked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadProgress {
    /// The layer.
    pub diff: DiffId,
    /// Bytes read of it, as it is in the archive.
    pub current: u64,
    /// Bytes in all.
    pub total: u64,
}

/// What a load did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Loaded {
    /// The images, in the archive's order.
    pub images: Vec<LoadedImage>,
}

/// One image of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadedImage {
    /// Its id.
    pub id: ImageId,
    /// Its names, each with the image it was taken from.
    pub names: Vec<(Reference, Option<ImageId>)>,
}

impl Loaded {
    /// What Docker prints, line by line.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for image in &self.images {
            for (name, previous) in &image.names {
                let name = name.familiar();
                if let Some(previous) = previous {
                    lines.push(format!(
                        "The image {name} already exists, renaming the old one with ID {previous} \
                         to empty string\n"
                    ));
                }
                lines.push(format!("Loaded image: {name}\n"));
            }
        }
        // Docker looks at the last image only.
        if self.images.last().is_some_and(|image| image.names.is_empty()) {
            lines.extend(self.images.iter().map(|i| format!("Loaded image ID: {}\n", i.id)));
        }
        lines
    }
}

impl ImageStore {
    /// Loads an archive. `tmp` is where it may be spooled; nothing stays there.
    pub fn load(
        &self,
        body: impl Read + Send,
        tmp: &Path,
        report: &mut dyn FnMut(LoadProgress),
    ) -> Result<Loaded, ImageError> {
        let spool = Spool::read(body, tmp)?;
        let images = plan(&spool)?;
        let most = self.layers.max_depth() as usize;
        if images.iter().any(|image| image.layers.len() > most) {
            return Err(ImageError::MaxDepth);
        }
        let mut attempt = 1;
        loop {
            match self.load_planned(&spool, &images, report) {
                Err(ImageError::Layer(LayerError::Unknown { .. })) if attempt < ATTEMPTS => {
                    attempt += 1;
                }
                result => return result,
            }
        }
    }

    fn load_planned(
        &self,
        spool: &Spool,
        images: &[Planned],
        report: &mut dyn FnMut(LoadProgress),
    ) -> Result<Loaded, ImageError> {
        self.mend_damaged(spool, images)?;
        let slots = self.missing_layers(spool, images)?;
        if slots.is_empty() {
            return self.record_loaded(None, images);
        }
        let layers = slots
            .iter()
            .map(|slot| NewLayer { parent: slot.parent.clone(), expected: Some(slot.diff.clone()) })
            .collect();
        let mut ingest = self.layers.begin("load", layers)?;
        let tar_sizes = apply_all(&ingest, &slots, report)?;
        let chains = ingest.finish().map_err(|error| in_image(error, &slots))?;
        let tars = chains.into_iter().zip(tar_sizes).collect();
        self.record_loaded(Some((ingest, tars)), images)
    }

    /// Fills layers again that a repair found damaged and had nothing to mend with.
    fn mend_damaged(&self, spool: &Spool, images: &[Planned]) -> Result<(), ImageError> {
        for image in images {
            let layers = image.config.chains().into_iter().zip(image.config.diff_ids());
            for (index, ((chain, _), file)) in layers.zip(&image.layers).enumerate() {
                if !self.layers.is_damaged(&chain)? {
                    continue;
                }
                let blob = spool.open(file)?;
                self.layers.mend_from(&chain, blob.reader()).map_err(|error| match error {
                    LayerError::DiffId { expected, got, .. } => {
                        ImageError::DiffId { layer: index, expected, got }
                    }
                    LayerError::Unpack { source, .. } => {
                        ImageError::Unpack { layer: index, source }
                    }
                    other => other.into(),
                })?;
            }
        }
        Ok(())
    }

    /// The layers that must be made, parents before children, each once.
    fn missing_layers(&self, spool: &Spool, images: &[Planned]) -> Result<Vec<Slot>, ImageError> {
        let mut slots: Vec<Slot> = Vec::new();
        let mut by_chain: HashMap<ChainId, usize> = HashMap::new();
        for image in images {
            let mut below: Option<ChainId> = None;
            let layers = image.config.chains().into_iter().zip(image.config.diff_ids());
            for (index, ((chain, diff), file)) in layers.zip(&image.layers).enumerate() {
                let parent = match &below {
                    None => Parent::None,
                    Some(below) => match by_chain.get(below) {
                        Some(slot) => Parent::Slot(*slot),
                        None => Parent::Existing(below.clone()),
                    },
                };
                if !by_chain.contains_key(&chain) && self.layers.get(&chain)?.is_none() {
                    by_chain.insert(chain.clone(), slots.len());
                    let blob = spool.open(file)?;
                    slots.push(Slot { blob, diff: diff.clone(), index, parent });
                }
                below = Some(chain);
            }
        }
        Ok(slots)
    }

    fn record_loaded(
        &self,
        layers: Option<(Ingest, Vec<(ChainId, u64)>)>,
        images: &[Planned],
    ) -> Result<Loaded, ImageError> {
        let loaded = self.db.write(|tx| {
            if let Some((ingest, tars)) = &layers {
                ingest.record(tx)?;
                for (chain, bytes) in tars {
                    note_tar_size(tx, chain, *bytes)?;
                }
            }
            let mut loaded = Loaded::default();
            for image in images {
                let new =
                    NewImage { config: image.config.clone(), parent: None, built_locally: false };
                let id = self.record(tx, &new)?;
                let mut names = Vec::new();
                for name in &image.names {
                    let previous = self.point(tx, name, &id)?.filter(|previous| *previous != id);
                    names.push((name.clone(), previous));
                }
                loaded.images.push(LoadedImage { id, names });
            }
            for (image, done) in images.iter().zip(&loaded.images) {
                if let Some(parent) = &image.parent {
                    set_parent(self.at(tx), &done.id, parent)?;
                }
            }
            Ok::<_, ImageError>(loaded)
        })?;
        if let Some((ingest, _)) = layers {
            ingest.done();
        }
        Ok(loaded)
    }
}

/// A layer to be made.
struct Slot {
    blob: Blob,
    diff: DiffId,
    /// Its place in the image that names it.
    index: usize,
    parent: Parent,
}

/// Says which layer of its image it was, where the ingest only knows its own numbers.
fn in_image(error: LayerError, slots: &[Slot]) -> ImageError {
    match error {
        LayerError::DiffId { slot, expected, got } => {
            ImageError::DiffId { layer: slots[slot].index, expected, got }
        }
        LayerError::Unpack { slot, source } => {
            ImageError::Unpack { layer: slots[slot].index, source }
        }
        other => other.into(),
    }
}

/// Unpacks every layer; gives the sizes of their tars.
fn apply_all(
    ingest: &Ingest,
    slots: &[Slot],
    report: &mut dyn FnMut(LoadProgress),
) -> Result<Vec<u64>, ImageError> {
    let mut order: Vec<usize> = (0..slots.len()).collect();
    let threads = if ingest.concurrent() {
        // The largest first, so that no thread is left alone with it at the end.
        order.sort_by_key(|&slot| std::cmp::Reverse(slots[slot].blob.len()));
        std::thread::available_parallelism().map_or(2, NonZero::get).max(2).min(slots.len())
    } else {
        1
    };
    let next = AtomicUsize::new(0);
    let failed = AtomicBool::new(false);
    let (reports, inbox) = mpsc::channel();
    let work = |reports: mpsc::Sender<(usize, u64)>| {
        let mut done = Vec::new();
        while !failed.load(Ordering::Relaxed) {
            let Some(&slot) = order.get(next.fetch_add(1, Ordering::Relaxed)) else { break };
            let result = apply(ingest, slot, slots, &reports);
            if result.is_err() {
                failed.store(true, Ordering::Relaxed);
            }
            done.push((slot, result));
        }
        done
    };
    let mut results = std::thread::scope(|scope| {
        let work = &work;
        let workers: Vec<_> = (0..threads)
            .map(|_| {
                let reports = reports.clone();
                scope.spawn(move || work(reports))
            })
            .collect();
        drop(reports);
        for (slot, current) in inbox {
            let Slot { diff, blob, .. } = &slots[slot];
            report(LoadProgress { diff: diff.clone(), current, total: blob.len() });
        }
        let mut results = Vec::new();
        for worker in workers {
            match worker.join() {
                Ok(done) => results.extend(done),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        results
    });
    results.sort_by_key(|(slot, _)| *slot);
    results.into_iter().map(|(_, result)| result).collect()
}

/// Unpacks one layer and gives the size of its tar.
fn apply(
    ingest: &Ingest,
    slot: usize,
    slots: &[Slot],
    reports: &mpsc::Sender<(usize, u64)>,
) -> Result<u64, ImageError> {
    let Slot { blob, diff, index, .. } = &slots[slot];
    let reader = Reporting { inner: blob.reader(), slot, read: 0, told: 0, reports };
    let Applied { diff: got, tar_bytes, .. } =
        ingest.apply(slot, reader).map_err(|error| in_image(error, slots))?;
    if got != *diff {
        return Err(ImageError::DiffId { layer: *index, expected: diff.clone(), got });
    }
    Ok(tar_bytes)
}

/// Tells how far it has been read.
struct Reporting<'a, R> {
    inner: R,
    slot: usize,
    read: u64,
    told: u64,
    reports: &'a mpsc::Sender<(usize, u64)>,
}

impl<R: Read> Read for Reporting<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.read += read as u64;
        let is_due = self.read - self.told >= REPORT_EVERY || (read == 0 && self.told < self.read);
        // Nobody listens once another layer has failed; then there is nothing to tell.
        if is_due && self.reports.send((self.slot, self.read)).is_ok() {
            self.told = self.read;
        }
        Ok(read)
    }
}

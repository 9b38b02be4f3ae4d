//! A layer's tar, rebuilt bit for bit.

use std::fmt;
use std::io::{self, BufReader, Read};
use std::sync::Arc;

use berth_fs::root::Root;
use berth_fs::tarsplit::Assembler;

use crate::activations::{Active, Reading};
use crate::files::io_at;
use crate::store::Inner;
use crate::{Layer, LayerError};

/// Reads a layer's tar as it was received. The last read fails when the bytes do not have the
/// layer's DiffID.
pub struct TarStream {
    tar: Box<dyn Read + Send>,
    /// Keeps the layer active; after `tar`, which has files open in it.
    _reading: Option<Reading>,
}

impl TarStream {
    pub(crate) fn open(store: &Arc<Inner>, layer: &Layer) -> Result<Self, LayerError> {
        let (files, reading) = if let Some(native) = store.driver.native() {
            let path = native.diff_dir(&layer.layer);
            (Root::open(&path).map_err(io_at("open", path))?, None)
        } else {
            let active = Active::hold(store, &layer.layer)?;
            let [reading] = Reading::open(store, [active])?;
            (reading.root.try_clone().map_err(io_at("open", "a layer"))?, Some(reading))
        };
        let records = BufReader::new(store.files.tar_split(&layer.chain)?);
        let tar = Assembler::new(records, files, layer.diff.clone());
        Ok(Self { tar: Box::new(tar), _reading: reading })
    }
}

impl Read for TarStream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.tar.read(buf)
    }
}

impl fmt::Debug for TarStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TarStream").finish_non_exhaustive()
    }
}

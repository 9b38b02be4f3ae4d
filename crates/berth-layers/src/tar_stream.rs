//! A layer's tar, rebuilt bit for bit.

use std::fmt;
use std::io::{self, BufReader, Read};
use std::path::PathBuf;

use berth_fs::root::Root;
use berth_fs::tarsplit::Assembler;
use berth_storage::{Access, Mounted};

use crate::files::io_at;
use crate::store::Inner;
use crate::{Layer, LayerError};

/// Reads a layer's tar as it was received. The last read fails when the bytes do not have the
/// layer's DiffID.
pub struct TarStream {
    tar: Box<dyn Read + Send>,
    /// Holds the layer's content; after `tar`, which has files open in it.
    _mounted: Option<Mounted>,
}

impl TarStream {
    pub(crate) fn open(store: &Inner, layer: &Layer) -> Result<Self, LayerError> {
        let (path, mounted): (PathBuf, _) = if let Some(native) = store.driver.native() {
            (native.diff_dir(&layer.layer), None)
        } else {
            let mounted = Mounted::new(store.driver.prepare(&layer.layer, Access::Read)?)?;
            (mounted.root().to_owned(), Some(mounted))
        };
        let files = Root::open(&path).map_err(io_at("open", path))?;
        let records = BufReader::new(store.files.tar_split(&layer.chain)?);
        let tar = Assembler::new(records, files, layer.diff.clone());
        Ok(Self { tar: Box::new(tar), _mounted: mounted })
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

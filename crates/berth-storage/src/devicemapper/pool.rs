//! The thin pool: blocks of data that devices take as they are written to.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use berth_sys::block;
use berth_sys::dm::{self, Line};
use berth_sys::loopdev::LoopDevice;

use super::error::DevicemapperError;
use super::lvm;
use super::mapper::Mapper;
use super::options::{Options, WhenFull};
use super::watch::Below;
use crate::StorageError;
use crate::error::io_at;
use crate::home::make_dir;
use crate::programs::load_module;

const SECTOR: u64 = 512;
/// Of the pool's own metadata, whatever the size of its blocks.
pub(super) const METADATA_BLOCK: u64 = 4096;
const LOW_WATER: u64 = 32768;
const DIR: &str = "devicemapper";

/// A pool that works.
#[derive(Debug)]
pub(super) struct Pool {
    pub(super) name: String,
    /// As tables name it.
    pub(super) device: String,
    /// What it lies on, if it is this driver's own; it goes with the driver then.
    pub(super) parts: Option<Parts>,
}

/// What a pool of the driver's own lies on.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) data: Part,
    pub(super) metadata: Part,
}

/// A device below a pool.
#[derive(Debug)]
pub(super) enum Part {
    /// A sparse file.
    Loop { device: LoopDevice, file: PathBuf },
    /// An administrator's device.
    Raw { path: PathBuf, number: u64 },
}

/// What the kernel says of a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Status {
    pub(super) transaction: u64,
    pub(super) metadata_used: u64,
    pub(super) metadata_total: u64,
    pub(super) used: u64,
    pub(super) total: u64,
    /// Bytes of a block of data.
    pub(super) block: u64,
    pub(super) mode: Mode,
}

/// What a pool still does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    Writes,
    OutOfSpace,
    /// Until metadata are freed or added: then the table is to be loaded once more.
    OutOfMetadata,
    ReadOnly,
    NeedsCheck,
}

impl Pool {
    /// Makes the pool of loop files or of the devices that `options` name; one that works already is
    /// taken, and grows with its file. `is_used` says that layers are recorded: then nothing is
    /// made anew.
    pub(super) fn own(
        mapper: &Mapper,
        home: &Path,
        prefix: &str,
        options: &Options,
        is_used: bool,
    ) -> Result<Self, StorageError> {
        let dir = home.join(DIR);
        make_dir(&dir, 0o700)?;
        let name = format!("{prefix}-pool");
        let part = |what, device: &Option<PathBuf>, size| match device {
            Some(path) => Part::raw(path, is_used),
            None => Part::file(&dir.join(what), what, size, is_used)
                .map_err(|error| with_holder(mapper, &name, error)),
        };
        let data = part("data", &options.data_device, options.data_size)?;
        let metadata = part("metadata", &options.metadata_device, options.metadata_size)?;
        let table = table(&data, &metadata, options)?;
        if let Some(info) = mapper.info(&name)?.filter(|info| info.is_active) {
            if info.is_suspended {
                mapper.resume(&name)?;
            }
            take_over(mapper, &name, &table, &data)?;
        } else {
            // One without a table was left by a stop in the middle of making it.
            mapper.remove_if_unused(&name)?;
            mapper.make(&name, &[table])?;
        }
        let info = mapper.info(&name)?;
        let info = info.ok_or_else(|| DevicemapperError::NonExisting { name: name.clone() })?;
        let parts = Some(Parts { data, metadata });
        Ok(Self { name, device: number(info.device), parts })
    }

    /// Takes a pool that somebody else made.
    pub(super) fn foreign(mapper: &Mapper, name: &str) -> Result<Self, StorageError> {
        let name = name.to_owned();
        let Some(info) = mapper.info(&name)?.filter(|info| info.is_active) else {
            let missing = match lvm::volume_name(&name) {
                Some(volume) => DevicemapperError::NotActive { name, volume },
                None => DevicemapperError::NonExisting { name },
            };
            return Err(missing.into());
        };
        only_pool(&name, mapper.table(&name)?)?;
        Ok(Self { name, device: number(info.device), parts: None })
    }

    pub(super) fn status(&self, mapper: &Mapper) -> Result<Status, StorageError> {
        status(mapper, &self.name)
    }

    /// Which of it are files below `home`.
    pub(super) fn below(&self, home: &Path) -> Below {
        let Some(Parts { data, metadata }) = &self.parts else { return Below::default() };
        let dir = |part: &Part| part.file_path().map(|_| home.to_owned());
        Below { data: dir(data), metadata: dir(metadata) }
    }

    /// Lets the pool take up work again, and what the devices that it lies on have grown.
    pub(super) fn reload(&self, mapper: &Mapper) -> Result<(), StorageError> {
        let table = only_pool(&self.name, mapper.table(&self.name)?)?;
        let length = match &self.parts {
            Some(parts) => table.length.max(parts.data.size()? / SECTOR),
            None => table.length,
        };
        mapper.reload(&self.name, &[Line { length, ..table }])
    }

    /// Whether the device with the data has more than the pool uses.
    pub(super) fn is_behind(&self, mapper: &Mapper) -> Result<bool, StorageError> {
        let Some(parts) = &self.parts else { return Ok(false) };
        let lines = match mapper.table(&self.name) {
            // That it is gone is said by whoever asks how it is.
            Err(StorageError::Io { source, .. }) if dm::is_gone(&source) => return Ok(false),
            other => other?,
        };
        let table = only_pool(&self.name, lines)?;
        Ok(parts.data.size()? / SECTOR > table.length)
    }

    /// The file that the pool lies on and that has no name any more: when the pool goes, its
    /// content goes with it.
    pub(super) fn lost_file(&self) -> Result<Option<&Path>, StorageError> {
        let Some(Parts { data, metadata }) = &self.parts else { return Ok(None) };
        for part in [data, metadata] {
            if let Part::Loop { device, file } = part
                && !device.is_of(file).map_err(io_at("look at", file))?
            {
                return Ok(Some(file));
            }
        }
        Ok(None)
    }

    /// The table of a thin device of so many bytes.
    pub(super) fn thin(&self, id: u32, size: u64) -> Line {
        let params = format!("{} {id}", self.device);
        Line { start: 0, length: size / SECTOR, target: "thin".to_owned(), params }
    }
}

impl Part {
    fn raw(path: &Path, is_used: bool) -> Result<Self, StorageError> {
        let meta = path.metadata().map_err(io_at("look at", path))?;
        if !meta.file_type().is_block_device() {
            let no_device = rustix::io::Errno::NOTBLK;
            return Err(io_at("use", path)(no_device));
        }
        if !is_used && !is_empty(path)? {
            return Err(DevicemapperError::NotEmpty { device: path.to_owned() }.into());
        }
        Ok(Self::Raw { path: path.to_owned(), number: meta.rdev() })
    }

    fn file(
        path: &Path,
        what: &'static str,
        size: u64,
        is_used: bool,
    ) -> Result<Self, StorageError> {
        match path.metadata() {
            Ok(meta) => grow_file(path, meta.len(), size)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if is_used {
                    return Err(DevicemapperError::LoopFile { what, path: path.to_owned() }.into());
                }
                make_file(path, size)?;
            }
            Err(error) => return Err(io_at("look at", path)(error)),
        }
        load_module("loop");
        let failed = || io_at("attach a loop device to", path);
        let device = match LoopDevice::of_file(path).map_err(failed())? {
            Some(device) => device,
            None => LoopDevice::attach(path).map_err(failed())?,
        };
        device.grow().map_err(io_at("grow", device.path()))?;
        Ok(Self::Loop { device, file: path.to_owned() })
    }

    pub(super) fn path(&self) -> &Path {
        match self {
            Self::Loop { device, .. } => device.path(),
            Self::Raw { path, .. } => path,
        }
    }

    pub(super) fn file_path(&self) -> Option<&Path> {
        match self {
            Self::Loop { file, .. } => Some(file),
            Self::Raw { .. } => None,
        }
    }

    /// Whether the device had to be told that its file has grown.
    pub(super) fn take_growth(&self) -> Result<bool, StorageError> {
        let Self::Loop { device, file } = self else { return Ok(false) };
        let length = match file.metadata() {
            // Deleted: its device has it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            other => other.map_err(io_at("look at", file))?.len(),
        };
        let size = device.size().map_err(io_at("look at", device.path()))?;
        if length / SECTOR * SECTOR <= size
            || !device.is_of(file).map_err(io_at("look at", file))?
        {
            return Ok(false);
        }
        device.grow().map_err(io_at("grow", device.path()))?;
        Ok(true)
    }

    /// Refuses what cannot be, in the words of Docker's tool.
    pub(super) fn check_growth(&self, size: u64) -> Result<(), StorageError> {
        let Self::Loop { file, .. } = self else {
            let path = self.path().to_owned();
            return Err(DevicemapperError::NoLoop { path }.into());
        };
        if file.metadata().map_err(io_at("look at", file))?.len() > size {
            return Err(DevicemapperError::Shrinks.into());
        }
        Ok(())
    }

    /// Makes the file so large.
    pub(super) fn grow_to(&self, size: u64) -> Result<(), StorageError> {
        if let Self::Loop { device, file } = self {
            let is = file.metadata().map_err(io_at("look at", file))?.len();
            grow_file(file, is, size)?;
            device.grow().map_err(io_at("grow", device.path()))?;
        }
        Ok(())
    }

    fn number(&self) -> String {
        match self {
            Self::Loop { device, .. } => number(device.device()),
            Self::Raw { number: device, .. } => number(*device),
        }
    }

    fn size(&self) -> Result<u64, StorageError> {
        let path = self.path();
        File::open(path).and_then(block::size).map_err(io_at("look at", path))
    }
}

/// How the pool of this name is.
pub(super) fn status(mapper: &Mapper, name: &str) -> Result<Status, StorageError> {
    let lines = match mapper.status(name) {
        Err(StorageError::Io { source, .. }) if dm::is_gone(&source) => {
            return Err(DevicemapperError::NonExisting { name: name.to_owned() }.into());
        }
        other => other?,
    };
    let line = only_pool(name, lines)?;
    if line.params.trim() == "Fail" {
        return Err(DevicemapperError::PoolFailed { name: name.to_owned() }.into());
    }
    let status = line.params.clone();
    let unknown = || DevicemapperError::PoolStatus { name: name.to_owned(), status };
    Ok(parse(&line).ok_or_else(unknown)?)
}

/// Whoever deletes the file of a pool that works has taken its name alone.
fn with_holder(mapper: &Mapper, pool: &str, error: StorageError) -> StorageError {
    let StorageError::Devicemapper(DevicemapperError::LoopFile { what, path }) = error else {
        return error;
    };
    let at = usize::from(what == "data");
    let table = mapper.table(pool).ok().and_then(|lines| lines.into_iter().next());
    let device = table.as_ref().and_then(|line| line.params.split(' ').nth(at));
    let held = device.and_then(|device| device.strip_prefix("7:"));
    let Some(held) = held.map(|minor| PathBuf::from(format!("/dev/loop{minor}"))) else {
        return DevicemapperError::LoopFile { what, path }.into();
    };
    let pool = pool.to_owned();
    DevicemapperError::LoopFileGone { what, path, held, pool }.into()
}

fn make_file(path: &Path, size: u64) -> Result<(), StorageError> {
    let failed = || io_at("create", path);
    let file = File::options().write(true).create_new(true).mode(0o600).open(path);
    file.and_then(|file| file.set_len(size).and_then(|()| file.sync_all())).map_err(failed())?;
    let dir = path.parent().unwrap_or(path);
    berth_fs::atomic::sync_dir(dir).map_err(io_at("sync", dir))
}

fn grow_file(path: &Path, is: u64, wanted: u64) -> Result<(), StorageError> {
    if is > wanted {
        tracing::warn!("Can't shrink loopback file {}", path.display());
    }
    if is >= wanted {
        return Ok(());
    }
    let file = File::options().write(true).open(path);
    let grown = file.and_then(|file| file.set_len(wanted).and_then(|()| file.sync_all()));
    grown.map_err(io_at("grow", path))
}

/// Checks that the pool which works is made of these parts, and lets it have what they have grown.
fn take_over(mapper: &Mapper, name: &str, wanted: &Line, data: &Part) -> Result<(), StorageError> {
    let is = only_pool(name, mapper.table(name)?)?;
    let parts = |line: &Line| -> Vec<String> {
        line.params.split(' ').take(3).map(str::to_owned).collect()
    };
    let (now, then) = (parts(&is), parts(wanted));
    if now[..now.len().min(2)] != then[..2] {
        let file = data.file_path().unwrap_or(data.path()).to_owned();
        return Err(DevicemapperError::PoolDevices { name: name.to_owned(), file }.into());
    }
    let rest = behind_block(&wanted.params);
    if is.length < wanted.length || behind_block(&is.params) != rest {
        let params = [&now.join(" "), &*rest.join(" ")].join(" ");
        let length = is.length.max(wanted.length);
        return mapper.reload(name, &[Line { length, params, ..is }]);
    }
    Ok(())
}

fn table(data: &Part, metadata: &Part, options: &Options) -> Result<Line, StorageError> {
    let features = match options.when_full {
        Some(WhenFull::Error) => "2 skip_block_zeroing error_if_no_space",
        Some(WhenFull::Queue) | None => "1 skip_block_zeroing",
    };
    let block = options.block;
    Ok(Line {
        start: 0,
        length: data.size()? / SECTOR,
        target: "thin-pool".to_owned(),
        params: format!("{} {} {block} {LOW_WATER} {features}", metadata.number(), data.number()),
    })
}

/// The words of a table behind the size of blocks, which a pool keeps.
fn behind_block(params: &str) -> Vec<&str> {
    params.split_whitespace().skip(3).collect()
}

fn only_pool(name: &str, lines: Vec<Line>) -> Result<Line, StorageError> {
    match lines.into_iter().next() {
        Some(line) if line.target == "thin-pool" => Ok(line),
        _ => Err(DevicemapperError::NotAPool { name: name.to_owned() }.into()),
    }
}

/// `ID USED/TOTAL USED/TOTAL HELD-ROOT MODE DISCARDS WHEN-FULL CHECK …`
fn parse(line: &Line) -> Option<Status> {
    let mut words = line.params.split(' ');
    let mut pair = || {
        let (used, total) = words.next()?.split_once('/')?;
        Some((used.parse::<u64>().ok()?, total.parse::<u64>().ok()?))
    };
    let transaction = line.params.split(' ').next()?.parse().ok()?;
    // The first word has no slash.
    let _ = pair();
    let (metadata_used, metadata_total) = pair()?;
    let (used, total) = pair()?;
    let words: Vec<&str> = words.collect();
    let mode = match (words.get(1), words.get(4)) {
        (_, Some(&"needs_check")) => Mode::NeedsCheck,
        (Some(&"ro"), _) if metadata_used >= metadata_total => Mode::OutOfMetadata,
        (Some(&"ro"), _) => Mode::ReadOnly,
        (Some(&"out_of_data_space"), _) => Mode::OutOfSpace,
        _ => Mode::Writes,
    };
    let block = line.length.checked_div(total)? * SECTOR;
    Some(Status { transaction, metadata_used, metadata_total, used, total, block, mode })
}

/// Whether a device begins and ends with zeroes: no partition table, file system, volume.
pub(super) fn is_empty(path: &Path) -> Result<bool, StorageError> {
    use std::os::unix::fs::FileExt as _;
    const LOOKED_AT: u64 = 1 << 20;
    let look = || -> io::Result<bool> {
        let file = File::open(path)?;
        let size = block::size(&file)?;
        for start in [0, size.saturating_sub(LOOKED_AT)] {
            let mut bytes = vec![0; usize::try_from(LOOKED_AT.min(size)).expect("a megabyte")];
            file.read_exact_at(&mut bytes, start)?;
            if bytes.iter().any(|&byte| byte != 0) {
                return Ok(false);
            }
        }
        Ok(true)
    };
    look().map_err(io_at("read", path))
}

fn number(device: u64) -> String {
    format!("{}:{}", rustix::fs::major(device), rustix::fs::minor(device))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pools_status_is_read_and_a_failed_one_has_none() {
        let line = |params: &str| Line {
            start: 0,
            length: 209_715_200,
            target: "thin-pool".to_owned(),
            params: params.to_owned(),
        };
        let healthy = Status {
            transaction: 37,
            metadata_used: 4237,
            metadata_total: 524_288,
            used: 1056,
            total: 1_638_400,
            block: 65536,
            mode: Mode::Writes,
        };
        let rest = "4237/524288 1056/1638400 -";
        #[rustfmt::skip]
        let table = [
            ("rw discard_passdown queue_if_no_space - 1024",                Mode::Writes),
            ("out_of_data_space discard_passdown queue_if_no_space - 1024", Mode::OutOfSpace),
            ("ro discard_passdown error_if_no_space - 1024",                Mode::ReadOnly),
            ("ro discard_passdown queue_if_no_space needs_check 1024",      Mode::NeedsCheck),
            ("rw no_discard_passdown",                                      Mode::Writes),
        ];
        for (end, mode) in table {
            let got = parse(&line(&format!("37 {rest} {end}")));
            assert_eq!(got, Some(Status { mode, ..healthy }), "{end}");
        }
        let full =
            parse(&line("37 9/9 1056/1638400 - ro discard_passdown error_if_no_space - 1024"));
        assert_eq!(full.map(|status| status.mode), Some(Mode::OutOfMetadata));
        for broken in ["Fail", "Error", "", "1 2 3", "1 1/2 1/0 - rw"] {
            assert_eq!(parse(&line(broken)), None, "{broken}");
        }
    }

    #[test]
    fn loop_files_only_grow() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data");
        make_file(&path, 1 << 20).unwrap();
        assert_eq!(path.metadata().unwrap().mode() & 0o7777, 0o600);
        for (wanted, is) in [(2 << 20, 2 << 20), (1 << 20, 2 << 20)] {
            grow_file(&path, path.metadata().unwrap().len(), wanted).unwrap();
            assert_eq!(path.metadata().unwrap().len(), is);
        }
        assert!(make_file(&path, 1).is_err(), "nothing is overwritten");
    }
}

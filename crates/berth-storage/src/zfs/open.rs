//! Finding the dataset, making sure that it is this data root's, and reading what it holds.

use std::fs::File;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use berth_sys::{fsinfo, mountinfo};
use berth_types::Owner;

use super::command::{Runner, once};
use super::driver::NAME;
use super::error::ZfsError;
use super::home::{self, Record};
use super::listing::{self, Listing};
use super::names::{Dataset, HOME};
use super::set::{Set, State, step};
use crate::error::io_at;
use crate::options::key_value;
use crate::{StorageError, programs};

const CONTROL: &str = "/dev/zfs";
const CACHE: &str = "/etc/zfs/zpool.cache";

/// Docker's conditions, in its order; then the dataset that layers are to be below.
pub(super) fn choose(dir: &Path, options: &[String]) -> Result<Dataset, StorageError> {
    let root = dir.parent().unwrap_or(dir);
    let is_on_zfs = fsinfo::fs_name(root).map_err(io_at("look at", root))? == NAME;
    let names_one = options.iter().any(|option| is_name(option));
    if !programs::on_path("zfs") || !(is_on_zfs || names_one) {
        return Err(StorageError::Prerequisites);
    }
    if !can_control() {
        programs::load_module("zfs");
        if !can_control() {
            return Err(StorageError::Prerequisites);
        }
    }
    match parse(options)? {
        Some(name) => Dataset::parse(&name).ok_or_else(|| {
            ZfsError::NoRoot { name, why: "invalid name of a dataset".to_owned() }.into()
        }),
        None => Ok(mounted_at(root)?),
    }
}

fn is_name(option: &str) -> bool {
    key_value(option).is_ok_and(|(key, _)| key == "zfs.fsname")
}

fn can_control() -> bool {
    File::options().read(true).write(true).open(CONTROL).is_ok()
}

fn parse(options: &[String]) -> Result<Option<String>, StorageError> {
    let mut name = None;
    for option in options {
        let (key, value) = key_value(option)?;
        match key.as_str() {
            "zfs.fsname" => name = Some(value.to_owned()),
            _ => return Err(StorageError::Option(format!("Unknown option {key}"))),
        }
    }
    Ok(name.filter(|name| !name.is_empty()))
}

/// The dataset that a directory is on.
fn mounted_at(root: &Path) -> Result<Dataset, StorageError> {
    let device = root.metadata().map_err(io_at("look at", root))?.dev();
    let device = (rustix::fs::major(device), rustix::fs::minor(device));
    let mounts = mountinfo::all().map_err(io_at("read", "/proc/self/mountinfo"))?;
    let mount = mounts.iter().find(|mount| mount.fs_type == NAME && mount.device == device);
    let name = mount.and_then(|mount| mount.source.to_str()).and_then(Dataset::parse);
    name.ok_or_else(|| ZfsError::NoDataset { root: root.to_owned() }.into())
}

impl Set {
    /// Takes the dataset for the home `dir`, and reads what it holds.
    pub(super) fn open(dir: &Path, dataset: Dataset, root: Owner) -> Result<Self, StorageError> {
        let mark = find(&dataset)?;
        let known = Record::read(dir)?;
        let has_layers = mark.is_none() && listing::has_layers(&read(&dataset)?);
        check(dir, &dataset, known.as_ref(), mark.as_deref(), has_layers)?;
        home::make_dirs(dir, root)?;
        let runner = Runner::open(dir)?;
        if mark.is_none() {
            let record = known.unwrap_or_else(|| Record::new(dataset.as_str()));
            record.write(dir)?;
            step("zfs.home.written");
            runner.zfs(&["set", &format!("{HOME}={}", record.number), dataset.as_str()])?;
        }
        let state = State::of(&read(&dataset)?, &dataset);
        Ok(Self::new(dir, dataset, runner, state))
    }
}

/// Looks for the dataset, and imports its pool when that is what is missing. Gives what it says, itself
/// and not by inheritance, of whose it is.
fn find(dataset: &Dataset) -> Result<Option<String>, StorageError> {
    let columns = "property,value,source";
    let ask = || once("zfs", &["get", "-H", "-p", "-o", columns, HOME, dataset.as_str()]);
    let text = match ask() {
        Err(error) if error.is_gone() => {
            import(dataset.pool())?;
            ask().map_err(|error| not_found(dataset.as_str(), &error))?
        }
        other => other.map_err(|error| not_found(dataset.as_str(), &error))?,
    };
    Ok(text.lines().find_map(|line| match line.split('\t').collect::<Vec<_>>()[..] {
        [HOME, value, "local" | "received"] => Some(value.to_owned()),
        _ => None,
    }))
}

/// Imports a pool that the machine has and has not imported; none of its file systems is mounted, or
/// one might hide the data root.
fn import(pool: &str) -> Result<(), StorageError> {
    match once("zpool", &["list", "-H", "-o", "name", pool]) {
        Err(error) if error.is_gone() => {}
        // It is the dataset that is missing.
        _ => return Ok(()),
    }
    tracing::info!(pool, "importing a pool");
    let known = || once("zpool", &["import", "-N", "-c", CACHE, pool]);
    let found = || once("zpool", &["import", "-N", pool]);
    let imported = match Path::new(CACHE).try_exists() {
        Ok(true) => known().or_else(|_| found()),
        _ => found(),
    };
    imported.map(drop).map_err(|error| {
        let why = format!("{error} (see zpool import, then: zpool import {pool})");
        ZfsError::NoRoot { name: pool.to_owned(), why }.into()
    })
}

fn not_found(name: &str, error: &ZfsError) -> StorageError {
    ZfsError::NoRoot { name: name.to_owned(), why: berth_types::kind::chain(error) }.into()
}

fn read(dataset: &Dataset) -> Result<Listing, ZfsError> {
    listing::parse(&once("zfs", &listing::arguments(dataset))?, dataset)
}

/// Refuses a dataset that is another's before anything is changed.
fn check(
    dir: &Path,
    dataset: &Dataset,
    known: Option<&Record>,
    mark: Option<&str>,
    has_layers: bool,
) -> Result<(), ZfsError> {
    let name = dataset.to_string();
    match (known, mark) {
        (Some(known), Some(mark)) if known.number == mark => Ok(()),
        (_, Some(theirs)) => Err(ZfsError::OtherHome { name, theirs: theirs.to_owned() }),
        (Some(known), None) if known.dataset != name => {
            let (known, file) = (known.dataset.clone(), home::file(dir));
            Err(ZfsError::Elsewhere { name, known, file })
        }
        (_, None) if !has_layers => Ok(()),
        (Some(known), None) => Err(ZfsError::Unmarked { name, ours: known.number.clone() }),
        (None, None) => Err(ZfsError::Foreign { name }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dataset_is_taken_by_one_data_root_alone() {
        let (dir, dataset) = (Path::new("/x/zfs"), Dataset::parse("t/d").unwrap());
        let record = |dataset: &str, number: &str| {
            Some(Record { dataset: dataset.to_owned(), number: number.to_owned() })
        };
        #[rustfmt::skip]
        let table = [
            (None,                None,      false, ""),
            (None,                None,      true,  "dataset t/d has layers of another engine"),
            (None,                Some("1"), false, "dataset t/d belongs to another data root"),
            (record("t/d", "1"),  None,      false, ""),
            (record("t/d", "1"),  None,      true,  "dataset t/d has layers and does not say"),
            (record("t/d", "1"),  Some("1"), true,  ""),
            (record("t/d", "1"),  Some("2"), true,  "dataset t/d belongs to another data root"),
            (record("t/old","1"), Some("1"), true,  ""),
            (record("t/old","1"), None,      false, "the layers of this data root are in dataset t/old"),
        ];
        for (known, mark, has_layers, refusal) in table {
            let done = check(dir, &dataset, known.as_ref(), mark, has_layers);
            let said = done.err().map(|error| error.to_string()).unwrap_or_default();
            assert!(said.starts_with(refusal), "{known:?} {mark:?}: {said}");
            assert_eq!(said.is_empty(), refusal.is_empty(), "{known:?} {mark:?}: {said}");
        }
    }

    #[test]
    fn options_have_dockers_texts() {
        type Row = (&'static [&'static str], Result<Option<&'static str>, &'static str>);
        let options =
            |words: &[&str]| -> Vec<String> { words.iter().map(|&word| word.to_owned()).collect() };
        #[rustfmt::skip]
        let table: &[Row] = &[
            (&[],                                Ok(None)),
            (&["ZFS.fsname = tank/docker"],      Ok(Some("tank/docker"))),
            (&["zfs.fsname="],                   Ok(None)),
            (&["foo"],                           Err("Unable to parse key/value option: foo")),
            (&["zfs.fsname=t", "dm.fs=xfs"],     Err("Unknown option dm.fs")),
        ];
        for (words, expected) in table {
            let got = parse(&options(words)).map_err(|error| error.to_string());
            let expected = expected.map(|name| name.map(str::to_owned)).map_err(str::to_owned);
            assert_eq!(got, expected, "{words:?}");
        }
    }
}

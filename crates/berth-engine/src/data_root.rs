//! The data root: whose it is, and that only one engine uses it.
//!
//! ```text
//! <data-root>/
//!   version      {"engine":"berth","format":1}; written last when a root is made
//!   <uid>.<gid>/ a data root of its own, for containers whose root is this on the host
//!   lock         held for as long as an engine uses the root
//!   berth.db     every record
//!   engine-id    a UUID, shown by `info`
//!   tmp/         emptied at each start
//!   downloads/   blobs on their way from registries
//!   build-cache/ what builds keep from one to the next
//!   lost+found/  what no record knows, moved here and never deleted
//! ```
//!
//! A directory that is not empty and does not carry the version file belongs to somebody else: it is refused
//! before a byte of it changes. So is one with the version file but without the database, for
//! every layer in it would look unknown.

use std::io;
use std::path::{Path, PathBuf};

use berth_fs::atomic::{Durability, TEMPORARY_PREFIX};
use berth_fs::lock::LockGuard;
use berth_types::Owner;
use serde::{Deserialize, Serialize};

/// The format that this version writes.
const FORMAT: u32 = 1;
/// The format of a root whose layers hold ids of the host.
const FORMAT_REMAPPED: u32 = 2;
const ENGINE: &str = "berth";

/// Why a data root was refused.
#[expect(missing_docs, reason = "the messages name the fields")]
#[derive(Debug, thiserror::Error)]
pub enum DataRootError {
    #[error(
        "{0} is not empty and was not made by berth: choose an empty directory with --data-root \
         (nothing in it was changed)",
        .path.display()
    )]
    Foreign { path: PathBuf },
    #[error(
        "{0} has berth's layers but not their records (berth.db is missing): put berth.db back from a \
         backup, or move the directory away and start with an empty one (nothing in it was changed)",
        .path.display()
    )]
    NoDatabase { path: PathBuf },
    #[error(
        "{0} has format {found}, and this version of berth knows {FORMAT_REMAPPED}: use the berth \
         that wrote it, or a newer one",
        .path.display()
    )]
    TooNew { path: PathBuf, found: u32 },
    #[error(
        "the layers in {} are {} (nothing in it was changed)",
        .path.display(),
        if *.remapped { "for remapped ids: start with --userns-remap" } else { "not for remapped ids" }
    )]
    Ids { path: PathBuf, remapped: bool },
    #[error(
        "a subdirectory in your graphroot path ({}) restricts access to the remapped root uid/gid; \
         please fix by allowing 'o+x' permissions on existing directories",
        .path.display()
    )]
    NoPassage { path: PathBuf },
    #[error("the version file of {0} cannot be understood (nothing was changed)", .path.display())]
    Version { path: PathBuf, source: serde_json::Error },
    #[error("cannot use the data root {}", .path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error(
        "a restore into {0} did not finish: empty the directory and restore again (nothing in it was \
         changed)",
        .path.display()
    )]
    Restoring { path: PathBuf },
    #[error("another daemon uses the data root {0}", .path.display())]
    Locked { path: PathBuf, source: berth_fs::lock::LockError },
}

#[derive(Debug, Serialize, Deserialize)]
struct Marker {
    engine: String,
    format: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ids: Option<Ids>,
}

/// How a root holds the ids of containers whose ids are remapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Ids {
    /// As the host's.
    Shifted,
}

/// A data root that is ours while this value lives.
#[derive(Debug)]
pub struct DataRoot {
    path: PathBuf,
    /// What containers' root is on the host.
    owner: Owner,
    _lock: LockGuard,
}

impl DataRoot {
    /// Opens the data root at `path`, or makes one in an empty or missing directory.
    pub fn open(path: &Path) -> Result<Self, DataRootError> {
        Self::open_for(path, Owner::ROOT)
    }

    /// As [`open`](Self::open), for containers whose root is `owner` on the host. Where that is not
    /// the host's own, `path` is below the data root that was asked for.
    pub fn open_for(path: &Path, owner: Owner) -> Result<Self, DataRootError> {
        let remapped = owner != Owner::ROOT;
        if let Some(base) = path.parent().filter(|_| remapped) {
            open_base(base, owner)?;
        }
        let found = read_marker(path)?;
        if let Some(marker) = &found
            && marker.ids.is_some() != remapped
        {
            let (path, remapped) = (path.to_owned(), marker.ids.is_some());
            return Err(DataRootError::Ids { path, remapped });
        }
        let io = |source| DataRootError::Io { path: path.to_owned(), source };
        if path.join(RESTORING).try_exists().map_err(io)? {
            return Err(DataRootError::Restoring { path: path.to_owned() });
        }
        let is_new = match found {
            Some(_) if !path.join("berth.db").try_exists().map_err(io)? => {
                return Err(DataRootError::NoDatabase { path: path.to_owned() });
            }
            Some(_) => false,
            None if is_empty(path).map_err(io)? => true,
            None => return Err(DataRootError::Foreign { path: path.to_owned() }),
        };
        if is_new {
            make_dir(path, 0o711).map_err(io)?;
        }
        let lock = LockGuard::acquire(&path.join("lock"))
            .map_err(|source| DataRootError::Locked { path: path.to_owned(), source })?;
        lay_out(path).map_err(io)?;
        if remapped {
            narrow(path, owner).map_err(io)?;
            let_pass(&path.join("containers"), owner).map_err(io)?;
        }
        Ok(Self { path: path.to_owned(), owner, _lock: lock })
    }

    /// Marks the root as berth's, once the database stands in it.
    ///
    /// The order matters: a crash before this leaves a root with a `lock` and a database only, which
    /// [`open`](Self::open) takes for a new one.
    pub fn seal(&self) -> Result<(), DataRootError> {
        let io = |source| DataRootError::Io { path: self.path.clone(), source };
        if self.path.join("version").try_exists().map_err(io)? {
            return Ok(());
        }
        write_marker(&self.path, self.owner).map_err(io)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Empties `tmp/`, which holds only what running requests spool, and removes files that were
    /// being written when an earlier engine was killed.
    pub fn clear_tmp(&self) -> io::Result<()> {
        for entry in std::fs::read_dir(&self.path)? {
            let entry = entry?;
            if entry.file_name().as_encoded_bytes().starts_with(TEMPORARY_PREFIX.as_bytes()) {
                std::fs::remove_file(entry.path())?;
            }
        }
        for entry in std::fs::read_dir(self.path.join("tmp"))? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                std::fs::remove_dir_all(entry.path())?;
            } else {
                std::fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    /// The engine's id: a UUID made once.
    pub fn engine_id(&self) -> io::Result<String> {
        let file = self.path.join("engine-id");
        match std::fs::read_to_string(&file) {
            Ok(text) => return Ok(text.trim().to_owned()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let id = random_uuid();
        berth_fs::atomic::write_with(&file, id.as_bytes(), 0o600, Durability::Synced)?;
        Ok(id)
    }
}

/// In a data root that is being filled from a backup.
pub(crate) const RESTORING: &str = ".berth-restoring";

const DIRECTORIES: &[(&str, u32)] = &[
    ("tmp", 0o700),
    ("containers", 0o710),
    ("layers", 0o700),
    ("downloads", 0o700),
    ("volumes", 0o701),
    ("lost+found", 0o700),
];

/// What a crash between making a root and sealing it may have left.
const UNSEALED: &[&str] = &[
    "lock",
    "berth.db",
    "berth.db-wal",
    "berth.db-shm",
    "berth.db-journal",
    "tmp",
    "containers",
    "layers",
    "downloads",
    "volumes",
    "lost+found",
];

/// Marks the directory as a data root of berth's, for containers whose root is `owner` on the host.
pub(crate) fn write_marker(path: &Path, owner: Owner) -> io::Result<()> {
    let ids = (owner != Owner::ROOT).then_some(Ids::Shifted);
    let format = if ids.is_some() { FORMAT_REMAPPED } else { FORMAT };
    let marker = Marker { engine: ENGINE.to_owned(), format, ids };
    let mut text = serde_json::to_string(&marker).expect("two plain fields");
    text.push('\n');
    berth_fs::atomic::write(&path.join("version"), text.as_bytes())
}

/// Makes the directories that every data root has.
pub(crate) fn lay_out(path: &Path) -> io::Result<()> {
    for (name, mode) in DIRECTORIES {
        make_dir(&path.join(name), *mode)?;
    }
    Ok(())
}

fn read_marker(path: &Path) -> Result<Option<Marker>, DataRootError> {
    let text = match std::fs::read(path.join("version")) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(DataRootError::Io { path: path.to_owned(), source }),
    };
    let marker: Marker = serde_json::from_slice(&text)
        .map_err(|source| DataRootError::Version { path: path.to_owned(), source })?;
    if marker.engine != ENGINE {
        return Err(DataRootError::Foreign { path: path.to_owned() });
    }
    if marker.format > FORMAT_REMAPPED {
        return Err(DataRootError::TooNew { path: path.to_owned(), found: marker.format });
    }
    Ok(Some(marker))
}

/// Makes the data root that the one of remapped containers is below, or lets their root pass
/// through it. Somebody else's is refused.
fn open_base(base: &Path, owner: Owner) -> Result<(), DataRootError> {
    let io = |source| DataRootError::Io { path: base.to_owned(), source };
    if read_marker(base)?.is_none() && !is_empty(base).map_err(io)? {
        return Err(DataRootError::Foreign { path: base.to_owned() });
    }
    if let Some(dir) = base.ancestors().skip(1).find(|dir| !may_pass(dir, owner)) {
        return Err(DataRootError::NoPassage { path: dir.to_owned() });
    }
    make_dir(base, 0o711).map_err(io)?;
    narrow(base, owner).map_err(io)
}

/// The data root below `base` for containers whose root is `owner` on the host; `base` itself for the
/// host's own. What is around it is made fit for it.
pub(crate) fn place(base: &Path, owner: Owner) -> Result<PathBuf, DataRootError> {
    if owner == Owner::ROOT {
        return Ok(base.to_owned());
    }
    open_base(base, owner)?;
    Ok(base.join(remapped_name(owner)))
}

fn may_pass(dir: &Path, owner: Owner) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let Ok(meta) = std::fs::metadata(dir) else { return true };
    let bit = match (meta.uid() == owner.uid, meta.gid() == owner.gid) {
        (true, _) => 0o100,
        (false, true) => 0o010,
        (false, false) => 0o001,
    };
    meta.mode() & bit != 0
}

/// Closes a directory to all but containers' root, who may pass through it.
pub(crate) fn narrow(path: &Path, owner: Owner) -> io::Result<()> {
    let_pass(path, owner)?;
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o710))
}

/// Lets containers' root pass through a directory of mode 0710.
pub(crate) fn let_pass(path: &Path, owner: Owner) -> io::Result<()> {
    if owner == Owner::ROOT {
        return Ok(());
    }
    std::os::unix::fs::chown(path, None, Some(owner.gid))
}

/// The name of a data root for remapped containers.
pub fn remapped_name(owner: Owner) -> String {
    format!("{}.{}", owner.uid, owner.gid)
}

/// Whether a name is that of a data root for remapped containers: `<uid>.<gid>`.
fn is_remapped_name(name: &str) -> bool {
    let is_id = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    name.split_once('.').is_some_and(|(uid, gid)| is_id(uid) && is_id(gid))
}

/// Whether nothing of worth is in the directory: no entry, or only what an interrupted first start
/// leaves (a lock of ours, then directories that are still empty).
fn is_empty(path: &Path) -> io::Result<bool> {
    let entries = match std::fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
        Err(error) => return Err(error),
    };
    let mut has_lock = false;
    let mut others = 0;
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let is_root = |name: &&str| is_remapped_name(name) && is_ours(&entry.path());
        if name.to_str().as_ref().is_some_and(is_root) {
            continue;
        }
        let is_own = |name: &&str| UNSEALED.contains(name) || name.starts_with(TEMPORARY_PREFIX);
        let Some(name) = name.to_str().filter(is_own) else {
            // A fresh file system has an empty lost+found; nothing else may be there.
            return Ok(false);
        };
        has_lock |= name == "lock";
        if name == "lost+found" {
            continue;
        }
        others += 1;
        if entry.file_type()?.is_dir() && std::fs::read_dir(entry.path())?.next().is_some() {
            return Ok(false);
        }
    }
    Ok(others == 0 || has_lock)
}

/// Whether berth made this data root, or is about to.
fn is_ours(path: &Path) -> bool {
    read_marker(path).is_ok_and(|marker| marker.is_some())
        || path.join(RESTORING).try_exists().unwrap_or(false)
        || is_empty(path).unwrap_or(false)
}

fn make_dir(path: &Path, mode: u32) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new().recursive(true).mode(mode).create(path)
}

fn random_uuid() -> String {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).expect("the kernel's random source answers");
    bytes[6] = (bytes[6] & 0x0f) | 0x40;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    let hex = berth_types::id::to_hex(&bytes);
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

//! Copying files out of and into a container.

use std::io::{BufReader, Read};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use berth_api::container::PathStat;
use berth_api::file_mode::go_mode;
use berth_api::options::ArchivePutOptions;
use berth_fs::root::{Follow, Root};
use berth_fs::unpack::{Devices, Limits, Owner, TypeClash, UnpackOptions, WhiteoutStyle};
use berth_storage::Access;
use berth_types::{IdMaps, Timestamp};
use rustix::fs::FileType;

use super::export::archive_error;
use super::record::Record;
use super::rootfs::View;
use crate::engine::Engine;
use crate::error::{ContainerError, EngineError};
use crate::pieces::{ByteStream, pieces};

impl Engine {
    /// What a path in a container is.
    pub async fn archive_stat(&self, name: &str, path: &str) -> Result<PathStat, EngineError> {
        let container = self.registry().find(name)?;
        self.publish_container(&container, "archive-path", [("path", path)]);
        let wanted = Wanted::new(name, path);
        self.with_root(&container, View::Whole, Access::Read, move |root, _path| wanted.stat(root))
            .await
    }

    /// A tar of what a path in a container names.
    pub async fn archive_get(
        &self,
        name: &str,
        path: &str,
    ) -> Result<(PathStat, ByteStream), EngineError> {
        let container = self.registry().find(name)?;
        self.publish_container(&container, "archive-path", [("path", path)]);
        let wanted = Wanted::new(name, path);
        let (writer, stream) = pieces();
        let (tell, told) = tokio::sync::oneshot::channel();
        let ids = self.ids().clone();
        let engine = self.clone();
        tokio::spawn(async move {
            let failed = engine
                .with_root(&container, View::Whole, Access::Read, move |root, _path| {
                    let found = wanted.stat(root);
                    let is_found = found.is_ok();
                    if tell.send(found).is_err() || !is_found {
                        return Ok::<_, EngineError>(());
                    }
                    let mut writer = writer;
                    let packed = wanted.pack(root, &ids, &mut writer);
                    writer.finish(packed);
                    Ok(())
                })
                .await;
            if let Err(error) = failed {
                tracing::warn!(error = %berth_types::kind::chain(&error), "copy failed");
            }
        });
        let unreachable = |_dropped| {
            EngineError::from(ContainerError::NoFile {
                path: path.to_owned(),
                name: name.to_owned(),
            })
        };
        Ok((told.await.map_err(unreachable)??, stream))
    }

    /// Unpacks a tar into a directory of a container.
    pub async fn archive_put(
        &self,
        name: &str,
        path: &str,
        options: ArchivePutOptions,
        tar: Box<dyn Read + Send>,
    ) -> Result<(), EngineError> {
        let container = self.registry().find(name)?;
        let wanted = Wanted::new(name, path);
        let record = container.record();
        let target = path.to_owned();
        let ids = self.ids().clone();
        self.with_root(&container, View::Whole, Access::Write, move |root, _path| {
            wanted.unpack(root, &record, ids, options, tar)
        })
        .await?;
        self.publish_container(&container, "extract-to-dir", [("path", target.as_str())]);
        Ok(())
    }
}

/// A path that a client names in a container.
struct Wanted {
    container: String,
    path: String,
}

impl Wanted {
    fn new(container: &str, path: &str) -> Self {
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        Self { container: container.to_owned(), path }
    }

    fn missing(&self) -> EngineError {
        let (path, name) = (self.path.clone(), self.container.clone());
        ContainerError::NoFile { path, name }.into()
    }

    /// `/a/b/` and `/a/b/.` mean the directory itself, links followed; `/a/b` means the link.
    fn follow(&self) -> Follow {
        let follows = self.path.ends_with('/') || self.path.ends_with("/.");
        if follows { Follow::Yes } else { Follow::No }
    }

    fn stat(&self, root: &Root) -> Result<PathStat, EngineError> {
        let path = Path::new(&self.path);
        let stat = root.stat(path, self.follow()).map_err(|_gone| self.missing())?;
        let file_type = FileType::from_raw_mode(stat.st_mode);
        let link_target = if file_type == FileType::Symlink {
            // Docker gives where the link leads, as seen from inside.
            let resolved = root.resolve(path, Follow::Yes);
            resolved.or_else(|_dangling| root.read_link(path).map(PathBuf::from))
        } else {
            Ok(PathBuf::new())
        };
        let link_target = link_target.map_err(|_gone| self.missing())?;
        let nanos = i32::try_from(stat.st_mtime_nsec).unwrap_or(0);
        Ok(PathStat {
            name: self.base().to_owned(),
            size: stat.st_size,
            mode: go_mode(stat.st_mode),
            mtime: Timestamp::from_unix(stat.st_mtime, nanos).unwrap_or_default(),
            link_target: link_target.to_string_lossy().into_owned(),
        })
    }

    /// The last part of the path, by Go's `filepath.Base`.
    fn base(&self) -> &str {
        let trimmed = self.path.trim_end_matches("/.").trim_end_matches('/');
        match trimmed.rsplit('/').next() {
            Some(base) if !base.is_empty() => base,
            _ => "/",
        }
    }

    fn pack(
        &self,
        root: &Root,
        ids: &IdMaps,
        writer: &mut impl std::io::Write,
    ) -> Result<(), EngineError> {
        let name = if self.path.ends_with("/.") || self.base() == "/" { "." } else { self.base() };
        let path = match self.follow() {
            Follow::Yes => {
                root.resolve(Path::new(&self.path), Follow::Yes).map_err(|_gone| self.missing())?
            }
            Follow::No => PathBuf::from(&self.path),
        };
        let attributes = berth_fs::pack::Attributes { ids, mode: None };
        berth_fs::pack::rebased(root, &path, Path::new(name), attributes, writer)
            .map(|_packed| ())
            .map_err(archive_error)
    }

    fn unpack(
        &self,
        root: &Root,
        record: &Record,
        ids: IdMaps,
        options: ArchivePutOptions,
        mut tar: Box<dyn Read + Send>,
    ) -> Result<(), EngineError> {
        let unpacked = self.unpack_from(root, record, ids, options, &mut tar);
        if unpacked.is_err() {
            // A client that is still sending hears of the failure only when it is done.
            let rest = std::io::copy(&mut tar, &mut std::io::sink());
            tracing::debug!(?rest, "the rest of a refused archive");
        }
        unpacked
    }

    fn unpack_from(
        &self,
        root: &Root,
        record: &Record,
        ids: IdMaps,
        options: ArchivePutOptions,
        tar: &mut (dyn Read + Send),
    ) -> Result<(), EngineError> {
        let path = Path::new(&self.path);
        let stat = root.stat(path, Follow::Yes).map_err(|_gone| self.missing())?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            return Err(ContainerError::NotADirectory.into());
        }
        let resolved = root.resolve(path, Follow::Yes).map_err(|_gone| self.missing())?;
        check_writable(record, &resolved)?;
        let dir = root.open_dir(path).map_err(|_gone| self.missing())?;
        // Docker's daemon keeps the archive's owners either way; `copyUIDGID` changes nothing.
        let owner = Owner::Archive;
        let type_clash =
            if options.no_overwrite_dir_non_dir { TypeClash::Refuse } else { TypeClash::Replace };
        let unpack = UnpackOptions {
            whiteouts: WhiteoutStyle::Plain,
            devices: Devices::Create,
            owner,
            ids,
            known: IdMaps::default(),
            type_clash,
            limits: Limits::LAYER,
            dest_name: resolved,
        };
        let (_, plain) = berth_fs::decompress::open(tar).map_err(archive_error)?;
        berth_fs::unpack::unpack(
            BufReader::with_capacity(256 << 10, plain),
            dir.fd().as_fd(),
            &unpack,
        )
        .map(|_unpacked| ())
        .map_err(archive_error)
    }
}

/// Refuses what the container itself may not write either.
fn check_writable(record: &Record, path: &Path) -> Result<(), ContainerError> {
    let mount = record
        .mounts
        .iter()
        .filter(|mount| path.starts_with(&mount.destination))
        .max_by_key(|mount| mount.destination.len());
    match mount {
        Some(mount) if !mount.rw => Err(ContainerError::ReadOnlyVolume),
        None if record.host.readonly_rootfs => Err(ContainerError::ReadOnlyRoot),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base_names() {
        #[rustfmt::skip]
        let table = [
            ("/etc/hosts", "hosts"),
            ("etc",        "etc"),
            ("/etc/",      "etc"),
            ("/etc/.",     "etc"),
            ("/",          "/"),
            ("/.",         "/"),
        ];
        for (path, base) in table {
            assert_eq!(Wanted::new("c", path).base(), base, "{path}");
        }
    }
}

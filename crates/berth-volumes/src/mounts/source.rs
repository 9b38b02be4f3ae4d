//! What must be there on the host when a container starts.

use std::io;
use std::path::{Path, PathBuf};

use berth_types::Owner;

use super::error::{Cause, ConfigError};
use super::{ContainerMount, MountError, MountKind};

impl ContainerMount {
    /// What must exist before the container starts: checks the source of a bind, or creates the
    /// directory that `-v` promises (0755, `owner`'s), and checks that the host's mounts allow the
    /// propagation. Does nothing for volumes and tmpfs.
    pub fn ensure_source(&self, owner: Owner) -> Result<(), MountError> {
        if self.kind != MountKind::Bind {
            return Ok(());
        }
        match std::fs::metadata(&self.source) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.missing(owner)?,
            Err(source) => {
                return Err(MountError::Examine { path: self.source.clone(), source });
            }
        }
        self.check_propagation()
    }

    fn missing(&self, owner: Owner) -> Result<(), MountError> {
        if !self.create_source {
            let path = self.source.to_string_lossy().into_owned();
            let cause = Cause::NoSource { path };
            return Err(MountError::Config(ConfigError { kind: "bind".to_owned(), cause }));
        }
        let failed = |source| MountError::CreateSource { path: self.source.clone(), source };
        let is_missing = |dir: &&Path| std::fs::symlink_metadata(dir).is_err();
        let new: Vec<&Path> = self.source.ancestors().take_while(is_missing).collect();
        berth_fs::atomic::create_dir_durable(&self.source, 0o755).map_err(failed)?;
        for dir in new.iter().filter(|_| owner != Owner::ROOT) {
            std::os::unix::fs::chown(dir, Some(owner.uid), Some(owner.gid)).map_err(failed)?;
        }
        Ok(())
    }

    fn check_propagation(&self) -> Result<(), MountError> {
        let shared = matches!(self.propagation.as_str(), "shared" | "rshared");
        let slave = matches!(self.propagation.as_str(), "slave" | "rslave");
        if !shared && !slave {
            return Ok(());
        }
        let failed = |source| MountError::Examine { path: self.source.clone(), source };
        let real = std::fs::canonicalize(&self.source).map_err(failed)?;
        let mount = berth_sys::mountinfo::covering(&real).map_err(failed)?;
        let (on, tags) = match mount {
            Some(mount) => (mount.mount_point, mount.propagation),
            None => (PathBuf::from("/"), Vec::new()),
        };
        let has = |prefix: &str| tags.iter().any(|tag| tag.starts_with(prefix));
        let path = self.source.clone();
        if shared && !has("shared:") {
            return Err(MountError::NotShared { path, on });
        }
        if slave && !has("shared:") && !has("master:") {
            return Err(MountError::NotSlave { path, on });
        }
        Ok(())
    }
}

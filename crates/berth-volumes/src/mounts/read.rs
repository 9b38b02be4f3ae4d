//! One entry of `Binds` or `Mounts`, read and checked.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use berth_api::container::{BindOptions, Mount, MountDriver, VolumeOptions};

use super::error::{Cause, ConfigError};
use super::mode::{Mode, PROPAGATIONS};
use super::path::{clean, is_local};
use super::{ContainerMount, MountError, MountKind, ReadOnlyDepth, tmpfs};
use crate::anonymous_name;

/// Whether a bind's source must exist already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    MustExist,
    MayBeMissing,
}

/// One of `HostConfig.Binds`: `DST`, `SRC:DST` or `SRC:DST:MODE`.
pub(super) fn bind(spec: &str, volume_driver: &str) -> Result<ContainerMount, MountError> {
    let refused = || MountError::Spec { spec: spec.to_owned() };
    let parts: Vec<&str> = spec.splitn(4, ':').collect();
    let (source, target, mode) = match parts.as_slice() {
        ["", ..] => return Err(refused()),
        [target] => ("", *target, ""),
        // A destination and a mode make no volume.
        [_, mode] if Mode::parse(mode).is_some() => return Err(refused()),
        [source, target] => (*source, *target, ""),
        [source, target, mode] => (*source, *target, *mode),
        _ => return Err(refused()),
    };
    let read = Mode::parse(mode).ok_or_else(|| MountError::Mode { mode: mode.to_owned() })?;
    let is_bind = source.starts_with('/');
    let driver = if is_bind { "" } else { volume_driver };
    let volume_options = (read.no_copy || !driver.is_empty()).then(|| VolumeOptions {
        no_copy: read.no_copy,
        driver_config: Some(MountDriver { name: driver.to_owned(), ..MountDriver::default() }),
        ..VolumeOptions::default()
    });
    let bind_options = (!read.propagation.is_empty()).then(|| BindOptions {
        propagation: read.propagation.to_owned(),
        ..BindOptions::default()
    });
    let request = Mount {
        kind: if is_bind { "bind" } else { "volume" }.to_owned(),
        source: source.to_owned(),
        target: target.to_owned(),
        read_only: read.read_only,
        bind_options,
        volume_options,
        ..Mount::default()
    };
    let mut mount = read_mount(&request, Source::MayBeMissing).map_err(|error| match error {
        MountError::Config(source) => MountError::SpecConfig { spec: spec.to_owned(), source },
        other => other,
    })?;
    mode.clone_into(&mut mount.mode);
    mount.create_source = is_bind;
    Ok(mount)
}

/// One of `HostConfig.Mounts`.
pub(super) fn mount(request: &Mount) -> Result<ContainerMount, MountError> {
    read_mount(request, Source::MustExist)
}

fn read_mount(request: &Mount, source: Source) -> Result<ContainerMount, MountError> {
    let failed = |cause| MountError::Config(ConfigError { kind: request.kind.clone(), cause });
    check_target(&request.target).map_err(failed)?;
    match request.kind.as_str() {
        "bind" => {
            check_bind(request, source).map_err(failed)?;
            Ok(bind_mount(request))
        }
        "volume" => {
            check_volume(request).map_err(failed)?;
            volume_mount(request)
        }
        "tmpfs" => {
            check_tmpfs(request).map_err(failed)?;
            let options = tmpfs::mount_options(request.tmpfs_options.as_ref(), request.read_only);
            let tmpfs_options = options.map_err(failed)?;
            Ok(ContainerMount { tmpfs_options, ..blank(MountKind::Tmpfs, request) })
        }
        kind @ ("image" | "cluster") => {
            Err(MountError::Unsupported { feature: format!("mount type {kind}") })
        }
        _ => Err(failed(Cause::UnknownType)),
    }
}

fn check_target(target: &str) -> Result<(), Cause> {
    if target.is_empty() {
        return Err(Cause::Empty { field: "Target" });
    }
    if clean(target) == "/" {
        return Err(Cause::RootDestination);
    }
    check_absolute(target)
}

fn check_absolute(path: &str) -> Result<(), Cause> {
    if path.starts_with('/') { Ok(()) } else { Err(Cause::Relative { path: path.to_owned() }) }
}

fn check_bind(request: &Mount, source: Source) -> Result<(), Cause> {
    if request.source.is_empty() {
        return Err(Cause::Empty { field: "Source" });
    }
    if let Some(options) = &request.bind_options {
        if !options.propagation.is_empty() && !PROPAGATIONS.contains(&options.propagation.as_str())
        {
            return Err(Cause::Propagation { mode: options.propagation.clone() });
        }
        check_read_only_depth(options, request.read_only)?;
    }
    if request.volume_options.is_some() {
        return Err(Cause::Extra { field: "VolumeOptions" });
    }
    check_absolute(&request.source)?;
    let creates = request.bind_options.as_ref().is_some_and(|options| options.create_mountpoint);
    if source == Source::MayBeMissing || creates {
        return Ok(());
    }
    match std::fs::metadata(&request.source) {
        Ok(_) => Ok(()),
        Err(error)
            if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) =>
        {
            Err(Cause::NoSource { path: request.source.clone() })
        }
        Err(error) => Err(Cause::Examine { path: request.source.clone(), error }),
    }
}

fn check_read_only_depth(options: &BindOptions, read_only: bool) -> Result<(), Cause> {
    let (top, force) = (options.read_only_non_recursive, options.read_only_force_recursive);
    let conflict = match (read_only, top, force) {
        (false, true, _) => "!ReadOnly && BindOptions.ReadOnlyNonRecursive",
        (false, _, true) => "!ReadOnly && BindOptions.ReadOnlyForceRecursive",
        (true, true, true) => "ReadOnlyNonRecursive && BindOptions.ReadOnlyForceRecursive",
        _ => return Ok(()),
    };
    Err(Cause::Conflict { conflict })
}

fn check_volume(request: &Mount) -> Result<(), Cause> {
    if request.bind_options.is_some() {
        return Err(Cause::Extra { field: "BindOptions" });
    }
    let anonymous = request.source.is_empty();
    let subpath = request.volume_options.as_ref().map_or("", |options| &options.subpath);
    if !subpath.is_empty() {
        if anonymous {
            return Err(Cause::AnonymousSubpath);
        }
        if !is_local(subpath) {
            return Err(Cause::Subpath);
        }
    }
    if anonymous && request.read_only {
        return Err(Cause::AnonymousReadOnly);
    }
    Ok(())
}

fn check_tmpfs(request: &Mount) -> Result<(), Cause> {
    if request.bind_options.is_some() {
        return Err(Cause::Extra { field: "BindOptions" });
    }
    if !request.source.is_empty() {
        return Err(Cause::Extra { field: "Source" });
    }
    if request.volume_options.is_some() {
        return Err(Cause::Extra { field: "VolumeOptions" });
    }
    Ok(())
}

/// What all kinds have in common.
fn blank(kind: MountKind, request: &Mount) -> ContainerMount {
    ContainerMount {
        kind,
        destination: clean(&request.target),
        source: PathBuf::new(),
        volume: String::new(),
        driver: String::new(),
        anonymous: false,
        driver_options: BTreeMap::new(),
        labels: BTreeMap::new(),
        mode: String::new(),
        rw: !request.read_only,
        propagation: String::new(),
        copy: false,
        recursive: true,
        read_only_depth: ReadOnlyDepth::default(),
        create_source: false,
        default_mode: false,
        tmpfs_options: Vec::new(),
    }
}

fn bind_mount(request: &Mount) -> ContainerMount {
    let options = request.bind_options.clone().unwrap_or_default();
    let propagation = if options.propagation.is_empty() {
        "rprivate".to_owned()
    } else {
        options.propagation.clone()
    };
    let read_only_depth = if options.read_only_non_recursive || options.non_recursive {
        ReadOnlyDepth::Top
    } else if options.read_only_force_recursive {
        ReadOnlyDepth::ForceRecursive
    } else {
        ReadOnlyDepth::Recursive
    };
    ContainerMount {
        source: PathBuf::from(clean(&request.source)),
        propagation,
        recursive: !options.non_recursive,
        read_only_depth,
        create_source: options.create_mountpoint,
        ..blank(MountKind::Bind, request)
    }
}

fn volume_mount(request: &Mount) -> Result<ContainerMount, MountError> {
    let options = request.volume_options.clone().unwrap_or_default();
    if !options.subpath.is_empty() {
        return Err(MountError::Unsupported { feature: "VolumeOptions.Subpath".to_owned() });
    }
    let driver = options.driver_config.unwrap_or_default();
    let anonymous = request.source.is_empty();
    Ok(ContainerMount {
        volume: if anonymous { anonymous_name() } else { request.source.clone() },
        driver: driver.name,
        anonymous,
        driver_options: driver.options.into_map(),
        labels: options.labels.into_map(),
        copy: !options.no_copy,
        default_mode: true,
        ..blank(MountKind::Volume, request)
    })
}

/// A key of `Config.Volumes`: an anonymous volume. Not checked, as with Docker.
pub(super) fn anonymous(key: &str, volume_driver: &str) -> ContainerMount {
    let request = Mount { target: format!("/{key}"), ..Mount::default() };
    ContainerMount {
        volume: anonymous_name(),
        driver: volume_driver.to_owned(),
        anonymous: true,
        copy: true,
        ..blank(MountKind::Volume, &request)
    }
}

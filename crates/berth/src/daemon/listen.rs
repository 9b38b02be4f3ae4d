//! The sockets on which the API is served: unix, tcp, and those that a service manager hands over.

use std::io;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// Why a socket could not be opened.
#[derive(Debug, thiserror::Error)]
pub(super) enum ListenError {
    #[error("failed to load listeners: can't create unix socket {}", .path.display())]
    Unix { path: PathBuf, source: io::Error },
    #[error("failed to load listeners: can't create unix socket {}: another daemon listens there", .path.display())]
    InUse { path: PathBuf },
    #[error("failed to load listeners: {} is there and is not a socket", .path.display())]
    NotASocket { path: PathBuf },
    #[error("failed to load listeners: group {group} not found")]
    NoGroup { group: String },
    #[error("failed to load listeners: listen tcp {address}")]
    Tcp { address: String, source: io::Error },
    #[error("failed to start metrics server: listen tcp {address}")]
    Metrics { address: String, source: io::Error },
    #[error(
        "failed to load listeners: no sockets found via socket activation: make sure the service was started by systemd"
    )]
    NoneHandedOver,
    #[error("failed to load listeners: no file descriptor {name} was handed over")]
    NotHandedOver { name: String },
    #[error("failed to load listeners: cannot use the sockets handed over by the service manager")]
    HandedOver { source: io::Error },
}

/// An open socket.
#[derive(Debug)]
pub(super) enum Listener {
    /// A unix socket; `path` only where it is this daemon's to remove.
    Unix { listener: UnixListener, path: Option<PathBuf>, shown: String },
    /// A TCP socket.
    Tcp { listener: TcpListener, shown: String },
}

impl Listener {
    /// As the log names it.
    pub(super) fn shown(&self) -> &str {
        match self {
            Self::Unix { shown, .. } | Self::Tcp { shown, .. } => shown,
        }
    }
}

/// The group that Docker's packages make; others must exist.
const DEFAULT_GROUP: &str = "docker";

/// Opens all hosts. `handed` gives what a service manager handed over, and is asked once.
pub(super) fn open_all(hosts: &[String], group: &str) -> Result<Vec<Listener>, ListenError> {
    let mut listeners = Vec::new();
    let mut handed: Option<Vec<berth_sys::listen::ListenFd>> = None;
    for host in hosts {
        match host.split_once("://") {
            Some(("unix", path)) => listeners.push(open_unix(Path::new(path), group)?),
            Some(("fd", name)) => {
                let fds = match handed.take() {
                    Some(fds) => fds,
                    None => berth_sys::listen::take()
                        .map_err(|source| ListenError::HandedOver { source })?,
                };
                handed = Some(pick(fds, name, &mut listeners)?);
            }
            _ => listeners.push(open_tcp(host.trim_start_matches("tcp://"))?),
        }
    }
    Ok(listeners)
}

/// `fd://` and `fd://*` take all, `fd://NAME` those of that name, `fd://3` the first.
fn pick(
    fds: Vec<berth_sys::listen::ListenFd>,
    name: &str,
    into: &mut Vec<Listener>,
) -> Result<Vec<berth_sys::listen::ListenFd>, ListenError> {
    if fds.is_empty() {
        return Err(ListenError::NoneHandedOver);
    }
    let before = into.len();
    let mut rest = Vec::new();
    for (index, fd) in fds.into_iter().enumerate() {
        let number = (index + 3).to_string();
        if name.is_empty() || name == "*" || fd.name.as_deref() == Some(name) || number == name {
            into.push(adopt(fd.fd).map_err(|source| ListenError::HandedOver { source })?);
        } else {
            rest.push(fd);
        }
    }
    if into.len() == before {
        return Err(ListenError::NotHandedOver { name: name.to_owned() });
    }
    Ok(rest)
}

fn adopt(fd: OwnedFd) -> io::Result<Listener> {
    let family = rustix::net::getsockname(&fd)?.address_family();
    if family == rustix::net::AddressFamily::UNIX {
        let listener = UnixListener::from(fd);
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let shown = address
            .as_pathname()
            .map_or_else(|| "fd".to_owned(), |path| path.display().to_string());
        return Ok(Listener::Unix { listener, path: None, shown });
    }
    let listener = TcpListener::from(fd);
    listener.set_nonblocking(true)?;
    let shown = listener.local_addr()?.to_string();
    Ok(Listener::Tcp { listener, shown })
}

/// Opens the address of the metrics; `None` where none is set.
pub(super) fn open_metrics(address: &str) -> Result<Option<Listener>, ListenError> {
    if address.is_empty() {
        return Ok(None);
    }
    let metrics = |source| ListenError::Metrics { address: address.to_owned(), source };
    bind_tcp(address).map(Some).map_err(metrics)
}

fn open_tcp(address: &str) -> Result<Listener, ListenError> {
    bind_tcp(address).map_err(|source| ListenError::Tcp { address: address.to_owned(), source })
}

fn bind_tcp(address: &str) -> io::Result<Listener> {
    let listener = TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    let shown = listener.local_addr()?.to_string();
    Ok(Listener::Tcp { listener, shown })
}

fn open_unix(path: &Path, group: &str) -> Result<Listener, ListenError> {
    let unix = |source| ListenError::Unix { path: path.to_owned(), source };
    let gid = match group {
        "" => None,
        name => match find_group(name).map_err(unix)? {
            Some(gid) => Some(gid),
            None if name == DEFAULT_GROUP => {
                tracing::warn!(
                    "could not change group {} to docker: group docker not found",
                    path.display()
                );
                None
            }
            None => return Err(ListenError::NoGroup { group: name.to_owned() }),
        },
    };
    clear_stale(path)?;
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(unix)?;
    }
    // Nobody but root may connect before the group is set.
    let mask = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o177));
    let bound = UnixListener::bind(path);
    rustix::process::umask(mask);
    let listener = bound.map_err(unix)?;
    listener.set_nonblocking(true).map_err(unix)?;
    if let Some(gid) = gid {
        std::os::unix::fs::chown(path, None, Some(gid)).map_err(unix)?;
    }
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660)).map_err(unix)?;
    let shown = path.display().to_string();
    Ok(Listener::Unix { listener, path: Some(path.to_owned()), shown })
}

/// Removes the socket of a daemon that is gone, and nothing else.
fn clear_stale(path: &Path) -> Result<(), ListenError> {
    let unix = |source| ListenError::Unix { path: path.to_owned(), source };
    let kind = match std::fs::symlink_metadata(path) {
        Ok(metadata) => metadata.file_type(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(unix(error)),
    };
    if !kind.is_socket() {
        return Err(ListenError::NotASocket { path: path.to_owned() });
    }
    if UnixStream::connect(path).is_ok() {
        return Err(ListenError::InUse { path: path.to_owned() });
    }
    std::fs::remove_file(path).map_err(unix)
}

/// The id of a group, by name or number, from `/etc/group`.
fn find_group(name: &str) -> io::Result<Option<u32>> {
    let text = match std::fs::read_to_string("/etc/group") {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error),
    };
    let by_name = text.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok())?
    });
    Ok(by_name.or_else(|| name.parse().ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unix_socket_is_private_to_root_and_group() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/berth.sock");
        let listener = open_unix(&path, "").unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o660);
        assert!(matches!(open_unix(&path, ""), Err(ListenError::InUse { .. })));
        drop(listener);
        open_unix(&path, "").expect("a stale socket is replaced");
    }

    #[test]
    fn an_address_of_metrics_that_cannot_be_is_said() {
        assert!(open_metrics("").unwrap().is_none());
        for address in ["127.0.0.1", "127.0.0.1:x", "192.0.2.1:9323"] {
            let error = open_metrics(address).unwrap_err();
            let expected = format!("failed to start metrics server: listen tcp {address}");
            assert_eq!(error.to_string(), expected);
        }
        let open = open_metrics("127.0.0.1:0").unwrap().unwrap();
        assert!(open.shown().starts_with("127.0.0.1:"), "{open:?}");
    }

    #[test]
    fn what_is_not_a_socket_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data");
        berth_fs::atomic::write(&path, b"precious").unwrap();
        assert!(matches!(open_unix(&path, ""), Err(ListenError::NotASocket { .. })));
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    }

    #[test]
    fn a_missing_group_is_an_error_unless_it_is_dockers() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let error = open_unix(&path, "no-such-group").unwrap_err();
        assert_eq!(error.to_string(), "failed to load listeners: group no-such-group not found");
        assert_eq!(find_group("root").unwrap(), Some(0));
        assert_eq!(find_group("12345").unwrap(), Some(12345));
    }
}

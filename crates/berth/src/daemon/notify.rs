//! Telling systemd how far the daemon is (`sd_notify`).

use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Sends `state` where `NOTIFY_SOCKET` says; does nothing without one.
pub(super) fn notify(state: &str) -> io::Result<()> {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET").filter(|path| !path.is_empty()) else {
        return Ok(());
    };
    let path = path.into_encoded_bytes();
    let address = match path.strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(String::from_utf8_lossy(&path).as_ref())?,
    };
    UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address)?;
    Ok(())
}

/// [`notify`]; a service manager that does not listen stops nothing.
pub(super) fn notify_or_warn(state: &str) {
    if let Err(error) = notify(state) {
        tracing::warn!(%error, "cannot notify the service manager");
    }
}

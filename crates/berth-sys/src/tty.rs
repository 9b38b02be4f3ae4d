//! Pseudo-terminals.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;

/// A new pseudo-terminal.
#[derive(Debug)]
pub struct Pty {
    /// The side that the terminal's owner reads and writes.
    pub master: OwnedFd,
    /// The side that the program gets.
    pub slave: OwnedFd,
}

/// Opens a pseudo-terminal; both sides are closed on exec and become nobody's controlling one.
pub fn open() -> io::Result<Pty> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let master = rustix::pty::openpt(flags)?;
    rustix::pty::grantpt(&master)?;
    rustix::pty::unlockpt(&master)?;
    let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags)?;
    Ok(Pty { master, slave })
}

/// Makes `slave` the controlling terminal of the session that this process leads.
pub fn make_controlling(slave: impl AsFd) -> io::Result<()> {
    Ok(rustix::process::ioctl_tiocsctty(slave)?)
}

/// Sets the size that programs see.
pub fn set_size(tty: impl AsFd, rows: u16, columns: u16) -> io::Result<()> {
    let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    Ok(rustix::termios::tcsetwinsize(tty, size)?)
}

/// The size as (rows, columns).
pub fn size(tty: impl AsFd) -> io::Result<(u16, u16)> {
    let size = rustix::termios::tcgetwinsize(tty)?;
    Ok((size.ws_row, size.ws_col))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_see_the_size() {
        let pty = open().unwrap();
        set_size(&pty.master, 33, 101).unwrap();
        assert_eq!(size(&pty.slave).unwrap(), (33, 101));
        assert!(rustix::termios::isatty(&pty.slave));
    }
}

//! The terminal: raw mode, its size, and the keys that detach from a container.

use std::io::{self, IsTerminal as _};

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

/// Raw mode of stdin, undone on drop.
#[derive(Debug)]
pub(super) struct RawMode {
    before: Termios,
}

impl RawMode {
    /// Sends every key on as it is pressed.
    pub(super) fn enter() -> io::Result<Self> {
        let before = tcgetattr(rustix::stdio::stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &raw)?;
        Ok(Self { before })
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        if tcsetattr(rustix::stdio::stdin(), OptionalActions::Drain, &self.before).is_err() {
            super::ui::error("the terminal's mode could not be put back: try `reset`");
        }
    }
}

/// Whether stdin is a terminal.
pub(super) fn stdin_is_terminal() -> bool {
    io::stdin().is_terminal()
}

/// Whether stdout is a terminal.
pub(super) fn stdout_is_terminal() -> bool {
    io::stdout().is_terminal()
}

pub(super) fn stderr_is_terminal() -> bool {
    io::stderr().is_terminal()
}

/// Height and width of the terminal at stdout.
pub(super) fn size() -> Option<(u16, u16)> {
    let size = tcgetwinsize(rustix::stdio::stdout()).ok()?;
    (size.ws_row != 0).then_some((size.ws_row, size.ws_col))
}

/// Looks for the keys that detach in what is typed.
#[derive(Debug)]
pub(super) struct DetachScanner {
    keys: Vec<u8>,
    matched: usize,
}

impl DetachScanner {
    /// Reads Docker's `ctrl-p,ctrl-q` notation; `None` gives just those.
    pub(super) fn new(keys: Option<&str>) -> Result<Self, String> {
        let text = keys.unwrap_or("ctrl-p,ctrl-q");
        let bad = || format!("invalid detach keys ({text}) provided");
        let mut codes = Vec::new();
        for key in text.split(',') {
            codes.push(match key.strip_prefix("ctrl-") {
                Some("@") => 0,
                Some("[") => 27,
                Some("\\") => 28,
                Some("]") => 29,
                Some("^") => 30,
                Some("_") => 31,
                Some(letter) => match letter.as_bytes() {
                    [letter @ b'a'..=b'z'] => letter - b'a' + 1,
                    _ => return Err(bad()),
                },
                None => match key.as_bytes() {
                    [byte] => *byte,
                    _ => return Err(bad()),
                },
            });
        }
        Ok(Self { keys: codes, matched: 0 })
    }

    /// The bytes to send on, and whether the sequence is complete.
    pub(super) fn feed(&mut self, typed: &[u8]) -> (Vec<u8>, bool) {
        let mut forward = Vec::with_capacity(typed.len());
        for &byte in typed {
            if byte != self.keys[self.matched] {
                forward.extend_from_slice(&self.keys[..self.matched]);
                self.matched = 0;
            }
            if byte == self.keys[self.matched] {
                self.matched += 1;
                if self.matched == self.keys.len() {
                    return (forward, true);
                }
            } else {
                forward.push(byte);
            }
        }
        (forward, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn detach_keys_are_found_across_reads_and_nothing_else_is_lost() {
        type Row = (&'static [&'static [u8]], &'static [u8], bool);
        #[rustfmt::skip]
        let table: &[Row] = &[
            (&[b"ls\r"],               b"ls\r",         false),
            (&[b"a\x10", b"\x11"],     b"a",            true),
            (&[b"\x10", b"x"],         b"\x10x",        false),
            (&[b"\x10\x10\x11"],       b"\x10",         true),
        ];
        for (reads, sent, detached) in table {
            let mut scanner = DetachScanner::new(None).unwrap();
            let (mut all, mut found) = (Vec::new(), false);
            for read in *reads {
                let (forward, done) = scanner.feed(read);
                all.extend(forward);
                found |= done;
            }
            assert_eq!((all.as_slice(), found), (*sent, *detached), "{reads:?}");
        }
        assert!(DetachScanner::new(Some("ctrl-x,y,ctrl-]")).is_ok());
        assert!(DetachScanner::new(Some("ctrl-1x")).is_err());
        assert!(DetachScanner::new(Some("")).is_err());
    }
}

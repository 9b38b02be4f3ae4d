//! Everything that the commands print goes through here.

use std::io::{self, Write as _};

use tokio::io::AsyncWriteExt as _;

/// Which of the two outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum To {
    Out,
    Err,
}

/// Prints a line on stdout.
pub(super) fn line(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}")
}

/// Prints text on stdout as it is.
pub(super) fn text(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// Prints a line on stderr. A reader that is gone is nobody to tell.
pub(super) fn error(text: &str) {
    match writeln!(io::stderr().lock(), "{text}") {
        Ok(()) | Err(_) => {}
    }
}

/// Shows how far something is on the terminal's present line, in place of what was shown there; empty
/// clears it.
pub(super) fn progress(text: &str) {
    match write!(io::stderr().lock(), "\r\x1b[K{text}") {
        Ok(()) | Err(_) => {}
    }
}

/// Copies bytes of a stream, without holding up other tasks.
pub(super) async fn bytes(to: To, bytes: &[u8]) -> io::Result<()> {
    match to {
        To::Out => {
            let mut out = tokio::io::stdout();
            out.write_all(bytes).await?;
            out.flush().await
        }
        To::Err => {
            let mut err = tokio::io::stderr();
            err.write_all(bytes).await?;
            err.flush().await
        }
    }
}

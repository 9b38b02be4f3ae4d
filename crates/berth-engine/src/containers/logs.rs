//! Reading what a container wrote.

use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use berth_api::options::{AttachOptions, LogOptions};
use berth_logs::{Entry, ReadOptions, Reader, Stream};

use super::registry::Container;
use super::state::Status;
use crate::engine::Engine;
use crate::error::{ContainerError, EngineError};
use crate::pieces::{ByteStream, PieceWriter, pieces};

/// How long a follower sleeps at most before it looks whether anybody still listens.
const NAP: Duration = Duration::from_millis(500);

impl Engine {
    /// Whether the container has a terminal, and its output: framed without one.
    pub fn logs(
        &self,
        name: &str,
        options: &LogOptions,
    ) -> Result<(bool, ByteStream), EngineError> {
        if !options.stdout && !options.stderr {
            return Err(ContainerError::NoStream.into());
        }
        let container = self.registry().find(name)?;
        let (tty, path) = {
            let live = container.live();
            (live.record.config.tty, live.record.log_path.clone())
        };
        if path.as_os_str().is_empty() {
            return Err(ContainerError::LogsUnreadable.into());
        }
        let read = ReadOptions {
            stdout: options.stdout,
            stderr: options.stderr,
            tail: options.tail.map(|lines| lines as u64),
            since: options.since,
            until: options.until,
        };
        let reader = Reader::open(&path, &read)?;
        Ok((tty, spawn(container, reader, Format::of(tty, options), options.follow)?))
    }

    /// What an attaching client sees of the past.
    pub(crate) fn past_output(
        container: &Arc<Container>,
        options: &AttachOptions,
    ) -> Result<ByteStream, EngineError> {
        let (tty, path) = {
            let live = container.live();
            (live.record.config.tty, live.record.log_path.clone())
        };
        let read = ReadOptions {
            stdout: options.stdout,
            stderr: options.stderr,
            ..ReadOptions::default()
        };
        let reader = Reader::open(&path, &read)?;
        let format = Format { tty, timestamps: false, details: false };
        spawn(Arc::clone(container), reader, format, false)
    }
}

/// Runs the reader on a thread of its own: a follower may live for days, and must not take a place
/// of the blocking pool.
fn spawn(
    container: Arc<Container>,
    reader: Reader,
    format: Format,
    follow: bool,
) -> Result<ByteStream, EngineError> {
    let (writer, stream) = pieces();
    std::thread::Builder::new()
        .name("logs".to_owned())
        .stack_size(128 << 10)
        .spawn(move || {
            let mut writer = writer;
            let result = copy(&container, reader, format, follow, &mut writer);
            writer.finish(result);
        })
        .map_err(EngineError::io("start a thread for", std::path::Path::new("logs")))?;
    Ok(stream)
}

fn copy(
    container: &Container,
    mut reader: Reader,
    format: Format,
    follow: bool,
    writer: &mut PieceWriter,
) -> Result<(), EngineError> {
    let mut line = Vec::new();
    loop {
        // Looked at before the last lines are read, so that none can come in between.
        let may_go_on = follow && writes(container);
        let mut sent = false;
        while let Some(entry) = reader.next_entry()? {
            line.clear();
            format.write(&entry, &mut line);
            if writer.write_all(&line).is_err() {
                return Ok(());
            }
            sent = true;
        }
        if sent && writer.push().is_err() {
            return Ok(());
        }
        if !may_go_on || reader.is_done() || writer.is_closed() {
            return Ok(());
        }
        reader.wait(NAP)?;
    }
}

/// Whether more output may come without somebody starting the container by hand.
fn writes(container: &Container) -> bool {
    let state = container.state();
    state.is_running() || state.status == Status::Restarting
}

/// How a line is written.
#[derive(Debug, Clone, Copy)]
struct Format {
    tty: bool,
    timestamps: bool,
    details: bool,
}

impl Format {
    fn of(tty: bool, options: &LogOptions) -> Self {
        Self { tty, timestamps: options.timestamps, details: options.details }
    }

    fn write(self, entry: &Entry, out: &mut Vec<u8>) {
        let start = out.len();
        if !self.tty {
            let stream = match entry.stream {
                Stream::Stdout => 1,
                Stream::Stderr => 2,
            };
            out.extend_from_slice(&[stream, 0, 0, 0, 0, 0, 0, 0]);
        }
        if self.timestamps {
            out.extend_from_slice(fixed_width(entry.time).as_bytes());
            out.push(b' ');
        }
        if self.details {
            let pairs: Vec<String> =
                entry.attrs.iter().map(|(k, v)| format!("{}={}", escape(k), escape(v))).collect();
            out.extend_from_slice(pairs.join(",").as_bytes());
            out.push(b' ');
        }
        out.extend_from_slice(&entry.line);
        if !self.tty {
            let length = u32::try_from(out.len() - start - 8).unwrap_or(u32::MAX);
            out[start + 4..start + 8].copy_from_slice(&length.to_be_bytes());
        }
    }
}

/// Docker's fixed-width time: always nine digits of fraction.
fn fixed_width(time: berth_types::Timestamp) -> String {
    let text = time.to_string();
    let bare = text.trim_end_matches('Z');
    let (seconds, fraction) = bare.split_once('.').unwrap_or((bare, ""));
    format!("{seconds}.{fraction:0<9}Z")
}

/// Go's `url.QueryEscape`.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                escaped.push(char::from(byte));
            }
            b' ' => escaped.push('+'),
            other => {
                escaped.push('%');
                escaped.push_str(&berth_types::id::to_hex(&[other]).to_ascii_uppercase());
            }
        }
    }
    escaped
}

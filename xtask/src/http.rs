//! A small HTTP/1.1 client over unix sockets: what measuring an engine takes, and nothing between
//! the clock and the socket.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

/// The API version in which requests are phrased, where the engine still knows it.
const VERSION: (u32, u32) = (1, 41);
/// An engine that is silent for so long is taken for stuck.
const PATIENCE: Duration = Duration::from_mins(5);

/// An engine's API socket. Each request has a connection of its own.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    socket: PathBuf,
    prefix: String,
}

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Vec<u8>,
}

/// What goes with a request.
#[derive(Debug, Clone, Copy)]
enum Body<'a> {
    None,
    Json(&'a str),
    Tar(&'a [u8]),
}

impl Client {
    /// Asks the engine which versions it speaks.
    pub(crate) fn connect(socket: &Path) -> Result<Self> {
        let mut client = Self { socket: socket.to_owned(), prefix: String::new() };
        let version = client.get("/version")?;
        let oldest = version["MinAPIVersion"].as_str().and_then(parse_version).unwrap_or(VERSION);
        let (major, minor) = oldest.max(VERSION);
        client.prefix = format!("/v{major}.{minor}");
        Ok(client)
    }

    /// The socket's path.
    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    pub(crate) fn get(&self, path: &str) -> Result<Value> {
        self.expect("GET", path, Body::None)
    }

    /// The answer as it came. Reading a long list as JSON takes longer here than making it there.
    pub(crate) fn get_bytes(&self, path: &str) -> Result<Vec<u8>> {
        let answer = self.exchange("GET", path, Body::None, false)?;
        self.check("GET", path, answer).map(|answer| answer.body)
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> Result<Value> {
        let text = if body.is_null() { String::new() } else { body.to_string() };
        self.expect("POST", path, Body::Json(&text))
    }

    pub(crate) fn post_tar(&self, path: &str, tar: &[u8]) -> Result<Value> {
        self.expect("POST", path, Body::Tar(tar))
    }

    pub(crate) fn put_tar(&self, path: &str, tar: &[u8]) -> Result<Value> {
        self.expect("PUT", path, Body::Tar(tar))
    }

    pub(crate) fn delete(&self, path: &str) -> Result<Value> {
        self.expect("DELETE", path, Body::None)
    }

    /// Turns the connection into a stream and reads it to its end.
    pub(crate) fn hijack(&self, path: &str, body: &Value) -> Result<Vec<u8>> {
        let text = body.to_string();
        let answer = self.exchange("POST", path, Body::Json(&text), true)?;
        self.check("POST", path, answer).map(|answer| answer.body)
    }

    /// The answer as JSON, or nothing where there is none; fails unless the status is a success.
    fn expect(&self, method: &str, path: &str, body: Body<'_>) -> Result<Value> {
        let answer = self.exchange(method, path, body, false)?;
        let answer = self.check(method, path, answer)?;
        // A stream of messages (load) is no single JSON value; an error in it has a name.
        let text = String::from_utf8_lossy(&answer.body);
        if text.contains("\"errorDetail\"") {
            bail!("{method} {path} on {}: {}", self.socket.display(), text.trim());
        }
        Ok(serde_json::from_str(&text).unwrap_or(Value::Null))
    }

    fn check(&self, method: &str, path: &str, answer: Answer) -> Result<Answer> {
        if matches!(answer.status, 101 | 200..=299 | 304) {
            return Ok(answer);
        }
        let text = String::from_utf8_lossy(&answer.body);
        bail!(
            "{method} {path} on {}: status {}: {}",
            self.socket.display(),
            answer.status,
            text.trim()
        );
    }

    fn exchange(&self, method: &str, path: &str, body: Body<'_>, upgrade: bool) -> Result<Answer> {
        let what = || format!("{method} {path} on {}", self.socket.display());
        let mut stream = UnixStream::connect(&self.socket).with_context(what)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let (kind, bytes) = match body {
            Body::None => ("", &[][..]),
            Body::Json(text) => ("Content-Type: application/json\r\n", text.as_bytes()),
            Body::Tar(bytes) => ("Content-Type: application/x-tar\r\n", bytes),
        };
        let connection = if upgrade { "Upgrade\r\nUpgrade: tcp" } else { "close" };
        let head = format!(
            "{method} {}{path} HTTP/1.1\r\nHost: localhost\r\nConnection: {connection}\r\n\
             {kind}Content-Length: {}\r\n\r\n",
            self.prefix,
            bytes.len()
        );
        stream.write_all(head.as_bytes()).with_context(what)?;
        // An engine may answer and hang up before it has read all of a body it refuses.
        let sent = stream.write_all(bytes);
        match read_answer(stream) {
            Ok(answer) => Ok(answer),
            Err(error) => Err(sent.err().map_or(error, Into::into)).with_context(what),
        }
    }
}

fn parse_version(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

fn read_answer(stream: UnixStream) -> Result<Answer> {
    let mut reader = BufReader::new(stream);
    let status_line = read_line(&mut reader)?;
    let status: u16 = status_line
        .split(' ')
        .nth(1)
        .and_then(|code| code.parse().ok())
        .with_context(|| format!("no HTTP answer: {status_line:?}"))?;
    let mut length = None;
    let mut chunked = false;
    loop {
        let line = read_line(&mut reader)?;
        let Some((name, value)) = line.split_once(':') else { break };
        let value = value.trim();
        if name.eq_ignore_ascii_case("content-length") {
            length = Some(value.parse().context("content-length")?);
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            chunked = value.eq_ignore_ascii_case("chunked");
        }
    }
    let mut body = Vec::new();
    if matches!(status, 204 | 304) {
        // These never have one.
    } else if chunked {
        read_chunks(&mut reader, &mut body)?;
    } else if let Some(length) = length {
        reader.take(length).read_to_end(&mut body)?;
    } else {
        reader.read_to_end(&mut body)?;
    }
    Ok(Answer { status, body })
}

/// A line without its end; empty at the end of the head.
fn read_line(reader: &mut BufReader<UnixStream>) -> Result<String> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        bail!("the engine hung up");
    }
    Ok(line.trim_end().to_owned())
}

fn read_chunks(reader: &mut BufReader<UnixStream>, body: &mut Vec<u8>) -> Result<()> {
    loop {
        let line = read_line(reader)?;
        let digits = line.split(';').next().unwrap_or_default();
        let size = u64::from_str_radix(digits, 16).with_context(|| format!("chunk {line:?}"))?;
        if size == 0 {
            return Ok(());
        }
        if reader.take(size).read_to_end(body)? as u64 != size {
            bail!("the engine hung up in the middle of an answer");
        }
        read_line(reader)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer_to(bytes: &[u8]) -> Result<Answer> {
        let (mut server, client) = UnixStream::pair().unwrap();
        server.write_all(bytes).unwrap();
        drop(server);
        read_answer(client)
    }

    #[test]
    fn answers_of_every_framing_are_read() {
        #[rustfmt::skip]
        let table: &[(&str, Option<(u16, &str)>)] = &[
            ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokrest",                      Some((200, "ok"))),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n", Some((200, "abc"))),
            ("HTTP/1.1 101 UPGRADED\r\n\r\nstream",                                     Some((101, "stream"))),
            ("HTTP/1.1 204 No Content\r\n\r\n",                                         Some((204, ""))),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",            None),
            ("",                                                                        None),
            ("nonsense\r\n\r\n",                                                        None),
        ];
        for (bytes, expected) in table {
            let got = answer_to(bytes.as_bytes()).ok();
            let got = got.map(|answer| (answer.status, String::from_utf8(answer.body).unwrap()));
            let expected = expected.map(|(status, body)| (status, body.to_owned()));
            assert_eq!(got, expected, "{bytes:?}");
        }
    }
}

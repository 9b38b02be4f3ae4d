//! A small HTTP/1.1 client over unix sockets, with nothing between a kill and the socket.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

/// The API version in which requests are phrased.
const VERSION: &str = "/v1.41";
/// An engine that is silent for so long is taken for stuck.
const PATIENCE: Duration = Duration::from_secs(30);

/// An engine's API socket. Each request has a connection of its own.
#[derive(Debug, Clone)]
pub(super) struct Client {
    socket: PathBuf,
}

/// A whole answer.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: Vec<u8>,
}

/// A request, ready to be sent.
#[derive(Debug, Clone)]
pub(super) struct Request {
    pub(super) method: &'static str,
    pub(super) path: String,
    pub(super) body: Body,
}

/// What goes with a request.
#[derive(Debug, Clone)]
pub(super) enum Body {
    None,
    Json(Value),
    Tar(Vec<u8>),
}

impl Request {
    pub(super) fn get(path: impl Into<String>) -> Self {
        Self { method: "GET", path: path.into(), body: Body::None }
    }

    pub(super) fn post(path: impl Into<String>, body: Value) -> Self {
        let body = if body.is_null() { Body::None } else { Body::Json(body) };
        Self { method: "POST", path: path.into(), body }
    }

    pub(super) fn post_tar(path: impl Into<String>, tar: Vec<u8>) -> Self {
        Self { method: "POST", path: path.into(), body: Body::Tar(tar) }
    }

    pub(super) fn delete(path: impl Into<String>) -> Self {
        Self { method: "DELETE", path: path.into(), body: Body::None }
    }
}

impl Answer {
    /// Whether it tells of success, to its very end.
    pub(super) fn is_success(&self) -> bool {
        matches!(self.status, 200..=299 | 304)
            && !String::from_utf8_lossy(&self.body).contains("\"errorDetail\"")
    }

    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).trim().to_owned()
    }

    pub(super) fn json(&self) -> Result<Value> {
        serde_json::from_slice(&self.body).with_context(|| format!("not JSON: {:?}", self.text()))
    }
}

impl Client {
    pub(super) fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned() }
    }

    /// Sends a request and reads the whole answer, whatever its status.
    pub(super) fn send(&self, request: &Request) -> Result<Answer> {
        let mut stream = self.connect()?;
        let what = || format!("{} {}", request.method, request.path);
        let sent = write_request(&mut stream, request, "close");
        // An engine may answer and hang up before it has read all of a body it refuses.
        let answer = read_answer(&mut BufReader::new(stream));
        match (answer, sent) {
            (Ok(answer), _) => Ok(answer),
            (Err(_), Err(error)) | (Err(error), Ok(())) => Err(error).with_context(what),
        }
    }

    /// [`send`](Self::send); anything but success is an error.
    pub(super) fn expect(&self, request: &Request) -> Result<Answer> {
        let answer = self.send(request)?;
        if answer.is_success() {
            return Ok(answer);
        }
        bail!("{} {}: {} {}", request.method, request.path, answer.status, answer.text())
    }

    pub(super) fn get(&self, path: &str) -> Result<Value> {
        self.expect(&Request::get(path))?.json()
    }

    /// What is at `path`, or `None` where the engine says 404.
    pub(super) fn find(&self, path: &str) -> Result<Option<Value>> {
        let answer = self.send(&Request::get(path))?;
        match answer.status {
            200 => answer.json().map(Some),
            404 => Ok(None),
            status => bail!("GET {path}: {status} {}", answer.text()),
        }
    }

    pub(super) fn bytes(&self, path: &str) -> Result<Vec<u8>> {
        Ok(self.expect(&Request::get(path))?.body)
    }

    pub(super) fn post(&self, path: &str, body: Value) -> Result<Answer> {
        self.expect(&Request::post(path, body))
    }

    pub(super) fn delete(&self, path: &str) -> Result<Answer> {
        self.expect(&Request::delete(path))
    }

    /// Turns a connection into a byte stream.
    pub(super) fn hijack(&self, path: &str, body: Value) -> Result<Stream> {
        let mut stream = self.connect()?;
        let request = Request::post(path, body);
        write_request(&mut stream, &request, "Upgrade\r\nUpgrade: tcp")?;
        let mut reader = BufReader::new(stream);
        let head = read_head(&mut reader)?;
        if head.status != 101 && head.status != 200 {
            let body = read_body(&mut reader, &head)?;
            bail!("POST {path}: {} {}", head.status, String::from_utf8_lossy(&body));
        }
        Ok(Stream { reader, chunked: false })
    }

    /// Opens an answer that is read as it comes.
    pub(super) fn follow(&self, path: &str) -> Result<Stream> {
        let mut stream = self.connect()?;
        write_request(&mut stream, &Request::get(path), "close")?;
        let mut reader = BufReader::new(stream);
        let head = read_head(&mut reader)?;
        if head.status != 200 {
            bail!("GET {path}: {}", head.status);
        }
        Ok(Stream { reader, chunked: head.chunked })
    }

    fn connect(&self) -> Result<UnixStream> {
        let stream = UnixStream::connect(&self.socket)
            .with_context(|| format!("cannot connect to {}", self.socket.display()))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(stream)
    }
}

/// A stream of Docker's frames (8 bytes of head, then that many bytes of output).
#[derive(Debug)]
pub(super) struct Stream {
    reader: BufReader<UnixStream>,
    chunked: bool,
}

impl Stream {
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        Ok(self.reader.get_mut().write_all(bytes)?)
    }

    /// Reads frames until `enough` of the output so far, or to the end of the stream.
    pub(super) fn read_until(&mut self, enough: impl Fn(&[u8]) -> bool) -> Vec<u8> {
        let mut raw = Vec::new();
        let mut output = Vec::new();
        loop {
            while let Some((frame, rest)) = split_frame(&raw) {
                output.extend_from_slice(frame);
                raw = rest.to_vec();
            }
            if enough(&output) {
                return output;
            }
            match self.piece() {
                Ok(piece) if !piece.is_empty() => raw.extend_from_slice(&piece),
                // The daemon's death cuts streams anywhere.
                Ok(_) | Err(_) => return output,
            }
        }
    }

    fn piece(&mut self) -> Result<Vec<u8>> {
        if self.chunked {
            return Ok(read_chunk(&mut self.reader)?.unwrap_or_default());
        }
        let piece = self.reader.fill_buf()?.to_vec();
        self.reader.consume(piece.len());
        Ok(piece)
    }
}

/// The output in whole frames.
pub(super) fn unframe(mut bytes: &[u8]) -> Vec<u8> {
    let mut output = Vec::new();
    while let Some((frame, rest)) = split_frame(bytes) {
        output.extend_from_slice(frame);
        bytes = rest;
    }
    output
}

fn split_frame(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let length = bytes.get(4..8)?;
    let length = u32::from_be_bytes([length[0], length[1], length[2], length[3]]);
    let end = usize::try_from(length).ok()?.checked_add(8)?;
    (bytes.len() >= end).then(|| (&bytes[8..end], &bytes[end..]))
}

fn write_request(stream: &mut UnixStream, request: &Request, connection: &str) -> Result<()> {
    let json;
    let (kind, bytes) = match &request.body {
        Body::None => ("", &[][..]),
        Body::Json(value) => {
            json = value.to_string();
            ("Content-Type: application/json\r\n", json.as_bytes())
        }
        Body::Tar(bytes) => ("Content-Type: application/x-tar\r\n", bytes.as_slice()),
    };
    let head = format!(
        "{} {VERSION}{} HTTP/1.1\r\nHost: localhost\r\nConnection: {connection}\r\n\
         {kind}Content-Length: {}\r\n\r\n",
        request.method,
        request.path,
        bytes.len()
    );
    stream.write_all(head.as_bytes())?;
    Ok(stream.write_all(bytes)?)
}

#[derive(Debug)]
struct Head {
    status: u16,
    length: Option<u64>,
    chunked: bool,
}

fn read_answer(reader: &mut BufReader<UnixStream>) -> Result<Answer> {
    let head = read_head(reader)?;
    let body = read_body(reader, &head)?;
    Ok(Answer { status: head.status, body })
}

fn read_head(reader: &mut BufReader<UnixStream>) -> Result<Head> {
    let status_line = read_line(reader)?;
    let status = status_line
        .split(' ')
        .nth(1)
        .and_then(|code| code.parse().ok())
        .with_context(|| format!("no HTTP answer: {status_line:?}"))?;
    let mut head = Head { status, length: None, chunked: false };
    loop {
        let line = read_line(reader)?;
        let Some((name, value)) = line.split_once(':') else { return Ok(head) };
        let value = value.trim();
        if name.eq_ignore_ascii_case("content-length") {
            head.length = Some(value.parse().context("content-length")?);
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            head.chunked = value.eq_ignore_ascii_case("chunked");
        }
    }
}

fn read_body(reader: &mut BufReader<UnixStream>, head: &Head) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    if matches!(head.status, 204 | 304) {
        // These never have one.
    } else if head.chunked {
        while let Some(chunk) = read_chunk(reader)? {
            body.extend_from_slice(&chunk);
        }
    } else if let Some(length) = head.length {
        if reader.take(length).read_to_end(&mut body)? as u64 != length {
            bail!("the engine hung up in the middle of an answer");
        }
    } else {
        reader.read_to_end(&mut body)?;
    }
    Ok(body)
}

/// A line without its end; empty at the end of the head.
fn read_line(reader: &mut BufReader<UnixStream>) -> Result<String> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 || !line.ends_with('\n') {
        bail!("the engine hung up");
    }
    Ok(line.trim_end().to_owned())
}

/// The next chunk; `None` after the last.
fn read_chunk(reader: &mut BufReader<UnixStream>) -> Result<Option<Vec<u8>>> {
    let line = read_line(reader)?;
    let digits = line.split(';').next().unwrap_or_default();
    let size = u64::from_str_radix(digits, 16).with_context(|| format!("chunk {line:?}"))?;
    let mut chunk = Vec::new();
    if reader.take(size).read_to_end(&mut chunk)? as u64 != size {
        bail!("the engine hung up in the middle of an answer");
    }
    read_line(reader)?;
    Ok((size > 0).then_some(chunk))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer_to(bytes: &[u8]) -> Option<(u16, String)> {
        let (mut server, client) = UnixStream::pair().unwrap();
        server.write_all(bytes).unwrap();
        drop(server);
        let answer = read_answer(&mut BufReader::new(client)).ok()?;
        Some((answer.status, String::from_utf8(answer.body).unwrap()))
    }

    #[test]
    fn an_answer_that_was_cut_is_no_answer() {
        #[rustfmt::skip]
        let table: &[(&str, Option<(u16, &str)>)] = &[
            ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",                            Some((200, "ok"))),
            ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok",                            None),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n", Some((200, "ab"))),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n",          None),
            ("HTTP/1.1 204 No Content\r\n\r\n",                                           Some((204, ""))),
            ("HTTP/1.1 204 No Cont",                                                      None),
            ("",                                                                          None),
        ];
        for (bytes, expected) in table {
            let expected = expected.map(|(status, body)| (status, body.to_owned()));
            assert_eq!(answer_to(bytes.as_bytes()), expected, "{bytes:?}");
        }
    }

    #[test]
    fn frames_are_put_together() {
        let bytes =
            [&[1, 0, 0, 0, 0, 0, 0, 2][..], b"ab", &[2, 0, 0, 0, 0, 0, 0, 1], b"c"].concat();
        assert_eq!(unframe(&bytes), b"abc");
        assert_eq!(unframe(&bytes[..bytes.len() - 1]), b"ab");
    }
}

//! A file from any server: what `ADD` of a URL brings.

use std::fs::File;
use std::io::Write as _;
use std::time::SystemTime;

use reqwest::header::{CONTENT_DISPOSITION, CONTENT_TYPE, LAST_MODIFIED};
use reqwest::{Client, Response, StatusCode, Url};
use tokio::sync::mpsc;

use crate::clients::CONNECT;
use crate::error::RegistryError;
use crate::session::Limits;
use crate::{body, tls, transport};

/// How much of the body of a refusal is told.
const WORDS_MOST: u64 = 64 << 10;
/// How many pieces may wait to be written.
const AHEAD: usize = 8;

/// What came with a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remote {
    /// Its name: the last part of the URL's path, or what the server calls it.
    pub name: Option<String>,
    /// When it was changed, if the server says so.
    pub modified: Option<SystemTime>,
    /// What the server says that it is.
    pub content_type: Option<String>,
}

/// Fetches what `url` has into a file, and tells how many bytes there are, and of how many (0 when
/// the server does not say).
pub async fn fetch(
    url: &str,
    file: File,
    limits: &Limits,
    report: &(dyn Fn(u64, u64) + Send + Sync),
) -> Result<Remote, RegistryError> {
    let url = Url::parse(url).map_err(|error| RegistryError::Address {
        text: url.to_owned(),
        reason: error.to_string(),
    })?;
    let trusted = tls::off_thread(tls::plain).await?;
    let client = Client::builder()
        .tls_backend_preconfigured(trusted)
        .user_agent(concat!("berth/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT)
        .read_timeout(limits.stall)
        .build()
        .map_err(|error| transport::failed("Get", &url, &error))?;
    let asked = client.get(url.clone()).send().await;
    let response = asked.map_err(|error| transport::failed("Get", &url, &error))?;
    if response.status().as_u16() >= StatusCode::BAD_REQUEST.as_u16() {
        return Err(refused(&url, response, limits).await);
    }
    let header = |name| response.headers().get(name).and_then(|text| text.to_str().ok());
    let modified = header(&LAST_MODIFIED).and_then(|text| jiff::fmt::rfc2822::parse(text).ok());
    let remote = Remote {
        name: name_in_path(url.path()).or_else(|| name_in_header(header(&CONTENT_DISPOSITION)?)),
        modified: modified.map(|time| time.timestamp().into()),
        content_type: header(&CONTENT_TYPE).map(str::to_owned),
    };
    receive(&url, response, file, report).await?;
    Ok(remote)
}

async fn refused(url: &Url, response: Response, limits: &Limits) -> RegistryError {
    let status = body::spoken(response.status());
    let words = body::whole(response, "a file", WORDS_MOST, limits.stall).await;
    let words = words.map_or_else(
        |error| error.to_string(),
        |words| String::from_utf8_lossy(&words).trim().to_owned(),
    );
    RegistryError::Fetch { url: url.to_string(), status, words }
}

async fn receive(
    url: &Url,
    mut response: Response,
    mut file: File,
    report: &(dyn Fn(u64, u64) + Send + Sync),
) -> Result<(), RegistryError> {
    let total = response.content_length().unwrap_or(0);
    let (pieces, mut inbox) = mpsc::channel::<bytes::Bytes>(AHEAD);
    let writing = tokio::task::spawn_blocking(move || {
        while let Some(piece) = inbox.blocking_recv() {
            file.write_all(&piece)?;
        }
        Ok::<_, std::io::Error>(())
    });
    let mut got = 0;
    let received = loop {
        match response.chunk().await {
            Ok(None) => break Ok(()),
            Ok(Some(piece)) => {
                got += piece.len() as u64;
                if pieces.send(piece).await.is_err() {
                    // The writer has failed, and says why.
                    break Ok(());
                }
                report(got, total);
            }
            Err(error) if error.is_body() || error.is_decode() => break Err(RegistryError::Cut),
            Err(error) => break Err(transport::failed("Get", url, &error)),
        }
    };
    drop(pieces);
    let written = match writing.await {
        Ok(written) => written,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is about to end; nobody waits for this any more.
            Err(_cancelled) => return std::future::pending().await,
        },
    };
    written.map_err(|error| RegistryError::Write { reason: error.to_string() })?;
    received
}

/// The last part of a path, unless it ends in a slash.
fn name_in_path(path: &str) -> Option<String> {
    let last = path.rsplit('/').next()?;
    usable(&decoded(last))
}

/// `filename` of `attachment; filename="x y"`.
fn name_in_header(text: &str) -> Option<String> {
    let value = text.split(';').find_map(|part| {
        let (name, value) = part.split_once('=')?;
        name.trim().eq_ignore_ascii_case("filename").then(|| value.trim().trim_matches('"'))
    })?;
    usable(value.rsplit('/').next()?)
}

/// A name that a file can have.
fn usable(name: &str) -> Option<String> {
    let is_usable = !matches!(name, "" | "." | "..") && !name.contains(['/', '\0']);
    is_usable.then(|| name.to_owned())
}

/// Without `%` escapes, as far as that is text.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let pair = after.get(..2).and_then(|pair| std::str::from_utf8(pair).ok());
        match pair.and_then(|pair| u8::from_str_radix(pair, 16).ok()) {
            Some(byte) if first == b'%' => {
                bytes.push(byte);
                rest = &after[2..];
            }
            _ => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    String::from_utf8(bytes).unwrap_or_else(|_binary| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_found_or_none() {
        #[rustfmt::skip]
        let table = [
            // path        header                              name
            ("/a/b.txt",   "",                                 Some("b.txt")),
            ("/a/b%20c",   "",                                 Some("b c")),
            ("/a/b%zz",    "",                                 Some("b%zz")),
            ("/",          "",                                 None),
            ("/a/",        "attachment; filename=\"x y\"",     Some("x y")),
            ("/a/",        "attachment; FileName=/etc/passwd", Some("passwd")),
            ("/a/..",      "",                                 None),
            ("/a/%2e%2e",  "attachment; filename=\"..\"",      None),
            ("/a/b%2Fc",   "",                                 None),
            ("/a/b%00c",   "",                                 None),
        ];
        for (path, header, expected) in table {
            let got = name_in_path(path).or_else(|| name_in_header(header));
            assert_eq!(got.as_deref(), expected, "{path} {header}");
        }
    }
}

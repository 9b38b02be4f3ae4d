//! `docker search`: the one thing that is still asked by the protocol's first version, `/v1/search`.

use std::path::Path;

use reqwest::{StatusCode, Url};
use serde::Deserialize;

use crate::auth::Credentials;
use crate::body;
use crate::clients::Clients;
use crate::endpoint::{DOCKER_IO, Endpoint, Purpose, RegistryOptions};
use crate::error::RegistryError;
use crate::session::Limits;
use crate::transport;

/// Where Docker's registry is searched.
const INDEX: &str = "https://index.docker.io";
/// How many results Docker asks for when nobody says how many.
const USUAL: i64 = 25;
/// How many may be asked for.
const MOST: i64 = 100;
/// The longest answer that is read.
const ANSWER: u64 = 4 << 20;

/// A repository that was found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Found {
    /// What it is pulled by.
    pub name: Option<String>,
    /// What its owner says of it.
    pub description: Option<String>,
    /// How many like it.
    pub star_count: i64,
    /// Whether Docker keeps it.
    pub is_official: bool,
    /// Whether it was built by the registry.
    pub is_automated: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Answer {
    results: Option<Vec<Found>>,
}

/// Asks the registry that `term` begins with, Docker's where it names none, for at most `limit`
/// repositories, 0 for as many as Docker asks for.
pub async fn search(
    options: &RegistryOptions,
    credentials: &Credentials,
    limits: &Limits,
    term: &str,
    limit: i64,
) -> Result<Vec<Found>, RegistryError> {
    if term.contains("://") {
        return Err(RegistryError::SearchName);
    }
    let limit = if limit == 0 { USUAL } else { limit };
    if !(1..=MOST).contains(&limit) {
        return Err(RegistryError::SearchLimit { limit });
    }
    let (domain, words) = split(term);
    let mut refused = Vec::new();
    for endpoint in endpoints(options, domain).await? {
        let url = address(&endpoint, words, limit);
        match ask(&endpoint, &options.certs_dir, credentials, limits, &url).await {
            Err(error @ RegistryError::Transport { .. }) => refused.push(error),
            other => return other,
        }
    }
    let none = || RegistryError::Server { text: domain.to_owned() };
    match <[_; 2]>::try_from(refused) {
        Ok([https, http]) => Err(RegistryError::SearchEndpoint {
            domain: domain.to_owned(),
            https: Box::new(https),
            http: Box::new(http),
        }),
        Err(mut refused) => Err(refused.pop().unwrap_or_else(none)),
    }
}

/// The registry and what is looked for there.
fn split(term: &str) -> (&str, &str) {
    match term.split_once('/') {
        Some((domain, words)) if domain.contains(['.', ':']) || domain == "localhost" => {
            let is_dockers = [DOCKER_IO, "index.docker.io"].contains(&domain);
            (
                domain,
                if is_dockers { words.strip_prefix("library/").unwrap_or(words) } else { words },
            )
        }
        _ => (DOCKER_IO, term.strip_prefix("library/").unwrap_or(term)),
    }
}

async fn endpoints(
    options: &RegistryOptions,
    domain: &str,
) -> Result<Vec<Endpoint>, RegistryError> {
    if [DOCKER_IO, "index.docker.io"].contains(&domain) {
        let url = Url::parse(INDEX).map_err(|error| RegistryError::Address {
            text: INDEX.to_owned(),
            reason: error.to_string(),
        })?;
        return Ok(vec![Endpoint { url, is_mirror: false, is_insecure: false }]);
    }
    options.endpoints(domain, Purpose::Push).await
}

fn address(endpoint: &Endpoint, words: &str, limit: i64) -> Url {
    let mut url = endpoint.url.clone();
    url.set_path("/v1/search");
    url.query_pairs_mut().append_pair("q", words).append_pair("n", &limit.to_string());
    url
}

async fn ask(
    endpoint: &Endpoint,
    certs_dir: &Path,
    credentials: &Credentials,
    limits: &Limits,
    url: &Url,
) -> Result<Vec<Found>, RegistryError> {
    let mut request = Clients::default().of(endpoint, certs_dir).await?.get(url.clone());
    if credentials.has_password() {
        request = request.basic_auth(&credentials.username, Some(&credentials.password));
    }
    let sent = request.timeout(limits.stall).send().await;
    let response = sent.map_err(|error| transport::failed("Get", url, &error))?;
    match response.status() {
        StatusCode::OK => {}
        StatusCode::NOT_FOUND => return Err(RegistryError::NoSearch { host: endpoint.host() }),
        status => return Err(RegistryError::SearchStatus { status: status.as_u16() }),
    }
    let body = body::whole(response, "a search", ANSWER, limits.stall).await?;
    let answer: Answer = serde_json::from_slice(&body).map_err(|error| {
        RegistryError::Unreadable { status: 200, reason: error.to_string(), body: shown(&body) }
    })?;
    Ok(answer.results.unwrap_or_default())
}

/// The beginning of a body that is none.
fn shown(body: &[u8]) -> String {
    String::from_utf8_lossy(&body[..body.len().min(200)]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_term_names_its_registry_as_an_image_does() {
        #[rustfmt::skip]
        let table = [
            ("web",                    (DOCKER_IO, "web")),
            ("me/web",                 (DOCKER_IO, "me/web")),
            ("library/web",            (DOCKER_IO, "web")),
            ("docker.io/library/web",  (DOCKER_IO, "web")),
            ("reg.example/library/a",  ("reg.example", "library/a")),
            ("localhost/a",            ("localhost", "a")),
            ("127.0.0.1:5000/",        ("127.0.0.1:5000", "")),
        ];
        for (term, expected) in table {
            assert_eq!(split(term), expected, "{term}");
        }
    }
}

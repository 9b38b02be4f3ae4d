//! One registry with one client's credentials: everything is asked through it.

use std::path::Path;
use std::time::Duration;

use reqwest::redirect::Policy;
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode, Url};

use crate::auth::{Auth, Credentials, Scopes};
use crate::endpoint::Endpoint;
use crate::error::RegistryError;
use crate::tls::{self, Trust};
use crate::{body, challenge, transport};

/// How long anything may take, and how often it is tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// How often a blob is asked for, in all.
    pub attempts: u32,
    /// How long to wait before the second attempt; twice as long before the third, and so on.
    pub pause: Duration,
    /// How long a registry may be silent, and the time in which `stall_bytes` must come.
    pub stall: Duration,
    /// So many bytes of a blob must come in each `stall`.
    pub stall_bytes: u64,
    /// How long `429 Too Many Requests` may ask to wait before that is a failure.
    pub longest_wait: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            attempts: 5,
            pause: Duration::from_secs(5),
            stall: Duration::from_mins(1),
            stall_bytes: 60 << 10,
            longest_wait: Duration::from_mins(2),
        }
    }
}

/// How long it may take to connect.
pub(crate) const CONNECT: Duration = Duration::from_secs(30);
/// How long the first request, which tells what kind of registry it is, may take.
const PING: Duration = Duration::from_secs(15);
/// How many redirects are followed.
const REDIRECTS: usize = 10;

/// A client of HTTP and its limits.
#[derive(Debug, Clone)]
pub(crate) struct Http {
    pub(crate) client: Client,
    pub(crate) limits: Limits,
}

/// A registry that has answered.
#[derive(Debug)]
pub struct Session {
    endpoint: Endpoint,
    http: Http,
    auth: Auth,
}

/// What may be done with a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    Pull,
    Push,
}

impl Access {
    pub(crate) fn of(self, repository: &str) -> String {
        let actions = match self {
            Self::Pull => "pull",
            Self::Push => "pull,push",
        };
        format!("repository:{repository}:{actions}")
    }
}

impl Session {
    /// Asks an address whether it is a registry, and how it wants to be told who asks.
    pub async fn open(
        endpoint: Endpoint,
        certs_dir: &Path,
        credentials: Credentials,
        limits: Limits,
    ) -> Result<Self, RegistryError> {
        let client = client(&endpoint, certs_dir, &limits).await?;
        let http = Http { client, limits };
        let url = endpoint.at("");
        let asked = http.client.get(url.clone()).timeout(PING).send().await;
        let response = asked.map_err(|error| transport::failed("Get", &url, &error))?;
        let challenges = match response.status() {
            StatusCode::UNAUTHORIZED => challenge::all(response.headers()),
            status if status.is_server_error() => {
                return Err(body::error(response, http.limits.stall).await);
            }
            _ => Vec::new(),
        };
        Ok(Self { endpoint, http, auth: Auth::new(credentials, challenges) })
    }

    /// Where it is.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// How long anything may take.
    pub fn limits(&self) -> &Limits {
        &self.http.limits
    }

    pub(crate) fn auth(&self) -> &Auth {
        &self.auth
    }

    /// Asks, and once more when the registry says how it wants to be told who asks.
    pub(crate) async fn ask(
        &self,
        method: Method,
        url: Url,
        scopes: &Scopes,
        add: impl Fn(RequestBuilder) -> RequestBuilder,
    ) -> Result<Response, RegistryError> {
        let mut is_again = false;
        loop {
            let request = self.http.client.request(method.clone(), url.clone());
            let response = self.send(&method, &url, scopes, add(request)).await?;
            if response.status() != StatusCode::UNAUTHORIZED || is_again {
                return Ok(response);
            }
            let challenges = challenge::all(response.headers());
            if !self.auth.challenged(scopes, challenges) {
                return Ok(response);
            }
            is_again = true;
        }
    }

    /// Asks once; for bodies that cannot be sent twice.
    pub(crate) async fn send(
        &self,
        method: &Method,
        url: &Url,
        scopes: &Scopes,
        request: RequestBuilder,
    ) -> Result<Response, RegistryError> {
        let verb = verb(method);
        let request = if self.is_own(url) {
            self.auth.sign(&self.http, scopes, request).await.map_err(|cause| match cause {
                RegistryError::Transport { .. } => cause,
                cause => RegistryError::Token {
                    verb: verb.clone(),
                    url: url.to_string(),
                    cause: Box::new(cause),
                },
            })?
        } else {
            request
        };
        request.send().await.map_err(|error| transport::failed(&verb, url, &error))
    }

    pub(crate) fn request(&self, method: Method, url: Url) -> RequestBuilder {
        self.http.client.request(method, url)
    }

    /// Whether credentials may go there: an upload's location may be another host's.
    fn is_own(&self, url: &Url) -> bool {
        let place = |url: &Url| {
            let host = url.host_str().map(str::to_owned);
            (url.scheme().to_owned(), host, url.port_or_known_default())
        };
        place(url) == place(&self.endpoint.url)
    }

    /// The error of an answer that is none of these.
    pub(crate) async fn expect(
        &self,
        response: Response,
        good: &[StatusCode],
    ) -> Result<Response, RegistryError> {
        if good.contains(&response.status()) {
            return Ok(response);
        }
        Err(body::error(response, self.http.limits.stall).await)
    }
}

/// `Get`, as Go says it.
fn verb(method: &Method) -> String {
    let text = method.as_str().to_lowercase();
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

pub(crate) async fn client(
    endpoint: &Endpoint,
    certs_dir: &Path,
    limits: &Limits,
) -> Result<Client, RegistryError> {
    let trust = if endpoint.is_insecure { Trust::Anybody } else { Trust::Signed };
    let (certs_dir, host) = (certs_dir.to_owned(), endpoint.host());
    let read = tokio::task::spawn_blocking(move || tls::config(&certs_dir, &host, trust)).await;
    let config = match read {
        Ok(config) => config?,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is about to end; nobody waits for this any more.
            Err(_cancelled) => std::future::pending().await,
        },
    };
    let is_secure = endpoint.url.scheme() == "https" && !endpoint.is_insecure;
    let mut builder = Client::builder()
        .tls_backend_preconfigured(config)
        .user_agent(concat!("berth/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT)
        .read_timeout(limits.stall)
        .redirect(Policy::custom(move |attempt| {
            if attempt.previous().len() > REDIRECTS {
                attempt.error("stopped after 10 redirects")
            } else if is_secure && attempt.url().scheme() != "https" {
                attempt.error("a redirect away from https is not followed")
            } else {
                attempt.follow()
            }
        }));
    // As Go: a proxy is never asked for this very host.
    let host = endpoint.url.host_str().unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>();
    if host == "localhost" || address.is_ok_and(|address| address.is_loopback()) {
        builder = builder.no_proxy();
    }
    builder.build().map_err(|error| RegistryError::Trust {
        path: endpoint.url.to_string(),
        reason: error.to_string(),
    })
}

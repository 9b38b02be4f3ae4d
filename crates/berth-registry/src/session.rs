//! One registry with one client's credentials: everything is asked through it.

use std::path::Path;
use std::time::Duration;

use reqwest::{Client, Method, RequestBuilder, Response, StatusCode, Url};

use crate::auth::{Auth, Credentials, Scopes, Signed};
use crate::clients::Clients;
use crate::endpoint::Endpoint;
use crate::error::RegistryError;
use crate::outgoing::{Outgoing, THINKING};
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

/// How long the first request, which tells what kind of registry it is, may take.
const PING: Duration = Duration::from_secs(15);

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
    /// Asks an address whether it is a registry, and how it wants to be told who asks; over a
    /// connection that an earlier session left, if there is one.
    pub async fn open(
        clients: &Clients,
        endpoint: Endpoint,
        certs_dir: &Path,
        credentials: Credentials,
        limits: Limits,
    ) -> Result<Self, RegistryError> {
        let client = clients.of(&endpoint, certs_dir).await?;
        let http = Http { client, limits };
        let url = endpoint.at("");
        let request = http.client.get(url.clone());
        let response = transmit(&Method::GET, &url, request, PING).await?;
        let challenges = match response.status() {
            StatusCode::UNAUTHORIZED => challenge::all(response.headers()),
            status if status.is_server_error() => {
                return Err(body::error(response, http.limits.stall).await);
            }
            _ => Vec::new(),
        };
        body::skip(response, PING).await;
        Ok(Self { endpoint, http, auth: Auth::new(credentials, challenges) })
    }

    /// An address that has lately answered and has not asked who asks, used as nobody. It is not asked
    /// again, so the first request may fail in any way.
    pub async fn assume(
        clients: &Clients,
        endpoint: Endpoint,
        certs_dir: &Path,
        limits: Limits,
    ) -> Result<Self, RegistryError> {
        let client = clients.of(&endpoint, certs_dir).await?;
        let auth = Auth::new(Credentials::default(), Vec::new());
        Ok(Self { endpoint, http: Http { client, limits }, auth })
    }

    /// Whether it has not asked who asks.
    pub fn is_open(&self) -> bool {
        self.auth.is_open()
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
            let Signed { request, token } = self.sign(&method, &url, scopes, add(request)).await?;
            let response = transmit(&method, &url, request, self.patience(&method)).await?;
            if response.status() != StatusCode::UNAUTHORIZED || is_again {
                return Ok(response);
            }
            let challenges = challenge::all(response.headers());
            if !self.auth.challenged(scopes, token.as_deref(), challenges) {
                return Ok(response);
            }
            is_again = true;
        }
    }

    /// Sends once; for bodies that cannot be sent twice.
    pub(crate) async fn send(
        &self,
        method: &Method,
        url: &Url,
        scopes: &Scopes,
        request: RequestBuilder,
        outgoing: Outgoing,
    ) -> Result<Response, RegistryError> {
        let signed = self.sign(method, url, scopes, request).await?;
        let Outgoing { body, progress } = outgoing;
        tokio::select! {
            sent = signed.request.body(body).send() => {
                sent.map_err(|error| transport::failed(&verb(method), url, &error))
            }
            () = progress.stalled(self.http.limits.stall) => {
                Err(transport::silent(&verb(method), url))
            }
        }
    }

    /// How long an answer may take to begin.
    fn patience(&self, method: &Method) -> Duration {
        let stall = self.http.limits.stall;
        if *method == Method::PUT { stall * THINKING } else { stall }
    }

    async fn sign(
        &self,
        method: &Method,
        url: &Url,
        scopes: &Scopes,
        request: RequestBuilder,
    ) -> Result<Signed, RegistryError> {
        if !self.is_own(url) {
            return Ok(Signed { request, token: None });
        }
        self.auth.sign(&self.http, scopes, request).await.map_err(|cause| match cause {
            RegistryError::Transport { .. } => cause,
            cause => RegistryError::Token {
                verb: verb(method),
                url: url.to_string(),
                cause: Box::new(cause),
            },
        })
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

/// Sends a request, and a question once more: the registry may have closed the connection, which an
/// earlier answer left open, as the request went out.
async fn transmit(
    method: &Method,
    url: &Url,
    request: RequestBuilder,
    patience: Duration,
) -> Result<Response, RegistryError> {
    let again =
        if [Method::GET, Method::HEAD].contains(method) { request.try_clone() } else { None };
    let failed = |error: reqwest::Error| transport::failed(&verb(method), url, &error);
    let sent = async {
        match (request.send().await, again) {
            (Err(error), Some(again)) if transport::is_closed(&error) => {
                tracing::debug!(%url, %error, "asked again");
                again.send().await.map_err(failed)
            }
            (sent, _) => sent.map_err(failed),
        }
    };
    let silent = |_elapsed| transport::silent(&verb(method), url);
    tokio::time::timeout(patience, sent).await.map_err(silent)?
}

/// `Get`, as Go says it.
fn verb(method: &Method) -> String {
    let text = method.as_str().to_lowercase();
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

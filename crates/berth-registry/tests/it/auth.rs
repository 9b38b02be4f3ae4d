//! Who asks: challenges, tokens, and what is never told to whom.

use std::sync::Mutex;

use berth_registry::{Credentials, RegistryOptions, login};
use berth_types::Digest;
use testkit::http::{Reply, Request, Server};

use crate::kit::{limits, open, password};

const BASIC: &str = "Basic dXNlcjpzZWNyZXQ=";

/// A registry that wants tokens of its own server `/token`, valid for the scope that they are for.
fn with_tokens() -> Server {
    Server::start(|request| {
        let host = request.header("host").unwrap_or_default();
        let challenge = |scope: &str| {
            let scope =
                if scope.is_empty() { String::new() } else { format!(",scope=\"{scope}\"") };
            format!("Bearer realm=\"http://{host}/token\",service=\"svc\"{scope}")
        };
        match &*request.path {
            "/token" => token(request),
            "/v2/" if request.header("authorization") == Some("Bearer all") => {
                Reply::new(200, "{}")
            }
            "/v2/" => Reply::new(401, "{}").with("WWW-Authenticate", challenge("")),
            _ if request.header("authorization") == Some("Bearer repository:a/b:pull") => {
                Reply::new(200, r#"{"tags":["1"]}"#)
            }
            _ => Reply::new(401, "{}").with("WWW-Authenticate", challenge("repository:a/b:pull")),
        }
    })
}

fn token(request: &Request) -> Reply {
    let asked = if request.method == "POST" {
        String::from_utf8_lossy(&request.body).into_owned()
    } else {
        request.query.clone()
    };
    let is_refused = match request.header("authorization") {
        Some(BASIC) | None => false,
        Some(_) => true,
    };
    if is_refused || asked.contains("refresh_token=stolen") {
        return Reply::new(401, r#"{"details":"incorrect username or password"}"#);
    }
    let token =
        if asked.contains("repository%3Aa%2Fb%3Apull") { "repository:a/b:pull" } else { "all" };
    Reply::new(200, format!(r#"{{"token":"{token}","expires_in":300}}"#))
}

#[tokio::test]
async fn a_token_is_fetched_once_for_each_scope() {
    let server = with_tokens();
    let session = open(&server, Credentials::default(), limits()).await.unwrap();
    // Three that begin together, and one more.
    let tags = || session.tags("a/b");
    for tags in <[_; 3]>::from(tokio::join!(tags(), tags(), tags())) {
        assert_eq!(tags.unwrap(), ["1"]);
    }
    assert_eq!(session.tags("a/b").await.unwrap(), ["1"]);
    let lines = server.lines();
    let tokens: Vec<_> = lines.iter().filter(|line| line.contains("/token")).collect();
    assert_eq!(tokens, ["GET /token?scope=repository%3Aa%2Fb%3Apull&service=svc"], "{lines:?}");
}

#[tokio::test]
async fn passwords_and_identity_tokens_go_to_the_token_server_alone() {
    let identity = Credentials { identitytoken: "refresh".to_owned(), ..Credentials::default() };
    for credentials in [password(), identity] {
        let server = with_tokens();
        let session = open(&server, credentials, limits()).await.unwrap();
        assert_eq!(session.tags("a/b").await.unwrap(), ["1"]);
        for request in server.seen().iter() {
            let is_token = request.path == "/token";
            let has_password = request.header("authorization") == Some(BASIC)
                || String::from_utf8_lossy(&request.body).contains("refresh_token=refresh");
            assert_eq!(has_password, is_token, "{}", request.line());
        }
    }
}

#[tokio::test]
async fn a_registry_token_is_shown_as_it_is() {
    let server = with_tokens();
    let token = "repository:a/b:pull".to_owned();
    let credentials = Credentials { registrytoken: token, ..Credentials::default() };
    let session = open(&server, credentials, limits()).await.unwrap();
    assert_eq!(session.tags("a/b").await.unwrap(), ["1"]);
}

#[tokio::test]
async fn a_token_that_ran_out_is_fetched_anew() {
    let first = Mutex::new(true);
    let server = Server::start(move |request| {
        let host = request.header("host").unwrap_or_default();
        let refused = || {
            let challenge = format!("Bearer realm=\"http://{host}/token\",service=\"s\"");
            Reply::new(401, "{}").with("WWW-Authenticate", challenge)
        };
        match &*request.path {
            "/token" => Reply::new(200, r#"{"access_token":"t"}"#),
            "/v2/" => refused(),
            _ if std::mem::take(&mut *first.lock().unwrap()) => refused(),
            _ => Reply::new(200, r#"{"tags":null}"#),
        }
    });
    let session = open(&server, Credentials::default(), limits()).await.unwrap();
    assert_eq!(session.tags("a/b").await.unwrap(), Vec::<String>::new());
    assert_eq!(server.lines().iter().filter(|line| line.contains("/token")).count(), 2);
}

#[tokio::test]
async fn a_redirect_to_another_host_takes_no_credentials_along() {
    let blob = b"content".to_vec();
    let elsewhere = Server::start({
        let blob = blob.clone();
        move |_| Reply::new(200, blob.clone())
    });
    let target = format!("http://{}/store/blob", elsewhere.host());
    let server = Server::start(move |request| match request.header("authorization") {
        Some(BASIC) => Reply::new(307, "").with("Location", target.clone()),
        _ => Reply::new(401, "{}").with("WWW-Authenticate", "Basic realm=\"r\""),
    });
    let session = open(&server, password(), limits()).await.unwrap();
    let got = session.small_blob("a/b", &Digest::of(&blob), 100).await.unwrap();
    assert_eq!(got, blob);
    let seen = elsewhere.seen();
    let told: Vec<_> = seen.iter().map(|request| request.header("authorization")).collect();
    assert_eq!(told, [None]);
}

#[tokio::test]
async fn logins_are_judged_as_docker_judges_them() {
    let basic = Server::start(|request| match request.header("authorization") {
        Some(BASIC) => Reply::new(200, "{}"),
        _ => Reply::new(401, "{}").with("WWW-Authenticate", "Basic realm=\"r\""),
    });
    let broken = Server::start(|request| match request.header("authorization") {
        Some(_) => Reply::new(418, "{}"),
        None => Reply::new(401, "{}").with("WWW-Authenticate", "Basic realm=\"r\""),
    });
    let tokens = with_tokens();
    let stolen = Credentials { identitytoken: "stolen".to_owned(), ..Credentials::default() };
    let wrong = Credentials { password: "wrong".to_owned(), ..password() };
    let url = |server: &Server| format!("http://{}/v2/", server.host());
    #[rustfmt::skip]
    let table = [
        (&basic,  password(),             Ok(())),
        (&tokens, password(),             Ok(())),
        (&basic,  wrong.clone(),          Err(format!("login attempt to {} failed with status: 401 Unauthorized", url(&basic)))),
        (&tokens, wrong,                  Err(format!("Get \"{}\": unauthorized: incorrect username or password", url(&tokens)))),
        (&tokens, stolen,                 Err(format!("Get \"{}\": unauthorized: incorrect username or password", url(&tokens)))),
        (&broken, password(),             Err(format!("login attempt to {} failed with status: 418 I'm a teapot", url(&broken)))),
        (&basic,  Credentials::default(), Err(format!("Get \"{}\": no basic auth credentials", url(&basic)))),
    ];
    let options = RegistryOptions { certs_dir: "/none".into(), ..RegistryOptions::default() };
    for (server, credentials, expected) in table {
        let credentials = Credentials { serveraddress: server.host(), ..credentials };
        let got = login(&options, credentials.clone(), limits()).await;
        assert_eq!(got.map(drop).map_err(|error| error.to_string()), expected, "{credentials:?}");
    }
}

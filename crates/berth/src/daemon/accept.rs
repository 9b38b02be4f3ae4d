//! Accepting clients on every listener, each served in a task of its own.

use std::io;
use std::time::Duration;

use berth_engine::Engine;
use berth_http::App;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::listen::Listener;
use super::tls::is_clients_fault;

/// How long to wait when no client can be accepted, for example for want of descriptors.
const PAUSE: Duration = Duration::from_millis(100);
/// A client that opens a connection must finish the TLS handshake within this time.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Serves all listeners from now on. The tasks end when they are aborted; `shutdown` lets clients
/// finish the request they are in.
pub(super) fn start(
    listeners: Vec<Listener>,
    tls: Option<&TlsAcceptor>,
    app: &App<Engine>,
    shutdown: &CancellationToken,
) -> io::Result<Vec<JoinHandle<()>>> {
    let mut tasks = Vec::new();
    for listener in listeners {
        let client = Client { app: app.clone(), shutdown: shutdown.clone() };
        tasks.push(match listener {
            Listener::Unix { listener, .. } => {
                tokio::spawn(accept_unix(UnixListener::from_std(listener)?, client))
            }
            Listener::Tcp { listener, .. } => {
                tokio::spawn(accept_tcp(TcpListener::from_std(listener)?, tls.cloned(), client))
            }
        });
    }
    Ok(tasks)
}

async fn accept_unix(listener: UnixListener, client: Client) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => drop(tokio::spawn(client.clone().serve(stream))),
            Err(error) => pause(&error).await,
        }
    }
}

async fn accept_tcp(listener: TcpListener, tls: Option<TlsAcceptor>, client: Client) {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                pause(&error).await;
                continue;
            }
        };
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "client not served at once");
        }
        let client = client.clone();
        match tls.clone() {
            None => drop(tokio::spawn(client.serve(stream))),
            Some(tls) => drop(tokio::spawn(async move {
                match tokio::time::timeout(HANDSHAKE, tls.accept(stream)).await {
                    Ok(Ok(stream)) => client.serve(stream).await,
                    Ok(Err(error)) => tracing::info!(%error, "TLS handshake error"),
                    Err(_) => tracing::info!("TLS handshake timed out"),
                }
            })),
        }
    }
}

async fn pause(error: &io::Error) {
    if !is_clients_fault(error) {
        tracing::warn!(%error, "cannot accept clients");
        tokio::time::sleep(PAUSE).await;
    }
}

/// What serving one client needs.
#[derive(Debug, Clone)]
struct Client {
    app: App<Engine>,
    shutdown: CancellationToken,
}

impl Client {
    async fn serve<S>(self, stream: S)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        berth_http::serve_connection(stream, self.app, self.shutdown).await;
    }
}

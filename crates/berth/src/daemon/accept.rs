//! Accepting clients on every listener, each served in a task of its own.

use std::io;
use std::time::Duration;

use berth_engine::Engine;
use berth_http::App;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
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
                match tokio::time::timeout(HANDSHAKE, encrypt(&tls, stream)).await {
                    Ok(Ok(Some(stream))) => client.serve(stream).await,
                    Ok(Ok(None)) => {
                        tracing::info!("client sent an HTTP request to an HTTPS server");
                    }
                    Ok(Err(error)) => tracing::info!(%error, "TLS handshake error"),
                    Err(_) => tracing::info!("TLS handshake timed out"),
                }
            })),
        }
    }
}

/// The handshake. A client that speaks plain HTTP is told so, in the words of Go's server; `None`.
async fn encrypt(
    tls: &TlsAcceptor,
    mut stream: TcpStream,
) -> io::Result<Option<TlsStream<TcpStream>>> {
    const PLAIN: &[u8] =
        b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n";
    let mut first = [0];
    stream.peek(&mut first).await?;
    // A method's first letter; a handshake begins with 22.
    if first[0].is_ascii_uppercase() {
        stream.write_all(PLAIN).await?;
        // What is not read would make the kernel throw the answer away with the connection.
        stream.shutdown().await?;
        tokio::io::copy(&mut stream, &mut tokio::io::sink()).await?;
        return Ok(None);
    }
    tls.accept(stream).await.map(Some)
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

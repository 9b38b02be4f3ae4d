//! Connections: HTTP/1.1 over any stream of bytes.

use axum::body::Body;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

use crate::app::App;
use crate::linger::Lingering;

/// Serves one client until it leaves or `shutdown` is cancelled; then the request that is being
/// answered still gets its answer. Hijacked streams are not waited for.
///
/// Works on unix sockets, TCP and TLS alike. When the client closes its side during a request, what
/// the answer held is released.
pub async fn serve_connection<I, S>(io: I, app: App<S>, shutdown: CancellationToken)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Clone + Send + Sync + 'static,
{
    let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
        let app = app.clone();
        async move {
            let request = if Lingering::may_read(request.headers()) {
                request.map(|body| Body::new(Lingering::new(body)))
            } else {
                request.map(Body::new)
            };
            let response = app.answer(request).await;
            Ok::<_, std::convert::Infallible>(response)
        }
    });
    let connection = http1::Builder::new()
        .title_case_headers(true)
        .serve_connection(TokioIo::new(io), service)
        .with_upgrades();
    let mut connection = std::pin::pin!(connection);
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "connection ended early");
    }
}

#[cfg(test)]
mod tests;

//! Routes of the tag `Exec`.

use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use berth_api::ApiVersion;
use berth_api::exec::{ExecConfig, ExecInspect, ExecStart, IdResponse};
use berth_api::go;
use berth_engine::containers::ExecStream;
use berth_engine::{Engine, EngineError};
use berth_types::kind::chain;
use berth_types::{Classify, ErrorKind};
use hyper::StatusCode;

use super::containers::window;
use crate::answer::{Created, Json};
use crate::error::ApiError;
use crate::extract::{JsonBody, Name, Params, Version, invalid_json, json_bytes};
use crate::hijack::{Hijack, described, media_type};
use crate::route::Route;

pub(super) fn routes() -> Vec<Route<Engine>> {
    vec![
        Route::post("/containers/{name}/exec", create),
        Route::post("/exec/{id}/start", start),
        Route::post("/exec/{id}/resize", resize),
        Route::get("/exec/{id}/json", inspect),
    ]
}

/// `POST /containers/{name}/exec`: 201; 409 when the container does not run.
async fn create(
    State(engine): State<Engine>,
    Name(name): Name,
    JsonBody(config): JsonBody<ExecConfig>,
) -> Result<Created<IdResponse>, ApiError> {
    if config.cmd.is_empty() {
        return Err(ApiError::invalid("No exec command specified"));
    }
    Ok(Created(IdResponse { id: engine.exec_create(&name, config)? }))
}

/// `POST /exec/{id}/start`: takes the connection over; 200 when detached.
async fn start(
    State(engine): State<Engine>,
    Name(id): Name,
    Version(version): Version,
    mut request: Request,
) -> Result<Response, ApiError> {
    let hijack = Hijack::of(&mut request);
    let body = json_bytes(request).await?;
    let start: ExecStart = if body.is_empty() {
        ExecStart::default()
    } else {
        go::from_slice(&body).map_err(invalid_json)?
    };
    let (detach, tty) = (start.detach, start.tty);
    let (tty, stream) = match engine.exec_start(&id, start).await {
        Ok(ExecStream::Detached) => return Ok(StatusCode::OK.into_response()),
        Ok(ExecStream::Attached { tty, stream }) => (tty, Ok(stream)),
        Err(error) if detach || error.kind() == ErrorKind::NotFound => return Err(error.into()),
        Err(error) => (tty, Err(error)),
    };
    Ok(described(match stream {
        Ok(stream) => hijack.answer(media_type(tty, version), stream, Body::empty()),
        Err(error) => refused(hijack, tty, version, &error),
    }))
}

/// A failure after the exec was found is told in the stream: the client reads the exit code from
/// the exec itself.
fn refused(hijack: Hijack, tty: bool, version: ApiVersion, error: &EngineError) -> Response {
    let text = format!("{}\r\n", chain(error));
    let frame = if tty { Vec::new() } else { frame_header(text.len()) };
    let stream = tokio::io::join(
        std::io::Cursor::new([frame, text.into_bytes()].concat()),
        tokio::io::sink(),
    );
    hijack.answer(media_type(tty, version), stream, Body::empty())
}

/// The header of a frame of stdout.
fn frame_header(length: usize) -> Vec<u8> {
    let [a, b, c, d] = u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes();
    vec![1, 0, 0, 0, a, b, c, d]
}

/// `POST /exec/{id}/resize`: the terminal's size.
async fn resize(
    State(engine): State<Engine>,
    Name(id): Name,
    params: Params,
) -> Result<StatusCode, ApiError> {
    let (height, width) = window(&params)?;
    engine.exec_resize(&id, height, width).await?;
    Ok(StatusCode::OK)
}

/// `GET /exec/{id}/json`.
async fn inspect(
    State(engine): State<Engine>,
    Name(id): Name,
) -> Result<Json<ExecInspect>, ApiError> {
    Ok(Json(engine.exec_inspect(&id)?))
}

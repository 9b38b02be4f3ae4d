//! Starting, ending and changing containers.

use std::convert::Infallible;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use berth_api::container::{UpdateRequest, UpdateResponse};
use berth_api::options::{RemoveOptions, WaitCondition};
use berth_engine::Engine;
use futures_util::stream;
use hyper::StatusCode;
use hyper::body::Body as _;
use hyper::header::CONTENT_TYPE;

use super::no_content;
use crate::answer::{JSON, Json, json_line};
use crate::error::ApiError;
use crate::extract::{JsonBody, Name, Params, Version};

/// Bodies of up to so many bytes may accompany a start, for clients that send `{}` or `null`.
const START_BODY_MAX: u64 = 7;

/// `POST /containers/{name}/start`: 204; 304 when it runs already.
pub(super) async fn start(
    State(engine): State<Engine>,
    Name(name): Name,
    params: Params,
    request: Request,
) -> Result<Response, ApiError> {
    if request.body().size_hint().upper().is_none_or(|length| length > START_BODY_MAX) {
        return Err(ApiError::invalid(
            "starting container with non-empty request body was deprecated since API v1.22 and \
             removed in v1.24",
        ));
    }
    let changed = engine.start_container(&name, params.optional("detachKeys")).await?;
    Ok(no_content(changed))
}

/// `POST /containers/{name}/stop`: 204; 304 when it does not run.
pub(super) async fn stop(
    State(engine): State<Engine>,
    Name(name): Name,
    Version(version): Version,
    params: Params,
) -> Result<Response, ApiError> {
    let signal = params.optional("signal").filter(|_| version.has_stop_signal());
    let changed = engine.stop_container(&name, params.integer("t")?, signal).await?;
    Ok(no_content(changed))
}

/// `POST /containers/{name}/restart`: 204.
pub(super) async fn restart(
    State(engine): State<Engine>,
    Name(name): Name,
    Version(version): Version,
    params: Params,
) -> Result<StatusCode, ApiError> {
    let signal = params.optional("signal").filter(|_| version.has_stop_signal());
    engine.restart_container(&name, params.integer("t")?, signal).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `POST /containers/{name}/kill`: 204; 409 when it does not run.
pub(super) async fn kill(
    State(engine): State<Engine>,
    Name(name): Name,
    params: Params,
) -> Result<StatusCode, ApiError> {
    engine.kill_container(&name, params.optional("signal")).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `POST /containers/{name}/update`.
pub(super) async fn update(
    State(engine): State<Engine>,
    Name(name): Name,
    JsonBody(request): JsonBody<UpdateRequest>,
) -> Result<Json<UpdateResponse>, ApiError> {
    let warnings = engine.update_container(&name, request).await?;
    let warnings = Some(warnings).filter(|warnings| !warnings.is_empty()).into();
    Ok(Json(UpdateResponse { warnings }))
}

/// `POST /containers/{name}/rename`: 204; 409 when the name is taken.
pub(super) async fn rename(
    State(engine): State<Engine>,
    Name(name): Name,
    params: Params,
) -> Result<StatusCode, ApiError> {
    if params.text("name").is_empty() {
        return Err(ApiError::invalid("Neither old nor new names may be empty"));
    }
    engine.rename_container(&name, params.text("name")).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `POST /containers/{name}/pause`: 204.
pub(super) async fn pause(
    State(engine): State<Engine>,
    Name(name): Name,
) -> Result<StatusCode, ApiError> {
    engine.pause_container(&name).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `POST /containers/{name}/unpause`: 204.
pub(super) async fn unpause(
    State(engine): State<Engine>,
    Name(name): Name,
) -> Result<StatusCode, ApiError> {
    engine.unpause_container(&name).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `POST /containers/{name}/wait`: the headers at once, for `docker run` starts the container only
/// when it has them; the exit code when there is one.
pub(super) async fn wait(
    State(engine): State<Engine>,
    Name(name): Name,
    Version(version): Version,
    params: Params,
) -> Result<Response, ApiError> {
    let condition = if version.at_least(30) { params.text("condition") } else { "" };
    let waiter = engine.wait_container(&name, condition.parse::<WaitCondition>()?)?;
    let line = stream::once(async move { Ok::<_, Infallible>(json_line(&waiter.await)) });
    let mut response = Body::from_stream(line).into_response();
    response.headers_mut().insert(CONTENT_TYPE, JSON);
    Ok(response)
}

/// `DELETE /containers/{name}`: 204; 409 when it runs and no force is used.
pub(super) async fn remove(
    State(engine): State<Engine>,
    Name(name): Name,
    params: Params,
) -> Result<StatusCode, ApiError> {
    let options = RemoveOptions {
        volumes: params.flag("v"),
        link: params.flag("link"),
        force: params.flag("force"),
    };
    engine.remove_container(&name, options).await?;
    Ok(StatusCode::NO_CONTENT)
}

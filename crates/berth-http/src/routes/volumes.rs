//! Routes of the tag `volumes`.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use berth_api::volume::VolumeCreateRequest;
use berth_engine::Engine;
use berth_engine::volumes::{LIST_FILTERS, Missing, PRUNE_FILTERS};

use crate::answer::{Created, Json};
use crate::error::ApiError;
use crate::extract::{JsonBody, Name, Params, Version};
use crate::route::Route;

pub(crate) fn routes() -> Vec<Route<Engine>> {
    vec![
        Route::get("/volumes", list),
        Route::post("/volumes/create", create),
        Route::post("/volumes/prune", prune),
        Route::get("/volumes/{name}", inspect),
        Route::delete("/volumes/{name}", remove),
    ]
}

/// `GET /volumes`: 200.
async fn list(State(engine): State<Engine>, params: Params) -> Result<impl IntoResponse, ApiError> {
    Ok(Json(engine.list_volumes(params.filters(LIST_FILTERS)?).await?))
}

/// `POST /volumes/create`: 201, also for a volume that exists; 409 when another driver has it.
async fn create(
    State(engine): State<Engine>,
    JsonBody(request): JsonBody<VolumeCreateRequest>,
) -> Result<impl IntoResponse, ApiError> {
    Ok(Created(engine.create_volume(request).await?))
}

/// `GET /volumes/{name}`: 200; 404.
async fn inspect(
    State(engine): State<Engine>,
    Name(name): Name,
) -> Result<impl IntoResponse, ApiError> {
    Ok(Json(engine.inspect_volume(name).await?))
}

/// `DELETE /volumes/{name}`: 204; 404 when unknown and not forced, 409 when in use.
async fn remove(
    State(engine): State<Engine>,
    Name(name): Name,
    params: Params,
) -> Result<StatusCode, ApiError> {
    let missing = if params.flag("force") { Missing::Ignore } else { Missing::Fail };
    engine.remove_volume(name, missing).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `POST /volumes/prune`: 200; 409 while another prune runs.
async fn prune(
    State(engine): State<Engine>,
    Version(version): Version,
    params: Params,
) -> Result<impl IntoResponse, ApiError> {
    Ok(Json(engine.prune_volumes(params.filters(PRUNE_FILTERS)?, version).await?))
}

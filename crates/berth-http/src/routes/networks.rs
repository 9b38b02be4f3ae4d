//! Routes of the tag `networks`.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use berth_api::network::{NetworkConnectRequest, NetworkCreateRequest, NetworkDisconnectRequest};
use berth_engine::Engine;
use berth_engine::networks::{LIST_FILTERS, PRUNE_FILTERS};

use crate::answer::Json;
use crate::error::ApiError;
use crate::extract::{JsonBody, Name, Params};
use crate::route::Route;

pub(crate) fn routes() -> Vec<Route<Engine>> {
    vec![
        Route::get("/networks", list),
        Route::get("/networks/", list),
        Route::post("/networks/create", create),
        Route::post("/networks/prune", prune),
        Route::post("/networks/{name}/connect", connect),
        Route::post("/networks/{name}/disconnect", disconnect),
        Route::get("/networks/{name}", inspect),
        Route::delete("/networks/{name}", remove),
    ]
}

/// `GET /networks`: 200.
async fn list(State(engine): State<Engine>, params: Params) -> Result<impl IntoResponse, ApiError> {
    Ok(Json(engine.list_networks(&params.filters(LIST_FILTERS)?)?))
}

/// `GET /networks/{id}`: 200; 404; 400 for a prefix of several ids.
async fn inspect(
    State(engine): State<Engine>,
    Name(name): Name,
) -> Result<impl IntoResponse, ApiError> {
    Ok(Json(engine.inspect_network(&name)?))
}

/// `POST /networks/create`: 501; 403 for the name of a predefined network.
async fn create(
    State(engine): State<Engine>,
    JsonBody(request): JsonBody<NetworkCreateRequest>,
) -> Result<StatusCode, ApiError> {
    engine.create_network(&request.name)?;
    Ok(StatusCode::CREATED)
}

/// `DELETE /networks/{id}`: 403, for all there are are predefined; 404.
async fn remove(State(engine): State<Engine>, Name(name): Name) -> Result<StatusCode, ApiError> {
    engine.remove_network(&name)?;
    Ok(StatusCode::NO_CONTENT)
}

/// `POST /networks/{id}/connect`: 501; 404.
async fn connect(
    State(engine): State<Engine>,
    Name(name): Name,
    JsonBody(_request): JsonBody<NetworkConnectRequest>,
) -> Result<StatusCode, ApiError> {
    engine.connect_network(&name)?;
    Ok(StatusCode::OK)
}

/// `POST /networks/{id}/disconnect`: 501; 404.
async fn disconnect(
    State(engine): State<Engine>,
    Name(name): Name,
    JsonBody(_request): JsonBody<NetworkDisconnectRequest>,
) -> Result<StatusCode, ApiError> {
    engine.disconnect_network(&name)?;
    Ok(StatusCode::OK)
}

/// `POST /networks/prune`: 200.
async fn prune(
    State(engine): State<Engine>,
    params: Params,
) -> Result<impl IntoResponse, ApiError> {
    Ok(Json(engine.prune_networks(&params.filters(PRUNE_FILTERS)?)?))
}

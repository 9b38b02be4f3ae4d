//! berth's own routes for what is below images and containers.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use berth_engine::storage::{BackupRequest, Changes, ExtendRequest};
use berth_engine::{Depth, Engine};
use serde_json::Value;

use crate::answer::{Created, Json};
use crate::error::ApiError;
use crate::extract::{Name, Params};
use crate::route::Route;
use crate::routes::images::stream;

pub(super) fn routes() -> Vec<Route<Engine>> {
    vec![
        Route::get("/berth/storage/info", info),
        Route::post("/berth/storage/check", check),
        Route::post("/berth/storage/repair", repair),
        Route::post("/berth/storage/backup", backup),
        Route::post("/berth/storage/extend", extend),
        Route::get("/berth/storage/pool", pool),
        Route::get("/berth/storage/devices", devices),
        Route::get("/berth/storage/devices/{id}", device),
        Route::delete("/berth/storage/devices/{id}", remove_device),
        Route::post("/berth/storage/devices/{id}/snapshot", snapshot),
        Route::post("/berth/storage/devices/{id}/mount", mount),
    ]
}

/// `GET /berth/storage/info`: what there is, where, and what it takes.
async fn info(State(engine): State<Engine>) -> Result<Json<Value>, ApiError> {
    Ok(Json(engine.storage_info().await?))
}

fn depth(params: &Params) -> Depth {
    if params.flag("deep") { Depth::Content } else { Depth::Names }
}

/// `POST /berth/storage/check`: messages as they come; with `deep` every byte is read.
async fn check(State(engine): State<Engine>, params: Params) -> Response {
    stream(engine.check_storage(depth(&params))).await
}

/// `POST /berth/storage/repair`: messages as they come; with `dry-run` nothing is changed. 409 while
/// another one runs.
async fn repair(State(engine): State<Engine>, params: Params) -> Result<Response, ApiError> {
    let changes = if params.flag("dry-run") { Changes::OnlySaid } else { Changes::Made };
    Ok(stream(engine.repair_storage(depth(&params), changes)?).await)
}

/// `POST /berth/storage/backup`: messages as they come; `dest` is a path on the daemon's machine. 409
/// while another one, or a repair, runs.
async fn backup(State(engine): State<Engine>, params: Params) -> Result<Response, ApiError> {
    let request = BackupRequest {
        dest: params.text("dest").into(),
        volumes: params.flag_or_true("volumes"),
        pause: params.flag_or_true("pause"),
    };
    Ok(stream(engine.backup_storage(request)?).await)
}

/// `POST /berth/storage/extend`: how full the thin pool is then. `device` is a path on the daemon's
/// machine, which `force` wipes; `size` and `metadata-size` are those of the pool's files. 400 for
/// drivers without a pool.
async fn extend(State(engine): State<Engine>, params: Params) -> Result<Json<Value>, ApiError> {
    let (device, wipe) = (params.text("device"), params.flag("force"));
    let (size, metadata_size) = (params.text("size"), params.text("metadata-size"));
    let request = ExtendRequest::parse(device, wipe, size, metadata_size)?;
    Ok(Json(engine.extend_pool(request).await?))
}

/// `GET /berth/storage/pool`: how full the thin pool is, and what it lies on. 400 for drivers without
/// one.
async fn pool(State(engine): State<Engine>) -> Result<Json<Value>, ApiError> {
    Ok(Json(engine.pool_status().await?))
}

/// `GET /berth/storage/devices`: the devices on the thin pool.
async fn devices(State(engine): State<Engine>) -> Result<Json<Vec<Value>>, ApiError> {
    Ok(Json(engine.pool_devices().await?))
}

/// `GET /berth/storage/devices/{id}`: 200, with what is mapped; 404.
async fn device(State(engine): State<Engine>, Name(id): Name) -> Result<Json<Value>, ApiError> {
    Ok(Json(engine.pool_device(id).await?))
}

/// `DELETE /berth/storage/devices/{id}`: 204; 404; 409 when a layer is on it, or it is in use.
async fn remove_device(
    State(engine): State<Engine>,
    Name(id): Name,
) -> Result<StatusCode, ApiError> {
    engine.remove_device(id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `POST /berth/storage/devices/{id}/snapshot?name=NAME`: 201 with the new device; 404; 409 when the
/// name is taken.
async fn snapshot(
    State(engine): State<Engine>,
    Name(id): Name,
    params: Params,
) -> Result<Created<Value>, ApiError> {
    Ok(Created(engine.snapshot_device(id, params.text("name").to_owned()).await?))
}

/// `POST /berth/storage/devices/{id}/mount?target=DIR`: 200; 404. `target` is a directory of the
/// daemon's machine.
async fn mount(
    State(engine): State<Engine>,
    Name(id): Name,
    params: Params,
) -> Result<Json<Value>, ApiError> {
    Ok(Json(engine.mount_device(id, params.text("target").to_owned()).await?))
}

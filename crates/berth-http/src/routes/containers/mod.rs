//! Routes of the tag `Container`.

mod archive;
mod lifecycle;
mod streams;

use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use berth_api::container::{
    Change, ContainerInspect, ContainerPruneReport, ContainerSummary, CreateRequest,
    CreateRequestError, CreateResponse, TopResponse,
};
use berth_api::filters::PRUNE_KEYS;
use berth_api::go::GoJsonError;
use berth_api::json::List;
use berth_api::options::ListOptions;
use berth_engine::Engine;
use hyper::StatusCode;

pub(super) use self::streams::window;
use crate::answer::{Created, Json};
use crate::error::ApiError;
use crate::extract::{Name, Params, Version, invalid_json, json_bytes};
use crate::route::Route;

/// The keys that the list's filters know.
const LIST_KEYS: &[&str] = &[
    "ancestor",
    "before",
    "exited",
    "expose",
    "health",
    "id",
    "is-task",
    "isolation",
    "label",
    "name",
    "network",
    "publish",
    "since",
    "status",
    "volume",
];

#[rustfmt::skip]
pub(super) fn routes() -> Vec<Route<Engine>> {
    vec![
        Route::get("/containers/json",              list),
        Route::post("/containers/create",           create),
        Route::post("/containers/prune",            prune),
        Route::get("/containers/{name}/json",       inspect),
        Route::get("/containers/{name}/top",        top),
        Route::get("/containers/{name}/logs",       streams::logs),
        Route::get("/containers/{name}/changes",    changes),
        Route::get("/containers/{name}/export",     streams::export),
        Route::get("/containers/{name}/stats",      streams::stats),
        Route::post("/containers/{name}/resize",    streams::resize),
        Route::post("/containers/{name}/start",     lifecycle::start),
        Route::post("/containers/{name}/stop",      lifecycle::stop),
        Route::post("/containers/{name}/restart",   lifecycle::restart),
        Route::post("/containers/{name}/kill",      lifecycle::kill),
        Route::post("/containers/{name}/update",    lifecycle::update),
        Route::post("/containers/{name}/rename",    lifecycle::rename),
        Route::post("/containers/{name}/pause",     lifecycle::pause),
        Route::post("/containers/{name}/unpause",   lifecycle::unpause),
        Route::post("/containers/{name}/attach",    streams::attach),
        Route::post("/containers/{name}/wait",      lifecycle::wait),
        Route::head("/containers/{name}/archive",   archive::stat),
        Route::get("/containers/{name}/archive",    archive::get),
        Route::put("/containers/{name}/archive",    archive::put),
        Route::post("/commit",                      archive::commit),
        Route::delete("/containers/{name}",         lifecycle::remove),
    ]
}

/// `GET /containers/json`: newest first.
async fn list(
    State(engine): State<Engine>,
    params: Params,
) -> Result<Json<Vec<ContainerSummary>>, ApiError> {
    let limit = params.integer("limit")?.and_then(|limit| usize::try_from(limit).ok());
    let options = ListOptions {
        all: params.flag("all"),
        limit: limit.filter(|limit| *limit > 0),
        size: params.flag("size"),
        filters: params.filters(LIST_KEYS)?,
    };
    Ok(Json(engine.list_containers(options).await?))
}

/// `POST /containers/create`: 201; 404 when the image is unknown, 409 when the name is taken.
async fn create(
    State(engine): State<Engine>,
    Version(version): Version,
    params: Params,
    request: Request,
) -> Result<Created<CreateResponse>, ApiError> {
    let body = json_bytes(request).await?;
    let request = CreateRequest::from_json(&body).map_err(create_error)?;
    let platform = params.optional("platform").filter(|_| version.has_platform());
    let name = params.optional("name");
    Ok(Created(engine.create_container(name, platform, request, version).await?))
}

fn create_error(error: CreateRequestError) -> ApiError {
    match error {
        CreateRequestError::Empty => error.into(),
        // Docker does not look behind the document here.
        CreateRequestError::Json(GoJsonError::Trailing) => {
            ApiError::invalid("unexpected content after JSON")
        }
        CreateRequestError::Json(error) => invalid_json(error),
    }
}

/// `GET /containers/{name}/json`.
async fn inspect(
    State(engine): State<Engine>,
    Name(name): Name,
    params: Params,
) -> Result<Json<ContainerInspect>, ApiError> {
    Ok(Json(engine.inspect_container(&name, params.flag("size")).await?))
}

/// `GET /containers/{name}/top`: 409 when it does not run.
async fn top(
    State(engine): State<Engine>,
    Name(name): Name,
    params: Params,
) -> Result<Json<TopResponse>, ApiError> {
    Ok(Json(engine.top_container(&name, params.text("ps_args")).await?))
}

/// `GET /containers/{name}/changes`: `null` when there are none.
async fn changes(
    State(engine): State<Engine>,
    Name(name): Name,
) -> Result<Json<List<Change>>, ApiError> {
    let changes = engine.changes(&name).await?;
    Ok(Json(Some(changes).filter(|changes| !changes.is_empty()).into()))
}

/// `POST /containers/prune`.
async fn prune(
    State(engine): State<Engine>,
    params: Params,
) -> Result<Json<ContainerPruneReport>, ApiError> {
    Ok(Json(engine.prune_containers(params.filters(PRUNE_KEYS)?).await?))
}

/// 204, or 304 when nothing changed.
fn no_content(changed: berth_api::options::Changed) -> Response {
    match changed {
        berth_api::options::Changed::Yes => StatusCode::NO_CONTENT,
        berth_api::options::Changed::NotModified => StatusCode::NOT_MODIFIED,
    }
    .into_response()
}

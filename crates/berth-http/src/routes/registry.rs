//! Routes that speak with registries: of the tags `System`, `Distribution` and `Image`.

use axum::extract::State;
use axum::response::Response;
use berth_api::filters::Filters;
use berth_api::registry::{DistributionInspect, LoginAnswer, SearchResult};
use berth_engine::Engine;
use berth_engine::registry::{Credentials, PullRequest, PushRequest, Started};

use super::images::stream_from;
use crate::answer::Json;
use crate::error::ApiError;
use crate::extract::{JsonBody, Name, Params, RegistryAuth};
use crate::route::Route;

const CHOSEN_PLATFORM: &str =
    "pushing one platform of an image is not supported by this version of berth";

pub(super) fn routes() -> Vec<Route<Engine>> {
    vec![
        Route::post("/auth", log_in),
        Route::get("/distribution/{name}/json", inspect),
        Route::get("/images/search", search),
        Route::post("/images/{name}/push", push),
    ]
}

/// `POST /auth`.
async fn log_in(
    State(engine): State<Engine>,
    JsonBody(credentials): JsonBody<Credentials>,
) -> Result<Json<LoginAnswer>, ApiError> {
    Ok(Json(engine.log_in(credentials.completed()).await?))
}

/// `GET /images/search`.
async fn search(
    State(engine): State<Engine>,
    params: Params,
    RegistryAuth(credentials): RegistryAuth,
) -> Result<Json<Vec<SearchResult>>, ApiError> {
    let filters = Filters::parse(params.text("filters"))?;
    let limit = params.integer("limit")?.unwrap_or(0);
    let found = engine.search_images(params.text("term"), limit, filters, &credentials).await?;
    Ok(Json(found))
}

/// `GET /distribution/{name}/json`.
async fn inspect(
    State(engine): State<Engine>,
    Name(name): Name,
    RegistryAuth(credentials): RegistryAuth,
) -> Result<Json<DistributionInspect>, ApiError> {
    Ok(Json(engine.inspect_distribution(&name, credentials).await?))
}

/// `POST /images/{name}/push`: 200 once it has begun; the last message is the failure, if there is
/// one. An image here is of one platform, so there is none to choose.
async fn push(
    State(engine): State<Engine>,
    Name(image): Name,
    params: Params,
    RegistryAuth(credentials): RegistryAuth,
) -> Result<Response, ApiError> {
    if !params.text("platform").is_empty() {
        return Err(ApiError::invalid(CHOSEN_PLATFORM));
    }
    let request = PushRequest { image, tag: params.text("tag").to_owned(), credentials };
    let Started { first, rest } = engine.push_image(request).await?;
    Ok(stream_from(first, rest))
}

/// `POST /images/create?fromImage=`: what goes wrong before anything is told has a status of its
/// own.
pub(super) async fn pull(
    engine: Engine,
    params: &Params,
    credentials: Credentials,
) -> Result<Response, ApiError> {
    let request = PullRequest {
        image: params.text("fromImage").to_owned(),
        tag: params.text("tag").to_owned(),
        platform: params.text("platform").to_owned(),
        credentials,
    };
    let Started { first, rest } = engine.pull_image(request).await?;
    Ok(stream_from(first, rest))
}

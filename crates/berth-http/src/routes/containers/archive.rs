//! Files into and out of containers, and containers into images.

use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use berth_api::container::{ContainerConfig, PathStat};
use berth_api::exec::IdResponse;
use berth_api::go;
use berth_api::options::{ArchivePutOptions, CommitOptions};
use berth_engine::Engine;
use hyper::StatusCode;
use hyper::header::{HeaderName, HeaderValue};

use crate::answer::{Created, TAR, stream_response};
use crate::error::ApiError;
use crate::extract::{Name, Params, invalid_json, json_bytes};
use crate::upload;

const PATH_STAT: HeaderName = HeaderName::from_static("x-docker-container-path-stat");

/// `HEAD /containers/{name}/archive`: what is at the path, in a header.
pub(super) async fn stat(
    State(engine): State<Engine>,
    Name(name): Name,
    params: Params,
) -> Result<Response, ApiError> {
    let stat = engine.archive_stat(&name, path(&params)?).await?;
    Ok(with_stat(StatusCode::OK.into_response(), &stat))
}

/// `GET /containers/{name}/archive`: the same, and a tar of it.
pub(super) async fn get(
    State(engine): State<Engine>,
    Name(name): Name,
    params: Params,
) -> Result<Response, ApiError> {
    let (stat, tar) = engine.archive_get(&name, path(&params)?).await?;
    Ok(with_stat(stream_response(Some(TAR), tar), &stat))
}

/// `PUT /containers/{name}/archive`: extracts a tar into the directory at the path.
pub(super) async fn put(
    State(engine): State<Engine>,
    Name(name): Name,
    params: Params,
    body: Body,
) -> Result<StatusCode, ApiError> {
    let options = ArchivePutOptions {
        no_overwrite_dir_non_dir: params.flag("noOverwriteDirNonDir"),
        copy_uid_gid: params.flag("copyUIDGID"),
    };
    let path = path(&params)?;
    engine.archive_put(&name, path, options, upload::reader(body)).await?;
    Ok(StatusCode::OK)
}

/// `POST /commit`: 201 and the new image's id.
pub(super) async fn commit(
    State(engine): State<Engine>,
    params: Params,
    request: Request,
) -> Result<Created<IdResponse>, ApiError> {
    let body = json_bytes(request).await?;
    // An empty body, and `null`, keep the container's configuration.
    let config: Option<ContainerConfig> =
        if body.is_empty() { None } else { go::from_slice(&body).map_err(invalid_json)? };
    let options = CommitOptions {
        container: params.text("container").to_owned(),
        repo: params.optional("repo"),
        tag: params.optional("tag"),
        comment: params.text("comment").to_owned(),
        author: params.text("author").to_owned(),
        pause: params.flag_or_true("pause"),
        changes: params.all("changes").map(str::to_owned).collect(),
    };
    Ok(Created(IdResponse { id: engine.commit(options, config).await? }))
}

/// Docker's words lack a blank.
fn path(params: &Params) -> Result<&str, ApiError> {
    match params.text("path") {
        "" => Err(ApiError::invalid("bad parameter: pathcannot be empty")),
        path => Ok(path),
    }
}

fn with_stat(mut response: Response, stat: &PathStat) -> Response {
    let value = HeaderValue::from_str(&stat.header()).expect("base64 is a header value");
    response.headers_mut().insert(PATH_STAT, value);
    response
}

//! Routes of the tag `images`.

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use berth_api::ApiVersion;
use berth_api::filters::Filters;
use berth_api::image::{
    HistoryItem, ImageConfig, ImageDeleteItem, ImageInspect, ImagePruneReport, ImageSummary,
    ProgressMessage,
};
use berth_engine::images::{ImportRequest, ListOptions, LoadOptions, RemoveOptions};
use berth_engine::{Engine, EngineError};
use berth_types::Timestamp;
use bytes::Bytes;
use hyper::StatusCode;
use tokio::sync::mpsc;

use crate::answer::{JSON, Json, TAR, stream_response};
use crate::error::ApiError;
use crate::extract::{Name, Params, RegistryAuth, Version};
use crate::route::Route;
use crate::upload::reader;

const NO_URL: &str = "importing from a URL is not supported by this version of berth; download it and use \"docker import FILE\"";

/// What an image without a name was listed as before API 1.43.
const NO_TAG: &str = "<none>:<none>";
const NO_DIGEST: &str = "<none>@<none>";

pub(crate) fn routes() -> Vec<Route<Engine>> {
    vec![
        Route::get("/images/json", list),
        Route::post("/images/create", create),
        Route::post("/images/load", load),
        Route::post("/images/prune", prune),
        Route::get("/images/get", save),
        Route::get("/images/{name}/get", save_one),
        Route::get("/images/{name}/json", inspect),
        Route::get("/images/{name}/history", history),
        Route::post("/images/{name}/tag", tag),
        Route::delete("/images/{name}", remove),
    ]
}

/// `GET /images/json`.
async fn list(
    State(engine): State<Engine>,
    Version(version): Version,
    params: Params,
) -> Result<Json<Vec<ImageSummary>>, ApiError> {
    let mut filters = Filters::parse(params.text("filters"))?;
    let glob = params.text("filter");
    if !version.at_least(41) && !glob.is_empty() && !filters.contains("reference") {
        filters.add("reference", glob);
    }
    let options = ListOptions {
        all: params.flag("all"),
        shared_size: version.at_least(42) && params.flag("shared-size"),
        filters,
    };
    let images = engine.list_images(options).await?;
    Ok(Json(images.into_iter().map(|image| summary(image, version)).collect()))
}

fn summary(mut image: ImageSummary, version: ApiVersion) -> ImageSummary {
    let is_nameless = image.repo_tags.is_empty() && image.repo_digests.is_empty();
    if is_nameless && !version.has_empty_repo_tags() {
        image.repo_tags.push(NO_TAG.to_owned());
        image.repo_digests.push(NO_DIGEST.to_owned());
    }
    if !version.has_virtual_size() {
        image.virtual_size = None;
    }
    if !version.at_least(51) {
        image.containers = -1;
    }
    image
}

/// `POST /images/create`: a pull, or an import.
async fn create(
    State(engine): State<Engine>,
    params: Params,
    RegistryAuth(credentials): RegistryAuth,
    body: Body,
) -> Result<Response, ApiError> {
    if !params.text("fromImage").is_empty() {
        return super::registry::pull(engine, &params, credentials).await;
    }
    let source = params.text("fromSrc");
    if source != "-" {
        return Err(ApiError::new(StatusCode::NOT_IMPLEMENTED, NO_URL));
    }
    let request = ImportRequest {
        repo: params.text("repo").to_owned(),
        tag: params.text("tag").to_owned(),
        message: params.optional("message").unwrap_or_else(|| format!("Imported from {source}")),
        changes: params.all("changes").map(str::to_owned).collect(),
        platform: params.text("platform").to_owned(),
    };
    let id = engine.import_image(reader(body), request).await?;
    let (sender, messages) = mpsc::channel(1);
    let status = ProgressMessage::status(id.to_string());
    sender.send(status).await.expect("the channel has room and its receiver is here");
    drop(sender);
    Ok(stream(messages).await)
}

/// `POST /images/load`: 200 whatever happens; the last message is the failure, if there is one.
async fn load(State(engine): State<Engine>, params: Params, body: Body) -> Response {
    let options = LoadOptions { quiet: params.flag_or_true("quiet") };
    stream(engine.load_images(reader(body), options)).await
}

/// `POST /images/prune`.
async fn prune(
    State(engine): State<Engine>,
    params: Params,
) -> Result<Json<ImagePruneReport>, ApiError> {
    Ok(Json(engine.prune_images(Filters::parse(params.text("filters"))?).await?))
}

/// `GET /images/get`.
async fn save(State(engine): State<Engine>, params: Params) -> Result<Response, ApiError> {
    let names = params.all("names").map(str::to_owned).collect();
    Ok(stream_response(Some(TAR), engine.save_images(names).await?))
}

/// `GET /images/{name}/get`.
async fn save_one(State(engine): State<Engine>, Name(name): Name) -> Result<Response, ApiError> {
    Ok(stream_response(Some(TAR), engine.save_images(vec![name]).await?))
}

/// `GET /images/{name}/json`.
async fn inspect(
    State(engine): State<Engine>,
    Version(version): Version,
    Name(name): Name,
) -> Result<Json<ImageInspect>, ApiError> {
    Ok(Json(details(engine.inspect_image(&name).await?, version)))
}

fn details(mut image: ImageInspect, version: ApiVersion) -> ImageInspect {
    if version.has_virtual_size() {
        image.created.get_or_insert(Timestamp::zero());
    } else {
        image.virtual_size = None;
    }
    if version.at_least(45) {
        image.container = None;
        image.container_config = None;
    }
    if version.at_least(50)
        && let ImageConfig::Full(config) = image.config
    {
        image.config = ImageConfig::Lean(Box::new((*config).into()));
    }
    image
}

/// `GET /images/{name}/history`.
async fn history(
    State(engine): State<Engine>,
    Name(name): Name,
) -> Result<Json<Vec<HistoryItem>>, ApiError> {
    Ok(Json(engine.image_history(&name).await?))
}

/// `POST /images/{name}/tag`: 201.
async fn tag(
    State(engine): State<Engine>,
    Name(name): Name,
    params: Params,
) -> Result<StatusCode, ApiError> {
    engine.tag_image(&name, params.text("repo"), params.text("tag")).await?;
    Ok(StatusCode::CREATED)
}

/// `DELETE /images/{name}`.
async fn remove(
    State(engine): State<Engine>,
    Name(name): Name,
    params: Params,
) -> Result<Json<Vec<ImageDeleteItem>>, ApiError> {
    let options = RemoveOptions { force: params.flag("force"), no_prune: params.flag("noprune") };
    Ok(Json(engine.remove_image(&name, options).await?))
}

/// Messages, each on a line of its own. The headers wait for the first, as in Docker, so that a
/// client has sent its body by then.
pub(super) async fn stream(mut messages: mpsc::Receiver<ProgressMessage>) -> Response {
    let first = messages.recv().await;
    stream_from(first, messages)
}

/// As [`stream`], when the first message is here.
pub(super) fn stream_from(
    first: Option<ProgressMessage>,
    mut messages: mpsc::Receiver<ProgressMessage>,
) -> Response {
    let (sender, lines) = mpsc::channel::<Result<Bytes, EngineError>>(1);
    tokio::spawn(async move {
        let mut next = first;
        while let Some(message) = next {
            if sender.send(Ok(line(&message))).await.is_err() {
                break;
            }
            // A client that leaves while nothing is told ends what is going on, too.
            next = tokio::select! {
                next = messages.recv() => next,
                () = sender.closed() => break,
            };
        }
    });
    stream_response(Some(JSON), lines)
}

fn line(message: &ProgressMessage) -> Bytes {
    let mut line = serde_json::to_vec(message).expect("messages have string keys only");
    line.extend_from_slice(b"\r\n");
    line.into()
}

#[cfg(test)]
mod tests {
    use berth_api::container::ContainerConfig;

    use super::*;

    #[test]
    fn lists_differ_by_version() {
        let image = ImageSummary {
            containers: 2,
            size: 5,
            virtual_size: Some(5),
            ..ImageSummary::default()
        };
        #[rustfmt::skip]
        let table = [
            // minor  tags             virtual   containers
            (42,      &[NO_TAG][..],   Some(5),  -1),
            (43,      &[],             Some(5),  -1),
            (44,      &[],             None,     -1),
            (51,      &[],             None,     2),
        ];
        for (minor, tags, virtual_size, containers) in table {
            let got = summary(image.clone(), ApiVersion::new(1, minor));
            assert_eq!(got.repo_tags, tags, "1.{minor}");
            assert_eq!((got.virtual_size, got.containers), (virtual_size, containers), "1.{minor}");
        }
    }

    #[test]
    fn inspect_differs_by_version() {
        let image = ImageInspect {
            container: Some(String::new()),
            container_config: Some(ContainerConfig::default()),
            config: ImageConfig::Full(Box::default()),
            virtual_size: Some(5),
            ..ImageInspect::default()
        };
        #[rustfmt::skip]
        let table = [
            // minor  created  virtual  container  lean
            (43,      true,    true,    true,      false),
            (44,      false,   false,   true,      false),
            (45,      false,   false,   false,     false),
            (50,      false,   false,   false,     true),
        ];
        for (minor, created, virtual_size, container, lean) in table {
            let got = details(image.clone(), ApiVersion::new(1, minor));
            let is_lean = matches!(got.config, ImageConfig::Lean(_));
            assert_eq!(
                (
                    got.created.is_some(),
                    got.virtual_size.is_some(),
                    got.container.is_some(),
                    is_lean
                ),
                (created, virtual_size, container, lean),
                "1.{minor}"
            );
        }
    }

    #[test]
    fn messages_end_with_carriage_return_and_newline() {
        assert_eq!(line(&ProgressMessage::status("x")), "{\"status\":\"x\"}\r\n");
    }
}

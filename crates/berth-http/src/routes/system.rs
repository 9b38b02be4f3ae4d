//! Routes of the tag `System`.

mod events;

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use berth_api::ApiVersion;
use berth_api::daemon::{DiskUsage, Info, Version as VersionMessage};
use berth_api::options::DfTypes;
use berth_engine::Engine;
use hyper::Method;
use hyper::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue, PRAGMA};

use crate::answer::Json;
use crate::error::ApiError;
use crate::extract::{Params, Version};
use crate::route::Route;

pub(super) fn routes() -> Vec<Route<Engine>> {
    vec![
        Route::new(Method::OPTIONS, "/{any}", options),
        Route::head("/_ping", ping_head),
        Route::get("/_ping", ping),
        Route::get("/info", info),
        Route::get("/version", version),
        Route::get("/events", events::events),
        Route::get("/system/df", disk_usage),
        Route::get("/plugins", plugins),
    ]
}

/// `OPTIONS` of anything: 200 and nothing.
pub(crate) async fn options() {}

/// `GET /_ping`: `OK`, and what this server can do in headers.
pub(crate) async fn ping() -> Response {
    pong("OK")
}

/// `HEAD /_ping`: the headers of [`ping`].
pub(crate) async fn ping_head() -> Response {
    let mut response = pong("");
    response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    response
}

fn pong(text: &'static str) -> Response {
    const HEADERS: [(HeaderName, &str); 5] = [
        (CONTENT_TYPE, "text/plain; charset=utf-8"),
        (CACHE_CONTROL, "no-cache, no-store, must-revalidate"),
        (PRAGMA, "no-cache"),
        (HeaderName::from_static("builder-version"), "1"),
        (HeaderName::from_static("swarm"), "inactive"),
    ];
    let mut response = Response::new(Body::from(text));
    for (name, value) in HEADERS {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

/// `GET /info`.
async fn info(
    State(engine): State<Engine>,
    Version(version): Version,
) -> Result<Json<Info>, ApiError> {
    Ok(Json(engine.info(version).await?))
}

/// `GET /version`.
async fn version(State(engine): State<Engine>) -> Json<VersionMessage> {
    Json(engine.version())
}

/// `GET /system/df`: what everything costs on disk.
async fn disk_usage(
    State(engine): State<Engine>,
    Version(version): Version,
    params: Params,
) -> Result<Json<DiskUsage>, ApiError> {
    let usage = engine.df(df_types(version, &params)?).await?;
    let cached = usage.build_cache.iter().map(|cache| cache.size).sum();
    let builder_size = (!version.has_df_types()).then_some(cached);
    Ok(Json(DiskUsage { builder_size, ..usage }))
}

fn df_types(version: ApiVersion, params: &Params) -> Result<DfTypes, ApiError> {
    let mut types = DfTypes::NONE;
    for kind in params.all("type").filter(|_| version.has_df_types()) {
        match kind {
            "container" => types.containers = true,
            "image" => types.images = true,
            "volume" => types.volumes = true,
            "build-cache" => types.build_cache = true,
            _ => return Err(ApiError::invalid(format!("unknown object type: {kind}"))),
        }
    }
    Ok(if types == DfTypes::NONE { DfTypes::ALL } else { types })
}

/// `GET /plugins`: none are installed.
async fn plugins() -> Json<[(); 0]> {
    Json([])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_df_counts() {
        let containers = DfTypes { containers: true, ..DfTypes::NONE };
        let two = DfTypes { images: true, ..containers };
        #[rustfmt::skip]
        let table = [
            (51, "",                          Ok(DfTypes::ALL)),
            (51, "type=container",            Ok(containers)),
            (51, "type=container&type=image", Ok(two)),
            (41, "type=container",            Ok(DfTypes::ALL)),
            (51, "type=x",                    Err(ApiError::invalid("unknown object type: x"))),
        ];
        for (minor, query, expected) in table {
            let got = df_types(ApiVersion::new(1, minor), &Params::parse(query));
            assert_eq!(got, expected, "{query}");
        }
    }
}

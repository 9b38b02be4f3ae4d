//! `GET /metrics`, on an address of its own.

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use berth_engine::Engine;
use hyper::header::{CONTENT_TYPE, HeaderValue};

use crate::route::Route;

/// What Prometheus calls the format.
const OPEN_METRICS: HeaderValue =
    HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");

pub(crate) fn routes() -> Vec<Route<Engine>> {
    vec![Route::get("/metrics", metrics)]
}

/// `GET /metrics`: every figure, as `OpenMetrics` text.
async fn metrics(State(engine): State<Engine>) -> Response {
    let mut response = Response::new(Body::from(engine.metrics().await));
    response.headers_mut().insert(CONTENT_TYPE, OPEN_METRICS);
    response
}

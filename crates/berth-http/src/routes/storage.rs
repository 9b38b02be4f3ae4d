//! berth's own routes for what is below images and containers.

use axum::extract::State;
use axum::response::Response;
use berth_engine::{Depth, Engine};

use crate::extract::Params;
use crate::route::Route;
use crate::routes::images::stream;

pub(super) fn routes() -> Vec<Route<Engine>> {
    vec![Route::post("/berth/storage/check", check)]
}

/// `POST /berth/storage/check`: messages as they come; with `deep` every byte is read.
async fn check(State(engine): State<Engine>, params: Params) -> Response {
    let depth = if params.flag("deep") { Depth::Content } else { Depth::Names };
    stream(engine.check_storage(depth)).await
}

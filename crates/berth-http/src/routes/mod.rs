//! The one list of routes: all of API 1.51, built or not, and berth's own below `/berth/`.

mod build;
mod containers;
mod exec;
mod images;
pub(crate) mod metrics;
mod networks;
mod registry;
mod storage;
pub(crate) mod system;
mod volumes;

use berth_engine::Engine;
use hyper::Method;

use crate::route::Route;

/// Docker's words for requests that only a swarm manager answers.
const NOT_A_MANAGER: &str = "This node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm join\" to connect this node to swarm and try again.";
/// Docker's words for leaving a swarm that one is not in.
const NOT_IN_A_SWARM: &str = "This node is not part of a swarm";

/// Every route, in the order in which they are tried.
pub(crate) fn all() -> Vec<Route<Engine>> {
    let mut routes = not_built();
    routes.extend(system::routes());
    routes.extend(containers::routes());
    routes.extend(exec::routes());
    routes.extend(images::routes());
    routes.extend(registry::routes());
    routes.extend(build::routes());
    routes.extend(volumes::routes());
    routes.extend(networks::routes());
    routes.extend(storage::routes());
    routes.extend(swarm());
    routes
}

#[rustfmt::skip]
fn not_built() -> Vec<Route<Engine>> {
    const NOT_BUILT: &[(Method, &str, &str)] = &[
        (Method::GET,    "/containers/{name}/attach/ws",           "attaching by WebSocket is"),
        (Method::GET,    "/containers/{name}/checkpoints",         "checkpoints are"),
        (Method::POST,   "/containers/{name}/checkpoints",         "checkpoints are"),
        (Method::DELETE, "/containers/{name}/checkpoints/{point}", "checkpoints are"),
        (Method::PUT,    "/volumes/{name}",                        "cluster volumes are"),
        (Method::GET,    "/plugins/privileges",                    "plugins are"),
        (Method::POST,   "/plugins/pull",                          "plugins are"),
        (Method::POST,   "/plugins/create",                        "plugins are"),
        (Method::GET,    "/plugins/{name}/json",                   "plugins are"),
        (Method::DELETE, "/plugins/{name}",                        "plugins are"),
        (Method::POST,   "/plugins/{name}/enable",                 "plugins are"),
        (Method::POST,   "/plugins/{name}/disable",                "plugins are"),
        (Method::POST,   "/plugins/{name}/push",                   "plugins are"),
        (Method::POST,   "/plugins/{name}/set",                    "plugins are"),
        (Method::POST,   "/plugins/{name}/upgrade",                "plugins are"),
        (Method::POST,   "/swarm/init",                            "swarm is"),
        (Method::POST,   "/swarm/join",                            "swarm is"),
    ];
    NOT_BUILT
        .iter()
        .map(|(method, path, what)| Route::not_built(method.clone(), path, what))
        .collect()
}

#[rustfmt::skip]
fn swarm() -> Vec<Route<Engine>> {
    const MANAGERS: &[(Method, &str)] = &[
        (Method::GET,    "/swarm"),
        (Method::GET,    "/swarm/unlockkey"),
        (Method::POST,   "/swarm/update"),
        (Method::POST,   "/swarm/unlock"),
        (Method::GET,    "/services"),
        (Method::POST,   "/services/create"),
        (Method::POST,   "/services/{id}/update"),
        (Method::GET,    "/services/{id}/logs"),
        (Method::GET,    "/services/{id}"),
        (Method::DELETE, "/services/{id}"),
        (Method::GET,    "/nodes"),
        (Method::POST,   "/nodes/{id}/update"),
        (Method::GET,    "/nodes/{id}"),
        (Method::DELETE, "/nodes/{id}"),
        (Method::GET,    "/tasks"),
        (Method::GET,    "/tasks/{id}/logs"),
        (Method::GET,    "/tasks/{id}"),
        (Method::GET,    "/secrets"),
        (Method::POST,   "/secrets/create"),
        (Method::POST,   "/secrets/{id}/update"),
        (Method::GET,    "/secrets/{id}"),
        (Method::DELETE, "/secrets/{id}"),
        (Method::GET,    "/configs"),
        (Method::POST,   "/configs/create"),
        (Method::POST,   "/configs/{id}/update"),
        (Method::GET,    "/configs/{id}"),
        (Method::DELETE, "/configs/{id}"),
    ];
    let leave = Route::no_swarm(Method::POST, "/swarm/leave", NOT_IN_A_SWARM);
    let managers = MANAGERS
        .iter()
        .map(|(method, path)| Route::no_swarm(method.clone(), path, NOT_A_MANAGER));
    managers.chain([leave]).collect()
}

#[cfg(test)]
mod tests;

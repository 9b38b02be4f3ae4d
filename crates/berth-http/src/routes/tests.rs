//! The list of routes against Docker's API 1.51.

use super::*;
use crate::route::captures;

/// Everything that Docker documents, with a path that must reach it.
const API: &str = "
    OPTIONS /anything/at/all
    HEAD    /_ping
    GET     /_ping
    GET     /info
    GET     /version
    GET     /events
    GET     /system/df
    POST    /auth
    POST    /session
    POST    /grpc
    POST    /build
    POST    /build/prune
    POST    /build/cancel
    GET     /distribution/a/b/json
    GET     /containers/json
    POST    /containers/create
    POST    /containers/prune
    GET     /containers/x/json
    GET     /containers/x/top
    GET     /containers/x/logs
    GET     /containers/x/changes
    GET     /containers/x/export
    GET     /containers/x/stats
    POST    /containers/x/resize
    POST    /containers/x/start
    POST    /containers/x/stop
    POST    /containers/x/restart
    POST    /containers/x/kill
    POST    /containers/x/update
    POST    /containers/x/rename
    POST    /containers/x/pause
    POST    /containers/x/unpause
    POST    /containers/x/attach
    GET     /containers/x/attach/ws
    POST    /containers/x/wait
    DELETE  /containers/x
    HEAD    /containers/x/archive
    GET     /containers/x/archive
    PUT     /containers/x/archive
    POST    /containers/x/exec
    GET     /containers/x/checkpoints
    POST    /containers/x/checkpoints
    DELETE  /containers/x/checkpoints/y
    POST    /exec/x/start
    POST    /exec/x/resize
    GET     /exec/x/json
    GET     /images/json
    POST    /images/create
    POST    /images/load
    POST    /images/prune
    GET     /images/get
    GET     /images/search
    GET     /images/a/b:t/json
    GET     /images/a/b:t/history
    GET     /images/a/b:t/get
    POST    /images/a/b:t/push
    POST    /images/a/b:t/tag
    DELETE  /images/a/b:t
    POST    /commit
    GET     /volumes
    POST    /volumes/create
    POST    /volumes/prune
    GET     /volumes/x
    PUT     /volumes/x
    DELETE  /volumes/x
    GET     /networks
    GET     /networks/
    POST    /networks/create
    POST    /networks/prune
    GET     /networks/x
    POST    /networks/x/connect
    POST    /networks/x/disconnect
    DELETE  /networks/x
    GET     /plugins
    GET     /plugins/privileges
    POST    /plugins/pull
    POST    /plugins/create
    GET     /plugins/a/b/json
    DELETE  /plugins/a/b
    POST    /plugins/a/b/enable
    POST    /plugins/a/b/disable
    POST    /plugins/a/b/push
    POST    /plugins/a/b/set
    POST    /plugins/a/b/upgrade
    GET     /swarm
    GET     /swarm/unlockkey
    POST    /swarm/init
    POST    /swarm/join
    POST    /swarm/leave
    POST    /swarm/update
    POST    /swarm/unlock
    GET     /services
    POST    /services/create
    GET     /services/x
    GET     /services/x/logs
    POST    /services/x/update
    DELETE  /services/x
    GET     /nodes
    GET     /nodes/x
    POST    /nodes/x/update
    DELETE  /nodes/x
    GET     /tasks
    GET     /tasks/x
    GET     /tasks/x/logs
    GET     /secrets
    POST    /secrets/create
    GET     /secrets/x
    POST    /secrets/x/update
    DELETE  /secrets/x
    GET     /configs
    POST    /configs/create
    GET     /configs/x
    POST    /configs/x/update
    DELETE  /configs/x
";

fn documented() -> Vec<(Method, &'static str)> {
    let lines = API.lines().chain(OWN.lines()).map(str::trim).filter(|line| !line.is_empty());
    lines
        .map(|line| {
            let (method, path) = line.split_once(' ').unwrap();
            (method.parse().unwrap(), path.trim())
        })
        .collect()
}

/// What berth has besides.
const OWN: &str = "
    GET     /berth/storage/info
    POST    /berth/storage/check
    POST    /berth/storage/repair
    POST    /berth/storage/backup
    POST    /berth/storage/extend
    GET     /berth/storage/pool
    GET     /berth/storage/devices
    GET     /berth/storage/devices/x
    DELETE  /berth/storage/devices/x
    POST    /berth/storage/devices/x/snapshot
    POST    /berth/storage/devices/x/mount
";

/// The route that answers a request.
fn reached<'a>(routes: &'a [Route<Engine>], method: &Method, path: &str) -> Option<&'a str> {
    routes
        .iter()
        .find(|route| route.method == *method && captures(route.path, path).is_some())
        .map(|route| route.path)
}

#[test]
fn every_documented_path_reaches_a_route_of_its_own() {
    let routes = all();
    let mut taken = Vec::new();
    let mut wrong = Vec::new();
    for (method, path) in documented() {
        match reached(&routes, &method, path) {
            None => wrong.push(format!("{method} {path}: no route")),
            Some(route) if taken.contains(&(method.clone(), route)) => {
                wrong.push(format!("{method} {path}: taken by {route}"));
            }
            Some(route) => taken.push((method, route)),
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
}

#[test]
fn every_route_is_documented_and_listed_once() {
    let routes = all();
    let documented = documented();
    let mut wrong = Vec::new();
    for (at, route) in routes.iter().enumerate() {
        let is_reached = documented.iter().any(|(method, path)| {
            *method == route.method && reached(&routes, method, path) == Some(route.path)
        });
        let earlier = routes[..at]
            .iter()
            .any(|other| other.method == route.method && other.path == route.path);
        if !is_reached || earlier {
            wrong.push(format!("{route:?}"));
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
}

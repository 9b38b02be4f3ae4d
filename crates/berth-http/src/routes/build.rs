//! Routes of the classic builder.

use std::collections::BTreeMap;

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use berth_api::container::{HostConfig, Ulimit};
use berth_api::daemon::BuildPruneReport;
use berth_api::filters::Filters;
use berth_engine::Engine;
use berth_engine::build::BuildRequest;
use berth_engine::registry::KnownRegistries;
use hyper::StatusCode;
use serde::de::DeserializeOwned;

use super::images::stream;
use crate::answer::Json;
use crate::error::ApiError;
use crate::extract::{Params, RegistryConfig};
use crate::route::Route;
use crate::upload::reader;

/// What clients that want BuildKit are told.
const BUILDKIT: &str = "BuildKit is not supported by this version of berth; set \
                        DOCKER_BUILDKIT=0 to build with the classic builder";

pub(crate) fn routes() -> Vec<Route<Engine>> {
    vec![
        Route::post("/build", build),
        Route::post("/build/prune", prune),
        Route::post("/build/cancel", cancel),
        Route::post("/session", buildkit),
        Route::post("/grpc", buildkit),
    ]
}

/// `POST /build`: an error answer until the first step, then 200 whatever happens.
async fn build(
    State(engine): State<Engine>,
    params: Params,
    RegistryConfig(registries): RegistryConfig,
    body: Body,
) -> Result<Response, ApiError> {
    let request = BuildRequest { registries, ..request(&params)? };
    Ok(stream(engine.build(request, reader(body)).await?).await)
}

fn request(params: &Params) -> Result<BuildRequest, ApiError> {
    match params.text("version") {
        "" | "1" => {}
        "2" => return Err(ApiError::new(StatusCode::NOT_IMPLEMENTED, BUILDKIT)),
        other => return Err(ApiError::invalid(format!("invalid version {other:?}"))),
    }
    if params.all("securityopt").any(|option| !matches!(option, "" | "null" | "[]")) {
        return Err(ApiError::invalid("security options are not supported on linux"));
    }
    for refused in ["session", "outputs"] {
        if !matches!(params.text(refused), "" | "null" | "[]") {
            return Err(ApiError::new(StatusCode::NOT_IMPLEMENTED, BUILDKIT));
        }
    }
    Ok(BuildRequest {
        dockerfile: params.text("dockerfile").to_owned(),
        tags: params.all("t").map(str::to_owned).collect(),
        remote: params.text("remote").to_owned(),
        quiet: params.flag("q"),
        no_cache: params.flag("nocache"),
        pull: params.flag("pull"),
        registries: KnownRegistries::default(),
        rm: params.flag_or_true("rm"),
        force_rm: params.flag("forcerm"),
        build_args: json::<BTreeMap<String, Option<String>>>(params, "buildargs", "build args")?,
        labels: json(params, "labels", "labels")?,
        cache_from: json(params, "cachefrom", "cache-from")?,
        target: params.text("target").to_owned(),
        squash: params.flag("squash"),
        platform: params.text("platform").to_owned(),
        build_id: params.text("buildid").to_owned(),
        host: host_config(params)?,
    })
}

/// What the containers of `RUN` may use.
fn host_config(params: &Params) -> Result<HostConfig, ApiError> {
    let number = |name: &str| Ok::<_, ApiError>(params.integer(name)?.unwrap_or_default());
    let isolation = params.text("isolation");
    if !matches!(isolation, "" | "default") {
        return Err(ApiError::invalid(format!("Unsupported isolation: {isolation:?}")));
    }
    let ulimits: Vec<Ulimit> = json(params, "ulimits", "ulimits")?;
    Ok(HostConfig {
        memory: number("memory")?,
        memory_swap: number("memswap")?,
        cpu_shares: number("cpushares")?,
        cpu_period: number("cpuperiod")?,
        cpu_quota: number("cpuquota")?,
        cpuset_cpus: params.text("cpusetcpus").to_owned(),
        cpuset_mems: params.text("cpusetmems").to_owned(),
        cgroup_parent: params.text("cgroupparent").to_owned(),
        shm_size: number("shmsize")?,
        network_mode: params.text("networkmode").to_owned(),
        extra_hosts: params.all("extrahosts").map(str::to_owned).collect::<Vec<_>>().into(),
        ulimits: ulimits.into(),
        ..HostConfig::default()
    })
}

/// A parameter that is JSON; absent, empty and `null` are the default value.
fn json<T: DeserializeOwned + Default>(
    params: &Params,
    name: &str,
    what: &str,
) -> Result<T, ApiError> {
    let text = params.text(name);
    if text.is_empty() || text == "null" {
        return Ok(T::default());
    }
    berth_api::go::from_slice(text.as_bytes())
        .map_err(|error| ApiError::invalid(format!("error reading {what}: {error}")))
}

/// `POST /build/prune`: what `RUN --mount=type=cache` keeps. `all` changes nothing: there is nothing
/// that would only go with it.
async fn prune(
    State(engine): State<Engine>,
    params: Params,
) -> Result<Json<BuildPruneReport>, ApiError> {
    let filters = Filters::parse(params.text("filters"))?;
    let keep = params.integer("keep-storage")?.unwrap_or_default();
    Ok(Json(engine.prune_build_cache(filters, keep.try_into().unwrap_or(0)).await?))
}

/// `POST /build/cancel`.
async fn cancel(State(engine): State<Engine>, params: Params) -> Result<StatusCode, ApiError> {
    let id = params.text("id");
    if id.is_empty() {
        return Err(ApiError::invalid("build ID not provided"));
    }
    engine.cancel_build(id);
    Ok(StatusCode::OK)
}

/// `POST /session` and `POST /grpc`: 501.
async fn buildkit() -> ApiError {
    ApiError::new(StatusCode::NOT_IMPLEMENTED, BUILDKIT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_read_as_docker_reads_them() {
        let query = "t=a&t=b:1&rm=0&forcerm=1&q=1&buildargs=%7B%22A%22%3A%22b%22%2C%22N%22%3Anull%7D\
                     &labels=%7B%22l%22%3A%22v%22%7D&cachefrom=%5B%22x%22%5D&memory=5&networkmode=host\
                     &ulimits=null&extrahosts=a%3A1&version=1";
        let request = request(&Params::parse(query)).unwrap();
        assert_eq!(request.tags, ["a", "b:1"]);
        assert_eq!((request.rm, request.force_rm, request.quiet), (false, true, true));
        let args = [("A".to_owned(), Some("b".to_owned())), ("N".to_owned(), None)];
        assert_eq!(request.build_args, BTreeMap::from(args));
        assert_eq!(request.labels["l"], "v");
        assert_eq!(request.cache_from, ["x"]);
        assert_eq!((request.host.memory, request.host.network_mode.as_str()), (5, "host"));
        assert_eq!(&*request.host.extra_hosts, &["a:1".to_owned()]);
        assert!(super::request(&Params::parse("")).unwrap().rm);
    }

    #[test]
    fn queries_that_are_refused() {
        #[rustfmt::skip]
        let table = [
            ("version=2",         StatusCode::NOT_IMPLEMENTED, BUILDKIT),
            ("version=x",         StatusCode::BAD_REQUEST, "invalid version \"x\""),
            ("session=abc",       StatusCode::NOT_IMPLEMENTED, BUILDKIT),
            ("securityopt=x",     StatusCode::BAD_REQUEST, "security options are not supported on linux"),
            ("isolation=hyperv",  StatusCode::BAD_REQUEST, "Unsupported isolation: \"hyperv\""),
            ("memory=x",          StatusCode::BAD_REQUEST, "strconv.Atoi: parsing \"x\": invalid syntax"),
        ];
        for (query, status, text) in table {
            let refused = request(&Params::parse(query)).unwrap_err();
            assert_eq!(refused, ApiError::new(status, text), "{query}");
        }
        assert!(request(&Params::parse("buildargs=x")).is_err());
    }
}

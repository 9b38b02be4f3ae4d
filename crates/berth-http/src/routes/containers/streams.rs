//! What containers say: logs, attached streams, statistics, whole file systems.

use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use berth_api::ApiVersion;
use berth_api::options::{AttachOptions, LogOptions};
use berth_engine::Engine;
use hyper::StatusCode;

use crate::answer::{JSON, TAR, stream_response};
use crate::error::ApiError;
use crate::extract::{Name, Params, Version};
use crate::hijack::{Hijack, media_type};

/// `GET /containers/{name}/logs`: 200 and a stream.
pub(super) async fn logs(
    State(engine): State<Engine>,
    Name(name): Name,
    Version(version): Version,
    params: Params,
) -> Result<Response, ApiError> {
    let options = log_options(version, &params)?;
    let (tty, lines) = engine.logs(&name, &options)?;
    let media_type = version.names_multiplexed_streams().then(|| media_type(tty, version));
    Ok(stream_response(media_type, lines))
}

fn log_options(version: ApiVersion, params: &Params) -> Result<LogOptions, ApiError> {
    let (stdout, stderr) = (params.flag("stdout"), params.flag("stderr"));
    if !stdout && !stderr {
        return Err(ApiError::invalid("Bad parameters: you must choose at least one stream"));
    }
    Ok(LogOptions {
        stdout,
        stderr,
        follow: params.flag("follow"),
        since: params.time("since")?,
        until: if version.at_least(35) { params.time("until")? } else { None },
        timestamps: params.flag("timestamps"),
        // Anything but a count means all, as in Docker.
        tail: params.text("tail").parse().ok(),
        details: params.flag("details"),
    })
}

/// `GET /containers/{name}/export`: a tar of the whole file system.
pub(super) async fn export(
    State(engine): State<Engine>,
    Name(name): Name,
) -> Result<Response, ApiError> {
    Ok(stream_response(Some(TAR), engine.export(&name)?))
}

/// `GET /containers/{name}/stats`: a document each second, or one.
pub(super) async fn stats(
    State(engine): State<Engine>,
    Name(name): Name,
    params: Params,
) -> Result<Response, ApiError> {
    let stream = params.flag_or_true("stream");
    let one_shot = params.flag("one-shot");
    if stream && one_shot {
        return Err(ApiError::invalid("cannot have stream=true and one-shot=true"));
    }
    Ok(stream_response(Some(JSON), engine.stats(&name, stream, one_shot).await?))
}

/// `POST /containers/{name}/resize`: the terminal's size.
pub(super) async fn resize(
    State(engine): State<Engine>,
    Name(name): Name,
    params: Params,
) -> Result<StatusCode, ApiError> {
    let (height, width) = window(&params)?;
    engine.resize_container(&name, height, width).await?;
    Ok(StatusCode::OK)
}

/// The size that `h` and `w` ask for.
pub(in crate::routes) fn window(params: &Params) -> Result<(u16, u16), ApiError> {
    let read = |key, what| {
        let text = params.text(key);
        let bad = || format!("invalid resize {what} {text:?}: invalid syntax");
        text.parse::<u16>().map_err(|_err| ApiError::invalid(bad()))
    };
    Ok((read("h", "height")?, read("w", "width")?))
}

/// `POST /containers/{name}/attach`: takes the connection over.
pub(super) async fn attach(
    State(engine): State<Engine>,
    Name(name): Name,
    Version(version): Version,
    params: Params,
    mut request: Request,
) -> Result<Response, ApiError> {
    let options = AttachOptions {
        stdin: params.flag("stdin"),
        stdout: params.flag("stdout"),
        stderr: params.flag("stderr"),
        logs: params.flag("logs"),
        stream: params.flag("stream"),
        detach_keys: params.text("detachKeys").to_owned(),
    };
    let hijack = Hijack::of(&mut request);
    let attachment = engine.attach(&name, options).await?;
    let media_type = media_type(attachment.tty, version);
    Ok(hijack.answer(media_type, attachment.stream, request.into_body()).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminal_sizes() {
        #[rustfmt::skip]
        let table = [
            ("h=24&w=80", Ok((24, 80))),
            ("h=x&w=80",  Err("invalid resize height \"x\": invalid syntax")),
            ("h=1&w=-1",  Err("invalid resize width \"-1\": invalid syntax")),
            ("w=1",       Err("invalid resize height \"\": invalid syntax")),
        ];
        for (query, expected) in table {
            let got = window(&Params::parse(query));
            assert_eq!(got, expected.map_err(ApiError::invalid), "{query}");
        }
    }

    #[test]
    fn log_queries() {
        let both = LogOptions { stdout: true, stderr: true, ..LogOptions::default() };
        let until = berth_types::Timestamp::from_unix(5, 500_000_000);
        #[rustfmt::skip]
        let table = [
            (51, "stdout=1&stderr=1",             Ok(both.clone())),
            (51, "stdout=1&stderr=1&tail=all",    Ok(both.clone())),
            (51, "stdout=1&stderr=1&tail=-1",     Ok(both.clone())),
            (51, "stdout=1&stderr=1&tail=0",      Ok(LogOptions { tail: Some(0), ..both.clone() })),
            (51, "stdout=1&stderr=1&until=5.5",   Ok(LogOptions { until, ..both.clone() })),
            (34, "stdout=1&stderr=1&until=5.5",   Ok(both.clone())),
            (51, "stdout=1&since=x",              Err("strconv.ParseInt: parsing \"x\": invalid syntax")),
            (51, "stdout=0&follow=1",             Err("Bad parameters: you must choose at least one stream")),
        ];
        for (minor, query, expected) in table {
            let got = log_options(ApiVersion::new(1, minor), &Params::parse(query));
            assert_eq!(got, expected.map_err(ApiError::invalid), "{query}");
        }
    }
}

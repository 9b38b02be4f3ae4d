//! `GET /events`.

use std::convert::Infallible;

use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use berth_api::filters::Filters;
use berth_api::options::EventFilter;
use berth_engine::Engine;
use futures_util::stream;
use hyper::header::CONTENT_TYPE;

use crate::answer::{JSON, json_line};
use crate::error::ApiError;
use crate::extract::Params;

/// `GET /events`: kept events from `since` on, then new ones until `until`. A line each; the
/// subscription ends with the client.
pub(super) async fn events(
    State(engine): State<Engine>,
    params: Params,
) -> Result<Response, ApiError> {
    let events = engine.listen(read_filter(&params)?)?;
    let lines = stream::unfold(events, |mut events| async move {
        let event = events.next().await?;
        Some((Ok::<_, Infallible>(json_line(&*event)), events))
    });
    let mut response = Response::new(Body::from_stream(lines));
    response.headers_mut().insert(CONTENT_TYPE, JSON);
    Ok(response)
}

fn read_filter(params: &Params) -> Result<EventFilter, ApiError> {
    let (since, until) = (params.time("since")?, params.time("until")?);
    if let (Some(first), Some(last)) = (since, until)
        && last < first
    {
        // The engine refuses this too, but only here are the client's own words known.
        let (first, last) = (params.text("since"), params.text("until"));
        return Err(ApiError::invalid(format!(
            "`since` time ({first}) cannot be after `until` time ({last})"
        )));
    }
    let filters = Filters::parse(params.text("filters"))?;
    Ok(EventFilter { since, until, filters })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_events_are_asked_for() {
        let time = |seconds| berth_types::Timestamp::from_unix(seconds, 0);
        #[rustfmt::skip]
        let table = [
            ("",                Ok((None, None))),
            ("since=3",         Ok((time(3), None))),
            ("since=3&until=5.0", Ok((time(3), time(5)))),
            ("since=5&until=3", Err("`since` time (5) cannot be after `until` time (3)")),
            ("since=x",         Err("strconv.ParseInt: parsing \"x\": invalid syntax")),
            ("filters=x",       Err("invalid filter")),
        ];
        for (query, expected) in table {
            let got = read_filter(&Params::parse(query)).map(|filter| (filter.since, filter.until));
            assert_eq!(got, expected.map_err(ApiError::invalid), "{query}");
        }
    }
}

//! The daemon's log on stderr, in the forms of dockerd's.
//!
//! ```text
//! time="2026-01-02T03:04:05.123456789Z" level=info msg="API listen on /run/berth.sock"
//! {"level":"info","msg":"API listen on /run/berth.sock","time":"2026-01-02T03:04:05.123456789Z"}
//! ```

use std::fmt;

use berth_types::Timestamp;
use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::{SubscriberInitExt as _, TryInitError};
use tracing_subscriber::{Registry, reload};

/// Changes the level while the daemon runs.
#[derive(Debug, Clone)]
pub(super) struct LevelSwitch(reload::Handle<LevelFilter, Registry>);

impl LevelSwitch {
    pub(super) fn set(&self, level: &str) {
        if let Err(error) = self.0.reload(filter(level)) {
            tracing::warn!(%error, "log level not changed");
        }
    }
}

/// Sends everything that is traced from here on to stderr.
pub(super) fn init(level: &str, format: &str) -> Result<LevelSwitch, TryInitError> {
    let (filter, handle) = reload::Layer::new(filter(level));
    let form = if format == "json" { Form::Json } else { Form::Text };
    let layer = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .event_format(form);
    tracing_subscriber::registry().with(filter).with(layer).try_init()?;
    Ok(LevelSwitch(handle))
}

fn filter(level: &str) -> LevelFilter {
    match level {
        "trace" => LevelFilter::TRACE,
        "debug" => LevelFilter::DEBUG,
        "warn" | "warning" => LevelFilter::WARN,
        "error" | "fatal" | "panic" => LevelFilter::ERROR,
        _ => LevelFilter::INFO,
    }
}

#[derive(Debug, Clone, Copy)]
enum Form {
    Text,
    Json,
}

impl<S, N> FormatEvent<S, N> for Form
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _context: &FmtContext<'_, S, N>,
        writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut line = Line::default();
        event.record(&mut line);
        let level = match *event.metadata().level() {
            tracing::Level::TRACE => "trace",
            tracing::Level::DEBUG => "debug",
            tracing::Level::INFO => "info",
            tracing::Level::WARN => "warning",
            tracing::Level::ERROR => "error",
        };
        let time = Timestamp::now().to_string();
        match self {
            Self::Text => line.write_text(writer, &time, level),
            Self::Json => line.write_json(writer, &time, level),
        }
    }
}

/// The fields of one event.
#[derive(Debug, Default)]
struct Line {
    message: String,
    fields: Vec<(&'static str, Value)>,
}

impl Line {
    fn write_text(self, mut writer: Writer<'_>, time: &str, level: &str) -> fmt::Result {
        write!(writer, "time={time:?} level={level} msg={}", quoted(&self.message))?;
        for (name, value) in self.fields {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            write!(writer, " {name}={}", quoted(&text))?;
        }
        writeln!(writer)
    }

    fn write_json(self, mut writer: Writer<'_>, time: &str, level: &str) -> fmt::Result {
        let mut object = Map::new();
        for (name, value) in self.fields {
            object.insert(name.to_owned(), value);
        }
        object.insert("level".to_owned(), Value::from(level));
        object.insert("msg".to_owned(), Value::from(self.message));
        object.insert("time".to_owned(), Value::from(time));
        writeln!(writer, "{}", Value::Object(object))
    }

    fn add(&mut self, field: &Field, value: Value) {
        self.fields.push((field.name(), value));
    }
}

/// As logrus: bare where every byte is harmless, quoted otherwise.
fn quoted(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._/@^+".contains(&byte);
    if !text.is_empty() && text.bytes().all(plain) { text.to_owned() } else { format!("{text:?}") }
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let text = format!("{value:?}");
        if field.name() == "message" {
            self.message = text;
        } else {
            self.add(field, Value::from(text));
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            value.clone_into(&mut self.message);
        } else {
            self.add(field, Value::from(value));
        }
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, Value::from(value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, Value::from(value));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, Value::from(value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_look_like_those_of_dockerd() {
        let line = || Line {
            message: "API listen on /run/berth.sock".to_owned(),
            fields: vec![("pid", Value::from(7)), ("error", Value::from("no \"x\""))],
        };
        let mut text = String::new();
        line().write_text(Writer::new(&mut text), "T", "info").unwrap();
        assert_eq!(
            text,
            "time=\"T\" level=info msg=\"API listen on /run/berth.sock\" pid=7 error=\"no \\\"x\\\"\"\n"
        );
        let mut json = String::new();
        line().write_json(Writer::new(&mut json), "T", "info").unwrap();
        assert_eq!(
            serde_json::from_str::<Value>(&json).unwrap(),
            serde_json::json!({
                "level": "info", "msg": "API listen on /run/berth.sock", "time": "T",
                "pid": 7, "error": "no \"x\"",
            })
        );
    }
}

//! Logging drivers and their options, refused in Docker's words.

use std::collections::BTreeMap;

use berth_types::size;
use regex::Regex;

use crate::LogError;

/// Docker's other drivers: known by name, so that the refusal can say so.
const UNSUPPORTED: &[&str] = &[
    "awslogs",
    "etwlogs",
    "fluentd",
    "gcplogs",
    "gelf",
    "journald",
    "local",
    "logentries",
    "splunk",
    "syslog",
];

const JSON_FILE: &str = "json-file";

/// A logging driver with its options checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogDriver {
    /// `none`: output goes to attached clients only.
    None,
    /// `json-file`.
    JsonFile(JsonFileOptions),
}

/// The options of `json-file`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JsonFileOptions {
    /// `max-size` in bytes; `None` without rotation.
    pub max_size: Option<u64>,
    /// `max-file`: how many files there are at most, the live one included.
    pub max_file: u32,
    /// `compress`: gzip rotated files.
    pub compress: bool,
    labels: Vec<String>,
    labels_regex: Option<String>,
    env: Vec<String>,
    env_regex: Option<String>,
    tag: Option<String>,
}

/// What the options `labels`, `env` and `tag` choose from.
#[derive(Debug, Clone, Copy)]
pub struct Described<'a> {
    /// The container's id.
    pub id: &'a str,
    /// Its name, without the slash.
    pub name: &'a str,
    /// The image as the user named it.
    pub image_name: &'a str,
    /// The image's id, with `sha256:`.
    pub image_id: &'a str,
    /// The container's labels.
    pub labels: &'a BTreeMap<String, String>,
    /// Its environment, `KEY=value`.
    pub env: &'a [String],
}

impl LogDriver {
    /// Checks a `LogConfig` (`Type` and `Config`) of Docker's API. An empty name is `json-file`.
    pub fn parse(name: &str, options: &BTreeMap<String, String>) -> Result<Self, LogError> {
        match name {
            "none" => Ok(Self::None),
            "" | JSON_FILE => {
                check_mode(options)?;
                JsonFileOptions::parse(options).map(Self::JsonFile)
            }
            known if UNSUPPORTED.contains(&known) => {
                Err(LogError::UnsupportedDriver { name: name.to_owned() })
            }
            _ => Err(LogError::UnknownDriver { name: name.to_owned() }),
        }
    }

    /// The driver's name in Docker's API.
    pub fn name(&self) -> &'static str {
        match self {
            Self::None => "none",
            Self::JsonFile(_) => JSON_FILE,
        }
    }
}

/// The options that Docker has for every driver.
fn check_mode(options: &BTreeMap<String, String>) -> Result<(), LogError> {
    let unsupported = |option: &str| LogError::UnsupportedOption { option: option.to_owned() };
    let mode = options.get("mode").map_or("", String::as_str);
    match mode {
        "" | "blocking" => {}
        "non-blocking" => return Err(unsupported("mode=non-blocking")),
        other => return bad(format!("logger: logging mode not supported: {other}")),
    }
    if options.contains_key("max-buffer-size") {
        let text = "logger: max-buffer-size option is only supported with 'mode=non-blocking'";
        return bad(text.to_owned());
    }
    match options.keys().find(|key| key.starts_with("cache-")) {
        Some(key) => Err(unsupported(key)),
        None => Ok(()),
    }
}

fn bad<T>(text: String) -> Result<T, LogError> {
    Err(LogError::BadOption { text })
}

impl JsonFileOptions {
    fn parse(options: &BTreeMap<String, String>) -> Result<Self, LogError> {
        let mut parsed = Self {
            max_size: None,
            max_file: 1,
            compress: false,
            labels: Vec::new(),
            labels_regex: None,
            env: Vec::new(),
            env_regex: None,
            tag: None,
        };
        for (key, value) in options {
            match key.as_str() {
                "mode" => {}
                "max-size" => parsed.max_size = Some(parse_max_size(value)?),
                "max-file" => parsed.max_file = parse_max_file(value)?,
                "compress" => parsed.compress = parse_bool(value)?,
                "labels" => parsed.labels = comma_list(value),
                "env" => parsed.env = comma_list(value),
                "labels-regex" => parsed.labels_regex = pattern(value)?,
                "env-regex" => parsed.env_regex = pattern(value)?,
                "tag" => {
                    render_tag(value, |_| Some(String::new()))?;
                    parsed.tag = Some(value.clone()).filter(|tag| !tag.is_empty());
                }
                other => {
                    let option = other.to_owned();
                    return Err(LogError::UnknownOption { driver: JSON_FILE, option });
                }
            }
        }
        if parsed.compress && (parsed.max_file < 2 || parsed.max_size.is_none()) {
            let text =
                "compress cannot be true when max-file is less than 2 or max-size is not set";
            return bad(text.to_owned());
        }
        Ok(parsed)
    }

    /// The attributes that go with every line.
    pub fn attrs(&self, container: &Described<'_>) -> Result<BTreeMap<String, String>, LogError> {
        let mut attrs = BTreeMap::new();
        let labels = container.labels.iter().map(|(key, value)| (key.as_str(), value.as_str()));
        pick(&mut attrs, labels, &self.labels, self.labels_regex.as_deref())?;
        let env = container.env.iter().filter_map(|pair| pair.split_once('='));
        pick(&mut attrs, env, &self.env, self.env_regex.as_deref())?;
        if let Some(template) = &self.tag {
            let tag = render_tag(template, |field| tag_field(container, field))?;
            attrs.insert("tag".to_owned(), tag);
        }
        Ok(attrs)
    }
}

fn pick<'a>(
    attrs: &mut BTreeMap<String, String>,
    pairs: impl Iterator<Item = (&'a str, &'a str)>,
    names: &[String],
    pattern: Option<&str>,
) -> Result<(), LogError> {
    if names.is_empty() && pattern.is_none() {
        return Ok(());
    }
    let pattern = pattern.map(compile).transpose()?;
    for (key, value) in pairs {
        let named = names.iter().any(|name| name == key);
        if named || pattern.as_ref().is_some_and(|pattern| pattern.is_match(key)) {
            attrs.insert(key.to_owned(), value.to_owned());
        }
    }
    Ok(())
}

fn compile(text: &str) -> Result<Regex, LogError> {
    Regex::new(text).or_else(|error| bad(format!("error parsing regexp: {error}")))
}

fn pattern(text: &str) -> Result<Option<String>, LogError> {
    if text.is_empty() {
        return Ok(None);
    }
    compile(text)?;
    Ok(Some(text.to_owned()))
}

fn comma_list(text: &str) -> Vec<String> {
    text.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

fn parse_max_size(text: &str) -> Result<u64, LogError> {
    match size::parse_human(text) {
        Ok(bytes) if bytes > 0 => Ok(bytes.unsigned_abs()),
        Ok(_) => bad("max-size must be a positive number".to_owned()),
        Err(error) => bad(error.to_string()),
    }
}

fn parse_max_file(text: &str) -> Result<u32, LogError> {
    match text.parse::<i64>() {
        Ok(count) if count < 1 => bad("max-file cannot be less than 1".to_owned()),
        Ok(count) => u32::try_from(count)
            .or_else(|_| bad(format!("strconv.Atoi: parsing \"{text}\": value out of range"))),
        Err(_) => bad(format!("strconv.Atoi: parsing \"{text}\": invalid syntax")),
    }
}

/// Go's `strconv.ParseBool`.
fn parse_bool(text: &str) -> Result<bool, LogError> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => bad(format!("strconv.ParseBool: parsing \"{text}\": invalid syntax")),
    }
}

/// The fields that Docker documents for tags: `{{.Name}}` and so on. Other template actions are
/// refused by name.
fn render_tag(template: &str, field: impl Fn(&str) -> Option<String>) -> Result<String, LogError> {
    const FIELDS: &[&str] =
        &["ID", "FullID", "Name", "ImageID", "ImageFullID", "ImageName", "DaemonName"];
    let mut out = String::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("{{") {
        out.push_str(before);
        let Some((action, tail)) = after.split_once("}}") else {
            return bad(format!("template: log-tag:1: unclosed action in {template:?}"));
        };
        let name = action.trim().strip_prefix('.').filter(|name| FIELDS.contains(name));
        let Some(value) = name.and_then(&field) else {
            let option = format!("tag={{{{{action}}}}}");
            return Err(LogError::UnsupportedOption { option });
        };
        out.push_str(&value);
        rest = tail;
    }
    out.push_str(rest);
    Ok(out)
}

fn tag_field(container: &Described<'_>, field: &str) -> Option<String> {
    let short = |id: &str| id.chars().take(12).collect::<String>();
    let image = container.image_id.strip_prefix("sha256:").unwrap_or(container.image_id);
    match field {
        "ID" => Some(short(container.id)),
        "FullID" => Some(container.id.to_owned()),
        "Name" => Some(container.name.to_owned()),
        "ImageID" => Some(short(image)),
        "ImageFullID" => Some(container.image_id.to_owned()),
        "ImageName" => Some(container.image_name.to_owned()),
        "DaemonName" => Some("docker".to_owned()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    type Case = (&'static str, &'static [(&'static str, &'static str)], &'static str);

    #[test]
    fn drivers_and_options_are_refused_in_dockers_words() {
        #[rustfmt::skip]
        let table: &[Case] = &[
            ("x",         &[],                             "error looking up logging plugin x: plugin \"x\" not found"),
            ("syslog",    &[],                             "logging driver syslog is not supported by this version of berth"),
            ("json-file", &[("max-sizes", "1")],           "unknown log opt 'max-sizes' for json-file log driver"),
            ("json-file", &[("max-size", "0")],            "max-size must be a positive number"),
            ("json-file", &[("max-file", "0")],            "max-file cannot be less than 1"),
            ("json-file", &[("max-file", "x")],            "strconv.Atoi: parsing \"x\": invalid syntax"),
            ("json-file", &[("compress", "yes")],          "strconv.ParseBool: parsing \"yes\": invalid syntax"),
            ("json-file", &[("compress", "true")],         "compress cannot be true when max-file is less than 2 or max-size is not set"),
            ("json-file", &[("mode", "fast")],             "logger: logging mode not supported: fast"),
            ("json-file", &[("mode", "non-blocking")],     "logging driver option mode=non-blocking is not supported by this version of berth"),
            ("",          &[("max-buffer-size", "1m")],    "logger: max-buffer-size option is only supported with 'mode=non-blocking'"),
            ("",          &[("tag", "{{upper .Name}}")],   "logging driver option tag={{upper .Name}} is not supported by this version of berth"),
        ];
        for (driver, pairs, text) in table {
            let error = LogDriver::parse(driver, &options(pairs)).unwrap_err();
            assert_eq!(error.to_string(), *text, "{driver} {pairs:?}");
        }
    }

    #[test]
    fn attributes_are_picked_by_name_pattern_and_tag() {
        let given = options(&[
            ("max-size", "10k"),
            ("max-file", "3"),
            ("compress", "true"),
            ("labels", "one,absent"),
            ("env-regex", "^B"),
            ("tag", "{{.Name}}/{{ .ID }}"),
        ]);
        let LogDriver::JsonFile(parsed) = LogDriver::parse("json-file", &given).unwrap() else {
            panic!("json-file was asked for");
        };
        assert_eq!((parsed.max_size, parsed.max_file, parsed.compress), (Some(10_000), 3, true));
        let labels = options(&[("one", "1"), ("two", "2")]);
        let env = ["A=1".to_owned(), "B=2=3".to_owned(), "B2".to_owned()];
        let described = Described {
            id: "0123456789abcdef",
            name: "web",
            image_name: "busybox",
            image_id: "sha256:fedcba9876543210",
            labels: &labels,
            env: &env,
        };
        let expected = options(&[("one", "1"), ("B", "2=3"), ("tag", "web/0123456789ab")]);
        assert_eq!(parsed.attrs(&described).unwrap(), expected);
    }
}

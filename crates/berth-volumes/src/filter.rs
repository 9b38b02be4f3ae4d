//! The filters of `GET /volumes` and `POST /volumes/prune`.

use std::collections::BTreeMap;

use crate::{ANONYMOUS_LABEL, Volume, VolumeError};

type Filters = BTreeMap<String, Vec<String>>;

/// Which volumes a list shows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VolumeFilter {
    /// Volumes that no container refers to (`true`), or those in use.
    dangling: Option<bool>,
    /// One of these is found in the name; as with Docker each is a regular expression.
    names: Vec<String>,
    /// One of these is the driver.
    drivers: Vec<String>,
    /// All of these are labels, `key` or `key=value`.
    labels: Vec<String>,
}

impl VolumeFilter {
    /// Reads the filters of a request, each key with its values.
    pub fn parse(filters: &Filters) -> Result<Self, VolumeError> {
        let mut filter = Self::default();
        for (key, values) in filters {
            match key.as_str() {
                "dangling" => filter.dangling = parse_dangling(values)?,
                "name" => filter.names.clone_from(values),
                "driver" => filter.drivers.clone_from(values),
                "label" => filter.labels.clone_from(values),
                _ => return Err(VolumeError::FilterUnknown { key: key.clone() }),
            }
        }
        Ok(filter)
    }

    /// Whether [`takes`](Self::takes) needs to know about use.
    pub(crate) fn wants_use(&self) -> bool {
        self.dangling.is_some()
    }

    pub(crate) fn takes(&self, volume: &Volume, in_use: Option<bool>) -> bool {
        let any = |list: &[String], test: &dyn Fn(&str) -> bool| {
            list.is_empty() || list.iter().any(|one| test(one))
        };
        let dangling = match (self.dangling, in_use) {
            (Some(dangling), Some(in_use)) => dangling != in_use,
            _ => true,
        };
        dangling
            && any(&self.names, &|name| matches_name(name, &volume.name))
            && any(&self.drivers, &|driver| volume.driver == driver)
            && self.labels.iter().all(|label| has_label(volume, label))
    }
}

/// Which volumes a prune removes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PruneFilter {
    all: bool,
    labels: Vec<String>,
    not_labels: Vec<String>,
}

impl PruneFilter {
    /// Reads the filters of a request; `all_by_default` is the rule of API versions below 1.42.
    pub fn parse(filters: &Filters, all_by_default: bool) -> Result<Self, VolumeError> {
        let mut filter = Self { all: all_by_default, ..Self::default() };
        for (key, values) in filters {
            match key.as_str() {
                "all" if !all_by_default => filter.all = parse_all(values)?,
                "label" => filter.labels.clone_from(values),
                "label!" => filter.not_labels.clone_from(values),
                _ => return Err(VolumeError::FilterUnknown { key: key.clone() }),
            }
        }
        Ok(filter)
    }

    /// Whether a volume that nobody uses is removed. A volume is kept by `label!` only when it
    /// has all the labels named so.
    pub(crate) fn takes(&self, volume: &Volume) -> bool {
        let has = |label: &String| has_label(volume, label);
        (self.all || volume.labels.contains_key(ANONYMOUS_LABEL))
            && self.labels.iter().all(has)
            && (self.not_labels.is_empty() || !self.not_labels.iter().all(has))
    }
}

/// An expression that cannot be read matches what is equal to it.
fn matches_name(wanted: &str, name: &str) -> bool {
    wanted == name || regex::Regex::new(wanted).is_ok_and(|regex| regex.is_match(name))
}

fn has_label(volume: &Volume, wanted: &str) -> bool {
    match wanted.split_once('=') {
        Some((key, value)) => volume.labels.get(key).is_some_and(|got| got == value),
        None => volume.labels.contains_key(wanted),
    }
}

fn parse_dangling(values: &[String]) -> Result<Option<bool>, VolumeError> {
    match values {
        [] => Ok(None),
        [one] => match one.as_str() {
            "1" | "true" => Ok(Some(true)),
            "0" | "false" => Ok(Some(false)),
            _ => Err(bad_dangling(values)),
        },
        _ => Err(bad_dangling(values)),
    }
}

fn bad_dangling(values: &[String]) -> VolumeError {
    VolumeError::FilterValue { key: "dangling", value: shown(values) }
}

fn shown(values: &[String]) -> String {
    format!("[{}]", values.join(" "))
}

/// Go's `strconv.ParseBool`.
fn parse_all(values: &[String]) -> Result<bool, VolumeError> {
    let [one] = values else {
        return Err(VolumeError::FilterAllMany { values: shown(values) });
    };
    match one.as_str() {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(VolumeError::FilterAll { value: one.clone() }),
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use berth_types::Timestamp;

    use super::*;

    /// Whether the anonymous and the named volume are taken.
    type Taken = Result<(bool, bool), &'static str>;
    /// A key and its values.
    type Given = (&'static str, &'static [&'static str]);

    fn filters(pairs: &[Given]) -> Filters {
        let owned = |values: &[&str]| values.iter().map(|&value| value.to_owned()).collect();
        pairs.iter().map(|&(key, values)| (key.to_owned(), owned(values))).collect()
    }

    fn volume(name: &str, labels: &[(&str, &str)]) -> Volume {
        Volume {
            name: name.to_owned(),
            driver: "local".to_owned(),
            labels: labels.iter().map(|&(k, v)| (k.to_owned(), v.to_owned())).collect(),
            options: BTreeMap::new(),
            created: Timestamp::zero(),
            anonymous: false,
            mountpoint: PathBuf::new(),
        }
    }

    #[test]
    fn list_filters() {
        let data = volume("data", &[("a", "1"), ("b", "")]);
        #[rustfmt::skip]
        let table: &[(&[Given], Result<bool, &str>)] = &[
            (&[],                           Ok(true)),
            (&[("name", &["at"])],          Ok(true)),
            (&[("name", &["x", "data"])],   Ok(true)),
            (&[("name", &["x"])],           Ok(false)),
            (&[("name", &["^da.a$"])],      Ok(true)),
            (&[("name", &["^at"])],         Ok(false)),
            (&[("name", &["["])],           Ok(false)),
            (&[("driver", &["local"])],     Ok(true)),
            (&[("driver", &["nfs"])],       Ok(false)),
            (&[("label", &["a", "b"])],     Ok(true)),
            (&[("label", &["a=1"])],        Ok(true)),
            (&[("label", &["a=1", "c"])],   Ok(false)),
            (&[("dangling", &["true"])],    Ok(false)),
            (&[("dangling", &["0"])],       Ok(true)),
            (&[("dangling", &["x"])],       Err("invalid filter 'dangling=[x]'")),
            (&[("dangling", &["1", "0"])],  Err("invalid filter 'dangling=[1 0]'")),
            (&[("foo", &["x"])],            Err("invalid filter 'foo'")),
        ];
        for (given, expected) in table {
            let got = VolumeFilter::parse(&filters(given));
            let got = got.map(|f| f.takes(&data, Some(true))).map_err(|e| e.to_string());
            assert_eq!(got, expected.map_err(str::to_owned), "{given:?}");
        }
    }

    #[test]
    fn prune_filters() {
        let anonymous = volume("anon", &[(ANONYMOUS_LABEL, ""), ("keep", "1")]);
        let named = volume("data", &[("keep", "1"), ("x", "")]);
        #[rustfmt::skip]
        let table: &[(&[Given], bool, Taken)] = &[
            // filters                          old API   anonymous, named
            (&[],                               false, Ok((true, false))),
            (&[],                               true,  Ok((true, true))),
            (&[("all", &["1"])],                false, Ok((true, true))),
            (&[("all", &["false"])],            false, Ok((true, false))),
            (&[("all", &["1"])],                true,  Err("invalid filter 'all'")),
            (&[("all", &["1", "0"])],           false, Err("invalid filter 'all=[1 0]': only one value is expected")),
            (&[("all", &["maybe"])],            false, Err("invalid filter 'all': strconv.ParseBool: parsing \"maybe\": invalid syntax")),
            (&[("label", &["x"])],              true,  Ok((false, true))),
            (&[("label!", &["keep"])],          true,  Ok((false, false))),
            (&[("label!", &["keep", "x"])],     true,  Ok((true, false))),
            (&[("until", &["24h"])],            false, Err("invalid filter 'until'")),
        ];
        for (given, old, expected) in table {
            let got = PruneFilter::parse(&filters(given), *old);
            let got = got.map(|f| (f.takes(&anonymous), f.takes(&named)));
            assert_eq!(
                got.map_err(|e| e.to_string()),
                expected.map_err(str::to_owned),
                "{given:?} {old}"
            );
        }
    }
}

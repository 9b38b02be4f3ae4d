//! The filters of `GET /networks`.

use std::collections::BTreeMap;

use crate::{Network, NetworkError};

/// Which networks a list shows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NetworkFilter {
    dangling: Option<bool>,
    builtin: Option<bool>,
    drivers: Vec<String>,
    ids: Vec<String>,
    names: Vec<String>,
    labels: Vec<String>,
    scopes: Vec<String>,
}

impl NetworkFilter {
    /// Reads the filters of a request, each key with its values.
    pub fn parse(filters: &BTreeMap<String, Vec<String>>) -> Result<Self, NetworkError> {
        let mut filter = Self::default();
        for (key, values) in filters {
            match key.as_str() {
                "dangling" => filter.dangling = parse_dangling(values)?,
                "type" => filter.builtin = parse_type(values)?,
                "driver" => filter.drivers.clone_from(values),
                "id" => filter.ids.clone_from(values),
                "name" => filter.names.clone_from(values),
                "label" => filter.labels.clone_from(values),
                "scope" => filter.scopes.clone_from(values),
                _ => return Err(NetworkError::FilterUnknown { key: key.clone() }),
            }
        }
        Ok(filter)
    }

    /// Predefined networks are never dangling and have no labels.
    pub(crate) fn takes(&self, network: &Network) -> bool {
        let any = |list: &[String], test: &dyn Fn(&str) -> bool| {
            list.is_empty() || list.iter().any(|one| test(one))
        };
        self.dangling != Some(true)
            && self.builtin != Some(false)
            && self.labels.is_empty()
            && any(&self.drivers, &|driver| network.driver == driver)
            && any(&self.ids, &|id| network.id.as_str().starts_with(id))
            && any(&self.names, &|name| network.name.contains(name))
            && any(&self.scopes, &|scope| scope == "local")
    }
}

fn bad(key: &'static str, values: &[String]) -> NetworkError {
    NetworkError::FilterValue { key, value: format!("[{}]", values.join(" ")) }
}

fn parse_dangling(values: &[String]) -> Result<Option<bool>, NetworkError> {
    match values {
        [] => Ok(None),
        [one] if one == "1" || one == "true" => Ok(Some(true)),
        [one] if one == "0" || one == "false" => Ok(Some(false)),
        _ => Err(bad("dangling", values)),
    }
}

/// `custom` and `builtin`; both together are no filter.
fn parse_type(values: &[String]) -> Result<Option<bool>, NetworkError> {
    let mut kinds = Vec::new();
    for value in values {
        match value.as_str() {
            "builtin" => kinds.push(true),
            "custom" => kinds.push(false),
            other => {
                let what = format!("invalid filter: 'type'='{other}'");
                return Err(NetworkError::Invalid { what });
            }
        }
    }
    kinds.dedup();
    Ok(if kinds.len() == 1 { kinds.pop() } else { None })
}

#[cfg(test)]
mod tests {
    use berth_types::{HexId, Timestamp};

    use super::*;

    #[test]
    fn network_filters() {
        let bridge = Network {
            name: "bridge".to_owned(),
            id: HexId::parse(&"0a".repeat(32)).unwrap(),
            driver: "bridge".to_owned(),
            created: Timestamp::zero(),
            subnet: None,
            gateway: None,
            options: BTreeMap::new(),
        };
        #[rustfmt::skip]
        let table: &[(&str, &[&str], Result<bool, &str>)] = &[
            ("name",     &["ridg"],              Ok(true)),
            ("name",     &["x"],                 Ok(false)),
            ("id",       &["0a0a"],              Ok(true)),
            ("id",       &["a0"],                Ok(false)),
            ("driver",   &["null", "bridge"],    Ok(true)),
            ("scope",    &["swarm"],             Ok(false)),
            ("label",    &["a"],                 Ok(false)),
            ("dangling", &["true"],              Ok(false)),
            ("dangling", &["false"],             Ok(true)),
            ("dangling", &["x"],                 Err("invalid filter 'dangling=[x]'")),
            ("type",     &["custom"],            Ok(false)),
            ("type",     &["builtin", "custom"], Ok(true)),
            ("type",     &["x"],                 Err("invalid filter: 'type'='x'")),
            ("foo",      &["x"],                 Err("invalid filter 'foo'")),
        ];
        for &(key, values, expected) in table {
            let values = values.iter().map(|&value| value.to_owned()).collect();
            let got = NetworkFilter::parse(&[(key.to_owned(), values)].into());
            let got = got.map(|filter| filter.takes(&bridge)).map_err(|e| e.to_string());
            assert_eq!(got, expected.map_err(str::to_owned), "{key}");
        }
    }
}

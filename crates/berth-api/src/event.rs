//! What the engine reports on `GET /events`.

#![expect(missing_docs, reason = "the names are Docker's and stand in its API reference")]

use std::collections::BTreeMap;

use berth_types::Timestamp;
use serde::{Deserialize, Serialize};

/// One event. Go writes the lower-case legacy fields first, and so does this.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct EventMessage {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub status: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub id: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub from: String,
    /// `container`, `image`, `volume`, `network`, `plugin`, `daemon`, `builder`, …
    #[serde(rename = "Type")]
    pub kind: String,
    #[serde(rename = "Action")]
    pub action: String,
    #[serde(rename = "Actor")]
    pub actor: EventActor,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub scope: String,
    pub time: i64,
    #[serde(rename = "timeNano")]
    pub time_nano: i64,
}

/// What an event happened to.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct EventActor {
    #[serde(rename = "ID")]
    pub id: String,
    pub attributes: BTreeMap<String, String>,
}

impl EventMessage {
    /// A local event, with the legacy fields that its kind has.
    pub fn new(kind: &str, action: &str, actor: EventActor, time: Timestamp) -> Self {
        let legacy = kind == "container" || kind == "image";
        let (status, id) =
            if legacy { (action.to_owned(), actor.id.clone()) } else { Default::default() };
        let from = actor.attributes.get("image").filter(|_| kind == "container").cloned();
        Self {
            status,
            id,
            from: from.unwrap_or_default(),
            kind: kind.to_owned(),
            action: action.to_owned(),
            actor,
            scope: "local".to_owned(),
            time: time.unix(),
            time_nano: time.unix_nanos(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_have_gos_order_and_their_legacy_fields() {
        let time = Timestamp::from_unix(1_700_000_000, 5).unwrap();
        let attributes = [("name", "n"), ("image", "alpine")];
        let attributes: BTreeMap<_, _> =
            attributes.map(|(k, v)| (k.to_owned(), v.to_owned())).into_iter().collect();
        #[rustfmt::skip]
        let table = [
            ("container", r#"{"status":"x","id":"i","from":"alpine","Type":"container","Action":"x","Actor":{"ID":"i","Attributes":{"image":"alpine","name":"n"}},"scope":"local","time":1700000000,"timeNano":1700000000000000005}"#),
            ("image",     r#"{"status":"x","id":"i","Type":"image","Action":"x","Actor":{"ID":"i","Attributes":{"image":"alpine","name":"n"}},"scope":"local","time":1700000000,"timeNano":1700000000000000005}"#),
            ("volume",    r#"{"Type":"volume","Action":"x","Actor":{"ID":"i","Attributes":{"image":"alpine","name":"n"}},"scope":"local","time":1700000000,"timeNano":1700000000000000005}"#),
        ];
        for (kind, text) in table {
            let actor = EventActor { id: "i".into(), attributes: attributes.clone() };
            let event = EventMessage::new(kind, "x", actor, time);
            assert_eq!(serde_json::to_string(&event).unwrap(), text);
        }
    }
}

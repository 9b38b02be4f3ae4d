//! `storage extend`.

use berth_client::{Body, Client, Query};
use serde_json::Value;

use super::args::ExtendArgs;
use crate::cli::containers::size_text;
use crate::cli::error::CliError;
use crate::cli::ui;

pub(super) async fn extend(client: &Client, args: &ExtendArgs) -> Result<u8, CliError> {
    let query = Query::new()
        .optional("device", args.device.as_deref())
        .flag("force", args.force)
        .optional("size", args.size.as_deref())
        .optional("metadata-size", args.metadata_size.as_deref());
    let pool: Value = client.post(&["berth", "storage", "extend"], &query, Body::Empty).await?;
    ui::line(&if args.json { pool.to_string() } else { usage(&pool) })?;
    Ok(0)
}

/// How full it is, in a sentence.
pub(super) fn usage(pool: &Value) -> String {
    let space = |key: &str| {
        let permille = pool[key]["Permille"].as_u64().unwrap_or_default();
        let total = size_text(&pool[key]["Total"]);
        format!("{total} of {}, {}% in use", key.to_lowercase(), permille / 10)
    };
    let name = pool["Name"].as_str().unwrap_or_default();
    format!("{name}: {}; {}", space("Data"), space("Metadata"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_new_size_is_a_sentence() {
        let pool = json!({
            "Name": "docker-thinpool", "Level": "normal",
            "Data": { "Used": 60, "Total": 12_000_000_000_u64, "Room": 1, "Permille": 123 },
            "Metadata": { "Used": 1, "Total": 126_000_000, "Room": 9, "Permille": 9 },
        });
        let expected = "docker-thinpool: 12GB of data, 12% in use; 126MB of metadata, 0% in use";
        assert_eq!(usage(&pool), expected);
    }
}

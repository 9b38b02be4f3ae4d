//! Commands on images.

use std::io::Write as _;
use std::path::Path;

use berth_client::{Body, Client, Query};
use berth_types::Timestamp;
use hyper::Method;
use serde_json::{Value, json};

use super::args::{CommitArgs, ImagesArgs, ImportArgs, LoadArgs, RmiArgs, SaveArgs, TagArgs};
use super::containers::{ago, filters, local_time, short_id, size_text};
use super::error::{CliError, each};
use super::table::{Column, Layout};
use super::{messages, terminal, ui};

const COLUMNS: &[Column] = &[
    ("Containers", "CONTAINERS"),
    ("CreatedAt", "CREATED AT"),
    ("CreatedSince", "CREATED"),
    ("Digest", "DIGEST"),
    ("ID", "IMAGE ID"),
    ("Repository", "REPOSITORY"),
    ("SharedSize", "SHARED SIZE"),
    ("Size", "SIZE"),
    ("Tag", "TAG"),
    ("UniqueSize", "UNIQUE SIZE"),
];

const NONE: &str = "<none>";

pub(super) async fn list(client: &Client, args: ImagesArgs) -> Result<u8, CliError> {
    let mut given = args.filter;
    if let Some(reference) = &args.reference {
        given.push(format!("reference={reference}"));
    }
    let query = Query::new().flag("all", args.all).optional("filters", filters(&given)?);
    let images: Vec<Value> = client.get(&["images", "json"], &query).await?;
    let now = Timestamp::now();
    let mut rows = Vec::new();
    for image in &images {
        rows.extend(rows_of(image, now, !args.no_trunc, args.digests));
    }
    let default = match (args.quiet, args.digests) {
        (true, _) => "{{.ID}}",
        (_, true) => {
            "{{.Repository}}\t{{.Tag}}\t{{.Digest}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}"
        }
        _ => "{{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}",
    };
    let quiet = args.quiet.then_some("{{.ID}}");
    let format = args.format.as_deref().or(quiet);
    Layout { format, default, columns: COLUMNS }.print(&rows)?;
    Ok(0)
}

/// One row for each tag; untagged images have one row.
fn rows_of(image: &Value, now: Timestamp, trunc: bool, digests: bool) -> Vec<Value> {
    let texts = |name: &str| -> Vec<String> {
        let all = image[name].as_array().map(Vec::as_slice).unwrap_or_default();
        let all = all.iter().filter_map(Value::as_str).map(str::to_owned);
        all.filter(|text| !text.starts_with(NONE)).collect()
    };
    let by_digest: Vec<(String, String)> = texts("RepoDigests")
        .iter()
        .filter_map(|text| text.split_once('@'))
        .map(|(name, digest)| (name.to_owned(), digest.to_owned()))
        .collect();
    let mut names: Vec<(String, String, String)> = Vec::new();
    for text in texts("RepoTags") {
        let (name, tag) = text.rsplit_once(':').unwrap_or((&text, NONE));
        let digest = by_digest.iter().find(|(other, _)| other == name);
        let digest = digest.map_or(NONE, |(_, digest)| digest);
        names.push((name.to_owned(), tag.to_owned(), digest.to_owned()));
    }
    for (name, digest) in &by_digest {
        if !names.iter().any(|(other, ..)| other == name) {
            names.push((name.clone(), NONE.to_owned(), digest.clone()));
        }
    }
    if names.is_empty() {
        names.push((NONE.to_owned(), NONE.to_owned(), NONE.to_owned()));
    }
    if !digests {
        names.dedup_by(|a, b| (&a.0, &a.1) == (&b.0, &b.1));
    }
    let id = image["Id"].as_str().unwrap_or_default();
    let created = image["Created"].as_i64().unwrap_or_default();
    let optional = |name: &str| match image[name].as_i64() {
        Some(0..) => size_text(&image[name]),
        _ => "N/A".to_owned(),
    };
    let containers = image["Containers"].as_i64().filter(|count| *count >= 0);
    let row = |(repository, tag, digest): (String, String, String)| {
        json!({
            "Containers": containers.map_or("N/A".to_owned(), |count| count.to_string()),
            "CreatedAt": local_time(created),
            "CreatedSince": ago(created, now),
            "Digest": digest,
            "ID": if trunc { short_id(id) } else { id },
            "Repository": repository,
            "SharedSize": optional("SharedSize"),
            "Size": size_text(&image["Size"]),
            "Tag": tag,
            "UniqueSize": "N/A",
        })
    };
    names.into_iter().map(row).collect()
}

pub(super) async fn rmi(client: &Client, args: RmiArgs) -> Result<u8, CliError> {
    let query = Query::new().flag("force", args.force).flag("noprune", args.no_prune);
    each(&args.names, async |name| {
        let answer = match client.delete(&["images", name], &query).await {
            Err(error) if args.force && error.is_not_found() => {
                ui::error(&error.to_string());
                return Ok(());
            }
            answer => answer?,
        };
        let removed: Vec<Value> = serde_json::from_slice(&answer)?;
        for item in &removed {
            for word in ["Deleted", "Untagged"] {
                if let Some(text) = item[word].as_str() {
                    ui::line(&format!("{word}: {text}"))?;
                }
            }
        }
        Ok(())
    })
    .await
}

pub(super) async fn tag(client: &Client, args: TagArgs) -> Result<u8, CliError> {
    let (repository, tag) = split_reference(&args.target);
    let query = Query::new().with("repo", repository).optional("tag", tag);
    client.post_empty(&["images", &args.source, "tag"], &query, Body::Empty).await?;
    Ok(0)
}

/// Name and tag; a colon before a slash belongs to a port.
fn split_reference(text: &str) -> (&str, Option<&str>) {
    match text.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') && !text.contains('@') => (name, Some(tag)),
        _ => (text, None),
    }
}

pub(super) async fn commit(client: &Client, args: CommitArgs) -> Result<u8, CliError> {
    let (repository, tag) = args.reference.as_deref().map_or((None, None), |text| {
        let (name, tag) = split_reference(text);
        (Some(name), tag)
    });
    let mut query = Query::new()
        .with("container", &args.container)
        .optional("repo", repository)
        .optional("tag", tag)
        .optional("comment", args.message.as_deref())
        .optional("author", args.author.as_deref())
        .with("pause", if args.pause { "1" } else { "0" });
    for change in &args.change {
        query = query.with("changes", change);
    }
    let answer: Value = client.post(&["commit"], &query, Body::json(&json!({}))?).await?;
    ui::line(answer["Id"].as_str().unwrap_or_default())?;
    Ok(0)
}

const TAR: &str = "application/x-tar";

async fn archive(path: Option<&Path>) -> Result<Body, CliError> {
    Ok(match path {
        Some(path) => {
            let file = tokio::fs::File::open(path)
                .await
                .map_err(|error| CliError::new(format!("open {}: {error}", path.display())))?;
            Body::Stream(TAR, Box::pin(file))
        }
        None => Body::Stream(TAR, Box::pin(tokio::io::stdin())),
    })
}

pub(super) async fn load(client: &Client, args: LoadArgs) -> Result<u8, CliError> {
    if args.input.is_none() && terminal::stdin_is_terminal() {
        return Err(CliError::new("requested load from stdin, but stdin is empty"));
    }
    let body = archive(args.input.as_deref()).await?;
    // Progress bars are not drawn: only what was loaded is printed.
    let query = Query::new().with("quiet", "1");
    let stream = client.stream(Method::POST, &["images", "load"], &query, body).await?;
    messages::print(stream).await
}

pub(super) async fn import(client: &Client, args: ImportArgs) -> Result<u8, CliError> {
    let is_url = args.source.starts_with("http://") || args.source.starts_with("https://");
    let body = match args.source.as_str() {
        "-" => archive(None).await?,
        _ if is_url => Body::Empty,
        path => archive(Some(Path::new(path))).await?,
    };
    let (repository, tag) = args.reference.as_deref().map_or(("", None), split_reference);
    let mut query = Query::new()
        .with("fromSrc", if is_url { args.source.as_str() } else { "-" })
        .with("repo", repository)
        .optional("tag", tag)
        .optional("message", args.message.as_deref())
        .optional("platform", args.platform.as_deref());
    for change in &args.change {
        query = query.with("changes", change);
    }
    let stream = client.stream(Method::POST, &["images", "create"], &query, body).await?;
    messages::print(stream).await
}

pub(super) async fn save(client: &Client, args: SaveArgs) -> Result<u8, CliError> {
    if args.output.is_none() && terminal::stdout_is_terminal() {
        return Err(CliError::new(
            "cowardly refusing to save to a terminal. Use the -o flag or redirect",
        ));
    }
    let mut query = Query::new();
    for name in &args.names {
        query = query.with("names", name);
    }
    let mut stream = client.stream(Method::GET, &["images", "get"], &query, Body::Empty).await?;
    let Some(path) = &args.output else {
        while let Some(bytes) = stream.next().await? {
            ui::bytes(ui::To::Out, &bytes).await?;
        }
        return Ok(0);
    };
    // An archive that is cut short never takes the place of a whole one.
    let mut partial = path.clone().into_os_string();
    partial.push(".part");
    let written = async {
        let mut file = std::fs::File::create(&partial)?;
        while let Some(bytes) = stream.next().await? {
            file.write_all(&bytes)?;
        }
        file.sync_all()?;
        std::fs::rename(&partial, path)?;
        Ok::<_, CliError>(())
    };
    if let Err(error) = written.await {
        match std::fs::remove_file(&partial) {
            Ok(()) | Err(_) => return Err(error),
        }
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_has_a_row_for_each_tag() {
        let image = json!({
            "Id": format!("sha256:{}", "ab".repeat(32)), "Created": 1_700_000_000, "Size": 5_590_000,
            "RepoTags": ["host:5000/a:1", "a:2"], "RepoDigests": ["a@sha256:x", "b@sha256:y"],
            "Containers": -1, "SharedSize": -1,
        });
        let now = Timestamp::from_unix(1_700_000_000 + 7200, 0).unwrap();
        let shown: Vec<String> = rows_of(&image, now, true, true)
            .iter()
            .map(|row| {
                let text = |name: &str| row[name].as_str().unwrap().to_owned();
                ["Repository", "Tag", "Digest", "ID", "CreatedSince", "Size"].map(text).join(" ")
            })
            .collect();
        assert_eq!(
            shown,
            [
                "host:5000/a 1 <none> abababababab 2 hours ago 5.59MB",
                "a 2 sha256:x abababababab 2 hours ago 5.59MB",
                "b <none> sha256:y abababababab 2 hours ago 5.59MB",
            ]
        );
        let untagged =
            json!({"Id": "sha256:x", "RepoTags": ["<none>:<none>"], "RepoDigests": null});
        let rows = rows_of(&untagged, now, true, false);
        assert_eq!((rows.len(), &rows[0]["Repository"]), (1, &json!("<none>")));
    }

    #[test]
    fn references_are_split_at_the_tag() {
        #[rustfmt::skip]
        let table = [
            ("a",            ("a", None)),
            ("a:1",          ("a", Some("1"))),
            ("host:5000/a",  ("host:5000/a", None)),
            ("host:5000/a:1", ("host:5000/a", Some("1"))),
        ];
        for (text, expected) in table {
            assert_eq!(split_reference(text), expected, "{text}");
        }
    }
}

//! `--userns-remap`: whose subordinate ids containers run with, by Docker's rules and in its words.

use std::io;
use std::path::PathBuf;
use std::process::Command;

use berth_engine::EngineConfig;
use berth_types::{IdMap, IdMaps};

/// What stands for the user that is made when it is missing.
const DEFAULT: &str = "default";
const DEFAULT_USER: &str = "dockremap";
/// Where new ranges begin, and how many ids they have.
const FIRST: u32 = 100_000;
const RANGE: u32 = 65536;

/// Why ids cannot be remapped. The texts are Docker's.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RemapError {
    #[error("Invalid user/group specification in --userns-remap: {spec:?}")]
    Spec { spec: String },
    #[error("Uid {id} has no entry in /etc/passwd")]
    Uid { id: u32, source: NoEntry },
    // Docker says passwd here too.
    #[error("Gid {id} has no entry in /etc/{file}")]
    Gid { id: u32, file: &'static str, source: NoEntry },
    #[error("Error during uid lookup for {name:?}")]
    User { name: String, source: NoEntry },
    #[error("Error during gid lookup for {name:?}")]
    OwnGroup { name: String, source: NoEntry },
    #[error("Error during groupname lookup for {name:?}")]
    Group { name: String, source: NoEntry },
    #[error("Error during {DEFAULT_USER:?} user creation")]
    Create { source: io::Error },
    #[error("Can't create ID mappings: no {kind} ranges found for user {name:?}")]
    NoRanges { kind: &'static str, name: String },
    #[error(
        "Can't create ID mappings: Cannot parse subuid/gid information: Format not correct for {} \
         file",
        .path.display()
    )]
    Format { path: PathBuf },
    #[error("Can't create ID mappings")]
    Read { source: io::Error },
}

/// What the account files do not have.
#[derive(Debug, thiserror::Error)]
#[error("getent unable to find entry {key:?} in {database} database")]
pub(crate) struct NoEntry {
    key: String,
    database: &'static str,
}

/// Finds out what `--userns-remap` asks for, and has the engine work in the data root that belongs
/// to it. Nothing asked for, or root, changes nothing.
pub(crate) fn apply(spec: &str, engine: &mut EngineConfig) -> Result<(), RemapError> {
    if spec.is_empty() {
        return Ok(());
    }
    let files = Files { dir: PathBuf::from("/etc") };
    let Some((user, ids)) = resolve(spec, &files, create_default_user)? else {
        tracing::warn!(
            "User namespaces: root cannot be remapped with itself; user namespaces are OFF"
        );
        return Ok(());
    };
    tracing::info!("User namespaces: ID ranges will be mapped to subuid/subgid ranges of: {user}");
    let root = ids.root();
    let own = berth_engine::data_root::remapped_name(root);
    for dir in [&mut engine.data_root, &mut engine.exec_root] {
        *dir = dir.join(&own);
    }
    engine.ids = ids;
    Ok(())
}

/// The user, and the maps; `None` for root.
fn resolve(
    spec: &str,
    files: &Files,
    create: impl FnOnce() -> io::Result<()>,
) -> Result<Option<(String, IdMaps)>, RemapError> {
    let (user, group) = match spec.split(':').collect::<Vec<_>>()[..] {
        [user] => (user, None),
        [user, group] => (user, Some(group)),
        _ => return Err(RemapError::Spec { spec: spec.to_owned() }),
    };
    let user = find_user(user, group.is_none(), files, create)?;
    if let Some(group) = group {
        check_group(group, files)?;
    }
    if user.name == "root" {
        return Ok(None);
    }
    let map = |kind| files.map(kind, &user);
    let ids = IdMaps { uids: map("subuid")?, gids: map("subgid")? };
    Ok(Some((user.name, ids)))
}

/// The user; without a group it must have one of its own name or number.
fn find_user(
    text: &str,
    alone: bool,
    files: &Files,
    create: impl FnOnce() -> io::Result<()>,
) -> Result<Entry, RemapError> {
    if let Some(id) = number(text) {
        let found = files.find("passwd", text).map_err(|source| RemapError::Uid { id, source })?;
        if alone {
            let missing = |source| RemapError::Gid { id, file: "group", source };
            files.find("group", text).map_err(missing)?;
        }
        return Ok(found);
    }
    let name = if text == DEFAULT { DEFAULT_USER } else { text };
    let failed = |source| RemapError::User { name: name.to_owned(), source };
    let found = match files.find("passwd", name) {
        Err(_) if text == DEFAULT => {
            create().map_err(|source| RemapError::Create { source })?;
            return files.find("passwd", name).map_err(failed);
        }
        found => found.map_err(failed)?,
    };
    if alone {
        let missing = |source| RemapError::OwnGroup { name: name.to_owned(), source };
        files.find("group", name).map_err(missing)?;
    }
    Ok(found)
}

fn check_group(text: &str, files: &Files) -> Result<(), RemapError> {
    let found = files.find("group", text);
    match number(text) {
        Some(id) => found.map_err(|source| RemapError::Gid { id, file: "passwd", source })?,
        None => found.map_err(|source| RemapError::Group { name: text.to_owned(), source })?,
    };
    Ok(())
}

fn number(text: &str) -> Option<u32> {
    text.parse::<i32>().ok().map(i32::cast_unsigned)
}

/// A line of an account file.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    name: String,
    id: String,
}

/// Where accounts and their ranges stand.
#[derive(Debug)]
struct Files {
    dir: PathBuf,
}

impl Files {
    /// By name, or by number; in the file, or else wherever the system has accounts.
    fn find(&self, database: &'static str, key: &str) -> Result<Entry, NoEntry> {
        let text = std::fs::read_to_string(self.dir.join(database)).unwrap_or_default();
        let known = find_line(&text, key);
        known
            .or_else(|| getent(database, key))
            .ok_or_else(|| NoEntry { key: key.to_owned(), database })
    }

    /// The user's ranges, by number or else by name.
    fn map(&self, kind: &'static str, user: &Entry) -> Result<IdMap, RemapError> {
        let ranges = self.ranges(kind)?;
        let of = |owner: &str| -> Vec<(u32, u32)> {
            let own = ranges.iter().filter(|range| range.0 == owner);
            own.map(|range| (range.1, range.2)).collect()
        };
        let mut own = of(&user.id);
        if own.is_empty() {
            own = of(&user.name);
        }
        if own.is_empty() {
            return Err(RemapError::NoRanges { kind, name: user.name.clone() });
        }
        Ok(IdMap::from_subordinate(&own))
    }

    fn ranges(&self, kind: &str) -> Result<Vec<(String, u32, u32)>, RemapError> {
        let path = self.dir.join(kind);
        let text = match std::fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            other => other.map_err(|source| RemapError::Read { source })?,
        };
        let mut ranges = Vec::new();
        for line in text.lines().map(str::trim) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let range = match line.split(':').collect::<Vec<_>>()[..] {
                [owner, first, count] => first
                    .parse()
                    .ok()
                    .zip(count.parse().ok())
                    .map(|(f, c)| (owner.to_owned(), f, c)),
                _ => None,
            };
            ranges.push(range.ok_or_else(|| RemapError::Format { path: path.clone() })?);
        }
        Ok(ranges)
    }
}

fn find_line(text: &str, key: &str) -> Option<Entry> {
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, _, id) = (fields.next()?, fields.next()?, fields.next()?);
        (!name.is_empty() && (name == key || id == key))
            .then(|| Entry { name: name.to_owned(), id: id.to_owned() })
    })
}

/// Accounts that are in no file: of a directory service.
fn getent(database: &str, key: &str) -> Option<Entry> {
    if key.is_empty() || key.starts_with('-') {
        return None;
    }
    let asked = Command::new("getent").args([database, key]).output().ok()?;
    find_line(&String::from_utf8_lossy(&asked.stdout), key)
}

/// Makes the user, its group and their ranges, as an administrator would.
fn create_default_user() -> io::Result<()> {
    let user = ["--system", "--shell", "/bin/false", "--no-create-home", "--user-group"];
    run("useradd", &[&user[..], &[DEFAULT_USER]].concat())?;
    let files = Files { dir: PathBuf::from("/etc") };
    for (kind, flag) in [("subuid", "-v"), ("subgid", "-w")] {
        let ranges = files.ranges(kind).map_err(io::Error::other)?;
        if ranges.iter().any(|range| range.0 == DEFAULT_USER) {
            continue;
        }
        let first = first_free(ranges.iter().map(|range| (range.1, range.2)).collect());
        let range = format!("{first}-{}", first + (RANGE - 1));
        run("usermod", &[flag, &range, DEFAULT_USER])?;
    }
    Ok(())
}

/// The first id of a range that no other one overlaps.
fn first_free(mut taken: Vec<(u32, u32)>) -> u32 {
    taken.sort_unstable();
    let mut first = FIRST;
    for (start, count) in taken {
        let end = start.saturating_add(count);
        if start < first.saturating_add(RANGE) && end > first {
            first = end;
        }
    }
    first
}

fn run(program: &str, args: &[&str]) -> io::Result<()> {
    let ran = Command::new(program).args(args).env("LC_ALL", "C").output().map_err(|error| {
        io::Error::other(format!("{program} (Debian: passwd) cannot be run: {error}"))
    })?;
    if ran.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&ran.stderr);
    Err(io::Error::other(format!("{program}: {}", text.trim_end())))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use berth_types::kind::chain;

    use super::*;

    fn files(dir: &Path) -> Files {
        let put = |name: &str, text: &str| {
            berth_fs::atomic::write(&dir.join(name), text.as_bytes()).unwrap();
        };
        put("passwd", "root:x:0:0::/root:/bin/sh\nzed:x:7001:7002::/:/bin/sh\nlone:x:7005:1::/:\n");
        put("group", "root:x:0:\nzed:x:7002:\nmates:x:7001:\n");
        put("subuid", "# mine\n\nzed:100000:65536\nzed:300000:10\n7005:5:5\nlone:7:7\n");
        put("subgid", "zed:200000:65536\nlone:7:7\n");
        Files { dir: dir.to_owned() }
    }

    #[test]
    fn users_are_found_and_refused_in_dockers_words() {
        let dir = tempfile::tempdir().unwrap();
        let files = files(dir.path());
        let zed = Ok(Some(("zed".to_owned(), 100_000, 200_000)));
        let refused = |text: &str| Err(text.to_owned());
        #[rustfmt::skip]
        let table = [
            ("zed",         zed.clone()),
            ("7001",        zed.clone()),
            ("zed:mates",   zed.clone()),
            ("7001:7002",   zed),
            ("root",        Ok(None)),
            ("0:0",         Ok(None)),
            // By number first, as Docker looks for ranges.
            ("lone:zed",    Ok(Some(("lone".to_owned(), 5, 7)))),
            ("a:b:c",       refused("Invalid user/group specification in --userns-remap: \"a:b:c\"")),
            ("54242",       refused("Uid 54242 has no entry in /etc/passwd: getent unable to find entry \"54242\" in passwd database")),
            ("7005",        refused("Gid 7005 has no entry in /etc/group: getent unable to find entry \"7005\" in group database")),
            ("zed:54242",   refused("Gid 54242 has no entry in /etc/passwd: getent unable to find entry \"54242\" in group database")),
            ("nosuchuser",  refused("Error during uid lookup for \"nosuchuser\": getent unable to find entry \"nosuchuser\" in passwd database")),
            (":",           refused("Error during uid lookup for \"\": getent unable to find entry \"\" in passwd database")),
            ("lone",        refused("Error during gid lookup for \"lone\": getent unable to find entry \"lone\" in group database")),
            ("zed:nosuch",  refused("Error during groupname lookup for \"nosuch\": getent unable to find entry \"nosuch\" in group database")),
        ];
        for (spec, expected) in table {
            let got = resolve(spec, &files, || Ok(())).map_err(|error| chain(&error));
            let root = |(name, ids): (String, IdMaps)| (name, ids.root().uid, ids.root().gid);
            assert_eq!(got.map(|found| found.map(root)), expected, "{spec:?}");
        }
        let (_, ids) = resolve("zed", &files, || Ok(())).unwrap().unwrap();
        assert_eq!(ids.uids.to_host(65536), Ok(300_000));
    }

    #[test]
    fn ranges_must_be_there_and_well_formed() {
        let dir = tempfile::tempdir().unwrap();
        let files = files(dir.path());
        let put = |text: &str| {
            berth_fs::atomic::write(&dir.path().join("subgid"), text.as_bytes()).unwrap();
        };
        let refusal = || chain(&resolve("zed", &files, || Ok(())).unwrap_err());
        put("other:1:2\n");
        assert_eq!(refusal(), "Can't create ID mappings: no subgid ranges found for user \"zed\"");
        for bad in ["zed:1", "zed:1:2:3", "zed:x:2", "zed:1:-2"] {
            put(bad);
            let expected = "Can't create ID mappings: Cannot parse subuid/gid information: Format \
                            not correct for";
            assert!(refusal().starts_with(expected), "{bad}: {}", refusal());
        }
    }

    #[test]
    fn the_default_user_is_made_when_it_is_missing() {
        let dir = tempfile::tempdir().unwrap();
        let files = files(dir.path());
        let add = |name: &str, line: &str| {
            let path = dir.path().join(name);
            let text = std::fs::read_to_string(&path).unwrap_or_default() + line;
            berth_fs::atomic::write(&path, text.as_bytes()).unwrap();
        };
        let failed = resolve("default", &files, || Err(io::Error::other("useradd: no")));
        assert_eq!(
            chain(&failed.unwrap_err()),
            "Error during \"dockremap\" user creation: useradd: no"
        );
        let made = resolve("default", &files, || {
            add("passwd", "dockremap:x:7100:7100::/:\n");
            add("group", "dockremap:x:7100:\n");
            add("subuid", "dockremap:500000:65536\n");
            add("subgid", "dockremap:500000:65536\n");
            Ok(())
        });
        let (name, ids) = made.unwrap().unwrap();
        assert_eq!((name.as_str(), ids.root().uid), ("dockremap", 500_000));
        // It is there by now.
        assert!(resolve("default", &files, || panic!("made twice")).unwrap().is_some());
    }

    #[test]
    fn a_new_range_overlaps_no_other() {
        #[rustfmt::skip]
        let table: &[(&[(u32, u32)], u32)] = &[
            (&[],                                       100_000),
            (&[(100_000, 65536)],                       165_536),
            (&[(165_536, 65536), (100_000, 65536)],     231_072),
            (&[(10, 10), (1_000_000, 5)],               100_000),
            (&[(120_000, 10)],                          120_010),
        ];
        for (taken, expected) in table {
            assert_eq!(first_free(taken.to_vec()), *expected, "{taken:?}");
        }
    }
}

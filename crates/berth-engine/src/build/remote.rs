//! Contexts that are elsewhere: an archive or a Dockerfile at a URL, or a git repository.
//!
//! The docker CLI fetches them itself and sends what it got; other clients name them (`remote=`).

use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::process::{Command, Stdio};

use berth_registry::fetch::fetch;

use super::context::Context;
use super::error::BuildError;
use super::spool::unnamed_file;
use crate::blocking::blocking;
use crate::engine::Engine;
use crate::error::EngineError;

/// How much of a file is looked at to find out what it is.
const PREAMBLE: u64 = 512;
/// The largest Dockerfile that comes alone, in bytes.
const LARGEST: u64 = 4 << 20;
/// A git server that sends fewer bytes a second for so many seconds is given up.
const SLOW: [&str; 2] = ["http.lowSpeedLimit=1000", "http.lowSpeedTime=60"];

/// What was fetched.
#[derive(Debug)]
pub(super) enum Fetched {
    /// The files, with a Dockerfile among them.
    Context(Context),
    /// A Dockerfile alone: `COPY` finds nothing.
    Dockerfile(String),
}

/// Where a repository is, and what of it is wanted.
#[derive(Debug, PartialEq, Eq)]
struct Repository {
    url: String,
    /// A branch, a tag or a commit; `HEAD` for the usual one.
    reference: String,
    /// A directory in it; empty for all.
    dir: String,
}

impl Engine {
    /// Fetches a context, in whole, before the build begins.
    pub(super) async fn fetch_context(&self, url: &str) -> Result<Fetched, EngineError> {
        if let Some(repository) = Repository::parse(url)? {
            let tmp = self.tmp();
            return blocking(move || Ok(Fetched::Context(clone(&tmp, &repository)?))).await;
        }
        if !is_url(url) {
            return Err(BuildError::RemoteUrl { url: url.to_owned() }.into());
        }
        let tmp = self.tmp();
        let (spool, file) = blocking(move || {
            let file = unnamed_file(&tmp);
            let both = file.and_then(|file| Ok((file.try_clone()?, file)));
            both.map_err(EngineError::io("make a file in", &tmp))
        })
        .await?;
        let limits = self.reloadable().registry.limits;
        let remote = fetch(url, file, &limits, &|_got, _total| {}).await;
        let kind = remote.map_err(BuildError::Fetch)?.content_type.unwrap_or_default();
        let tmp = self.tmp();
        blocking(move || read(&tmp, spool, &kind)).await
    }
}

/// Reads what came: text is a Dockerfile, anything else an archive.
fn read(tmp: &Path, mut spool: File, kind: &str) -> Result<Fetched, EngineError> {
    use std::io::Seek as _;
    let io = || EngineError::io("read what was fetched into", tmp);
    spool.rewind().map_err(io())?;
    let mut preamble = Vec::new();
    spool.by_ref().take(PREAMBLE).read_to_end(&mut preamble).map_err(io())?;
    spool.rewind().map_err(io())?;
    match Kind::of(kind, &preamble) {
        Some(Kind::Text) => {
            let mut text = Vec::new();
            spool.take(LARGEST + 1).read_to_end(&mut text).map_err(io())?;
            if text.len() as u64 > LARGEST {
                let name = "Dockerfile".to_owned();
                return Err(BuildError::BadDockerfile { name, limit: LARGEST }.into());
            }
            Ok(Fetched::Dockerfile(String::from_utf8_lossy(&text).into_owned()))
        }
        Some(Kind::Archive) => {
            let context = Context::new(tmp)?;
            context.unpack(&mut spool)?;
            Ok(Fetched::Context(context))
        }
        None => Err(BuildError::ContentType { kind: kind.to_owned() }.into()),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Archive,
}

impl Kind {
    /// As Docker: what the server says, unless it says only that these are bytes.
    fn of(said: &str, preamble: &[u8]) -> Option<Self> {
        let said = said.split(';').next().unwrap_or_default().trim();
        let said = said.to_ascii_lowercase();
        if matches!(&*said, "" | "application/octet-stream") {
            let is_text = std::str::from_utf8(preamble).is_ok_and(|text| !text.contains('\0'))
                && !preamble.is_empty();
            return Some(if is_text { Self::Text } else { Self::Archive });
        }
        if said == "text/plain" {
            return Some(Self::Text);
        }
        let format = said.strip_prefix("application/")?;
        let format = format.strip_prefix("x-").unwrap_or(format);
        let known = ["tar", "gzip", "bzip", "bzip2", "xz"];
        known.contains(&format).then_some(Self::Archive)
    }
}

fn is_url(text: &str) -> bool {
    text.starts_with("http://") || text.starts_with("https://")
}

impl Repository {
    /// `None` for what is no git repository, by Docker's rules.
    fn parse(text: &str) -> Result<Option<Self>, BuildError> {
        let (place, fragment) = text.split_once('#').unwrap_or((text, ""));
        let is_git =
            ["git://", "github.com/", "git@"].iter().any(|prefix| text.starts_with(prefix))
                || (is_url(text) && place.strip_suffix(".git").is_some());
        if !is_git {
            return Ok(None);
        }
        let url = if place.starts_with("github.com/") {
            format!("https://{place}")
        } else {
            place.to_owned()
        };
        let (reference, dir) = fragment.split_once(':').unwrap_or((fragment, ""));
        let reference = if reference.is_empty() { "HEAD" } else { reference };
        if reference.starts_with('-') {
            return Err(BuildError::GitReference { reference: reference.to_owned() });
        }
        let (reference, dir) = (reference.to_owned(), dir.to_owned());
        Ok(Some(Self { url, reference, dir }))
    }
}

/// Fetches the one commit that is wanted, with its submodules.
fn clone(tmp: &Path, repository: &Repository) -> Result<Context, EngineError> {
    let context = Context::new(tmp)?;
    let dir = context.path();
    git(dir, &["init", "-q"])?;
    git(dir, &["remote", "add", "origin", "--", &repository.url])?;
    let wanted = &*repository.reference;
    let shallow = git(dir, &["fetch", "-q", "--depth", "1", "origin", "--", wanted]);
    if shallow.is_ok() {
        git(dir, &["checkout", "-q", "FETCH_HEAD"])?;
    } else {
        // A server may not give single commits, nor know what is shallow.
        git(
            dir,
            &["fetch", "-q", "--tags", "origin", "--", "+refs/heads/*:refs/remotes/origin/*"],
        )?;
        let branch = format!("refs/remotes/origin/{wanted}");
        let is_branch = git(dir, &["rev-parse", "-q", "--verify", &branch]).is_ok();
        git(dir, &["checkout", "-q", if is_branch { &branch } else { wanted }])?;
    }
    git(dir, &["submodule", "update", "-q", "--init", "--recursive", "--depth=1"])?;
    if repository.dir.is_empty() {
        return Ok(context);
    }
    let missing = |source| BuildError::GitDirectory { dir: repository.dir.clone(), source };
    Ok(context.narrowed(Path::new(&repository.dir)).map_err(missing)?)
}

/// Runs git in a directory, with nobody's configuration and nobody to ask.
fn git(dir: &Path, args: &[&str]) -> Result<(), BuildError> {
    let mut command = Command::new("git");
    for setting in SLOW {
        command.args(["-c", setting]);
    }
    if cfg!(test) {
        // Tests have a repository of their own and no server.
        command.args(["-c", "protocol.file.allow=always"]);
    }
    let ran = command
        .args(args)
        .current_dir(dir)
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_TERMINAL_PROMPT", "0")
        // What a submodule names is no file of this host.
        .env("GIT_PROTOCOL_FROM_USER", "0")
        .env("HOME", dir)
        .stdin(Stdio::null())
        .output();
    let output = ran.map_err(BuildError::NoGit)?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(BuildError::Git { step: args.first().copied().unwrap_or_default().to_owned(), said })
}

#[cfg(test)]
mod tests {
    use berth_fs::root::Follow;

    use super::*;

    #[test]
    fn repositories_are_told_from_other_urls_as_docker_does() {
        #[rustfmt::skip]
        let table = [
            ("https://h/x.git",               Some(("https://h/x.git", "HEAD", ""))),
            ("https://h/x.git#",              Some(("https://h/x.git", "HEAD", ""))),
            ("https://h/x.git#v1",            Some(("https://h/x.git", "v1", ""))),
            ("https://h/x.git#v1:a/b",        Some(("https://h/x.git", "v1", "a/b"))),
            ("https://h/x.git#:a",            Some(("https://h/x.git", "HEAD", "a"))),
            ("git://h/x",                     Some(("git://h/x", "HEAD", ""))),
            ("git@h:x/y#main",                Some(("git@h:x/y", "main", ""))),
            ("github.com/a/b#main:c",         Some(("https://github.com/a/b", "main", "c"))),
            ("https://h/x.tar",               None),
            ("https://h/x",                   None),
            ("x.git",                         None),
        ];
        for (text, expected) in table {
            let expected = expected.map(|(url, reference, dir)| Repository {
                url: url.to_owned(),
                reference: reference.to_owned(),
                dir: dir.to_owned(),
            });
            assert_eq!(Repository::parse(text).unwrap(), expected, "{text}");
        }
        let error = Repository::parse("git://h/x#-x").unwrap_err();
        assert_eq!(error.to_string(), "invalid refspec: -x");
    }

    #[test]
    fn the_server_says_what_it_is_or_the_bytes_do() {
        #[rustfmt::skip]
        let table: &[(&str, &[u8], Option<Kind>)] = &[
            ("text/plain; charset=utf-8", b"FROM x",       Some(Kind::Text)),
            ("",                          b"FROM x",       Some(Kind::Text)),
            ("application/octet-stream",  b"FROM x",       Some(Kind::Text)),
            ("application/octet-stream",  b"\x1f\x8b\x08", Some(Kind::Archive)),
            ("",                          b"name\0\0",     Some(Kind::Archive)),
            ("application/x-tar",         b"FROM x",       Some(Kind::Archive)),
            ("application/gzip",          b"",             Some(Kind::Archive)),
            ("text/html",                 b"FROM x",       None),
            ("application/json",          b"{}",           None),
        ];
        for (said, bytes, expected) in table {
            assert_eq!(Kind::of(said, bytes), *expected, "{said} {bytes:?}");
        }
    }

    #[test]
    fn a_commit_and_a_directory_of_a_repository_are_fetched() {
        let test = "a_commit_and_a_directory_of_a_repository_are_fetched";
        if Command::new("git").arg("--version").output().is_err() {
            return testkit::skip(test, "git");
        }
        let (origin, tmp) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let run = |args: &[&str]| {
            let names = ["-c", "user.name=x", "-c", "user.email=x@x"];
            let args: Vec<&str> = names.iter().chain(args).copied().collect();
            git(origin.path(), &args).unwrap();
        };
        let put = |name: &str, text: &str| {
            berth_fs::atomic::write(&origin.path().join(name), text.as_bytes()).unwrap();
        };
        run(&["init", "-q", "-b", "main"]);
        std::fs::create_dir(origin.path().join("sub")).unwrap();
        put("Dockerfile", "FROM first");
        put("sub/Dockerfile", "FROM below");
        std::os::unix::fs::symlink("/etc", origin.path().join("out")).unwrap();
        run(&["add", "."]);
        run(&["commit", "-qm", "one"]);
        run(&["tag", "v1"]);
        put("Dockerfile", "FROM second");
        run(&["commit", "-qam", "two"]);

        let url = origin.path().display().to_string();
        let fetched = |reference: &str, dir: &str| {
            let (reference, dir) = (reference.to_owned(), dir.to_owned());
            let context = clone(tmp.path(), &Repository { url: url.clone(), reference, dir });
            context.map(|context| {
                let alone = context.root().stat(Path::new("sub"), Follow::No).is_err();
                (context.dockerfile("").unwrap(), alone)
            })
        };
        let good = |text: &str, alone| (text.to_owned(), alone);
        assert_eq!(fetched("HEAD", "").unwrap(), good("FROM second", false));
        assert_eq!(fetched("main", "").unwrap(), good("FROM second", false));
        assert_eq!(fetched("v1", "").unwrap(), good("FROM first", false));
        assert_eq!(fetched("v1", "sub").unwrap(), good("FROM below", true));
        for (reference, dir) in [("nosuch", ""), ("main", "nosuch"), ("main", "out")] {
            let error = fetched(reference, dir).unwrap_err();
            assert!(matches!(error, EngineError::Build(_)), "{reference} {dir}: {error}");
        }
        assert_eq!(std::fs::read_dir(tmp.path()).unwrap().count(), 0, "nothing stays");
    }
}

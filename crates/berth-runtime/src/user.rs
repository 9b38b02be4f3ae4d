//! `--user` and `--group-add`: names and numbers, looked up in the container's own account files.
//!
//! The files belong to the image, so they are opened beneath the root's descriptor, must be
//! regular, and are read up to a limit. A line with a number that is none is skipped.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// Why a user or group was refused. The texts are Docker's, word for word.
#[expect(missing_docs, reason = "the messages name the fields")]
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    #[error("unable to find user {name}: no matching entries in passwd file")]
    User { name: String },
    #[error("unable to find group {name}: no matching entries in group file")]
    Group { name: String },
    #[error("Unable to find group {name}: no matching entries in group file")]
    AdditionalGroup { name: String },
    #[error("uids and gids must be in range 0-2147483647")]
    Range,
    #[error("cannot read {file} of the container")]
    Read { file: &'static str, source: io::Error },
}

const MAX_ID: i64 = i32::MAX as i64;
const MAX_FILE: u64 = 16 << 20;
const PASSWD: &str = "etc/passwd";
const GROUP: &str = "etc/group";

/// Whom a process runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// The user.
    pub uid: u32,
    /// The primary group.
    pub gid: u32,
    /// All groups, the primary one first.
    pub groups: Vec<u32>,
    /// The home directory; `/` when nothing says otherwise.
    pub home: String,
}

/// The contents of a root's account files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Accounts {
    passwd: Vec<u8>,
    group: Vec<u8>,
}

impl Accounts {
    /// From the files' contents; empty for a missing one.
    pub fn new(passwd: impl Into<Vec<u8>>, group: impl Into<Vec<u8>>) -> Self {
        Self { passwd: passwd.into(), group: group.into() }
    }

    /// Reads them beneath `root`, a directory's descriptor. Links are followed inside it.
    pub fn read(root: BorrowedFd<'_>) -> Result<Self, UserError> {
        let read =
            |file| read_beneath(root, file).map_err(|source| UserError::Read { file, source });
        Ok(Self {
            passwd: read(PASSWD)?.unwrap_or_default(),
            group: read(GROUP)?.unwrap_or_default(),
        })
    }

    /// Reads them beneath the directory `root`.
    pub fn read_at(root: &std::path::Path) -> Result<Self, UserError> {
        let flags = OFlags::DIRECTORY | OFlags::PATH | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(CWD, root, flags, Mode::empty())
            .map_err(|errno| UserError::Read { file: PASSWD, source: errno.into() })?;
        Self::read(fd.as_fd())
    }

    /// Looks up `user[:group]` and the additional groups.
    pub fn resolve(&self, spec: &str, additional: &[String]) -> Result<User, UserError> {
        let (user, group) = split_spec(spec);
        let (mut found, name) = self.find_user(user)?;
        let mut implicit = Vec::new();
        if !group.is_empty() {
            found.gid = self.find_group(group)?;
        } else if let Some(name) = name {
            implicit = self.groups_of(&name);
        }
        found.groups = vec![found.gid];
        let additional = additional.iter().map(|group| self.find_additional(group));
        for gid in implicit.into_iter().map(Ok).chain(additional) {
            let gid = gid?;
            if !found.groups.contains(&gid) {
                found.groups.push(gid);
            }
        }
        Ok(found)
    }

    /// The user, and its name when it has an entry.
    fn find_user(&self, user: &str) -> Result<(User, Option<String>), UserError> {
        let number = user.parse::<i64>().ok();
        let wanted = if user.is_empty() { Some(0) } else { number };
        let mut entries = lines(&self.passwd).filter_map(Passwd::parse);
        let entry = match wanted {
            Some(number) => entries.find(|entry| i64::from(entry.uid) == number),
            None => entries.find(|entry| entry.name == user),
        };
        if let Some(entry) = entry {
            let home = if entry.home.is_empty() { "/" } else { entry.home }.to_owned();
            let user = User { uid: entry.uid, gid: entry.gid, groups: Vec::new(), home };
            return Ok((user, Some(entry.name.to_owned())));
        }
        let Some(number) = wanted else {
            return Err(UserError::User { name: user.to_owned() });
        };
        let user = User { uid: id(number)?, gid: 0, groups: Vec::new(), home: "/".to_owned() };
        Ok((user, None))
    }

    fn find_group(&self, group: &str) -> Result<u32, UserError> {
        // A number is never taken for a name, so its entry could only repeat it.
        if let Ok(number) = group.parse::<i64>() {
            return id(number);
        }
        lines(&self.group)
            .filter_map(Group::parse)
            .find(|entry| entry.name == group)
            .map(|entry| entry.gid)
            .ok_or_else(|| UserError::Group { name: group.to_owned() })
    }

    /// Unlike the group of `--user`, a name that is a number may stand in the file.
    fn find_additional(&self, group: &str) -> Result<u32, UserError> {
        let entry = lines(&self.group)
            .filter_map(Group::parse)
            .find(|entry| entry.name == group || entry.gid.to_string() == group);
        if let Some(entry) = entry {
            return Ok(entry.gid);
        }
        let number: i64 = group.parse().map_err(|_ignored: std::num::ParseIntError| {
            UserError::AdditionalGroup { name: group.to_owned() }
        })?;
        id(number)
    }

    fn groups_of(&self, user: &str) -> Vec<u32> {
        lines(&self.group)
            .filter_map(Group::parse)
            .filter(|entry| entry.members.split(',').any(|member| member == user))
            .map(|entry| entry.gid)
            .collect()
    }
}

/// The user part and the group part; what follows a second colon is ignored, as Docker does.
fn split_spec(spec: &str) -> (&str, &str) {
    let mut parts = spec.split(':');
    (parts.next().unwrap_or_default(), parts.next().unwrap_or_default())
}

fn id(number: i64) -> Result<u32, UserError> {
    match u32::try_from(number) {
        Ok(id) if number <= MAX_ID => Ok(id),
        Ok(_) | Err(_) => Err(UserError::Range),
    }
}

struct Passwd<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

impl<'a> Passwd<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let mut fields = line.split(':');
        let (name, _) = (fields.next()?, fields.next()?);
        let (uid, gid) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        Some(Self { name, uid, gid, home: fields.nth(1).unwrap_or_default() })
    }
}

struct Group<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

impl<'a> Group<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let mut fields = line.split(':');
        let (name, _) = (fields.next()?, fields.next()?);
        let gid = fields.next()?.parse().ok()?;
        Some(Self { name, gid, members: fields.next().unwrap_or_default() })
    }
}

/// Lines in UTF-8 without blanks around, comments and empty ones left out.
fn lines(file: &[u8]) -> impl Iterator<Item = &str> {
    file.split(|byte| *byte == b'\n')
        .filter_map(|line| std::str::from_utf8(line).ok())
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
}

/// `None` when there is no such regular file.
fn read_beneath(root: BorrowedFd<'_>, file: &str) -> io::Result<Option<Vec<u8>>> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let fd = match rustix::fs::openat2(root, file, flags, Mode::empty(), resolve) {
        Ok(fd) => fd,
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NXIO) => return Ok(None),
        Err(errno) => return Err(errno.into()),
    };
    let stat = rustix::fs::fstat(&fd)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    File::from(fd).take(MAX_FILE).read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD_TEXT: &str = "root:x:0:0:root:/root:/bin/sh\n# web:x:1:1::/:\n\
        web:x:1000:1000:Web:/srv/web:/bin/sh\nbroken:x:zero:0::/:\nodd:x:7:8\n1001:x:55:56::/odd:\n";
    const GROUP_TEXT: &str =
        "root:x:0:root\nwheel:x:10:web,root\nweb:x:1000:\nmedia:x:44:web\nbad:x:x:web\n";

    fn user(uid: u32, gid: u32, groups: &[u32], home: &str) -> User {
        User { uid, gid, groups: groups.to_vec(), home: home.to_owned() }
    }

    #[test]
    fn users_and_groups_are_found_as_docker_finds_them() {
        let accounts = Accounts::new(PASSWD_TEXT, GROUP_TEXT);
        let no_user =
            |name| Err(format!("unable to find user {name}: no matching entries in passwd file"));
        let no_group =
            |name| Err(format!("unable to find group {name}: no matching entries in group file"));
        let range = || Err("uids and gids must be in range 0-2147483647".to_owned());
        #[rustfmt::skip]
        let table: &[(&str, &[&str], Result<User, String>)] = &[
            ("",            &[],            Ok(user(0, 0, &[0, 10], "/root"))),
            ("web",         &[],            Ok(user(1000, 1000, &[1000, 10, 44], "/srv/web"))),
            ("1000",        &[],            Ok(user(1000, 1000, &[1000, 10, 44], "/srv/web"))),
            ("web:media",   &[],            Ok(user(1000, 44, &[44], "/srv/web"))),
            ("web:77",      &[],            Ok(user(1000, 77, &[77], "/srv/web"))),
            ("web:",        &[],            Ok(user(1000, 1000, &[1000, 10, 44], "/srv/web"))),
            (":wheel",      &[],            Ok(user(0, 10, &[10], "/root"))),
            ("1001",        &[],            Ok(user(1001, 0, &[0], "/"))),
            ("odd",         &[],            Ok(user(7, 8, &[8], "/"))),
            ("web",         &["44", "99"],  Ok(user(1000, 1000, &[1000, 10, 44, 99], "/srv/web"))),
            ("0:0",         &["media"],     Ok(user(0, 0, &[0, 44], "/root"))),
            ("nobody",      &[],            no_user("nobody")),
            ("broken",      &[],            no_user("broken")),
            ("web:nope",    &[],            no_group("nope")),
            ("web",         &["nope"],      Err("Unable to find group nope: no matching entries in group file".to_owned())),
            ("-1",          &[],            range()),
            ("2147483648",  &[],            range()),
            ("0:9999999999", &[],           range()),
        ];
        for (spec, additional, expected) in table {
            let additional: Vec<String> = additional.iter().map(|g| (*g).to_owned()).collect();
            let got = accounts.resolve(spec, &additional).map_err(|error| error.to_string());
            assert_eq!(&got, expected, "{spec} {additional:?}");
        }
        let nothing = Accounts::default().resolve("", &[]).map_err(|error| error.to_string());
        assert_eq!(nothing, Ok(user(0, 0, &[0], "/")));
    }

    #[test]
    fn account_files_are_read_inside_the_root_only() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        std::fs::create_dir_all(root.join("etc")).unwrap();
        std::fs::create_dir_all(root.join("real")).unwrap();
        #[expect(clippy::disallowed_methods, reason = "a test's own scratch files")]
        {
            std::fs::write(root.join("real/passwd"), PASSWD_TEXT).unwrap();
            std::fs::write(dir.path().join("outside"), "web:x:1:1::/:\n").unwrap();
        }
        // Absolute links mean the container's root, and `..` stops there.
        std::os::unix::fs::symlink("/real/passwd", root.join("etc/passwd")).unwrap();
        std::os::unix::fs::symlink("../../outside", root.join("etc/group")).unwrap();
        let accounts = Accounts::read_at(&root).unwrap();
        assert_eq!(accounts, Accounts::new(PASSWD_TEXT, ""));
        std::fs::remove_file(root.join("etc/group")).unwrap();
        let fifo = root.join("etc/group");
        rustix::fs::mknodat(CWD, &fifo, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        assert_eq!(Accounts::read_at(&root).unwrap(), accounts);
    }
}

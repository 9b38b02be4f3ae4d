//! `--chown`: names and numbers, looked up in the image's own account files.

use berth_fs::root::Root;
use berth_runtime::Accounts;

use crate::build::error::BuildError;

/// The user and group of `user[:group]`. Without a group it is the one of the user's name, or of
/// its number.
pub(super) fn resolve(root: &Root, text: &str) -> Result<(u32, u32), BuildError> {
    let failed = |problem: String| BuildError::Chown { problem };
    let accounts = Accounts::read(root.fd()).map_err(|error| failed(error.to_string()))?;
    let (user, group) = text.split_once(':').unwrap_or((text, text));
    let lookup = |spec: &str| accounts.resolve(spec, &[]).ok();
    let uid = user.parse().ok().or_else(|| Some(lookup(user)?.uid));
    let uid =
        uid.ok_or_else(|| failed(format!("can't find uid for user {user}: no such user: {user}")))?;
    let gid = group.parse().ok().or_else(|| Some(lookup(&format!("0:{group}"))?.gid));
    let gid = gid.ok_or_else(|| {
        failed(format!("can't find gid for group {group}: no such group: {group}"))
    })?;
    Ok((uid, gid))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_are_looked_up_in_the_image() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("etc")).unwrap();
        let write = |name: &str, text: &str| {
            berth_fs::atomic::write(&dir.path().join(name), text.as_bytes()).unwrap();
        };
        write("etc/passwd", "root:x:0:0::/:/\nme:x:1000:1001::/:/\nlone:x:5:6::/:/\n");
        write("etc/group", "root:x:0:\nme:x:1001:\nstaff:x:50:\n");
        let root = Root::open(dir.path()).unwrap();
        #[rustfmt::skip]
        let table = [
            ("me",        Ok((1000, 1001))),
            ("me:staff",  Ok((1000, 50))),
            ("7",         Ok((7, 7))),
            ("7:me",      Ok((7, 1001))),
            ("me:8",      Ok((1000, 8))),
            ("lone",      Err("can't find gid for group lone: no such group: lone")),
            ("nobdy",     Err("can't find uid for user nobdy: no such user: nobdy")),
            ("me:nog",    Err("can't find gid for group nog: no such group: nog")),
        ];
        for (text, expected) in table {
            let prefix = "unable to convert uid/gid chown string to host mapping: ";
            let expected = expected.map_err(|problem| format!("{prefix}{problem}"));
            assert_eq!(resolve(&root, text).map_err(|error| error.to_string()), expected, "{text}");
        }
    }
}

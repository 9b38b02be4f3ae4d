use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use super::*;
use crate::root::Root;
use crate::tar::{Entry, Kind};
use crate::testing::{Archive, listing, unpack};

/// A destination with a canary beside it.
fn place() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let dest = dir.path().join("dest");
    std::fs::create_dir(&dest).unwrap();
    std::fs::create_dir(dir.path().join("canary")).unwrap();
    crate::atomic::write(&dir.path().join("canary/file"), b"alive").unwrap();
    (dir, dest)
}

fn canary_lives(dir: &Path) {
    std::fs::remove_dir_all(dir.join("dest")).unwrap();
    assert_eq!(listing(dir), "canary d\ncanary/file f alive\n");
}

#[test]
fn names_are_cleaned_as_go_cleans_them() {
    #[rustfmt::skip]
    let table: &[(&str, Option<&str>)] = &[
        ("a/b",         Some("a/b")),
        ("./a//b/",     Some("a/b")),
        ("/a/b",        Some("a/b")),
        ("a/../b",      Some("b")),
        ("a/b/../../c", Some("c")),
        ("/../a",       Some("a")),
        ("",            Some("")),
        ("./",          Some("")),
        ("a/..",        Some("")),
        ("..",          None),
        ("../a",        None),
        ("a/../../b",   None),
    ];
    for (name, expected) in table {
        let mut out = b"old".to_vec();
        let inside = clean(name.as_bytes(), &mut out);
        assert_eq!(inside.then_some(out), expected.map(Into::into), "{name}");
    }
}

#[test]
fn nothing_gets_outside() {
    type Row = (&'static str, Archive, Result<&'static str, &'static str>);
    let absolute = |dir: &Path| dir.join("canary").display().to_string();
    let (dir, _) = place();
    let canary = absolute(dir.path());
    drop(dir);
    #[rustfmt::skip]
    let table: Vec<Row> = vec![
        ("climbing name", Archive::new().file("../canary/file", "dead"),
            Err(r#""../canary/file" is outside of "/dest""#)),
        ("climbing in the middle", Archive::new().file("a/../../canary/file", "dead"),
            Err(r#""a/../../canary/file" is outside of "/dest""#)),
        ("absolute name", Archive::new().file("/x/y", "in"), Ok("x d\nx/y f in\n")),
        ("absolute climbing name", Archive::new().file("/../x", "in"), Ok("x f in\n")),
        ("through a relative link", Archive::new().symlink("l", "../canary").file("l/file", "dead"),
            Err("cannot create the parent of \"l/file\"")),
        ("through an absolute link", Archive::new().symlink("l", &canary).file("l/file", "dead"),
            Err("cannot create the parent of \"l/file\"")),
        ("over a link", Archive::new().symlink("l", "../canary/file").file("l", "in"), Ok("l f in\n")),
        ("link inside", Archive::new().dir("d", 0o755).symlink("l", "/d").file("l/f", "in"),
            Ok("d d\nd/f f in\nl l /d\n")),
        ("hard link that climbs", Archive::new().hard_link("h", "../canary/file"),
            Err(r#"invalid hardlink "/dest/../canary/file" -> "../canary/file""#)),
        ("hard link through a link", Archive::new().symlink("l", "../canary").hard_link("h", "l/file"),
            Err("cannot find the target of \"h\"")),
        ("hard link to a link", Archive::new().symlink("l", "../canary/file").hard_link("h", "l").file("h", "in"),
            Ok("h f in\nl l ../canary/file\n")),
        ("hard link to nothing", Archive::new().hard_link("h", "missing"),
            Err("cannot find the target of \"h\"")),
        ("hard link to itself", Archive::new().file("f", "in").hard_link("f", "./f"), Ok("f f in\n")),
        ("whiteout of the parent", Archive::new().file("d/.wh...", ""),
            Err(r#""d/.wh..." is outside of "/dest""#)),
        ("whiteout of the directory", Archive::new().file(".wh..", ""),
            Err(r#"".wh.." is outside of "/dest""#)),
        ("whiteout of nothing", Archive::new().file("d/.wh.", ""),
            Err(r#""d/.wh." is outside of "/dest""#)),
        ("whiteout through a link", Archive::new().symlink("l", "../canary").file("l/.wh.file", ""),
            Ok("l l ../canary\n")),
        ("opaque through a link", Archive::new().symlink("l", &canary).file("l/.wh..wh..opq", ""), Ok("")),
        ("climbing whiteout", Archive::new().file("../canary/.wh.file", ""),
            Err(r#""../canary/.wh.file" is outside of "/dest""#)),
        ("file as parent", Archive::new().file("f", "in").file("f/g", "x"),
            Err("cannot create the parent of \"f/g\"")),
        ("file as root", Archive::new().file("./", "x"),
            Err("entry \"./\": only a directory can stand for the root")),
        ("duplicate", Archive::new().file("f", "one").file("f", "two"), Ok("f f two\n")),
        ("file over directory", Archive::new().file("d/f", "one").file("d", "two"), Ok("d f two\n")),
        ("directory over file", Archive::new().file("d", "one").dir("d", 0o755), Ok("d d\n")),
    ];
    for (what, archive, expected) in table {
        let (dir, dest) = place();
        let result = unpack(&archive.finish(), &dest, WhiteoutStyle::Apply);
        match expected {
            Ok("") => {
                result.unwrap_or_else(|error| panic!("{what}: {error}"));
            }
            Ok(tree) => {
                result.unwrap_or_else(|error| panic!("{what}: {error}"));
                assert_eq!(listing(&dest), tree, "{what}");
            }
            Err(text) => assert_eq!(result.unwrap_err().to_string(), text, "{what}"),
        }
        canary_lives(dir.path());
    }
}

/// What the layer below has.
fn lower(dest: &Path) {
    let lower = Archive::new()
        .file("keep", "old")
        .file("gone", "old")
        .file("dir/a", "old")
        .file("dir/sub/b", "old")
        .file("opaque/c", "old")
        .file("opaque/sub/d", "old")
        .finish();
    unpack(&lower, dest, WhiteoutStyle::Apply).unwrap();
}

fn upper() -> Archive {
    Archive::new()
        .file(".wh.gone", "")
        .file(".wh.never-there", "")
        .file(".wh.dir", "")
        .file("opaque/sub/new", "new")
        .file("opaque/.wh..wh..opq", "")
        .file("opaque/after", "new")
        .file("own/x", "new")
        .file(".wh.own", "")
        .file("late/.wh.x", "")
}

#[test]
fn whiteouts_delete_from_full_trees() {
    let (_dir, dest) = place();
    lower(&dest);
    unpack(&upper().finish(), &dest, WhiteoutStyle::Apply).unwrap();
    let expected = "keep f old\nopaque d\nopaque/after f new\nopaque/sub d\n\
                    opaque/sub/new f new\nown d\nown/x f new\n";
    assert_eq!(listing(&dest), expected);
}

#[test]
fn whiteouts_are_files_to_a_plain_unpack() {
    let (_dir, dest) = place();
    unpack(&upper().finish(), &dest, WhiteoutStyle::Plain).unwrap();
    assert!(dest.join(".wh.gone").is_file());
    assert!(dest.join("opaque/.wh..wh..opq").is_file());
}

#[test]
fn root_whiteouts_become_those_of_overlay() {
    if !testkit::is_root() {
        return testkit::skip("root_whiteouts_become_those_of_overlay", "root");
    }
    let (_dir, dest) = place();
    let archive = upper().file("again/y", "new").file(".wh.again", "").dir("gone", 0o755);
    let unpacked = unpack(&archive.finish(), &dest, WhiteoutStyle::Mark(Marks::Overlay)).unwrap();
    let expected = "again d opaque\nagain/y f new\ndir c 0:0\ngone d opaque\nlate d\n\
                    late/x c 0:0\nnever-there c 0:0\nopaque d opaque\nopaque/after f new\n\
                    opaque/sub d\nopaque/sub/new f new\nown d opaque\nown/x f new\n";
    assert_eq!(listing(&dest), expected);
    assert_eq!(unpacked.tree_size, 12);
}

#[test]
fn whiteouts_become_those_of_aufs() {
    let (_dir, dest) = place();
    let archive = upper()
        .file("again/y", "new")
        .file(".wh.again", "")
        .dir("gone", 0o755)
        .file("dir/implied/z", "new")
        .file("late/x", "new")
        .file(".wh..wh.plnk/1.1", "twice")
        .hard_link("twin", ".wh..wh.plnk/1.1")
        .file(&format!(".wh.{}", "n".repeat(243)), "");
    let style = WhiteoutStyle::Mark(Marks::Aufs);
    let unpacked = unpack(&archive.finish(), &dest, style).unwrap();
    let expected = ".wh.never-there f \nagain d\nagain/.wh..wh..opq f \nagain/y f new\ndir d\n\
                    dir/.wh..wh..opq f \ndir/implied d\ndir/implied/z f new\ngone d\n\
                    gone/.wh..wh..opq f \nlate d\nlate/x f new\nopaque d\n\
                    opaque/.wh..wh..opq f \nopaque/after f new\nopaque/sub d\n\
                    opaque/sub/new f new\nown d\nown/.wh..wh..opq f \nown/x f new\n\
                    twin f twice\n";
    assert_eq!(listing(&dest), expected);
    assert_eq!(unpacked.tree_size, 23);
    assert_eq!(crate::changes::tree_size(&Root::open(&dest).unwrap()).unwrap(), 23);
}

#[test]
fn names_that_aufs_does_not_show_are_refused() {
    let long = "n".repeat(243);
    let prefix = "aufs has names that begin with .wh. for itself";
    let length = "aufs has no names that are longer than 242 bytes";
    #[rustfmt::skip]
    let table = [
        (".wh.d/f",               prefix),
        ("a/.wh..wh.orph/f",      prefix),
        (".wh.d/.wh.f",           prefix),
        (".wh.d/.wh..wh..opq",    prefix),
        (&*long,                  length),
        (&*format!("{long}/f"),   length),
    ];
    for (name, reason) in table {
        let (_dir, dest) = place();
        let archive = Archive::new().file(name, "").finish();
        let error = unpack(&archive, &dest, WhiteoutStyle::Mark(Marks::Aufs)).unwrap_err();
        assert_eq!(error.to_string(), format!("entry {name:?}: {reason}"));
        assert_eq!(listing(&dest), "");
    }
}

#[test]
fn root_metadata_is_what_the_archive_says() {
    if !testkit::is_root() {
        return testkit::skip("root_metadata_is_what_the_archive_says", "root");
    }
    let capability = [1_u8, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let archive = Archive::new()
        .dir("d", 0o1777)
        .file("d/f", "x")
        .xattr("cap", "security.capability", &capability)
        .xattr("sly", "trusted.overlay.redirect", b"/etc")
        .xattr("sly2", "user.fuseoverlayfs.opaque", b"y")
        .xattr("user", "user.note", b"hello")
        .device("null", (1, 3))
        .symlink("link", "nowhere")
        .finish();
    let (_dir, dest) = place();
    let unpacked = unpack(&archive, &dest, WhiteoutStyle::Mark(Marks::Overlay)).unwrap();
    let stat = |name: &str| std::fs::symlink_metadata(dest.join(name)).unwrap();
    for name in ["d", "d/f", "cap", "null", "link"] {
        assert_eq!(stat(name).mtime(), 1_000_000_000, "{name}");
    }
    assert_eq!(stat("d").permissions().mode() & 0o7777, 0o1777);
    assert_eq!(stat("null").rdev(), rustix::fs::makedev(1, 3));
    assert_eq!(unpacked.skipped_xattrs, 2);
    // Files d/f, cap, sly, sly2, user of one byte, and a link of seven.
    assert_eq!(unpacked.tree_size, 12);
    assert_eq!(unpacked.header_size, 5);
    let root = Root::open(&dest).unwrap();
    let get = |name: &str, attribute: &str| {
        let file = root.open_file(Path::new(name)).unwrap();
        crate::changes::xattr(std::os::fd::AsFd::as_fd(&file), attribute).unwrap()
    };
    assert_eq!(get("cap", "security.capability").as_deref(), Some(&capability[..]));
    assert_eq!(get("user", "user.note").as_deref(), Some(&b"hello"[..]));
    assert_eq!(get("sly", "trusted.overlay.redirect"), None);
    assert_eq!(get("sly2", "user.fuseoverlayfs.opaque"), None);
}

/// In a directory that gives its group to what is made in it.
#[test]
fn root_owners_and_modes_are_the_archives() {
    if !testkit::is_root() {
        return testkit::skip("root_owners_and_modes_are_the_archives", "root");
    }
    let kinds = [Kind::File, Kind::Directory, Kind::Fifo];
    let owners = [(0, 0), (0, 50), (1000, 0), (1000, 50)];
    let modes = [0o644, 0o600, 0o4755, 0o2755, 0o6711, 0o1777, 0o666, 0o000];
    let (_dir, dest) = place();
    std::os::unix::fs::chown(&dest, None, Some(50)).unwrap();
    std::fs::set_permissions(&dest, std::fs::Permissions::from_mode(0o2755)).unwrap();
    let mut archive = Archive::new();
    let mut expected = Vec::new();
    for kind in kinds {
        for (uid, gid) in owners {
            for mode in modes {
                let path = format!("{kind:?}-{uid}-{gid}-{mode:o}");
                archive = archive.raw(
                    &Entry { path: path.clone().into(), kind, mode, uid, gid, ..Entry::default() },
                    b"",
                );
                expected.push((path, uid, gid, mode));
            }
        }
    }
    let archive = archive.finish();
    // The second time directories are there already, with other modes.
    for round in 0..2 {
        unpack(&archive, &dest, WhiteoutStyle::Plain).unwrap();
        for (path, uid, gid, mode) in &expected {
            let stat = std::fs::symlink_metadata(dest.join(path)).unwrap();
            let got = (u64::from(stat.uid()), u64::from(stat.gid()), stat.mode() & 0o7777);
            assert_eq!(got, (*uid, *gid, *mode), "{path} in round {round}");
            let other = std::fs::Permissions::from_mode(0o711);
            std::fs::set_permissions(dest.join(path), other).unwrap();
            std::os::unix::fs::lchown(dest.join(path), Some(7), Some(7)).unwrap();
        }
    }
}

#[test]
fn limits_and_refusals() {
    type Change = fn(&mut UnpackOptions);
    #[rustfmt::skip]
    let table: Vec<(Archive, Change, &str)> = vec![
        (Archive::new().device("null", (1, 3)), |o| o.devices = Devices::Refuse,
            "entry \"null\": device nodes are not allowed here"),
        (Archive::new().file("a", "x").file("b", "x"), |o| o.limits.max_entries = 1,
            "the archive has more than 1 entries"),
        (Archive::new().file("a", "12345").file("b", "67890"), |o| o.limits.max_bytes = 9,
            "the archive unpacks to more than 9 bytes"),
        (Archive::new().file("d/f", "x").file("d", "x"), |o| o.type_clash = TypeClash::Refuse,
            r#"cannot overwrite directory "/dest/d" with non-directory "/dest""#),
        (Archive::new().file("d", "x").dir("d", 0o755), |o| o.type_clash = TypeClash::Refuse,
            r#"cannot overwrite non-directory "/dest/d" with directory "/dest""#),
    ];
    for (archive, change, expected) in table {
        let (_dir, dest) = place();
        let root = Root::open(&dest).unwrap();
        let mut options = UnpackOptions::layer(WhiteoutStyle::Plain, "/dest");
        change(&mut options);
        let result = super::unpack(&archive.finish()[..], root.fd(), &options);
        assert_eq!(result.unwrap_err().to_string(), expected);
    }
}

#[test]
fn a_compression_bomb_stops_at_the_limit() {
    let zeros = vec![0; 64 << 20];
    let entry = crate::tar::Entry { path: b"bomb".to_vec(), mode: 0o644, ..Default::default() };
    let bomb = Archive::new().raw(&entry, &zeros).finish();
    let bomb = zstd::encode_all(&bomb[..], 1).unwrap();
    assert!(bomb.len() < 64 << 10);
    let (_dir, dest) = place();
    let root = Root::open(&dest).unwrap();
    let mut options = UnpackOptions::layer(WhiteoutStyle::Apply, "/dest");
    options.limits.max_bytes = 1 << 20;
    let error = crate::apply::apply(&bomb[..], root.fd(), &options, None).unwrap_err();
    assert_eq!(error.to_string(), "the archive unpacks to more than 1048576 bytes");
    assert_eq!(listing(&dest), "");
}

#[test]
fn an_archive_cut_anywhere_is_an_error() {
    let archive = Archive::new().file("one", &"x".repeat(700)).file("two", "y").finish();
    // Between two entries, and after the first zero block, nothing is missing; padding is not missed.
    let is_whole = |length: usize| matches!(length, 0 | 1212..=1536 | 2049..=2560 | 3072);
    for length in (0..archive.len()).step_by(64) {
        let (_dir, dest) = place();
        let result = unpack(&archive[..length], &dest, WhiteoutStyle::Apply);
        assert_eq!(result.is_ok(), is_whole(length), "{length}: {result:?}");
        if let Err(error) = result {
            assert!(error.to_string().starts_with("unexpected EOF"), "{error}");
        }
    }
}

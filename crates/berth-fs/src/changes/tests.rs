use super::*;
use crate::testing::{Archive, unpack};
use crate::unpack::WhiteoutStyle;

fn made(archive: Archive) -> (tempfile::TempDir, Root) {
    let dir = tempfile::tempdir().unwrap();
    unpack(&archive.finish(), dir.path(), WhiteoutStyle::Plain).unwrap();
    let root = Root::open(dir.path()).unwrap();
    (dir, root)
}

fn lines(changes: &[Change]) -> Vec<String> {
    changes
        .iter()
        .map(|change| format!("{} {}", change.kind as u8, change.path.display()))
        .collect()
}

#[test]
fn two_trees_are_compared_as_docker_does() {
    let base =
        || Archive::new().dir("d", 0o755).file("d/f", "old").dir("d/s", 0o755).file("g", "x");
    #[rustfmt::skip]
    let table: Vec<(Archive, &[&str])> = vec![
        (base(),                                          &[]),
        (base().file("d/f", "new!"),                      &["0 /d", "0 /d/f"]),
        (base().dir("d", 0o700),                          &["0 /d"]),
        (base().file("d/s/n", "x"),                       &["0 /d", "0 /d/s", "1 /d/s/n"]),
        (base().dir("new", 0o755).file("new/a", "x"),     &["1 /new", "1 /new/a"]),
        (base().symlink("g", "d"),                        &["0 /g"]),
        (base().file("d", "now a file"),                  &["0 /d"]),
        (Archive::new().file("g", "x").file("a", ""),     &["1 /a", "2 /d"]),
        (Archive::new().dir("d", 0o755).file("d/f", "old").dir("d/s", 0o755).dir("g", 0o755).file("g/x", ""),
                                                          &["0 /g", "1 /g/x"]),
    ];
    let (_old_dir, old) = made(base());
    for (new, expected) in table {
        let (_dir, new) = made(new);
        let found = between(Some((&old).into()), &new).unwrap();
        assert_eq!(lines(&found), expected);
    }
    let all = between(None, &old).unwrap();
    assert_eq!(lines(&all), ["1 /d", "1 /d/f", "1 /d/s", "1 /g"]);
    assert_eq!(changed_size(&old, &all).unwrap(), 4);
    assert_eq!(tree_size(&old).unwrap(), 4);
}

#[test]
fn a_time_without_fraction_may_be_any_within_its_second() {
    let (_dir, root) = made(Archive::new().file("f", ""));
    let at = |seconds, nanos| {
        let mut stat = root.stat(Path::new("f"), crate::root::Follow::No).unwrap();
        stat.st_mtime = seconds;
        stat.st_mtime_nsec = nanos;
        stat
    };
    #[rustfmt::skip]
    let table = [
        (at(1, 5), at(1, 5), Likeness::Same),
        (at(1, 5), at(1, 0), Likeness::Unclear),
        (at(1, 0), at(1, 5), Likeness::Unclear),
        (at(1, 5), at(1, 6), Likeness::Different),
        (at(1, 0), at(2, 0), Likeness::Different),
    ];
    for (old, new, expected) in table {
        assert_eq!(likeness(&old, &new), expected);
    }
}

#[test]
fn where_times_are_unclear_the_content_decides() {
    use rustix::fs::{CWD, Timespec, Timestamps};
    let large = "x".repeat(1 << 17);
    let with = |end: &str| format!("{large}{end}");
    #[rustfmt::skip]
    let table: Vec<(Archive, Archive, &[&str])> = vec![
        (Archive::new().file("n", "one"),     Archive::new().file("n", "one"),     &[]),
        (Archive::new().file("n", "one"),     Archive::new().file("n", "two"),     &["0 /n"]),
        (Archive::new().file("n", &with("")), Archive::new().file("n", &with("")), &[]),
        (Archive::new().file("n", &with("a")), Archive::new().file("n", &with("b")), &["0 /n"]),
        (Archive::new().symlink("n", "a"),    Archive::new().symlink("n", "a"),    &[]),
        (Archive::new().symlink("n", "a"),    Archive::new().symlink("n", "b"),    &["0 /n"]),
    ];
    for (old, new, expected) in table {
        let (_old_dir, old) = made(old);
        let (new_dir, new) = made(new);
        let time = Timespec { tv_sec: 1_000_000_000, tv_nsec: 7 };
        let times = Timestamps { last_access: time, last_modification: time };
        let name = new_dir.path().join("n");
        rustix::fs::utimensat(CWD, &name, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
        assert_eq!(lines(&between(Some((&old).into()), &new).unwrap()), expected);
        assert_eq!(lines(&of_upper(&new, &[old], crate::marks::Marks::Overlay).unwrap()), expected);
    }
}

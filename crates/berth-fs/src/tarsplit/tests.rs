use std::io::{Cursor, Read as _};
use std::path::Path;
use std::process::Command;

use berth_types::{DiffId, Digest};

use berth_types::IdMaps;

use super::*;
use crate::apply::apply;
use crate::root::Root;
use crate::testing::Archive;
use crate::unpack::{UnpackOptions, WhiteoutStyle};

/// Applies a tar, and checks that it comes back byte for byte.
fn round_trip(tar: &[u8], what: &str) {
    let dir = tempfile::tempdir().unwrap();
    let root = Root::open(dir.path()).unwrap();
    let mut records = Vec::new();
    let options = UnpackOptions::layer(WhiteoutStyle::Apply, dir.path());
    let applied = apply(tar, root.fd(), &options, Some(&mut records))
        .unwrap_or_else(|error| panic!("{what}: {error}"));
    assert_eq!(applied.diff_id, DiffId::from(Digest::of(tar)), "{what}");
    assert_eq!(applied.tar_bytes, tar.len() as u64, "{what}");
    let mut back = Vec::new();
    let mut assembler = Assembler::new(Cursor::new(records), root, applied.diff_id);
    assembler.read_to_end(&mut back).unwrap_or_else(|error| panic!("{what}: {error}"));
    assert!(back == tar, "{what}: {} bytes came back as {}", tar.len(), back.len());
}

fn sample_tree(dir: &Path) {
    let long = "l".repeat(150);
    std::fs::create_dir_all(dir.join("a/b").join(&long)).unwrap();
    for (name, size) in [("empty", 0), ("one", 1), ("block", 512), ("big", 300_001)] {
        let content: Vec<u8> = (0..size).map(|i: u32| i.to_le_bytes()[0]).collect();
        crate::atomic::write(&dir.join("a").join(name), &content).unwrap();
    }
    crate::atomic::write(&dir.join("a/b").join(&long).join("caf\u{e9}"), b"long").unwrap();
    std::fs::hard_link(dir.join("a/one"), dir.join("a/b/two")).unwrap();
    std::os::unix::fs::symlink("/a/one", dir.join("link")).unwrap();
    let sparse = std::fs::File::create(dir.join("sparse")).unwrap();
    sparse.set_len(5_000_000).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"middle", 2_000_000).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, &vec![7; 70_000], 4_000_000).unwrap();
}

#[test]
fn root_tars_of_gnu_tar_come_back() {
    if !testkit::is_root() {
        return testkit::skip("root_tars_of_gnu_tar_come_back", "root");
    }
    let dir = tempfile::tempdir().unwrap();
    sample_tree(dir.path());
    for options in [
        &["--format=gnu"][..],
        &["--format=gnu", "--sparse"],
        &["--format=pax"],
        &["--format=posix", "--sparse", "--sparse-version=0.0"],
        &["--format=posix", "--sparse", "--sparse-version=0.1"],
        &["--format=posix", "--sparse", "--sparse-version=1.0"],
        &["--format=oldgnu", "-b", "100"],
    ] {
        let output = Command::new("tar")
            .args(options)
            .args(["-C".as_ref(), dir.path().as_os_str()])
            .args(["-cf", "-", "."])
            .output();
        let Ok(output) = output else {
            return testkit::skip("root_tars_of_gnu_tar_come_back", "GNU tar");
        };
        assert!(output.status.success(), "{output:?}");
        round_trip(&output.stdout, &format!("{options:?}"));

        let copy = tempfile::tempdir().unwrap();
        crate::testing::unpack(&output.stdout, copy.path(), WhiteoutStyle::Plain).unwrap();
        let diff = Command::new("diff")
            .args(["-r", "--no-dereference"])
            .args([dir.path(), copy.path()])
            .output();
        let diff = diff.unwrap();
        assert!(diff.status.success(), "{options:?}: {}", String::from_utf8_lossy(&diff.stdout));
    }
}

#[test]
fn root_tars_of_python_come_back() {
    const SCRIPT: &str = "import sys, tarfile\n\
        f = {'gnu': tarfile.GNU_FORMAT, 'pax': tarfile.PAX_FORMAT}[sys.argv[2]]\n\
        with tarfile.open(fileobj=sys.stdout.buffer, mode='w|', format=f) as t:\n    \
        t.add(sys.argv[1], arcname='.')\n";
    if !testkit::is_root() {
        return testkit::skip("root_tars_of_python_come_back", "root");
    }
    let dir = tempfile::tempdir().unwrap();
    sample_tree(dir.path());
    for format in ["gnu", "pax"] {
        let output =
            Command::new("python3").args(["-c", SCRIPT]).arg(dir.path()).arg(format).output();
        let Ok(output) = output else {
            return testkit::skip("root_tars_of_python_come_back", "python3");
        };
        assert!(output.status.success(), "{output:?}");
        round_trip(&output.stdout, format);
    }
}

#[test]
fn tars_of_our_own_come_back() {
    let dir = tempfile::tempdir().unwrap();
    sample_tree(dir.path());
    let mut tar = Vec::new();
    crate::pack::tree(&Root::open(dir.path()).unwrap(), &IdMaps::default(), &mut tar).unwrap();
    round_trip(&tar, "packed");
    let odd = [
        ("empty", Vec::new()),
        ("end mark only", vec![0; 1024]),
        ("one zero block", vec![0; 512]),
        ("no end mark", {
            let mut tar = Archive::new().file("f", "x").finish();
            tar.truncate(1024);
            tar
        }),
        ("trailing bytes", [Archive::new().file("f", "x").finish(), vec![9; 3333]].concat()),
        (
            "aufs metadata with content",
            Archive::new()
                .dir(".wh..wh.plnk", 0o700)
                .file(".wh..wh.plnk/7.8", "shared")
                .hard_link("one", ".wh..wh.plnk/7.8")
                .hard_link("two", ".wh..wh.plnk/7.8")
                .file(".wh..wh.aufs", "")
                .file(".wh.gone", "whiteout with content")
                .finish(),
        ),
        ("twice the same directory", Archive::new().dir("d", 0o755).dir("./d/", 0o700).finish()),
    ];
    for (what, tar) in odd {
        round_trip(&tar, what);
    }
}

#[test]
fn content_that_would_be_lost_is_refused_as_docker_does() {
    #[rustfmt::skip]
    let table = [
        Archive::new().file("f", "one").file("f", "two"),
        Archive::new().file("f", "one").file("./f", ""),
        Archive::new().file("f", "one").symlink("f", "x"),
        Archive::new().file("d/f", "one").file("d", "two"),
        Archive::new().file("d/f", "one").symlink("l", "d").file("l/f", "two"),
    ];
    for archive in table {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        let options = UnpackOptions::layer(WhiteoutStyle::Apply, dir.path());
        let mut records = Vec::new();
        let error = apply(&archive.finish()[..], root.fd(), &options, Some(&mut records));
        let text = error.unwrap_err().to_string();
        assert_eq!(text, "duplicates of file paths not supported");
    }
}

#[test]
fn damage_to_a_layer_is_found() {
    let tar = Archive::new().file("f", "content").file("g", "other").finish();
    let dir = tempfile::tempdir().unwrap();
    let root = Root::open(dir.path()).unwrap();
    let options = UnpackOptions::layer(WhiteoutStyle::Apply, dir.path());
    let mut records = Vec::new();
    let applied = apply(&tar[..], root.fd(), &options, Some(&mut records)).unwrap();
    let read = |diff_id: &DiffId, records: &[u8]| {
        let root = Root::open(dir.path()).unwrap();
        let mut out = Vec::new();
        let records = Cursor::new(records.to_vec());
        Assembler::new(records, root, diff_id.clone())
            .read_to_end(&mut out)
            .map_err(|error| error.to_string())
    };
    assert_eq!(read(&applied.diff_id, &records), Ok(tar.len()));
    let other = DiffId::empty();
    let expected = format!(
        "could not verify layer data for: {other}. This may be because internal files in the \
         layer store were modified. Re-pulling or rebuilding this image may resolve the issue"
    );
    assert_eq!(read(&other, &records), Err(expected));
    assert!(read(&applied.diff_id, &records[..records.len() / 2]).is_err());
    for content in ["contenT", "conten", ""] {
        crate::atomic::write(&dir.path().join("f"), content.as_bytes()).unwrap();
        let expected = "file integrity checksum failed for \"f\"".to_owned();
        assert_eq!(read(&applied.diff_id, &records), Err(expected), "{content}");
    }
    std::fs::remove_file(dir.path().join("f")).unwrap();
    assert_eq!(read(&applied.diff_id, &records), Err("cannot open \"f\" of the layer".to_owned()));
}

#[test]
fn the_format_is_dockers() {
    let mut writer = Writer::new(Vec::new());
    writer.segment(b"header").unwrap();
    writer.file(b"./a\"b", 3, Some([0, 1, 2, 3, 4, 5, 6, 7])).unwrap();
    writer.file(b"d/", 0, None).unwrap();
    writer.file(b"\xff", 0, None).unwrap();
    let gz = writer.finish().unwrap();
    let mut text = String::new();
    flate2::read::GzDecoder::new(&gz[..]).read_to_string(&mut text).unwrap();
    let expected = "{\"type\":2,\"payload\":\"aGVhZGVy\",\"position\":0}\n\
        {\"type\":1,\"name\":\"./a\\\"b\",\"size\":3,\"payload\":\"AAECAwQFBgc=\",\"position\":1}\n\
        {\"type\":1,\"name\":\"d/\",\"payload\":null,\"position\":2}\n\
        {\"type\":1,\"name_raw\":\"/w==\",\"payload\":null,\"position\":3}\n";
    assert_eq!(text, expected);
}

/// Names of files in an archive may lead through its own symbolic links. When a later entry
/// replaces such a link the name leads elsewhere, and the archive could not be given back.
#[test]
fn a_name_that_later_leads_elsewhere_is_refused() {
    let through = || {
        Archive::new()
            .dir("a", 0o755)
            .symlink("link", "a")
            .file("link/f", "x")
            .symlink("other", "a")
    };
    round_trip(&through().finish(), "through a link");
    round_trip(&through().symlink("other", "nowhere").finish(), "another link replaced");
    let dir = tempfile::tempdir().unwrap();
    let root = Root::open(dir.path()).unwrap();
    let options = UnpackOptions::layer(WhiteoutStyle::Apply, dir.path());
    let tar = through().symlink("link", "nowhere").finish();
    let refused = apply(&tar[..], root.fd(), &options, Some(&mut Vec::new())).unwrap_err();
    assert_eq!(refused.to_string(), "duplicates of file paths not supported");
}

#[test]
fn an_outline_says_what_a_layer_brings_and_hides() {
    use crate::tar::Kind;
    let tar = Archive::new()
        .dir("d", 0o755)
        .file("d/file", "content")
        .hard_link("again", "d/file")
        .file("empty", "")
        .symlink("link", "d")
        .file(".wh.gone", "")
        .file("d/.wh.inner", "")
        .file("o/.wh..wh..opq", "")
        .finish();
    let dir = tempfile::tempdir().unwrap();
    let root = Root::open(dir.path()).unwrap();
    let mut records = Vec::new();
    let options = UnpackOptions::layer(WhiteoutStyle::Apply, dir.path());
    apply(tar.as_slice(), root.fd(), &options, Some(&mut records)).unwrap();
    let outline = outline(Cursor::new(records)).unwrap();
    let mut brings: Vec<_> = outline
        .brings
        .iter()
        .map(|(name, it)| {
            (std::str::from_utf8(name).unwrap(), it.kind, it.content.map(|sum| sum.size()))
        })
        .collect();
    brings.sort_unstable_by_key(|(name, ..)| *name);
    let expected = [
        ("again", Kind::HardLink, Some(7)),
        ("d", Kind::Directory, None),
        ("d/file", Kind::File, Some(7)),
        ("empty", Kind::File, None),
        ("link", Kind::Symlink, None),
    ];
    assert_eq!(brings, expected);
    assert_eq!(outline.deletes, [b"gone".to_vec(), b"d/inner".to_vec()]);
    assert_eq!(outline.opaque, [b"o".to_vec()]);
    let sum = outline.brings[&b"d/file"[..]].content.unwrap();
    let file = |name| std::fs::File::open(dir.path().join(name)).unwrap();
    assert!(sum.is_of(file("d/file")).unwrap());
    assert!(!sum.is_of(file("empty")).unwrap());
    std::fs::File::create(dir.path().join("d/file")).unwrap().set_len(7).unwrap();
    assert!(!sum.is_of(file("d/file")).unwrap());
}

use std::fs;
use std::path::Path;

use super::*;

fn options(path: &Path) -> WriterOptions {
    WriterOptions {
        path: path.to_owned(),
        max_size: None,
        max_file: 1,
        compress: false,
        attrs: BTreeMap::new(),
    }
}

fn at(nanos: i32) -> Timestamp {
    Timestamp::from_unix(1_700_000_000, nanos).unwrap()
}

fn logged(path: &Path) -> Vec<(Stream, Vec<u8>, Timestamp)> {
    let text = fs::read(path).unwrap();
    let records = text.split_inclusive(|byte| *byte == b'\n');
    let entries = records.map(|record| json::decode(record).expect("every line is a record"));
    entries.map(|entry| (entry.stream, entry.line, entry.time)).collect()
}

#[test]
fn lines_are_put_together_and_long_ones_cut_as_docker_does() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let mut writer = Writer::open(options(&path)).unwrap();
    writer.write(Stream::Stdout, b"one\ntw", at(1)).unwrap();
    writer.write(Stream::Stderr, b"err\n", at(2)).unwrap();
    writer.write(Stream::Stdout, b"o\n\n", at(3)).unwrap();
    let long = vec![b'x'; 40_000];
    writer.write(Stream::Stdout, &long[..20_000], at(4)).unwrap();
    writer.write(Stream::Stdout, &long[20_000..], at(5)).unwrap();
    writer.write(Stream::Stdout, b"\nexact", at(6)).unwrap();
    writer.finish(Stream::Stdout, at(7)).unwrap();
    writer.finish(Stream::Stderr, at(8)).unwrap();
    let mut rest = vec![b'x'; 40_000 - 2 * PIECE];
    rest.push(b'\n');
    let expected = vec![
        (Stream::Stdout, b"one\n".to_vec(), at(1)),
        (Stream::Stderr, b"err\n".to_vec(), at(2)),
        (Stream::Stdout, b"two\n".to_vec(), at(3)),
        (Stream::Stdout, b"\n".to_vec(), at(3)),
        (Stream::Stdout, vec![b'x'; PIECE], at(4)),
        (Stream::Stdout, vec![b'x'; PIECE], at(4)),
        (Stream::Stdout, rest, at(4)),
        (Stream::Stdout, b"exact".to_vec(), at(7)),
    ];
    assert_eq!(logged(&path), expected);
}

#[test]
fn a_line_of_exactly_one_piece_ends_with_an_empty_record() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let mut writer = Writer::open(options(&path)).unwrap();
    let mut line = vec![b'y'; PIECE];
    line.push(b'\n');
    writer.write(Stream::Stdout, &line, at(1)).unwrap();
    let expected =
        vec![(Stream::Stdout, vec![b'y'; PIECE], at(1)), (Stream::Stdout, b"\n".to_vec(), at(1))];
    assert_eq!(logged(&path), expected);
}

#[test]
fn an_unfinished_line_of_a_dead_writer_is_ended() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    fs::File::create(&path).unwrap().write_all(b"{\"log\":\"to").unwrap();
    let mut writer = Writer::open(options(&path)).unwrap();
    writer.write(Stream::Stdout, b"next\n", at(1)).unwrap();
    let text = fs::read_to_string(&path).unwrap();
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines[0], "{\"log\":\"to");
    assert_eq!(json::decode(lines[1].as_bytes()).unwrap().line, b"next\n");
}

#[test]
fn rotation_keeps_as_many_files_as_asked() {
    let dir = tempfile::tempdir().unwrap();
    for (max_file, kept) in [(1, "log"), (3, "log log.1 log.2")] {
        let path = dir.path().join(max_file.to_string()).join("log");
        fs::create_dir(path.parent().unwrap()).unwrap();
        let options = WriterOptions { max_size: Some(1), max_file, ..options(&path) };
        let mut writer = Writer::open(options).unwrap();
        for line in ["a\n", "b\n", "c\nd\n", "e\n"] {
            writer.write(Stream::Stdout, line.as_bytes(), at(1)).unwrap();
        }
        let entries = fs::read_dir(path.parent().unwrap()).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        assert_eq!(names.join(" "), kept);
        assert_eq!(logged(&path)[0].1, b"e\n");
        if max_file > 1 {
            assert_eq!(logged(&files::numbered(&path, 1))[0].1, b"d\n");
            assert_eq!(logged(&files::numbered(&path, 2))[0].1, b"c\n");
        }
    }
}

#[test]
fn rotation_waits_for_compression_and_crash_leftovers_are_mended() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let compressed =
        || WriterOptions { max_size: Some(1), max_file: 3, compress: true, ..options(&path) };
    let mut writer = Writer::open(compressed()).unwrap();
    writer.write(Stream::Stdout, b"a\nb\nc\n", at(1)).unwrap();
    let rotated = writer.take_rotated().unwrap();
    assert_eq!(rotated, files::numbered(&path, 1));
    assert_eq!(logged(&path).len(), 2, "b and c wait in the live file");
    writer.hold_rotation(true);
    writer.write(Stream::Stdout, b"d\n", at(1)).unwrap();
    crate::compress(&rotated).unwrap();
    writer.hold_rotation(false);
    writer.write(Stream::Stdout, b"e\n", at(1)).unwrap();
    assert_eq!(logged(&path)[0].1, b"e\n");
    assert!(fs::metadata(dir.path().join("log.2.gz")).is_ok());

    // Killed after the compressed file was put in place, and in the middle of another.
    fs::copy(dir.path().join("log.2.gz"), dir.path().join("log.1.gz")).unwrap();
    fs::copy(dir.path().join("log.2.gz"), dir.path().join("log.1.gz.tmp")).unwrap();
    Writer::open(compressed()).unwrap();
    let mut names: Vec<_> = fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["log", "log.1.gz", "log.2.gz"]);
}

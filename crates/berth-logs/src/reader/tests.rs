use std::collections::BTreeMap;
use std::io::Write as _;

use super::*;
use crate::{Writer, WriterOptions};

fn at(second: i64) -> Timestamp {
    Timestamp::from_unix(1_700_000_000 + second, 0).unwrap()
}

fn both() -> ReadOptions {
    ReadOptions { stdout: true, stderr: true, ..ReadOptions::default() }
}

fn writer(path: &Path, max_size: Option<u64>, max_file: u32, compress: bool) -> Writer {
    let path = path.to_owned();
    Writer::open(WriterOptions { path, max_size, max_file, compress, attrs: BTreeMap::new() })
        .unwrap()
}

fn texts(reader: &mut Reader) -> Vec<String> {
    let mut texts = Vec::new();
    while let Some(entry) = reader.next_entry().unwrap() {
        texts.push(String::from_utf8(entry.line).unwrap().trim_end().to_owned());
    }
    texts
}

#[test]
fn tail_since_until_and_streams_choose_lines() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    // Two lines in each of three files.
    let mut log = writer(&path, Some(120), 9, false);
    for second in 0..6 {
        let stream = if second % 2 == 0 { Stream::Stdout } else { Stream::Stderr };
        log.write(stream, format!("{second}\n").as_bytes(), at(second)).unwrap();
    }
    assert!(fs::metadata(files::numbered(&path, 2)).is_ok());
    #[rustfmt::skip]
    let table = [
        (both(),                                                              "0 1 2 3 4 5"),
        (ReadOptions { tail: Some(0), ..both() },                             ""),
        (ReadOptions { tail: Some(1), ..both() },                             "5"),
        (ReadOptions { tail: Some(3), ..both() },                             "3 4 5"),
        (ReadOptions { tail: Some(9), ..both() },                             "0 1 2 3 4 5"),
        (ReadOptions { since: Some(at(4)), ..both() },                        "4 5"),
        (ReadOptions { until: Some(at(1)), ..both() },                        "0 1"),
        (ReadOptions { since: Some(at(1)), until: Some(at(3)), ..both() },    "1 2 3"),
        (ReadOptions { stderr: false, ..both() },                             "0 2 4"),
        (ReadOptions { stdout: false, tail: Some(2), ..both() },              "5"),
        (ReadOptions::default(),                                              ""),
    ];
    for (options, expected) in table {
        let mut reader = Reader::open(&path, &options).unwrap();
        assert_eq!(texts(&mut reader).join(" "), expected, "{options:?}");
        assert_eq!(reader.is_done(), options.until.is_some());
    }
}

#[test]
fn tail_finds_its_line_across_blocks() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let mut log = writer(&path, None, 1, false);
    let lines: Vec<_> = (0..4000).map(|number| format!("line {number}")).collect();
    for line in &lines {
        log.write(Stream::Stdout, format!("{line}\n").as_bytes(), at(0)).unwrap();
    }
    for count in [1_usize, 700, 1500, 3999, 4000] {
        let options = ReadOptions { tail: Some(count as u64), ..both() };
        let mut reader = Reader::open(&path, &options).unwrap();
        assert_eq!(texts(&mut reader), lines[4000 - count..], "{count}");
    }
}

#[test]
fn a_follower_loses_and_doubles_nothing_across_rotations() {
    let dir = tempfile::tempdir().unwrap();
    for (max_file, compress) in [(1, false), (4, false), (4, true)] {
        let path = dir.path().join(format!("{max_file}-{compress}")).join("log");
        fs::create_dir(path.parent().unwrap()).unwrap();
        let mut reader = Reader::open(&path, &both()).unwrap();
        assert_eq!(texts(&mut reader), [""; 0]);
        let mut log = writer(&path, Some(200), max_file, compress);
        let mut got = Vec::new();
        for number in 0..60 {
            log.write(Stream::Stdout, format!("{number}\n").as_bytes(), at(number)).unwrap();
            if let Some(rotated) = log.take_rotated() {
                crate::compress(&rotated).unwrap();
            }
            // At most two rotations between two looks: with one file there is no older one kept.
            if max_file == 1 || number % 5 == 0 {
                got.extend(texts(&mut reader));
            }
        }
        got.extend(texts(&mut reader));
        let expected: Vec<_> = (0..60).map(|number| number.to_string()).collect();
        assert_eq!(got, expected, "{max_file} {compress}");
    }
}

#[test]
fn compressed_files_are_read_like_others() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let mut log = writer(&path, Some(1), 5, true);
    for number in 0..4 {
        log.write(Stream::Stdout, format!("{number}\n").as_bytes(), at(number)).unwrap();
        if let Some(rotated) = log.take_rotated() {
            crate::compress(&rotated).unwrap();
        }
    }
    assert!(fs::metadata(dir.path().join("log.3.gz")).is_ok());
    assert_eq!(texts(&mut Reader::open(&path, &both()).unwrap()), ["0", "1", "2", "3"]);
    let last = ReadOptions { tail: Some(2), ..both() };
    assert_eq!(texts(&mut Reader::open(&path, &last).unwrap()), ["2", "3"]);
}

#[test]
fn a_line_is_read_when_it_is_whole_and_torn_ones_are_passed_over() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    writer(&path, None, 1, false).write(Stream::Stdout, b"one\n", at(0)).unwrap();
    let mut file = File::options().append(true).open(&path).unwrap();
    file.write_all(b"{\"log\":\"tw").unwrap();
    let mut reader = Reader::open(&path, &ReadOptions { tail: Some(1), ..both() }).unwrap();
    assert_eq!(texts(&mut reader), ["one"]);
    file.write_all(b"o\\n\",\"stream\":\"stdout\",\"time\":\"2023-11-14T22:13:20Z\"}\n{\"lo")
        .unwrap();
    assert_eq!(texts(&mut reader), ["two"]);
    writer(&path, None, 1, false).write(Stream::Stdout, b"three\n", at(0)).unwrap();
    assert_eq!(texts(&mut reader), ["three"]);
    file.write_all(b"\0\0\0\n").unwrap();
    writer(&path, None, 1, false).write(Stream::Stdout, b"four\n", at(0)).unwrap();
    assert_eq!(texts(&mut reader), ["four"]);
}

#[test]
fn waiting_ends_when_the_log_grows() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let mut log = writer(&path, None, 1, false);
    let mut reader = Reader::open(&path, &both()).unwrap();
    assert_eq!(reader.wait(Duration::from_mins(1)).unwrap(), Wait::Changed);
    assert_eq!(reader.wait(Duration::from_millis(1)).unwrap(), Wait::TimedOut);
    log.write(Stream::Stdout, b"one\n", at(0)).unwrap();
    assert_eq!(reader.wait(Duration::from_mins(1)).unwrap(), Wait::Changed);
    assert_eq!(texts(&mut reader), ["one"]);
    assert_eq!(reader.wait(Duration::from_millis(1)).unwrap(), Wait::TimedOut);
}

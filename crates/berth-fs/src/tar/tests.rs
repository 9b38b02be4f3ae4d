use std::io::Write as _;

use proptest::prelude::*;

use super::*;

/// Reads everything; gives the entries and their data.
fn read_all(tar: &[u8]) -> Result<Vec<(Entry, Vec<u8>)>, TarError> {
    let mut reader = Reader::new(tar);
    let mut all = Vec::new();
    while reader.next_entry()?.is_some() {
        let entry = reader.take_entry();
        let mut data = Vec::new();
        loop {
            let chunk = reader.fill()?;
            if chunk.is_empty() {
                break;
            }
            data.extend_from_slice(chunk);
            let count = chunk.len();
            reader.consume(count);
        }
        all.push((entry, data));
    }
    Ok(all)
}

fn header(name: &str, flag: u8, size: usize) -> Vec<u8> {
    let mut writer = TarWriter::new(Vec::new());
    let kind = if flag == b'0' { Kind::File } else { Kind::Other(flag) };
    writer
        .header(&Entry { path: name.into(), kind, size: size as u64, ..Entry::default() })
        .unwrap();
    writer.content().clone()
}

fn padded(content: &[u8]) -> Vec<u8> {
    let mut content = content.to_vec();
    content.resize(content.len().next_multiple_of(BLOCK), 0);
    content
}

fn pax(records: &[&str]) -> Vec<u8> {
    let mut body = Vec::new();
    for record in records {
        let (key, value) = record.split_once('=').unwrap();
        pax::write_record(&mut body, key.as_bytes(), value.as_bytes());
    }
    [header("pax", b'x', body.len()), padded(&body)].concat()
}

#[test]
fn extended_headers_override_the_fields() {
    let long = "n".repeat(300);
    let gnu = [header("L", b'L', 301), padded(format!("{long}\0").as_bytes())].concat();
    #[rustfmt::skip]
    let table: Vec<(Vec<u8>, &str, u64)> = vec![
        (header("plain", b'0', 1),                                          "plain", 1),
        ([pax(&["path=other", "size=1"]), header("x", b'0', 0)].concat(),   "other", 1),
        ([pax(&["path=a", "path="]), header("x", b'0', 1)].concat(),        "x", 1),
        ([pax(&["path=a"]), pax(&["uid=7"]), header("x", b'0', 1)].concat(), "x", 1),
        ([gnu.clone(), header("x", b'0', 1)].concat(),                      &long, 1),
        ([gnu, pax(&["path=a"]), header("x", b'0', 1)].concat(),            &long, 1),
    ];
    for (headers, name, size) in table {
        let tar = [headers, padded(b"c"), vec![0; 1024]].concat();
        let all = read_all(&tar).unwrap();
        assert_eq!(all.len(), 1);
        assert_eq!((all[0].0.name().as_str(), all[0].0.size), (name, size));
        assert_eq!(all[0].1, b"c");
    }
}

#[test]
fn malformed_archives_are_refused_with_place_and_reason() {
    let mut bad_sum = header("x", b'0', 0);
    bad_sum[0] = b'y';
    #[rustfmt::skip]
    let table: Vec<(Vec<u8>, &str)> = vec![
        (bad_sum, "archive/tar: invalid tar header at byte 0: the checksum does not match"),
        ([vec![0; 512], header("x", b'0', 0)].concat(),
            "archive/tar: invalid tar header at byte 0: a zero block between entries"),
        ([pax(&["size=x"]), header("x", b'0', 0)].concat(),
            "archive/tar: invalid tar header of entry \"pax\": a PAX number is malformed"),
        (pax(&["path=x"]), "unexpected EOF at byte 1024 of the archive, in entry \"pax\""),
        (header("x", b'0', 5), "unexpected EOF at byte 512 of the archive, in entry \"\""),
        (header("x", b'x', 2 << 20),
            "archive/tar: invalid tar header of entry \"x\": an extended header is too long"),
        (pax(&["path=x"]).repeat(100),
            "archive/tar: invalid tar header of entry \"pax\": too many extended headers in a row"),
        ([pax(&["GNU.sparse.major=1", "GNU.sparse.minor=0", "GNU.sparse.realsize=9"]), header("s", b'0', 5), padded(b"9\n0\n1")].concat(),
            "archive/tar: invalid tar header of entry \"s\": a sparse map is malformed"),
        ([pax(&["GNU.sparse.map=5,1,0,1", "GNU.sparse.size=9"]), header("s", b'0', 2), padded(b"ab")].concat(),
            "archive/tar: invalid tar header of entry \"s\": a sparse map is malformed"),
    ];
    for (tar, expected) in table {
        assert_eq!(read_all(&tar).unwrap_err().to_string(), expected);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_written_is_read_back(
        path in "[a-zA-Z0-9é/]{1,200}",
        link in "[a-z/]{0,200}",
        mode in 0..0o10000_u32,
        uid in 0..u64::from(u32::MAX),
        seconds in -5_000_000_000..50_000_000_000_i64,
        content in proptest::collection::vec(any::<u8>(), 0..2000),
    ) {
        let entry = Entry {
            path: path.into(),
            link: link.into(),
            mode,
            uid,
            gid: uid / 2,
            mtime: Time { seconds, nanos: 0 },
            size: content.len() as u64,
            xattrs: vec![(b"user.a=b".to_vec(), content.clone())],
            ..Entry::default()
        };
        // A key cannot contain the sign that ends it.
        let entry = Entry { xattrs: vec![(b"user.a".to_vec(), entry.xattrs[0].1.clone())], ..entry };
        let mut writer = TarWriter::new(Vec::new());
        writer.header(&entry).unwrap();
        writer.content().write_all(&content).unwrap();
        writer.end_content().unwrap();
        let tar = writer.finish().unwrap();
        prop_assert_eq!(read_all(&tar).unwrap(), vec![(entry, content)]);
    }

    #[test]
    fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..3000)) {
        let blocks = [header("x", b'0', 700), bytes].concat();
        drop(read_all(&blocks));
    }
}

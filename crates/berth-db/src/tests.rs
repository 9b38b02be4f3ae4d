use super::*;

const ONE: Schema = Schema { name: "one", migrations: &["CREATE TABLE one (a TEXT)"] };
const ONE_LATER: Schema = Schema {
    name: "one",
    migrations: &["CREATE TABLE one (a TEXT)", "ALTER TABLE one ADD COLUMN b TEXT DEFAULT 'x'"],
};

fn insert(db: &Db, value: &str) -> Result<(), DbError> {
    db.write(|tx| {
        tx.execute("INSERT INTO one (a) VALUES (?1)", [value])?;
        Ok(())
    })
}

fn values(db: &Db) -> Vec<String> {
    db.read(|conn| {
        let mut statement = conn.prepare("SELECT a FROM one ORDER BY a")?;
        let rows = statement.query_map([], |row| row.get(0))?;
        Ok::<_, DbError>(rows.collect::<Result<_, _>>()?)
    })
    .unwrap()
}

#[test]
fn what_was_written_is_there_after_reopening_and_migrating() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("berth.db");
    let db = Db::open(&path, &[&ONE]).unwrap();
    insert(&db, "first").unwrap();
    drop(db);
    let db = Db::open(&path, &[&ONE_LATER]).unwrap();
    assert_eq!(values(&db), ["first"]);
    let b: String = db
        .read(|conn| Ok::<_, DbError>(conn.query_row("SELECT b FROM one", [], |r| r.get(0))?))
        .unwrap();
    assert_eq!(b, "x");
}

#[test]
fn tables_of_a_newer_version_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("berth.db");
    drop(Db::open(&path, &[&ONE_LATER]).unwrap());
    let error = Db::open(&path, &[&ONE]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the tables of one have version 2, and this version of berth knows 1: \
         use the berth that wrote them, or a newer one"
    );
}

#[test]
fn a_failed_write_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let db = Db::open(&dir.path().join("berth.db"), &[&ONE]).unwrap();
    insert(&db, "kept").unwrap();
    let result: Result<(), DbError> = db.write(|tx| {
        tx.execute("INSERT INTO one (a) VALUES ('lost')", [])?;
        Err(DbError::Damaged { table: "one" })
    });
    assert!(result.is_err());
    assert_eq!(values(&db), ["kept"]);
}

#[test]
fn a_file_that_is_no_database_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("berth.db");
    let mut file = std::fs::File::create(&path).unwrap();
    std::io::Write::write_all(&mut file, &[b'x'; 4096]).unwrap();
    assert!(Db::open(&path, &[&ONE]).is_err());
}

#[test]
fn a_snapshot_is_the_database_at_that_moment() {
    let dir = tempfile::tempdir().unwrap();
    let db = Db::open(&dir.path().join("berth.db"), &[&ONE]).unwrap();
    insert(&db, "before").unwrap();
    let copy = dir.path().join("copy.db");
    db.snapshot(&copy, |tx| {
        tx.execute("INSERT INTO one (a) VALUES ('with')", [])?;
        Ok::<_, DbError>(())
    })
    .unwrap();
    insert(&db, "later").unwrap();
    let again = db.snapshot(&copy, |_| Ok::<_, DbError>(()));
    assert!(again.is_err(), "nothing is written over");
    assert_eq!(values(&Db::open(&copy, &[&ONE]).unwrap()), ["before", "with"]);
    assert_eq!(values(&db), ["before", "later", "with"]);
}

#[test]
fn the_log_has_its_length_from_the_beginning_and_keeps_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("berth.db");
    let log = dir.path().join("berth.db-wal");
    let length = || std::fs::metadata(&log).unwrap().len();
    for round in 0..3 {
        let db = Db::open(&path, &[&ONE]).unwrap();
        assert_eq!(length(), 6 << 20, "round {round}");
        for number in 0..500 {
            insert(&db, &format!("{round} {number}")).unwrap();
        }
        assert_eq!(values(&db).len(), (round + 1) * 500);
        if round == 1 {
            db.checkpoint().unwrap();
        }
        drop(db);
        assert_eq!(length(), 6 << 20, "round {round}");
    }
}

#[test]
fn after_a_clean_stop_the_file_alone_is_the_database() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("berth.db");
    let db = Db::open(&path, &[&ONE]).unwrap();
    insert(&db, "old").unwrap();
    db.checkpoint().unwrap();
    let backup = std::fs::read(&path).unwrap();
    insert(&db, "new").unwrap();
    assert_eq!(values(&db), ["new", "old"]);
    db.checkpoint().unwrap();
    drop(db);
    // The log beside it is of the same database, later.
    let mut file = std::fs::File::create(&path).unwrap();
    std::io::Write::write_all(&mut file, &backup).unwrap();
    assert_eq!(values(&Db::open(&path, &[&ONE]).unwrap()), ["old"]);
}

#[test]
fn the_database_is_this_process_own_and_has_no_index_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("berth.db");
    let db = Db::open(&path, &[&ONE]).unwrap();
    insert(&db, "seen").unwrap();
    // While one reads, another writes, and the next one that reads sees it.
    db.read(|old| {
        let count = || old.query_row("SELECT count(*) FROM one", [], |row| row.get::<_, i64>(0));
        old.execute_batch("BEGIN")?;
        assert_eq!(count()?, 1);
        insert(&db, "new")?;
        assert_eq!(values(&db), ["new", "seen"]);
        assert_eq!(count()?, 1);
        old.execute_batch("COMMIT")?;
        Ok::<_, DbError>(())
    })
    .unwrap();
    let refused = db.read(|reader| Ok::<_, DbError>(reader.execute("DELETE FROM one", [])));
    refused.unwrap().unwrap_err();
    let mut names: Vec<_> = std::fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["berth.db", "berth.db-wal"]);
}

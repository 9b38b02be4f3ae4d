//! Records of earlier versions, as they were written then.

use berth_db::{Db, DbError, Schema};

/// The tables as the first version had them.
fn first(schema: &Schema) -> Schema {
    Schema { name: schema.name, migrations: &schema.migrations[..1] }
}

fn rows(db: &Db, query: &str) -> Vec<String> {
    db.read(|conn| {
        let mut statement = conn.prepare(query)?;
        let rows = statement.query_map([], |row| row.get::<_, String>(0))?;
        Ok::<_, DbError>(rows.collect::<Result<Vec<_>, _>>()?)
    })
    .unwrap()
}

#[test]
fn images_names_and_references_go_to_the_driver_that_has_the_layers() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("berth.db");
    let db = Db::open(&path, &[&first(&berth_layers::SCHEMA), &first(&berth_images::SCHEMA)]);
    let records = "
        INSERT INTO layers VALUES ('sha256:base', 'sha256:d1', NULL, 1);
        INSERT INTO layers VALUES ('sha256:top', 'sha256:d2', 'sha256:base', 2);
        INSERT INTO layer_realisations VALUES ('sha256:base', 'vfs', 'l1', 5, 5, '2026-01-01');
        INSERT INTO layer_realisations VALUES ('sha256:top', 'vfs', 'l2', 6, 11, '2026-01-01');
        INSERT INTO layer_refs VALUES ('sha256:top', 'image:sha256:i');
        INSERT INTO images VALUES ('sha256:p', x'00', 1, NULL, NULL, 0, 'sha256:base');
        INSERT INTO images VALUES ('sha256:i', x'7b7d', 7, 'sha256:p', 'then', 1, 'sha256:top');
        INSERT INTO images VALUES ('sha256:e', x'00', NULL, NULL, NULL, 0, NULL);
        INSERT INTO tags VALUES ('docker.io/library/a:1', 'docker.io/library/a', '1', NULL, 'sha256:i');
        INSERT INTO image_holds VALUES ('save:1', 'sha256:top');";
    db.unwrap().write(|tx| Ok::<_, DbError>(tx.execute_batch(records)?)).unwrap();
    let db = Db::open(&path, &[&berth_layers::SCHEMA, &berth_images::SCHEMA]).unwrap();
    #[rustfmt::skip]
    let table: &[(&str, &[&str])] = &[
        ("SELECT driver || ' ' || chain_id || ' ' || owner FROM layer_refs",
            &["vfs sha256:top image:sha256:i"]),
        ("SELECT driver || ' ' || id || ' ' || hex(config) || ' ' || ifnull(created, '-') || ' ' || ifnull(parent, '-') \
          || ' ' || ifnull(last_tagged, '-') || ' ' || built_locally || ' ' || ifnull(top_chain, '-') FROM images ORDER BY id",
            &["vfs sha256:e 00 - - - 0 -", "vfs sha256:i 7B7D 7 sha256:p then 1 sha256:top", "vfs sha256:p 00 1 - - 0 sha256:base"]),
        ("SELECT driver || ' ' || reference || ' ' || name || ' ' || tag || ' ' || image FROM tags",
            &["vfs docker.io/library/a:1 docker.io/library/a 1 sha256:i"]),
        ("SELECT driver || ' ' || owner || ' ' || chain FROM image_holds", &["vfs save:1 sha256:top"]),
        ("SELECT \"table\" FROM pragma_foreign_key_check", &[]),
    ];
    for (query, expected) in table {
        assert_eq!(rows(&db, query), *expected, "{query}");
    }
}

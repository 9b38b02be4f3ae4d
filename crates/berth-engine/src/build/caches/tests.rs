//! Caches of builds: who gets which, and what goes.

use super::*;
use berth_api::filters::Filters;

struct Lab {
    dir: tempfile::TempDir,
    caches: Arc<Caches>,
}

fn open(dir: &Path) -> Arc<Caches> {
    let db = Arc::new(Db::open(&dir.join("berth.db"), &[&SCHEMA]).unwrap());
    Arc::new(Caches::open(dir, db, Owner::ROOT).unwrap())
}

fn lab() -> Lab {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("tmp")).unwrap();
    let caches = open(dir.path());
    Lab { dir, caches }
}

fn key(name: &str) -> Key {
    Key { name: name.to_owned(), base: String::new() }
}

impl Lab {
    async fn get(&self, name: &str, sharing: Sharing) -> InUse {
        let fill = |path: &Path| {
            let file = path.join("begun");
            berth_fs::atomic::write(&file, b"x").map_err(EngineError::io("write", &file))
        };
        self.caches.acquire(key(name), sharing, fill).await.unwrap()
    }

    fn prune(&self, filters: &str, keep: u64) -> usize {
        let filters = Filters::parse(filters).unwrap();
        let options = PruneOptions::read(filters, keep).unwrap();
        self.caches.prune(&options).unwrap().0.len()
    }
}

#[tokio::test]
async fn who_shares_gets_the_same_and_who_does_not_another() {
    let lab = lab();
    let one = lab.get("a", Sharing::Shared).await;
    let two = lab.get("a", Sharing::Shared).await;
    let three = lab.get("a", Sharing::Private).await;
    let other = lab.get("b", Sharing::Shared).await;
    assert_eq!(one.path(), two.path());
    assert!(one.path() != three.path() && one.path() != other.path());
    assert!(one.path().join("begun").is_file());
    let path = three.path().to_owned();
    drop(three);
    // It is free, and was used last.
    assert_eq!(lab.get("a", Sharing::Private).await.path(), path);
}

#[tokio::test]
async fn who_locks_waits() {
    let lab = lab();
    let first = lab.get("a", Sharing::Locked).await;
    let path = first.path().to_owned();
    let caches = Arc::clone(&lab.caches);
    let second =
        tokio::spawn(async move { caches.acquire(key("a"), Sharing::Locked, |_| Ok(())).await });
    tokio::task::yield_now().await;
    assert!(!second.is_finished());
    drop(first);
    assert_eq!(second.await.unwrap().unwrap().path(), path);
}

#[tokio::test]
async fn what_nobody_uses_is_pruned() {
    let lab = lab();
    let used = lab.get("a", Sharing::Shared).await;
    for name in ["b", "c", "d"] {
        drop(lab.get(name, Sharing::Shared).await);
    }
    #[rustfmt::skip]
    let table = [
        (r#"{"type":["regular"]}"#,   0, 0),
        (r#"{"inuse":["1"]}"#,        0, 0),
        (r#"{"until":["1h"]}"#,       0, 0),
        (r#"{"id":["x"]}"#,           0, 0),
        ("",                          u64::MAX, 0),
        (r#"{"type":["exec.cachemount"],"unused-for":["0s"]}"#, 0, 3),
        ("",                          0, 0),
    ];
    for (filters, keep, expected) in table {
        assert_eq!(lab.prune(filters, keep), expected, "{filters}");
    }
    assert_eq!(lab.caches.all().unwrap().len(), 1);
    drop(used);
    assert_eq!(lab.prune("", 0), 1);
    let left = |name: &str| std::fs::read_dir(lab.dir.path().join(name)).unwrap().count();
    assert_eq!((left("build-cache"), left("tmp")), (0, 0));
    assert!(PruneOptions::read(Filters::parse(r#"{"x":["1"]}"#).unwrap(), 0).is_err());
}

#[tokio::test]
async fn a_start_drops_records_of_what_is_not_there() {
    let lab = lab();
    let (gone, kept) = (lab.get("a", Sharing::Shared).await, lab.get("b", Sharing::Shared).await);
    std::fs::remove_dir_all(gone.path()).unwrap();
    let again = open(lab.dir.path());
    let left: Vec<String> = again.all().unwrap().into_iter().map(|cache| cache.key.name).collect();
    assert_eq!(left, ["b"]);
    assert!(kept.path().join("begun").is_file());
}

#[tokio::test]
async fn a_cache_that_cannot_be_begun_leaves_nothing() {
    let lab = lab();
    let fill = |path: &Path| Err(EngineError::io("fill", path)(io::ErrorKind::StorageFull.into()));
    assert!(lab.caches.acquire(key("a"), Sharing::Shared, fill).await.is_err());
    assert_eq!(lab.caches.all().unwrap(), []);
    assert_eq!(std::fs::read_dir(lab.dir.path().join("tmp")).unwrap().count(), 0);
}

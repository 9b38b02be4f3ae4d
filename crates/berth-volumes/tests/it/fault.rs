//! A crash between any two steps: the state that it leaves is built by hand, then recovered.

use berth_volumes::Recovered;

use crate::kit::{Kit, named, put};

fn names(list: &[&str]) -> Vec<String> {
    list.iter().map(|&name| name.to_owned()).collect()
}

/// Recovers twice: the second time there is nothing left to do.
fn recovered(kit: &Kit) -> Recovered {
    let first = kit.store.recover(&[]).unwrap();
    let second = kit.store.recover(&[]).unwrap();
    let lasting = Recovered { cleared: Vec::new(), finished: Vec::new(), ..first.clone() };
    assert_eq!(second, lasting);
    first
}

#[test]
fn fault_a_creation_before_its_record_is_undone() {
    let kit = Kit::new();
    let staged = kit.store.stage(&[named("data")]).unwrap();
    // A crash runs no destructors.
    let _staged = std::mem::ManuallyDrop::new(staged);
    let kit = kit.reopened();
    let expected = Recovered { cleared: names(&["data"]), ..Recovered::default() };
    assert_eq!(recovered(&kit), expected);
    assert_eq!(kit.tree(), [""; 0]);
    assert!(kit.store.create(&named("data")).unwrap().1);
}

#[test]
fn fault_a_creation_after_its_record_is_finished() {
    let kit = Kit::new();
    let staged = kit.store.stage(&[named("data")]).unwrap();
    kit.db.write(|tx| kit.store.record(tx, &staged)).unwrap();
    drop(staged);
    let kit = kit.reopened();
    let expected = Recovered { finished: names(&["data"]), ..Recovered::default() };
    assert_eq!(recovered(&kit), expected);
    assert_eq!(kit.tree(), ["data", "data/_data"]);
    assert_eq!(kit.names(), ["data"]);
}

#[test]
fn fault_a_removal_before_its_record_is_undone_with_its_content() {
    let kit = Kit::new();
    kit.store.create(&named("data")).unwrap();
    put(&kit.root().join("data/_data/f"), "x");
    std::fs::rename(kit.root().join("data"), kit.root().join(".berth-remove-data")).unwrap();
    let kit = kit.reopened();
    let expected = Recovered { finished: names(&["data"]), ..Recovered::default() };
    assert_eq!(recovered(&kit), expected);
    assert_eq!(kit.tree(), ["data", "data/_data", "data/_data/f"]);
}

#[test]
fn fault_a_removal_after_its_record_is_finished() {
    let kit = Kit::new();
    let trash = kit.root().join(".berth-remove-data/_data");
    std::fs::create_dir_all(&trash).unwrap();
    put(&trash.join("f"), "x");
    let expected = Recovered { cleared: names(&["data"]), ..Recovered::default() };
    assert_eq!(recovered(&kit), expected);
    assert_eq!(kit.tree(), [""; 0]);
}

#[test]
fn fault_what_is_not_ours_is_left_alone_and_listed() {
    let kit = Kit::new();
    std::fs::create_dir_all(kit.root().join("found/_data")).unwrap();
    std::fs::create_dir_all(kit.root().join(".berth-remove-")).unwrap();
    put(&kit.root().join("metadata.db"), "bolt");
    put(&kit.root().join("~"), "x");
    kit.store.create(&named("gone")).unwrap();
    std::fs::remove_dir_all(kit.root().join("gone")).unwrap();
    let expected = Recovered {
        missing: names(&["gone"]),
        foreign: names(&[".berth-remove-", "~"]),
        ..Recovered::default()
    };
    assert_eq!(recovered(&kit), expected);
    assert_eq!(kit.tree(), [".berth-remove-", "found", "found/_data", "metadata.db", "~"]);
}

#[test]
fn fault_half_a_copy_is_removed_and_a_whole_one_is_finished() {
    let kit = Kit::new();
    for name in ["half", "whole"] {
        kit.store.create(&named(name)).unwrap();
    }
    let half = kit.root().join("half/.berth-populate");
    std::fs::create_dir_all(half.join("d")).unwrap();
    put(&half.join("d/f"), "x");
    let whole = kit.root().join("whole/.berth-populated");
    std::fs::create_dir_all(whole.join("d")).unwrap();
    put(&whole.join("d/f"), "image");
    put(&whole.join("g"), "image");
    put(&kit.root().join("whole/_data/g"), "moved before the crash, or a container's");
    let kit = kit.reopened();
    let expected = Recovered {
        cleared: names(&["half/.berth-populate"]),
        finished: names(&["whole"]),
        ..Recovered::default()
    };
    assert_eq!(recovered(&kit), expected);
    assert_eq!(
        kit.tree(),
        [
            "half",
            "half/_data",
            "whole",
            "whole/_data",
            "whole/_data/d",
            "whole/_data/d/f",
            "whole/_data/g"
        ]
    );
    let kept = std::fs::read_to_string(kit.root().join("whole/_data/g")).unwrap();
    assert_eq!(kept, "moved before the crash, or a container's");
}

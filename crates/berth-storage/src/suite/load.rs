//! Many layers, and many callers.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{Open, content, id, layer, listed, rw, same, write};
use crate::{CreateOptions, LayerState, StorageError};

/// An image's 125 layers and a container's two.
const NEEDED: usize = 127;
const TRIED: usize = 130;

pub(super) fn a_tall_stack_is_whole_or_refused(open: Open<'_>, home: &Path) {
    let driver = open(home);
    let mut names = vec!["f000".to_owned()];
    let mut top = layer(&*driver, None, &["f000"]);
    while names.len() < TRIED {
        let next = id();
        match driver.create(&next, Some(&top), &CreateOptions::default()) {
            Ok(()) => {}
            Err(StorageError::MaxDepth) => break,
            Err(error) => panic!("layer {}: {error}", names.len()),
        }
        let name = format!("f{:03}", names.len());
        write(&*driver, &next, &[&name]);
        driver.commit(&next).expect("frozen");
        names.push(name);
        top = next;
    }
    assert!(names.len() >= NEEDED, "{} layers", names.len());
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    assert_eq!(content(&*driver, &top), same(&names));
    assert_eq!(listed(&*driver).len(), names.len(), "a refused layer leaves nothing");
}

pub(super) fn layers_are_made_at_the_same_time(open: Open<'_>, home: &Path) {
    let driver = open(home);
    let base = layer(&*driver, None, &["a"]);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..10 {
                    let top = layer(&*driver, Some(&base), &["b"]);
                    assert_eq!(content(&*driver, &top), same(&["a", "b"]));
                    driver.remove(&top).expect("removed");
                    driver.reap().expect("reaped");
                }
            });
        }
    });
    assert_eq!(listed(&*driver), [(base, LayerState::Committed)]);
}

pub(super) fn containers_come_and_go_beside_lists_and_reaping(open: Open<'_>, home: &Path) {
    let driver = open(home);
    let base = layer(&*driver, None, &["a"]);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let sweeper = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                driver.reap().expect("reaped");
                let all = driver.list().expect("the list");
                assert!(all.contains(&(base.clone(), LayerState::Committed)));
            }
        });
        let workers: Vec<_> = (0..3).map(|_| scope.spawn(|| containers(&*driver, &base))).collect();
        let worked: Vec<_> = workers.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
        done.store(true, Ordering::Relaxed);
        sweeper.join().expect("the sweeper");
        for worker in worked {
            worker.expect("a worker");
        }
    });
    driver.reap().expect("reaped");
    assert_eq!(listed(&*driver), [(base, LayerState::Committed)]);
}

fn containers(driver: &dyn crate::StorageDriver, base: &berth_types::LayerId) {
    for _ in 0..8 {
        let container = id();
        let init = container.init();
        driver.create(&init, Some(base), &rw()).expect("an init layer");
        write(driver, &init, &["i"]);
        driver.commit(&init).expect("frozen");
        driver.create(&container, Some(&init), &rw()).expect("a container's layer");
        write(driver, &container, &["w"]);
        assert_eq!(content(driver, &container), same(&["a", "i", "w"]));
        for id in [&container, &init] {
            driver.release(id).expect("released");
            driver.remove(id).expect("removed");
        }
    }
}

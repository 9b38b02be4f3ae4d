//! What every driver must do, as one test that each driver's own tests run.
//!
//! Needs root where the driver does. Panics where the driver breaks the contract.

mod contract;
mod files;
mod lifetime;
mod load;
#[cfg(test)]
mod tests;

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::sync::Arc;

use berth_types::LayerId;

use crate::{Access, CreateOptions, LayerState, Mounted, StorageDriver};

/// Opens the driver over `home`, which may have been used before.
pub type Open<'a> = &'a dyn Fn(&Path) -> Arc<dyn StorageDriver>;

type Case = fn(Open<'_>, &Path);

#[rustfmt::skip]
pub(crate) const CASES: &[(&str, Case)] = &[
    ("unknown", contract::unknown_layers_are_refused_or_fine),
    ("chain",   contract::children_see_their_parents_and_change_nothing_in_them),
    ("twice",   contract::a_layer_is_created_once),
    ("frozen",  contract::a_committed_layer_is_only_read),
    ("size",    contract::a_size_is_kept_or_refused),
    ("refuse",  contract::options_are_never_ignored),
    ("native",  contract::native_layers_are_filled_before_their_parents),
    ("kinds",   files::everything_that_a_file_can_be_reaches_the_layers_above),
    ("replace", files::what_is_replaced_hides_what_was_there),
    ("remove",  lifetime::removal_is_quick_and_reaping_deletes),
    ("reopen",  lifetime::layers_survive_reopening_and_recovery),
    ("reuse",   lifetime::an_id_is_used_again_after_a_crash),
    ("aside",   lifetime::a_layer_set_aside_keeps_every_byte),
    ("place",   lifetime::a_layer_takes_the_place_of_another),
    ("spare",   lifetime::what_is_made_in_advance_is_no_layer),
    ("foreign", lifetime::what_is_not_the_drivers_is_left_alone),
    ("tall",    load::a_tall_stack_is_whole_or_refused),
    ("threads", load::layers_are_made_at_the_same_time),
    ("beside",  load::containers_come_and_go_beside_lists_and_reaping),
];

/// Runs everything below `dir`, an empty directory on a file system that the driver works on.
pub fn run(open: Open<'_>, dir: &Path) {
    for (name, case) in CASES {
        let home = dir.join(name);
        fs::create_dir(&home).expect("a home for the case");
        case(open, &home.join("home"));
    }
}

fn id() -> LayerId {
    LayerId::random()
}

pub(crate) fn rw() -> CreateOptions {
    CreateOptions { writable: true, ..CreateOptions::default() }
}

/// Creates a layer in which `files` are written, each with its name as content.
pub(crate) fn layer(
    driver: &dyn StorageDriver,
    parent: Option<&LayerId>,
    files: &[&str],
) -> LayerId {
    let id = id();
    driver.create(&id, parent, &CreateOptions::default()).expect("a new layer");
    write(driver, &id, files);
    driver.commit(&id).expect("the layer is frozen");
    id
}

pub(crate) fn write(driver: &dyn StorageDriver, id: &LayerId, files: &[&str]) {
    let mounted = Mounted::new(driver.prepare(id, Access::Write).expect("a plan")).expect("mounts");
    for name in files {
        let mut file = File::create(mounted.root().join(name)).expect("a new file");
        file.write_all(name.as_bytes()).expect("its content");
    }
}

/// Names and contents of the files at the top of a layer.
pub(crate) fn content(driver: &dyn StorageDriver, id: &LayerId) -> Vec<(String, String)> {
    let mounted = Mounted::new(driver.prepare(id, Access::Read).expect("a plan")).expect("mounts");
    files_in(mounted.root())
}

fn files_in(dir: &Path) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).expect("the layer's root") {
        let path = entry.expect("an entry").path();
        let mut text = String::new();
        File::open(&path).and_then(|mut file| file.read_to_string(&mut text)).expect("a file");
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        found.push((name, text));
    }
    found.sort();
    found
}

pub(crate) fn same(names: &[&str]) -> Vec<(String, String)> {
    names.iter().map(|&name| (name.to_owned(), name.to_owned())).collect()
}

pub(crate) fn listed(driver: &dyn StorageDriver) -> Vec<(LayerId, LayerState)> {
    let mut all = driver.list().expect("the list");
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all
}

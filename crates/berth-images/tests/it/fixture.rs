//! A data root with an image store on it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use berth_db::Db;
use berth_images::load::Loaded;
use berth_images::{ImageError, ImageStore};
use berth_layers::LayerStore;
use berth_storage::{Selection, StorageDriver, StorageError};
use berth_types::Owner;
use berth_types::reference::Reference;

const DRIVERS: [&str; 2] = ["overlay2", "vfs"];

/// A data root that goes away with the test.
pub(crate) struct Root {
    dir: tempfile::TempDir,
    pub(crate) images: Arc<ImageStore>,
    pub(crate) layers: Arc<LayerStore>,
    pub(crate) db: Arc<Db>,
}

/// Runs `case` on a data root of each driver; a named skip where that cannot be.
pub(crate) fn on_each_driver(test: &str, case: impl Fn(&Root)) {
    if !testkit::is_root() {
        testkit::skip(test, "root");
        return;
    }
    for name in DRIVERS {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        match driver(dir.path(), name) {
            Ok(driver) => case(&Root::open(dir, driver)),
            Err(error) if error.is_not_supported() => {
                testkit::skip(test, &format!("{name} over /var/tmp"));
            }
            Err(error) => panic!("{error}"),
        }
    }
}

/// Runs `case` on a data root of the simplest driver, where the driver does not matter.
pub(crate) fn on_vfs(test: &str, case: impl Fn(&Root)) {
    if !testkit::is_root() {
        testkit::skip(test, "root");
        return;
    }
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let driver = driver(dir.path(), "vfs").unwrap();
    case(&Root::open(dir, driver));
}

fn driver(root: &Path, name: &str) -> Result<Arc<dyn StorageDriver>, StorageError> {
    let selection = Selection {
        root,
        name: Some(name),
        environment: None,
        options: &[],
        owner: Owner::ROOT,
        mapping: None,
    };
    berth_storage::select::open(&selection).map_err(|error| error.source)
}

impl Root {
    fn open(dir: tempfile::TempDir, driver: Arc<dyn StorageDriver>) -> Self {
        let schemas = [&berth_layers::SCHEMA, &berth_images::SCHEMA];
        let db = Arc::new(Db::open(&dir.path().join("berth.db"), &schemas).unwrap());
        let layers = LayerStore::open(dir.path(), driver, Arc::clone(&db)).unwrap();
        layers.recover(&|_| false).unwrap();
        let layers = Arc::new(layers);
        let images = Arc::new(ImageStore::open(Arc::clone(&db), Arc::clone(&layers)));
        images.recover().unwrap();
        fs::create_dir(dir.path().join("tmp")).unwrap();
        Self { dir, images, layers, db }
    }

    pub(crate) fn tmp(&self) -> PathBuf {
        self.dir.path().join("tmp")
    }

    pub(crate) fn load(&self, archive: &[u8]) -> Result<Loaded, ImageError> {
        self.images.load(archive, &self.tmp(), &mut |_| {})
    }

    /// Every path below the data root, the database's own files left out.
    pub(crate) fn tree(&self) -> BTreeSet<PathBuf> {
        let mut found = BTreeSet::new();
        let mut left = vec![self.dir.path().to_owned()];
        while let Some(dir) = left.pop() {
            for entry in fs::read_dir(dir).unwrap() {
                let entry = entry.unwrap();
                if entry.file_type().unwrap().is_dir() {
                    left.push(entry.path());
                }
                if !entry.file_name().to_string_lossy().starts_with("berth.db") {
                    found.insert(entry.path().strip_prefix(self.dir.path()).unwrap().to_owned());
                }
            }
        }
        found
    }

    /// Every image's id with its names.
    pub(crate) fn names(&self) -> Vec<(String, Vec<String>)> {
        let mut references = self.images.all_references().unwrap();
        let images = self.images.all().unwrap();
        images
            .iter()
            .map(|image| {
                let names = references.remove(&image.id).unwrap_or_default();
                (image.id.to_string(), names.iter().map(Reference::familiar).collect())
            })
            .collect()
    }

    /// Removes by name or id, to the end.
    pub(crate) fn remove(&self, name: &str, force: bool) -> Result<Vec<String>, ImageError> {
        self.remove_used(name, force, &[])
    }

    pub(crate) fn remove_used(
        &self,
        name: &str,
        force: bool,
        users: &[berth_images::remove::ImageUser],
    ) -> Result<Vec<String>, ImageError> {
        let options = berth_images::remove::RemoveOptions { force, no_prune: false };
        let removal = self.db.write(|tx| self.images.remove(tx, name, options, users))?;
        Ok(self.finish(&removal))
    }

    pub(crate) fn finish(&self, removal: &berth_images::remove::Removal) -> Vec<String> {
        use berth_images::remove::Action;
        self.layers.purge(&removal.layers).unwrap();
        self.layers.reap().unwrap();
        removal
            .actions
            .iter()
            .map(|action| match action {
                Action::Untagged { reference, .. } => format!("untagged {}", reference.familiar()),
                Action::Deleted(id) => format!("deleted {id}"),
                Action::DeletedLayer(chain) => format!("deleted {chain}"),
            })
            .collect()
    }
}

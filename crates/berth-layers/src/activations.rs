//! Who of this process reads which layer.
//!
//! A driver may have to activate a layer before it can be mounted, and must be told when nobody
//! needs that any more. Several requests may read one layer at the same time, so they are counted:
//! the first has the driver prepare the layer, the last has it release it. Calls to the driver for
//! one layer are never made at the same time; no lock is held over them, the layer is marked busy.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use berth_fs::root::Root;
use berth_storage::{Access, Mounted, Prepared};
use berth_sys::mountns::within_private;
use berth_types::LayerId;

use crate::LayerError;
use crate::files::{end_scratch, io_at};
use crate::store::Inner;

/// The layers that somebody reads, or whose driver is being called.
#[derive(Debug, Default)]
pub(crate) struct Activations {
    layers: Mutex<BTreeMap<LayerId, Use>>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Use {
    /// A call to the driver is under way.
    busy: bool,
    holders: usize,
    /// What the driver said, while there are holders.
    plan: Option<Prepared>,
}

impl Activations {
    fn layers(&self) -> MutexGuard<'_, BTreeMap<LayerId, Use>> {
        // Each change is one statement, so a panic elsewhere leaves it whole.
        self.layers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs calls to the driver about a layer while nobody else makes any. Readers may be there.
    pub(crate) fn alone<T>(&self, id: &LayerId, calls: impl FnOnce() -> T) -> T {
        let _busy = Busy::mark(self, id);
        calls()
    }
}

/// A layer about which nobody else calls the driver.
struct Busy<'a> {
    all: &'a Activations,
    id: &'a LayerId,
}

impl<'a> Busy<'a> {
    fn mark(all: &'a Activations, id: &'a LayerId) -> Self {
        let is_busy =
            |layers: &mut BTreeMap<LayerId, Use>| layers.get(id).is_some_and(|layer| layer.busy);
        let waited = all.changed.wait_while(all.layers(), is_busy);
        let mut layers = waited.unwrap_or_else(PoisonError::into_inner);
        layers.entry(id.clone()).or_default().busy = true;
        Self { all, id }
    }

    fn change<T>(&self, change: impl FnOnce(&mut Use) -> T) -> T {
        change(self.all.layers().entry(self.id.clone()).or_default())
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        let mut layers = self.all.layers();
        if let Some(layer) = layers.get_mut(self.id) {
            layer.busy = false;
            if layer.holders == 0 {
                layers.remove(self.id);
            }
        }
        drop(layers);
        self.all.changed.notify_all();
    }
}

/// A layer that is prepared to be read, until this is dropped.
#[derive(Debug)]
pub(crate) struct Active {
    store: Arc<Inner>,
    id: LayerId,
    plan: Prepared,
}

impl Active {
    /// Has the driver prepare the layer, unless somebody reads it already.
    pub(crate) fn hold(store: &Arc<Inner>, id: &LayerId) -> Result<Self, LayerError> {
        let busy = Busy::mark(&store.activations, id);
        let plan = match busy.change(|layer| layer.plan.clone()) {
            Some(plan) => plan,
            None => store.driver.prepare(id, Access::Read)?,
        };
        busy.change(|layer| {
            layer.holders += 1;
            layer.plan = Some(plan.clone());
        });
        drop(busy);
        Ok(Self { store: Arc::clone(store), id: id.clone(), plan })
    }

    /// How the driver says that it is mounted where it belongs.
    pub(crate) fn plan(&self) -> Prepared {
        self.plan.clone()
    }

    /// Whether the content is reached by mounting it.
    pub(crate) fn is_mounted_to_be_read(&self) -> bool {
        !self.plan.mounts.is_empty()
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        let busy = Busy::mark(&self.store.activations, &self.id);
        let is_last = busy.change(|layer| {
            layer.holders -= 1;
            layer.plan.take_if(|_| layer.holders == 0).is_some()
        });
        if is_last && let Err(error) = self.store.driver.release(&self.id) {
            let error = berth_types::kind::chain(&error);
            tracing::warn!(layer = %self.id, error, "layer not released");
        }
    }
}

/// A layer's whole content, open to be read.
#[derive(Debug)]
pub(crate) struct Reading {
    /// Closed before the layer is released: a device in use cannot be deactivated.
    pub(crate) root: Root,
    _active: Active,
}

impl Reading {
    /// Opens prepared layers. What has to be mounted for it is mounted where nobody sees it and
    /// detached at once: the descriptors keep it.
    pub(crate) fn open<const N: usize>(
        store: &Inner,
        layers: [Active; N],
    ) -> Result<[Self; N], LayerError> {
        let roots = if layers.iter().any(Active::is_mounted_to_be_read) {
            let place = store.files.scratch()?;
            let opened = within_private(|| open_all(&layers, &place));
            end_scratch(&place);
            opened.map_err(io_at("mount below", place))??
        } else {
            open_all(&layers, Path::new("/"))?
        };
        let mut roots = roots.into_iter();
        Ok(layers
            .map(|layer| Self { root: roots.next().expect("one for each layer"), _active: layer }))
    }
}

fn open_all(layers: &[Active], place: &Path) -> Result<Vec<Root>, LayerError> {
    let open_one = |(at, layer): (usize, &Active)| {
        let aside = layer.plan.clone().aside(&place.join(at.to_string()));
        let mounted = Mounted::new(aside)?;
        Root::open(mounted.root()).map_err(io_at("open", mounted.root()))
    };
    layers.iter().enumerate().map(open_one).collect()
}

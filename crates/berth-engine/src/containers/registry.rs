//! All containers in memory: what lists, inspect and look-ups answer from, at once.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use berth_types::ContainerId;
use berth_types::HexId;
use tokio::sync::watch;

use super::exec::Exec;
use super::record::Record;
use super::scan::Scan;
use super::state::{Change, Effect, State};
use crate::error::{ContainerError, EngineError};

/// One container while the engine runs.
///
/// `live` is locked for moments only, never over a call that may block. `operation` is held over
/// start, removal and access to a root that is not running, so that those exclude each other; nothing that
/// only looks, stops or kills takes it.
#[derive(Debug)]
pub struct Container {
    id: ContainerId,
    live: Mutex<Live>,
    /// Held over operations that exclude each other.
    pub operation: Arc<tokio::sync::Mutex<()>>,
    /// What it has written, while it runs.
    pub(crate) scan: Scan,
    ends: watch::Sender<Ends>,
}

/// What may change about a container while the engine runs.
#[derive(Debug)]
pub struct Live {
    /// What is kept of it.
    pub record: Record,
    /// Where it stands.
    pub state: State,
    /// The execs of this run that nobody has forgotten yet.
    pub execs: BTreeMap<HexId, Arc<Exec>>,
    /// Clients that attached before it runs.
    pub waiting: Vec<super::attach::Waiting>,
    /// Where its root is mounted on the host, while it runs.
    pub root: Option<std::path::PathBuf>,
    /// Whether somebody wrote into it from outside, or it may have run.
    pub touched: bool,
    /// What is mounted into it besides what its record says.
    pub extra: Arc<super::builds::Extra>,
    /// Bytes of its writable layer as last measured, while it does not run.
    pub size: Option<i64>,
}

/// How often a container has ended, and how it did last. What waiters watch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ends {
    /// Number of ends since the engine started.
    pub count: u64,
    /// The last exit code.
    pub exit_code: i32,
    /// Whether it is gone.
    pub removed: bool,
}

impl Container {
    /// Wraps a record.
    pub fn new(record: Record, state: State) -> Self {
        let ends = Ends { exit_code: state.exit_code, ..Ends::default() };
        Self {
            id: record.id.clone(),
            live: Mutex::new(Live {
                record,
                state,
                execs: BTreeMap::new(),
                waiting: Vec::new(),
                root: None,
                touched: false,
                extra: Arc::default(),
                size: None,
            }),
            operation: Arc::default(),
            scan: Scan::default(),
            ends: watch::Sender::new(ends),
        }
    }

    /// Its id.
    pub fn id(&self) -> &ContainerId {
        &self.id
    }

    /// Everything that may change. Hold it for moments only.
    pub fn live(&self) -> MutexGuard<'_, Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A copy of its record.
    pub fn record(&self) -> Record {
        self.live().record.clone()
    }

    /// A copy of its state.
    pub fn state(&self) -> State {
        self.live().state.clone()
    }

    /// Its name.
    pub fn name(&self) -> String {
        self.live().record.name.clone()
    }

    /// Takes in a change that needs no more than memory; the next recorded state carries it.
    pub fn change(&self, change: Change) -> Option<Effect> {
        let mut live = self.live();
        let live = &mut *live;
        live.state.apply(change, live.record.policy())
    }

    /// Watches its ends.
    pub fn watch_ends(&self) -> watch::Receiver<Ends> {
        self.ends.subscribe()
    }

    /// Tells those who wait.
    pub fn announce(&self, change: impl FnOnce(&mut Ends)) {
        self.ends.send_modify(change);
    }
}

/// All containers, by id and by name.
#[derive(Debug, Default)]
pub struct Registry {
    inner: Mutex<Maps>,
}

#[derive(Debug, Default)]
struct Maps {
    by_id: BTreeMap<ContainerId, Arc<Container>>,
    by_name: HashMap<String, ContainerId>,
}

impl Registry {
    fn maps(&self) -> MutexGuard<'_, Maps> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reserves `name` for the container `id`; fails when another holds it.
    pub fn reserve(&self, name: &str, id: &ContainerId) -> Result<(), ContainerError> {
        let mut maps = self.maps();
        if let Some(holder) = maps.by_name.get(name).filter(|holder| *holder != id) {
            return Err(ContainerError::NameInUse {
                name: name.to_owned(),
                holder: holder.clone(),
            });
        }
        maps.by_name.insert(name.to_owned(), id.clone());
        Ok(())
    }

    /// Gives a reserved name back.
    pub fn release(&self, name: &str) {
        self.maps().by_name.remove(name);
    }

    /// Whether a name is taken.
    pub fn is_taken(&self, name: &str) -> bool {
        self.maps().by_name.contains_key(name)
    }

    /// Adds a container, whose name is reserved or free.
    pub fn insert(&self, container: Container) -> Arc<Container> {
        let container = Arc::new(container);
        let mut maps = self.maps();
        maps.by_name.insert(container.name(), container.id().clone());
        maps.by_id.insert(container.id().clone(), Arc::clone(&container));
        container
    }

    /// Forgets a container and its name.
    pub fn remove(&self, container: &Container) {
        let name = container.name();
        let mut maps = self.maps();
        maps.by_id.remove(container.id());
        if maps.by_name.get(&name) == Some(container.id()) {
            maps.by_name.remove(&name);
        }
    }

    /// Every container, in the order of ids.
    pub fn all(&self) -> Vec<Arc<Container>> {
        self.maps().by_id.values().cloned().collect()
    }

    /// The container of this id.
    pub fn by_id(&self, id: &ContainerId) -> Option<Arc<Container>> {
        self.maps().by_id.get(id).cloned()
    }

    /// Finds by full id, then by name (with or without a slash before it), then by the
    /// unambiguous beginning of an id; Docker's order and texts.
    pub fn find(&self, reference: &str) -> Result<Arc<Container>, EngineError> {
        let unknown = || ContainerError::Unknown { name: reference.to_owned() };
        if reference.is_empty() {
            return Err(unknown().into());
        }
        let maps = self.maps();
        if let Ok(id) = ContainerId::parse(reference)
            && let Some(container) = maps.by_id.get(&id)
        {
            return Ok(Arc::clone(container));
        }
        let name = reference.strip_prefix('/').unwrap_or(reference);
        if let Some(container) = maps.by_name.get(name).and_then(|id| maps.by_id.get(id)) {
            return Ok(Arc::clone(container));
        }
        let mut matches = maps.by_id.iter().filter(|(id, _)| id.as_str().starts_with(reference));
        match (matches.next(), matches.next()) {
            (Some((_, only)), None) => Ok(Arc::clone(only)),
            (None, _) => Err(unknown().into()),
            (Some(_), Some(_)) => {
                Err(ContainerError::Ambiguous { prefix: reference.to_owned() }.into())
            }
        }
    }
}

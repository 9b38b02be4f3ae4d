//! Holding records and bytes against each other while everything goes on. Changes nothing.

mod inherited;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;

use berth_fs::changes;
use berth_fs::root::Root;
use berth_storage::NativeDiff;
use berth_types::kind::chain;
use berth_types::{ChainId, ContainerId, LayerId};

use crate::{Layer, LayerError, LayerStore, RwLayer, TarStream, record};
use inherited::Inherited;

/// How closely to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// What is there and how it hangs together: no tree is walked.
    Links,
    /// Besides, sizes.
    Names,
    /// Besides, every byte of every image layer, against its digest, and of what it has of those
    /// below it, where that is its own.
    Content,
}

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The driver's name for the layer.
    pub layer: LayerId,
    /// Whose it is.
    pub of: Owner,
    /// What is wrong.
    pub trouble: Trouble,
}

/// Whose a layer is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Owner {
    /// An image layer.
    Image(ChainId),
    /// A container's.
    Container(ContainerId),
    /// Nobody's that is on record.
    Nobody,
}

/// What is wrong with a layer.
#[expect(missing_docs, reason = "the messages name the fields")]
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    #[error("it is on record, and the driver does not have it")]
    Missing,
    #[error("the driver has it, and no record knows it; the next start moves it to lost+found")]
    Unknown,
    #[error("it can be used, but not saved: its tar-split is missing")]
    NoTarSplit,
    #[error("its links to the layers below are broken")]
    Links,
    #[error("it has {measured} bytes, and {recorded} on record")]
    Size { recorded: u64, measured: u64 },
    #[error("its content is damaged: {why}")]
    Content { why: String },
    #[error("what it has of a layer below it is damaged: {why}")]
    Inherited { why: String },
    #[error("it cannot be read: {why}")]
    Unreadable { why: String },
    #[error("an earlier repair left it: {why}")]
    Noted { why: String },
}

/// How far a check is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// So many layers of so many are looked at.
    Layers {
        /// Done.
        done: u64,
        /// To be done in all.
        total: u64,
    },
    /// Something was found.
    Found(Finding),
}

/// What was looked at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Checked {
    /// Image layers.
    pub layers: u64,
    /// Containers' layers.
    pub containers: u64,
    /// Bytes that were read and were right.
    pub bytes: u64,
    /// How much was found.
    pub findings: u64,
}

impl LayerStore {
    /// Looks at every layer of this driver. `report` hears of each step; when it says false, the
    /// check ends early. Runs beside everything else: what is made or removed meanwhile is no finding.
    pub fn check(
        &self,
        depth: Depth,
        report: &mut dyn FnMut(Progress) -> bool,
    ) -> Result<Checked, LayerError> {
        let layers = inherited::depth_first(self.list()?);
        let mut inherited = Inherited::default();
        let mut rw = self.list_rw()?;
        rw.retain(|rw| rw.driver == self.driver().name());
        let present: BTreeSet<LayerId> =
            self.driver().list()?.into_iter().map(|(id, _)| id).collect();
        let mut checked = Checked::default();
        let total = (layers.len() + rw.len()) as u64;
        let by_chain: BTreeMap<&ChainId, &Layer> =
            layers.iter().map(|layer| (&layer.chain, layer)).collect();
        let driver = self.driver().name();
        let noted = self.inner().db.read(|conn| {
            Ok::<BTreeMap<ChainId, String>, LayerError>(record::all_damage(conn, driver)?)
        })?;
        let mut go_on = self.unknown(&layers, &rw, &present, &mut checked, report)?;
        for layer in &layers {
            if !go_on {
                return Ok(checked);
            }
            let mut found = self.look_at(layer, &by_chain, &present, depth, &mut checked);
            if depth == Depth::Content
                && self.driver().native().is_none()
                && present.contains(&layer.layer)
            {
                let (trouble, bytes) = inherited.look_at(self.inner(), layer);
                found.extend(trouble);
                checked.bytes += bytes;
            }
            found.extend(noted.get(&layer.chain).map(|why| Trouble::Noted { why: why.clone() }));
            checked.layers += 1;
            go_on = self.tell_image(layer, found, &mut checked, report)?;
            go_on &= report(Progress::Layers { done: checked.layers, total });
        }
        for rw in &rw {
            if !go_on {
                return Ok(checked);
            }
            let found = self.look_at_rw(rw, &by_chain, &present);
            checked.containers += 1;
            if let Some((layer, trouble)) = found
                && self.rw(&rw.container)?.as_ref() == Some(rw)
            {
                let of = Owner::Container(rw.container.clone());
                checked.findings += 1;
                go_on = report(Progress::Found(Finding { layer, of, trouble }));
            }
            go_on &= report(Progress::Layers { done: checked.layers + checked.containers, total });
        }
        Ok(checked)
    }

    /// Whose each layer of this driver is; `None` says that an operation is under way with it. What
    /// the driver had before this was asked, and is not here, is nobody's.
    pub fn owners(&self) -> Result<BTreeMap<LayerId, Option<Owner>>, LayerError> {
        let driver = self.driver().name();
        let read = |conn: &_| Ok::<_, LayerError>(record::all_intents(conn, driver)?);
        let mut owners = BTreeMap::new();
        owners.extend(self.inner().db.read(read)?.into_iter().map(|layer| (layer, None)));
        owners.extend(self.inner().replaced().iter().map(|layer| (layer.clone(), None)));
        for Layer { layer, chain, .. } in self.list()? {
            if self.driver().mounts_to_fill() {
                owners.insert(layer.init(), Some(Owner::Image(chain.clone())));
            }
            owners.insert(layer, Some(Owner::Image(chain)));
        }
        for rw in self.list_rw()?.into_iter().filter(|rw| rw.driver == driver) {
            for layer in [rw.mount.init(), rw.mount.clone()] {
                owners.insert(layer, Some(Owner::Container(rw.container.clone())));
            }
        }
        Ok(owners)
    }

    /// What the driver has and nobody knows, not even an operation that is under way.
    fn unknown(
        &self,
        layers: &[Layer],
        rw: &[RwLayer],
        present: &BTreeSet<LayerId>,
        checked: &mut Checked,
        report: &mut dyn FnMut(Progress) -> bool,
    ) -> Result<bool, LayerError> {
        let mut known = self.inner().names(layers, rw);
        let suspects: Vec<LayerId> = present.difference(&known).cloned().collect();
        if suspects.is_empty() {
            return Ok(true);
        }
        // Read after the driver was asked, so that what was made meanwhile is on record by now.
        let intended = self
            .inner()
            .db
            .read(|conn| Ok::<_, LayerError>(record::all_intents(conn, self.driver().name())?))?;
        known.extend(intended);
        known.extend(self.inner().replaced().iter().cloned());
        known.extend(self.inner().names(&self.list()?, &self.list_rw()?));
        for layer in suspects.into_iter().filter(|layer| !known.contains(layer)) {
            checked.findings += 1;
            let trouble = Trouble::Unknown;
            if !report(Progress::Found(Finding { layer, of: Owner::Nobody, trouble })) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn look_at(
        &self,
        layer: &Layer,
        all: &BTreeMap<&ChainId, &Layer>,
        present: &BTreeSet<LayerId>,
        depth: Depth,
        checked: &mut Checked,
    ) -> Vec<Trouble> {
        if !present.contains(&layer.layer) {
            return vec![Trouble::Missing];
        }
        let mut found = Vec::new();
        let unreadable = |error: &dyn std::error::Error| Trouble::Unreadable { why: chain(error) };
        match self.hangs_together(layer, all) {
            Ok(true) => {}
            Ok(false) | Err(LayerError::Storage(_)) => found.push(Trouble::Links),
            Err(error) => found.push(unreadable(&error)),
        }
        let measured = if depth == Depth::Links { Ok(None) } else { self.measure_layer(layer) };
        match measured {
            Ok(Some(measured)) if measured != layer.size => {
                found.push(Trouble::Size { recorded: layer.size, measured });
            }
            Ok(_) => {}
            Err(error) => found.push(unreadable(&error)),
        }
        if !self.inner().files.has_tar_split(&layer.chain) {
            found.push(Trouble::NoTarSplit);
        } else if depth == Depth::Content {
            let read =
                TarStream::open(self.inner(), layer).map_err(|error| chain(&error)).and_then(
                    |mut tar| io::copy(&mut tar, &mut io::sink()).map_err(|error| chain(&error)),
                );
            match read {
                Ok(bytes) => checked.bytes += bytes,
                Err(why) => found.push(Trouble::Content { why }),
            }
        }
        found
    }

    /// What is wrong with a container's layers, and with which.
    fn look_at_rw(
        &self,
        rw: &RwLayer,
        all: &BTreeMap<&ChainId, &Layer>,
        present: &BTreeSet<LayerId>,
    ) -> Option<(LayerId, Trouble)> {
        let (own, init) = (rw.mount.clone(), rw.mount.init());
        if let Some(missing) = [&own, &init].into_iter().find(|id| !present.contains(id)) {
            return Some((missing.clone(), Trouble::Missing));
        }
        let native = self.driver().native()?;
        let mut below = lower_dirs(native, rw.parent.as_ref(), all);
        for id in [init, own] {
            if !matches!(stands_on(native, &id, &below), Ok(true)) {
                return Some((id, Trouble::Links));
            }
            below.insert(0, native.diff_dir(&id));
        }
        None
    }

    /// Whether the driver finds the layers below where the records say that they are.
    fn hangs_together(
        &self,
        layer: &Layer,
        all: &BTreeMap<&ChainId, &Layer>,
    ) -> Result<bool, LayerError> {
        let Some(native) = self.driver().native() else { return Ok(true) };
        stands_on(native, &layer.layer, &lower_dirs(native, layer.parent.as_ref(), all))
    }

    /// Bytes of the layer's own by the rule that they were recorded by; `None` where only the
    /// archive had said them.
    pub(crate) fn measure_layer(&self, layer: &Layer) -> Result<Option<u64>, LayerError> {
        let Some(native) = self.driver().native() else { return Ok(None) };
        let path = native.diff_dir(&layer.layer);
        let root = Root::open(&path).map_err(crate::files::io_at("open", &path))?;
        Ok(Some(changes::tree_size(&root)?))
    }

    /// Tells of what was found, unless the layer is gone by now.
    fn tell_image(
        &self,
        layer: &Layer,
        found: Vec<Trouble>,
        checked: &mut Checked,
        report: &mut dyn FnMut(Progress) -> bool,
    ) -> Result<bool, LayerError> {
        if found.is_empty() || self.get(&layer.chain)?.as_ref() != Some(layer) {
            return Ok(true);
        }
        for trouble in found {
            checked.findings += 1;
            let of = Owner::Image(layer.chain.clone());
            if !report(Progress::Found(Finding { layer: layer.layer.clone(), of, trouble })) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// The directories of changes from `top` down, nearest first, as the records have them.
fn lower_dirs(
    native: &dyn NativeDiff,
    top: Option<&ChainId>,
    all: &BTreeMap<&ChainId, &Layer>,
) -> Vec<PathBuf> {
    let mut dirs = Vec::new();
    let mut next = top;
    while let Some(layer) = next.and_then(|chain| all.get(chain)) {
        dirs.push(native.diff_dir(&layer.layer));
        next = layer.parent.as_ref();
    }
    dirs
}

fn stands_on(
    native: &dyn NativeDiff,
    id: &LayerId,
    expected: &[PathBuf],
) -> Result<bool, LayerError> {
    let found = native.lower_dirs(id)?;
    let real = |dirs: &[PathBuf]| -> Vec<PathBuf> {
        let real = |dir: &PathBuf| std::fs::canonicalize(dir).unwrap_or_else(|_| dir.clone());
        dirs.iter().map(real).collect()
    };
    Ok(found == expected || real(&found) == real(expected))
}

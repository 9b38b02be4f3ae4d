//! Making records and bytes agree at start.

use std::collections::BTreeSet;
use std::path::PathBuf;

use berth_types::{ChainId, ContainerId, LayerId};

use crate::files::Files;
use crate::store::Inner;
use crate::{Layer, LayerError, LayerStore, RwLayer, record};

/// What [`LayerStore::recover`] mended and found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RecoverReport {
    /// Layers that an interrupted operation left and that are removed.
    pub removed: Vec<LayerId>,
    /// Layers and layers' files that no record knows, and where they were moved.
    pub set_aside: Vec<PathBuf>,
    /// Recorded image layers whose bytes are missing. Their records stay.
    pub missing: Vec<ChainId>,
    /// Recorded image layers that can be used but not saved: their tar-split is missing.
    pub without_tar: Vec<ChainId>,
    /// Containers whose layer was never written and was made anew.
    pub rebuilt: Vec<ContainerId>,
    /// Containers whose layer is missing although it may have been written. Their records stay.
    pub lost: Vec<ContainerId>,
}

impl LayerStore {
    /// Makes records and bytes agree after a stop of any kind. Safe to run twice.
    ///
    /// `running` tells whose mounts are in use. Only what an intent or a name of berth's own
    /// marks is deleted. Layers on other drivers are left alone.
    pub fn recover(
        &self,
        running: &dyn Fn(&ContainerId) -> bool,
    ) -> Result<RecoverReport, LayerError> {
        let inner = self.inner();
        inner.files.keep_room();
        let mut report = RecoverReport::default();
        let rw = self.own_rw_layers()?;
        let kept: BTreeSet<&LayerId> =
            rw.iter().filter(|rw| running(&rw.container)).map(|rw| &rw.mount).collect();
        inner.driver.recover(&|id| kept.contains(id))?;
        let intended = inner.finish_intents(&mut report)?;
        let layers = self.list()?;
        let present = inner.set_aside_unknown(&layers, &rw, &mut report)?;
        for layer in &layers {
            if !present.contains(&layer.layer) {
                report.missing.push(layer.chain.clone());
            }
        }
        inner.tidy_files(&layers, &intended, &mut report)?;
        for rw in rw.iter().filter(|rw| !kept.contains(&rw.mount)) {
            self.recover_rw(rw, &present, &mut report);
        }
        Ok(report)
    }

    fn own_rw_layers(&self) -> Result<Vec<RwLayer>, LayerError> {
        let mut all = self.list_rw()?;
        all.retain(|rw| rw.driver == self.driver().name());
        Ok(all)
    }

    fn recover_rw(&self, rw: &RwLayer, present: &BTreeSet<LayerId>, report: &mut RecoverReport) {
        let there = present.contains(&rw.mount);
        if !there && rw.size != Some(0) {
            report.lost.push(rw.container.clone());
            return;
        }
        if there && present.contains(&rw.mount.init()) && self.is_whole(rw) {
            return;
        }
        match self.ensure(rw) {
            Ok(true) => report.rebuilt.push(rw.container.clone()),
            Ok(false) => {}
            // One container that cannot be mended must not keep the others from starting.
            Err(error) => {
                let error = berth_types::kind::chain(&error);
                tracing::error!(container = rw.container.short(), error, "cannot mend its layer");
                report.lost.push(rw.container.clone());
            }
        }
    }

    /// Whether the layer's own small files survived; a power cut may have emptied them.
    fn is_whole(&self, rw: &RwLayer) -> bool {
        let Some(native) = self.driver().native() else { return true };
        native.lower_dirs(&rw.mount).is_ok_and(|lowers| !lowers.is_empty())
    }
}

impl Inner {
    /// Removes the layers that interrupted operations left.
    fn finish_intents(&self, report: &mut RecoverReport) -> Result<BTreeSet<LayerId>, LayerError> {
        let driver = self.driver.name();
        let (intended, leases) = self.db.read(|conn| {
            let intended = record::all_intents(conn, driver)?;
            Ok::<_, LayerError>((intended, record::leases(conn, driver, record::INGEST_OWNER)?))
        })?;
        let there: BTreeSet<LayerId> = self.driver.list()?.into_iter().map(|(id, _)| id).collect();
        for layer in &intended {
            self.driver.remove(layer)?;
            if there.contains(layer) {
                report.removed.push(layer.clone());
            }
        }
        if !intended.is_empty() || !leases.is_empty() {
            let removed = self.db.write(|tx| {
                for layer in &intended {
                    // Forgotten by `reap`, once the removal survives a power cut.
                    record::intend_removal(tx, driver, layer)?;
                }
                let mut removed = Vec::new();
                for (chain, owner) in &leases {
                    record::release(tx, driver, chain, owner)?;
                    removed.extend(record::collect(tx, &*self.driver, chain)?);
                }
                Ok::<_, LayerError>(removed)
            })?;
            self.purge(&removed)?;
        }
        Ok(intended.into_iter().collect())
    }

    /// Gives the layers that the driver has and some record knows.
    fn set_aside_unknown(
        &self,
        layers: &[Layer],
        rw: &[RwLayer],
        report: &mut RecoverReport,
    ) -> Result<BTreeSet<LayerId>, LayerError> {
        let known = self.names(layers, rw);
        let mut present = BTreeSet::new();
        for (id, _) in self.driver.list()? {
            if known.contains(&id) {
                present.insert(id);
                continue;
            }
            let moved = self.driver.set_aside(&id, &self.lost_and_found)?;
            tracing::warn!(layer = %id, to = %moved.display(), "set aside a layer without record");
            report.set_aside.push(moved);
        }
        Ok(present)
    }

    /// Makes `layers/` agree with the records.
    fn tidy_files(
        &self,
        layers: &[Layer],
        intended: &BTreeSet<LayerId>,
        report: &mut RecoverReport,
    ) -> Result<(), LayerError> {
        let found = self.files.scan()?;
        for (_, path) in &found.new {
            self.files.trash(path)?;
        }
        for (chain, path) in &found.layers {
            if self.is_recorded(chain)? {
                continue;
            }
            match Files::note(path) {
                Some(note) if intended.contains(&note.layer_id) => self.files.trash(path)?,
                // An operation that was interrupted on another driver is ended when that is back.
                Some(note) if note.driver != self.driver.name() => {}
                _ => report.set_aside.push(Files::set_aside(chain, path, &self.lost_and_found)?),
            }
        }
        for layer in layers {
            if !self.files.has_tar_split(&layer.chain) {
                report.without_tar.push(layer.chain.clone());
            }
        }
        Ok(())
    }
}

//! Mending image layers.

use std::io::Read;
use std::path::PathBuf;

use berth_types::ChainId;
use berth_types::kind::chain as text;

use super::source::{self, Lease, Source};
use super::{Outcome, Plan, Remedy, Repair};
use crate::check::{Finding, Owner, Trouble};
use crate::{Applied, Ingest, Layer, LayerError, LayerStore, NewLayer, Parent, record};

const BELOW: &str = "a layer below it was damaged";

impl LayerStore {
    /// Whether a repair found the layer damaged and nothing to mend it with.
    pub fn is_damaged(&self, chain: &ChainId) -> Result<bool, LayerError> {
        let driver = self.driver().name();
        self.inner().db.read(|conn| Ok(record::is_damaged(conn, driver, chain)?))
    }

    /// Fills a damaged layer with what a load or a pull brings of it. What stands on it is told;
    /// trees that were copied from it are filled again, too.
    pub fn mend_from<R: Read + Send>(&self, chain: &ChainId, tar: R) -> Result<(), LayerError> {
        let Some((_lease, layer)) = Lease::take(self, chain)? else {
            return Err(LayerError::Unknown { chain: chain.clone() });
        };
        let (ingest, _) = self.realise(&layer, tar)?;
        let copies = self.driver().native().is_none();
        if copies {
            self.note_above(&layer)?;
        }
        ingest.take_place_of(&layer, true)?;
        for above in self.above(&layer)? {
            self.settle_above(&above)?;
        }
        if copies {
            for above in self.above(&layer)? {
                // What cannot be filled from its own files stays noted.
                self.refill_one_above(&[], &above)?;
            }
        }
        Ok(())
    }

    pub(super) fn mend_image(
        &self,
        plan: &Plan<'_>,
        finding: &Finding,
        chain: &ChainId,
        troubles: &[&Trouble],
    ) -> Vec<Repair> {
        let mut repair = Repair::new(finding, Remedy::Load);
        let (_lease, layer) = match Lease::take(self, chain) {
            Ok(Some(held)) => held,
            // Removed meanwhile.
            Ok(None) => return Vec::new(),
            Err(error) => return vec![repair.with(Outcome::Failed(text(&error)))],
        };
        if troubles.iter().all(|trouble| **trouble == Trouble::Links) {
            repair.remedy = Remedy::Links;
            if plan.dry_run {
                return vec![repair];
            }
            let outcome = self.relink(&layer).map_or_else(failed, |()| Outcome::Done);
            return vec![repair.with(outcome)];
        }
        if troubles.iter().all(|t| matches!(t, Trouble::Noted { .. }))
            && matches!(self.is_damaged(chain), Ok(false))
        {
            // Mended meanwhile, with a layer below it.
            return Vec::new();
        }
        match self.refill(plan, &layer, &Needs::of(self, troubles), &mut repair) {
            Ok(true) => {}
            Ok(false) => {
                repair.outcome = Outcome::Needed;
                if !plan.dry_run
                    && let Err(error) = self.note_damage(&layer, troubles)
                {
                    repair.outcome = failed(error);
                }
                return vec![repair];
            }
            Err(error) => return vec![repair.with(failed(error))],
        }
        let mut repairs = vec![repair];
        if Needs::of(self, troubles).spreads {
            repairs.extend(self.refill_above(plan, &layer));
        }
        repairs
    }

    /// Makes the layer's content anew from whatever has it; false when nothing does.
    fn refill(
        &self,
        plan: &Plan<'_>,
        layer: &Layer,
        needs: &Needs,
        repair: &mut Repair,
    ) -> Result<bool, LayerError> {
        let mut sources = Vec::new();
        if needs.own_first {
            sources.push(source::itself(self, layer));
        }
        sources.extend(source::elsewhere(self, plan.others, layer)?);
        for source in &sources {
            if plan.dry_run {
                if source.is_whole() {
                    repair.remedy = Remedy::Refill { source_name: source.name.clone() };
                    return Ok(true);
                }
                continue;
            }
            let Some((ingest, applied)) = self.realise_from(layer, source)? else { continue };
            repair.outcome = Outcome::Done;
            if needs.is_size && self.measure_layer(layer)? == Some(applied.size) {
                // Its files are right, and the record was not.
                self.record_size(layer, applied.size)?;
                repair.remedy = Remedy::Size;
                return Ok(true);
            }
            repair.remedy = Remedy::Refill { source_name: source.name.clone() };
            if needs.spreads {
                // Before the stroke, after which nothing else tells of it.
                self.note_above(layer)?;
            }
            repair.moved = ingest.take_place_of(layer, true)?;
            for above in self.above(layer)? {
                self.settle_above(&above)?;
            }
            return Ok(true);
        }
        Ok(false)
    }

    /// A new realisation beside the layer's own; nothing when the source is no good.
    fn realise_from(
        &self,
        layer: &Layer,
        source: &Source<'_>,
    ) -> Result<Option<(Ingest, Applied)>, LayerError> {
        // What is wrong with the source is not worth half a layer.
        if !source.is_whole() {
            return Ok(None);
        }
        self.realise(layer, source.open()?).map(Some)
    }

    fn realise<R: Read + Send>(
        &self,
        layer: &Layer,
        tar: R,
    ) -> Result<(Ingest, Applied), LayerError> {
        let parent = layer.parent.clone().map_or(Parent::None, Parent::Existing);
        let expected = Some(layer.diff.clone());
        let ingest = self.begin("repair", vec![NewLayer { parent, expected }])?;
        let applied = ingest.apply(0, tar)?;
        Ok((ingest, applied))
    }

    /// Fills again what copied files from the layer when it was made.
    fn refill_above(&self, plan: &Plan<'_>, layer: &Layer) -> Vec<Repair> {
        let above = match self.above(layer) {
            Ok(above) => above,
            Err(error) => {
                tracing::error!(
                    error = text(&error),
                    "layers above a mended one are not looked at"
                );
                return Vec::new();
            }
        };
        let mut repairs = Vec::new();
        for above in above {
            let finding = Finding {
                layer: above.layer.clone(),
                of: Owner::Image(above.chain.clone()),
                trouble: Trouble::Content { why: BELOW.to_owned() },
            };
            let remedy = Remedy::Above { below: layer.chain.clone() };
            let mut repair = Repair::new(&finding, remedy);
            if !plan.dry_run {
                repair.outcome = match self.refill_one_above(plan.others, &above) {
                    Ok(Above::Refilled(moved)) => {
                        repair.moved = moved;
                        Outcome::Done
                    }
                    Ok(Above::Gone) => continue,
                    // Its own check finds out.
                    Ok(Above::Damaged) => {
                        Outcome::Failed("its own content is damaged, too".to_owned())
                    }
                    Err(error) => failed(error),
                };
            }
            repairs.push(repair);
        }
        repairs
    }

    fn refill_one_above(&self, others: &[Self], layer: &Layer) -> Result<Above, LayerError> {
        let Some((_lease, layer)) = Lease::take(self, &layer.chain)? else {
            return Ok(Above::Gone);
        };
        let mut sources = vec![source::itself(self, &layer)];
        sources.extend(source::elsewhere(self, others, &layer)?);
        for source in &sources {
            if let Some((ingest, _)) = self.realise_from(&layer, source)? {
                return ingest.take_place_of(&layer, false).map(Above::Refilled);
            }
        }
        Ok(Above::Damaged)
    }

    /// The layers on top of this one, parents before children.
    fn above(&self, layer: &Layer) -> Result<Vec<Layer>, LayerError> {
        let mut inside = std::collections::BTreeSet::from([layer.chain.clone()]);
        let mut above = self.list()?;
        above.retain(|layer| {
            let is_above = layer.parent.as_ref().is_some_and(|parent| inside.contains(parent));
            if is_above {
                inside.insert(layer.chain.clone());
            }
            is_above
        });
        Ok(above)
    }

    /// Tells a layer anew what it stands on, where it has to be told.
    fn relink(&self, layer: &Layer) -> Result<(), LayerError> {
        let Some(native) = self.driver().native() else { return Ok(()) };
        let below = match &layer.parent {
            Some(parent) => Some(self.inner().known(parent)?.layer),
            None => None,
        };
        Ok(native.stand_on(&layer.layer, below.as_ref())?)
    }

    fn settle_above(&self, layer: &Layer) -> Result<(), LayerError> {
        match self.relink(layer) {
            // It is damaged, too, or was removed meanwhile.
            Err(LayerError::Storage(error)) => {
                tracing::warn!(error = text(&error), chain = %layer.chain, "not told of its parent");
                Ok(())
            }
            other => other,
        }
    }

    fn record_size(&self, layer: &Layer, size: u64) -> Result<(), LayerError> {
        let driver = self.driver().name();
        self.inner().db.write(|tx| match record::get(tx, driver, &layer.chain)? {
            Some(now) => Ok(record::set_size(tx, driver, &now, size)?),
            None => Ok(()),
        })
    }

    /// Notes that layers above a damaged one have to be filled again.
    fn note_above(&self, layer: &Layer) -> Result<(), LayerError> {
        let driver = self.driver().name();
        let above = self.above(layer)?;
        self.inner().db.write(|tx| {
            above.iter().try_for_each(|above| {
                Ok::<_, LayerError>(record::note_damage(tx, driver, &above.chain, BELOW)?)
            })
        })
    }

    fn note_damage(&self, layer: &Layer, troubles: &[&Trouble]) -> Result<(), LayerError> {
        let driver = self.driver().name();
        let troubles: Vec<String> = troubles.iter().map(ToString::to_string).collect();
        self.inner()
            .db
            .write(|tx| Ok(record::note_damage(tx, driver, &layer.chain, &troubles.join("; "))?))
    }
}

/// What became of a layer above a mended one.
enum Above {
    /// It was filled again; where the old content was moved.
    Refilled(Option<PathBuf>),
    /// It was removed meanwhile.
    Gone,
    /// Nothing has its content.
    Damaged,
}

/// What a layer's troubles ask for.
struct Needs {
    /// Its own files may be right.
    own_first: bool,
    /// The record may be wrong.
    is_size: bool,
    /// What was copied from it may be damaged as well.
    spreads: bool,
}

impl Needs {
    fn of(store: &LayerStore, troubles: &[&Trouble]) -> Self {
        let all = |is: fn(&Trouble) -> bool| troubles.iter().all(|trouble| is(trouble));
        let any = |is: fn(&Trouble) -> bool| troubles.iter().any(|trouble| is(trouble));
        Self {
            own_first: all(|t| {
                matches!(
                    t,
                    Trouble::Size { .. }
                        | Trouble::Links
                        | Trouble::Noted { .. }
                        | Trouble::Inherited { .. }
                )
            }),
            is_size: all(|t| matches!(t, Trouble::Size { .. } | Trouble::Links)),
            spreads: store.driver().native().is_none()
                && any(|t| {
                    matches!(
                        t,
                        Trouble::Content { .. }
                            | Trouble::Inherited { .. }
                            | Trouble::Unreadable { .. }
                            | Trouble::Noted { .. }
                    )
                }),
        }
    }
}

fn failed<E: std::error::Error>(error: E) -> Outcome {
    Outcome::Failed(text(&error))
}

//! Mending what a check finds, of what is left.
//!
//! Nothing is deleted. What a layer is made of is replaced as a whole: it is filled under another name,
//! checked against its digest, synced, and takes the damaged one's place by one rename; what was
//! there goes to lost+found. Where nothing is left to make it of, that is recorded, and the next load
//! or pull that brings the layer fills it.

mod image;
mod source;

use std::collections::BTreeSet;
use std::path::PathBuf;

use berth_types::{ChainId, ContainerId, kind::chain};

use crate::check::{Checked, Depth, Finding, Owner, Progress, Trouble};
use crate::{LayerError, LayerStore};

/// What a repair has to do.
pub struct Plan<'a> {
    /// How closely to look.
    pub depth: Depth,
    /// Only say what would be done.
    pub dry_run: bool,
    /// The layers of other storage drivers in the same data root, which may have what is missing here.
    pub others: &'a [LayerStore],
    /// Runs its argument while nobody else works on the container's layer; does not run it when the
    /// container is unknown.
    pub alone: &'a dyn Fn(&ContainerId, &mut dyn FnMut()),
}

impl std::fmt::Debug for Plan<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Plan").field("depth", &self.depth).finish_non_exhaustive()
    }
}

/// How far a repair is.
#[derive(Debug)]
pub enum Step {
    /// The check that precedes it.
    Check(Progress),
    /// Something was dealt with.
    Repair(Box<Repair>),
}

/// What was done about one layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repair {
    /// What was found; several kinds of trouble with one layer are one repair.
    pub finding: Finding,
    /// What mends it.
    pub remedy: Remedy,
    /// Whether that was done.
    pub outcome: Outcome,
    /// Where the damaged content, or the unknown layer, was moved.
    pub moved: Option<PathBuf>,
}

/// What mends a layer.
#[expect(missing_docs, reason = "the messages name the fields")]
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Remedy {
    #[error("make its links anew")]
    Links,
    #[error("record its size anew")]
    Size,
    #[error("fill it again from {source_name}")]
    Refill { source_name: String },
    #[error("fill it again on the mended layer {}", short(.below))]
    Above { below: ChainId },
    #[error("make it anew: nothing was written to it yet")]
    Anew,
    #[error("move it to lost+found")]
    SetAside,
    #[error("load or pull an image that has it: nothing here has its content")]
    Load,
    #[error("remove the container and create it anew: what it had written is lost")]
    Recreate,
}

/// What came of a remedy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It was done.
    Done,
    /// It would be done.
    Planned,
    /// Somebody has to do it; berth cannot.
    Needed,
    /// It was tried and did not work.
    Failed(String),
}

/// What a repair came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Repaired {
    /// What was looked at.
    pub checked: Checked,
    /// How much was mended, or would be.
    pub mended: u64,
    /// How much is left.
    pub left: u64,
}

impl LayerStore {
    /// Checks every layer of this driver, and mends what is found. `report` hears of each step; when
    /// it says false, the repair ends before the next layer.
    pub fn repair(
        &self,
        plan: &Plan<'_>,
        report: &mut dyn FnMut(Step) -> bool,
    ) -> Result<Repaired, LayerError> {
        let mut findings: Vec<Finding> = Vec::new();
        let mut goes_on = true;
        let checked = self.check(plan.depth, &mut |progress| {
            if let Progress::Found(finding) = &progress {
                findings.push(finding.clone());
            }
            goes_on = report(Step::Check(progress));
            goes_on
        })?;
        let mut sums = Repaired { checked, ..Repaired::default() };
        let (mut filled, mut unmended) = (BTreeSet::new(), BTreeSet::new());
        let mut rest = findings.as_slice();
        while let Some(first) = rest.first()
            && goes_on
        {
            // What is found of one layer comes in a row.
            let same = rest.iter().take_while(|next| next.layer == first.layer).count();
            let (these, others) = rest.split_at(same);
            rest = others;
            if these.iter().all(|f| matches!(f.trouble, Trouble::Inherited { .. }))
                && (filled.contains(&first.layer) || self.stands_on_any(&first.of, &unmended)?)
            {
                // It was filled again on the layer that it had this of; or it will be when that is
                // mended, and before it would be no better.
                continue;
            }
            for repair in self.mend(plan, these) {
                match (&repair.outcome, &repair.remedy, &repair.finding.of) {
                    (Outcome::Done | Outcome::Planned, Remedy::Above { .. }, _) => {
                        filled.insert(repair.finding.layer.clone());
                    }
                    (Outcome::Needed | Outcome::Failed(_), _, Owner::Image(chain)) => {
                        unmended.insert(chain.clone());
                    }
                    _ => {}
                }
                match repair.outcome {
                    Outcome::Done | Outcome::Planned => sums.mended += 1,
                    Outcome::Needed | Outcome::Failed(_) => sums.left += 1,
                }
                goes_on &= report(Step::Repair(Box::new(repair)));
            }
        }
        Ok(sums)
    }

    /// Whether a layer below is damaged and stays so.
    fn stands_on_any(&self, of: &Owner, unmended: &BTreeSet<ChainId>) -> Result<bool, LayerError> {
        let Owner::Image(chain) = of else { return Ok(false) };
        let mut next = self.get(chain)?.and_then(|layer| layer.parent);
        while let Some(chain) = next {
            if unmended.contains(&chain) || self.is_damaged(&chain)? {
                return Ok(true);
            }
            next = self.get(&chain)?.and_then(|layer| layer.parent);
        }
        Ok(false)
    }

    fn mend(&self, plan: &Plan<'_>, findings: &[Finding]) -> Vec<Repair> {
        let Some(finding) = findings.first() else { return Vec::new() };
        match &finding.of {
            Owner::Nobody => vec![self.mend_unknown(plan, finding)],
            Owner::Container(id) => self.mend_container(plan, finding, id).into_iter().collect(),
            Owner::Image(of) => {
                let troubles: Vec<&Trouble> = findings.iter().map(|f| &f.trouble).collect();
                self.mend_image(plan, finding, of, &troubles)
            }
        }
    }

    fn mend_unknown(&self, plan: &Plan<'_>, finding: &Finding) -> Repair {
        let mut repair = Repair::new(finding, Remedy::SetAside);
        if plan.dry_run {
            return repair;
        }
        let inner = self.inner();
        match inner.driver.set_aside(&finding.layer, &inner.lost_and_found) {
            Ok(moved) => {
                tracing::warn!(layer = %finding.layer, to = %moved.display(), "set aside");
                repair.moved = Some(moved);
                repair.outcome = Outcome::Done;
            }
            Err(error) => repair.outcome = Outcome::Failed(chain(&error)),
        }
        repair
    }

    /// Nothing when the container is gone by now, or is still being made.
    fn mend_container(
        &self,
        plan: &Plan<'_>,
        finding: &Finding,
        id: &ContainerId,
    ) -> Option<Repair> {
        let mut done = None;
        (plan.alone)(id, &mut || done = Some(self.mend_rw(plan, finding, id)));
        done
    }

    fn mend_rw(&self, plan: &Plan<'_>, finding: &Finding, id: &ContainerId) -> Repair {
        let is_links = finding.trouble == Trouble::Links;
        let mut repair = Repair::new(finding, if is_links { Remedy::Links } else { Remedy::Anew });
        let rw = match self.rw(id) {
            Ok(Some(rw)) => rw,
            Ok(None) => {
                let container = id.clone();
                let gone = LayerError::UnknownContainer { container };
                return repair.with(Outcome::Failed(chain(&gone)));
            }
            Err(error) => return repair.with(Outcome::Failed(chain(&error))),
        };
        if !is_links && finding.layer == rw.mount && rw.size != Some(0) {
            repair.remedy = Remedy::Recreate;
            return repair.with(Outcome::Needed);
        }
        if plan.dry_run {
            return repair;
        }
        match self.ensure(&rw) {
            Ok(_) => repair.with(Outcome::Done),
            Err(error) => repair.with(Outcome::Failed(chain(&error))),
        }
    }
}

impl Repair {
    fn new(finding: &Finding, remedy: Remedy) -> Self {
        Self { finding: finding.clone(), remedy, outcome: Outcome::Planned, moved: None }
    }

    fn with(self, outcome: Outcome) -> Self {
        Self { outcome, ..self }
    }
}

fn short(chain: &ChainId) -> &str {
    chain.hex().get(..12).unwrap_or_default()
}

//! What the stages of a build know of each other.
//!
//! Stages are built at the same time, and what comes out is as if they were built one after the
//! other: a stage waits for an earlier one whose image it names, and where it begins with the very
//! steps that an earlier one begins with, it goes on behind that one, and so finds them built.
//! A stage only ever waits for earlier ones.

use berth_build::Stage as Plan;
use berth_images::Image;
use tokio::sync::watch;

/// The stages of a build.
#[derive(Debug)]
pub(super) struct Board {
    stages: Vec<Known>,
    progress: watch::Sender<Vec<Progress>>,
    /// As many are built at the same time.
    limit: usize,
}

/// What is known of a stage beforehand.
#[derive(Debug)]
struct Known {
    name: String,
    /// `FROM` without the stage's own name, then the steps.
    texts: Vec<String>,
}

/// How far a stage is.
#[derive(Debug, Clone, Default)]
struct Progress {
    /// Steps that are done, `FROM` among them.
    steps: usize,
    end: Option<End>,
}

/// How a stage ended.
#[derive(Debug, Clone)]
pub(super) enum End {
    /// With this image, if anything was put on top of nothing.
    Built(Option<Image>),
    /// With an error, which is told when its turn comes.
    Failed,
}

/// A stage that is waited for has failed.
#[derive(Debug)]
pub(super) struct Failed;

impl Board {
    pub(super) fn new(plans: &[Plan], limit: usize) -> Self {
        let known = |plan: &Plan| {
            let from = format!("{} {}", plan.from.platform, plan.from.base);
            let steps = plan.steps.iter().map(|step| step.text.clone());
            Known { name: plan.from.name.clone(), texts: [from].into_iter().chain(steps).collect() }
        };
        let stages: Vec<Known> = plans.iter().map(known).collect();
        let progress = watch::Sender::new(vec![Progress::default(); stages.len()]);
        Self { stages, progress, limit }
    }

    /// The first of the stages before `own` that has this name.
    pub(super) fn named(&self, own: usize, name: &str) -> Option<usize> {
        let earlier = &self.stages[..own];
        earlier.iter().position(|stage| !name.is_empty() && stage.name == name)
    }

    /// Waits until few enough of the earlier stages are being built.
    pub(super) async fn turn(&self, own: usize) {
        let is_free = |all: &[Progress]| {
            all[..own].iter().filter(|earlier| earlier.end.is_none()).count() < self.limit
        };
        self.wait(is_free).await;
    }

    /// Waits until this step was built in all the earlier stages that have got it at the same place.
    pub(super) async fn before(&self, own: usize, step: usize) {
        let begins_alike = |other: &Known| {
            other.texts.get(..=step) == self.stages[own].texts.get(..=step) && step > 0
        };
        let alike: Vec<usize> =
            (0..own).filter(|&other| begins_alike(&self.stages[other])).collect();
        let is_done = |all: &[Progress]| {
            alike.iter().all(|&other| all[other].steps > step || all[other].end.is_some())
        };
        self.wait(is_done).await;
    }

    /// Waits for a stage's image.
    pub(super) async fn image(&self, stage: usize) -> Result<Option<Image>, Failed> {
        self.wait(|all| all[stage].end.is_some()).await;
        match self.progress.borrow()[stage].end.clone() {
            Some(End::Built(image)) => Ok(image),
            Some(End::Failed) | None => Err(Failed),
        }
    }

    /// A step is done.
    pub(super) fn step(&self, own: usize) {
        self.progress.send_modify(|all| all[own].steps += 1);
    }

    /// A stage has ended.
    pub(super) fn end(&self, own: usize, end: End) {
        self.progress.send_modify(|all| all[own].end = Some(end));
    }

    /// A stage has ended, badly unless it said otherwise before.
    pub(super) fn fail_unless_ended(&self, own: usize) {
        self.progress.send_modify(|all| {
            all[own].end.get_or_insert(End::Failed);
        });
    }

    async fn wait(&self, is_so: impl Fn(&[Progress]) -> bool) {
        let mut progress = self.progress.subscribe();
        let waited = progress.wait_for(|all| is_so(all)).await;
        waited.expect("the board has the sender itself");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn board(text: &str, limit: usize) -> Board {
        let file = berth_build::Dockerfile::parse(text).unwrap();
        Board::new(&file.stages, limit)
    }

    async fn waits(wait: impl Future<Output = ()>) -> bool {
        tokio::time::timeout(Duration::from_millis(1), wait).await.is_err()
    }

    #[tokio::test]
    async fn stages_that_begin_alike_follow_each_other() {
        let board =
            board("FROM a AS x\nRUN 1\nRUN 2\nFROM a AS y\nRUN 1\nRUN 3\nFROM b\nRUN 1\n", 8);
        assert!(!waits(board.before(1, 0)).await, "an image may be looked for by both");
        assert!(waits(board.before(1, 1)).await);
        assert!(!waits(board.before(1, 2)).await);
        assert!(!waits(board.before(2, 1)).await);
        board.step(0);
        assert!(waits(board.before(1, 1)).await);
        board.step(0);
        assert!(!waits(board.before(1, 1)).await);
        let other = self::board("FROM a\nRUN 1\nFROM a\nRUN 1\n", 8);
        other.end(0, End::Failed);
        assert!(!waits(other.before(1, 1)).await);
        assert!(other.image(0).await.is_err());
    }

    #[tokio::test]
    async fn only_so_many_are_built_at_the_same_time() {
        let board = board("FROM a\nFROM b\nFROM c\nFROM d\n", 2);
        let mut waiting = Vec::new();
        for ended in [None, Some(1), Some(0)] {
            if let Some(stage) = ended {
                board.end(stage, End::Built(None));
            }
            let mut now = Vec::new();
            for stage in 0..4 {
                now.push(waits(board.turn(stage)).await);
            }
            waiting.push(now);
        }
        let expected =
            [[false, false, true, true], [false, false, false, true], [false, false, false, false]];
        assert_eq!(waiting, expected);
    }

    #[test]
    fn stages_are_known_by_name_to_later_ones() {
        let board = board("FROM a AS one\nFROM b\nFROM c AS one\nFROM d\n", 2);
        assert_eq!(board.named(0, "one"), None);
        assert_eq!(board.named(3, "one"), Some(0));
        assert_eq!(board.named(3, ""), None);
    }
}

//! From a Dockerfile to images.

use std::path::Path;
use std::sync::Arc;

use berth_api::container::ContainerConfig;
use berth_build::apply::{Changing, DEFAULT_PATH};
use berth_build::args::BuildArgs;
use berth_build::instruction::{From, Instruction, Step};
use berth_build::words::{self, Context as Words};
use berth_build::{Dockerfile, Stage as Plan};
use berth_images::Image;
use berth_types::ContainerId;
use berth_types::reference::Reference;
use tokio::sync::watch;

use super::board::{Board, End, Failed};
use super::cache::Cache;
use super::context::Context;
use super::error::BuildError;
use super::output::Output;
use super::record::{Recipe, Top};
use super::spool::Spool;
use super::{BuildRequest, squash};
use crate::blocking::blocking;
use crate::engine::Engine;
use crate::error::EngineError;

/// The name of the base that is no image.
const SCRATCH: &str = "scratch";
/// No more stages than this are built at the same time, on however large a machine.
const MOST: usize = 8;

/// One build, or one of its stages: each has its own.
#[derive(Debug)]
pub(crate) struct Builder {
    pub(crate) engine: Engine,
    pub(crate) request: Arc<BuildRequest>,
    pub(crate) context: Arc<Context>,
    pub(crate) output: Output,
    pub(crate) args: BuildArgs,
    pub(crate) escape: char,
    cache: Cache,
    board: Arc<Board>,
    /// Which stage this is.
    number: usize,
    /// The containers of the present step.
    pub(crate) containers: Vec<Intermediate>,
    step: usize,
    steps: usize,
}

/// A container that only was there for a step.
#[derive(Debug, Clone)]
pub(crate) struct Intermediate {
    pub(crate) id: ContainerId,
    /// Whether there really was one: a step that runs nothing needs none unless it is to be kept.
    pub(crate) is_real: bool,
}

/// Where a stage stands.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stage {
    /// The configuration of the image so far.
    pub(crate) state: Changing,
    /// The image so far; `None` as long as nothing was put on top of nothing.
    pub(crate) image: Option<Image>,
    /// What it began with.
    base: Option<Image>,
    pub(crate) author: String,
}

/// Tells the others how a stage ended, even when it broke off.
struct EndOfStage {
    board: Arc<Board>,
    number: usize,
    spool: Arc<Spool>,
}

impl EndOfStage {
    fn built(&self, image: Option<Image>) {
        self.board.end(self.number, End::Built(image));
    }
}

impl Drop for EndOfStage {
    fn drop(&mut self) {
        self.board.fail_unless_ended(self.number);
        self.spool.end();
    }
}

impl Stage {
    /// As the build prints it.
    fn shown(&self) -> &str {
        self.image.as_ref().map_or("", |image| image.id.short())
    }

    fn set_image(&mut self, image: Image) {
        self.state.config.image = image.id.to_string();
        self.image = Some(image);
    }
}

impl Builder {
    pub(crate) fn new(
        engine: &Engine,
        request: BuildRequest,
        context: Arc<Context>,
        output: Output,
    ) -> Self {
        Self {
            engine: engine.clone(),
            args: BuildArgs::new(request.build_args.clone()),
            context,
            output,
            escape: '\\',
            cache: Cache::default(),
            board: Arc::new(Board::new(&[], 1)),
            number: 0,
            containers: Vec::new(),
            step: 0,
            steps: 0,
            request: Arc::new(request),
        }
    }

    /// Builds everything, names the result and says so.
    pub(crate) async fn build(
        mut self,
        file: Dockerfile,
        tags: &[Reference],
    ) -> Result<(), EngineError> {
        self.cache = self.open_cache().await?;
        let stage = self.dispatch(file).await?;
        let Some(mut image) = stage.image else { return Err(BuildError::NoImage.into()) };
        if self.request.squash {
            image = squash::squash(&self.engine, image, stage.base).await?;
            self.output.squashed(image.id.as_str()).await?;
        }
        self.output.line(&format!("Successfully built {}", image.id.short())).await?;
        for tag in tags {
            self.tag(tag, &image).await?;
            self.output.line(&format!("Successfully tagged {}", tag.familiar())).await?;
        }
        if self.request.quiet {
            let id = berth_api::image::ProgressMessage::stream(format!("{}\n", image.id));
            self.output.send(id).await?;
        }
        Ok(())
    }

    async fn tag(&self, tag: &Reference, image: &Image) -> Result<(), EngineError> {
        let (engine, tag, id) = (self.engine.clone(), tag.clone(), image.id.clone());
        blocking(move || {
            engine.db().write(|tx| {
                engine.images().tag(tx, &tag, &id)?;
                Ok::<_, EngineError>(())
            })?;
            engine.publish_image("tag", &id, &tag.familiar());
            Ok(())
        })
        .await
    }

    /// Images to take steps from that are not here are left out, as in Docker.
    async fn open_cache(&self) -> Result<Cache, EngineError> {
        let (engine, names) = (self.engine.clone(), self.request.cache_from.clone());
        let is_off = self.request.no_cache;
        blocking(move || {
            let mut sources = Vec::new();
            for name in &names {
                match engine.images().resolve(name) {
                    Ok(image) => sources.push(image),
                    Err(error) => {
                        let error = berth_types::kind::chain(&error);
                        tracing::warn!(image = name, error, "no source of cached steps");
                    }
                }
            }
            Ok(Cache::new(is_off, (!names.is_empty()).then_some(sources)))
        })
        .await
    }

    async fn dispatch(&mut self, file: Dockerfile) -> Result<Stage, EngineError> {
        self.escape = file.escape;
        self.steps = file.steps();
        if !file.warnings.is_empty() {
            self.output.stderr(&format!("{}\n", file.warnings.join("\n"))).await?;
        }
        for step in file.meta_args {
            self.announce(&step.text).await?;
            self.meta_arg(step)?;
        }
        let last = self.build_stages(file.stages).await?;
        let unused = self.args.unused().join(" ");
        if !unused.is_empty() {
            let warning = format!("[Warning] One or more build-args [{unused}] were not consumed");
            self.output.line(&warning).await?;
        }
        Ok(last)
    }

    /// Builds all stages; gives the last. What they say comes out in their order, whichever is
    /// done first.
    async fn build_stages(&mut self, plans: Vec<Plan>) -> Result<Stage, EngineError> {
        let limit = std::thread::available_parallelism().map_or(2, usize::from).clamp(2, MOST);
        self.board = Arc::new(Board::new(&plans, limit));
        let (abandon, abandoned) = watch::channel(false);
        let mut running = Vec::with_capacity(plans.len());
        let mut step = self.step;
        for (number, plan) in plans.into_iter().enumerate() {
            let spool = Spool::new(&self.engine.tmp());
            let output = self.output.apart(Arc::clone(&spool), abandoned.clone());
            let builder = self.of_stage(number, step, output);
            step += 1 + plan.steps.len();
            let said = Arc::clone(&spool);
            let end = EndOfStage { board: Arc::clone(&self.board), number, spool };
            running.push((said, tokio::spawn(builder.run_stage(plan, end))));
        }
        self.step = step;
        let mut result = Ok(Stage::default());
        for (said, task) in running {
            if result.is_ok()
                && let Err(error) = self.pass_on(&said).await
            {
                result = Err(error);
            }
            if result.is_err() {
                abandon.send_replace(true);
            }
            // Also those that are abandoned end before the build does.
            let ended = match task.await {
                Ok(ended) => ended,
                Err(error) => std::panic::resume_unwind(error.into_panic()),
            };
            if result.is_ok() {
                result = self.take_in(ended).await;
            }
        }
        result
    }

    async fn pass_on(&self, said: &Spool) -> Result<(), EngineError> {
        let failed = || EngineError::io("read what was said from", Path::new("tmp"));
        while let Some(message) = said.next().await.map_err(failed())? {
            self.output.say(message).await?;
        }
        Ok(())
    }

    async fn take_in(
        &mut self,
        ended: Result<(Stage, BuildArgs), EngineError>,
    ) -> Result<Stage, EngineError> {
        let (stage, args) = ended?;
        self.args.absorb(&args);
        if let Some(image) = &stage.image {
            self.output.image(image.id.as_str()).await?;
        }
        Ok(stage)
    }

    fn of_stage(&self, number: usize, step: usize, output: Output) -> Self {
        Self {
            engine: self.engine.clone(),
            request: Arc::clone(&self.request),
            context: Arc::clone(&self.context),
            output,
            args: self.args.clone(),
            escape: self.escape,
            cache: self.cache.clone(),
            board: Arc::clone(&self.board),
            number,
            containers: Vec::new(),
            step,
            steps: self.steps,
        }
    }

    async fn run_stage(
        mut self,
        plan: Plan,
        end: EndOfStage,
    ) -> Result<(Stage, BuildArgs), EngineError> {
        self.unless_cancelled(self.board.turn(self.number)).await?;
        let stage = self.stage(plan).await?;
        end.built(stage.image.clone());
        Ok((stage, self.args))
    }

    async fn unless_cancelled<T>(&self, wait: impl Future<Output = T>) -> Result<T, EngineError> {
        tokio::select! {
            done = wait => Ok(done),
            () = self.output.cancelled() => Err(BuildError::Cancelled.into()),
        }
    }

    async fn announce(&mut self, text: &str) -> Result<(), EngineError> {
        self.step += 1;
        self.output.stdout(format!("Step {}/{} : {text}", self.step, self.steps)).await?;
        self.output.stdout("\n").await
    }

    fn meta_arg(&mut self, mut step: Step) -> Result<(), EngineError> {
        let env = self.args.beside(&[]);
        let context = Words { env: &env, escape: self.escape };
        step.instruction.expand(context).map_err(BuildError::from)?;
        if let Instruction::Arg(pairs) = &step.instruction {
            for pair in pairs {
                self.args.declare_meta(pair);
            }
        }
        Ok(())
    }

    async fn stage(&mut self, plan: Plan) -> Result<Stage, EngineError> {
        let name = plan.from.name.clone();
        if self.board.named(self.number, &name).is_some() {
            return Err(BuildError::StageName { name }.into());
        }
        self.cache.reset();
        self.args.begin_stage();
        self.announce(&plan.text).await?;
        let mut stage = self.begin(&plan.from).await?;
        self.say_image(&stage).await?;
        self.board.step(self.number);
        for (at, step) in plan.steps.into_iter().enumerate() {
            if self.output.is_cancelled() {
                return Err(BuildError::Cancelled.into());
            }
            self.announce(&step.text).await?;
            self.unless_cancelled(self.board.before(self.number, at + 1)).await?;
            self.carry_out(&mut stage, step).await?;
            self.say_image(&stage).await?;
            self.board.step(self.number);
        }
        Ok(stage)
    }

    async fn say_image(&self, stage: &Stage) -> Result<(), EngineError> {
        self.output.line(&format!(" ---> {}", stage.shown())).await
    }

    /// `FROM`, and what its image wants to be done right behind it.
    async fn begin(&mut self, from: &From) -> Result<Stage, EngineError> {
        let env = self.args.of_from();
        let context = Words { env: &env, escape: self.escape };
        let expand = |text: &str| {
            words::expand(text, context).map_err(|error| BuildError::Instruction(error.into()))
        };
        let platform = match from.platform.as_str() {
            "" => self.request.platform.clone(),
            text => expand(text)?,
        };
        let name = expand(&from.base)?;
        if name.is_empty() {
            return Err(BuildError::BlankBase { name: from.base.clone() }.into());
        }
        let base = self.image_or_stage(&name, &platform).await?;
        let config = base.as_ref().and_then(|image| image.config.config().cloned());
        let mut stage = Stage { base: base.clone(), ..Stage::default() };
        stage.state.config = config.unwrap_or_default();
        stage.state.config.image.clear();
        if let Some(image) = base {
            stage.set_image(image);
        }
        let config = &mut stage.state.config;
        if !config.env.iter().any(|entry| entry.split('=').next() == Some("PATH")) {
            config.env.push(DEFAULT_PATH.to_owned());
        }
        config.open_stdin = false;
        config.stdin_once = false;
        let triggers = std::mem::take(&mut config.on_build).into_vec();
        self.run_triggers(&mut stage, triggers).await?;
        Ok(stage)
    }

    async fn run_triggers(
        &mut self,
        stage: &mut Stage,
        triggers: Vec<String>,
    ) -> Result<(), EngineError> {
        if triggers.is_empty() {
            return Ok(());
        }
        let plural = if triggers.len() > 1 { "s" } else { "" };
        let text = format!("# Executing {} build trigger{plural}", triggers.len());
        self.output.line(&text).await?;
        for trigger in triggers {
            let step = berth_build::parse::trigger(&trigger).map_err(BuildError::from)?;
            self.carry_out(stage, step).await?;
        }
        Ok(())
    }

    async fn image_or_stage(
        &self,
        name: &str,
        platform: &str,
    ) -> Result<Option<Image>, EngineError> {
        if let Some(stage) = self.board.named(self.number, &name.to_lowercase()) {
            return self.image_of_stage(stage).await;
        }
        if name == SCRATCH {
            return Ok(None);
        }
        self.image(name, platform).await.map(Some)
    }

    /// What `--from` names: a stage by name or number, or an image; `None` for `scratch`.
    pub(crate) async fn image_of_flag(&self, value: &str) -> Result<Option<Image>, EngineError> {
        let name = value.to_lowercase();
        if let Some(stage) = self.board.named(self.number, &name) {
            return self.image_of_stage(stage).await;
        }
        if let Ok(number) = value.parse::<i64>() {
            let index = usize::try_from(number).ok();
            if let Some(stage) = index.filter(|&index| index < self.number) {
                return self.image_of_stage(stage).await;
            }
            let is_present = index == Some(self.number);
            let problem =
                if is_present { "refers to current build stage" } else { "index out of bounds" };
            return Err(BuildError::FromFlag { value: value.to_owned(), problem }.into());
        }
        match self.image(value, &self.request.platform).await {
            Ok(image) => Ok(Some(image)),
            Err(source) => {
                let (value, source) = (value.to_owned(), Box::new(source));
                Err(BuildError::FromImage { value, source }.into())
            }
        }
    }

    async fn image_of_stage(&self, stage: usize) -> Result<Option<Image>, EngineError> {
        let image = self.unless_cancelled(self.board.image(stage)).await?;
        // Why is told when that stage's turn comes, which is before this one's.
        image.map_err(|Failed| BuildError::Cancelled.into())
    }

    /// Goes on with the image of this step if it was built before.
    pub(crate) async fn probe(
        &mut self,
        stage: &mut Stage,
        step: &ContainerConfig,
    ) -> Result<bool, EngineError> {
        let (engine, mut cache) = (self.engine.clone(), self.cache.clone());
        let (parent, author) = (stage.image.clone(), stage.author.clone());
        let (step, config) = (step.clone(), stage.state.config.clone());
        let (cache, found) = blocking(move || {
            let recipe = Recipe {
                parent: parent.as_ref(),
                author: &author,
                container: None,
                step: &step,
                config: &config,
            };
            let found = cache.find(&engine, parent.as_ref(), &step, &recipe)?;
            Ok::<_, EngineError>((cache, found))
        })
        .await?;
        self.cache = cache;
        let Some(image) = found else { return Ok(false) };
        self.output.line(" ---> Using cache").await?;
        stage.set_image(image);
        Ok(true)
    }

    /// Makes the step's image and goes on with it.
    pub(crate) async fn record(
        &self,
        stage: &mut Stage,
        step: ContainerConfig,
        container: Option<ContainerId>,
        top: Top,
    ) -> Result<(), EngineError> {
        let engine = self.engine.clone();
        let (parent, author) = (stage.image.clone(), stage.author.clone());
        let config = stage.state.config.clone();
        let image = blocking(move || {
            let recipe = Recipe {
                parent: parent.as_ref(),
                author: &author,
                container: container.as_ref(),
                step: &step,
                config: &config,
            };
            recipe.make(&engine, top)
        })
        .await?;
        stage.set_image(image);
        Ok(())
    }
}

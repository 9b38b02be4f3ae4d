//! `ADD` and `COPY`.

pub(crate) mod hash;
pub(crate) mod inline;
mod owner;
pub(crate) mod place;
mod remote;
pub(crate) mod source;

use std::sync::Arc;

use berth_api::container::ContainerConfig;
use berth_build::apply;
use berth_build::instruction::Transfer;
use berth_fs::root::Root;
use berth_images::Image;
use berth_types::{ChainId, IdMaps};

use self::hash::Origin;
use self::place::Placing;
use self::source::Found;
use super::context::Context;
use super::error::{BuildError, SourceError};
use super::record::Top;
use super::stages::{Builder, Stage};
use crate::blocking::blocking;
use crate::engine::Engine;
use crate::error::EngineError;

/// Where the sources are.
#[derive(Debug, Clone)]
enum Sources {
    Context(Arc<Context>),
    /// The top layer of an image; `None` when it has none.
    Image(Option<ChainId>),
}

impl Builder {
    pub(crate) async fn transfer(
        &mut self,
        stage: &mut Stage,
        name: &'static str,
        transfer: Transfer,
    ) -> Result<(), EngineError> {
        if let Some(option) = transfer.unsupported {
            return Err(BuildError::NeedsBuildKit { option }.into());
        }
        let mode = mode(&transfer.chmod)?;
        let sources = match transfer.from.as_str() {
            "" => Sources::Context(Arc::clone(&self.context)),
            value => {
                let image = self.image_of_flag(value).await?;
                Sources::Image(image.as_ref().and_then(top))
            }
        };
        let found = self.find(name, &sources, &transfer).await?;
        if found.len() > 1 && !transfer.destination.ends_with('/') {
            return Err(BuildError::NotADirectory { instruction: name }.into());
        }
        let words = words(name, &transfer, &found);
        let config = &stage.state.config;
        let step = ContainerConfig { cmd: apply::nop_of_files(config, &words), ..config.clone() };
        if self.probe(stage, &step).await? {
            return Ok(());
        }
        let job = Job {
            instruction: name,
            sources,
            found,
            chown: transfer.chown,
            mode,
            destination: destination(&stage.state.config.working_dir, &transfer.destination),
            parent: stage.image.as_ref().and_then(top),
        };
        let engine = self.engine.clone();
        let made = blocking(move || job.carry_out(&engine)).await?;
        self.record(stage, step, None, made).await
    }

    /// The files that the sources name, and those that stand in the Dockerfile.
    async fn find(
        &self,
        name: &'static str,
        sources: &Sources,
        transfer: &Transfer,
    ) -> Result<Vec<Found>, EngineError> {
        let patterns = transfer.sources.clone();
        let mut fetched: Vec<Option<Found>> = vec![None; patterns.len()];
        for (at, url) in patterns.iter().enumerate().filter(|(_, source)| is_url(source)) {
            let failed = |problem| BuildError::Source { instruction: name, problem };
            if name == "COPY" || !transfer.from.is_empty() {
                return Err(failed(SourceError::Url).into());
            }
            fetched[at] = Some(self.fetch(url, &transfer.destination).await?.map_err(failed)?);
        }
        let (engine, sources) = (self.engine.clone(), sources.clone());
        let heredocs = transfer.heredocs.clone();
        blocking(move || {
            let written = inline::write(&engine.tmp(), &heredocs)?;
            if patterns.is_empty() && !written.is_empty() {
                return Ok(written);
            }
            let failed = |problem| BuildError::Source { instruction: name, problem };
            let all = |root: &Root, origin| {
                let mut all = Vec::new();
                for (pattern, fetched) in patterns.iter().zip(&fetched) {
                    match fetched {
                        Some(found) => all.push(found.clone()),
                        None => all.extend(source::find(root, pattern, origin)?),
                    }
                }
                all.extend(written.iter().cloned());
                if all.is_empty() { Err(SourceError::None) } else { Ok(all) }
            };
            match &sources {
                Sources::Context(context)
                    if !context.is_given()
                        && patterns.iter().zip(&fetched).any(|(_, fetched)| fetched.is_none()) =>
                {
                    Err(failed(SourceError::NoContext).into())
                }
                Sources::Context(context) => {
                    Ok(all(context.root(), Origin::Context).map_err(failed)?)
                }
                Sources::Image(Some(chain)) => {
                    let found = engine
                        .layers()
                        .with_tree(chain, |root| all(root, Origin::Image(engine.ids())));
                    Ok(found?.map_err(failed)?)
                }
                Sources::Image(None) => {
                    let path = patterns.first().cloned().unwrap_or_default();
                    Err(failed(SourceError::MissingInImage { path }).into())
                }
            }
        })
        .await
    }
}

/// What `--chmod` says.
fn mode(text: &str) -> Result<Option<u32>, BuildError> {
    let is_octal = text.bytes().all(|byte| matches!(byte, b'0'..=b'7'));
    let mode = u32::from_str_radix(text, 8).ok().filter(|mode| is_octal && *mode <= 0o7777);
    match mode {
        None if !text.is_empty() => Err(BuildError::Chmod { text: text.to_owned() }),
        mode => Ok(mode),
    }
}

/// What stands in the history. Docker leaves no space behind `--chown`.
fn words(name: &str, transfer: &Transfer, found: &[Found]) -> String {
    let Transfer { chown, chmod, destination, .. } = transfer;
    let mut flags = String::new();
    if !chmod.is_empty() {
        flags = format!("--chmod={chmod} ");
    }
    if !chown.is_empty() {
        flags.extend(["--chown=", chown]);
    }
    format!("{name} {flags}{} in {destination} ", sum(found))
}

fn top(image: &Image) -> Option<ChainId> {
    image.config.top_chain()
}

pub(crate) fn is_url(text: &str) -> bool {
    ["http://", "https://"].iter().any(|scheme| text.starts_with(scheme))
}

/// The sum of all sources, as it stands in the history.
fn sum(found: &[Found]) -> String {
    let mut sums: Vec<String> = found.iter().map(|found| found.sum.clone()).collect();
    if sums.len() == 1 { sums.remove(0) } else { hash::of_sums("multi", &sums) }
}

/// A relative destination is one below the working directory.
pub(crate) fn destination(working_dir: &str, asked: &str) -> String {
    let absolute =
        if asked.starts_with('/') { asked.to_owned() } else { format!("/{working_dir}/{asked}") };
    let slash = if asked.ends_with('/') { "/" } else { "" };
    format!("{}{slash}", apply::clean(&absolute))
}

/// Everything that copying needs.
struct Job {
    instruction: &'static str,
    sources: Sources,
    found: Vec<Found>,
    chown: String,
    mode: Option<u32>,
    destination: String,
    parent: Option<ChainId>,
}

impl Job {
    fn carry_out(&self, engine: &Engine) -> Result<Top, EngineError> {
        let draft = engine.layers().draft(self.parent.as_ref())?;
        let from = match &self.sources {
            Sources::Image(chain) => chain.as_ref(),
            Sources::Context(_) => None,
        };
        draft.write(from, |to, from| self.put_all(engine.ids(), from, to))??;
        Ok(Top::New(Box::new(draft.commit("build")?)))
    }

    fn put_all(&self, ids: &IdMaps, image: Option<&Root>, to: &Root) -> Result<(), BuildError> {
        let (from, keeps_owners) = match &self.sources {
            Sources::Context(context) => (context.root(), false),
            Sources::Image(_) => (image.ok_or(BuildError::NoContext)?, self.chown.is_empty()),
        };
        let owner = match (keeps_owners, self.chown.as_str()) {
            (true, _) => None,
            (false, "") => Some((0, 0)),
            (false, chown) => Some(owner::resolve(to, chown)?),
        };
        let placing = Placing {
            destination: self.destination.clone(),
            owner,
            mode: self.mode,
            unpacks: self.instruction == "ADD",
            from_ids: match &self.sources {
                Sources::Context(_) => IdMaps::default(),
                Sources::Image(_) => ids.clone(),
            },
            ids: ids.clone(),
        };
        self.found.iter().try_for_each(|found| {
            let from = found.remote.as_ref().map_or(from, |fetched| fetched.root());
            place::put(from, found, to, &placing)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permissions_are_octal() {
        #[rustfmt::skip]
        let table = [
            ("",      Ok(None)),
            ("644",   Ok(Some(0o644))),
            ("07777", Ok(Some(0o7777))),
            ("10000", Err(())),
            ("+644",  Err(())),
            ("u+x",   Err(())),
            ("8",     Err(())),
        ];
        for (text, expected) in table {
            assert_eq!(mode(text).map_err(|_refused| ()), expected, "{text}");
        }
        let text = mode("u+x").unwrap_err().to_string();
        let expected =
            "invalid chmod parameter: 'u+x'. it should be octal string and between 0 and 07777";
        assert_eq!(text, expected);
    }

    #[test]
    fn destinations() {
        #[rustfmt::skip]
        let table = [
            ("",   "x",     "/x"),
            ("",   ".",     "/"),
            ("/w", ".",     "/w"),
            ("/w", "./",    "/w/"),
            ("/w", "../x/", "/x/"),
            ("/w", "/x/",   "/x/"),
            ("w",  "x",     "/w/x"),
            ("",   "/",     "//"),
        ];
        for (dir, asked, expected) in table {
            assert_eq!(destination(dir, asked), expected, "{dir:?} {asked:?}");
        }
    }
}

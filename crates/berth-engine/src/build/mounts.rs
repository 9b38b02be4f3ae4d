//! `RUN --mount`: what a step sees for as long as it runs.
//!
//! What is mounted is looked up first, for the step's image depends on it; only when the step was
//! not built before it is mounted. Mount points that were made for it are taken away again.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use berth_build::instruction::{Mount, MountKind, Sharing};
use berth_fs::root::Root;
use berth_layers::Beside;
use berth_runtime::{Access, MountKind as Kind, ResolvedMount};
use berth_types::{ChainId, IdMaps};

use super::caches::{InUse, Key};
use super::context::Context;
use super::error::{BuildError, SourceError};
use super::stages::{Builder, Stage};
use super::transfer::hash::Origin;
use super::transfer::{destination, place, source};
use crate::blocking::blocking;
use crate::containers::Extra;
use crate::engine::Engine;
use crate::error::EngineError;

/// A mount of a step, looked up.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    mount: Mount,
    target: String,
    source: Source,
    /// What stands in the history, and makes the step another one when it changes.
    pub(super) words: String,
}

/// Where the files are that are mounted.
#[derive(Debug, Clone)]
enum Source {
    /// There are none yet.
    Nothing,
    /// This, below the client's context.
    Context(PathBuf),
    /// This, in an image.
    Image(ChainId, PathBuf),
}

/// Everything that is mounted, until this is dropped.
#[derive(Debug, Default)]
pub(super) struct Mounted {
    pub(super) extra: Extra,
    caches: Vec<(Key, InUse)>,
    files: Vec<Arc<Context>>,
    trees: Vec<Beside>,
}

impl Builder {
    /// Looks up what a step wants to have mounted.
    pub(super) async fn look_up(
        &self,
        stage: &Stage,
        mounts: &[Mount],
    ) -> Result<Vec<Wanted>, EngineError> {
        let mut all = Vec::with_capacity(mounts.len());
        for mount in mounts {
            if let Some(wanted) = self.look_one_up(stage, mount).await? {
                all.push(wanted);
            }
        }
        Ok(all)
    }

    async fn look_one_up(
        &self,
        stage: &Stage,
        mount: &Mount,
    ) -> Result<Option<Wanted>, EngineError> {
        match mount.kind {
            MountKind::Ssh => {
                return Err(BuildError::NeedsBuildKit { option: "mount=type=ssh" }.into());
            }
            // Clients of the classic builder have no way to send any.
            MountKind::Secret if mount.required => {
                let id = if mount.id.is_empty() { &mount.target } else { &mount.id };
                return Err(BuildError::Secret { id: id.clone() }.into());
            }
            MountKind::Secret => return Ok(None),
            MountKind::Bind | MountKind::Cache | MountKind::Tmpfs => {}
        }
        let target = destination(&stage.state.config.working_dir, &mount.target);
        let target = target.trim_end_matches('/').to_owned();
        if target.is_empty() {
            return Err(BuildError::MountTarget { target: mount.target.clone() }.into());
        }
        let (source, sum) = self.source(mount).await?;
        let words = format!("--mount={}{sum}", mount.text);
        Ok(Some(Wanted { mount: mount.clone(), target, source, words }))
    }

    /// Where the files are, and what tells them from others.
    async fn source(&self, mount: &Mount) -> Result<(Source, String), EngineError> {
        let failed = |problem| BuildError::Source { instruction: "RUN", problem };
        let asked = mount.source.clone();
        if !mount.from.is_empty() {
            let image = self.image_of_flag(&mount.from).await?;
            let Some(chain) = image.and_then(|image| image.config.top_chain()) else {
                return Err(failed(SourceError::MissingInImage { path: asked }).into());
            };
            let engine = self.engine.clone();
            return blocking(move || {
                let found = engine.layers().with_tree(&chain, |root| {
                    source::place(root, &asked, Origin::Image(engine.ids()))
                });
                let path = found?.map_err(failed)?;
                let sum = format!(" {chain}");
                Ok((Source::Image(chain, path), sum))
            })
            .await;
        }
        if mount.kind != MountKind::Bind {
            return Ok((Source::Nothing, String::new()));
        }
        let context = Arc::clone(&self.context);
        blocking(move || {
            let found = source::one(context.root(), &asked, Origin::Context).map_err(failed)?;
            Ok((Source::Context(found.path), format!(" {}", found.sum)))
        })
        .await
    }

    /// Makes ready what is mounted. Waits for caches that others have locked, unless the build ends.
    pub(super) async fn mount(&self, wanted: Vec<Wanted>) -> Result<Mounted, EngineError> {
        let mut mounted = Mounted::default();
        // In one order for all steps: so no two wait for each other.
        let mut caches: Vec<(Key, Wanted)> = Vec::new();
        for wanted in wanted {
            if wanted.mount.kind == MountKind::Cache {
                caches.push((cache_key(&wanted), wanted));
                continue;
            }
            let (engine, context) = (self.engine.clone(), Arc::clone(&self.context));
            mounted = blocking(move || {
                mounted.add(&engine, &context, &wanted)?;
                Ok::<_, EngineError>(mounted)
            })
            .await?;
        }
        caches.sort_by(|one, other| one.0.cmp(&other.0));
        for (key, wanted) in caches {
            tokio::select! {
                added = self.mount_cache(&mut mounted, key, wanted) => added?,
                () = self.output.cancelled() => return Err(BuildError::Cancelled.into()),
            }
        }
        mounted.extra.trees = mounted.trees.iter().map(|tree| tree.prepared().clone()).collect();
        Ok(mounted)
    }

    async fn mount_cache(
        &self,
        mounted: &mut Mounted,
        key: Key,
        wanted: Wanted,
    ) -> Result<(), EngineError> {
        let access =
            if wanted.mount.read_only == Some(true) { Access::ReadOnly } else { Access::ReadWrite };
        let target = wanted.target.clone();
        let had = mounted.caches.iter().find(|(other, _)| *other == key);
        if let Some((_, cache)) = had {
            mounted.extra.mounts.push(bind(cache.path().to_owned(), target, access));
            return Ok(());
        }
        let engine = self.engine.clone();
        let sharing = match wanted.mount.sharing {
            // Nobody writes.
            Sharing::Locked if access == Access::ReadOnly => Sharing::Shared,
            other => other,
        };
        let fill = move |path: &Path| fill(&engine, &wanted, path);
        let cache = self.engine.builds().caches().acquire(key.clone(), sharing, fill).await?;
        mounted.extra.mounts.push(bind(cache.path().to_owned(), target, access));
        mounted.caches.push((key, cache));
        Ok(())
    }
}

/// Caches that begin with something else are others.
fn cache_key(wanted: &Wanted) -> Key {
    let Mount { id, target, uid, gid, mode, .. } = &wanted.mount;
    let name = if id.is_empty() { target } else { id };
    let base = match &wanted.source {
        Source::Image(chain, path) => format!("{chain}:{}", path.display()),
        _ => format!("{uid}:{gid}:{:o}", mode.unwrap_or(CACHE_MODE)),
    };
    Key { name: berth_build::apply::clean(name), base }
}

/// What new caches are.
const CACHE_MODE: u32 = 0o755;

/// Makes what a cache begins with.
fn fill(engine: &Engine, wanted: &Wanted, path: &Path) -> Result<(), EngineError> {
    if let Source::Image(chain, from) = &wanted.source {
        let to = Root::open(path).map_err(EngineError::io("open", path))?;
        let ids = engine.ids();
        let copied =
            engine.layers().with_tree(chain, |root| place::copy((root, ids), from, (&to, ids)))?;
        copied?;
        return Ok(());
    }
    let Mount { uid, gid, mode, .. } = wanted.mount;
    let ids = engine.ids();
    let owner = |map: &berth_types::IdMap, id: u32| {
        map.to_host(id.into()).map_err(|error| BuildError::Chown { problem: error.to_string() })
    };
    let (uid, gid) = (owner(&ids.uids, uid)?, owner(&ids.gids, gid)?);
    std::os::unix::fs::chown(path, Some(uid), Some(gid)).map_err(EngineError::io("own", path))?;
    let mode = std::os::unix::fs::PermissionsExt::from_mode(mode.unwrap_or(CACHE_MODE));
    std::fs::set_permissions(path, mode).map_err(EngineError::io("chmod", path))
}

impl Mounted {
    /// Files with a text, for a step that runs them.
    pub(super) fn script(
        &mut self,
        tmp: &Path,
        name: &str,
        content: &str,
    ) -> Result<(), EngineError> {
        let dir = super::transfer::inline::put(tmp, name, content, 0o755)?;
        self.extra.mounts.push(bind(dir.path().to_owned(), SCRIPTS.to_owned(), Access::ReadOnly));
        self.files.push(dir);
        Ok(())
    }

    fn add(
        &mut self,
        engine: &Engine,
        context: &Context,
        wanted: &Wanted,
    ) -> Result<(), EngineError> {
        let Wanted { mount, target, source, .. } = wanted;
        if mount.kind == MountKind::Tmpfs {
            let size = mount.size.map(|size| format!(",size={size}")).unwrap_or_default();
            let kind = Kind::Tmpfs { options: format!("exec,dev,mode=755{size}") };
            let destination = target.clone();
            self.extra.mounts.push(ResolvedMount { kind, destination, access: Access::ReadWrite });
            return Ok(());
        }
        // What is written is not kept: it goes into a copy.
        let writable = mount.read_only == Some(false);
        let access = if writable { Access::ReadWrite } else { Access::ReadOnly };
        let ids = engine.ids();
        let path = match source {
            Source::Nothing => return Ok(()),
            Source::Context(path) if !writable && *ids == IdMaps::default() => {
                context.path().join(path)
            }
            Source::Context(path) => {
                let copy = Context::new(&engine.tmp())?;
                let here = IdMaps::default();
                let at = place::copy((context.root(), &here), path, (copy.root(), ids))?;
                self.keep(copy, &at)
            }
            Source::Image(chain, path) => {
                // Remapped users do not get through to where layers are.
                let is_beside = !writable && *ids == IdMaps::default();
                let tree = if is_beside { engine.layers().beside(chain)? } else { None };
                if let Some(tree) = tree {
                    let at = tree.root().join(path);
                    self.trees.push(tree);
                    at
                } else {
                    let copy = Context::new(&engine.tmp())?;
                    let at = engine.layers().with_tree(chain, |root| {
                        place::copy((root, ids), path, (copy.root(), ids))
                    })??;
                    self.keep(copy, &at)
                }
            }
        };
        self.extra.mounts.push(bind(path, target.clone(), access));
        Ok(())
    }

    fn keep(&mut self, copy: Context, at: &Path) -> PathBuf {
        let path = copy.path().join(at);
        self.files.push(Arc::new(copy));
        path
    }
}

/// Where scripts are while they run.
pub(super) const SCRIPTS: &str = "/dev/pipes";

fn bind(source: PathBuf, destination: String, access: Access) -> ResolvedMount {
    let kind = Kind::Bind { source, recursive: false, propagation: String::new() };
    ResolvedMount { kind, destination, access }
}

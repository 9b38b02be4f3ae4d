//! The build's context: the client's files, unpacked to a place of their own.

use std::io::{BufReader, Read};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use berth_build::ignore::Ignore;
use berth_fs::root::{Follow, Root};
use berth_fs::unpack::{Devices, Limits, Owner, TypeClash, UnpackOptions, WhiteoutStyle};
use berth_types::{HexId, IdMaps};
use rustix::fs::FileType;

use super::error::BuildError;
use super::transfer::source::climbs_out;
use crate::error::EngineError;

/// The largest Dockerfile that is read, in bytes.
const LARGEST: u64 = 4 << 20;
const DEFAULT_NAME: &str = "Dockerfile";
const IGNORE: &str = ".dockerignore";

/// The client's files. Dropping it removes them; what a crash leaves of them is removed with the
/// rest of the directory for temporary files.
#[derive(Debug)]
pub(crate) struct Context {
    /// What goes with it.
    dir: PathBuf,
    /// Where the files are: `dir`, or below.
    files: PathBuf,
    root: Root,
    /// Whether the client gave any.
    is_given: bool,
}

impl Context {
    /// An empty one below `tmp`.
    pub(crate) fn new(tmp: &Path) -> Result<Self, EngineError> {
        let dir = tmp.join(format!("build-{}", HexId::random()));
        std::fs::create_dir(&dir).map_err(EngineError::io("create", &dir))?;
        // Steps may see it, whoever runs them; nobody else gets through the directory above it.
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&dir, mode).map_err(EngineError::io("chmod", &dir))?;
        let root = Root::open(&dir).map_err(EngineError::io("open", &dir))?;
        Ok(Self { files: dir.clone(), dir, root, is_given: true })
    }

    /// None: the client gave a Dockerfile alone.
    pub(crate) fn none(tmp: &Path) -> Result<Self, EngineError> {
        let mut none = Self::new(tmp)?;
        none.is_given = false;
        Ok(none)
    }

    /// One directory of it, which links do not lead out of.
    pub(crate) fn narrowed(mut self, dir: &Path) -> std::io::Result<Self> {
        let place = self.root.resolve(dir, Follow::Yes)?;
        self.root = self.root.open_dir(&place)?;
        self.files.push(place);
        Ok(self)
    }

    /// Whether there is one.
    pub(crate) fn is_given(&self) -> bool {
        self.is_given
    }

    /// Unpacks an archive, compressed or not.
    pub(crate) fn unpack(&self, archive: &mut dyn ReadSend) -> Result<(), EngineError> {
        let failed = |error: Box<dyn std::error::Error + Send + Sync>| {
            EngineError::from(BuildError::Context(error))
        };
        let (_, plain) =
            berth_fs::decompress::open(archive).map_err(|error| failed(error.into()))?;
        let options = UnpackOptions {
            whiteouts: WhiteoutStyle::Plain,
            devices: Devices::Create,
            owner: Owner::Archive,
            // Ids as the client has them, until they are put into an image.
            ids: IdMaps::default(),
            known: IdMaps::default(),
            type_clash: TypeClash::Replace,
            limits: Limits::LAYER,
            dest_name: PathBuf::from("/"),
        };
        let input = BufReader::with_capacity(256 << 10, plain);
        berth_fs::unpack::unpack(input, self.root.fd().as_fd(), &options)
            .map(drop)
            .map_err(|error| failed(error.into()))
    }

    /// Where the files are.
    pub(crate) fn path(&self) -> &Path {
        &self.files
    }

    /// The files' root.
    pub(crate) fn root(&self) -> &Root {
        &self.root
    }

    /// Reads the Dockerfile, and takes it and `.dockerignore` out of the context where the latter
    /// says so.
    pub(crate) fn dockerfile(&self, name: &str) -> Result<String, EngineError> {
        let name = if name.is_empty() { DEFAULT_NAME } else { name };
        let lower = name.to_lowercase();
        let candidates = if name == DEFAULT_NAME { vec![name, &lower] } else { vec![name] };
        let there = |candidate: &&&str| self.root.stat(Path::new(candidate), Follow::Yes).is_ok();
        let Some(found) = candidates.iter().find(there) else {
            if climbs_out(name) {
                return Err(BuildError::Outside { path: name.to_owned() }.into());
            }
            return Err(BuildError::NoDockerfile { name: name.to_owned() }.into());
        };
        let text = self.read_text(found)?;
        if text.is_empty() {
            return Err(BuildError::EmptyDockerfile { name: (*found).to_owned() }.into());
        }
        self.take_out(found)?;
        Ok(text)
    }

    fn read_text(&self, name: &str) -> Result<String, EngineError> {
        let failed = |source| BuildError::ReadDockerfile { name: name.to_owned(), source };
        let bad = || BuildError::BadDockerfile { name: name.to_owned(), limit: LARGEST };
        let stat = self.root.stat(Path::new(name), Follow::Yes).map_err(failed)?;
        let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
        if !is_file || u64::try_from(stat.st_size).unwrap_or(u64::MAX) > LARGEST {
            return Err(bad().into());
        }
        let mut bytes = Vec::new();
        let file = self.root.open_file(Path::new(name)).map_err(failed)?;
        file.take(LARGEST).read_to_end(&mut bytes).map_err(failed)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// A broken `.dockerignore` counts as none: the client read it before.
    fn take_out(&self, dockerfile: &str) -> Result<(), EngineError> {
        if self.root.stat(Path::new(IGNORE), Follow::Yes).is_err() {
            return Ok(());
        }
        let Ok(ignore) = Ignore::parse(&self.read_text(IGNORE)?) else { return Ok(()) };
        for name in [IGNORE, dockerfile] {
            let clean = berth_build::apply::clean(name);
            if ignore.matches(clean.trim_start_matches('/')) {
                let removed = self.root.remove_all(Path::new(name));
                removed.map_err(EngineError::io("remove", Path::new(name)))?;
            }
        }
        Ok(())
    }
}

/// What an archive is read from.
pub(crate) trait ReadSend: Read + Send {}

impl<R: Read + Send> ReadSend for R {}

impl Drop for Context {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.dir) {
            tracing::warn!(%error, dir = %self.dir.display(), "left to the next start");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(files: &[(&str, &str)]) -> (tempfile::TempDir, Context) {
        let tmp = tempfile::tempdir().unwrap();
        let context = Context::new(tmp.path()).unwrap();
        let mut tar = tar::Builder::new(Vec::new());
        for (name, content) in files {
            let mut header = tar::Header::new_gnu();
            header.set_mode(0o644);
            header.set_size(content.len() as u64);
            header.set_uid(u64::from(rustix::process::getuid().as_raw()));
            header.set_gid(u64::from(rustix::process::getgid().as_raw()));
            tar.append_data(&mut header, name, content.as_bytes()).unwrap();
        }
        let bytes = tar.into_inner().unwrap();
        context.unpack(&mut bytes.as_slice()).unwrap();
        (tmp, context)
    }

    /// Files, the name asked for, and the text that is read.
    type Case =
        (&'static [(&'static str, &'static str)], &'static str, Result<&'static str, &'static str>);

    #[test]
    fn dockerfiles_are_found() {
        #[rustfmt::skip]
        let table: &[Case] = &[
            (&[("Dockerfile", "A"), ("dockerfile", "b")], "", Ok("A")),
            (&[("dockerfile", "b")],   "",          Ok("b")),
            (&[("x/Other", "o")],      "x/Other",   Ok("o")),
            (&[("x/Other", "o")],      "../x/Other", Ok("o")),
            (&[("x", "o")],            "../no",     Err("forbidden path outside the build context: ../no ()")),
            (&[("x", "o")],            "",          Err("Cannot locate specified Dockerfile: Dockerfile")),
            (&[("dockerfile", "o")],   "Other",     Err("Cannot locate specified Dockerfile: Other")),
            (&[("Dockerfile", "")],    "",          Err("the Dockerfile (Dockerfile) cannot be empty")),
            (&[("d/x", "")],           "d",         Err("the Dockerfile (d) is not a regular file of at most 4194304 bytes")),
        ];
        for (files, name, expected) in table {
            let (_tmp, context) = context(files);
            let got = context.dockerfile(name).map_err(|error| error.to_string());
            assert_eq!(got, expected.map(str::to_owned).map_err(str::to_owned), "{files:?}");
        }
    }

    #[test]
    fn what_the_patterns_name_is_no_part_of_the_context() {
        #[rustfmt::skip]
        let table = [
            ("",                            true,  true),
            ("Dockerfile",                  false, true),
            (".dockerignore",               true,  false),
            ("*\n!Dockerfile",              true,  false),
            ("!",                           true,  true),
        ];
        for (patterns, dockerfile, ignore) in table {
            let (_tmp, context) = context(&[("Dockerfile", "x"), (".dockerignore", patterns)]);
            context.dockerfile("").unwrap();
            let there = |name: &str| context.root().stat(Path::new(name), Follow::No).is_ok();
            assert_eq!((there("Dockerfile"), there(IGNORE)), (dockerfile, ignore), "{patterns:?}");
        }
    }

    #[test]
    fn nothing_stays_behind() {
        let (tmp, context) = context(&[("a/b", "x")]);
        drop(context);
        assert_eq!(std::fs::read_dir(tmp.path()).unwrap().count(), 0);
    }
}

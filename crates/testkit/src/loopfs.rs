//! File systems of a chosen kind in a file, mounted for one test.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::fs::FallocateFlags;
use rustix::io::Errno;

/// A new file system in a sparse file, mounted through a loop device. Dropped: everything mounted
/// below it and the file are gone, unless `BERTH_KEEP` is set.
#[derive(Debug)]
pub struct LoopFs {
    dir: PathBuf,
}

impl LoopFs {
    /// Makes one of `kind` (`ext4`, `xfs`, `btrfs`); `Err` names what this machine lacks.
    pub fn new(kind: &str) -> Result<Self, String> {
        Self::with(kind, &[], "loop")
    }

    /// Like [`new`](Self::new), with arguments for `mkfs` and options for `mount`.
    pub fn with(kind: &str, mkfs: &[&str], options: &str) -> Result<Self, String> {
        Self::build(kind, mkfs, options, SIZE)
    }

    /// Like [`new`](Self::new), of this size in bytes. What is not written takes no space.
    pub fn sized(kind: &str, bytes: u64) -> Result<Self, String> {
        Self::build(kind, &[], "loop", bytes)
    }

    fn build(kind: &str, mkfs: &[&str], options: &str, bytes: u64) -> Result<Self, String> {
        if !crate::is_root() {
            return Err("root".to_owned());
        }
        let program = format!("mkfs.{kind}");
        if !crate::has_program(&program) {
            return Err(program);
        }
        let unique = UNIQUE.fetch_add(1, Ordering::Relaxed);
        let dir = PathBuf::from(format!("/var/tmp/berth-loop-{}-{unique}", std::process::id()));
        fs::create_dir(&dir).expect("a directory of its own");
        let this = Self { dir };
        fs::create_dir(this.path()).expect("a mount point");
        let image = this.image();
        File::create(&image).and_then(|file| file.set_len(bytes)).expect("a sparse file");
        run(Command::new(program).args(quiet(kind)).args(mkfs).arg(&image))?;
        let options = if options.is_empty() { "loop" } else { options };
        run(Command::new("mount").args(["-t", kind, "-o", options]).arg(&image).arg(this.path()))?;
        Ok(this)
    }

    /// Makes one for a test, or says by name that the test is skipped.
    pub fn or_skip(test: &str, kind: &str) -> Option<Self> {
        match Self::new(kind) {
            Ok(made) => Some(made),
            Err(need) => {
                crate::skip(test, &format!("{kind} on a loop device: {need}"));
                None
            }
        }
    }

    /// Mounts what a power cut at this moment would leave: a copy of the device, in which nothing
    /// is that was not written out. `Err` says why this machine cannot.
    pub fn cut(&self, options: &str) -> Result<Self, String> {
        let dir =
            self.dir.with_extension(format!("cut-{}", UNIQUE.fetch_add(1, Ordering::Relaxed)));
        fs::create_dir(&dir).expect("a directory of its own");
        let copy = Self { dir };
        fs::create_dir(copy.path()).expect("a mount point");
        let mut command = Command::new("cp");
        run(command.arg("--sparse=always").arg(self.image()).arg(copy.image()))?;
        run(Command::new("mount").args(["-o", options]).arg(copy.image()).arg(copy.path()))?;
        Ok(copy)
    }

    /// Where it is mounted.
    pub fn path(&self) -> PathBuf {
        self.dir.join("mnt")
    }

    /// Takes up all its space.
    pub fn fill(&self) -> Filler {
        Filler::below(&self.path())
    }

    fn image(&self) -> PathBuf {
        self.dir.join("image")
    }

    fn clear(&self) -> Result<(), String> {
        while is_mounted(&self.path()) {
            run(Command::new("umount").args(["-R", "-l"]).arg(self.path()))?;
        }
        fs::remove_dir_all(&self.dir).map_err(|error| error.to_string())
    }
}

impl Drop for LoopFs {
    fn drop(&mut self) {
        let mut stderr = std::io::stderr().lock();
        if std::env::var_os("BERTH_KEEP").is_some() {
            writeln!(stderr, "kept {}", self.dir.display()).expect("stderr can be written");
        } else if let Err(error) = self.clear() {
            let dir = self.dir.display();
            writeln!(stderr, "{dir} was not removed: {error}").expect("stderr can be written");
        }
    }
}

/// A file that fills a file system. Dropped: it is gone.
#[derive(Debug)]
pub struct Filler {
    path: PathBuf,
    file: File,
    bytes: u64,
}

impl Filler {
    /// Takes up all the space of the file system that the directory is on, with a file in it.
    pub fn below(dir: &Path) -> Self {
        let path = dir.join("filler");
        let file = File::create_new(&path).expect("a file");
        let mut filler = Self { path, file, bytes: 0 };
        filler.take_all();
        filler
    }

    /// Takes up what there is.
    pub fn take_all(&mut self) {
        // Deleting may give space back a moment later.
        rustix::fs::syncfs(&self.file).expect("a sync");
        let mut step = SIZE;
        while step >= BLOCK {
            let more = rustix::fs::fallocate(&self.file, FallocateFlags::empty(), self.bytes, step);
            match more {
                Ok(()) => self.bytes += step,
                Err(Errno::NOSPC) => step /= 2,
                Err(error) => panic!("cannot fill {}: {error}", self.path.display()),
            }
        }
        self.file.sync_all().expect("a sync");
    }

    /// Takes up all but so much.
    pub fn take_all_but(&mut self, bytes: u64) {
        self.take_all();
        self.bytes = self.bytes.saturating_sub(bytes);
        self.file.set_len(self.bytes).expect("a shorter file");
        self.file.sync_all().expect("a sync");
    }
}

impl Drop for Filler {
    fn drop(&mut self) {
        // Not while unwinding: the file goes with the file system.
        if !std::thread::panicking() {
            fs::remove_file(&self.path).expect("the file can be removed");
        }
    }
}

const BLOCK: u64 = 4096;
/// What xfs needs at least; the file is sparse.
const SIZE: u64 = 512 << 20;
static UNIQUE: AtomicU32 = AtomicU32::new(0);

fn quiet(kind: &str) -> &'static [&'static str] {
    match kind {
        "ext4" => &["-q", "-F"],
        _ => &["-q"],
    }
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}

fn is_mounted(path: &Path) -> bool {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    text.lines().any(|line| line.split(' ').nth(4).is_some_and(|at| Path::new(at) == path))
}

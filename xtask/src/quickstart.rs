//! `cargo xtask quickstart`: an engine on directories of its own, and a tour of what its storage does.
//!
//! Every step is the `berth` program, shown as it would be typed. Whatever happens, the engine, its
//! containers and its directories are gone at the end.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};

use crate::interrupt::Interrupt;
use crate::lab::{Lab, Program};
use crate::{archive, host, run, ui};

/// How many containers share the image.
const CONTAINERS: usize = 5;

/// Builds, gets the rights it takes, and gives the tour.
pub(crate) fn run(args: &[String]) -> Result<()> {
    let interrupt = Interrupt::watch()?;
    let built = match args {
        [] => build()?,
        // What the part without root's rights passes on to the part with them.
        [flag, dir] if flag == "--built" => PathBuf::from(dir),
        _ => bail!("quickstart takes no arguments, not {}", args.join(" ")),
    };
    if host::is_root() {
        return tour(&built, &interrupt);
    }
    if !host::on_path("sudo") {
        bail!(
            "a container engine mounts file systems and makes namespaces, which takes root's \
             rights, and there is no sudo here; as root run: cargo xtask quickstart"
        );
    }
    ui::line("containers take root's rights: sudo may ask for your password");
    let own = std::env::current_exe().context("the path of this program")?;
    run::succeed(Command::new("sudo").arg(own).args(["quickstart", "--built"]).arg(&built))
}

fn build() -> Result<PathBuf> {
    host::ensure(host::BUILD)?;
    host::ensure(host::RUN)?;
    ui::step("building berth (some minutes the first time)");
    run::build_release()
}

fn tour(built: &Path, interrupt: &Interrupt) -> Result<()> {
    let begun = Instant::now();
    ui::step("1. an engine of its own");
    let lab = Lab::start("berth-quickstart", Program::Berth(built.join("berth")))?;
    let tour = Tour { lab, berth: built.join("berth"), interrupt: interrupt.clone() };
    if let Err(error) = tour.walk() {
        bail!("{error:#}\nthe daemon's log ends:\n{}", tour.lab.end_of_log());
    }
    ui::step("7. cleaning up");
    drop(tour);
    ui::line("The containers are removed, the engine is stopped, its directories are deleted.");
    ui::line(&format!("The tour took {:.1} s.", begun.elapsed().as_secs_f32()));
    ui::line("");
    ui::line("To go on by yourself (README.md has the whole tour):");
    ui::line(&format!("  sudo {}/berth daemon &", built.display()));
    ui::line(&format!("  sudo {}/berth info", built.display()));
    Ok(())
}

struct Tour {
    lab: Lab,
    berth: PathBuf,
    interrupt: Interrupt,
}

impl Tour {
    fn walk(&self) -> Result<()> {
        self.introduce()?;
        self.make_image()?;
        self.start_containers()?;
        self.show_disk()?;
        self.write()?;
        self.keep_in_volume()
    }

    fn introduce(&self) -> Result<()> {
        ui::line(&format!(
            "`berth daemon` runs now. Everything it keeps is in {}; your machine's own\n\
             containers and network are not touched. Its storage driver is:",
            self.lab.data_root().display()
        ));
        let driver = self.show(&["info", "--format", "{{.Driver}}"])?;
        if driver.trim() == "vfs" {
            ui::line(
                "That is the driver of last resort, because overlay2 does not work on this file system:\n\
                 it copies the image for every container. What follows about sharing is true elsewhere.",
            );
        }
        Ok(())
    }

    fn make_image(&self) -> Result<()> {
        ui::step("2. an image");
        ui::line(
            "An image is a packed file system. This one is made on the spot: this machine's busybox\n\
             (a shell and some hundred small tools in one program) and a few files in /etc.",
        );
        let root = archive::busybox_root()?;
        ui::line("$ berth import - tour:1 < busybox.tar");
        let mut command = self.command(&["import", "-", "tour:1"]);
        self.run_with(&mut command, &root)?;
        self.show(&["images"])?;
        Ok(())
    }

    fn start_containers(&self) -> Result<()> {
        ui::step("3. five containers from one image");
        ui::line(
            "Each container gets the image's files without a copy of them, and a layer of its own that\n\
             holds only what it changes.",
        );
        for number in 1..=CONTAINERS {
            let name = format!("tour{number}");
            let mut words = vec!["run", "-dit", "--name", &name];
            words.extend(self.network());
            words.extend(["tour:1", "sh"]);
            self.show(&words)?;
        }
        self.show(&["ps", "-s", "--format", SIZES])?;
        ui::line(
            "The first size is what the container wrote itself: nothing so far. The virtual size adds\n\
             the image, which all five share and which is on the disk once.",
        );
        if self.lab.has_bridge() {
            ui::line("Each is a machine to itself, with its own processes and its own address:");
            self.show(&["exec", "tour2", "ip", "-4", "-o", "addr", "show", "eth0"])?;
        }
        Ok(())
    }

    fn show_disk(&self) -> Result<()> {
        ui::step("4. what it costs on the disk");
        let root = self.lab.data_root();
        let mut rows = vec![vec!["what".to_owned(), "on disk".to_owned()]];
        let image =
            self.ask(&["inspect", "--format", "{{.GraphDriver.Data.UpperDir}}", "tour:1"])?;
        let is_shared = image.starts_with('/');
        rows.push(if is_shared {
            vec!["the image's files, once".to_owned(), on_disk(&[image.into()])?]
        } else {
            let driver = self.ask(&["info", "--format", "{{.Driver}}"])?;
            let what = match driver.as_str() {
                "btrfs" => "the image and its snapshots, each counted whole",
                _ => "the image and its copies",
            };
            vec![what.to_owned(), on_disk(&[root.join(driver)])?]
        });
        for number in 1..=CONTAINERS {
            let name = format!("tour{number}");
            let id = self.ask(&["inspect", "--format", "{{.Id}}", &name])?;
            let mut dirs = vec![root.join("containers").join(&id)];
            if is_shared {
                // The layer itself, and the mount points that every container gets.
                let upper = "{{.GraphDriver.Data.UpperDir}}";
                let diff = PathBuf::from(self.ask(&["inspect", "--format", upper, &name])?);
                let layer = diff.parent().context("a layer's directory")?;
                let init = PathBuf::from(format!("{}-init", layer.display()));
                dirs.extend([diff.clone(), layer.join("work"), init]);
            }
            let what = if is_shared { "its layer, its log" } else { "its log" };
            rows.push(vec![format!("{name}: {what}, its /etc/hosts …"), on_disk(&dirs)?]);
        }
        ui::table(&rows);
        Ok(())
    }

    fn write(&self) -> Result<()> {
        ui::step("5. one of them writes");
        let script = "dd if=/dev/zero of=/root/big bs=1M count=10 2>/dev/null; \
                      echo guest:x:1000:1000::/home:/bin/sh >> /etc/passwd; rm /etc/group";
        self.show(&["exec", "tour1", "sh", "-c", script])?;
        ui::line("What differs from the image now: A is added, C changed, D deleted.");
        self.show(&["diff", "tour1"])?;
        ui::line(
            "The first change to a file copies it up into the container's layer. Only tour1 grew:",
        );
        self.show(&["ps", "-s", "--format", SIZES])?;
        ui::line("And the others still have the file that tour1 deleted:");
        self.show(&["exec", "tour2", "cat", "/etc/group"])?;
        Ok(())
    }

    fn keep_in_volume(&self) -> Result<()> {
        ui::step("6. a volume outlives its container");
        ui::line(
            "What must stay goes into a volume. This container writes to one and is gone at once:",
        );
        let mut write = vec!["run", "--rm"];
        write.extend(self.network());
        write.extend(["-v", "keep:/keep", "tour:1", "sh", "-c", "echo still here > /keep/note"]);
        self.show(&write)?;
        self.show(&["volume", "ls"])?;
        ui::line("Another container finds what the first one left:");
        let mut read = vec!["run", "--rm"];
        read.extend(self.network());
        read.extend(["-v", "keep:/keep", "tour:1", "cat", "/keep/note"]);
        let note = self.show(&read)?;
        if note.trim() != "still here" {
            bail!("the volume should have held \"still here\", not {note:?}");
        }
        Ok(())
    }

    /// Where there is no bridge, containers do without a network.
    fn network(&self) -> &'static [&'static str] {
        if self.lab.has_bridge() { &[] } else { &["--network", "none"] }
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.berth);
        command.arg("--host").arg(format!("unix://{}", self.lab.socket().display())).args(words);
        command
    }

    /// Shows a command as it would be typed, runs it, and shows what it prints.
    fn show(&self, words: &[&str]) -> Result<String> {
        let typed: Vec<String> = words.iter().map(|word| quoted(word)).collect();
        ui::line(&format!("$ berth {}", typed.join(" ")));
        self.run_with(&mut self.command(words), b"")
    }

    fn ask(&self, words: &[&str]) -> Result<String> {
        self.interrupt.check()?;
        Ok(run::output(&mut self.command(words))?.trim().to_owned())
    }

    fn run_with(&self, command: &mut Command, input: &[u8]) -> Result<String> {
        use std::io::Write as _;
        self.interrupt.check()?;
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {command:?}"))?;
        let mut stdin = child.stdin.take().expect("stdin is a pipe");
        let sent = stdin.write_all(input);
        drop(stdin);
        let output = child.wait_with_output()?;
        self.interrupt.check()?;
        if !output.status.success() {
            bail!("{command:?}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
        }
        sent.context("the program did not read its input")?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if !text.trim().is_empty() {
            ui::line(text.trim_end());
        }
        Ok(text)
    }
}

const SIZES: &str = "table {{.Names}}\t{{.Image}}\t{{.Status}}\t{{.Size}}";

/// As a shell takes it.
fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''").replace('\t', "\\t"))
}

/// What these directories take together.
fn on_disk(dirs: &[PathBuf]) -> Result<String> {
    let text = run::output(Command::new("du").arg("-shc").args(dirs))?;
    let total = text.lines().last().and_then(|line| line.split_whitespace().next());
    Ok(total.unwrap_or("?").to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_shown_as_a_shell_takes_them() {
        assert_eq!(quoted("-dit"), "-dit");
        assert_eq!(quoted("echo a > b"), "'echo a > b'");
        assert_eq!(quoted("it's"), "'it'\\''s'");
        assert_eq!(quoted(""), "''");
    }
}

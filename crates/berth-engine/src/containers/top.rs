//! The processes of a container, as the host's `ps` shows them.

use std::process::Command;

use berth_api::container::TopResponse;

use super::state::Status;
use super::stats;
use super::watcher::Watcher;
use crate::blocking::blocking;
use crate::engine::Engine;
use crate::error::{ContainerError, EngineError};

/// What Docker gives `ps` when nobody says otherwise.
const DEFAULT_ARGS: &str = "-ef";

impl Engine {
    /// Runs `ps` with these arguments on the host and keeps the container's processes.
    pub async fn top_container(
        &self,
        name: &str,
        ps_args: &str,
    ) -> Result<TopResponse, EngineError> {
        let container = self.registry().find(name)?;
        match container.state().status {
            Status::Running | Status::Paused => {}
            Status::Restarting => {
                return Err(ContainerError::Restarting { id: container.id().to_string() }.into());
            }
            _ => {
                return Err(ContainerError::NotRunning { id: container.id().to_string() }.into());
            }
        }
        let args = if ps_args.trim().is_empty() { DEFAULT_ARGS } else { ps_args }.to_owned();
        let path = stats::cgroup_path(&Watcher::of(self, container.id()));
        let engine = self.clone();
        let top = blocking(move || {
            let pids = engine.host().cgroups.processes(&path?).map_err(EngineError::io(
                "list the processes of",
                std::path::Path::new("the container's cgroup"),
            ))?;
            processes(&args, &pids)
        })
        .await?;
        self.publish_container(&container, "top", []);
        Ok(top)
    }
}

fn processes(args: &str, pids: &[i32]) -> Result<TopResponse, EngineError> {
    let args: Vec<&str> = args.split_whitespace().collect();
    let output = Command::new("ps")
        .args(&args)
        .output()
        .map_err(EngineError::io("run", std::path::Path::new("ps (package procps)")))?;
    if !output.status.success() {
        let text =
            String::from_utf8_lossy(&output.stderr).lines().next().unwrap_or_default().to_owned();
        return Err(ContainerError::Ps { text }.into());
    }
    parse(&String::from_utf8_lossy(&output.stdout), pids).map_err(Into::into)
}

/// Keeps the title line's columns and the rows of these processes. The last column takes the rest
/// of its row.
fn parse(output: &str, pids: &[i32]) -> Result<TopResponse, ContainerError> {
    let mut lines = output.lines();
    let titles: Vec<String> =
        lines.next().unwrap_or_default().split_whitespace().map(str::to_owned).collect();
    let column = titles
        .iter()
        .position(|title| title == "PID")
        .ok_or(ContainerError::PsArgs { reason: "Couldn't find PID field in ps output" })?;
    let mut rows = Vec::new();
    let mut before_was_ours = false;
    for line in lines {
        let words: Vec<&str> = line.split_whitespace().collect();
        let Some(&pid) = words.get(column) else { continue };
        // `ps -T` and `-L` print `-` for the threads below a process.
        let ours = if pid == "-" {
            before_was_ours
        } else {
            pid.parse().is_ok_and(|pid: i32| pids.contains(&pid))
        };
        before_was_ours = ours;
        if ours {
            let fixed = titles.len() - 1;
            let mut row: Vec<String> =
                words.iter().take(fixed).map(|word| (*word).to_owned()).collect();
            row.push(words.get(fixed..).unwrap_or_default().join(" "));
            rows.push(row);
        }
    }
    Ok(TopResponse { processes: rows, titles })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_other_processes_are_dropped() {
        let output = "UID PID CMD\nroot 1 /sbin/init splash\nroot 7 sleep 9\nu 8 sh -c x y\n";
        let top = parse(output, &[7, 8]).unwrap();
        assert_eq!(top.titles, ["UID", "PID", "CMD"]);
        assert_eq!(
            top.processes,
            [["root", "7", "sleep 9"], ["u", "8", "sh -c x y"]]
                .map(|row| row.map(str::to_owned).to_vec())
        );
        assert!(parse("UID CMD\n", &[1]).is_err());
    }
}

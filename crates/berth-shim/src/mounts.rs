//! The container's root in the host's mount namespace: made before, undone after.

use std::fs;
use std::io;

use berth_shim_proto::{Mount, ShimConfig};
use berth_sys::mount::{MountRequest, Unmount, before_unmount, mount, unmount};

use crate::error::ShimError;
use crate::say;

/// Makes the mounts in order; when one fails the earlier ones are undone.
pub(crate) fn set_up(config: &ShimConfig) -> Result<(), ShimError> {
    for (index, plan) in config.mounts.iter().enumerate() {
        if let Err(source) = make(plan) {
            undo(&config.mounts[..index]);
            take_steps(config);
            let (source_dir, target) = (plan.source.clone(), plan.target.clone());
            return Err(ShimError::Mount { source_dir, target, source });
        }
    }
    Ok(())
}

fn make(plan: &Mount) -> io::Result<()> {
    if fs::symlink_metadata(&plan.target).is_err() {
        fs::create_dir_all(&plan.target)?;
    }
    // This process has one thread: its own working directory will do, and no helper is needed.
    if let Some(dir) = &plan.work_dir {
        rustix::process::chdir(dir)?;
    }
    let request = MountRequest {
        fs_type: &plan.fs_type,
        source: &plan.source,
        target: &plan.target,
        work_dir: None,
        options: &plan.options,
    };
    let result = mount(&request);
    rustix::process::chdir("/")?;
    result
}

/// Undoes all of it, last first. What cannot be undone is noted and does not stop the rest.
pub(crate) fn tear_down(config: &ShimConfig) {
    undo(&config.mounts);
    take_steps(config);
}

fn undo(mounts: &[Mount]) {
    for plan in mounts.iter().rev() {
        before_unmount(&plan.fs_type, &plan.target);
        let done = match unmount(&plan.target, Unmount::Now) {
            // Somebody looks into it: it goes from sight now and ends with him.
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                unmount(&plan.target, Unmount::Lazy)
            }
            other => other,
        };
        match done {
            Ok(()) => {}
            // Not mounted, or its directory is gone.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::InvalidInput | io::ErrorKind::NotFound
                ) => {}
            Err(error) => say(&format!("cannot unmount {}: {error}", plan.target.display())),
        }
    }
}

fn take_steps(config: &ShimConfig) {
    for step in &config.teardown {
        if let Err(error) = step.take() {
            say(&format!("cannot undo {step:?}: {error}"));
        }
    }
}

//! Why the watcher could not do something, and how Docker's exit codes follow from texts.

use std::io;
use std::path::{Path, PathBuf};

use berth_shim_proto::Failure;

/// Why the watcher could not do something.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ShimError {
    #[error("cannot {action} {}", .path.display())]
    File { action: &'static str, path: PathBuf, source: io::Error },
    #[error("{} is not valid", .path.display())]
    Json { path: PathBuf, source: serde_json::Error },
    #[error("cannot {action}")]
    System { action: &'static str, source: io::Error },
    #[error("cannot write the log")]
    Log { source: berth_logs::LogError },
    #[error("error mounting {source_dir:?} to rootfs at {target:?}")]
    Mount { source_dir: PathBuf, target: PathBuf, source: io::Error },
    #[error("{text}")]
    Runtime { text: String },
    #[error("control groups of version 2 need {}", .path.display())]
    NoDeviceProgram { path: PathBuf, source: io::Error },
    #[error("{}", .failure.message)]
    Refused { failure: Failure },
}

impl ShimError {
    pub(crate) fn file(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::File { action, path: path.to_owned(), source }
    }

    pub(crate) fn system(action: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::System { action, source }
    }

    /// What the daemon is told. `otherwise` is the exit code when the text does not decide it: 128
    /// for a container, 126 for an exec.
    pub(crate) fn failure(&self, otherwise: i32) -> Failure {
        match self {
            Self::Refused { failure } => failure.clone(),
            other => failure(berth_types::kind::chain(other), otherwise),
        }
    }
}

/// A failure with the exit code that Docker derives from the text.
pub(crate) fn failure(message: String, otherwise: i32) -> Failure {
    let not_found = message.starts_with("exec: ")
        && (message.contains("executable file not found")
            || message.contains("no such file or directory"));
    let exit_code = if message.contains("permission denied")
        || message.contains("is a directory")
        || message.contains("not a directory")
    {
        126
    } else if not_found {
        127
    } else {
        otherwise
    };
    Failure { exit_code, message }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_follow_from_texts_as_in_docker() {
        #[rustfmt::skip]
        let table = [
            (r#"exec: "x": executable file not found in $PATH"#,    127),
            (r#"exec: "/x": stat /x: no such file or directory"#,   127),
            (r#"exec: "/x": permission denied"#,                    126),
            (r#"exec: "/": is a directory"#,                        126),
            ("error mounting: not a directory",                     126),
            ("error mounting: no such file or directory",           128),
            ("anything",                                            128),
        ];
        for (text, code) in table {
            assert_eq!(failure(text.to_owned(), 128).exit_code, code, "{text}");
        }
    }
}

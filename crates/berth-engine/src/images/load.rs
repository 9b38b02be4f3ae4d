//! Loading archives of images.

use berth_api::image::{ProgressDetail, ProgressMessage};
use berth_images::load::LoadProgress;

use super::stream::{Archive, Messages, messages};
use crate::engine::Engine;
use crate::error::EngineError;

/// How to load.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LoadOptions {
    /// Only what was loaded is told, not how far each layer is.
    pub quiet: bool,
}

impl Engine {
    /// Loads every image of an archive, or none. What happens is told as it does; the last message
    /// is the failure, if there is one.
    pub fn load_images(&self, archive: Archive, options: LoadOptions) -> Messages {
        let (sender, receiver) = messages();
        let engine = self.clone();
        tokio::task::spawn_blocking(move || {
            let mut report = |at: LoadProgress| {
                if !options.quiet {
                    sender.try_send(loading(&at));
                }
            };
            match engine.images().load(archive, &engine.tmp(), &mut report) {
                Ok(loaded) => {
                    for line in loaded.lines() {
                        sender.send(ProgressMessage::stream(line));
                    }
                    for image in &loaded.images {
                        engine.publish_image("load", &image.id, image.id.as_str());
                    }
                }
                Err(error) => sender.fail(&EngineError::from(error)),
            }
            // What a failure, or a load of the same layers at the same time, left in the trash.
            engine.reap_later();
        });
        receiver
    }
}

fn loading(at: &LoadProgress) -> ProgressMessage {
    let (current, total) = (signed(at.current), signed(at.total));
    ProgressMessage {
        status: Some("Loading layer".to_owned()),
        progress_detail: Some(ProgressDetail { current: Some(current), total: Some(total) }),
        progress: Some(bar(at.current, at.total)),
        id: Some(at.diff.short().to_owned()),
        ..ProgressMessage::default()
    }
}

/// Docker's bar of fifty characters and the two sizes.
fn bar(current: u64, total: u64) -> String {
    const WIDTH: u64 = 50;
    let percent = (current.min(total) * 100).checked_div(total).unwrap_or(0);
    let filled = usize::try_from(percent * WIDTH / 100).unwrap_or(0);
    let width = usize::try_from(WIDTH).unwrap_or(0);
    let head = if filled < width { ">" } else { "" };
    let line = format!("{}{head}", "=".repeat(filled));
    format!("[{line:<width$}]  {}/{}", size(current), size(total))
}

#[expect(clippy::cast_precision_loss, reason = "shown with four digits")]
fn size(bytes: u64) -> String {
    berth_types::size::human(bytes as f64)
}

fn signed(size: u64) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_is_dockers() {
        #[rustfmt::skip]
        let table = [
            (0,         1_000_000, "[>                                                 ]      0B/1MB"),
            (500_000,   1_000_000, "[=========================>                        ]   500kB/1MB"),
            (1_000_000, 1_000_000, "[==================================================]     1MB/1MB"),
        ];
        for (current, total, expected) in table {
            let squeezed = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
            assert_eq!(squeezed(&bar(current, total)), squeezed(expected));
        }
    }
}

//! Loading archives of images.

use berth_api::image::{ProgressDetail, ProgressMessage};
use berth_images::load::LoadProgress;

use super::stream::{Archive, Messages, messages};
use crate::engine::Engine;
use crate::error::EngineError;
use crate::registry::bar;

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

fn signed(size: u64) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}

//! What is told while it happens, in Docker's words and with Docker's bar.

use berth_api::image::{ProgressDetail, ProgressMessage};

/// A line about one layer.
pub(super) fn layer(id: &str, status: impl Into<String>) -> ProgressMessage {
    ProgressMessage {
        status: Some(status.into()),
        progress_detail: Some(ProgressDetail::default()),
        id: Some(id.to_owned()),
        ..ProgressMessage::default()
    }
}

/// How far one layer is.
pub(crate) fn far(id: &str, status: &str, current: u64, total: u64) -> ProgressMessage {
    let signed = |size: u64| Some(i64::try_from(size).unwrap_or(i64::MAX));
    ProgressMessage {
        status: Some(status.to_owned()),
        progress_detail: Some(ProgressDetail {
            current: signed(current),
            total: signed(total).filter(|total| *total > 0),
        }),
        progress: Some(bar(current, total)),
        id: Some(id.to_owned()),
        ..ProgressMessage::default()
    }
}

/// A line that begins with a name.
pub(super) fn named(id: impl Into<String>, status: impl Into<String>) -> ProgressMessage {
    ProgressMessage {
        status: Some(status.into()),
        id: Some(id.into()),
        ..ProgressMessage::default()
    }
}

/// How long the bar is.
const WIDTH: usize = 50;

/// Docker's bar of fifty characters and the sizes; one size alone when the end is not known, or
/// wrong.
pub(crate) fn bar(current: u64, total: u64) -> String {
    if total == 0 {
        return format!("{:>8}", size(current));
    }
    let filled = usize::try_from(current.min(total) * 100 / total / 2).unwrap_or(WIDTH);
    let blank = " ".repeat(WIDTH.saturating_sub(filled));
    let line = format!("[{}>{blank}]", "=".repeat(filled.min(WIDTH)));
    if current > total {
        return format!("{line} {:>8}", size(current));
    }
    format!("{line} {:>8}/{}", size(current), size(total))
}

#[expect(clippy::cast_precision_loss, reason = "shown with four digits")]
fn size(bytes: u64) -> String {
    berth_types::size::human(bytes as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_is_dockers() {
        #[rustfmt::skip]
        let table = [
            (33_280,    1_982_256, "[>                                                  ]  33.28kB/1.982MB"),
            (1_540_608, 1_982_256, "[======================================>            ]  1.541MB/1.982MB"),
            (1_986_560, 1_982_256, "[==================================================>]  1.987MB"),
            (93,        93,        "[==================================================>]      93B/93B"),
            (93,        0,         "     93B"),
        ];
        for (current, total, expected) in table {
            assert_eq!(bar(current, total), expected);
        }
    }
}

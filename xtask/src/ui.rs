//! The only place that prints.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "this is where the program speaks")]

use std::io::{IsTerminal as _, Write as _};

/// One line of text.
pub(crate) fn line(text: &str) {
    println!("{text}");
}

/// Why the command failed.
pub(crate) fn error(text: &str) {
    eprintln!("error: {text}");
}

/// Bytes as another program printed them.
pub(crate) fn raw(bytes: &[u8]) {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(bytes).and_then(|()| stdout.flush()).expect("stdout can be written");
}

/// The same, on standard error.
pub(crate) fn raw_error(bytes: &[u8]) {
    std::io::stderr().lock().write_all(bytes).expect("stderr can be written");
}

/// A heading before a step.
pub(crate) fn step(text: &str) {
    if std::io::stdout().is_terminal() {
        println!("\n\x1b[1m== {text}\x1b[0m");
    } else {
        println!("\n== {text}");
    }
}

/// A table whose columns fit their longest cell; all but the first are aligned to the right.
pub(crate) fn table(rows: &[Vec<String>]) {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max()
    };
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    for row in rows {
        let mut text = String::new();
        for (column, cell) in row.iter().enumerate() {
            let width = widths[column];
            if column == 0 {
                text = format!("{cell:<width$}");
            } else {
                text = format!("{text}  {cell:>width$}");
            }
        }
        println!("{}", text.trim_end());
    }
}

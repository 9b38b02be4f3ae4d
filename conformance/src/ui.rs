//! The only place that prints.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "this is where the program speaks")]

/// A line of the report, on standard output.
pub(crate) fn line(text: &str) {
    println!("{text}");
}

/// Details for a reader, on standard error.
pub(crate) fn detail(text: &str) {
    eprintln!("{text}");
}

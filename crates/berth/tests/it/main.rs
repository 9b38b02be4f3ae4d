//! The built program, run as an administrator runs it.

#![forbid(unsafe_code)]

#[cfg(test)]
mod daemon_start;

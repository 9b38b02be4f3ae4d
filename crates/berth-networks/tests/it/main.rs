//! The bridge on real interfaces, inside a network namespace of the test's own.

#[cfg(test)]
mod bridge;

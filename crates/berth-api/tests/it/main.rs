//! Tests of the messages against what a real dockerd printed.

#[cfg(test)]
mod golden;

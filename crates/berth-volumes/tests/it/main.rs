//! Volumes against temp directories and real mounts.

#[cfg(test)]
mod fault;
#[cfg(test)]
mod kit;
#[cfg(test)]
mod populate;
#[cfg(test)]
mod store;

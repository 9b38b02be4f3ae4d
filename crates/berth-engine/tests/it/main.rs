//! The engine without HTTP: its data root, and what it finds there.

#![forbid(unsafe_code)]

#[cfg(test)]
mod backup;
#[cfg(test)]
mod build;
#[cfg(test)]
mod data_root;
#[cfg(test)]
mod kit;
#[cfg(test)]
mod layers;
#[cfg(test)]
mod metrics;
#[cfg(test)]
mod registry;
#[cfg(test)]
mod switching;

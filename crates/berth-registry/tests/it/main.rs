//! The client against servers that say what they are told to.

#![forbid(unsafe_code)]

#[cfg(test)]
mod auth;
#[cfg(test)]
mod blobs;
#[cfg(test)]
mod connections;
#[cfg(test)]
mod fetch;
#[cfg(test)]
mod kit;
#[cfg(test)]
mod tls;
#[cfg(test)]
mod uploads;
#[cfg(test)]
mod words;

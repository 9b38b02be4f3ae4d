//! The real `berth-shim` on hand-made bundles, without a daemon. Needs root and a static busybox.

#[cfg(test)]
mod bundle;
#[cfg(test)]
mod execs;
#[cfg(test)]
mod life;
#[cfg(test)]
mod streams;

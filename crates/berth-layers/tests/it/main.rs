//! The layer store over each driver.

#[cfg(test)]
mod aufs;
#[cfg(test)]
mod check;
#[cfg(test)]
mod container;
#[cfg(test)]
mod crash;
#[cfg(test)]
mod draft;
#[cfg(test)]
mod fixture;
#[cfg(test)]
mod full;
#[cfg(test)]
mod image;
#[cfg(test)]
mod readers;
#[cfg(test)]
mod repair;
#[cfg(test)]
mod sizes;
#[cfg(test)]
mod zfs;

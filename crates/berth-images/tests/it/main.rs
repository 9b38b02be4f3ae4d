//! The image store over each driver.

#[cfg(test)]
mod archives;
#[cfg(test)]
mod fixture;
#[cfg(test)]
mod foreign;
#[cfg(test)]
mod load;
#[cfg(test)]
mod migrate;
#[cfg(test)]
mod records;
#[cfg(test)]
mod refused;
#[cfg(test)]
mod remove;
#[cfg(test)]
mod save;

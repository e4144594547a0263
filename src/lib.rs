#![doc = include_str!("ARCHITECTURE.md")]

pub mod types;

pub mod encoding;
pub mod env;

pub mod wire;

#[cfg(feature = "client")]
pub mod client;

#[cfg(feature = "full")]
pub mod backup;

#[cfg(feature = "full")]
pub mod storage;

#[cfg(feature = "full")]
pub mod log;

#[cfg(feature = "full")]
pub mod txn;

#[cfg(feature = "full")]
pub mod peer;

#[cfg(feature = "full")]
pub mod consensus;

#[cfg(feature = "full")]
pub mod node;

#[cfg(feature = "full")]
pub mod catalog;
#[cfg(feature = "testing")]
pub mod testing;

#[cfg(feature = "full")]
pub mod server;

/// The README's Rust is built with the documentation's examples.
#[cfg(all(doctest, feature = "full"))]
#[doc = include_str!("../README.md")]
struct Readme;

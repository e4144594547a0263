//! The test framework: for our own tests, and for those of programs that are built on QuantaDB (feature `testing`).
//!
//! | module | what it gives |
//! |---|---|
//! | [`model`] | the database as a sorted map with no concurrency: what everything is compared with |
//! | [`history`] | a recorder of what clients asked and were told, and the version-order checker that judges it |
//! | [`generators`] | quickcheck's `Arbitrary` for keys, values, mutations and whole histories, correct and wrong ones |
//! | [`wire`] | `Arbitrary` for every message of the protocol |
//! | [`server`] | a server in this process, over a port or a pipe, whose group can be made to misbehave |
//! | [`hosted`] | the same on a thread of its own, for tests that block |
//! | [`cluster`] | a cluster in a simulation, with a workload, faults by seed and what must hold |
//! | [`connection`] | a raw blocking connection: frames in, frames out |
//! | [`base`] | a base in memory that crashes and fails where a script says so |
//! | [`faults`] | an engine that fails where a script says so |
//! | [`files`] | files in memory that lose power, fail and lie, by seed and by plan |
//! | [`sim`] | hosts in one thread on virtual time, with a network, disks and clocks that misbehave by seed |
//! | [`transcript`] | commands in, answers out, compared with a golden file |
//! | [`directory`] | directories that are gone when the test ends |
//! | [`assertions`] | comparing bytes, waiting with a bound |
//!
//! `tests/README.md` shows one worked example of each kind of test. Nothing here is for production: it panics freely,
//! and allocates as it likes.

pub mod model;

pub mod history;

pub mod generators;
pub mod wire;

pub mod cluster;
pub mod connection;
pub mod hosted;
pub mod server;

pub mod assertions;
pub mod base;
pub mod directory;
pub mod faults;
pub mod files;
pub mod sim;
pub mod transcript;

/// The guidelines; here so that their examples are run.
#[cfg(doctest)]
#[doc = include_str!("../../tests/README.md")]
pub struct Guidelines;

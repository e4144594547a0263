//! The test framework.

pub mod wire;

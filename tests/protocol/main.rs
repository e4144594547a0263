//! The specification's requirements, each driven against a running server over a plain socket, in words of the registry's
//! tables: nothing of the client is in between.

mod backups;
mod connections;
mod operations;
mod peer;
mod streams;
mod transactions;
mod vectors;

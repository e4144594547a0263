//! The client against peers that follow a script: every way in which a connection can go wrong.

mod peer;

mod backups;
mod clusters;
mod frames;
mod handshake;
mod limits;
mod losses;
mod scans;
mod transactions;

use peer::{Listening, Peer, Welcomed};

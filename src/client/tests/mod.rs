//! The client against peers that follow a script: every way in which a connection can go wrong.

mod clock;
mod peer;

mod backups;
mod clusters;
mod consistency;
mod failover;
mod frames;
mod handshake;
mod limits;
mod losses;
mod other_nodes;
mod scans;
mod transactions;

use peer::{Listening, Peer, Welcomed};

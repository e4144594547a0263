//! Connections between nodes: opened, accepted, and frames over them.
//!
//! Both ends say who they are before anything else, and whom they want: a node of another cluster, another node, a client
//! and a stranger are told apart here and turned away with the reason. What is said afterwards is for whoever asked for the
//! connection.
//!
//! ```text
//! dial ──> preface, HELLO ──────────> accept       lane, cluster, from, to
//!      <── preface, WELCOME or GOAWAY ──
//! ```
//!
//! Never retries, never logs, keeps no connection by itself.

mod connection;
mod handshake;
#[cfg(test)]
mod tests;

pub use connection::{Connection, PeerError};
pub use handshake::{Accepted, Dialer, Local, Unwanted, accept};

//! Messages of the protocol for tests: any of them at random, and any of them as JSON.
//!
//! [`AnyRequest`], [`AnyReply`], [`AnyPeerMessage`] and [`AnyFrames`] are quickcheck's `Arbitrary`. [`describe`] and [`build`] go between the bytes of
//! a frame and JSON by the registry's tables alone: a second reading of the protocol, with which the golden vectors, the
//! hexdumps of the specification and the typed messages are compared.

mod annotate;
mod frames;
mod parts;
mod peer;
mod reply;
mod request;
mod table;

pub use annotate::{annotate, annotate_in};
pub use frames::AnyFrames;
pub use peer::{AnyPeerMessage, PeerMessage};
pub use reply::{AnyReply, Message};
pub use request::AnyRequest;
pub use table::{Dialect, build, build_in, describe, describe_in, from_hex, to_hex};

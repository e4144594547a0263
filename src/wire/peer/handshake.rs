//! HELLO and WELCOME between nodes, and what a connection is for.

use crate::{
    encoding::Reader,
    types::{ClusterId, NodeId},
    wire::{error::DecodeError, fields::Field, response::reply},
};
use bytes::{BufMut, BytesMut};

/// What a connection between peers is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Lane {
    /// Votes, appends, transfer.
    Consensus = 1,
    /// One snapshot.
    Snapshot = 2,
    /// Requests of clients, forwarded to the leader.
    Requests = 3,
    /// A node that wants to become a member.
    Join = 4,
}

impl Lane {
    /// The lane with this number.
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Lane> {
        match number {
            1 => Some(Lane::Consensus),
            2 => Some(Lane::Snapshot),
            3 => Some(Lane::Requests),
            4 => Some(Lane::Join),
            _ => None,
        }
    }
}

/// The first frame of whoever opens a connection to a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerHello {
    /// The least version of the peer protocol that it speaks.
    pub version_min: u8,
    /// The greatest.
    pub version_max: u8,
    /// The greatest state-machine level that it knows.
    pub level: u16,
    /// What the connection is for.
    pub lane: Lane,
    /// The cluster that it is of; zeros on the lane of joining, where it is of none.
    pub cluster: ClusterId,
    /// Who it is; 0 on the lane of joining.
    pub from: NodeId,
    /// Whom it wants; 0 for whoever answers.
    pub to: NodeId,
}

reply!(PeerHello);

impl<'a> Field<'a> for PeerHello {
    // spec: QP-PEER-004
    fn read(reader: &mut Reader<'a>) -> Result<PeerHello, DecodeError> {
        let (version_min, version_max) = (reader.u8()?, reader.u8()?);
        if version_min > version_max {
            return Err(DecodeError::malformed("the least version is above the greatest"));
        }
        Ok(PeerHello {
            version_min,
            version_max,
            level: reader.u16()?,
            lane: Lane::from_number(reader.u8()?).ok_or(DecodeError::malformed("no such lane"))?,
            cluster: ClusterId(reader.array16()?),
            from: NodeId(reader.u64()?),
            to: NodeId(reader.u64()?),
        })
    }

    fn write(&self, out: &mut BytesMut) {
        out.put_u8(self.version_min);
        out.put_u8(self.version_max);
        out.put_u16(self.level);
        out.put_u8(self.lane as u8);
        out.put_slice(&self.cluster.0);
        out.put_u64(self.from.0);
        out.put_u64(self.to.0);
    }
}

/// The answer to [`PeerHello`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerWelcome {
    /// The version that both speak from now on.
    pub version: u8,
    /// The greatest state-machine level that this side knows.
    pub level: u16,
    /// The cluster.
    pub cluster: ClusterId,
    /// Who this is.
    pub node: NodeId,
}

reply!(PeerWelcome);

impl<'a> Field<'a> for PeerWelcome {
    fn read(reader: &mut Reader<'a>) -> Result<PeerWelcome, DecodeError> {
        Ok(PeerWelcome {
            version: reader.u8()?,
            level: reader.u16()?,
            cluster: ClusterId(reader.array16()?),
            node: NodeId(reader.u64()?),
        })
    }

    fn write(&self, out: &mut BytesMut) {
        out.put_u8(self.version);
        out.put_u16(self.level);
        out.put_slice(&self.cluster.0);
        out.put_u64(self.node.0);
    }
}

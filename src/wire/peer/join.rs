//! JOIN: a node that is of no cluster yet asks to become a member.

use crate::{
    encoding::{Reader, Writer},
    types::{ClusterId, NodeId, limits::ADDRESS_BYTES_MAX},
    wire::{
        error::DecodeError,
        fields::{Field, read_text},
        response::reply,
    },
};
use bytes::{BufMut, BytesMut};

/// JOIN: a node that has no identity asks for one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Join {
    /// The identity that an earlier JOIN gave it; 0 for none.
    pub node: NodeId,
    /// Where its peer listener is: at most 255 bytes.
    pub peer_address: String,
    /// Where its client listener is: at most 255 bytes.
    pub client_address: String,
}

reply!(Join);

impl<'a> Field<'a> for Join {
    fn read(reader: &mut Reader<'a>) -> Result<Join, DecodeError> {
        let node = NodeId(reader.u64()?);
        let peer_address = read_text(reader, ADDRESS_BYTES_MAX)?.to_owned();
        let client_address = read_text(reader, ADDRESS_BYTES_MAX)?.to_owned();
        Ok(Join { node, peer_address, client_address })
    }

    fn write(&self, out: &mut BytesMut) {
        out.put_u64(self.node.0);
        out.put_bytes16(self.peer_address.as_bytes());
        out.put_bytes16(self.client_address.as_bytes());
    }
}

/// The answer to [`Join`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Joined {
    /// The cluster.
    pub cluster: ClusterId,
    /// Who the node is from now on.
    pub node: NodeId,
}

reply!(Joined);

impl<'a> Field<'a> for Joined {
    fn read(reader: &mut Reader<'a>) -> Result<Joined, DecodeError> {
        Ok(Joined { cluster: ClusterId(reader.array16()?), node: NodeId(reader.u64()?) })
    }

    fn write(&self, out: &mut BytesMut) {
        out.put_slice(&self.cluster.0);
        out.put_u64(self.node.0);
    }
}

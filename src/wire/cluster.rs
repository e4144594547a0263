//! The operations on a cluster's membership: CLUSTER_STATUS, CLUSTER_REMOVE, CLUSTER_TRANSFER, CLUSTER_PROMOTE and
//! CLUSTER_ADD.
//!
//! Three of them name a node and are answered with a version; their requests stand in [`super::RequestBody`].

use super::{
    error::DecodeError,
    fields::{Field, List, read_bool, read_text},
    response::reply,
};
use crate::{
    encoding::{Reader, Writer},
    types::{NodeId, Term, Version, limits::ADDRESS_BYTES_MAX},
};
use bytes::{BufMut, BytesMut};

/// The answer to CLUSTER_STATUS: the cluster as the node that answers knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClusterStatusReply<'a> {
    /// The last version applied.
    pub version: Version,
    /// Who leads; 0 if that is not known.
    pub leader: NodeId,
    /// The term.
    pub term: Term,
    /// The members, learners included, by id.
    pub members: List<'a, ClusterMember<'a>>,
}

/// A member of a cluster, and how far it has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClusterMember<'a> {
    /// Who it is.
    pub node: NodeId,
    /// Whether it votes; a learner does not.
    pub voter: bool,
    /// Where its peer listener is: at most 255 bytes.
    pub peer_address: &'a str,
    /// Where its client listener is: at most 255 bytes.
    pub client_address: &'a str,
    /// Whether the node that answers knows what follows.
    pub known: bool,
    /// The index of the last log entry that it holds.
    pub matched: u64,
    /// How many entries it is behind the leader.
    pub lag: u64,
    /// How long ago it was last heard, in milliseconds; [`ClusterMember::NEVER`] if it never was.
    pub contact_ms: u64,
    /// The last version that it has applied, as it last told.
    pub version: Version,
    /// The chain hash after it.
    pub chain: u64,
    /// The greatest state-machine level that it knows.
    pub level: u16,
}

impl ClusterMember<'_> {
    /// The `contact_ms` of a member that was never heard.
    pub const NEVER: u64 = u64::MAX;
}

impl<'a> Field<'a> for ClusterMember<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<ClusterMember<'a>, DecodeError> {
        Ok(ClusterMember {
            node: NodeId(reader.u64()?),
            voter: read_bool(reader)?,
            peer_address: read_text(reader, ADDRESS_BYTES_MAX)?,
            client_address: read_text(reader, ADDRESS_BYTES_MAX)?,
            known: read_bool(reader)?,
            matched: reader.u64()?,
            lag: reader.u64()?,
            contact_ms: reader.u64()?,
            version: Version(reader.u64()?),
            chain: reader.u64()?,
            level: reader.u16()?,
        })
    }

    fn write(&self, out: &mut BytesMut) {
        out.put_u64(self.node.0);
        out.put_u8(u8::from(self.voter));
        out.put_bytes16(self.peer_address.as_bytes());
        out.put_bytes16(self.client_address.as_bytes());
        out.put_u8(u8::from(self.known));
        out.put_u64(self.matched);
        out.put_u64(self.lag);
        out.put_u64(self.contact_ms);
        out.put_u64(self.version.0);
        out.put_u64(self.chain);
        out.put_u16(self.level);
    }
}

reply!(ClusterStatusReply<'a>);

impl<'a> Field<'a> for ClusterStatusReply<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<ClusterStatusReply<'a>, DecodeError> {
        Ok(ClusterStatusReply {
            version: Version(reader.u64()?),
            leader: NodeId(reader.u64()?),
            term: Term(reader.u64()?),
            members: List::read16(reader, usize::from(u16::MAX))?,
        })
    }

    fn write(&self, out: &mut BytesMut) {
        out.put_u64(self.version.0);
        out.put_u64(self.leader.0);
        out.put_u64(self.term.0);
        self.members.write16(out);
    }
}

/// The answer to CLUSTER_ADD.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClusterAddReply {
    /// The version that reserved the identity.
    pub version: Version,
    /// The identity.
    pub node: NodeId,
}

reply!(ClusterAddReply);

impl<'a> Field<'a> for ClusterAddReply {
    fn read(reader: &mut Reader<'a>) -> Result<ClusterAddReply, DecodeError> {
        Ok(ClusterAddReply { version: Version(reader.u64()?), node: NodeId(reader.u64()?) })
    }

    fn write(&self, out: &mut BytesMut) {
        out.put_u64(self.version.0);
        out.put_u64(self.node.0);
    }
}

/// The address of CLUSTER_ADD: 1 to 255 bytes of UTF-8.
// spec: QP-MSG-038
pub(super) fn read_address<'a>(reader: &mut Reader<'a>) -> Result<&'a str, DecodeError> {
    let address = read_text(reader, ADDRESS_BYTES_MAX)?;
    if address.is_empty() {
        return Err(DecodeError::malformed("the address is empty"));
    }
    Ok(address)
}

#[cfg(test)]
mod tests {
    use super::super::{ErrorCode, Opcode, Request, RequestBody, Response, fields::ListBuf};
    use super::*;

    const MEMBER: ClusterMember<'_> = ClusterMember {
        node: NodeId(3),
        voter: true,
        peer_address: "10.0.0.3:7421",
        client_address: "10.0.0.3:7420",
        known: true,
        matched: 41,
        lag: 1,
        contact_ms: 12,
        version: Version(77),
        chain: 5,
        level: 1,
    };

    // spec: QP-MSG-036
    #[test]
    fn a_status_tells_of_every_member_what_is_known() {
        let mut members = ListBuf::new();
        members.push(&MEMBER);
        let unknown = ClusterMember { voter: false, known: false, contact_ms: ClusterMember::NEVER, ..MEMBER };
        members.push(&unknown);
        let reply =
            ClusterStatusReply { version: Version(77), leader: NodeId(0), term: Term(3), members: members.as_list() };
        let mut out = BytesMut::new();
        reply.encode(&mut out);
        let Ok(Response::ClusterStatus(read)) = Response::decode(Opcode::ClusterStatus, &out) else {
            panic!("it is a status")
        };
        assert_eq!(read, reply);
        assert_eq!(read.members.iter().collect::<Vec<_>>(), [MEMBER, unknown]);
        out[26 + 8] = 2;
        assert!(ClusterStatusReply::decode(&out).is_err(), "neither voter nor learner");
    }

    // spec: QP-MSG-037
    // spec: QP-MSG-038
    #[test]
    fn a_change_names_a_node_or_an_address() {
        let decode = |opcode: Opcode, payload: &[u8]| {
            Request::decode(opcode.number(), payload).map(|request| format!("{:?}", request.body)).map_err(|e| e.code)
        };
        for (opcode, name) in [
            (Opcode::ClusterRemove, "ClusterRemove"),
            (Opcode::ClusterTransfer, "ClusterTransfer"),
            (Opcode::ClusterPromote, "ClusterPromote"),
        ] {
            assert_eq!(decode(opcode, &3_u64.to_be_bytes()), Ok(format!("{name} {{ node: NodeId(3) }}")));
            assert_eq!(decode(opcode, &[0; 7]), Err(ErrorCode::MALFORMED));
        }
        let add = |peer_address: &str| {
            let mut out = BytesMut::new();
            Request::new(RequestBody::ClusterAdd { peer_address }).encode(&mut out);
            decode(Opcode::ClusterAdd, &out).map(drop)
        };
        assert_eq!(add("n4:7421"), Ok(()));
        assert_eq!(add(&"a".repeat(ADDRESS_BYTES_MAX)), Ok(()));
        assert_eq!(add(&"a".repeat(ADDRESS_BYTES_MAX + 1)), Err(ErrorCode::MALFORMED));
        assert_eq!(add(""), Err(ErrorCode::MALFORMED));
        assert_eq!(decode(Opcode::ClusterAdd, b"\0\x01\xff"), Err(ErrorCode::MALFORMED));
    }
}

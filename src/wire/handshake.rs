//! HELLO and WELCOME.

use super::error::DecodeError;
use super::fields::{Field, List, Text, check, read_text};
use super::registry::{ErrorCode, LimitId, Tag};
use super::tags::{Grease, put_tag, read_tags, skip_tags, text_of};
use crate::encoding::{Reader, Writer};
use crate::types::limits::{CLIENT_NAME_BYTES_MAX, FEATURE_BYTES_MAX, FEATURES_MAX};
use crate::types::{ClusterId, NodeId};
use bytes::{BufMut, BytesMut};

/// The client's first frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello<'a> {
    /// The least protocol version that the client speaks.
    pub version_min: u8,
    /// The greatest protocol version that the client speaks.
    pub version_max: u8,
    /// Bytes of CHUNK payload that the server may send on this connection.
    pub credit: u32,
    /// What the client calls itself.
    pub client_name: &'a str,
    /// The features that the client knows, those that mean nothing included.
    pub features: List<'a, Text<'a>>,
}

impl<'a> Hello<'a> {
    /// Decodes the payload of a HELLO. Every error of it ends the connection.
    // spec: QP-HSK-002
    pub fn decode(payload: &'a [u8]) -> Result<Hello<'a>, DecodeError> {
        let mut reader = Reader::new(payload);
        let (version_min, version_max) = (reader.u8()?, reader.u8()?);
        if version_min > version_max {
            return Err(DecodeError::malformed("the least version is above the greatest"));
        }
        let credit = reader.u32()?;
        let client_name = read_text(&mut reader, CLIENT_NAME_BYTES_MAX)?;
        let features: List<'a, Text<'a>> = List::read16(&mut reader, FEATURES_MAX)?;
        for feature in &features {
            check(ErrorCode::BAD_NAME, FEATURE_BYTES_MAX, feature.0.len())?;
        }
        skip_tags(&mut reader)?;
        Ok(Hello { version_min, version_max, credit, client_name, features })
    }

    /// Appends the payload of a HELLO.
    pub fn encode(&self, out: &mut BytesMut) {
        self.encode_greased(out, None);
    }

    /// The same with a tag that means nothing.
    pub fn encode_greased(&self, out: &mut BytesMut, grease: Option<Grease>) {
        out.put_u8(self.version_min);
        out.put_u8(self.version_max);
        out.put_u32(self.credit);
        out.put_bytes16(self.client_name.as_bytes());
        self.features.write16(out);
        if let Some(grease) = grease {
            grease.encode(out);
        }
    }

    /// Whether the client names this feature.
    #[must_use]
    pub fn has_feature(&self, name: &str) -> bool {
        self.features.iter().any(|feature| feature.0 == name)
    }
}

/// A limit that the server announces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Which; it may be one that we do not know.
    pub id: LimitId,
    /// How much.
    pub value: u64,
}

impl<'a> Field<'a> for Limit {
    fn read(reader: &mut Reader<'a>) -> Result<Limit, DecodeError> {
        Ok(Limit { id: LimitId(reader.u16()?), value: reader.u64()? })
    }

    fn write(&self, out: &mut BytesMut) {
        out.put_u16(self.id.0);
        out.put_u64(self.value);
    }
}

/// The server's answer to HELLO.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Welcome<'a> {
    /// The protocol version that both speak from now on.
    pub version: u8,
    /// The cluster.
    pub cluster: ClusterId,
    /// The node.
    pub node: NodeId,
    /// The session, for logs.
    pub session: u64,
    /// Name and version of the server.
    pub server_name: &'a str,
    /// The features that both know.
    pub features: List<'a, Text<'a>>,
    /// Ways to authenticate; none today.
    pub mechanisms: List<'a, Text<'a>>,
    /// The limits.
    pub limits: List<'a, Limit>,
    /// The address of the node that leads, if it is another and known.
    pub leader: Option<&'a str>,
}

impl<'a> Welcome<'a> {
    /// Decodes the payload of a WELCOME.
    pub fn decode(payload: &'a [u8]) -> Result<Welcome<'a>, DecodeError> {
        const MANY: usize = u16::MAX as usize;
        let mut reader = Reader::new(payload);
        let mut welcome = Welcome {
            version: reader.u8()?,
            cluster: ClusterId(reader.array16()?),
            node: NodeId(reader.u64()?),
            session: reader.u64()?,
            server_name: read_text(&mut reader, MANY)?,
            features: List::read16(&mut reader, MANY)?,
            mechanisms: List::read16(&mut reader, MANY)?,
            limits: List::read16(&mut reader, MANY)?,
            leader: None,
        };
        read_tags(&mut reader, |tag, value| {
            if tag == Tag::LEADER {
                welcome.leader = Some(text_of(tag, value)?);
            }
            Ok(tag == Tag::LEADER)
        })?;
        Ok(welcome)
    }

    /// Appends the payload of a WELCOME.
    pub fn encode(&self, out: &mut BytesMut) {
        self.encode_greased(out, None);
    }

    /// The same with a tag that means nothing.
    pub fn encode_greased(&self, out: &mut BytesMut, grease: Option<Grease>) {
        out.put_u8(self.version);
        out.put_slice(&self.cluster.0);
        out.put_u64(self.node.0);
        out.put_u64(self.session);
        out.put_bytes16(self.server_name.as_bytes());
        self.features.write16(out);
        self.mechanisms.write16(out);
        self.limits.write16(out);
        if let Some(leader) = self.leader {
            put_tag(out, Tag::LEADER, leader.as_bytes());
        }
        if let Some(grease) = grease {
            grease.encode(out);
        }
    }

    /// The value of a limit, if the server announces it.
    #[must_use]
    pub fn limit(&self, id: LimitId) -> Option<u64> {
        self.limits.iter().find(|limit| limit.id == id).map(|limit| limit.value)
    }
}

#[cfg(test)]
mod tests {
    use super::super::fields::ListBuf;
    use super::*;

    fn hello<'a>(features: &'a ListBuf, client_name: &'a str) -> Hello<'a> {
        Hello { version_min: 1, version_max: 1, credit: 1 << 20, client_name, features: features.as_list() }
    }

    fn encoded(hello: &Hello<'_>) -> BytesMut {
        let mut out = BytesMut::new();
        hello.encode(&mut out);
        out
    }

    #[test]
    fn a_hello_comes_back_and_unknown_features_are_kept() {
        let mut features = ListBuf::new();
        features.push(&Text("execute"));
        features.push(&Text("x-grease-1"));
        let hello = hello(&features, "client");
        let bytes = encoded(&hello);
        let read = Hello::decode(&bytes).expect("valid");
        assert_eq!(read, hello);
        assert!(read.has_feature("execute") && !read.has_feature("scan-count"));
        let mut greased = BytesMut::new();
        let grease = Grease::from_random(0x0102_0304_0506_0708);
        hello.encode_greased(&mut greased, grease);
        assert!(greased.len() > bytes.len());
        assert_eq!(Hello::decode(&greased), Ok(hello));
    }

    // spec: QP-HSK-002
    #[test]
    fn a_hello_over_its_limits_is_refused() {
        let none = ListBuf::new();
        assert!(Hello::decode(&encoded(&hello(&none, &"n".repeat(128)))).is_ok());
        assert!(Hello::decode(&encoded(&hello(&none, &"n".repeat(129)))).is_err());
        let mut many = ListBuf::new();
        (0..65).for_each(|_| many.push(&Text("f")));
        assert_eq!(Hello::decode(&encoded(&hello(&many, ""))).expect_err("many").code, ErrorCode::TOO_MANY_ITEMS);
        let mut long = ListBuf::new();
        long.push(&Text(&"f".repeat(65)));
        assert_eq!(Hello::decode(&encoded(&hello(&long, ""))).expect_err("long").code, ErrorCode::BAD_NAME);
        let reversed = Hello { version_min: 2, ..hello(&none, "") };
        assert!(Hello::decode(&encoded(&reversed)).is_err());
        let mut critical = encoded(&hello(&none, ""));
        put_tag(&mut critical, Tag(0x8777), b"");
        assert_eq!(Hello::decode(&critical).expect_err("critical").code, ErrorCode::UNKNOWN_CRITICAL_TAG);
    }

    #[test]
    fn a_welcome_comes_back_and_tells_its_limits() {
        let (none, mut limits) = (ListBuf::new(), ListBuf::new());
        limits.push(&Limit { id: LimitId::KEY_BYTES, value: 8192 });
        let welcome = Welcome {
            version: 1,
            cluster: ClusterId([3; 16]),
            node: NodeId(1),
            session: 2,
            server_name: "quantadb/0.1.0",
            features: none.as_list(),
            mechanisms: none.as_list(),
            limits: limits.as_list(),
            leader: Some("127.0.0.1:7420"),
        };
        let mut bytes = BytesMut::new();
        welcome.encode_greased(&mut bytes, Grease::from_random(0));
        let read = Welcome::decode(&bytes).expect("valid");
        assert_eq!(read, welcome);
        assert_eq!(read.limit(LimitId::KEY_BYTES), Some(8192));
        assert_eq!(read.limit(LimitId::IDLE_MS), None);
        let mut plain = BytesMut::new();
        Welcome { leader: None, ..welcome }.encode(&mut plain);
        assert_eq!(Welcome::decode(&plain).expect("valid").leader, None);
    }
}

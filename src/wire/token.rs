//! Where a stream goes on: what the server tells itself through the client, which does not look inside.

use super::error::DecodeError;
use super::registry::ErrorCode;
use crate::encoding::{Reader, Writer};
use crate::types::limits::KEY_BYTES_MAX;
use crate::types::{ClusterId, Version};
use bytes::{BufMut, BytesMut};

const FORMAT: u8 = 1;

/// Which way a stream goes, and of which kind it is: a token of one is of no use to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Course {
    /// A scan from the start of its range to the end.
    Forward = 0,
    /// A scan from the end of its range to the start.
    Reverse = 1,
    /// A backup.
    Backup = 2,
}

impl Course {
    /// That of a scan.
    #[must_use]
    pub const fn of_scan(reverse: bool) -> Course {
        if reverse { Course::Reverse } else { Course::Forward }
    }
}

/// A position in a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResumeToken<'a> {
    /// The version that the stream reads at.
    pub version: Version,
    /// Which way it goes.
    pub course: Course,
    /// The first bytes of the cluster's id, so that a token of another cluster is refused.
    pub cluster: [u8; 4],
    /// The last full key that it has told: it goes on strictly past it.
    pub position: &'a [u8],
}

impl<'a> ResumeToken<'a> {
    /// Longest token, in bytes.
    pub const BYTES_MAX: usize = 1 + 8 + 1 + 4 + 2 + 4 + KEY_BYTES_MAX;

    /// The part of a cluster's id that a token carries.
    #[must_use]
    pub fn cluster_of(id: ClusterId) -> [u8; 4] {
        let [a, b, c, d, ..] = id.0;
        [a, b, c, d]
    }

    /// Decodes a token; whatever is wrong with it is BAD_TOKEN.
    // spec: QP-STR-020
    pub fn decode(bytes: &'a [u8]) -> Result<ResumeToken<'a>, DecodeError> {
        ResumeToken::read(bytes).ok_or(DecodeError::new(ErrorCode::BAD_TOKEN, "the token was not made here"))
    }

    fn read(bytes: &'a [u8]) -> Option<ResumeToken<'a>> {
        let mut reader = Reader::new(bytes);
        if reader.u8().ok()? != FORMAT {
            return None;
        }
        let version = Version(reader.u64().ok()?);
        let course = match reader.u8().ok()? {
            0 => Course::Forward,
            1 => Course::Reverse,
            2 => Course::Backup,
            _ => return None,
        };
        let cluster = reader.u32().ok()?.to_be_bytes();
        let position = reader.bytes16().ok()?;
        reader.finish().ok()?;
        let whole = (4..=4 + KEY_BYTES_MAX).contains(&position.len());
        whole.then_some(ResumeToken { version, course, cluster, position })
    }

    /// Appends the token.
    pub fn encode(&self, out: &mut BytesMut) {
        out.put_u8(FORMAT);
        out.put_u64(self.version.0);
        out.put_u8(self.course as u8);
        out.put_slice(&self.cluster);
        out.put_bytes16(self.position);
    }

    /// How long the token is, in bytes.
    #[must_use]
    pub const fn encoded_bytes(&self) -> usize {
        1 + 8 + 1 + 4 + 2 + self.position.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(position: &[u8]) -> ResumeToken<'_> {
        let cluster = ResumeToken::cluster_of(ClusterId([7; 16]));
        ResumeToken { version: Version(5), course: Course::Reverse, cluster, position }
    }

    #[test]
    fn a_token_comes_back() {
        let longest = [9; 4 + KEY_BYTES_MAX];
        for position in [&b"\0\0\0\x01"[..], b"\0\0\0\x01key", &longest] {
            let mut out = BytesMut::new();
            token(position).encode(&mut out);
            assert_eq!(out.len(), token(position).encoded_bytes());
            assert!(out.len() <= ResumeToken::BYTES_MAX);
            assert_eq!(ResumeToken::decode(&out), Ok(token(position)));
        }
        for course in [Course::of_scan(false), Course::of_scan(true), Course::Backup] {
            let mut out = BytesMut::new();
            let token = ResumeToken { course, ..token(b"\0\0\0\x01k") };
            token.encode(&mut out);
            assert_eq!(ResumeToken::decode(&out), Ok(token));
        }
    }

    // spec: QP-STR-020
    #[test]
    fn what_is_not_a_token_is_a_bad_token() {
        let mut good = BytesMut::new();
        token(b"\0\0\0\x01k").encode(&mut good);
        let mut bad: Vec<Vec<u8>> = (0..good.len()).map(|length| good[..length].to_vec()).collect();
        bad.push([&good[..], b"x"].concat());
        for (at, byte) in [(0, 2), (9, 3), (15, 3)] {
            let mut bytes = good.to_vec();
            bytes[at] = byte;
            bad.push(bytes);
        }
        for bytes in bad {
            assert_eq!(ResumeToken::decode(&bytes).expect_err("bad").code, ErrorCode::BAD_TOKEN, "{bytes:?}");
        }
    }
}

//! The eight bytes that open a connection, each way, before any frame.
//!
//! `51 44 42 0D 0A 1A 0A vv`: "QDB", then line ends and an end-of-file that a text mode would have changed, then the
//! framing version. A peer that speaks HTTP, TLS or text is told apart by its first bytes.

use super::{peer, registry::FRAMING_VERSION};
use std::fmt;

/// How long a preface is.
pub const PREFACE_BYTES: usize = 8;

/// What every framing version begins with.
// spec: QP-FRM-001
pub const MAGIC: [u8; 7] = [0x51, 0x44, 0x42, 0x0d, 0x0a, 0x1a, 0x0a];

/// The preface that this code sends.
pub const PREFACE: [u8; PREFACE_BYTES] = [0x51, 0x44, 0x42, 0x0d, 0x0a, 0x1a, 0x0a, FRAMING_VERSION];

/// Why a preface is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PrefaceError {
    /// The peer speaks another protocol: close without a word.
    #[error("the peer does not speak this protocol, it seems to speak {0}")]
    Stranger(Stranger),
    /// The peer speaks a framing version that we do not: GOAWAY, framed as version 1, then close.
    #[error("the peer speaks framing version {0}, this side speaks {FRAMING_VERSION}")]
    Version(u8),
    /// The peer speaks the protocol of the other listener, clients' or nodes': that one's preface and GOAWAY WRONG_PORT,
    /// framed as version 1, then close.
    #[error("the peer wants the other listener: clients and nodes have one each")]
    WrongPort,
}

/// What a peer that does not send the preface seems to speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stranger {
    /// An HTTP request.
    Http,
    /// A TLS ClientHello.
    Tls,
    /// Text.
    Text,
    /// Something else.
    Unknown,
}

impl fmt::Display for Stranger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Stranger::Http => "HTTP",
            Stranger::Tls => "TLS",
            Stranger::Text => "text",
            Stranger::Unknown => "something unknown",
        })
    }
}

/// Judges the first bytes of a client's connection: `false` while more are wanted, `true` once the preface is there, whole
/// and ours; then it is the first [`PREFACE_BYTES`] of `bytes`. A stranger is known at its first wrong byte.
// spec: QP-FRM-002
// spec: QP-FRM-003
// spec: QP-FRM-005
pub fn check_preface(bytes: &[u8]) -> Result<bool, PrefaceError> {
    check(bytes, &MAGIC, &peer::MAGIC)
}

/// The same for a listener whose prefaces begin with `own`, beside one whose prefaces begin with `other`.
pub(super) fn check(bytes: &[u8], own: &[u8; 7], other: &[u8; 7]) -> Result<bool, PrefaceError> {
    let known = bytes.len().min(own.len());
    if bytes[..known] == own[..known] {
        return match bytes.get(own.len()) {
            None => Ok(false),
            Some(&FRAMING_VERSION) => Ok(true),
            Some(&version) => Err(PrefaceError::Version(version)),
        };
    }
    match bytes[..known] == other[..known] {
        true if bytes.len() < PREFACE_BYTES => Ok(false),
        true => Err(PrefaceError::WrongPort),
        false => Err(PrefaceError::Stranger(recognise(bytes))),
    }
}

/// What the first bytes of a stranger look like.
fn recognise(bytes: &[u8]) -> Stranger {
    const METHODS: [&[u8]; 9] =
        [b"GET ", b"PUT ", b"POST ", b"HEAD ", b"DELETE ", b"OPTIONS ", b"PATCH ", b"CONNECT ", b"PRI * "];
    if bytes.first() == Some(&0x16) {
        Stranger::Tls
    } else if METHODS.iter().any(|method| bytes.starts_with(method)) {
        Stranger::Http
    } else if bytes.iter().all(|byte| byte.is_ascii_graphic() || byte.is_ascii_whitespace()) {
        Stranger::Text
    } else {
        Stranger::Unknown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // spec: QP-FRM-001
    #[test]
    fn a_preface_is_known_once_it_is_whole() {
        for length in 0..PREFACE_BYTES {
            assert_eq!(check_preface(&PREFACE[..length]), Ok(false));
        }
        assert_eq!(check_preface(&PREFACE), Ok(true));
        assert_eq!(check_preface(&[&PREFACE[..], b"more"].concat()), Ok(true));
    }

    // spec: QP-FRM-003
    #[test]
    fn another_framing_version_is_told_from_a_stranger() {
        let mut preface = PREFACE;
        preface[7] = 2;
        assert_eq!(check_preface(&preface), Err(PrefaceError::Version(2)));
    }

    // spec: QP-FRM-005
    // spec: QP-PEER-001
    // spec: QP-PEER-002
    // spec: QP-PEER-003
    #[test]
    fn who_wants_the_other_listener_is_told_from_a_stranger() {
        type Check = fn(&[u8]) -> Result<bool, PrefaceError>;
        let sides: [(Check, [u8; 8], [u8; 8]); 2] =
            [(check_preface, PREFACE, peer::PREFACE), (peer::check_preface, peer::PREFACE, PREFACE)];
        for (check, own, other) in sides {
            for length in 0..PREFACE_BYTES {
                assert_eq!(check(&own[..length]), Ok(false), "{length} bytes");
                assert_eq!(check(&other[..length]), Ok(false), "{length} bytes");
            }
            assert_eq!(check(&own), Ok(true));
            assert_eq!(check(&other), Err(PrefaceError::WrongPort));
            let mut newer = other;
            newer[7] = 9;
            assert_eq!(check(&newer), Err(PrefaceError::WrongPort), "whatever its framing version");
            let mut newer = own;
            newer[7] = 9;
            assert_eq!(check(&newer), Err(PrefaceError::Version(9)));
            let mut changed = other;
            changed[5] ^= 1;
            assert!(matches!(check(&changed), Err(PrefaceError::Stranger(_))));
        }
    }

    // spec: QP-FRM-002
    #[test]
    fn strangers_are_recognised() {
        let cases: [(&[u8], Stranger); 7] = [
            (b"GET / HTTP/1.1\r\n", Stranger::Http),
            (b"\x16\x03\x01\x02\x00", Stranger::Tls),
            (b"PING\r\n", Stranger::Text),
            (b"*1\r\n$4\r\nPING\r\n", Stranger::Text),
            (b"\x00\x00\x00\x08", Stranger::Unknown),
            (b"QDB\n\x1a\n", Stranger::Unknown),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Stranger::Http),
        ];
        for (bytes, stranger) in cases {
            assert_eq!(check_preface(bytes), Err(PrefaceError::Stranger(stranger)), "{bytes:?}");
        }
        assert!(PrefaceError::Stranger(Stranger::Tls).to_string().contains("TLS"));
        for stranger in [Stranger::Http, Stranger::Text, Stranger::Unknown] {
            assert!(!stranger.to_string().is_empty());
        }
    }
}

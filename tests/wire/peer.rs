//! What holds of every message between nodes, every stream of their frames and every wrong byte.

use super::{always, decode_all};
use bytes::{BufMut, Bytes, BytesMut};
use quantadb::testing::wire::{AnyPeerMessage, Dialect, PeerMessage, build_in, describe_in};
use quantadb::wire::peer::{Append, PEER_OPCODES, PEER_PAYLOAD_BYTES_MAX, SnapshotPart};
use quantadb::wire::registry::RESERVED_TAGS;
use quantadb::wire::{Codec, ErrorCode, Frame, Kind, put_frame};
use quickcheck::{Gen, QuickCheck};

fn frame(any: &AnyPeerMessage) -> Frame {
    let kind = any.kind();
    let (opcode, request_id) = if kind.has_opcode() { (any.opcode().number(), 7) } else { (0, 0) };
    Frame { kind, flags: 0, opcode, request_id, payload: any.payload().freeze() }
}

fn bytes_of(frames: &[Frame]) -> BytesMut {
    let mut out = BytesMut::new();
    for Frame { kind, flags, opcode, request_id, payload } in frames {
        put_frame(&mut out, *kind, *flags, *opcode, *request_id, |out| out.put_slice(payload));
    }
    out
}

/// Whether a tag that may be ignored can be put behind the payload: what comes after a critical one does not ascend.
fn takes_grease(message: &PeerMessage<'_>) -> bool {
    !matches!(message, PeerMessage::CommitWhole(_, tags) if tags.idempotency.is_some())
}

#[test]
fn any_message_between_nodes_comes_back() {
    fn property(any: AnyPeerMessage) {
        let payload = any.payload().freeze();
        let decode = |payload| PeerMessage::decode(any.kind(), any.opcode(), payload).expect("a message");
        let decoded = decode(&payload).expect("valid");
        assert_eq!(decoded, any.message());
        let mut again = BytesMut::new();
        decoded.encode(&mut again);
        assert_eq!(again, payload, "one encoding");
        if let Some(grease) = any.grease.filter(|_| takes_grease(&decoded)) {
            grease.encode(&mut again);
            assert_eq!(decode(&again.freeze()), Ok(any.message()), "grease changes nothing");
        }
    }
    always(property as fn(AnyPeerMessage));
}

/// The tables of the registry say of every message what the typed code says.
#[test]
fn any_frame_between_nodes_is_what_the_tables_say() {
    fn property(any: AnyPeerMessage) {
        let bytes = bytes_of(&[frame(&any)]);
        let described = describe_in(Dialect::Peer, &bytes).expect("the tables know it");
        assert_eq!(build_in(Dialect::Peer, &described).expect("the tables write it"), bytes, "{described}");
    }
    always(property as fn(AnyPeerMessage));
}

// spec: QP-PEER-006
#[test]
fn any_split_gives_the_same_frames_between_nodes() {
    fn property(any: Vec<AnyPeerMessage>, splits: Vec<u8>) {
        let frames: Vec<Frame> = any.iter().map(frame).collect();
        let mut bytes = bytes_of(&frames);
        let codec = || Codec::new(PEER_PAYLOAD_BYTES_MAX);
        assert_eq!(decode_all(&mut codec(), [bytes.clone()]), frames, "at once");
        let ones = bytes.iter().map(|byte| BytesMut::from(&[*byte][..])).collect::<Vec<_>>();
        assert_eq!(decode_all(&mut codec(), ones), frames, "one byte at a time");
        let mut pieces = Vec::new();
        let mut splits = splits.iter().chain(std::iter::repeat(&64));
        while !bytes.is_empty() {
            let length = usize::from(*splits.next().expect("it never ends"));
            pieces.push(bytes.split_to(length.clamp(1, bytes.len())));
        }
        assert_eq!(decode_all(&mut codec(), pieces), frames, "in pieces");
    }
    QuickCheck::new().tests(50).quickcheck(property as fn(Vec<AnyPeerMessage>, Vec<u8>));
}

/// Cut anywhere, it is malformed; but where tags are all that is cut off it is a message without them.
#[test]
fn any_message_between_nodes_cut_short_is_malformed() {
    fn property(any: AnyPeerMessage) {
        let payload = any.payload().freeze();
        let fixed = match any.message() {
            PeerMessage::CommitWhole(commit, _) => {
                let mut fields = BytesMut::new();
                commit.put(&mut fields);
                fields.len()
            }
            _ => payload.len(),
        };
        for length in 0..payload.len() {
            match PeerMessage::decode(any.kind(), any.opcode(), &payload.slice(..length)).expect("a message") {
                Ok(message) => assert!(length >= fixed, "{message:?} is whole at {length} of {fixed} bytes"),
                Err(error) => assert_eq!(error.code, ErrorCode::MALFORMED, "cut at {length}: {error}"),
            }
        }
    }
    QuickCheck::new().tests(500).quickcheck(property as fn(AnyPeerMessage));
}

/// Bytes that are almost a message, or not at all, are an error or another message: never a panic, and what is accepted has
/// one meaning, which comes back.
#[test]
fn any_changed_message_between_nodes_is_refused_or_has_a_meaning() {
    fn property(any: AnyPeerMessage, at: usize, byte: u8, how: u8) {
        let mut payload = any.payload().to_vec();
        let at = at % (payload.len() + 1);
        match how % 4 {
            0 => payload.insert(at, byte),
            1 => payload.truncate(at),
            2 if at < payload.len() => payload[at] = byte,
            _ => payload.extend([byte; 7]),
        }
        let payload = Bytes::from(payload);
        let kinds = [Kind::Hello, Kind::Welcome, Kind::Request, Kind::Response];
        for (kind, row) in kinds.into_iter().flat_map(|kind| PEER_OPCODES.iter().map(move |row| (kind, row))) {
            if let Ok(message) = PeerMessage::decode(kind, row.opcode, &payload).expect("a message") {
                let mut again = BytesMut::new();
                message.encode(&mut again);
                let again = again.freeze();
                assert_eq!(PeerMessage::decode(kind, row.opcode, &again), Some(Ok(message)));
            }
        }
    }
    QuickCheck::new().tests(1_000).quickcheck(property as fn(AnyPeerMessage, usize, u8, u8));
}

// spec: QP-PEER-009
#[test]
fn a_critical_tag_that_is_not_known_is_refused_on_every_message_between_nodes() {
    let mut g = Gen::new(20);
    let reserved = RESERVED_TAGS.iter().map(|range| (range.first, ErrorCode::UNSUPPORTED));
    let refused: Vec<(u16, ErrorCode)> = reserved.chain([(0xff77, ErrorCode::UNKNOWN_CRITICAL_TAG)]).collect();
    for row in PEER_OPCODES {
        for kind in [Kind::Hello, Kind::Welcome, Kind::Request, Kind::Response] {
            for (tag, code) in &refused {
                let mut payload = AnyPeerMessage::of(&mut g, kind, row.opcode).payload();
                payload.put_u16(*tag);
                payload.put_u32(0);
                let payload = payload.freeze();
                let decoded = PeerMessage::decode(kind, row.opcode, &payload).expect("a message");
                assert_eq!(decoded.map_err(|error| error.code), Err(*code), "{tag:#06x} on {kind:?} {}", row.name);
            }
        }
    }
}

// spec: QP-PEER-012
#[test]
fn a_count_that_lies_ends_where_the_bytes_do() {
    let code = |count: u32| {
        // A vote, and three flags that say that there is nothing.
        let mut payload = BytesMut::zeroed(17 + 3);
        payload.put_u32(count);
        Append::decode(&payload.freeze()).map(|_| ()).map_err(|error| error.code)
    };
    assert_eq!(code(0), Ok(()));
    assert_eq!(code(1), Err(ErrorCode::MALFORMED));
    assert_eq!(code(1 << 20), Err(ErrorCode::MALFORMED));
    assert_eq!(code((1 << 20) + 1), Err(ErrorCode::TOO_MANY_ITEMS));
    assert!(SnapshotPart::decode(&Bytes::from_static(&[0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff])).is_err());
}

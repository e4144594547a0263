//! What the codecs refuse. That every message comes back is shown by generated ones, in `tests/wire/peer.rs`.

use super::*;
use crate::{
    types::{
        ClusterId, IdempotencyPair, LogId, NodeId, Term, Version,
        limits::{ADDRESS_BYTES_MAX, KEY_BYTES_MAX, RANGE_BOUND_BYTES_MAX},
    },
    wire::{DecodeError, ErrorCode, Field, Op, RequestTags, Tag},
};
use bytes::{BufMut, Bytes, BytesMut};

const VOTE: PeerVote = PeerVote { term: Term(3), node: NodeId(2), committed: true };
const ID: LogId = LogId { term: Term(3), leader: NodeId(2), index: 9 };
const KEY: &[u8] = b"\0\0\0\x01k";

fn written(write: impl FnOnce(&mut BytesMut)) -> Bytes {
    let mut out = BytesMut::new();
    write(&mut out);
    out.freeze()
}

fn code<T>(decoded: Result<T, DecodeError>) -> Result<(), ErrorCode> {
    decoded.map(|_| ()).map_err(|error| error.code)
}

const BAD: Result<(), ErrorCode> = Err(ErrorCode::MALFORMED);

// spec: QP-PEER-004
#[test]
fn a_hello_that_makes_no_sense_is_refused() {
    let hello = PeerHello {
        version_min: 1,
        version_max: 1,
        level: 2,
        lane: Lane::Consensus,
        cluster: ClusterId([7; 16]),
        from: NodeId(1),
        to: NodeId(2),
    };
    let bytes = written(|out| hello.encode(out));
    assert_eq!(PeerHello::decode(&bytes), Ok(hello.clone()));
    let reversed = PeerHello { version_min: 2, ..hello };
    assert_eq!(code(PeerHello::decode(&written(|out| reversed.encode(out)))), BAD);
    for lane in [0, 5, 255] {
        let mut strange = bytes.to_vec();
        strange[4] = lane;
        assert_eq!(code(PeerHello::decode(&strange)), BAD, "lane {lane}");
    }
    for (lane, named) in [Lane::Consensus, Lane::Snapshot, Lane::Requests, Lane::Join].into_iter().zip(LANES) {
        assert_eq!((Lane::from_number(named.number), lane as u8), (Some(lane), named.number));
    }
}

// spec: QP-PEER-011
// spec: QP-PEER-013
#[test]
fn answers_that_do_not_exist_are_refused() {
    assert_eq!(code(AppendReply::decode(&[0, 0, 0])), Ok(()));
    assert_eq!(code(AppendReply::decode(&[3, 0, 0])), BAD);
    assert_eq!(code(AppendReply::decode(&[0, 2, 0])), BAD, "neither with nor without an entry");
    assert_eq!(code(AppendReply::decode(&[0, 0, 2])), BAD, "neither with nor without a report");
    assert_eq!(code(TransferReply::decode(&[0])), Ok(()));
    assert_eq!(code(TransferReply::decode(&[3])), BAD);
    assert_eq!(code(SnapshotBegun::decode(&[2, 0, 0, 0, 0, 0, 0, 0, 0])), BAD);
    let mut vote = written(|out| Vote { vote: VOTE, last: Some(ID) }.encode(out)).to_vec();
    vote[16] = 2;
    assert_eq!(code(Vote::decode(&vote)), BAD, "neither committed nor not");
    let mut granted = written(|out| VoteReply { vote: VOTE, granted: true, last: None }.encode(out)).to_vec();
    granted[17] = 2;
    assert_eq!(code(VoteReply::decode(&granted)), BAD, "neither granted nor not");
}

// spec: QP-PEER-012
#[test]
fn the_entries_of_an_append_share_its_bytes() {
    let entry = PeerEntry { id: ID, kind: 1, payload: Bytes::from_static(b"payload") };
    let append = Append { vote: VOTE, previous: Some(ID), committed: None, chain: Some((ID, 5)), entries: vec![entry] };
    let bytes = written(|out| append.encode(out));
    let decoded = Append::decode(&bytes).expect("valid");
    assert_eq!(decoded, append);
    assert!(bytes.as_ptr_range().contains(&decoded.entries[0].payload.as_ptr()));
}

// spec: QP-PEER-022
#[test]
fn the_rows_of_a_part_ascend_and_keep_to_the_limits() {
    let part = |keys: &[&[u8]]| {
        let row = |key: &&[u8]| SnapshotRow {
            key: Bytes::copy_from_slice(&[b"\0\0\0\x01", *key].concat()),
            version: Version(1),
            value: Bytes::new(),
        };
        let part = SnapshotPart { part: 0, rows: keys.iter().map(row).collect() };
        code(SnapshotPart::decode(&written(|out| part.encode(out))))
    };
    assert_eq!(part(&[]), Ok(()));
    assert_eq!(part(&[b"a", b"a\0", b"b"]), Ok(()));
    assert_eq!(part(&[b"b", b"a"]), BAD);
    assert_eq!(part(&[b"a", b"a"]), BAD);
    assert_eq!(part(&[&[0; KEY_BYTES_MAX]]), Ok(()));
    assert_eq!(part(&[&[0; KEY_BYTES_MAX + 1]]), Err(ErrorCode::KEY_TOO_LARGE));
}

// spec: QP-PEER-020
// spec: QP-PEER-021
#[test]
fn a_membership_has_a_length() {
    let begin = |bytes: usize| {
        let begin = SnapshotBegin {
            vote: VOTE,
            snapshot: [1; 16],
            log_id: Some(ID),
            version: Version(8),
            chain: 7,
            clock_ms: 6,
            idempotency_floor: Version(5),
            membership: vec![0; bytes].into(),
        };
        let bytes = written(|out| begin.encode(out));
        SnapshotBegin::decode(&bytes).map(|decoded| assert_eq!(decoded, begin))
    };
    assert_eq!(begin(MEMBERSHIP_BYTES_MAX), Ok(()));
    assert_eq!(code(begin(MEMBERSHIP_BYTES_MAX + 1)), BAD);
}

// spec: QP-PEER-040
#[test]
fn an_address_is_text_of_a_length() {
    let join = |address: &str| {
        let join = Join { node: NodeId(0), peer_address: address.into(), client_address: address.into() };
        code(Join::decode(&written(|out| join.encode(out))))
    };
    assert_eq!(join("10.0.0.1:7421"), Ok(()));
    assert_eq!(join(&"a".repeat(ADDRESS_BYTES_MAX)), Ok(()));
    assert_eq!(join(&"a".repeat(ADDRESS_BYTES_MAX + 1)), BAD);
    assert_eq!(code(Join::decode(b"\0\0\0\0\0\0\0\0\0\x01\xff\0\0")), BAD);
}

/// What COMMIT_WHOLE with these reads and mutations decodes to.
fn commit(points: &[u8], ranges: &[u8], mutations: u32, body: &[u8]) -> Result<(), ErrorCode> {
    let commit = CommitWhole { read_version: Version(7), points, ranges, mutations, body };
    code(CommitWhole::decode(&written(|out| commit.encode(&RequestTags::default(), out))))
}

fn points(keys: &[&[u8]]) -> Bytes {
    written(|out| keys.iter().for_each(|key| CommitWhole::put_point(out, key)))
}

fn range(start: &[u8], end: &[u8]) -> Bytes {
    written(|out| CommitWhole::put_range(out, start, end))
}

// spec: QP-PEER-031
#[test]
fn the_reads_of_a_whole_commit_are_checked_to_their_last_byte() {
    let key = |length| [b"\0\0\0\x01", &vec![b'k'; length][..]].concat();
    let reads = |points: &[u8], ranges: &[u8]| commit(points, ranges, 0, b"");
    assert_eq!(reads(b"", b""), Ok(()));
    assert_eq!(reads(&points(&[KEY, b"\0\0\0\0", &key(KEY_BYTES_MAX)]), b""), Ok(()));
    assert_eq!(reads(&points(&[b"\0\0\0"]), b""), BAD, "no keyspace");
    assert_eq!(reads(&points(&[KEY])[..6], b""), BAD, "cut short");
    assert_eq!(reads(&points(&[&key(KEY_BYTES_MAX + 1)]), b""), Err(ErrorCode::KEY_TOO_LARGE));
    assert_eq!(reads(&points(&[b"\xff\xff\xff\xff"]), b""), Err(ErrorCode::UNKNOWN_KEYSPACE));
    assert_eq!(reads(b"", &range(KEY, b"\0\0\0\x02")), Ok(()), "to the end of its keyspace");
    assert_eq!(reads(b"", &range(b"\xff\xff\xff\xfe", b"\xff\xff\xff\xff")), Ok(()), "the last keyspace");
    assert_eq!(reads(b"", &range(KEY, KEY)), Ok(()), "empty");
    assert_eq!(reads(b"", &range(b"\0\0\0\x01l", KEY)), Err(ErrorCode::BAD_RANGE));
    assert_eq!(reads(b"", &range(KEY, b"\0\0\0")), BAD, "an end without a keyspace");
    assert_eq!(reads(b"", &range(b"\0\0\0", KEY)), BAD, "a start without a keyspace");
    let whole = [range(KEY, KEY), range(KEY, KEY)].concat();
    for length in 1..whole.len() {
        let at_a_boundary = length == whole.len() / 2;
        assert_eq!(reads(b"", &whole[..length]), if at_a_boundary { Ok(()) } else { BAD }, "cut at {length}");
    }
    assert_eq!(reads(b"", &range(KEY, &key(RANGE_BOUND_BYTES_MAX))), Ok(()));
    assert_eq!(reads(b"", &range(KEY, &key(RANGE_BOUND_BYTES_MAX + 1))), Err(ErrorCode::KEY_TOO_LARGE));
}

// spec: QP-PEER-031
#[test]
fn the_mutations_of_a_whole_commit_are_as_many_as_it_says() {
    let put = written(|out| Op::Put { key: KEY, value: b"v" }.write(out));
    let delete = written(|out| Op::Delete { key: KEY }.write(out));
    let add = written(|out| Op::Atomic { op: 1, key: KEY, operand: &[1] }.write(out));
    let get = written(|out| Op::Get { key: KEY }.write(out));
    let all = [&put[..], &delete, &add].concat();
    assert_eq!(commit(b"", b"", 3, &all), Ok(()));
    assert_eq!(commit(b"", b"", 2, &all), BAD, "bytes are left over");
    assert_eq!(commit(b"", b"", 4, &all), BAD, "one is missing");
    assert_eq!(commit(b"", b"", u32::MAX, &all), BAD);
    assert_eq!(commit(b"", b"", 1, &get), BAD, "no mutation");
    assert_eq!(commit(b"", b"", 1, &[3, 11]), BAD, "no such operation");
}

/// Under snapshot isolation every key that is written is a point, so that a transaction of many small mutations has nearly
/// as many bytes of points as of mutations.
// spec: QP-PEER-032
#[test]
fn a_whole_commit_may_be_as_large_as_a_transaction_and_its_points_besides() {
    let delete = written(|out| Op::Delete { key: &KEY[..4] }.write(out));
    let deletes = TRANSACTION_BYTES_MAX / delete.len();
    let (body, keys) = (delete.repeat(deletes), points(&[&KEY[..4]]).repeat(deletes));
    assert_eq!(commit(&keys, b"", u32::try_from(deletes).expect("few"), &body), Ok(()));
    let too_large = Err(ErrorCode::TRANSACTION_TOO_LARGE);
    assert_eq!(commit(&vec![0; TRANSACTION_BYTES_MAX + 1], b"", 0, b""), too_large);
    assert_eq!(commit(b"", &vec![0; TRANSACTION_BYTES_MAX / 2 + 1], 0, &vec![0; TRANSACTION_BYTES_MAX / 2]), too_large);
}

// spec: QP-PEER-030
#[test]
fn a_whole_commit_carries_the_tags_of_a_commit_but_for_its_transaction() {
    let commit = CommitWhole { read_version: Version(7), points: b"", ranges: b"", mutations: 0, body: b"" };
    let pair = IdempotencyPair { key: [7; 16], seen: Version(3) };
    let tags = RequestTags {
        deadline_ms: Some(5),
        trace_parent: Some(b"00"),
        idempotency: Some(pair),
        retry_mark: true,
        ..RequestTags::default()
    };
    let of_a_session = RequestTags { transaction: Some(4), min_version: Some(Version(9)), ..tags };
    let bytes = written(|out| commit.encode(&of_a_session, out));
    assert_eq!(CommitWhole::decode(&bytes), Ok((commit, tags)));
    let tagged = |tag: Tag, value: &[u8]| {
        let bytes = written(|out| {
            commit.put(out);
            out.put_u16(tag.0);
            out.put_u32(u32::try_from(value.len()).expect("short"));
            out.put_slice(value);
        });
        code(CommitWhole::decode(&bytes))
    };
    assert_eq!(tagged(Tag::TRANSACTION, &[0; 8]), BAD);
    assert_eq!(tagged(Tag::RETRY_MARK, b""), BAD, "the retry has no pair");
    assert_eq!(tagged(Tag(0x8777), b""), Err(ErrorCode::UNKNOWN_CRITICAL_TAG));
    assert_eq!(tagged(Tag::MIN_VERSION, b"ignored"), Ok(()));
}

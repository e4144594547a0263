use super::clock::Clock;
use super::peer::tags;
use super::{Listening, Peer};
use crate::client::{Client, Error, ErrorKind, IfGone, Isolation, Row};
use crate::types::Version;
use crate::wire::{
    self, Chunk, Credit, ErrorCode, Frame, Kind, ListBuf, Opcode, Request, RequestBody, ScanEnd, ScanEndReason,
    WireError,
};
use std::time::Duration;

pub(super) async fn chunk(peer: &mut Peer, id: u64, keys: &[&str], token: Option<&str>) -> usize {
    let mut rows = ListBuf::new();
    keys.iter().for_each(|key| rows.push(&wire::Row { key: key.as_bytes(), version: Version(1), value: b"value" }));
    let chunk = Chunk { rows: rows.as_list(), resume_token: token.map(str::as_bytes) };
    let mut payload = bytes::BytesMut::new();
    chunk.encode(&mut payload);
    peer.send(Kind::Chunk, Opcode::Scan.number(), id, |out| out.extend_from_slice(&payload)).await;
    payload.len()
}

pub(super) async fn end(peer: &mut Peer, id: u64, rows: u64) {
    let end = ScanEnd {
        version: Version(9),
        rows,
        reason: ScanEndReason::Exhausted,
        first_version: Version(9),
        resume_token: None,
    };
    peer.send(Kind::End, Opcode::Scan.number(), id, |out| end.encode(out)).await;
}

fn scan_of(frame: &Frame) -> wire::Scan<'_> {
    match Request::decode(frame.opcode, &frame.payload).expect("valid").body {
        RequestBody::Scan(scan) => scan,
        other => panic!("{other:?}"),
    }
}

fn keys(rows: &[Row]) -> Vec<&[u8]> {
    rows.iter().map(|row| &row.key[..]).collect()
}

#[tokio::test]
async fn a_lost_scan_goes_on_after_the_last_part_that_came() {
    let mut listening = Listening::new();
    let (client, mut first) = listening.connected().await;
    let script = async {
        let frame = first.request_frame(Opcode::Scan).await;
        assert_eq!(scan_of(&frame).limit, 5);
        assert_eq!(tags(&frame).deadline_ms, None, "a stream has no deadline of its own");
        chunk(&mut first, frame.request_id, &["a", "b"], Some("after b")).await;
        drop(first);
        let mut second = listening.accept().await;
        let frame = second.request_frame(Opcode::Scan).await;
        assert_eq!(tags(&frame).resume_token, Some(&b"after b"[..]));
        assert_eq!((tags(&frame).if_gone, scan_of(&frame).limit), (Some(IfGone::Newer), 3));
        chunk(&mut second, frame.request_id, &["c"], Some("after c")).await;
        second.refuse(Opcode::Scan, frame.request_id, ErrorCode::OVERLOADED).await;
        let frame = second.request_frame(Opcode::Scan).await;
        assert_eq!(tags(&frame).resume_token, Some(&b"after c"[..]));
        chunk(&mut second, frame.request_id, &["d"], None).await;
        end(&mut second, frame.request_id, 1).await;
        second
    };
    let mut scan = client.scan(..).limit(5).if_gone(IfGone::Newer);
    let read = async {
        let mut rows = Vec::new();
        while let Some(row) = scan.next().await {
            rows.push(row.expect("a row"));
        }
        rows
    };
    let (rows, _peer) = tokio::join!(read, script);
    assert_eq!(keys(&rows), [b"a", b"b", b"c", b"d"]);
    assert_eq!(scan.summary().map(|summary| (summary.rows, summary.exhausted)), Some((4, true)));
}

#[tokio::test]
async fn a_scan_that_cannot_be_placed_again_fails() {
    let mut listening = Listening::new();
    let (client, mut first) = listening.connected().await;
    let script = async {
        let id = first.request(Opcode::Scan).await;
        chunk(&mut first, id, &["a"], None).await;
        drop(first);
        listening.accept().await
    };
    let (rows, mut second) = tokio::join!(client.scan(..).collect_rows(), script);
    assert_eq!(rows.expect_err("lost").kind(), ErrorKind::ConnectionLost);
    let script = async {
        let id = second.request(Opcode::Scan).await;
        let gone = WireError::new(ErrorCode::SNAPSHOT_GONE).with_horizon(Version(7));
        second.refuse_with(Opcode::Scan, id, &gone).await;
    };
    let (rows, ()) = tokio::join!(client.scan(..).resume("old").collect_rows(), script);
    let error = rows.expect_err("gone");
    assert_eq!((error.code(), error.horizon()), (Some(ErrorCode::SNAPSHOT_GONE), Some(Version(7))));
    let reversed = client.scan("b".."a").collect_rows().await.expect_err("reversed");
    assert_eq!(reversed.code(), Some(ErrorCode::BAD_RANGE));
}

#[tokio::test]
async fn a_limit_that_was_reached_when_the_connection_was_lost_is_the_end() {
    let mut listening = Listening::new();
    let (client, mut first) = listening.connected().await;
    let script = async {
        let id = first.request(Opcode::Scan).await;
        chunk(&mut first, id, &["a", "b"], Some("after b")).await;
        drop(first);
        listening.accept().await
    };
    let (rows, _second) = tokio::join!(client.scan(..).limit(2).collect_rows(), script);
    assert_eq!(rows.expect("all of them").len(), 2);
}

#[tokio::test]
async fn a_scan_that_fails_again_and_again_is_given_up() {
    let clock = Clock::new();
    let mut listening = Listening::with(4096, |options| options.env = clock.env());
    let scripted = async {
        let (client, mut peer) = listening.connected().await;
        let began = clock.now();
        let refusing = async {
            loop {
                let id = peer.request(Opcode::Scan).await;
                peer.refuse(Opcode::Scan, id, ErrorCode::UNAVAILABLE).await;
            }
        };
        let rows = tokio::select! {
            rows = client.count(..) => rows,
            () = refusing => unreachable!("it refuses for ever"),
        };
        assert_eq!(rows.expect_err("refused").code(), Some(ErrorCode::UNAVAILABLE));
        let took = clock.now() - began;
        assert!((Duration::from_secs(9)..Duration::from_secs(10)).contains(&took), "{took:?}");
    };
    clock.run(scripted).await;
}

#[tokio::test]
async fn credit_is_given_as_rows_are_read_and_parts_arrive() {
    let mut listening = Listening::with(4096, |options| options.credit = 40);
    let (client, mut peer) = listening.connected().await;
    let mut scan = client.scan(..).credit(60);
    let (first, bytes) = tokio::join!(scan.next(), async {
        let frame = peer.request_frame(Opcode::Scan).await;
        assert_eq!(scan_of(&frame).credit, 60);
        let bytes = chunk(&mut peer, frame.request_id, &["a", "b"], None).await;
        // The connection's credit comes back when the part arrives.
        let frame = peer.frame_of(Kind::Credit).await;
        assert_eq!((frame.request_id, Credit::decode(&frame.payload)), (0, Ok(Credit { bytes: bytes as u32 })));
        bytes
    });
    first.expect("a row").expect("a row");
    peer.settled().await;
    scan.next().await.expect("a row").expect("a row");
    // The scan's own when its rows are read, and not before.
    let (last, ()) = tokio::join!(scan.next(), async {
        let frame = peer.frame_of(Kind::Credit).await;
        assert_eq!((frame.request_id, Credit::decode(&frame.payload)), (1, Ok(Credit { bytes: bytes as u32 })));
        end(&mut peer, 1, 2).await;
    });
    assert!(last.is_none());
}

#[tokio::test]
async fn a_dropped_scan_is_cancelled() {
    let mut listening = Listening::new();
    let (client, mut peer) = listening.connected().await;
    let mut scan = client.scan(..);
    let id = tokio::select! {
        _ = scan.next() => panic!("nothing comes"),
        id = peer.request(Opcode::Scan) => id,
    };
    drop(scan);
    assert_eq!(peer.frame_of(Kind::Cancel).await.request_id, id);
    chunk(&mut peer, id, &["late"], None).await;
    peer.refuse(Opcode::Scan, id, ErrorCode::CANCELLED).await;
    peer.settled().await;
}

#[tokio::test]
async fn a_dropped_scan_of_a_transaction_is_cancelled_once_it_was_begun() {
    let mut listening = Listening::new();
    let (client, mut peer) = listening.connected().await;
    let tx = client.begin(Isolation::Serializable).await.expect("queued");
    let begin = peer.request(Opcode::Begin).await;
    let mut scan = tx.scan(..);
    let frame = tokio::select! {
        _ = scan.next() => panic!("nothing comes"),
        frame = peer.request_frame(Opcode::Scan) => frame,
    };
    assert_eq!(tags(&frame).transaction, Some(begin));
    drop(scan);
    // One that is cancelled before it was begun would fail the transaction.
    peer.settled().await;
    chunk(&mut peer, frame.request_id, &["a"], None).await;
    assert_eq!(peer.frame_of(Kind::Cancel).await.request_id, frame.request_id);
    chunk(&mut peer, frame.request_id, &["b"], None).await;
    peer.settled().await;
}

#[tokio::test]
async fn a_scan_dies_with_its_transaction() {
    let mut listening = Listening::new();
    let (client, mut peer) = listening.connected().await;
    let tx = client.begin(Isolation::Serializable).await.expect("queued");
    let script = async {
        peer.request(Opcode::Begin).await;
        peer.request(Opcode::Scan).await;
        drop(peer);
    };
    let (rows, ()) = tokio::join!(tx.scan(..).collect_rows(), script);
    let error = rows.expect_err("lost");
    assert_eq!((error.kind(), error.retry()), (ErrorKind::ConnectionLost, crate::client::Retry::RestartTxn));
}

async fn end_of(client: &Client, peer: &mut Peer, told: u64) -> Result<Vec<Row>, Error> {
    let script = async {
        let id = peer.request(Opcode::Scan).await;
        chunk(peer, id, &["a"], None).await;
        end(peer, id, told).await;
    };
    tokio::join!(client.scan(..).collect_rows(), script).0
}

#[tokio::test]
async fn an_end_that_tells_another_number_of_rows_is_an_error() {
    let mut listening = Listening::new();
    let (client, mut peer) = listening.connected().await;
    assert_eq!(end_of(&client, &mut peer, 1).await.map(|rows| rows.len()).ok(), Some(1));
    assert_eq!(end_of(&client, &mut peer, 2).await.expect_err("a row is missing").kind(), ErrorKind::Protocol);
}

#[tokio::test]
async fn a_scan_with_a_deadline_ends_at_it() {
    let mut listening = Listening::new();
    let (client, mut peer) = listening.connected().await;
    let hurried = client.with(crate::client::CallOptions::new().deadline(Duration::from_millis(20)));
    let script = async {
        let frame = peer.request_frame(Opcode::Scan).await;
        assert!(tags(&frame).deadline_ms.is_some());
        peer.frame_of(Kind::Cancel).await;
    };
    let (rows, ()) = tokio::join!(hurried.scan(..).collect_rows(), script);
    assert_eq!(rows.expect_err("late").kind(), ErrorKind::DeadlinePassed);
}

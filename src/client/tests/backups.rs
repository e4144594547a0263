//! Backups: how they go on after a loss, and what they never accept.

use super::peer::tags;
use super::{Listening, Peer};
use crate::client::{BackupRow, BackupSummary, Client, Error, ErrorKind};
use crate::types::{KeyspaceId, Version};
use crate::wire::{self, BackupChunk, BackupEnd, ErrorCode, Kind, ListBuf, Opcode, WireError};

async fn chunk(peer: &mut Peer, id: u64, version: u64, keys: &[&str], token: &str) {
    let mut rows = ListBuf::new();
    for key in keys {
        let full = KeyspaceId::DEFAULT.full_key(key.as_bytes());
        rows.push(&wire::BackupRow { key: &full, version: Version(1), value: b"value" });
    }
    let resume_token = Some(token.as_bytes());
    let chunk = BackupChunk { version: Version(version), rows: rows.as_list(), resume_token };
    peer.send(Kind::Chunk, Opcode::Backup.number(), id, |out| chunk.encode(out)).await;
}

async fn end(peer: &mut Peer, id: u64, version: u64, rows: u64, bytes: u64) {
    let end = BackupEnd { version: Version(version), rows, bytes, clock_ms: 77 };
    peer.send(Kind::End, Opcode::Backup.number(), id, |out| end.encode(out)).await;
}

async fn taken(client: &Client) -> Result<(Vec<BackupRow>, BackupSummary), Error> {
    let mut backup = client.backup();
    let mut rows = Vec::new();
    while let Some(row) = backup.next().await {
        rows.push(row?);
        assert_eq!(backup.version(), Some(Version(9)));
    }
    assert!(backup.next().await.is_none(), "an end is an end");
    Ok((rows, backup.summary().expect("it has ended")))
}

#[tokio::test]
async fn a_lost_backup_goes_on_after_the_last_part_that_came() {
    let mut listening = Listening::new();
    let (client, mut first) = listening.connected().await;
    let script = async {
        let frame = first.request_frame(Opcode::Backup).await;
        assert_eq!((tags(&frame).resume_token, tags(&frame).deadline_ms), (None, None));
        chunk(&mut first, frame.request_id, 9, &["a", "b"], "after b").await;
        drop(first);
        let mut second = listening.accept().await;
        let frame = second.request_frame(Opcode::Backup).await;
        assert_eq!((tags(&frame).resume_token, tags(&frame).if_gone), (Some(&b"after b"[..]), None));
        chunk(&mut second, frame.request_id, 9, &["c"], "after c").await;
        end(&mut second, frame.request_id, 9, 1, 10).await;
        second
    };
    let (taken, _peer) = tokio::join!(taken(&client), script);
    let (rows, summary) = taken.expect("nothing was lost");
    assert_eq!(rows.iter().map(BackupRow::key).collect::<Vec<_>>(), [b"a", b"b", b"c"]);
    assert!(rows.iter().all(|row| row.keyspace() == KeyspaceId::DEFAULT && row.value == "value"));
    assert_eq!(summary, BackupSummary { version: Version(9), rows: 3, bytes: 30, clock_ms: 77 });
    assert_eq!(client.seen_version(), Version(9));
}

#[tokio::test]
async fn a_backup_whose_version_is_gone_fails() {
    let mut listening = Listening::new();
    let (client, mut first) = listening.connected().await;
    let script = async {
        let id = first.request(Opcode::Backup).await;
        chunk(&mut first, id, 9, &["a"], "after a").await;
        drop(first);
        let mut second = listening.accept().await;
        let id = second.request(Opcode::Backup).await;
        let gone = WireError::new(ErrorCode::SNAPSHOT_GONE).with_horizon(Version(12));
        second.refuse_with(Opcode::Backup, id, &gone).await;
        second
    };
    let (taken, _peer) = tokio::join!(taken(&client), script);
    assert_eq!(taken.expect_err("it is gone").code(), Some(ErrorCode::SNAPSHOT_GONE));
}

/// What a server says that no server may, after a part at version 9 with one row.
async fn refused(said: impl AsyncFnOnce(&mut Peer, u64)) -> String {
    let mut listening = Listening::new();
    let (client, mut peer) = listening.connected().await;
    let script = async {
        let id = peer.request(Opcode::Backup).await;
        chunk(&mut peer, id, 9, &["a"], "after a").await;
        said(&mut peer, id).await;
        peer
    };
    let (taken, _peer) = tokio::join!(taken(&client), script);
    let error = taken.expect_err("it is wrong");
    assert_eq!(error.kind(), ErrorKind::Protocol, "{error}");
    std::error::Error::source(&error).expect("it says what cannot be read").to_string()
}

#[tokio::test]
async fn a_backup_is_of_one_version_and_its_end_counts_what_came() {
    let text = refused(async |peer, id| chunk(peer, id, 10, &["b"], "after b").await).await;
    assert!(text.contains("another version"), "{text}");
    let text = refused(async |peer, id| end(peer, id, 10, 1, 10).await).await;
    assert!(text.contains("another version"), "{text}");
    let text = refused(async |peer, id| end(peer, id, 9, 1, 11).await).await;
    assert!(text.contains("other rows"), "{text}");
    let text = refused(async |peer, id| end(peer, id, 9, 2, 10).await).await;
    assert!(text.contains("another number of rows"), "{text}");
}

#[tokio::test]
async fn a_backup_begins_where_it_is_told_and_tells_where_it_can_go_on() {
    let mut listening = Listening::new();
    let (client, mut peer) = listening.connected().await;
    let script = async {
        let frame = peer.request_frame(Opcode::Backup).await;
        assert_eq!(tags(&frame).resume_token, Some(&b"after a"[..]));
        chunk(&mut peer, frame.request_id, 9, &["b"], "after b").await;
        // What was read is granted again.
        peer.frame_of(Kind::Credit).await;
        let dropped = peer.frame_of(Kind::Cancel).await;
        assert_eq!(dropped.request_id, frame.request_id);
        peer
    };
    let read = async {
        let mut backup = client.backup().credit(7).resume("after a");
        assert_eq!((backup.version(), backup.resume_token(), backup.summary()), (None, None, None));
        let row = backup.next().await.expect("a row").expect("it is right");
        assert_eq!((row.key(), backup.version()), (&b"b"[..], Some(Version(9))));
        // Its part has been read once the next row is asked for.
        {
            let mut next = std::pin::pin!(backup.next());
            assert!(super::peer::is_pending(next.as_mut()).await);
        }
        assert_eq!(backup.resume_token().map(|token| &token[..]), Some(&b"after b"[..]));
    };
    let ((), _peer) = tokio::join!(read, script);
}

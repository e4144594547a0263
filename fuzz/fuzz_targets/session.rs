//! A client's bytes, in any pieces, to a server over a pipe. `QUANTADB_FUZZ_SHOW=1` prints what the server says.

#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use quantadb::{
    node::{Identity, Node, NodeOptions},
    server::{Options, Server},
    storage::{MemoryEngine, MemoryOptions},
    testing::wire::Message,
    types::{ClusterId, NodeId, limits::FRAME_PAYLOAD_BYTES_MAX},
    wire::{
        Kind, Opcode, peek,
        peer,
        preface::{PREFACE, PREFACE_BYTES},
    },
};
use quantadb_fuzz::{input::Input, world};
use slog::{Discard, Logger, o};
use std::{collections::HashMap, sync::Arc, time::Duration};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// How long a session may take to end once its client has. Time is not real here, so it may be long: longer than any
/// deadline of a request, 2^32 milliseconds.
const END_MAX: Duration = Duration::from_secs(60 * 86_400);

/// Everything that the server says to a client that sends these pieces and then nothing more.
fn converse(pieces: &[&[u8]]) -> Vec<u8> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
    runtime.expect("a runtime starts").block_on(async {
        let options = Options { grease: false, ..Options::default() };
        let (env, log) = (world::env(), Logger::root(Discard, o!()));
        let engine = Arc::new(MemoryEngine::new(MemoryOptions { bytes_max: 1 << 26, hash_seed: 1 }));
        let identity = Identity { cluster: ClusterId([7; 16]), node: NodeId(1) };
        // The group that tests command has no timers and no randomness of its own: the same input does the same again.
        let (node, _faults) = Node::start_faulty(&env, &log, identity, engine, NodeOptions::default(), false);
        let node = Arc::new(node);
        let server = Server::new(&env, &log, Arc::clone(&node), options);
        let (stream, end) = tokio::io::duplex(4096);
        let (mut from, mut to) = tokio::io::split(stream);
        let write = async {
            for piece in pieces {
                // A server that has closed reads no more.
                if to.write_all(piece).await.is_err() {
                    return;
                }
            }
            let _ = to.shutdown().await;
        };
        let mut said = Vec::new();
        let read = async {
            let _ = from.read_to_end(&mut said).await;
        };
        let all = async { tokio::join!(write, read, server.run_session(end)) };
        assert!(tokio::time::timeout(END_MAX, all).await.is_ok(), "the session does not end");
        node.stop().await;
        said
    })
}

/// The requests that stand in a client's stream, as far as its frames are frames: id and opcode.
fn asked(mut stream: &[u8]) -> HashMap<u64, u16> {
    let mut requests = HashMap::new();
    while let Ok(Some((header, total))) = peek(stream, FRAME_PAYLOAD_BYTES_MAX) {
        if header.kind == Kind::Request {
            requests.insert(header.request_id, header.opcode);
        }
        stream = &stream[total..];
    }
    requests
}

fuzz_target!(|data: &[u8]| {
    let Some(input) = Input::new(data, PREFACE_BYTES) else { return };
    let said = converse(&input.pieces());
    let asked = asked(input.stream.get(PREFACE_BYTES..).unwrap_or_default());
    if said.is_empty() {
        return;
    }
    let (preface, mut rest) = said.split_at(PREFACE_BYTES.min(said.len()));
    // A node that takes this listener for that of nodes is told so in words that it knows.
    let wrong_port = input.stream.starts_with(&peer::MAGIC);
    assert_eq!(preface, if wrong_port { peer::PREFACE } else { PREFACE });
    let mut ends: HashMap<u64, u32> = HashMap::new();
    let mut refused = false;
    while !rest.is_empty() {
        let (header, total) =
            peek(rest, FRAME_PAYLOAD_BYTES_MAX).expect("the server sends frames").expect("whole ones");
        let payload = &rest[total - header.payload_bytes as usize..total];
        rest = &rest[total..];
        if std::env::var_os("QUANTADB_FUZZ_SHOW").is_some() {
            eprintln!("{header:?} {}", payload.escape_ascii());
        }
        assert!(!refused, "GOAWAY is the last word, and here comes {header:?}");
        refused = header.kind == Kind::Goaway;
        assert!(refused || !wrong_port, "a node on the wrong port is told {header:?}");
        if header.request_id != 0 {
            assert!(asked.contains_key(&header.request_id), "request {} was never asked", header.request_id);
            *ends.entry(header.request_id).or_default() += u32::from(header.kind != Kind::Chunk);
        }
        // An error names the opcode that was asked for, which may be none.
        let opcode = Opcode::from_number(header.opcode).unwrap_or(Opcode::Status);
        let message = Message::decode(header.kind, opcode, payload);
        let message = message.expect("a kind that servers send").expect("a payload that is well formed");
        let mut out = BytesMut::new();
        message.encode(&mut out);
        assert_eq!(&out[..], payload);
    }
    assert!(ends.values().all(|ends| *ends <= 1), "one terminal frame a request: {ends:?}");
    // A scan may wait for credit that never comes, and others for it.
    let waits = asked.values().any(|opcode| Opcode::from_number(*opcode).is_some_and(Opcode::is_stream));
    if !refused && !waits {
        let unanswered: Vec<_> = asked.keys().filter(|id| !ends.contains_key(id)).collect();
        assert!(unanswered.is_empty(), "requests {unanswered:?} were never answered");
    }
});

//! Many clients on one key, each of which replaces what it has last seen there: compare-and-set, in one request each time. One
//! that loses is told what is there now and tries again with that.

use super::{Protocol, Target, cpu_ns, protocol::base64};
use bytes::{Buf, BytesMut};
use quantadb::{
    types::{KeyspaceId, Version},
    wire::{self, Condition, Execute, Kind, ListBuf, Op, OpResult, Opcode, Request, RequestBody, Response, Test},
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

const KEY: &[u8] = b"contended";

/// What a window came to.
#[derive(Clone, Copy, Debug)]
pub struct Contended {
    /// Replacements a second.
    pub won: f64,
    /// Requests a second.
    pub tried: f64,
    /// The server's processor time for each replacement, in nanoseconds.
    pub cpu_ns: f64,
    /// How often the client got it that got it least, and the one that got it most.
    pub least: u64,
    pub most: u64,
}

/// Runs so many clients for so many seconds.
pub fn contend(target: &Target, clients: u64, seconds: f64) -> Contended {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (tried, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let mut tasks = Vec::new();
        for _ in 0..clients {
            let stream = target.protocol.connect(&target.address).await;
            tasks.push(tokio::spawn(replace(stream, target.protocol, Arc::clone(&tried), Arc::clone(&stop))));
        }
        let (cpu_before, started) = (cpu_ns(target.pid), Instant::now());
        tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
        stop.store(true, Ordering::Relaxed);
        let mut won = Vec::new();
        for task in tasks {
            won.push(task.await.unwrap());
        }
        let (elapsed, all) = (started.elapsed().as_secs_f64(), won.iter().sum::<u64>() as f64);
        Contended {
            won: all / elapsed,
            tried: tried.load(Ordering::Relaxed) as f64 / elapsed,
            cpu_ns: cpu_ns(target.pid).saturating_sub(cpu_before) as f64 / all,
            least: *won.iter().min().unwrap(),
            most: *won.iter().max().unwrap(),
        }
    })
}

/// One client; how often it replaced the value.
async fn replace(mut stream: TcpStream, protocol: Protocol, tried: Arc<AtomicU64>, stop: Arc<AtomicBool>) -> u64 {
    let (mut outbound, mut inbound) = (BytesMut::new(), BytesMut::new());
    let (mut seen, mut won, mut id) = (0, 0, 0);
    while !stop.load(Ordering::Relaxed) {
        id += 1;
        put_request(protocol, &mut outbound, id, seen);
        stream.write_all(&outbound).await.unwrap();
        outbound.clear();
        let length = loop {
            if let Some((length, _)) = protocol.first_reply(&inbound) {
                break length;
            }
            assert!(stream.read_buf(&mut inbound).await.unwrap() > 0, "the server closed the connection");
        };
        let (has_won, now) = read_reply(protocol, &inbound[..length]);
        inbound.advance(length);
        tried.fetch_add(1, Ordering::Relaxed);
        won += u64::from(has_won);
        seen = now;
    }
    won
}

/// Replaces the value if it is still that of the version `seen`, 0 for none, and tells of it else.
fn put_request(protocol: Protocol, out: &mut BytesMut, id: u64, seen: u64) {
    if protocol == Protocol::Etcd {
        let (key, value) = (base64(KEY), base64(&[b'v'; 100]));
        let body = format!(
            "{{\"compare\":[{{\"key\":\"{key}\",\"target\":\"MOD\",\"result\":\"EQUAL\",\"mod_revision\":\"{seen}\"}}],\
             \"success\":[{{\"request_put\":{{\"key\":\"{key}\",\"value\":\"{value}\"}}}}],\
             \"failure\":[{{\"request_range\":{{\"key\":\"{key}\"}}}}]}}"
        );
        let head = format!("POST /v3/kv/txn HTTP/1.1\r\nHost: etcd\r\nContent-Length: {}\r\n\r\n", body.len());
        out.extend_from_slice(head.as_bytes());
        return out.extend_from_slice(body.as_bytes());
    }
    let key = KeyspaceId::DEFAULT.full_key(KEY);
    let (mut conditions, mut then_ops, mut else_ops) = (ListBuf::new(), ListBuf::new(), ListBuf::new());
    let test = if seen == 0 { Test::Absent } else { Test::VersionEquals(Version(seen)) };
    conditions.push(&Condition { key: &key, test });
    then_ops.push(&Op::Put { key: &key, value: &[b'v'; 100] });
    else_ops.push(&Op::Get { key: &key });
    let request = Request::new(RequestBody::Execute(Execute {
        conditions: conditions.as_list(),
        then_ops: then_ops.as_list(),
        else_ops: else_ops.as_list(),
    }));
    wire::put_frame(out, Kind::Request, 0, request.opcode().number(), id, |out| request.encode(out));
}

/// Whether the value was replaced, and which version is there now.
fn read_reply(protocol: Protocol, reply: &[u8]) -> (bool, u64) {
    if protocol == Protocol::Etcd {
        let text = std::str::from_utf8(reply).unwrap();
        let number = |name: &str| -> u64 {
            let after = &text[text.find(name).unwrap() + name.len()..];
            after[..after.find('"').unwrap()].parse().unwrap()
        };
        return match text.contains("\"succeeded\":true") {
            true => (true, number("\"revision\":\"")),
            false => (false, number("\"mod_revision\":\"")),
        };
    }
    let Response::Execute(reply) = Response::decode(Opcode::Execute, &reply[wire::Header::BYTES..]).unwrap() else {
        panic!("the reply of a one-shot")
    };
    if reply.then {
        return (true, reply.version.0);
    }
    let Some(OpResult::Get(found)) = reply.results.iter().next() else { panic!("what the key has") };
    (false, found.map_or(0, |found| found.version.0))
}

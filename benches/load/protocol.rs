//! What a put and a get look like to each server, and how many replies have arrived. Nothing is looked at closer than it
//! must be, in any of them.

use bytes::{Buf, BufMut, BytesMut};
use quantadb::{
    types::KeyspaceId,
    wire::{self, Hello, Kind, List, Request, RequestBody, preface::PREFACE},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

const VALUE_BYTES: usize = 100;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    Get,
    Set,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    QuantaDb,
    /// Redis and Valkey.
    Resp,
    /// PostgreSQL's extended protocol: each upsert is bound, executed and synced, a transaction of its own. Puts alone.
    Postgres,
    /// etcd's JSON gateway over HTTP/1.1; its gets are linearizable. It answers one request of a connection at a time.
    Etcd,
}

fn key_of(number: u64) -> [u8; 16] {
    let mut key = *b"key-000000000000";
    let digits = format!("{number:012}");
    key[4..].copy_from_slice(digits.as_bytes());
    key
}

/// Bytes in the base64 of RFC 4648, for JSON.
pub fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let bits = (0..3).fold(0_usize, |bits, at| bits << 8 | three.get(at).copied().unwrap_or(0) as usize);
        for at in 0..4 {
            let letter = LETTERS[bits >> (18 - 6 * at) & 63] as char;
            text.push(if at <= three.len() { letter } else { '=' });
        }
    }
    text
}

/// A message of PostgreSQL: a letter, its length, its body.
fn put_message(out: &mut BytesMut, letter: u8, body: impl FnOnce(&mut BytesMut)) {
    out.put_u8(letter);
    let at = out.len();
    out.put_u32(0);
    body(out);
    let length = (out.len() - at) as u32;
    out[at..at + 4].copy_from_slice(&length.to_be_bytes());
}

impl Protocol {
    pub fn put_request(self, out: &mut BytesMut, op: Op, id: u64, number: u64) {
        let key = key_of(number);
        let value = [b'v'; VALUE_BYTES];
        match (self, op) {
            (Protocol::QuantaDb, _) => {
                let mut full = [0; 20];
                full[..4].copy_from_slice(&KeyspaceId::DEFAULT.0.to_be_bytes());
                full[4..].copy_from_slice(&key);
                let body = match op {
                    Op::Get => RequestBody::Get { key: &full },
                    Op::Set => RequestBody::Put { key: &full, value: &value },
                };
                let request = Request::new(body);
                let opcode = request.opcode().number();
                wire::put_frame(out, Kind::Request, 0, opcode, id, |out| request.encode(out));
            }
            (Protocol::Resp, Op::Get) => {
                out.put_slice(b"*2\r\n$3\r\nGET\r\n$16\r\n");
                out.put_slice(&key);
                out.put_slice(b"\r\n");
            }
            (Protocol::Resp, Op::Set) => {
                out.put_slice(b"*3\r\n$3\r\nSET\r\n$16\r\n");
                out.put_slice(&key);
                out.put_slice(b"\r\n$100\r\n");
                out.put_slice(&value);
                out.put_slice(b"\r\n");
            }
            (Protocol::Postgres, Op::Set) => {
                put_message(out, b'B', |out| {
                    // The unnamed portal of statement `p`, all parameters binary.
                    out.put_slice(b"\0p\0\0\x01\0\x01\0\x02");
                    out.put_u32(key.len() as u32);
                    out.put_slice(&key);
                    out.put_u32(value.len() as u32);
                    out.put_slice(&value);
                    out.put_u16(0);
                });
                put_message(out, b'E', |out| out.put_slice(b"\0\0\0\0\0"));
                put_message(out, b'S', |_| {});
            }
            (Protocol::Etcd, Op::Set) => {
                let body = format!("{{\"key\":\"{}\",\"value\":\"{}\"}}", base64(&key), base64(&value));
                out.put_slice(b"POST /v3/kv/put HTTP/1.1\r\nHost: etcd\r\nContent-Length: ");
                out.put_slice(body.len().to_string().as_bytes());
                out.put_slice(b"\r\n\r\n");
                out.put_slice(body.as_bytes());
            }
            (Protocol::Etcd, Op::Get) => {
                let body = format!("{{\"key\":\"{}\"}}", base64(&key));
                out.put_slice(b"POST /v3/kv/range HTTP/1.1\r\nHost: etcd\r\nContent-Length: ");
                out.put_slice(body.len().to_string().as_bytes());
                out.put_slice(b"\r\n\r\n");
                out.put_slice(body.as_bytes());
            }
            (Protocol::Postgres, Op::Get) => panic!("gets are not measured there"),
        }
    }

    /// Takes whole replies from the front; returns how many.
    pub fn take_replies(self, inbound: &mut BytesMut) -> u64 {
        let mut count = 0;
        while let Some((length, replies)) = self.first_reply(inbound) {
            inbound.advance(length);
            count += replies;
        }
        count
    }

    /// The length of the first whole message, and how many replies it completes.
    pub fn first_reply(self, inbound: &[u8]) -> Option<(usize, u64)> {
        match self {
            Protocol::QuantaDb => {
                let length = wire::Header::BYTES + u32::from_be_bytes(inbound.get(..4)?.try_into().unwrap()) as usize;
                inbound.get(..length)?;
                let payload = &inbound[wire::Header::BYTES..length];
                assert_eq!(
                    inbound[4],
                    Kind::Response.number(),
                    "the server answered {:?}",
                    wire::WireError::decode(payload)
                );
                Some((length, 1))
            }
            Protocol::Resp => {
                let end = inbound.windows(2).position(|pair| pair == b"\r\n")?;
                let line = &inbound[1..end];
                let length = match inbound[0] {
                    b'+' => end + 2,
                    b'$' if line == b"-1" => end + 2,
                    b'$' => end + 2 + std::str::from_utf8(line).unwrap().parse::<usize>().unwrap() + 2,
                    other => panic!("the server answered {}", other as char),
                };
                (length <= inbound.len()).then_some((length, 1))
            }
            Protocol::Postgres => {
                let length = 1 + u32::from_be_bytes(inbound.get(1..5)?.try_into().unwrap()) as usize;
                let body = inbound.get(5..length)?;
                assert_ne!(inbound[0], b'E', "the server answered {}", String::from_utf8_lossy(body));
                Some((length, u64::from(inbound[0] == b'Z')))
            }
            Protocol::Etcd => {
                let head = inbound.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
                let text = std::str::from_utf8(&inbound[..head]).unwrap();
                assert!(text.starts_with("HTTP/1.1 200"), "the server answered {text}");
                let body = text.lines().find_map(|line| {
                    let (name, value) = line.split_once(':')?;
                    name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().unwrap())
                });
                let length = head + body.expect("the gateway tells the length of what is short");
                (length <= inbound.len()).then_some((length, 1))
            }
        }
    }

    pub async fn connect(self, address: &str) -> TcpStream {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        match self {
            Protocol::QuantaDb => {
                let mut out = BytesMut::from(&PREFACE[..]);
                let hello =
                    Hello { version_min: 1, version_max: 1, credit: 0, client_name: "bench", features: List::EMPTY };
                wire::put_frame(&mut out, Kind::Hello, 0, 0, 0, |out| hello.encode(out));
                stream.write_all(&out).await.unwrap();
                let mut preface = [0; 8];
                stream.read_exact(&mut preface).await.unwrap();
                let mut header = [0; wire::Header::BYTES];
                stream.read_exact(&mut header).await.unwrap();
                let mut welcome = vec![0; u32::from_be_bytes(header[..4].try_into().unwrap()) as usize];
                stream.read_exact(&mut welcome).await.unwrap();
            }
            Protocol::Resp | Protocol::Etcd => {}
            Protocol::Postgres => {
                let mut out = BytesMut::new();
                let user = b"user\0postgres\0database\0postgres\0\0";
                out.put_u32(8 + user.len() as u32);
                out.put_u32(3 << 16);
                out.put_slice(user);
                ready(&mut stream, &out).await;
                let prepare = b"p\0insert into kv values ($1, $2) on conflict (key) do update set value = \
                                excluded.value\0\0\0";
                let mut out = BytesMut::new();
                put_message(&mut out, b'P', |out| out.put_slice(prepare));
                put_message(&mut out, b'S', |_| {});
                ready(&mut stream, &out).await;
            }
        }
        stream
    }

    /// Makes what must be there before the first put.
    pub async fn prepare(self, address: &str) {
        if self != Protocol::Postgres {
            return;
        }
        let mut stream = TcpStream::connect(address).await.unwrap();
        let mut out = BytesMut::new();
        let user = b"user\0postgres\0database\0postgres\0\0";
        out.put_u32(8 + user.len() as u32);
        out.put_u32(3 << 16);
        out.put_slice(user);
        ready(&mut stream, &out).await;
        let make = b"create table if not exists kv (key bytea primary key, value bytea not null)\0";
        let mut out = BytesMut::new();
        put_message(&mut out, b'Q', |out| out.put_slice(make));
        ready(&mut stream, &out).await;
    }
}

/// Sends to PostgreSQL and reads up to where it is ready for more.
async fn ready(stream: &mut TcpStream, out: &[u8]) {
    stream.write_all(out).await.unwrap();
    let mut inbound = BytesMut::new();
    while Protocol::Postgres.take_replies(&mut inbound) == 0 {
        assert!(stream.read_buf(&mut inbound).await.unwrap() > 0, "the server closed the connection");
    }
}

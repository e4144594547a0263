//! What the protocol costs: a frame written in place, a frame found and decoded, for requests and replies of the sizes of the
//! comparison with other stores (keys of 16 bytes, values of 100).

use bytes::BytesMut;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use quantadb::types::limits::FRAME_PAYLOAD_BYTES_MAX;
use quantadb::types::{KeyspaceId, Version};
use quantadb::wire::{Codec, Found, GetReply, Kind, Opcode, Request, RequestBody, begin_frame, finish_frame, peek};
use std::hint::black_box;
use tokio_util::codec::Decoder;

/// As many frames as one read brings.
const BATCH: u64 = 256;
const VALUE: [u8; 100] = [7; 100];

/// A batch of requests, as a client sends them.
fn requests<'a>(body: RequestBody<'a>) -> BytesMut {
    let mut out = BytesMut::new();
    for id in 1..=BATCH {
        let mark = begin_frame(&mut out, Kind::Request, 0, body.opcode().number(), id);
        Request::new(body).encode(&mut out);
        finish_frame(&mut out, mark);
    }
    out
}

/// Finds and decodes every request that has arrived, as the server's read loop does.
fn decode_all(mut bytes: &[u8]) {
    while let Ok(Some((header, total))) = peek(bytes, FRAME_PAYLOAD_BYTES_MAX) {
        let payload = &bytes[total - header.payload_bytes as usize..total];
        let request = Request::decode_with_fields(header.opcode, payload);
        black_box(request.is_ok());
        bytes = &bytes[total..];
    }
}

fn codec(c: &mut Criterion) {
    let key = KeyspaceId::DEFAULT.full_key(b"key:000000000042");
    let get = RequestBody::Get { key: &key };
    let put = RequestBody::Put { key: &key, value: &VALUE };
    let mut group = c.benchmark_group("codec");
    group.throughput(Throughput::Elements(BATCH));
    for (name, body) in [("get", get), ("put", put)] {
        let bytes = requests(body);
        group.bench_function(format!("decode {name}"), |b| b.iter(|| decode_all(black_box(&bytes))));
        group.bench_function(format!("encode {name}"), |b| {
            let mut out = BytesMut::with_capacity(bytes.len());
            b.iter(|| {
                out.clear();
                for id in 1..=BATCH {
                    let mark = begin_frame(&mut out, Kind::Request, 0, body.opcode().number(), id);
                    Request::new(black_box(body)).encode(&mut out);
                    finish_frame(&mut out, mark);
                }
            });
        });
    }
    group.bench_function("encode get reply", |b| {
        let mut out = BytesMut::with_capacity(1 << 16);
        b.iter(|| {
            out.clear();
            for id in 1..=BATCH {
                let mark = begin_frame(&mut out, Kind::Response, 0, Opcode::Get.number(), id);
                let found = Some(Found { version: Version(7), value: black_box(&VALUE) });
                GetReply { version: Version(9), found }.encode(&mut out);
                finish_frame(&mut out, mark);
            }
        });
    });
    let bytes = requests(put);
    group.bench_function("decode put by Framed's decoder", |b| {
        b.iter_batched(
            || bytes.clone(),
            |mut bytes| {
                let mut codec = Codec::new(FRAME_PAYLOAD_BYTES_MAX);
                while let Ok(Some(frame)) = codec.decode(&mut bytes) {
                    black_box(frame);
                }
            },
            BatchSize::LargeInput,
        );
    });
    group.finish();
}

criterion_group!(benches, codec);
criterion_main!(benches);

//! The golden vectors, said to a running server.

use super::peer::{Peer, code, described};
use bytes::BytesMut;
use quantadb::testing::connection::Connection;
use quantadb::testing::hosted::HostedServer;
use quantadb::testing::wire::from_hex;
use quantadb::wire::peer::PREFACE as PEER_PREFACE;
use quantadb::wire::preface::PREFACE;
use serde_json::{Value, json};
use std::io::Read;
use std::net::Shutdown;
use std::path::Path;

fn vectors(file: &str) -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("protocol-spec/vectors").join(file);
    let text = std::fs::read_to_string(path).expect("the vectors can be read");
    serde_json::from_str(&text).expect("the vectors are JSON")
}

/// Every operation, with every tag that it may carry: one terminal frame with its id, whatever it says.
// spec: QP-MSG-007
#[test]
fn every_request_of_the_vectors_gets_one_terminal_frame() {
    let server = HostedServer::start();
    let mut peer = Peer::open(&server);
    let frames: Vec<Value> = ["requests.json", "tags.json"].iter().flat_map(|file| vectors(file)).collect();
    let requests: Vec<&Value> =
        frames.iter().map(|vector| &vector["frame"]).filter(|frame| frame["kind"] == "REQUEST").collect();
    assert!(requests.len() > 80);
    for frame in requests {
        let opcode = frame["opcode"].as_str().expect("a request has an opcode");
        let mut fields = frame["fields"].clone();
        if opcode == "SCAN" {
            fields["credit"] = json!(1 << 20);
        }
        // In the vectors a version to wait for is one that an empty database has not reached.
        let mut tags = frame["tags"].clone();
        if tags.get("MIN_VERSION").is_some() {
            tags["DEADLINE"] = json!(1);
        }
        let id = peer.send(opcode, fields, tags);
        loop {
            let heard = peer.hear_of(id);
            assert_eq!(heard["opcode"], opcode);
            if heard["kind"] != "CHUNK" {
                break;
            }
        }
    }
    peer.control("PING", 0, json!({"opaque": "0001020304050607"}));
    assert_eq!(peer.hear()["kind"], "PONG", "nothing came after the last terminal frame");
}

/// What is wrong is answered as the vectors say, and the connection goes on or ends as they say.
// spec: QP-FRM-002
// spec: QP-FRM-003
// spec: QP-FRM-011
// spec: QP-FRM-012
// spec: QP-FRM-013
// spec: QP-FRM-014
// spec: QP-FRM-017
// spec: QP-ERR-002
// spec: QP-HSK-002
#[test]
fn every_negative_vector_has_the_fate_that_it_names() {
    let server = HostedServer::start();
    for vector in vectors("negative.json") {
        let (name, fate) = (&vector["name"], vector["connection"].as_str().unwrap_or_default());
        let bytes = from_hex(vector["hex"].as_str().expect("hex is text")).expect("it is hexadecimal");
        let instead_of_preface = bytes.len() < 24;
        let is_hello = bytes.get(4) == Some(&1) && bytes.len() >= 24;
        let mut peer = if instead_of_preface || is_hello {
            let mut connection = Connection::silent(server.address());
            if is_hello {
                connection.queue_bytes(&PREFACE);
            }
            connection.queue_bytes(&bytes);
            connection.flush();
            if fate == "goaway" {
                let mut preface = [0; 8];
                connection.socket().read_exact(&mut preface).expect("the server sends its preface");
                // A node is told in its own protocol that it is wrong here.
                let wanted = if bytes == PEER_PREFACE { PEER_PREFACE } else { PREFACE };
                assert_eq!(preface, wanted, "{name}");
            }
            let arrived = connection.try_receive();
            judge(name, fate, &vector, arrived.as_ref().map(described));
            assert!(connection.try_receive().is_none(), "{name}: the connection ends");
            continue;
        } else {
            Peer::open(&server)
        };
        peer.connection.queue_bytes(&bytes);
        peer.connection.flush();
        let heard = peer.hear();
        judge(name, fate, &vector, Some(heard));
        if fate == "request" {
            peer.control("PING", 0, json!({"opaque": "0001020304050607"}));
            assert_eq!(peer.hear()["kind"], "PONG", "{name}: the connection goes on");
        } else {
            assert!(peer.ends(), "{name}: the connection ends");
        }
    }
}

fn judge(name: &Value, fate: &str, vector: &Value, heard: Option<Value>) {
    let kind = match fate {
        "close" => return assert!(heard.is_none(), "{name}: {heard:?}"),
        "goaway" => "GOAWAY",
        _ => "ERROR",
    };
    let heard = heard.unwrap_or_else(|| panic!("{name}: nothing was said"));
    assert_eq!(heard["kind"], kind, "{name}: {heard}");
    assert_eq!(vector["code"]["name"], code(&heard), "{name}");
}

/// Whoever sends nothing at all, and whoever is cut off within a frame, harms nobody.
#[test]
fn a_stream_cut_anywhere_ends_quietly() {
    let server = HostedServer::start();
    let all = vectors("requests.json");
    let mut stream = BytesMut::from(&PREFACE[..]);
    let hello = vectors("connection.json").into_iter().find(|vector| vector["name"] == "HELLO full");
    let hello = hello.expect("there is such a vector");
    for vector in [&hello, &all[0], &all[1]] {
        stream.extend_from_slice(&from_hex(vector["hex"].as_str().expect("hex is text")).expect("it is hexadecimal"));
    }
    for length in 0..stream.len() {
        let mut connection = Connection::silent(server.address());
        connection.queue_bytes(&stream[..length]);
        connection.flush();
        connection.socket().shutdown(Shutdown::Write).expect("the socket is open");
        let mut heard = Vec::new();
        connection.socket().read_to_end(&mut heard).expect("the server ends in order");
    }
    assert_eq!(Peer::open(&server).get("k"), None, "others are served");
}

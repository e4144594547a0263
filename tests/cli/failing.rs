//! What `quantactl` says, and with which code it ends, when the server or the way to it fails.

use crate::programs::{QUANTACTL, Server, run};
use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    thread,
};

/// An address that nobody listens on.
fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
    listener.local_addr().expect("it is bound").to_string()
}

/// Accepts one connection and hands it over.
fn accept_one(serve: impl FnOnce(TcpStream) + Send + 'static) -> (String, thread::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
    let address = listener.local_addr().expect("it is bound").to_string();
    (address, thread::spawn(move || serve(listener.accept().expect("somebody connects").0)))
}

#[test]
fn no_server_is_exit_code_four() {
    let address = nobody();
    for words in [&["ping"][..], &["get", "k"], &["put", "k", "v"], &["scan"], &["export"], &["import", "-"]] {
        let parts = [address.as_str(), "refused", "check that a server runs there", "--addr"];
        run(QUANTACTL, &[&["--addr", &address], words].concat(), b"").fails(4, &parts);
    }
}

#[test]
fn the_next_address_is_tried() {
    let server = Server::start(&[]);
    let both = format!("{},{}", nobody(), server.address);
    run(QUANTACTL, &["--addr", &both, "put", "k", "v"], b"").prints("version 1\n");
}

#[test]
fn a_peer_that_is_no_server_is_exit_code_four() {
    let (address, thread) = accept_one(|mut socket| {
        socket.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").expect("it can be written");
    });
    let ended = run(QUANTACTL, &["--addr", &address, "--timeout", "2", "ping"], b"");
    ended.fails(4, &[&address]);
    thread.join().expect("it ends");
}

#[test]
fn a_peer_that_says_nothing_is_exit_code_four() {
    let (address, thread) = accept_one(|mut socket| {
        let _ = socket.read_to_end(&mut Vec::new());
    });
    run(QUANTACTL, &["--addr", &address, "--timeout", "0.3", "get", "k"], b"").fails(4, &[&address]);
    thread.join().expect("it ends");
}

#[test]
fn a_write_without_an_answer_is_exit_code_five() {
    let server = Server::start(&[]);
    let upstream = server.address.clone();
    // Passes everything to the server, and only the handshake back.
    let (address, thread) = accept_one(move |client| {
        let mut server = TcpStream::connect(upstream).expect("the server listens");
        let (mut from_client, mut to_server) = (&client, server.try_clone().expect("a socket has two handles"));
        let mut to_client = client.try_clone().expect("a socket has two handles");
        thread::scope(|scope| {
            scope.spawn(move || {
                let _ = std::io::copy(&mut from_client, &mut to_server);
                let _ = to_server.shutdown(std::net::Shutdown::Both);
            });
            let mut preface_and_header = [0; 8 + 24];
            server.read_exact(&mut preface_and_header).expect("it greets");
            let length = u32::from_be_bytes(preface_and_header[8..12].try_into().expect("four bytes"));
            let mut welcome = vec![0; length as usize];
            server.read_exact(&mut welcome).expect("it says welcome");
            to_client.write_all(&preface_and_header).expect("the client listens");
            to_client.write_all(&welcome).expect("the client listens");
            let _ = server.read_to_end(&mut Vec::new());
        });
    });
    run(QUANTACTL, &["--addr", &address, "--timeout", "1", "put", "k", "v"], b"").fails(5, &["outcome unknown"]);
    thread.join().expect("it ends");
    server.ctl(&["get", "k"]).prints("v\n");
}

//! A raw connection: frames in, frames out, over a plain blocking socket, with nothing of the client in between.

use crate::wire::{
    self, ErrorCode, Header, Hello, Kind, List, Opcode, Request, RequestBody, Response, WireError, preface::PREFACE,
};
use bytes::{Buf, Bytes, BytesMut};
use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

/// How long a test waits for a frame before it fails.
const READ_TIMEOUT: Duration = Duration::from_secs(120);
const PAYLOAD_MAX: usize = 32 * 1024 * 1024;

/// A frame that arrived.
#[derive(Clone, Debug)]
pub struct Arrived {
    /// Its header.
    pub header: Header,
    /// Its payload.
    pub payload: Bytes,
}

impl Arrived {
    /// The error in it. Panics where it is something else.
    #[must_use]
    pub fn error(&self) -> WireError {
        assert_eq!(self.header.kind, Kind::Error, "{self:?}");
        WireError::decode(&self.payload).expect("the server encodes errors well")
    }

    /// The response in it. Panics where it is something else.
    #[must_use]
    pub fn response(&self) -> Response<'_> {
        if self.header.kind == Kind::Error {
            panic!("an error instead of a response: {:?}", self.error());
        }
        assert_eq!(self.header.kind, Kind::Response, "{self:?}");
        let opcode = Opcode::from_number(self.header.opcode).expect("the server repeats the opcode");
        Response::decode(opcode, &self.payload).expect("the server encodes responses well")
    }
}

/// A connection.
#[derive(Debug)]
pub struct Connection {
    socket: TcpStream,
    inbound: BytesMut,
    outbound: BytesMut,
    next_request: u64,
}

impl Connection {
    /// Connects without saying anything.
    #[must_use]
    pub fn silent(address: SocketAddr) -> Connection {
        let socket = TcpStream::connect(address).expect("the server listens");
        socket.set_nodelay(true).expect("a fresh socket takes options");
        socket.set_read_timeout(Some(READ_TIMEOUT)).expect("a fresh socket takes options");
        Connection { socket, inbound: BytesMut::new(), outbound: BytesMut::new(), next_request: 1 }
    }

    /// Connects and completes the handshake, granting the connection `credit` bytes.
    #[must_use]
    pub fn open_with_credit(address: SocketAddr, credit: u32) -> Connection {
        let mut connection = Connection::silent(address);
        let hello = Hello { version_min: 1, version_max: 1, credit, client_name: "test", features: List::EMPTY };
        connection.outbound.extend_from_slice(&PREFACE);
        wire::put_frame(&mut connection.outbound, Kind::Hello, 0, 0, 0, |out| hello.encode(out));
        connection.flush();
        let mut preface = [0; 8];
        connection.socket.read_exact(&mut preface).expect("the server answers its preface");
        assert_eq!(preface, PREFACE);
        assert_eq!(connection.receive().header.kind, Kind::Welcome);
        connection
    }

    /// Connects and completes the handshake.
    #[must_use]
    pub fn open(address: SocketAddr) -> Connection {
        Connection::open_with_credit(address, 64 * 1024 * 1024)
    }

    /// The socket, for what frames cannot express.
    pub fn socket(&mut self) -> &mut TcpStream {
        &mut self.socket
    }

    /// Queues bytes as they are.
    pub fn queue_bytes(&mut self, bytes: &[u8]) {
        self.outbound.extend_from_slice(bytes);
    }

    /// Queues a frame.
    pub fn queue(&mut self, kind: Kind, flags: u8, opcode: u16, request: u64, write: impl FnOnce(&mut BytesMut)) {
        wire::put_frame(&mut self.outbound, kind, flags, opcode, request, write);
    }

    /// Queues a request with its flags; returns its id.
    pub fn queue_request(&mut self, flags: u8, request: &Request<'_>) -> u64 {
        let id = self.next_request;
        self.next_request += 1;
        self.queue(Kind::Request, flags, request.opcode().number(), id, |out| request.encode(out));
        id
    }

    /// Queues a request that belongs to a transaction; returns its id.
    pub fn queue_in(&mut self, transaction: u64, body: RequestBody<'_>) -> u64 {
        let mut request = Request::new(body);
        request.tags.transaction = Some(transaction);
        self.queue_request(0, &request)
    }

    /// Writes what is queued.
    pub fn flush(&mut self) {
        let queued = std::mem::take(&mut self.outbound);
        self.socket.write_all(&queued).expect("the server reads");
    }

    /// The next frame. Panics where the connection ends or nothing comes.
    pub fn receive(&mut self) -> Arrived {
        self.try_receive().expect("the server sends a frame")
    }

    /// The next frame, or `None` where the connection ends.
    pub fn try_receive(&mut self) -> Option<Arrived> {
        loop {
            if let Some((header, length)) = wire::peek(&self.inbound, PAYLOAD_MAX).expect("the server frames well") {
                let mut frame = self.inbound.split_to(length);
                frame.advance(Header::BYTES);
                return Some(Arrived { header, payload: frame.freeze() });
            }
            let mut buffer = [0; 64 * 1024];
            match self.socket.read(&mut buffer) {
                Ok(0) => return None,
                Ok(count) => self.inbound.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("no frame came: {error}"),
            }
        }
    }

    /// Sends one request and waits for its terminal frame, which must come next.
    pub fn call(&mut self, request: &Request<'_>) -> Arrived {
        let id = self.queue_request(0, request);
        self.flush();
        let arrived = self.receive();
        assert_eq!(arrived.header.request_id, id, "{arrived:?}");
        arrived
    }

    /// The same, without tags.
    pub fn call_body(&mut self, body: RequestBody<'_>) -> Arrived {
        self.call(&Request::new(body))
    }

    /// The same, in a transaction.
    pub fn call_in(&mut self, transaction: u64, body: RequestBody<'_>) -> Arrived {
        let id = self.queue_in(transaction, body);
        self.flush();
        let arrived = self.receive();
        assert_eq!(arrived.header.request_id, id, "{arrived:?}");
        arrived
    }

    /// Begins a transaction; returns its id.
    pub fn begin(&mut self, isolation: crate::types::Isolation) -> u64 {
        let arrived = self.call_body(RequestBody::Begin { isolation });
        let _ = arrived.response();
        arrived.header.request_id
    }

    /// The code of the error that answers a request.
    pub fn error_of(&mut self, request: &Request<'_>) -> ErrorCode {
        self.call(request).error().code
    }
}

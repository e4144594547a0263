//! Frames that are not requests: the handshake, credit, cancel, ping.

use super::{Session, State, held::Held};
use crate::{
    types::limits,
    wire::{
        self, Cancel, Credit, ErrorCode, Goaway, Header, Hello, Kind, Ping, Welcome, WireError,
        preface::{PREFACE, PrefaceError, check_preface},
        registry::{FEATURES, PROTOCOL_VERSION_MAX, PROTOCOL_VERSION_MIN},
    },
};
use bytes::{BufMut, BytesMut};
use slog::{debug, info, warn};

impl Session {
    /// Whether the preface is whole and right; answers it. A stranger is told nothing that it would not understand.
    // spec: QP-FRM-002
    // spec: QP-FRM-003
    pub(super) fn take_preface(&mut self, block: &[u8]) -> bool {
        match check_preface(block) {
            Ok(true) => {
                self.outbound.put_slice(&PREFACE);
                self.state = State::Hello;
                true
            }
            Ok(false) => false,
            Err(PrefaceError::Version(version)) => {
                let message = format!("framing version {version} is not spoken here");
                self.go_away(ErrorCode::VERSION_UNSUPPORTED, &message);
                false
            }
            Err(PrefaceError::WrongPort) => {
                // Told in its own protocol, so that it understands.
                // spec: QP-FRM-005
                self.outbound.put_slice(&wire::peer::PREFACE);
                self.state = State::Hello;
                warn!(self.log, "a node connected where clients do: some `--join` names this listener");
                self.go_away(ErrorCode::WRONG_PORT, "this listener is for clients, nodes have another");
                false
            }
            Err(error @ PrefaceError::Stranger(_)) => {
                info!(self.log, "a stranger connected"; "reason" => %error);
                self.state = State::Closing;
                false
            }
        }
    }

    /// One whole frame; its payload begins at `at` in `block`.
    pub(super) fn frame(&mut self, block: &BytesMut, at: usize, header: Header) {
        let payload = &block[at..at + header.payload_bytes as usize];
        if self.state == State::Hello {
            return match header.kind {
                Kind::Hello => self.hello(payload),
                Kind::Other(_) => {}
                _ => self.go_away(ErrorCode::PROTOCOL_ERROR, "the first frame must be HELLO"),
            };
        }
        match header.kind {
            Kind::Request => self.request(block, at, header),
            Kind::Credit => self.take_credit(header.request_id, payload),
            Kind::Cancel => self.cancel(header.request_id, payload),
            Kind::Ping => self.ping(payload),
            // Answers to what a server may ask later, and a client's farewell: nothing to do.
            Kind::Pong | Kind::Goaway | Kind::Other(_) => {}
            Kind::Hello
            | Kind::Welcome
            | Kind::Auth
            | Kind::Response
            | Kind::Chunk
            | Kind::End
            | Kind::Error
            | Kind::Notice
            | Kind::Invalid(_) => self.go_away(ErrorCode::PROTOCOL_ERROR, "a client does not send this kind of frame"),
        }
    }

    fn hello(&mut self, payload: &[u8]) {
        let hello = match Hello::decode(payload) {
            Ok(hello) => hello,
            Err(error) => {
                let goaway = Goaway { tag: error.tag, ..Goaway::new(ErrorCode::PROTOCOL_ERROR, 0, error.what) };
                return self.go_away_with(&goaway);
            }
        };
        if hello.version_min > PROTOCOL_VERSION_MAX || hello.version_max < PROTOCOL_VERSION_MIN {
            let goaway = Goaway {
                version_min: Some(PROTOCOL_VERSION_MIN),
                version_max: Some(PROTOCOL_VERSION_MAX),
                ..Goaway::new(ErrorCode::VERSION_UNSUPPORTED, 0, "no protocol version in common")
            };
            return self.go_away_with(&goaway);
        }
        self.credit = i64::from(hello.credit);
        debug!(self.log, "hello"; "client" => hello.client_name.to_owned());
        self.welcome(&hello);
        self.state = State::Open;
    }

    fn welcome(&mut self, hello: &Hello<'_>) {
        let mut features = wire::ListBuf::new();
        for feature in FEATURES.iter().filter(|feature| hello.has_feature(feature.name)) {
            features.push(&wire::Text(feature.name));
        }
        let mut announced = wire::ListBuf::new();
        for (id, value) in self.shared.options.limits() {
            announced.push(&wire::Limit { id, value });
        }
        let identity = self.shared.node.identity();
        let leader = self.other_leader();
        let welcome = Welcome {
            version: PROTOCOL_VERSION_MAX.min(hello.version_max),
            cluster: identity.cluster,
            node: identity.node,
            session: self.id,
            server_name: &self.shared.options.name,
            features: features.as_list(),
            mechanisms: wire::List::EMPTY,
            limits: announced.as_list(),
            leader: leader.as_deref(),
        };
        let grease =
            if self.shared.options.grease { wire::Grease::from_random(self.shared.env.random_u64()) } else { None };
        wire::put_frame(&mut self.outbound, Kind::Welcome, 0, 0, 0, |out| welcome.encode_greased(out, grease));
    }

    fn ping(&mut self, payload: &[u8]) {
        match Ping::decode(payload) {
            Ok(ping) => wire::put_frame(&mut self.outbound, Kind::Pong, 0, 0, 0, |out| ping.encode(out)),
            Err(error) => self.go_away(ErrorCode::PROTOCOL_ERROR, error.what),
        }
    }

    /// Credit of a stream, or of the connection when the id is zero.
    fn take_credit(&mut self, request: u64, payload: &[u8]) {
        let bytes = match Credit::decode(payload) {
            Ok(credit) => i64::from(credit.bytes),
            Err(error) => return self.go_away(ErrorCode::PROTOCOL_ERROR, error.what),
        };
        let account = if request == 0 {
            Some(&mut self.credit)
        } else {
            // Credit for what has ended crossed its END on the way.
            let begun = self.streams.iter_mut().find(|stream| stream.request == request);
            let mut held = self.held.iter_mut();
            let of_held = move || held.find(|held| held.request() == request).map(Held::credit);
            begun.map(|stream| &mut stream.credit).or_else(of_held)
        };
        if let Some(account) = account {
            *account += bytes;
            if *account > i64::from(u32::MAX) {
                self.go_away(ErrorCode::PROTOCOL_ERROR, "more credit than 2^32 - 1 bytes");
            }
        }
    }

    /// Cancels what has not been submitted; anything else ends as it would have.
    fn cancel(&mut self, request: u64, payload: &[u8]) {
        if let Err(error) = Cancel::decode(payload) {
            return self.go_away(ErrorCode::PROTOCOL_ERROR, error.what);
        }
        let cancelled = WireError::new(ErrorCode::CANCELLED);
        if self.end_stream(request, &cancelled) {
            return;
        }
        if let Some(place) = self.held.iter().position(|held| held.request() == request)
            && let Some(held) = self.held.remove(place)
        {
            self.drop_held(&held, &cancelled);
        }
    }
}

const _: () = assert!(limits::HANDSHAKE_PAYLOAD_BYTES_MAX >= 64 * (limits::FEATURE_BYTES_MAX + 2), "a HELLO fits");

//! From an address to a connection: socket, preface, HELLO and WELCOME.

use super::connection::{Peer, told};
use super::error::Error;
use super::options::ClientOptions;
use crate::env::Socket;
use crate::types::limits::{CLIENT_NAME_BYTES_MAX, FRAME_PAYLOAD_BYTES_MAX};
use crate::wire::preface::{PREFACE, PREFACE_BYTES, PrefaceError, check_preface};
use crate::wire::registry::{FEATURES, GREASE_FEATURE_PREFIX, PROTOCOL_VERSION_MAX, PROTOCOL_VERSION_MIN};
use crate::wire::{
    Codec, ErrorCode, Goaway, Grease, Hello, Kind, LimitId, ListBuf, Retry, Text, Welcome, WireError, put_frame,
};
use bytes::{Buf, BufMut, BytesMut};
use std::{sync::Arc, time::Duration};
use tokio::io::AsyncReadExt;
use tokio_util::codec::Decoder;

/// What bounds the requests in flight if the server does not say.
const REQUESTS_IN_FLIGHT_DEFAULT: u64 = 1_024;
const BYTES_IN_FLIGHT_DEFAULT: u64 = 2 * FRAME_PAYLOAD_BYTES_MAX as u64;

/// A socket whose handshake is done, and what was read beyond it.
pub(super) struct Dialled {
    pub(super) socket: Box<dyn Socket>,
    pub(super) arrived: BytesMut,
    pub(super) peer: Peer,
    /// Where the node that leads is, if it is another and the server knows.
    pub(super) leader: Option<Box<str>>,
}

/// Connects to one address, within the time that the options give it.
pub(super) async fn dial(options: &ClientOptions, address: &Arc<str>) -> Result<Dialled, Error> {
    let until = options.env.now() + options.connect_timeout;
    let timed_out = || Error::unreachable(format!("connecting to {address} took too long"));
    options.env.until(until, shake(options, address)).await.ok_or_else(timed_out)?
}

async fn shake(options: &ClientOptions, address: &Arc<str>) -> Result<Dialled, Error> {
    let failed = |error| Error::connecting(address, error);
    let mut socket = options.connector.connect(address).await.map_err(failed)?;
    super::io::write_all(&mut socket, &greeting(options)).await.map_err(failed)?;
    let (mut arrived, mut codec) = (BytesMut::with_capacity(4096), Codec::new(FRAME_PAYLOAD_BYTES_MAX));
    let mut preface_done = false;
    loop {
        if !preface_done && check_preface(&arrived).map_err(|error| strange(address, error))? {
            arrived.advance(PREFACE_BYTES);
            preface_done = true;
        }
        let bad = |error| Error::protocol(format!("what answers at {address} sends no frames")).with_source(error);
        if preface_done && let Some(frame) = codec.decode(&mut arrived).map_err(bad)? {
            return match frame.kind {
                Kind::Welcome => {
                    let welcome = Welcome::decode(&frame.payload).map_err(Error::reply)?;
                    let leader = welcome.leader.map(Box::from);
                    Ok(Dialled { peer: peer(address, &welcome), leader, socket, arrived })
                }
                Kind::Goaway => Err(told(&Goaway::decode(&frame.payload).map_err(Error::reply)?)),
                kind => Err(Error::protocol(format!("the server began with a frame of kind {kind:?}"))),
            };
        }
        if socket.read_buf(&mut arrived).await.map_err(failed)? == 0 {
            return Err(Error::unreachable(format!("{address} closed the connection within the handshake")));
        }
    }
}

/// Preface and HELLO.
fn greeting(options: &ClientOptions) -> BytesMut {
    let mut out = BytesMut::with_capacity(256);
    out.put_slice(&PREFACE);
    let random = options.env.random_u64();
    let mut features = ListBuf::new();
    FEATURES.iter().for_each(|feature| features.push(&Text(feature.name)));
    let grease_feature = format!("{GREASE_FEATURE_PREFIX}{:02x}", random & 0xff);
    if options.grease {
        features.push(&Text(&grease_feature));
    }
    let name = &options.name[..options.name.floor_char_boundary(CLIENT_NAME_BYTES_MAX)];
    let hello = Hello {
        version_min: PROTOCOL_VERSION_MIN,
        version_max: PROTOCOL_VERSION_MAX,
        credit: options.credit.max(1),
        client_name: name,
        features: features.as_list(),
    };
    let grease = options.grease.then(|| Grease::from_random(random >> 8)).flatten();
    put_frame(&mut out, Kind::Hello, 0, 0, 0, |out| hello.encode_greased(out, grease));
    out
}

fn peer(address: &Arc<str>, welcome: &Welcome<'_>) -> Peer {
    let limit = |id, default| usize::try_from(welcome.limit(id).unwrap_or(default)).unwrap_or(usize::MAX).max(1);
    Peer {
        address: address.clone(),
        cluster: welcome.cluster,
        node: welcome.node,
        server_name: welcome.server_name.to_owned(),
        requests_max: limit(LimitId::REQUESTS_IN_FLIGHT, REQUESTS_IN_FLIGHT_DEFAULT),
        bytes_max: limit(LimitId::BYTES_IN_FLIGHT, BYTES_IN_FLIGHT_DEFAULT),
        idle_max: welcome.limit(LimitId::IDLE_MS).filter(|ms| *ms > 0).map(Duration::from_millis),
    }
}

/// What answers is no server of ours, or one that frames otherwise.
fn strange(address: &str, error: PrefaceError) -> Error {
    match error {
        PrefaceError::Stranger(_) => {
            Error::unreachable(format!("what answers at {address} is no quantadb")).with_retry(Retry::Never)
        }
        PrefaceError::Version(_) => Error::refused(WireError::new(ErrorCode::VERSION_UNSUPPORTED)),
        PrefaceError::WrongPort => Error::refused(WireError::new(ErrorCode::WRONG_PORT)),
    }
    .with_source(error)
}

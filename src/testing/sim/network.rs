//! Byte streams between hosts, as TCP gives them to programs.
//!
//! Bytes of one direction arrive in their order, each write after a delay of its own. A write may be cut in two, a read
//! may give less than there is. What is sent and not read is bounded; whoever writes more waits. Nothing is lost or comes
//! twice within a connection, for TCP sees to that: what the network does to packets is seen as delay. What comes in another
//! order, or twice, are things of different connections.
//!
//! Where the way is cut, what is sent stays under way, and arrives some time after the way is mended; what was read is
//! not known to the sender until the way back is whole, so a sender stops when the buffer is full. A sender that gets
//! nothing through for [`NetworkOptions::give_up`] fails with `TimedOut`.

mod cuts;
mod listener;
mod socket;
mod transport;

pub use listener::SimulatedListener;
pub(super) use listener::connect;

use super::{
    disk::between,
    state::{Core, HostId, State, Time},
    timers::Event,
};
use crate::{env::Socket, testing::generators::Random};
use bytes::{Buf, Bytes, BytesMut};
use socket::SimulatedSocket;
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    io::ErrorKind,
    task::Waker,
    time::Duration,
};

/// Connections that wait to be accepted on one port; more attempts go unanswered.
const BACKLOG_MAX: usize = 128;
/// The first of the ports that clients get.
pub(super) const CLIENT_PORT_MIN: u16 = 49_152;
/// One write in so many is taken in part, or arrives in two pieces; one read in so many gives a part.
const PART_ONE_IN: u64 = 16;
/// How long an unanswered attempt to connect waits before the next; doubled each time, as Linux does.
const RETRY_FIRST: Duration = Duration::from_secs(1);

/// How the network behaves.
#[derive(Clone, Copy, Debug)]
pub struct NetworkOptions {
    /// The shortest delay of what one host sends to another.
    pub delay_min: Duration,
    /// The longest usual one.
    pub delay_max: Duration,
    /// One delay in so many is `slow` instead, as if something was lost and sent again; none if zero.
    pub slow_one_in: u64,
    /// See there.
    pub slow: Duration,
    /// Bytes that may be under way or unread in one direction of a connection.
    pub buffer_bytes: usize,
    /// How long an attempt to connect goes unanswered before it fails with `TimedOut`.
    pub connect_timeout: Duration,
    /// How long a sender tries to get something through. Linux tries for a quarter of an hour; a shorter time meets more.
    pub give_up: Duration,
    /// After the way is mended, what was held up arrives within this time besides the delay.
    pub retransmit_max: Duration,
}

impl Default for NetworkOptions {
    fn default() -> NetworkOptions {
        NetworkOptions {
            delay_min: Duration::from_micros(100),
            delay_max: Duration::from_millis(1),
            slow_one_in: 200,
            slow: Duration::from_millis(40),
            buffer_bytes: 256 << 10,
            connect_timeout: Duration::from_secs(10),
            give_up: Duration::from_secs(30),
            retransmit_max: Duration::from_millis(200),
        }
    }
}

/// Names a connection; never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ConnectionId(u64);

/// An end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// Who opened it.
    Client,
    /// Who accepted it.
    Server,
}

impl Side {
    pub(super) fn other(self) -> Side {
        match self {
            Side::Client => Side::Server,
            Side::Server => Side::Client,
        }
    }
}

/// What arrives.
#[derive(Debug)]
enum Segment {
    Bytes(Bytes),
    /// Nothing comes after it.
    Fin,
    /// The connection is over.
    Reset,
}

/// Who holds an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holder {
    /// A program.
    Program,
    /// Nobody; the kernel answers what comes with a reset.
    Kernel,
    /// Nobody, and the kernel knows nothing of it until the host is started again.
    Nobody,
}

struct UnderWay {
    sent: Time,
    at: Time,
    segment: Segment,
}

/// What comes to one end.
#[derive(Default)]
struct Pipe {
    under_way: VecDeque<UnderWay>,
    /// Whether a timer is set for the first of it.
    is_timed: bool,
    /// Since when nothing gets through.
    held: Option<Time>,
    arrived: BytesMut,
    has_ended: bool,
    /// Bytes that the sender takes to be under way or unread.
    bytes: usize,
    /// Bytes of them that were read, which the sender does not know.
    unknown: usize,
}

struct End {
    host: HostId,
    address: String,
    holder: Holder,
    failed: Option<ErrorKind>,
    /// Whether it has sent that it sends no more.
    has_finished: bool,
    incoming: Pipe,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl End {
    fn new(host: HostId, address: String) -> End {
        End {
            host,
            address,
            holder: Holder::Program,
            failed: None,
            has_finished: false,
            incoming: Pipe::default(),
            reader: None,
            writer: None,
        }
    }
}

struct Connection {
    client: End,
    server: End,
}

impl Connection {
    fn end(&mut self, side: Side) -> &mut End {
        match side {
            Side::Client => &mut self.client,
            Side::Server => &mut self.server,
        }
    }

    /// The hosts, from the sender to this end.
    fn way_to(&self, side: Side) -> (HostId, HostId) {
        match side {
            Side::Client => (self.server.host, self.client.host),
            Side::Server => (self.client.host, self.server.host),
        }
    }
}

/// Where connections wait to be accepted.
struct Backlog {
    number: u64,
    waiting: VecDeque<ConnectionId>,
    waker: Option<Waker>,
}

/// What becomes of the connections of a host that crashes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Farewell {
    /// The kernel closes them.
    Close,
    /// The kernel resets them.
    Reset,
    /// Nothing is heard any more.
    Silence,
}

pub(super) struct Network {
    pub(super) options: NetworkOptions,
    pub(super) random: Random,
    /// From whom to whom nothing gets through.
    cut: BTreeSet<(HostId, HostId)>,
    listeners: BTreeMap<(HostId, u16), Backlog>,
    connections: BTreeMap<ConnectionId, Connection>,
    next: u64,
}

impl Network {
    pub(super) fn new(random: Random, options: NetworkOptions) -> Network {
        Network {
            options,
            random,
            cut: BTreeSet::new(),
            listeners: BTreeMap::new(),
            connections: BTreeMap::new(),
            next: 0,
        }
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn delay(&mut self, from: HostId, to: HostId) -> Duration {
        let options = &self.options;
        if from == to {
            return between(&mut self.random, Duration::from_micros(10), Duration::from_micros(50));
        }
        if options.slow_one_in > 0 && self.random.once_in(options.slow_one_in) {
            return options.slow;
        }
        between(&mut self.random, options.delay_min, options.delay_max)
    }

    /// A part of something of this size, mostly all.
    fn part(&mut self, size: usize) -> usize {
        if size > 1 && self.random.once_in(PART_ONE_IN) { 1 + self.random.index(size - 1) } else { size }
    }
}

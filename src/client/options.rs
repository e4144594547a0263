//! What a client, and a single call, can be told.

use super::connector::Connector;
use crate::env::Env;
use crate::types::{IdempotencyPair, Version};
use crate::wire::Consistency;
use std::{fmt, net::SocketAddr, sync::Arc, time::Duration};

/// How a client connects and behaves. Made from an address or a list of them.
#[derive(Clone)]
pub struct ClientOptions {
    /// Where servers are: `host:port`. The first that answers is used; after a loss the next is tried. More are learned
    /// from the servers: where the node that leads is.
    pub addresses: Vec<String>,
    /// How long connecting to one address may take, its handshake included.
    pub connect_timeout: Duration,
    /// How long a call may take that does not say otherwise.
    pub deadline: Duration,
    /// What the client calls itself in the server's log. At most 128 bytes; what is longer is cut.
    pub name: String,
    /// Bytes of scanned rows that may be on their way on the whole connection.
    pub credit: u32,
    /// Bytes of scanned rows that one scan holds unread.
    pub scan_credit: u32,
    /// After so long without a word from the server it is asked for one; after twice as long the connection is given up.
    /// Half the server's own limit on silence if that is less. While requests are out and there is another server, at most
    /// 1 s and 5 s.
    pub keepalive: Duration,
    /// Whether to send, now and then, what means nothing and must be ignored, so that servers stay used to it.
    pub grease: bool,
    /// Clock, randomness and tasks.
    pub env: Env,
    /// What opens sockets.
    pub connector: Arc<dyn Connector>,
}

impl ClientOptions {
    /// The defaults: 5 s to connect, 10 s a call, 16 MiB of rows on the connection, 256 KiB unread in a scan.
    #[must_use]
    pub fn new(addresses: Vec<String>) -> ClientOptions {
        ClientOptions {
            addresses,
            connect_timeout: Duration::from_secs(5),
            deadline: Duration::from_secs(10),
            name: concat!("quantadb-rust/", env!("CARGO_PKG_VERSION")).into(),
            credit: 16 << 20,
            scan_credit: 256 << 10,
            keepalive: Duration::from_secs(15),
            grease: true,
            env: Env::real(),
            connector: Arc::new(Env::real()),
        }
    }
}

impl fmt::Debug for ClientOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientOptions")
            .field("addresses", &self.addresses)
            .field("connect_timeout", &self.connect_timeout)
            .field("deadline", &self.deadline)
            .field("name", &self.name)
            .field("credit", &self.credit)
            .field("scan_credit", &self.scan_credit)
            .field("keepalive", &self.keepalive)
            .field("grease", &self.grease)
            .finish_non_exhaustive()
    }
}

impl From<&str> for ClientOptions {
    /// One address, or several with commas between.
    fn from(addresses: &str) -> ClientOptions {
        let list = addresses.split(',').map(str::trim).filter(|address| !address.is_empty());
        ClientOptions::new(list.map(str::to_owned).collect())
    }
}

impl From<String> for ClientOptions {
    fn from(addresses: String) -> ClientOptions {
        addresses.as_str().into()
    }
}

impl From<&String> for ClientOptions {
    fn from(addresses: &String) -> ClientOptions {
        addresses.as_str().into()
    }
}

impl From<SocketAddr> for ClientOptions {
    fn from(address: SocketAddr) -> ClientOptions {
        ClientOptions::new(vec![address.to_string()])
    }
}

impl From<Vec<String>> for ClientOptions {
    fn from(addresses: Vec<String>) -> ClientOptions {
        ClientOptions::new(addresses)
    }
}

/// How one call is made. The default is what most calls want.
///
/// ```
/// # use quantadb::client::CallOptions;
/// # use std::time::Duration;
/// let hurried = CallOptions::new().deadline(Duration::from_millis(50));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CallOptions {
    pub(super) deadline: Option<Duration>,
    pub(super) min_version: Option<Version>,
    pub(super) pair: Option<IdempotencyPair>,
    pub(super) idempotent: bool,
    pub(super) consistency: Option<Consistency>,
    pub(super) once: bool,
}

impl CallOptions {
    /// The defaults.
    #[must_use]
    pub const fn new() -> CallOptions {
        CallOptions { deadline: None, min_version: None, pair: None, idempotent: false, consistency: None, once: false }
    }

    /// How long the call may take. The server is told, and gives up by itself.
    #[must_use]
    pub const fn deadline(mut self, deadline: Duration) -> CallOptions {
        self.deadline = Some(deadline);
        self
    }

    /// A read answers at this version or a later one, waiting for it until the deadline.
    #[must_use]
    pub const fn min_version(mut self, version: Version) -> CallOptions {
        self.min_version = Some(version);
        self
    }

    /// Names a write, so that it is done exactly once however often it is sent: after a lost connection it is sent again
    /// by itself. A pair names one write; make another for the next with [`Client::new_pair`](super::Client::new_pair).
    #[must_use]
    pub const fn idempotency(mut self, pair: IdempotencyPair) -> CallOptions {
        self.pair = Some(pair);
        self
    }

    /// Gives each write a pair of its own, so that it is sent again by itself after a lost connection, and done once all the
    /// same. It costs the server a record for each, and a client that has seen nothing yet one request more.
    ///
    /// ```
    /// # use quantadb::client::{CallOptions, Client, Error};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Error> {
    /// # let server = quantadb::testing::server::TestServer::start().await;
    /// # let client = Client::connect(server.address()).await?;
    /// let exactly_once = client.with(CallOptions::new().idempotent());
    /// assert_eq!(exactly_once.add("visits", 1).await?, 1);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub const fn idempotent(mut self) -> CallOptions {
        self.idempotent = true;
        self
    }

    /// How fresh a read must be. Linearizable unless told otherwise.
    ///
    /// With less a node answers from what it has, without asking the others. It never goes back all the same: what this
    /// client has seen or written before, on whatever node, is there.
    #[must_use]
    pub const fn consistency(mut self, consistency: Consistency) -> CallOptions {
        self.consistency = Some(consistency);
        self
    }

    /// Sends it at most once: nothing is tried again, whatever happened.
    #[must_use]
    pub const fn once(mut self) -> CallOptions {
        self.once = true;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_come_in_many_forms() {
        let two = ["a:1".to_owned(), "b:2".to_owned()];
        assert_eq!(ClientOptions::from("a:1, b:2,").addresses, two);
        assert_eq!(ClientOptions::from("a:1,b:2".to_owned()).addresses, two);
        assert_eq!(ClientOptions::from(&"a:1,b:2".to_owned()).addresses, two);
        assert_eq!(ClientOptions::from(two.to_vec()).addresses, two);
        assert_eq!(ClientOptions::from(SocketAddr::from(([127, 0, 0, 1], 7420))).addresses, ["127.0.0.1:7420"]);
        assert!(format!("{:?}", ClientOptions::from("a:1")).contains("a:1"));
    }
}

//! What every command begins with: a connection, and the keyspace.

use crate::{arguments::Arguments, failure::Failure, form::Form};
use quantadb::client::{CallOptions, Client, ClientOptions, Error, Keyspace};
use std::time::Duration;

/// The keyspace that every database begins with.
const DEFAULT_KEYSPACE: &str = "default";
/// Rows of a scan that may lie unread: enough to keep a fast reader busy.
const SCAN_CREDIT_BYTES: u32 = 4 << 20;

/// Where to connect, and how results look.
pub struct Session {
    addresses: String,
    keyspace: String,
    timeout: Duration,
    pub form: Form,
}

impl Session {
    pub fn prepare(arguments: &Arguments) -> Session {
        Session {
            addresses: arguments.addr.clone(),
            keyspace: arguments.keyspace.clone(),
            timeout: arguments.timeout.0,
            form: Form::of(arguments),
        }
    }

    pub fn addresses(&self) -> &str {
        &self.addresses
    }

    /// Options of a call: the time that it may take.
    pub fn call(&self) -> CallOptions {
        CallOptions::new().deadline(self.timeout)
    }

    pub async fn connect(&self) -> Result<Client, Failure> {
        let defaults = ClientOptions::from(&self.addresses);
        if defaults.addresses.is_empty() {
            return Err(Failure::Usage("--addr: an address is HOST:PORT, several have commas between".into()));
        }
        let options = ClientOptions {
            name: concat!("quantactl/", env!("CARGO_PKG_VERSION")).into(),
            deadline: self.timeout,
            connect_timeout: defaults.connect_timeout.min(self.timeout),
            scan_credit: SCAN_CREDIT_BYTES,
            ..defaults
        };
        Client::connect(options).await.map_err(|error| self.read_failed(error))
    }

    /// The keyspace that was asked for, made if it is missing and `create` is set.
    pub async fn keyspace(&self, client: &Client, create: bool) -> Result<Keyspace, Failure> {
        if self.keyspace == DEFAULT_KEYSPACE {
            return Ok(client.with(self.call()));
        }
        let opened = client.open_keyspace(&self.keyspace, create).await;
        opened.map(|keyspace| keyspace.with(self.call())).map_err(|error| self.failed(error, create))
    }

    /// A call that changes nothing failed.
    pub fn read_failed(&self, error: Error) -> Failure {
        self.failed(error, false)
    }

    /// A call that may have changed something failed.
    pub fn write_failed(&self, error: Error) -> Failure {
        self.failed(error, true)
    }

    fn failed(&self, error: Error, write: bool) -> Failure {
        Failure::Client { error, addresses: self.addresses.clone(), write }
    }
}

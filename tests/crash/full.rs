//! The disk is full. Needs root, as the test of power cuts does; runs where `QUANTADB_POWER_CYCLES` is set.

use super::{
    disk::Disk,
    power,
    process::{Launch, PATIENCE, Server, Start, must, text},
    work::connect,
};
use quantadb::{
    client::{CallOptions, Client, Error, ErrorCode, ErrorKind, Outcome, Retry},
    env::Env,
    testing::assertions::eventually,
};
use std::{fs, path::PathBuf, time::Duration};
use tokio::runtime::Runtime;

const DISK_MEGABYTES: u64 = 256;
const BALLAST: &str = "96M";
const VALUE_BYTES: usize = 32 * 1024;
const WRITERS: usize = 4;

/// A server on a small disk, with something beside its data that can be deleted.
struct Full {
    disk: Disk,
    launch: Launch,
    runtime: Runtime,
    /// What was acknowledged.
    rows: u64,
}

impl Full {
    fn new(reserve_bytes: u64) -> Full {
        let disk = Disk::new(DISK_MEGABYTES);
        must("fallocate", &["-l", BALLAST, text(&disk.path("ballast"))]);
        let configuration = format!(
            "(storage: (slice_bytes: 4194304, log_segment_bytes: 1048576, log_cache_bytes: 1048576, reserve_bytes: \
             {reserve_bytes}))"
        );
        let launch = Launch { configuration: Some(configuration), ..Launch::default() };
        Full { disk, launch, runtime: Runtime::new().expect("a runtime starts"), rows: 0 }
    }

    fn data(&self) -> PathBuf {
        self.disk.path("data")
    }

    fn start(&self) -> Server {
        match self.launch.spawn(&self.data(), &self.disk.log()).ready().unwrap_or_else(|error| panic!("{error}")) {
            Start::Ready(server) => server,
            Start::Refused(ended) => panic!("it does not start: {:?}\n{}", ended.status, ended.tail()),
        }
    }

    /// Puts rows until one is refused, and returns why.
    fn fill(&mut self, client: &Client) -> Error {
        let rows_max = self.rows + DISK_MEGABYTES * 1024 * 1024 / VALUE_BYTES as u64;
        while self.rows < rows_max {
            let puts = (0..WRITERS as u64).map(|writer| self.put(client, self.rows + writer));
            let puts = self.runtime.block_on(futures_util::future::join_all(puts));
            for put in puts {
                // What follows a refusal is put again later under the same names.
                match put {
                    Ok(()) => self.rows += 1,
                    Err(error) => return error,
                }
            }
        }
        panic!("{} rows of {VALUE_BYTES} bytes went on a disk of {DISK_MEGABYTES} MiB", self.rows);
    }

    async fn put(&self, client: &Client, row: u64) -> Result<(), Error> {
        client.with(CallOptions::new().once()).put(key(row), value(row)).await.map(drop)
    }

    /// Everything that was acknowledged is there.
    fn read(&self, client: &Client) {
        self.runtime.block_on(async {
            for row in 0..self.rows {
                let found = client.get(key(row)).await.unwrap_or_else(|error| panic!("row {row}: {error}"));
                let found = found.unwrap_or_else(|| panic!("row {row} was acknowledged and is gone"));
                assert!(found.value == value(row), "row {row} has another value");
            }
        });
    }

    fn connect(&self, server: &Server) -> Client {
        let connected = self.runtime.block_on(connect(server.address, Duration::from_secs(10)));
        connected.unwrap_or_else(|error| panic!("{error}"))
    }

    fn free(&self) {
        fs::remove_file(self.disk.path("ballast")).expect("it is there");
    }
}

fn key(row: u64) -> String {
    format!("row/{row:08}")
}

/// Bytes that do not compress.
fn value(row: u64) -> Vec<u8> {
    let mut random = quantadb::testing::generators::Random::new(row);
    (0..VALUE_BYTES / 8).flat_map(|_| random.bits().to_be_bytes()).collect()
}

#[test]
fn a_full_disk_refuses_writes_and_takes_them_again_once_there_is_room() {
    if power::cycles().is_none() {
        return;
    }
    let mut full = Full::new(32 << 20);
    let mut server = full.start();
    let client = full.connect(&server);
    let refused = full.fill(&client);
    let said = (refused.code(), refused.outcome(), refused.retry());
    assert_eq!(said, (Some(ErrorCode::DISK_FULL), Outcome::NotApplied, Retry::Backoff), "{refused:?}");
    println!("refused after {} rows of {VALUE_BYTES} bytes: {refused}", full.rows);
    full.read(&client);

    full.free();
    let env = Env::real();
    let taken = || async { full.put(&client, full.rows).await.ok() };
    full.runtime.block_on(eventually(&env, PATIENCE, "a write that is taken again", taken));
    full.rows += 1;
    assert!(server.runs(), "the same process goes on");
    full.read(&client);
    drop(client);
    let ended = server.stop().unwrap();
    assert_eq!(ended.code(), Some(0), "{}", ended.tail());
    let server = full.start();
    full.read(&full.connect(&server));
}

/// Without a reserve the file system itself says no, in the middle of whatever it is.
#[test]
fn a_disk_that_is_full_to_the_last_byte_loses_nothing() {
    if power::cycles().is_none() {
        return;
    }
    let mut full = Full::new(0);
    let server = full.start();
    let client = full.connect(&server);
    let refused = full.fill(&client);
    println!("refused after {} rows of {VALUE_BYTES} bytes: {refused}", full.rows);
    drop(client);
    // One that could not say what became of a write has failed, and stops by itself.
    if refused.kind() == ErrorKind::ConnectionLost || refused.outcome() == Outcome::Unknown {
        let ended = server.wait().unwrap();
        assert!(ended.code() == Some(1) && ended.log.contains("No space left"), "{:?}\n{}", ended.status, ended.tail());
    } else {
        let ended = server.stop().unwrap();
        assert_eq!(ended.code(), Some(0), "{}", ended.tail());
    }
    full.free();
    let server = full.start();
    let client = full.connect(&server);
    full.read(&client);
    full.runtime.block_on(full.put(&client, full.rows)).unwrap_or_else(|error| panic!("{error}"));
}

//! Writes rows from JSON Lines, many a transaction, several transactions under way.
//!
//! A later line wins over an earlier one with the same key: batches that share a key are never under way together. Each
//! batch is named by an idempotency pair, so that it is done once however often it is sent.

use crate::{
    arguments::Output,
    batches::{Batch, Source},
    failure::Failure,
    interrupt::Interrupt,
    print,
    progress::Progress,
    session::Session,
};
use quantadb::client::{Client, Error, Keyspace};
use std::collections::HashSet;
use tokio::{sync::mpsc, task::JoinSet};

/// Transactions under way.
const FLIGHTS_MAX: usize = 8;

pub async fn import(session: &Session, file: &str) -> Result<(), Failure> {
    let source = Source::open(file)?;
    let client = session.connect().await?;
    let keyspace = session.keyspace(&client, true).await?;
    let interrupt = Interrupt::listen();
    let mut import = Import {
        session,
        client,
        keyspace: keyspace.clone(),
        progress: Progress::begin(source.bytes),
        flights: JoinSet::new(),
        keys: KeysUnderWay::default(),
        interrupt: interrupt.clone(),
    };
    let result = import.run(source.batches(keyspace, interrupt)).await;
    import.progress.clear();
    match result {
        Err(failure) => Err(failure.after(import.progress.summary("imported"))),
        Ok(()) => match session.form.output {
            Output::Json => print(&import.progress.json()),
            Output::Table | Output::Raw => print(&import.progress.summary("imported")),
        },
    }
}

/// A batch that was sent, and what became of it.
struct Flight {
    batch: Batch,
    result: Result<(), Error>,
}

/// Hashes of the keys that are being written. No batch under way shares one with another.
#[derive(Default)]
struct KeysUnderWay(HashSet<u64>);

impl KeysUnderWay {
    /// Whether none of these is being written.
    fn lack(&self, keys: &[u64]) -> bool {
        keys.iter().all(|key| !self.0.contains(key))
    }

    fn add(&mut self, keys: &[u64]) {
        debug_assert!(self.lack(keys), "a later line must win over an earlier one");
        self.0.extend(keys);
    }

    fn remove(&mut self, keys: &[u64]) {
        for key in keys {
            self.0.remove(key);
        }
    }
}

struct Import<'a> {
    session: &'a Session,
    client: Client,
    keyspace: Keyspace,
    progress: Progress,
    flights: JoinSet<Flight>,
    keys: KeysUnderWay,
    interrupt: Interrupt,
}

impl Import<'_> {
    /// Sends what the reader gives, until it ends, something fails or a stop is asked for; then waits for what is under
    /// way. The first failure is told.
    async fn run(&mut self, mut batches: mpsc::Receiver<Result<Batch, Failure>>) -> Result<(), Failure> {
        let mut end = None;
        let mut waiting: Option<Batch> = None;
        while end.is_none() || !self.flights.is_empty() {
            if let Some(batch) = waiting.take_if(|batch| end.is_none() && self.may_fly(batch)) {
                self.send(batch);
            }
            let reads = end.is_none() && waiting.is_none();
            tokio::select! {
                biased;
                () = self.interrupt.set(), if end.is_none() => {
                    end = Some(Err(Failure::Interrupted("what was under way is done".into())));
                }
                Some(flight) = self.flights.join_next() => {
                    if let Err(failure) = self.landed(flight) {
                        // A later failure follows from the first, or says the same again.
                        end = Some(end.and_then(Result::err).map_or(Err(failure), Err));
                    }
                }
                batch = batches.recv(), if reads => match batch {
                    None => end = Some(Ok(())),
                    Some(Ok(batch)) => waiting = Some(batch),
                    Some(Err(failure)) => end = Some(Err(failure)),
                },
            }
        }
        end.unwrap_or(Ok(()))
    }

    fn may_fly(&self, batch: &Batch) -> bool {
        self.flights.len() < FLIGHTS_MAX && self.keys.lack(&batch.keys)
    }

    fn send(&mut self, batch: Batch) {
        self.keys.add(&batch.keys);
        let (client, keyspace, call) = (self.client.clone(), self.keyspace.clone(), self.session.call());
        self.flights.spawn(async move {
            let send = async {
                if batch.rows > 0 {
                    let pair = client.new_pair().await?;
                    keyspace.with(call.idempotency(pair)).execute(&batch.execute).await?;
                }
                Ok(())
            };
            let result = send.await;
            Flight { batch, result }
        });
    }

    fn landed(&mut self, flight: Result<Flight, tokio::task::JoinError>) -> Result<(), Failure> {
        let Flight { batch, result } =
            flight.map_err(|error| Failure::Usage(format!("a part of this program failed: {error}")))?;
        self.keys.remove(&batch.keys);
        result.map_err(|error| {
            let lines = format!("this was lines {} to {}", batch.first_line, batch.last_line);
            self.session.write_failed(error).after(lines)
        })?;
        self.progress.add(batch.rows, batch.bytes);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_that_share_a_key_follow_one_another() {
        let mut keys = KeysUnderWay::default();
        assert!(keys.lack(&[1, 2, 1]), "within a batch the order is kept");
        keys.add(&[1, 2, 1]);
        assert!(keys.lack(&[3]) && !keys.lack(&[3, 2]));
        keys.add(&[3]);
        keys.remove(&[1, 2, 1]);
        assert!(keys.lack(&[1, 2]) && !keys.lack(&[3]));
    }
}

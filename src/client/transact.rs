//! Transactions that run again by themselves.

use super::error::Error;
use super::handle::Client;
use super::link::{Preference, backoff};
use super::options::CallOptions;
use super::transaction::Transaction;
use crate::env::Moment;
use crate::types::{Isolation, Version};
use crate::wire::Consistency;
use bytes::Bytes;
use std::{future::Future, time::Duration};

/// The first wait before a transaction runs again; it doubles.
const WAIT_MIN: Duration = Duration::from_millis(1);
const WAIT_MAX: Duration = Duration::from_millis(250);

/// How [`Client::transact_with`] runs a transaction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TransactOptions {
    /// What its reads are checked for.
    pub isolation: Isolation,
    /// How fresh what it reads must be; linearizable unless told otherwise. An older version meets more conflicts.
    pub consistency: Consistency,
    /// How long all its runs may take together; the client's deadline unless told otherwise.
    pub deadline: Option<Duration>,
}

/// What a committed transaction gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transacted<T> {
    /// What the function returned.
    pub value: T,
    /// The version that was created; the read version if nothing was changed.
    pub version: Version,
    /// What its atomic operations gave, in order; `None` if the reply was lost and they were too long to be recorded.
    pub results: Option<Vec<Bytes>>,
}

impl Client {
    /// Runs a transaction and commits it; again, from the start, when another was faster or the connection was lost, until
    /// the deadline.
    ///
    /// What the function does besides the transaction may be done several times. It commits exactly once: the commit
    /// carries a pair, and when its outcome is unknown the server is asked for it; it runs again, under another pair, only
    /// when the server says that the former never will be done. An error of the function rolls back and is returned,
    /// unless the transaction had already failed in a way that running it again may mend.
    ///
    /// ```
    /// # use quantadb::client::{Client, Error};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Error> {
    /// # let server = quantadb::testing::server::TestServer::start().await;
    /// # let client = quantadb::client::Client::connect(server.address()).await?;
    /// // Counts a visit, and tells how many there were before.
    /// let visit = client
    ///     .transact(|tx| async move {
    ///         let before = tx.get("visits").await?.map_or(0, |visits| visits.value.len());
    ///         tx.put("visits", "|".repeat(before + 1)).await?;
    ///         Ok::<_, Error>(before)
    ///     })
    ///     .await?;
    /// assert_eq!(visit.value, 0);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn transact<T, E, F, R>(&self, run: F) -> Result<Transacted<T>, E>
    where
        F: FnMut(Transaction) -> R,
        R: Future<Output = Result<T, E>>,
        E: From<Error>,
    {
        self.transact_with(TransactOptions::default(), run).await
    }

    /// The same with options.
    pub async fn transact_with<T, E, F, R>(&self, options: TransactOptions, mut run: F) -> Result<Transacted<T>, E>
    where
        F: FnMut(Transaction) -> R,
        R: Future<Output = Result<T, E>>,
        E: From<Error>,
    {
        let fresh = CallOptions { deadline: options.deadline, ..CallOptions::new() };
        let fresh = match options.consistency {
            Consistency::Linearizable => fresh,
            consistency => fresh.consistency(consistency),
        };
        let deadline = self.link().deadline(&fresh);
        let mut runs = 0;
        let mut preference = Transaction::preference(options.consistency);
        loop {
            let tx = Transaction::begin(self.clone(), options.isolation, &fresh, preference, Some(deadline)).await?;
            let (least, failed) = match run(tx.clone()).await {
                Ok(value) => match tx.commit_now(None).await {
                    Ok(done) => return Ok(Transacted { value, version: done.version, results: done.results }),
                    Err(error) if error.restarts_transaction() => (error.retry_after(), error.into()),
                    Err(error) => return Err(error.into()),
                },
                Err(error) if tx.restarts() => (None, error),
                Err(error) => return Err(error),
            };
            tx.weigh_node(runs > 0);
            if tx.was_redirected() {
                preference = Preference::Redirected;
            }
            drop(tx);
            runs += 1;
            if !self.rest(runs, least.unwrap_or_default(), deadline).await {
                return Err(failed);
            }
        }
    }

    /// Waits before the next run; `false` if there is no time for one.
    async fn rest(&self, runs: u32, least: Duration, deadline: Moment) -> bool {
        let env = self.link().env();
        let next = env.now() + least.max(backoff(env, runs - 1, WAIT_MIN, WAIT_MAX));
        if next >= deadline {
            return false;
        }
        env.sleep_until(next).await;
        true
    }
}

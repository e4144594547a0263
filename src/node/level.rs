//! The state-machine level that entries carry: the rules by which every replica applies them.
//!
//! It is the first one until every member knows a higher one; then the leader raises it, by a transaction like any other. What
//! it is stands in the system's keyspace, so every leader finds it where its predecessors left it, and a backup has it too. A
//! node that meets a level it does not know stops; one that does not know it is not taken in.

use super::{Batch, Evaluation, Item, Mailbox, Node, Work, committer::Input};
use crate::{
    storage::{self, Snapshot},
    txn::{LEVEL, LEVEL_FIRST, Mutation},
    types::{FullKey, KeyspaceId},
};
use bytes::Bytes;
use slog::info;
use std::{future::poll_fn, sync::Arc, task::Poll, time::Duration};

/// How often a leader looks whether all know a higher level.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// How long raising it may take.
const RAISE_MAX: Duration = Duration::from_secs(5);

fn level_key() -> FullKey {
    KeyspaceId::SYSTEM.full_key(b"L")
}

/// The level of the entries that follow a state.
pub(super) fn active(snapshot: &Snapshot) -> Result<u16, storage::Error> {
    let stored =
        snapshot.get(&level_key(), |row| row.and_then(|row| row.value.try_into().ok()).map(u16::from_be_bytes))?;
    Ok(stored.unwrap_or(LEVEL_FIRST))
}

impl Node {
    /// The state-machine level that every member must know.
    #[must_use]
    pub fn level(&self) -> u16 {
        // A store that cannot be read has failed, and the node with it.
        active(&self.snapshot()).unwrap_or(LEVEL)
    }

    /// Raises the level when all members know a higher one, for as long as it is awaited.
    pub async fn keep_level(&self) {
        loop {
            self.env.sleep(LOOK_EVERY).await;
            if !self.leads() || self.level() >= LEVEL {
                continue;
            }
            let status = self.status().await;
            let known = |level: Option<u16>| level.is_some_and(|level| level >= LEVEL);
            let all = status.members.iter().all(|member| known(member.progress.map(|progress| progress.level)));
            if all && !status.members.is_empty() && self.raise_level().await {
                info!(self.log, "every member knows a higher state-machine level; entries follow it from now on"; "level" => LEVEL);
            }
        }
    }

    async fn raise_level(&self) -> bool {
        let evaluation: Evaluation = Box::new(|view| {
            let value = LEVEL.to_be_bytes();
            let overgrown = |error: super::Overgrown| super::Rejection::new(0, error.to_string());
            view.write(Mutation::Put { key: &level_key(), value: &value }).map_err(overgrown)?;
            Ok(Bytes::new())
        });
        let mailbox = Arc::new(Mailbox::default());
        let deadline = self.env.now() + RAISE_MAX;
        let item = Item { request: 1, deadline, keyed: None, work: Work::Evaluate(evaluation) };
        let batch = Batch { mailbox: Arc::clone(&mailbox), block: Bytes::new(), items: vec![item] };
        if self.submit(batch).is_err() {
            return false;
        }
        let mut answers = Vec::new();
        let answered =
            poll_fn(|cx| if mailbox.take(&mut answers, cx.waker()) { Poll::Ready(()) } else { Poll::Pending });
        let answered = self.env.until(deadline, answered).await.is_some();
        let raised = answered && answers.iter().all(|answer| answer.result.is_ok());
        if raised {
            // The committer ends only after `stop`.
            let _ = self.inbox.send(Input::Level(LEVEL));
        }
        raised
    }
}

//! The state machine that consensus drives: applies entries to the engine, and keeps history within its share.

use super::history::History;
use crate::{
    consensus::{Failed, StateMachine},
    storage::Engine,
    txn::{self, EntryResult},
    types::{LogId, Version},
};
use std::sync::Arc;

/// How many bounded steps of trimming an entry pays for. More than one, so that trimming keeps pace with writing.
const TRIM_STEPS_PER_ENTRY: usize = 4;

pub(super) struct Machine {
    pub(super) engine: Arc<dyn Engine>,
    pub(super) history: Arc<History>,
}

impl StateMachine for Machine {
    type Outcome = EntryResult;

    fn apply(&mut self, log_id: LogId, entry: &[u8]) -> Result<EntryResult, Failed> {
        let result = txn::apply(&*self.engine, log_id, entry).map_err(|error| Failed(error.to_string()))?;
        for _ in 0..TRIM_STEPS_PER_ENTRY {
            if !self.history.trim(&*self.engine) {
                break;
            }
        }
        Ok(result)
    }

    fn applied_version(&self) -> Version {
        self.engine.applied().version
    }
}

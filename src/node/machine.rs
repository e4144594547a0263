//! The state machine that consensus drives: applies entries to the engine, and keeps history within its share.

use super::history::History;
use crate::{
    consensus::{Failed, Position, StateMachine},
    storage::{self, Applied, Capture, Engine, Install, InstallError},
    txn::{self, EntryResult},
    types::LogId,
};
use bytes::Bytes;
use std::sync::Arc;
use tokio::sync::Notify;

/// How many bounded steps of trimming an entry pays for. More than one, so that trimming keeps pace with writing.
const TRIM_STEPS_PER_ENTRY: usize = 4;

#[derive(Clone)]
pub(super) struct Machine {
    pub(super) engine: Arc<dyn Engine>,
    pub(super) history: Arc<History>,
    /// Told with everything that is applied.
    pub(super) moved: Arc<Notify>,
}

pub(super) fn failed(error: &storage::Error) -> Failed {
    Failed(error.to_string())
}

/// Marker and membership of one moment, while others may be moving them.
fn position(marker: impl Fn() -> Applied, membership: impl Fn() -> Bytes) -> Position {
    loop {
        let Applied { log_id, version, chain, .. } = marker();
        let membership = membership();
        if marker().log_id == log_id {
            return Position { log_id, version, chain, membership };
        }
    }
}

impl StateMachine for Machine {
    fn apply(&self, log_id: LogId, entry: &[u8]) -> Result<EntryResult, Failed> {
        let result = txn::apply(&*self.engine, log_id, entry).map_err(|error| Failed(error.to_string()))?;
        for _ in 0..TRIM_STEPS_PER_ENTRY {
            if !self.history.trim(&*self.engine) {
                break;
            }
        }
        self.moved.notify_waiters();
        Ok(result)
    }

    fn apply_blank(&self, log_id: LogId) -> Result<(), Failed> {
        let applied = Applied { log_id: Some(log_id), ..self.engine.applied() };
        self.engine.apply(&[], applied).map_err(|error| failed(&error))
    }

    fn apply_membership(&self, log_id: LogId, membership: Bytes) -> Result<(), Failed> {
        let applied = Applied { log_id: Some(log_id), ..self.engine.applied() };
        self.engine.apply_membership(membership, applied).map_err(|error| failed(&error))
    }

    fn applied(&self) -> Position {
        position(|| self.engine.applied(), || self.engine.membership())
    }

    fn stored(&self) -> Position {
        position(|| self.engine.stored(), || self.engine.stored_membership())
    }

    fn capture(&self) -> Capture {
        Capture::now(&self.engine)
    }

    fn begin_install(
        &self,
        id: [u8; 16],
        applied: Applied,
        membership: Bytes,
    ) -> Result<Box<dyn Install>, InstallError> {
        Arc::clone(&self.engine).begin_install(id, applied, membership)
    }
}

//! When a read of what is applied here speaks for everything that was acknowledged, on whichever node.
//!
//! Where this node leads, its group confirms that it still does. Elsewhere the leader is asked for its version, which is then
//! waited for. Whenever that succeeds, it is also known how fresh the state is, for reads that allow for a staleness.

use super::{APPLIED_POLL, FRESHEN_EVERY, ReadRefusal, forward::Forwarder};
use crate::{
    consensus::Group,
    env::{Env, Moment},
    storage::Engine,
    types::Version,
};
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};
use tokio::sync::{Notify, oneshot};

/// Everything acknowledged before this moment is applied.
#[derive(Debug, Default)]
pub(super) struct Freshness(AtomicU64);

impl Freshness {
    pub(super) fn as_of(&self) -> Moment {
        Moment(self.0.load(Ordering::Acquire))
    }

    fn raise(&self, moment: Moment) {
        self.0.fetch_max(moment.0, Ordering::AcqRel);
    }
}

/// What makes reads sure.
pub(super) struct Reader {
    pub(super) env: Env,
    pub(super) engine: Arc<dyn Engine>,
    pub(super) group: Group,
    pub(super) forwarder: Option<Arc<Forwarder>>,
    pub(super) moved: Arc<Notify>,
    pub(super) fresh: Arc<Freshness>,
}

impl Reader {
    /// Completes once everything acknowledged before this call is applied here.
    pub(super) async fn confirm(&self, deadline: Moment) -> Result<Version, ReadRefusal> {
        let begun = self.env.now();
        match &self.forwarder {
            Some(forwarder) if !self.group.is_leader() => {
                let version = self.env.until(deadline, forwarder.read_version()).await;
                let version = version.ok_or(ReadRefusal::Expired)?.ok_or(ReadRefusal::NotLeader)?;
                self.wait_applied(version, deadline).await?;
            }
            _ => self.confirm_here(deadline).await?,
        }
        self.fresh.raise(begun);
        Ok(self.engine.visible())
    }

    /// The same where this node leads, and refused where it does not.
    pub(super) async fn confirm_here(&self, deadline: Moment) -> Result<(), ReadRefusal> {
        let (sender, confirmed) = oneshot::channel();
        self.group.confirm_read(Box::new(move |ok| {
            let _ = sender.send(ok);
        }));
        match self.env.until(deadline, confirmed).await {
            None => Err(ReadRefusal::Expired),
            Some(Ok(true)) => Ok(()),
            Some(Ok(false)) => Err(ReadRefusal::NotLeader),
            Some(Err(_)) => Err(ReadRefusal::Stopped),
        }
    }

    /// Completes once a version is applied here.
    pub(super) async fn wait_applied(&self, version: Version, deadline: Moment) -> Result<(), ReadRefusal> {
        while self.engine.visible() < version {
            let moved = self.moved.notified();
            // It may have moved before this began to listen.
            if self.engine.visible() >= version {
                break;
            }
            let now = self.env.now();
            if now >= deadline {
                return Err(ReadRefusal::Expired);
            }
            // Told or not, it is looked at again.
            let _ = self.env.until(deadline.min(now + APPLIED_POLL), moved).await;
        }
        Ok(())
    }
}

/// Makes sure now and then how fresh the state is, so that reads that allow for a staleness find it known when nobody else
/// can be asked any more.
pub(super) async fn keep_fresh(reader: Reader) {
    loop {
        reader.env.sleep(FRESHEN_EVERY).await;
        let deadline = reader.env.now() + FRESHEN_EVERY;
        if reader.group.local_reads() {
            reader.fresh.raise(reader.env.now());
        } else {
            // What fails now is tried again.
            let _ = reader.confirm(deadline).await;
        }
    }
}

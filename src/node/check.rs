//! Checking a data directory offline: every checksum and every rule, of the log, of the base, and of both together.

use super::{
    Directory, RecoveryError,
    recovery::{BaseEnd, LogEnds, belong_together},
};
use crate::{
    env::Env,
    log,
    storage::{self, Base, Finding, LsmBase, LsmOptions, Marker},
};

/// What was found. Nothing wrong is [`Checked::is_sound`].
#[derive(Debug)]
pub struct Checked {
    /// Of the log.
    pub log: log::Report,
    /// What is wrong with the base.
    pub base: Vec<Finding>,
    /// How far the base goes; `None` if nothing was ever stored in it, or if it cannot be opened.
    pub marker: Option<Marker>,
    /// Why the two do not belong together.
    pub torn: Option<RecoveryError>,
}

impl Checked {
    /// Whether the directory would open, and everything in it is as it was written.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.log.is_sound() && self.base.is_empty() && self.torn.is_none()
    }
}

/// Reads everything that a data directory holds. Changes nothing but what an interrupted write left in the base, which any
/// open removes.
///
/// Cost: a read of the log, two reads of the base.
pub fn check(env: &Env, directory: &Directory) -> Result<Checked, storage::OpenError> {
    let mut log = log::check(env.files(), &directory.log());
    let identity = directory.identity();
    let owner = log::Owner { cluster: identity.cluster, node: identity.node };
    if let Some(found) = log.owner.filter(|found| *found != owner) {
        let path = directory.log();
        log.refused = Some(log::OpenError::Foreign { path, found, wanted: owner });
    }
    let base = storage::check_base(env, &directory.base())?;
    let marker = match base.is_empty() {
        true => LsmBase::open(env, &directory.base(), LsmOptions::default())?.marker(),
        false => None,
    };
    let torn = if log.is_sound() && base.is_empty() {
        let base = BaseEnd {
            marker: marker.as_ref().and_then(|marker| marker.applied.log_id),
            is_installed: marker.as_ref().is_some_and(|marker| marker.installed),
        };
        belong_together(base, LogEnds { purged: log.purged, last: log.last, vote: log.vote, at_marker: None }).err()
    } else {
        None
    };
    Ok(Checked { log, base, marker, torn })
}

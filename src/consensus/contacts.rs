//! When members were last heard, and what they said of themselves. Only a leader hears anybody.

use crate::{
    env::Moment,
    types::{LogId, NodeId},
    wire::peer::PeerReport,
};
use parking_lot::Mutex;
use std::collections::BTreeMap;

/// What is known of one member.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Contact {
    /// When it answered last.
    pub(super) heard: Option<Moment>,
    /// How far it was then.
    pub(super) report: Option<PeerReport>,
    /// The greatest state-machine level that it knows; 0 while it is not known.
    pub(super) level: u16,
    /// What a majority has after an entry after which this member has something else.
    pub(super) differs: Option<(LogId, u64)>,
}

/// What is known of all.
#[derive(Debug, Default)]
pub(super) struct Contacts(Mutex<BTreeMap<NodeId, Contact>>);

impl Contacts {
    pub(super) fn heard(&self, node: NodeId, when: Moment, report: Option<PeerReport>) {
        let mut contacts = self.0.lock();
        let contact = contacts.entry(node).or_default();
        contact.heard = contact.heard.max(Some(when));
        contact.report = report.or(contact.report);
    }

    pub(super) fn level(&self, node: NodeId, level: u16) {
        self.0.lock().entry(node).or_default().level = level;
    }

    pub(super) fn differs(&self, node: NodeId, from: Option<(LogId, u64)>) {
        self.0.lock().entry(node).or_default().differs = from;
    }

    pub(super) fn of(&self, node: NodeId) -> Contact {
        self.0.lock().get(&node).copied().unwrap_or_default()
    }
}

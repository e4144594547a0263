//! When members were last heard, and what they said of themselves. Only a leader hears anybody.

use crate::{
    env::Moment,
    types::{LogId, NodeId},
    wire::peer::PeerReport,
};
use parking_lot::Mutex;
use std::{collections::BTreeMap, sync::Arc};

/// What is known of one member.
#[derive(Clone, Debug, Default)]
pub(super) struct Contact {
    /// When it answered last.
    pub(super) heard: Option<Moment>,
    /// How far it was then.
    pub(super) report: Option<PeerReport>,
    /// The greatest state-machine level that it knows; 0 while it is not known.
    pub(super) level: u16,
    /// What a majority has after an entry after which this member has something else.
    pub(super) differs: Option<(LogId, u64)>,
    /// Where its peer listener is, as the membership has it now.
    pub(super) address: Option<Arc<str>>,
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

    /// A member may move, and openraft's ways to it last longer than that.
    pub(super) fn moved(&self, node: NodeId, address: &str) {
        let mut contacts = self.0.lock();
        let contact = contacts.entry(node).or_default();
        if contact.address.as_deref() != Some(address) {
            contact.address = Some(address.into());
        }
    }

    pub(super) fn differs(&self, node: NodeId, from: Option<(LogId, u64)>) {
        self.0.lock().entry(node).or_default().differs = from;
    }

    pub(super) fn of(&self, node: NodeId) -> Contact {
        self.0.lock().get(&node).cloned().unwrap_or_default()
    }
}

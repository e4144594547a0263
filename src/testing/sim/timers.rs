//! What happens at a time to come.

use super::{
    network::{ConnectionId, Side},
    state::{HostId, Time},
    tasks::TaskId,
};
use std::{collections::BTreeMap, task::Waker};

/// Names a timer, in the order in which timers fire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct TimerId {
    pub(super) at: Time,
    number: u64,
}

/// What happens.
pub(super) enum Event {
    /// Somebody who sleeps is woken.
    Wake(Waker),
    /// A task that lagged runs.
    Ready(TaskId),
    /// A host that was busy may be free.
    Free(HostId),
    /// Bytes arrive at this end of a connection.
    Arrive(ConnectionId, Side),
    /// The other end has tried in vain since then to get something to this end.
    GiveUp(ConnectionId, Side, Time),
}

#[derive(Default)]
pub(super) struct Timers {
    events: BTreeMap<TimerId, Event>,
    number: u64,
}

impl Timers {
    pub(super) fn set(&mut self, at: Time, event: Event) -> TimerId {
        self.number += 1;
        let id = TimerId { at, number: self.number };
        self.events.insert(id, event);
        id
    }

    pub(super) fn get_mut(&mut self, id: TimerId) -> Option<&mut Event> {
        self.events.get_mut(&id)
    }

    #[must_use = "a waker must not be dropped under the lock"]
    pub(super) fn remove(&mut self, id: TimerId) -> Option<Event> {
        self.events.remove(&id)
    }

    /// When the next one fires.
    pub(super) fn next_at(&self) -> Option<Time> {
        self.events.first_key_value().map(|(id, _)| id.at)
    }

    /// The next one, if its time has come.
    pub(super) fn due(&mut self, now: Time) -> Option<Event> {
        self.events.first_entry().filter(|first| first.key().at <= now).map(|first| first.remove())
    }
}

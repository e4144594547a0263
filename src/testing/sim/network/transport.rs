//! How bytes get from one end to the other.

use super::{ConnectionId, Event, Holder, Segment, Side, State, Time, UnderWay};
use bytes::Bytes;
use std::{io::ErrorKind, time::Duration};

impl State {
    /// Puts something under way to an end. A host that is in a call that blocks sends when it is out of it. What gets there
    /// earlier than what was sent before it waits for that.
    pub(super) fn send(&mut self, id: ConnectionId, to: Side, segment: Segment) {
        let Some(connection) = self.network.connections.get(&id) else { return };
        let (from, host) = connection.way_to(to);
        let sent = self.now.max(self.hosts[from.0].busy_until);
        let at = sent + self.network.delay(from, host);
        let connection = self.network.connections.get_mut(&id).expect("it was there");
        let pipe = &mut connection.end(to).incoming;
        if let Segment::Bytes(bytes) = &segment {
            pipe.bytes += bytes.len();
        }
        pipe.under_way.push_back(UnderWay { sent, at, segment });
        self.time(id, to);
    }

    /// Sees to it that the first of what is under way arrives.
    fn time(&mut self, id: ConnectionId, to: Side) {
        let Some(connection) = self.network.connections.get_mut(&id) else { return };
        let pipe = &mut connection.end(to).incoming;
        if pipe.is_timed || pipe.held.is_some() {
            return;
        }
        if let Some(first) = pipe.under_way.front() {
            pipe.is_timed = true;
            self.timers.set(first.at, Event::Arrive(id, to));
        }
    }

    /// What is due arrives, or is held up.
    pub(in super::super) fn arrive(&mut self, id: ConnectionId, to: Side) {
        let Some(connection) = self.network.connections.get_mut(&id) else { return };
        connection.end(to).incoming.is_timed = false;
        let (from, host) = connection.way_to(to);
        if self.network.cut.contains(&(from, host)) || !self.hosts[host.0].is_reachable {
            return self.hold(id, to);
        }
        let mut reset = false;
        let end = connection.end(to);
        while let Some(first) = end.incoming.under_way.pop_front_if(|first| first.at <= self.now) {
            match (first.segment, end.holder) {
                (Segment::Bytes(bytes), Holder::Program) if end.failed.is_none() => {
                    end.incoming.arrived.extend_from_slice(&bytes);
                }
                (Segment::Fin, Holder::Program) => end.incoming.has_ended = true,
                (Segment::Bytes(_), Holder::Program) | (Segment::Fin, _) => {}
                // Nobody is there any more, and the kernel says so.
                (Segment::Bytes(_), _) => reset = true,
                (Segment::Reset, _) => {
                    end.failed.get_or_insert(ErrorKind::ConnectionReset);
                    self.woken.extend(end.writer.take());
                }
            }
        }
        self.woken.extend(end.reader.take());
        if reset {
            self.send(id, to.other(), Segment::Reset);
        }
        self.time(id, to);
    }

    /// Nothing gets through to this end, until the way is mended or the sender gives up.
    fn hold(&mut self, id: ConnectionId, to: Side) {
        let (now, give_up) = (self.now, self.network.options.give_up);
        let Some(connection) = self.network.connections.get_mut(&id) else { return };
        let pipe = &mut connection.end(to).incoming;
        if pipe.held.is_none() {
            pipe.held = Some(now);
            self.timers.set(now + give_up, Event::GiveUp(id, to, now));
        }
    }

    /// The sender fails, if nothing got through to this end since then.
    pub(in super::super) fn give_up(&mut self, id: ConnectionId, to: Side, since: Time) {
        let Some(connection) = self.network.connections.get_mut(&id) else { return };
        if connection.end(to).incoming.held != Some(since) {
            return;
        }
        connection.end(to).incoming.under_way.clear();
        let sender = connection.end(to.other());
        sender.failed.get_or_insert(ErrorKind::TimedOut);
        self.woken.extend(sender.reader.take());
        self.woken.extend(sender.writer.take());
        self.trace.event(self.now, format_args!("{} gives up", sender.address));
    }

    /// The way to this end is open again: what was held up is sent once more.
    pub(super) fn mend_way_to(&mut self, id: ConnectionId, to: Side) {
        let Some(connection) = self.network.connections.get(&id) else { return };
        let (from, host) = connection.way_to(to);
        let again = super::between(&mut self.network.random, Duration::ZERO, self.network.options.retransmit_max);
        let at = self.now + again + self.network.delay(from, host);
        let connection = self.network.connections.get_mut(&id).expect("it was there");
        let pipe = &mut connection.end(to).incoming;
        if pipe.held.take().is_some() {
            pipe.under_way.iter_mut().for_each(|held| held.at = held.at.max(at));
            self.time(id, to);
        }
    }

    /// What this end's sender knows to be read may be sent anew.
    pub(super) fn acknowledge(&mut self, id: ConnectionId, side: Side) {
        let Some(connection) = self.network.connections.get_mut(&id) else { return };
        let (sender, reader) = connection.way_to(side);
        if self.network.cut.contains(&(reader, sender)) {
            return;
        }
        let pipe = &mut connection.end(side).incoming;
        let read = std::mem::take(&mut pipe.unknown);
        pipe.bytes = pipe.bytes.saturating_sub(read);
        if read > 0 {
            self.woken.extend(connection.end(side.other()).writer.take());
        }
    }

    /// Puts bytes under way, mostly in one piece.
    pub(super) fn send_bytes(&mut self, id: ConnectionId, to: Side, mut bytes: Bytes) {
        let first = self.network.part(bytes.len());
        let rest = bytes.split_off(first);
        self.send(id, to, Segment::Bytes(bytes));
        if !rest.is_empty() {
            self.send(id, to, Segment::Bytes(rest));
        }
    }

    /// The program lets go of an end.
    pub(super) fn close(&mut self, id: ConnectionId, side: Side) {
        let Some(connection) = self.network.connections.get_mut(&id) else { return };
        let end = connection.end(side);
        if end.holder != Holder::Program {
            return;
        }
        end.holder = Holder::Kernel;
        // Whoever closes with something unread resets: the sender must not take it for read.
        let segment = match (end.incoming.arrived.is_empty(), end.has_finished) {
            (false, _) => Some(Segment::Reset),
            (true, false) => Some(Segment::Fin),
            (true, true) => None,
        };
        end.has_finished = true;
        let wakers = [end.reader.take(), end.writer.take()];
        self.dropped.extend(wakers.into_iter().flatten());
        if let Some(segment) = segment {
            self.send(id, side.other(), segment);
        }
        self.forget_if_over(id);
    }

    /// A connection that no program holds is forgotten.
    pub(super) fn forget_if_over(&mut self, id: ConnectionId) {
        let Some(connection) = self.network.connections.get_mut(&id) else { return };
        if [Side::Client, Side::Server].into_iter().all(|side| connection.end(side).holder != Holder::Program) {
            let connection = self.network.connections.remove(&id).expect("it is there");
            let wakers = [connection.client, connection.server].map(|end| [end.reader, end.writer]);
            self.dropped.extend(wakers.into_iter().flatten().flatten());
        }
    }
}

//! What the test does to the network, and what crashes do.

use super::{ConnectionId, ErrorKind, Farewell, Holder, HostId, Segment, Side, State};

impl State {
    /// Nothing gets from one host to another any more.
    pub(in super::super) fn cut(&mut self, from: HostId, to: HostId) {
        if from != to && self.network.cut.insert((from, to)) {
            let names = (&self.hosts[from.0].name, &self.hosts[to.0].name);
            self.trace.event(self.now, format_args!("cut from {} to {}", names.0, names.1));
        }
    }

    /// What one host sends another gets there again.
    pub(in super::super) fn mend(&mut self, from: HostId, to: HostId) {
        if !self.network.cut.remove(&(from, to)) {
            return;
        }
        let names = (&self.hosts[from.0].name, &self.hosts[to.0].name);
        self.trace.event(self.now, format_args!("mended from {} to {}", names.0, names.1));
        for (id, side) in self.ends_on(to) {
            if self.network.connections[&id].way_to(side) == (from, to) {
                self.mend_way_to(id, side);
            }
        }
        for (id, side) in self.ends_on(from) {
            // What was read here is known there now.
            if self.network.connections[&id].way_to(side) == (to, from) {
                self.acknowledge(id, side);
            }
        }
    }

    /// Mends all.
    pub(in super::super) fn mend_all(&mut self) {
        for (from, to) in self.network.cut.clone() {
            self.mend(from, to);
        }
    }

    /// Both ends of every connection between two hosts fail at once.
    pub(in super::super) fn reset(&mut self, one: HostId, other: HostId) {
        let names = (&self.hosts[one.0].name, &self.hosts[other.0].name);
        self.trace.event(self.now, format_args!("reset between {} and {}", names.0, names.1));
        for (id, side) in self.ends_on(one) {
            let connection = self.network.connections.get_mut(&id).expect("it was listed");
            if connection.end(side.other()).host != other {
                continue;
            }
            for side in [Side::Client, Side::Server] {
                let end = connection.end(side);
                end.failed.get_or_insert(ErrorKind::ConnectionReset);
                end.incoming.under_way.clear();
                self.woken.extend(end.reader.take());
                self.woken.extend(end.writer.take());
            }
        }
    }

    /// The process of a host is gone: what it held closes as `farewell` says. What it would have sent later it does not.
    pub(in super::super) fn drop_connections(&mut self, host: HostId, farewell: Farewell) {
        let ports: Vec<_> = self.network.listeners.range((host, 0)..=(host, u16::MAX)).map(|(port, _)| *port).collect();
        for port in ports {
            let backlog = self.network.listeners.remove(&port).expect("it was listed");
            self.dropped.extend(backlog.waker);
        }
        for (id, side) in self.ends_on(host) {
            let now = self.now;
            // A host may have both ends of one, which is over with the first.
            let Some(connection) = self.network.connections.get_mut(&id) else { continue };
            connection.end(side.other()).incoming.under_way.retain(|under_way| under_way.sent <= now);
            match farewell {
                Farewell::Close => self.close(id, side),
                Farewell::Reset => self.abandon(id, side),
                Farewell::Silence => self.fall_silent(id, side),
            }
        }
    }

    /// The kernel resets a connection for whom it belonged to.
    pub(super) fn abandon(&mut self, id: ConnectionId, side: Side) {
        let Some(connection) = self.network.connections.get_mut(&id) else { return };
        let end = connection.end(side);
        if end.holder == Holder::Program {
            end.holder = Holder::Kernel;
            self.send(id, side.other(), Segment::Reset);
            self.forget_if_over(id);
        }
    }

    /// Nothing more comes from this end: of what its host had sent, a part may be on the way.
    fn fall_silent(&mut self, id: ConnectionId, side: Side) {
        let Some(connection) = self.network.connections.get_mut(&id) else { return };
        let end = connection.end(side);
        if end.holder != Holder::Program {
            return;
        }
        end.holder = Holder::Nobody;
        let (under_way, random) = (&mut connection.end(side.other()).incoming.under_way, &mut self.network.random);
        under_way.truncate(random.index(under_way.len() + 1));
        self.forget_if_over(id);
    }

    /// The kernel of a host answers again: it knows none of its old connections.
    pub(in super::super) fn answer_again(&mut self, host: HostId) {
        for (id, side) in self.ends_on(host) {
            self.mend_way_to(id, side);
        }
    }

    /// The ends of connections on a host.
    fn ends_on(&self, host: HostId) -> Vec<(ConnectionId, Side)> {
        let ends = self.network.connections.iter().flat_map(|(id, connection)| {
            [(*id, Side::Client, connection.client.host), (*id, Side::Server, connection.server.host)]
        });
        ends.filter(|(_, _, on)| *on == host).map(|(id, side, _)| (id, side)).collect()
    }
}

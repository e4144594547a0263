//! Prometheus text: every counter of every floor, with what it means.
//!
//! A floor hands over names and values; the words are here, in one table. A name that ends in `_total` is a counter, any
//! other a gauge; bytes and seconds carry their unit in the name.

use std::fmt::Write;

/// What a name of a floor means. `floor` and `name` make `quantadb_floor_name`.
struct Words {
    floor: &'static str,
    name: &'static str,
    help: &'static str,
}

const fn words(floor: &'static str, name: &'static str, help: &'static str) -> Words {
    Words { floor, name, help }
}

const WORDS: &[Words] = &[
    words("node", "entries_total", "Entries handed to the log."),
    words("node", "commits_total", "Commits, fences and recorded answers in entries."),
    words("node", "entries_skipped_total", "Entries that did not continue the applied version and changed nothing."),
    words("node", "entries_failed_total", "Entries refused, skipped or lost."),
    words("node", "conflicts_total", "Commits refused because something read was written since."),
    words("node", "too_old_total", "Commits refused because their read version lay below the resolver's floor."),
    words("node", "evaluations_total", "Requests decided by looking first."),
    words("node", "fences_total", "Idempotency pairs fenced."),
    words("node", "answered_by_record_total", "Keyed requests answered from a record, or refused for their pair."),
    words("node", "memory_full_total", "Commits refused because the store was full."),
    words("node", "behind_total", "Commits refused because what was written waited to be stored."),
    words("node", "disk_full_total", "Commits refused because the disk was full."),
    words("node", "overloaded_total", "Batches refused because too much was under way."),
    words("server", "connections", "Connections open now."),
    words("server", "connections_total", "Connections accepted."),
    words("server", "connections_refused_total", "Connections turned away because there were too many."),
    words("server", "accept_errors_total", "Accepts that failed, for want of descriptors for example."),
    words("server", "requests_total", "Requests received."),
    words("log", "groups_total", "Groups of entries written to the log."),
    words("log", "syncs_total", "Times that the log was synced."),
    words("log", "entries_total", "Entries written to the log."),
    words("log", "written_bytes_total", "Bytes written to the log."),
    words("log", "rolls_total", "Times that a segment was full and the next was begun."),
    words("log", "segments_recycled_total", "Of these, into a segment that had been used before."),
    words("log", "segments_live", "Segments that are needed."),
    words("log", "segments_free", "Segments that wait to be used."),
    words("log", "disk_bytes", "Bytes of all segments."),
    words("log", "preparations_failed_total", "Segments that could not be prepared ahead."),
    words("server", "errors_total", "Requests answered with an error."),
    words("server", "protocol_errors_total", "Connections ended for breaking the protocol."),
    words("server", "gets_total", "Reads of single keys."),
    words("server", "scans_total", "Scans begun."),
    words("server", "backups_total", "Backups begun, those that go on from a token included."),
    words("server", "transactions", "Transactions open now."),
    words("server", "transactions_total", "Transactions begun."),
    words("server", "transactions_expired_total", "Transactions ended for their age or for silence."),
    words("server", "bytes_in_total", "Bytes read from clients."),
    words("server", "bytes_out_total", "Bytes written to clients."),
];

/// A page in the making.
#[derive(Default)]
pub struct Page(String);

impl Page {
    /// The counters of a floor.
    pub fn floor(&mut self, floor: &str, counters: &[(&'static str, u64)]) {
        for (name, value) in counters {
            let known = WORDS.iter().find(|words| words.floor == floor && words.name == *name);
            let help = known.map_or("Told by the source of its floor alone.", |words| words.help);
            self.number(&format!("{floor}_{name}"), help, *value);
        }
    }

    /// One number.
    pub fn number(&mut self, name: &str, help: &str, value: u64) {
        self.head(name, help);
        let _ = writeln!(self.0, "quantadb_{name} {value}");
    }

    /// One number of seconds.
    pub fn seconds(&mut self, name: &str, help: &str, value: std::time::Duration) {
        self.head(name, help);
        let _ = writeln!(self.0, "quantadb_{name} {:.3}", value.as_secs_f64());
    }

    /// A gauge that is always one and carries a text.
    pub fn text(&mut self, name: &str, help: &str, label: &str, value: &str) {
        self.head(name, help);
        let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        let _ = writeln!(self.0, "quantadb_{name}{{{label}=\"{value}\"}} 1");
    }

    fn head(&mut self, name: &str, help: &str) {
        let kind = if name.ends_with("_total") { "counter" } else { "gauge" };
        let _ = writeln!(self.0, "# HELP quantadb_{name} {help}\n# TYPE quantadb_{name} {kind}");
    }

    pub fn finish(self) -> String {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn every_counter_of_every_floor_has_words() {
        let floors = [
            ("node", quantadb::node::Metrics::default().counters().to_vec()),
            ("log", quantadb::log::Metrics::default().counters().to_vec()),
            ("server", quantadb::server::Metrics::default().counters().to_vec()),
        ];
        for (floor, counters) in floors {
            for (name, _) in counters {
                assert!(WORDS.iter().any(|words| words.floor == floor && words.name == name), "{floor} {name}");
            }
        }
    }

    #[test]
    fn a_page_is_prometheus_text() {
        let mut page = Page::default();
        page.floor("node", &[("commits_total", 7), ("unheard_of", 1)]);
        page.seconds("uptime_seconds", "Since the start.", Duration::from_millis(1500));
        page.text("build_info", "The build.", "version", "a\"b");
        assert_eq!(
            page.finish(),
            "# HELP quantadb_node_commits_total Commits, fences and recorded answers in entries.\n\
             # TYPE quantadb_node_commits_total counter\n\
             quantadb_node_commits_total 7\n\
             # HELP quantadb_node_unheard_of Told by the source of its floor alone.\n\
             # TYPE quantadb_node_unheard_of gauge\n\
             quantadb_node_unheard_of 1\n\
             # HELP quantadb_uptime_seconds Since the start.\n\
             # TYPE quantadb_uptime_seconds gauge\n\
             quantadb_uptime_seconds 1.500\n\
             # HELP quantadb_build_info The build.\n\
             # TYPE quantadb_build_info gauge\n\
             quantadb_build_info{version=\"a\\\"b\"} 1\n"
        );
    }
}

//! The configuration as text, with a comment on every field.

use super::Configuration;
use ron::ser::PrettyConfig;

/// Fields and what they mean. `a.b` is field `b` of section `a`.
const FIELDS: &[(&str, &str)] = &[
    ("listen", "clients connect here"),
    ("peer_listen", "the other nodes of the cluster connect here; \"none\" for a node that stays alone"),
    ("join", "peer addresses of members, HOST:PORT, of the cluster that this node becomes a member of"),
    ("admin_listen", "/metrics, /livez and /readyz over HTTP; \"none\" for nowhere"),
    ("insecure", "allow addresses that other machines can reach, without TLS and authentication"),
    ("memory", "keep data in memory only: everything is gone when it stops"),
    ("data_dir", "where data are stored, unless in memory only; made if it is not there"),
    (
        "memory_bytes_max",
        "bytes of memory for data, or on disk for what was written lately; near them writes are refused",
    ),
    (
        "workers",
        "threads that serve; a single one commits too, beside several another does; by default one for each core but one",
    ),
    ("log_level", "critical, error, warning, info, debug or trace; can be changed while it runs: PUT /log-level"),
    ("log_format", "terminal or json"),
    ("log_lines_max", "lines that wait to be written; past them lines are dropped and counted, nothing waits"),
    ("storage.block_cache_bytes", "bytes of what lies on disk that are kept in memory, beside memory_bytes_max"),
    ("storage.slice_bytes", "what was written lately goes to the base when it is about this much"),
    ("storage.slice_age_ms_max", "or when it is this old"),
    ("storage.reserve_bytes", "with fewer bytes free on the file system writes are refused with DISK_FULL"),
    ("storage.log_segment_bytes", "bytes of a file of the log"),
    ("storage.log_keep_bytes", "bytes of log kept for members who lag; one who is further behind gets a snapshot"),
    ("storage.log_cache_bytes", "bytes of the log's newest entries that are kept in memory"),
    ("history.keep_ms", "how long a version stays readable after it was superseded"),
    ("history.bytes_max", "how many bytes that may cost"),
    ("idempotency.window_ms", "how long the record of a keyed commit is kept"),
    ("idempotency.records_max", "how many are kept at most; older ones expire before their time"),
    ("committer.entry_items_max", "most commits in one entry of the log"),
    ("committer.entry_bytes_max", "an entry of this many bytes takes no further commit"),
    ("committer.pipeline_entries_max", "most entries in flight"),
    ("committer.pipeline_bytes_max", "no entry is begun while this many bytes are in flight"),
    ("committer.resolver_bytes_max", "memory for recent writes, which conflicts are found in"),
    ("admission.requests_max", "most requests that wait for the committer, of all sessions"),
    ("admission.bytes_max", "most bytes in them; past it requests are refused with OVERLOADED"),
    ("sessions.connections_max", "most connections; later ones are told TOO_MANY_CONNECTIONS"),
    ("sessions.requests_in_flight_max", "most requests of one connection without an end"),
    ("sessions.bytes_in_flight_max", "most bytes of one connection in such requests and in replies it has not read"),
    ("sessions.outbound_bytes_max", "a connection is not read while this many bytes of replies wait for it"),
    ("sessions.transactions_max", "most open transactions of one connection"),
    ("sessions.transaction_age_ms_max", "how old a transaction may grow"),
    ("sessions.transaction_idle_ms_max", "how long a transaction may stay without a request"),
    ("sessions.scans_max", "most open scans of one connection"),
    ("sessions.idle_ms_max", "how long a connection may stay without a frame"),
    ("sessions.handshake_ms_max", "how long a connection may take to say hello"),
    ("sessions.deadline_ms_default", "how long a request may take that states no deadline"),
    ("sessions.drain_ms_max", "at shutdown, how long what was accepted may take to end"),
    ("sessions.grease", "send reserved tags at random, so that clients keep ignoring what they do not know"),
];

pub(super) fn to_ron(configuration: &Configuration) -> String {
    let pretty = PrettyConfig::new().indentor("    ").new_line("\n");
    let plain =
        ron::ser::to_string_pretty(configuration, pretty).expect("plain numbers, texts and flags can be written");
    let mut section = "";
    let mut text = String::with_capacity(plain.len() * 2);
    for line in plain.lines() {
        let inner = line.trim_start();
        let name = inner.split(':').next().unwrap_or_default();
        if inner.ends_with(": (") {
            section = name;
        }
        text.push_str(line);
        let path = if line.starts_with("        ") { format!("{section}.{name}") } else { name.to_owned() };
        if let Some((_, words)) = FIELDS.iter().find(|(field, _)| *field == path) {
            text.push_str("  // ");
            text.push_str(words);
        }
        text.push('\n');
    }
    text
}

//! The two programs as a shell meets them: arguments, exit codes, what goes to stdout and what to stderr, signals.
//!
//! Every test starts its own server on a free port of the loopback interface, in its own directory.

#[path = "cli/programs.rs"]
mod programs;

#[path = "cli/admin.rs"]
mod admin;

#[path = "cli/backups.rs"]
mod backups;

#[path = "cli/cluster.rs"]
mod cluster;

#[path = "cli/data.rs"]
mod data;

#[path = "cli/examples.rs"]
mod examples;

#[path = "cli/failing.rs"]
mod failing;

#[path = "cli/lines.rs"]
mod lines;

#[path = "cli/offline.rs"]
mod offline;

#[path = "cli/readme.rs"]
mod readme;

#[path = "cli/serving.rs"]
mod serving;

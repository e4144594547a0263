//! The servers that are measured: what they cost, and ours, started here.

use super::Protocol;
use std::{
    collections::HashMap,
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

#[derive(Clone, Debug)]
pub struct Target {
    pub name: &'static str,
    pub protocol: Protocol,
    pub address: String,
    pub pid: u32,
}

/// Nanoseconds that the threads of a process and of all its descendants have run.
pub fn cpu_ns(pid: u32) -> u64 {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(child) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        // Behind the name, which may hold anything, stand the state and the parent.
        let parent = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse().ok());
        children.entry(parent.unwrap_or(0)).or_default().push(child);
    }
    let (mut sum, mut family) = (0, vec![pid]);
    while let Some(pid) = family.pop() {
        sum += own_cpu_ns(pid);
        family.extend(children.remove(&pid).into_iter().flatten());
    }
    sum
}

fn own_cpu_ns(pid: u32) -> u64 {
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return 0 };
    let of_task = |path: std::path::PathBuf| std::fs::read_to_string(path.join("schedstat")).unwrap_or_default();
    let first = |text: String| text.split_whitespace().next().and_then(|word| word.parse::<u64>().ok()).unwrap_or(0);
    tasks.flatten().map(|task| first(of_task(task.path()))).sum()
}

/// A server of ours, killed when this is dropped.
pub struct Server {
    pub target: Target,
    /// From the start of the program to the line that says that it is ready.
    pub ready_after: Duration,
    child: Child,
}

impl Server {
    /// Starts it, with these words besides.
    pub fn start(words: &[&str]) -> Server {
        let mut command = Command::new(env!("CARGO_BIN_EXE_quantadb"));
        command.args([
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--peer-listen",
            "none",
            "--admin-listen",
            "127.0.0.1:0",
            "--log-level",
            "error",
        ]);
        let begun = Instant::now();
        let mut child = command.args(words).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let ready_after = begun.elapsed();
        let address = line.split_whitespace().find_map(|word| word.strip_prefix("listen=")).expect("it is ready");
        let (address, pid) = (address.to_owned(), child.id());
        Server { target: Target { name: "quantadb", protocol: Protocol::QuantaDb, address, pid }, ready_after, child }
    }

    /// Asks it to end and waits.
    pub fn stop(mut self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        assert!(self.child.wait().unwrap().success(), "it ends well");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

//! One node: the real program on a directory and two addresses of its own, that stay the same over its lives.

use super::network::Place;
use rustix::process::{Pid, Signal, kill_process};
use std::{
    fs::{self, File},
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};
use tokio::sync::oneshot;

pub const QUANTADB: &str = env!("CARGO_BIN_EXE_quantadb");

/// How long a start, an end or a recovery may take before the test says that the program hangs.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// How often somebody who waits for a process looks.
const POLL: Duration = Duration::from_millis(2);

/// Small parts, so that a short life rolls the log's segments and flushes to the base, and who was away needs a snapshot.
const CONFIGURATION: &str = "(
    storage: (
        slice_bytes: 1048576, slice_age_ms_max: 1000,
        log_segment_bytes: 262144, log_keep_bytes: 1048576, log_cache_bytes: 65536,
    ),
)";

/// See the module.
pub struct Node {
    /// Its place among the nodes of the test, from zero. What the cluster calls it is another matter.
    pub number: usize,
    pub place: Place,
    directory: PathBuf,
    /// Peer addresses that it is given to join by.
    join: Vec<SocketAddr>,
    child: Option<Child>,
    paused: bool,
    pub lives: u32,
    /// Which build of the server it is.
    pub program: String,
}

/// A start under way.
pub struct Starting {
    line: oneshot::Receiver<String>,
}

impl Node {
    /// A node that has not been started.
    pub fn new(number: usize, place: Place, directory: &Path, join: Vec<SocketAddr>) -> Node {
        let configuration = directory.join("configuration.ron");
        fs::write(&configuration, CONFIGURATION).expect("the run's directory can be written");
        Node {
            number,
            place,
            directory: directory.to_owned(),
            join,
            child: None,
            paused: false,
            lives: 0,
            program: QUANTADB.into(),
        }
    }

    pub fn data(&self) -> PathBuf {
        self.directory.join(format!("node-{}", self.number))
    }

    pub fn log_file(&self) -> PathBuf {
        self.directory.join(format!("node-{}.log", self.number))
    }

    /// All that it has logged, over its lives.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.log_file()).unwrap_or_default()).into_owned()
    }

    /// The last lines of its log.
    pub fn tail(&self) -> String {
        let log = self.log();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(12)..].join("\n")
    }

    pub fn is_running(&self) -> bool {
        self.child.is_some()
    }

    /// Whether it runs and is not stopped in the middle.
    pub fn is_awake(&self) -> bool {
        self.child.is_some() && !self.paused
    }

    /// Starts it; it may not be ready yet.
    pub fn spawn(&mut self) -> Starting {
        assert!(self.child.is_none(), "node {} runs already", self.number);
        let mut words: Vec<String> = self.place.enter();
        // Both ways of using threads, in turns.
        let workers = if (self.number + self.lives as usize).is_multiple_of(2) { "1" } else { "2" };
        words.extend([&self.program, "serve", "--workers", workers, "--admin-listen", "none"].map(str::to_owned));
        words.extend(["--listen".into(), self.place.clients.to_string()]);
        words.extend(["--peer-listen".into(), self.place.peers.to_string()]);
        if !self.place.clients.ip().is_loopback() {
            words.push("--insecure".into());
        }
        if !self.join.is_empty() {
            let join: Vec<_> = self.join.iter().map(SocketAddr::to_string).collect();
            words.extend(["--join".into(), join.join(",")]);
        }
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).arg("--data-dir").arg(self.data());
        command.arg("--config").arg(self.directory.join("configuration.ron"));
        command.args(["--log-level", &std::env::var("QUANTADB_CLUSTER_LOG").unwrap_or("info".into())]);
        let log = File::options().create(true).append(true).open(self.log_file());
        let log = log.expect("the run's directory can be written");
        // What runs in a directory keeps its disk busy; this one is nobody's.
        command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{} does not start: {error}", words[0]));
        let stdout = child.stdout.take().expect("it is piped");
        let (sender, line) = oneshot::channel();
        std::thread::spawn(move || {
            let mut stdout = BufReader::new(stdout);
            let mut line = String::new();
            let _ = stdout.read_line(&mut line);
            let _ = sender.send(line);
            let _ = std::io::copy(&mut stdout, &mut std::io::sink());
        });
        self.child = Some(child);
        self.paused = false;
        self.lives += 1;
        Starting { line }
    }

    /// Starts it and waits until it is ready.
    ///
    /// # Errors
    /// If it ends before that, or takes too long.
    pub async fn start(&mut self) -> Result<(), String> {
        let starting = self.spawn();
        self.ready(starting).await
    }

    /// Waits until a start is done.
    ///
    /// # Errors
    /// If it ends before that, or takes too long.
    pub async fn ready(&self, starting: Starting) -> Result<(), String> {
        let line = tokio::time::timeout(PATIENCE, starting.line).await;
        let number = self.number;
        match line {
            Ok(Ok(line)) if line.contains(" ready: ") => Ok(()),
            Ok(_) => Err(format!("node {number} ended before it was ready; its log ends with\n{}", self.tail())),
            Err(_) => {
                Err(format!("node {number} is not ready within {PATIENCE:?}; its log ends with\n{}", self.tail()))
            }
        }
    }

    fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("it runs");
        kill_process(Pid::from_child(child), signal).expect("it is ours");
    }

    /// Ends it where it stands.
    pub fn kill(&mut self) {
        let mut child = self.child.take().expect("it runs");
        child.kill().expect("it is ours");
        child.wait().expect("it is ours to wait for");
    }

    /// Stops it in the middle of what it does.
    pub fn pause(&mut self) {
        self.signal(Signal::STOP);
        self.paused = true;
    }

    /// Lets it go on.
    pub fn resume(&mut self) {
        self.signal(Signal::CONT);
        self.paused = false;
    }

    /// Asks it to end and waits.
    ///
    /// # Errors
    /// If it does not end in time, or not as it should.
    pub async fn stop(&mut self) -> Result<(), String> {
        self.signal(Signal::TERM);
        let status = self.ended().await?;
        match status.code() {
            Some(0) => Ok(()),
            _ => Err(format!("node {} ended with {status}; its log ends with\n{}", self.number, self.tail())),
        }
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// If it does not come in time.
    pub async fn ended(&mut self) -> Result<ExitStatus, String> {
        let until = Instant::now() + PATIENCE;
        loop {
            let child = self.child.as_mut().expect("it runs");
            if let Some(status) = child.try_wait().expect("it is ours to wait for") {
                self.child = None;
                return Ok(status);
            }
            if Instant::now() > until {
                self.kill();
                let (number, tail) = (self.number, self.tail());
                return Err(format!("node {number} did not end within {PATIENCE:?}; its log ends with\n{tail}"));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Loses its directory: it will join by these as another node.
    pub fn forget(&mut self, members: Vec<SocketAddr>) {
        assert!(self.child.is_none(), "node {} runs", self.number);
        fs::remove_dir_all(self.data()).expect("its directory is there");
        self.join = members;
    }

    /// Whether a snapshot is under way to it: what it has of it lies beside its base.
    pub fn takes_snapshot(&self) -> bool {
        let folders = fs::read_dir(self.data().join("base")).into_iter().flatten().flatten();
        folders.into_iter().any(|folder| folder.path().join("filling").exists())
    }

    /// Verifies its directory offline.
    ///
    /// # Errors
    /// What it found.
    pub fn check(&self) -> Result<(), String> {
        let output = Command::new(QUANTADB).args(["check", "--data-dir"]).arg(self.data()).output();
        let output = output.expect("the program starts");
        let text = [output.stdout, output.stderr].concat();
        match output.status.success() {
            true => Ok(()),
            false => Err(format!("node {}: {}: {}", self.number, output.status, String::from_utf8_lossy(&text))),
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

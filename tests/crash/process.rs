//! The real program: started, waited for with a bound, killed by its number, and what it left.

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    net::SocketAddr,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    time::{Duration, Instant},
};

pub const QUANTADB: &str = env!("CARGO_BIN_EXE_quantadb");
pub const QUANTACTL: &str = env!("CARGO_BIN_EXE_quantactl");

/// How long a start or an end may take before the test says that the program hangs.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Small parts, so that a short life rolls the log's segments and flushes to the base.
const SMALL: &str = "(
    storage: (slice_bytes: 1048576, slice_age_ms_max: 1000, log_segment_bytes: 262144, log_cache_bytes: 65536),
)";

/// Servers so far.
static SPAWNED: AtomicUsize = AtomicUsize::new(0);

/// How a server is started.
#[derive(Clone, Debug, Default)]
pub struct Launch {
    /// A program and its words that the server runs under.
    pub under: Vec<String>,
    /// Its configuration; small parts if there is none.
    pub configuration: Option<String>,
    /// Keeps nothing: what must be found out.
    pub memory: bool,
}

/// A running server.
pub struct Server {
    child: Child,
    pub address: SocketAddr,
    /// From the start of the program to the line that says that it is ready.
    pub ready_after: Duration,
    log: PathBuf,
}

/// A server that has ended.
#[derive(Debug)]
pub struct Ended {
    pub status: ExitStatus,
    pub log: String,
}

impl Ended {
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    pub fn signal(&self) -> Option<i32> {
        self.status.signal()
    }

    /// The last lines of its log.
    pub fn tail(&self) -> String {
        let lines: Vec<_> = self.log.lines().collect();
        lines[lines.len().saturating_sub(12)..].join("\n")
    }
}

/// What became of a start.
pub enum Start {
    Ready(Server),
    /// It ended before it was ready.
    Refused(Ended),
}

/// A server that has been started and may not be ready yet.
pub struct Starting {
    server: Server,
    begun: Instant,
    line: mpsc::Receiver<String>,
}

impl Launch {
    /// Starts it on a data directory. The log lies outside of that directory, which may be on a disk that goes away.
    pub fn spawn(&self, data: &Path, log: &Path) -> Starting {
        let mut words: Vec<&str> = self.under.iter().map(String::as_str).collect();
        // One thread that does it all, and one beside those that serve, in turns.
        let workers = ["1", "2"][SPAWNED.fetch_add(1, Ordering::Relaxed) % 2];
        words.extend([
            QUANTADB,
            "serve",
            "--workers",
            workers,
            "--listen",
            "127.0.0.1:0",
            "--peer-listen",
            "none",
            "--admin-listen",
            "none",
            "--log-level",
            "info",
        ]);
        let configuration = log.with_file_name("configuration.ron");
        let content = self.configuration.as_deref().unwrap_or(SMALL);
        fs::write(&configuration, content).expect("the log's directory can be written");
        let mut command = Command::new(words[0]);
        command.args(&words[1..]);
        command.arg("--config").arg(&configuration);
        match self.memory {
            true => command.arg("--memory"),
            false => command.arg("--data-dir").arg(data),
        };
        // What runs in a directory keeps its disk busy; this one is nobody's.
        command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::piped());
        command.stderr(fs::File::create(log).expect("the log's directory can be written"));
        let begun = Instant::now();
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{} does not start: {error}", words[0]));
        let line = first_line(child.stdout.take().expect("it is piped"));
        let address = ([127, 0, 0, 1], 0).into();
        let server = Server { child, address, ready_after: Duration::ZERO, log: log.to_owned() };
        Starting { server, begun, line }
    }
}

impl Starting {
    /// Waits until it is ready.
    ///
    /// # Errors
    /// If it is neither ready nor at its end within [`PATIENCE`].
    pub fn ready(self) -> Result<Start, String> {
        let Starting { mut server, begun, line } = self;
        let line = line.recv_timeout(PATIENCE);
        server.ready_after = begun.elapsed();
        let listen = |line: &str| line.split_whitespace().find_map(|word| word.strip_prefix("listen=")?.parse().ok());
        match (line.as_deref().ok().and_then(listen), line) {
            (Some(address), _) => {
                server.address = address;
                Ok(Start::Ready(server))
            }
            (None, Ok(_)) => Ok(Start::Refused(server.wait()?)),
            (None, Err(_)) => {
                let ended = server.kill();
                Err(format!("not ready within {PATIENCE:?}; its log ends with\n{}", ended.tail()))
            }
        }
    }

    /// The server, ready or not.
    pub fn server(self) -> Server {
        self.server
    }
}

/// The first line of a stream, empty at its end, by a thread that reads the rest too.
fn first_line(stream: impl Read + Send + 'static) -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let mut stream = BufReader::new(stream);
        let mut line = String::new();
        let _ = stream.read_line(&mut line);
        let _ = sender.send(line);
        let _ = std::io::copy(&mut stream, &mut std::io::sink());
    });
    receiver
}

impl Server {
    /// Whether it still runs.
    pub fn runs(&mut self) -> bool {
        self.child.try_wait().expect("it is ours to wait for").is_none()
    }

    /// Bytes of memory that it has.
    pub fn resident_bytes(&self) -> u64 {
        let pages = fs::read_to_string(format!("/proc/{}/statm", self.child.id())).unwrap_or_default();
        pages.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * 4_096
    }

    /// Ends it where it stands.
    pub fn kill(mut self) -> Ended {
        let _ = self.child.kill();
        let status = self.child.wait().expect("it is ours to wait for");
        self.ended(status)
    }

    /// Asks it to end and waits.
    ///
    /// # Errors
    /// If it does not end within [`PATIENCE`].
    pub fn stop(self) -> Result<Ended, String> {
        let pid = rustix::process::Pid::from_child(&self.child);
        // One that has ended already is only waited for.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        self.wait()
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// If it does not end within [`PATIENCE`].
    pub fn wait(mut self) -> Result<Ended, String> {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().expect("it is ours to wait for") {
                return Ok(self.ended(status));
            }
            if Instant::now() > until {
                let ended = self.kill();
                return Err(format!("it did not end within {PATIENCE:?}; its log ends with\n{}", ended.tail()));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn ended(&self, status: ExitStatus) -> Ended {
        let log = fs::read(&self.log).unwrap_or_default();
        Ended { status, log: String::from_utf8_lossy(&log).into_owned() }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a program to its end and returns its code and all that it printed.
pub fn run(program: &str, words: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(program).args(words).stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("{program} does not start: {error}"));
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&text).into_owned())
}

/// Runs a program that must succeed.
#[track_caller]
pub fn must(program: &str, words: &[&str]) -> String {
    let (code, text) = run(program, words);
    assert_eq!(code, Some(0), "{program} {words:?}: {text}");
    text
}

/// Verifies a data directory offline.
///
/// # Errors
/// What it found.
pub fn check(data: &Path) -> Result<(), String> {
    match run(QUANTADB, &["check", "--data-dir", text(data)]) {
        (Some(0), _) => Ok(()),
        (code, text) => Err(format!("`quantadb check` ended with {code:?}: {text}")),
    }
}

/// A path as an argument.
pub fn text(path: &Path) -> &str {
    path.to_str().expect("temporary paths are text")
}

//! Running the programs.

use quantadb::testing::directory::TemporaryDirectory;
use rustix::process::{Pid, Signal, kill_process};
use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
};

pub const QUANTADB: &str = env!("CARGO_BIN_EXE_quantadb");
pub const QUANTACTL: &str = env!("CARGO_BIN_EXE_quantactl");

/// What a finished program left.
#[derive(Debug, PartialEq, Eq)]
pub struct Ended {
    pub code: Option<i32>,
    pub stdout: Vec<u8>,
    pub stderr: String,
}

impl Ended {
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.stdout).expect("stdout is text")
    }

    /// It ended with this code.
    #[track_caller]
    pub fn code(self, code: i32) -> Ended {
        assert_eq!(self.code, Some(code), "{self:?}");
        self
    }

    /// It ended well and printed this.
    #[track_caller]
    pub fn prints(self, text: &str) {
        let ended = self.code(0);
        assert_eq!(ended.text(), text);
    }

    /// It ended with this code, printed nothing, and told stderr something that has these parts.
    #[track_caller]
    pub fn fails(self, code: i32, parts: &[&str]) {
        let ended = self.code(code);
        assert_eq!(ended.text(), "", "{ended:?}");
        for part in parts {
            assert!(ended.stderr.contains(part), "{part:?} is not in {:?}", ended.stderr);
        }
    }
}

/// Runs a program to its end.
pub fn run(program: &str, words: &[&str], stdin: &[u8]) -> Ended {
    let mut child = piped(Command::new(program).args(words));
    // A program that ends early does not read it all.
    let _ = child.stdin.take().expect("it is piped").write_all(stdin);
    ended(child)
}

pub fn piped(command: &mut Command) -> Child {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program starts")
}

/// Waits for the end of a program.
pub fn ended(child: Child) -> Ended {
    let output = child.wait_with_output().expect("the program ends");
    let stderr = String::from_utf8(output.stderr).expect("stderr is text");
    Ended { code: output.status.code(), stdout: output.stdout, stderr }
}

pub fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).expect("the program runs");
}

/// A server, ended when this is dropped.
pub struct Server {
    child: Option<Child>,
    stdout: BufReader<ChildStdout>,
    pub address: String,
    pub peers: String,
    pub admin: String,
    pub directory: TemporaryDirectory,
}

impl Server {
    /// One in memory.
    pub fn start(words: &[&str]) -> Server {
        Server::serving(&[&["--memory"], words].concat(), TemporaryDirectory::new("cli"))
    }

    /// One whose data lie in `directory`, as they do by default.
    pub fn on_disk(directory: TemporaryDirectory) -> Server {
        Server::serving(&[], directory)
    }

    fn serving(words: &[&str], directory: TemporaryDirectory) -> Server {
        let mut command = Command::new(QUANTADB);
        command.args(["serve", "--listen", "127.0.0.1:0"]).args(words);
        if !words.contains(&"--admin-listen") {
            command.args(["--peer-listen", "none", "--admin-listen", "127.0.0.1:0"]);
        }
        Server::from(command.current_dir(directory.path()), directory)
    }

    /// One of several, as `just cluster` starts them in `parent`: it forms a cluster, or joins the one of a member.
    pub fn member(parent: &TemporaryDirectory, number: u32, join: Option<&str>) -> Server {
        let place = parent.path().join(format!("quantadb-cluster/{number}"));
        fs::create_dir_all(&place).expect("the directory can be written");
        let mut command = Command::new(QUANTADB);
        command.args(["serve", "--listen", "127.0.0.1:0", "--peer-listen", "127.0.0.1:0", "--admin-listen", "none"]);
        command.arg("--data-dir").arg(place.join("data")).args(join.map_or(vec![], |peers| vec!["--join", peers]));
        let server = Server::from(&mut command, TemporaryDirectory::new("cli"));
        let pid = server.child.as_ref().expect("it runs").id();
        fs::write(place.join("pid"), pid.to_string()).expect("the directory can be written");
        server
    }

    /// Ends it as an operator does; gives back its directory, for the next one.
    pub fn stop(mut self) -> TemporaryDirectory {
        self.signal(Signal::TERM);
        assert_eq!(self.wait().0, Some(0), "{}", self.log());
        std::mem::replace(&mut self.directory, TemporaryDirectory::new("cli"))
    }

    /// Waits for the line that says that it is ready.
    pub fn from(command: &mut Command, directory: TemporaryDirectory) -> Server {
        // Its log goes to a file, so that no pipe fills up.
        let log = fs::File::create(directory.path().join("log")).expect("the directory can be written");
        let mut child = command.stdout(Stdio::piped()).stderr(log).spawn().expect("the server starts");
        let mut stdout = BufReader::new(child.stdout.take().expect("it is piped"));
        let mut line = String::new();
        stdout.read_line(&mut line).expect("stdout can be read");
        let part = |name: &str| {
            let found = line.split_whitespace().find_map(|word| word.strip_prefix(name));
            found.unwrap_or_else(|| panic!("no {name} in {line:?}")).to_owned()
        };
        assert!(line.contains(" ready: "), "{line:?}");
        let (address, peers, admin) = (part("listen="), part("peers="), part("admin="));
        Server { child: Some(child), stdout, address, peers, admin, directory }
    }

    /// A path in its directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.path("log")).expect("it has a log")
    }

    /// Runs quantactl against it.
    pub fn ctl(&self, words: &[&str]) -> Ended {
        self.ctl_fed(words, b"")
    }

    pub fn ctl_fed(&self, words: &[&str], stdin: &[u8]) -> Ended {
        run(QUANTACTL, &[&["--addr", &self.address], words].concat(), stdin)
    }

    pub fn signal(&self, which: Signal) {
        signal(self.child.as_ref().expect("it runs"), which);
    }

    /// Waits for its end. Returns its exit code, and what it printed after the line that said that it was ready.
    pub fn wait(&mut self) -> (Option<i32>, String) {
        let mut child = self.child.take().expect("it runs");
        let code = child.wait().expect("it ends").code();
        let mut rest = String::new();
        self.stdout.read_to_string(&mut rest).expect("stdout can be read");
        (code, rest)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Asked, not killed: it ends within its drain time, and what measures coverage writes its counts at the end.
            let _ = kill_process(Pid::from_child(&child), Signal::TERM);
            let _ = child.wait();
        }
    }
}

/// A path as an argument.
pub fn text(path: &Path) -> &str {
    path.to_str().expect("temporary paths are text")
}

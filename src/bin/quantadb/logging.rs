//! The root logger: where lines go, how they look, and what happens when they come faster than they can be written.
//!
//! Lines go to stderr, through a bounded buffer and a thread of its own. **When the buffer is full a line is dropped**:
//! the server never waits for its log. Drops are counted ([`Logging::dropped`], a metric), and the next line that finds
//! room is preceded by one that says how many are missing. The level can be changed while the server runs.

use crate::{
    configuration::{Configuration, LogFormat, LogLevel},
    libraries,
};
use slog::{Drain, Logger, Never, OwnedKVList, Record, o};
use slog_async::{AsyncCore, AsyncGuard};
use std::{
    io::{self, IsTerminal},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

/// The root logger and its controls. Lines that wait are written when this is dropped.
pub struct Logging {
    pub log: Logger,
    pub level: Level,
    dropped: Arc<AtomicU64>,
    _flush: AsyncGuard,
}

/// A handle to the least level that is logged.
#[derive(Clone)]
pub struct Level(Arc<AtomicUsize>);

impl Level {
    fn new(level: LogLevel) -> Level {
        Level(Arc::new(AtomicUsize::new(of_slog(level).as_usize())))
    }

    /// Changes it, from the next line on.
    pub fn set(&self, level: LogLevel) {
        self.0.store(of_slog(level).as_usize(), Ordering::Relaxed);
        libraries::set_level(level);
    }

    /// Its name.
    pub fn name(&self) -> &'static str {
        let known = [LogLevel::Critical, LogLevel::Error, LogLevel::Warning, LogLevel::Info, LogLevel::Debug];
        let now = self.0.load(Ordering::Relaxed);
        known.into_iter().find(|level| of_slog(*level).as_usize() == now).unwrap_or(LogLevel::Trace).name()
    }
}

fn of_slog(level: LogLevel) -> slog::Level {
    match level {
        LogLevel::Critical => slog::Level::Critical,
        LogLevel::Error => slog::Level::Error,
        LogLevel::Warning => slog::Level::Warning,
        LogLevel::Info => slog::Level::Info,
        LogLevel::Debug => slog::Level::Debug,
        LogLevel::Trace => slog::Level::Trace,
    }
}

impl Logging {
    /// A logger to stderr, as the configuration wants it.
    pub fn start(configuration: &Configuration) -> Logging {
        let lines = configuration.log_lines_max.size();
        match configuration.log_format {
            LogFormat::Json => Logging::over(json(io::stderr()), configuration.log_level, lines),
            LogFormat::Terminal => Logging::over(terminal(), configuration.log_level, lines),
        }
    }

    fn over<D>(drain: D, level: LogLevel, lines_max: usize) -> Logging
    where
        D: Drain<Ok = (), Err = Never> + Send + 'static,
    {
        let name = "log".to_owned();
        let (core, flush) =
            AsyncCore::custom(drain).chan_size(lines_max).blocking(false).thread_name(name).build_with_guard();
        let level = Level::new(level);
        let dropped = Arc::new(AtomicU64::new(0));
        let counting = Counting { core, dropped: Arc::clone(&dropped), untold: AtomicU64::new(0) };
        let log = Logger::root(Switch { level: level.clone(), inner: counting }, o!());
        Logging { log, level, dropped, _flush: flush }
    }

    /// How many lines were dropped because the buffer was full.
    pub fn dropped(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.dropped)
    }
}

/// Lines of JSON: `ts`, `level`, `msg`, then what the line carries.
fn json<W: io::Write + Send + 'static>(output: W) -> impl Drain<Ok = (), Err = Never> + Send + 'static {
    let json = slog_json::Json::new(output).add_default_keys().set_newlines(true).set_flush(true).build();
    // A log that cannot be written must not stop the server; there is nowhere left to say so.
    Mutex::new(json).ignore_res()
}

/// Lines for people: coloured on a terminal, unless `NO_COLOR` is set.
fn terminal() -> Box<dyn Drain<Ok = (), Err = Never> + Send> {
    let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty()) || !io::stderr().is_terminal();
    let coloured = if plain { None } else { slog_term::TermDecorator::new().stderr().try_build() };
    match coloured {
        Some(decorator) => Box::new(
            slog_term::FullFormat::new(decorator).use_utc_timestamp().use_original_order().build().ignore_res(),
        ),
        None => {
            let decorator = slog_term::PlainDecorator::new(io::stderr());
            Box::new(
                slog_term::FullFormat::new(decorator).use_utc_timestamp().use_original_order().build().ignore_res(),
            )
        }
    }
}

/// Lets through what is at least the level of the moment.
struct Switch<D> {
    level: Level,
    inner: D,
}

impl<D: Drain<Ok = (), Err = Never>> Drain for Switch<D> {
    type Ok = ();
    type Err = Never;

    fn log(&self, record: &Record<'_>, values: &OwnedKVList) -> Result<(), Never> {
        if self.is_enabled(record.level()) { self.inner.log(record, values) } else { Ok(()) }
    }

    fn is_enabled(&self, level: slog::Level) -> bool {
        level.as_usize() <= self.level.0.load(Ordering::Relaxed)
    }
}

/// Hands lines to the writing thread; counts those that find the buffer full.
struct Counting {
    core: AsyncCore,
    dropped: Arc<AtomicU64>,
    untold: AtomicU64,
}

impl Counting {
    /// Says how many lines are missing before the next one, if there is room for both.
    fn tell(&self) {
        let count = self.untold.swap(0, Ordering::Relaxed);
        if count == 0 {
            return;
        }
        let record_static = slog::record_static!(slog::Level::Warning, "");
        let values = slog::b!("dropped" => count);
        let text = format_args!("log lines were dropped: they came faster than they could be written");
        let record = Record::new(&record_static, &text, values);
        if self.core.log(&record, &o!().into()).is_err() {
            self.untold.fetch_add(count, Ordering::Relaxed);
        }
    }
}

impl Drain for Counting {
    type Ok = ();
    type Err = Never;

    fn log(&self, record: &Record<'_>, values: &OwnedKVList) -> Result<(), Never> {
        if self.untold.load(Ordering::Relaxed) > 0 {
            self.tell();
        }
        if self.core.log(record, values).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            self.untold.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use slog::{debug, info, warn};
    use std::sync::mpsc;

    /// A writer that stops at a gate, so that a test decides when the buffer is full.
    struct Gated {
        open: mpsc::Receiver<()>,
        lines: mpsc::Sender<String>,
    }

    impl io::Write for Gated {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.lines.send(String::from_utf8_lossy(bytes).into_owned()).map_err(|_| io::ErrorKind::BrokenPipe)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            self.open.recv().map_err(|_| io::ErrorKind::BrokenPipe.into())
        }
    }

    #[test]
    fn a_full_buffer_drops_counts_and_tells() {
        let (gate, open) = mpsc::channel();
        let (sender, written) = mpsc::channel();
        let logging = Logging::over(json(Gated { open, lines: sender }), LogLevel::Info, 16);
        info!(logging.log, "first");
        let mut text = String::new();
        while !text.contains('\n') {
            text += &written.recv().expect("the first line is written");
        }
        // The writing thread stands at the gate now: sixteen lines fit, four do not.
        for _ in 0..20 {
            info!(logging.log, "more");
        }
        assert_eq!(logging.dropped().load(Ordering::Relaxed), 4);
        for _ in 0..17 {
            gate.send(()).expect("the writer waits");
        }
        while text.matches('\n').count() < 17 {
            text += &written.recv().expect("what fitted is written");
        }
        drop(gate);
        warn!(logging.log, "last");
        drop(logging);
        text.extend(written.iter());
        assert!(text.contains(r#""dropped":4"#), "{text}");
        assert!(text.contains("log lines were dropped") && text.contains("last"), "{text}");
    }

    #[test]
    fn the_level_changes_at_run_time() {
        let (sender, written) = mpsc::channel();
        let (gate, open) = mpsc::channel();
        drop(gate);
        let logging = Logging::over(json(Gated { open, lines: sender }), LogLevel::Info, 64);
        debug!(logging.log, "unseen");
        logging.level.set(LogLevel::Debug);
        assert_eq!(logging.level.name(), "debug");
        debug!(logging.log, "seen");
        logging.level.set(LogLevel::Critical);
        warn!(logging.log, "unseen again");
        drop(logging);
        let text: String = written.iter().collect();
        assert!(text.contains(r#""msg":"seen""#) && !text.contains("unseen"), "{text}");
    }
}

//! What the libraries below have to say, in our log: openraft and the LSM-tree write to `log`, the standard facade.
//!
//! Their warnings and errors keep their level. What they call information is detail to an operator of ours, so it is debug
//! here, and their debug is trace. openraft warns of each message that did not arrive, many times a second while a member is
//! away; consensus says so itself, once, and openraft's warnings are debug. Below the level of the moment their lines are not even put together.

use crate::configuration::LogLevel;
use log::{LevelFilter, Log, Metadata, Record};
use slog::{Logger, debug, error, trace, warn};

/// Takes the facade, once in a process.
pub fn listen(log: &Logger, level: LogLevel) {
    // Somebody else has it only in a program that is not ours.
    if log::set_boxed_logger(Box::new(Libraries(log.clone()))).is_ok() {
        set_level(level);
    }
}

/// Follows a change of the log's level.
pub fn set_level(level: LogLevel) {
    log::set_max_level(least(level));
}

/// The least that is put together at a level of ours.
fn least(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Critical => LevelFilter::Off,
        LogLevel::Error => LevelFilter::Error,
        LogLevel::Warning | LogLevel::Info => LevelFilter::Warn,
        LogLevel::Debug => LevelFilter::Info,
        LogLevel::Trace => LevelFilter::Trace,
    }
}

struct Libraries(Logger);

impl Log for Libraries {
    fn enabled(&self, _metadata: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let (text, library) = (record.args(), record.target());
        match record.level() {
            log::Level::Error => error!(self.0, "{}", text; "library" => library),
            log::Level::Warn if library.starts_with("openraft") => debug!(self.0, "{}", text; "library" => library),
            log::Level::Warn => warn!(self.0, "{}", text; "library" => library),
            log::Level::Info => debug!(self.0, "{}", text; "library" => library),
            log::Level::Debug | log::Level::Trace => trace!(self.0, "{}", text; "library" => library),
        }
    }

    fn flush(&self) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use slog::{Drain, Never, OwnedKVList, o};
    use std::sync::{Arc, Mutex};

    struct Lines(Arc<Mutex<Vec<String>>>);

    impl Drain for Lines {
        type Ok = ();
        type Err = Never;
        fn log(&self, record: &slog::Record<'_>, _values: &OwnedKVList) -> Result<(), Never> {
            let line = format!("{} {}", record.level().as_short_str(), record.msg());
            self.0.lock().expect("nothing panics while it holds it").push(line);
            Ok(())
        }
    }

    #[test]
    fn lines_of_libraries_come_a_level_lower() {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let libraries = Libraries(Logger::root(Lines(Arc::clone(&lines)), o!()));
        let levels = [log::Level::Error, log::Level::Warn, log::Level::Info, log::Level::Debug, log::Level::Trace];
        for level in levels {
            libraries.log(&Record::builder().level(level).target("lsm_tree").args(format_args!("text")).build());
        }
        let warning = Record::builder()
            .level(log::Level::Warn)
            .target("openraft::replication")
            .args(format_args!("away"))
            .build();
        libraries.log(&warning);
        let lines = lines.lock().expect("nothing panics while it holds it").join("; ");
        assert_eq!(lines, "ERRO text; WARN text; DEBG text; TRCE text; TRCE text; DEBG away");
    }

    #[test]
    fn what_is_below_the_level_is_not_put_together() {
        for (level, filter) in [
            (LogLevel::Critical, LevelFilter::Off),
            (LogLevel::Error, LevelFilter::Error),
            (LogLevel::Info, LevelFilter::Warn),
            (LogLevel::Debug, LevelFilter::Info),
            (LogLevel::Trace, LevelFilter::Trace),
        ] {
            assert_eq!(least(level), filter);
        }
    }
}

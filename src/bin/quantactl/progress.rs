//! A bar on stderr while long work goes on, if stderr is a terminal; nothing at all in a pipe.

use indicatif::{ProgressBar, ProgressStyle};
use std::time::{Duration, Instant};

/// How far apart the bar is told of what was done: it draws no faster, and rows come in millions.
const TELL_EVERY: Duration = Duration::from_millis(50);
/// The clock is looked at once in so many rows.
const LOOK_ROWS: u64 = 256;

/// Counts rows and bytes, and shows them.
pub struct Progress {
    bar: ProgressBar,
    began: Instant,
    told: Instant,
    told_rows: u64,
    pub rows: u64,
    pub bytes: u64,
}

impl Progress {
    /// With a total in bytes, where it is known, how far it has come can be shown.
    pub fn begin(total_bytes: Option<u64>) -> Progress {
        // The bar hides itself where stderr is no terminal.
        let bar = total_bytes.map_or_else(ProgressBar::new_spinner, ProgressBar::new);
        let shape = match total_bytes {
            Some(_) => "{spinner} {wide_bar} {bytes}/{total_bytes} {msg} eta {eta}",
            None => "{spinner} {bytes} {msg}",
        };
        bar.set_style(ProgressStyle::with_template(shape).expect("the template is fixed and right"));
        bar.enable_steady_tick(Duration::from_millis(100));
        let began = Instant::now();
        Progress { bar, began, told: began, told_rows: 0, rows: 0, bytes: 0 }
    }

    /// So much more is done.
    pub fn add(&mut self, rows: u64, bytes: u64) {
        self.rows += rows;
        self.bytes += bytes;
        if self.rows - self.told_rows >= LOOK_ROWS {
            self.told_rows = self.rows;
            if self.told.elapsed() >= TELL_EVERY {
                self.told = Instant::now();
                self.bar.set_position(self.bytes);
                self.bar.set_message(format!("{} rows, {:.0} rows/s", self.rows, self.rate()));
            }
        }
    }

    fn rate(&self) -> f64 {
        self.rows as f64 / self.seconds().max(0.001)
    }

    /// How long it has taken so far.
    pub fn seconds(&self) -> f64 {
        self.began.elapsed().as_secs_f64()
    }

    /// Takes the bar away.
    pub fn clear(&self) {
        self.bar.finish_and_clear();
    }

    /// What was done, in words.
    pub fn summary(&self, verb: &str) -> String {
        let seconds = self.seconds();
        format!("{} rows {verb}, {} bytes, in {seconds:.2} s ({:.0} rows/s)", self.rows, self.bytes, self.rate())
    }

    /// The same as a JSON object.
    pub fn json(&self) -> String {
        let seconds = self.seconds();
        format!(r#"{{"rows":{},"bytes":{},"seconds":{seconds:.3}}}"#, self.rows, self.bytes)
    }
}

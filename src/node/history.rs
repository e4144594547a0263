//! How long old versions are kept for readers who hold no pin: resume tokens, and transactions on other nodes.
//!
//! By time where bytes allow, and by bytes before anything else: while history holds more than its share, the horizon
//! creeps forward whatever the clock says. Pins are the engine's own concern; this only says how far it may go.

use crate::{
    env::Moment,
    storage::{Engine, Usage},
    types::Version,
};
use parking_lot::Mutex;
use std::{collections::VecDeque, time::Duration};

/// How far apart samples of the version are taken.
pub(super) const SAMPLE_EVERY: Duration = Duration::from_millis(100);

/// What is kept.
#[derive(Clone, Copy, Debug)]
pub struct HistoryOptions {
    /// How long a version stays readable without a pin.
    pub keep: Duration,
    /// How many bytes that may cost.
    pub bytes_max: u64,
}

impl Default for HistoryOptions {
    fn default() -> HistoryOptions {
        HistoryOptions { keep: Duration::from_secs(5), bytes_max: 256 * 1024 * 1024 }
    }
}

/// Which versions have outlived their time.
#[derive(Debug)]
pub(super) struct History {
    options: HistoryOptions,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    samples: VecDeque<(Moment, Version)>,
    outlived: Version,
}

impl History {
    pub(super) fn new(options: HistoryOptions) -> History {
        History { options, state: Mutex::new(State::default()) }
    }

    /// Notes which version is visible now.
    pub(super) fn sample(&self, now: Moment, visible: Version) {
        let mut state = self.state.lock();
        state.samples.push_back((now, visible));
        while let Some((taken, version)) = state.samples.front().copied() {
            if now - taken < self.options.keep {
                break;
            }
            state.outlived = version;
            state.samples.pop_front();
        }
    }

    /// Up to which version history may be cut.
    fn target(&self, usage: &Usage, visible: Version) -> Version {
        let outlived = self.state.lock().outlived;
        if usage.history_bytes <= self.options.bytes_max {
            return outlived;
        }
        // Past its share: the oldest eighth goes, again and again until it fits.
        let creep = (visible.0.saturating_sub(usage.horizon.0) / 8).max(1);
        Version((usage.horizon.0 + creep).min(visible.0)).max(outlived)
    }

    /// Cuts what may be cut, a bounded amount. Returns whether work is left.
    pub(super) fn trim(&self, engine: &dyn Engine) -> bool {
        let usage = engine.usage();
        engine.trim(self.target(&usage, engine.visible()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(history_bytes: u64, horizon: u64) -> Usage {
        Usage { history_bytes, horizon: Version(horizon), ..Usage::default() }
    }

    #[test]
    fn a_version_outlives_its_time() {
        let history = History::new(HistoryOptions { keep: Duration::from_secs(5), bytes_max: 1_000 });
        let at = |seconds: u64| Moment(seconds * 1_000_000_000);
        history.sample(at(0), Version(10));
        history.sample(at(3), Version(20));
        assert_eq!(history.target(&usage(0, 0), Version(20)), Version(0));
        history.sample(at(5), Version(30));
        assert_eq!(history.target(&usage(0, 0), Version(30)), Version(10));
        history.sample(at(9), Version(30));
        assert_eq!(history.target(&usage(0, 10), Version(30)), Version(20));
    }

    #[test]
    fn past_its_share_of_bytes_history_gives_way_whatever_the_clock_says() {
        let history = History::new(HistoryOptions { keep: Duration::from_secs(5), bytes_max: 1_000 });
        assert_eq!(history.target(&usage(1_001, 100), Version(900)), Version(200));
        assert_eq!(history.target(&usage(1_001, 899), Version(900)), Version(900));
    }
}

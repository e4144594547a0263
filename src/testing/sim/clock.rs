//! Clocks that start anywhere and run too fast or too slow.

use super::state::Time;
use crate::env::Moment;

/// Parts of a million.
const WHOLE: u128 = 1_000_000;

/// A host's monotonic clock as a function of the simulation's time: a line that bends where the drift changes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    since: Time,
    moment: Moment,
    /// What it goes on by while the simulation goes on by a million.
    rate: u128,
}

impl Clock {
    pub(super) fn new(moment: Moment) -> Clock {
        Clock { since: Time(0), moment, rate: WHOLE }
    }

    /// What it shows at a time.
    pub(super) fn at(&self, time: Time) -> Moment {
        let gone = u128::from(time.0.saturating_sub(self.since.0)) * self.rate / WHOLE;
        Moment(self.moment.0.saturating_add(u64::try_from(gone).unwrap_or(u64::MAX)))
    }

    /// The first time at which it shows `moment` or later; the end of time if it never does.
    pub(super) fn when(&self, moment: Moment) -> Time {
        let missing = u128::from(moment.0.saturating_sub(self.moment.0));
        let wait = u64::try_from((missing * WHOLE).div_ceil(self.rate)).unwrap_or(u64::MAX);
        Time(self.since.0.saturating_add(wait))
    }

    /// From `now` on it goes so many parts in a million faster, or slower.
    pub(super) fn set_drift(&mut self, now: Time, parts_per_million: i32) {
        let rate = i64::from(parts_per_million) + 1_000_000;
        let rate = u128::try_from(rate).ok().filter(|rate| *rate > 0).expect("a clock goes forward");
        *self = Clock { since: now, moment: self.at(now), rate };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_reached_at_its_time_and_not_before() {
        let mut clock = Clock::new(Moment(500));
        for drift in [0, 300, -300, 999_999, -999_999, 7] {
            clock.set_drift(Time(clock.since.0 + 12_345), drift);
            for ahead in [0, 1, 2, 999, 1_000_001, 77_777_777] {
                let moment = Moment(clock.moment.0 + ahead);
                let time = clock.when(moment);
                assert!(clock.at(time) >= moment, "{drift} {ahead}");
                assert!(ahead == 0 || clock.at(Time(time.0 - 1)) < moment, "{drift} {ahead}");
            }
        }
    }

    #[test]
    fn a_change_of_drift_does_not_make_it_jump() {
        let mut clock = Clock::new(Moment(0));
        let before = clock.at(Time(1_000_000));
        clock.set_drift(Time(1_000_000), 100_000);
        assert_eq!(clock.at(Time(1_000_000)), before);
        assert_eq!(clock.at(Time(2_000_000)), Moment(2_100_000));
        clock.set_drift(Time(2_000_000), -500_000);
        assert_eq!(clock.when(Moment(u64::MAX)), Time::NEVER);
    }
}

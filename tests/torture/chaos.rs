//! What makes the group misbehave while clients are at work.

use quantadb::{consensus::Faults, testing::generators::Random};
use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

/// Bad days one after another, until it is over; then the node leads and nothing is held.
pub fn reign(faults: &Faults, seed: u64, losses: bool, over: &AtomicBool) {
    let mut random = Random::new(seed ^ 0xc4a0_5c4a_05c4_a05c);
    // Real time for the clients to get into the way of it: it paces, and nothing depends on it.
    let pause = |micros: u64| std::thread::sleep(Duration::from_micros(micros));
    while !over.load(Ordering::Relaxed) {
        pause(2_000 + random.below(18_000));
        match if losses { random.below(6) } else { 0 } {
            0 | 1 => {
                let pattern: Vec<bool> = (0..1 + random.below(6)).map(|_| random.once_in(2)).collect();
                faults.refuse(&pattern);
            }
            2 => {
                faults.hold();
                pause(100 + random.below(3_000));
                faults.release();
            }
            3 | 4 => {
                faults.hold();
                pause(100 + random.below(3_000));
                faults.new_term(random.index(5));
            }
            _ => {
                if random.once_in(2) {
                    faults.hold();
                    pause(100 + random.below(2_000));
                }
                faults.step_down();
                pause(100 + random.below(3_000));
                faults.new_term(0);
            }
        }
    }
    if losses {
        faults.release();
        faults.new_term(0);
    }
    faults.refuse(&[]);
}

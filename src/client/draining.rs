//! Connections that were left, and still do what was begun on them.

use super::io::Io;
use crate::env::{Env, Task};
use std::collections::VecDeque;

/// The oldest of more is dropped, and what it still does is lost.
const DRAINING_MAX: usize = 4;

/// Connections that finish on their own. Dropping this ends them.
#[derive(Default)]
pub(super) struct Draining(VecDeque<Task>);

impl Draining {
    /// Runs a connection until nobody uses it any more.
    pub(super) fn push(&mut self, env: &Env, io: Io) {
        if self.0.len() == DRAINING_MAX {
            self.0.pop_front();
        }
        self.0.push_back(env.spawn("client connection that drains", io.run_to_end()));
    }
}

//! The environment of the task that runs on this thread, for what is called without one: a library's static functions.
//!
//! A simulator says where a task is while it polls it; the system's environment says nothing, and needs not.

use super::Env;
use std::cell::RefCell;

thread_local! {
    static CURRENT: RefCell<Option<Env>> = const { RefCell::new(None) };
}

/// The environment of the task that runs here, if a simulator runs it.
#[must_use]
pub fn current() -> Option<Env> {
    CURRENT.with_borrow(Clone::clone)
}

/// Says that what runs on this thread runs in `env`, for as long as the result lives.
#[must_use = "it ends when this is dropped"]
pub fn enter(env: &Env) -> Entered {
    Entered { before: CURRENT.replace(Some(env.clone())) }
}

/// See [`enter`].
pub struct Entered {
    before: Option<Env>,
}

impl Drop for Entered {
    fn drop(&mut self) {
        CURRENT.set(self.before.take());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_environment_is_current_while_it_is_entered() {
        assert!(current().is_none());
        let env = Env::real();
        let outer = enter(&env);
        let inner = enter(&env);
        drop(inner);
        assert!(current().is_some());
        drop(outer);
        assert!(current().is_none());
    }
}

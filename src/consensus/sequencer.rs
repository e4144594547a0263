//! A group of one in memory: a task that takes proposals in order, applies them, and says what became of each.
//!
//! Under the feature `testing` a [`Faults`] handle makes it behave as a real group does on a bad day: refuse one
//! proposal and take the next, hold proposals and lose them, change its term.

use super::{Confirm, Failed, Fate, Leadership, Observe, Respond, StateMachine};
use crate::{
    env::{Env, Task},
    types::{LogId, NodeId, Term},
};
use bytes::Bytes;
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};
use tokio::sync::mpsc;

#[cfg(feature = "testing")]
use parking_lot::Mutex;

/// How many messages the task takes from its queue at once.
const TAKE_MAX: usize = 64;

/// A handle to the group; cheap to clone.
pub struct Group<T> {
    queue: mpsc::UnboundedSender<Message<T>>,
    shared: Arc<Shared>,
}

impl<T> Clone for Group<T> {
    fn clone(&self) -> Group<T> {
        Group { queue: self.queue.clone(), shared: Arc::clone(&self.shared) }
    }
}

struct Shared {
    /// Whether a read needs no word from anybody else: leader, only voter, first entry of the term applied.
    local_reads: AtomicBool,
}

enum Message<T> {
    Propose {
        term: Term,
        entry: Bytes,
        respond: Respond<T>,
    },
    Confirm(Confirm),
    #[cfg(feature = "testing")]
    Wake,
}

impl<T: Send + 'static> Group<T> {
    /// Starts a group of one. `observe` hears of leadership, the first time before this node may propose; `failed`
    /// hears why the group stopped, if it does. The queue is bounded by its one caller, the committer, which keeps
    /// count of what it has handed over.
    pub fn start<M: StateMachine<Outcome = T>>(
        env: &Env,
        machine: M,
        observe: Observe,
        failed: Box<dyn FnOnce(Failed) + Send>,
    ) -> (Group<T>, Task) {
        Group::start_with(env, machine, observe, failed, Hooks::none())
    }

    fn start_with<M: StateMachine<Outcome = T>>(
        env: &Env,
        machine: M,
        observe: Observe,
        failed: Box<dyn FnOnce(Failed) + Send>,
        hooks: Hooks,
    ) -> (Group<T>, Task) {
        let (queue, messages) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared { local_reads: AtomicBool::new(false) });
        let shared_too = Arc::clone(&shared);
        let sequencer =
            Sequencer { machine, observe, shared: shared_too, hooks, term: Term(0), leading: false, index: 0 };
        let task = env.spawn("sequencer", async move {
            if let Err(failure) = sequencer.run(messages).await {
                failed(failure);
            }
        });
        (Group { queue, shared }, task)
    }

    /// Hands over an entry. `respond` is called exactly once, unless the group has stopped: then it is dropped.
    pub fn propose(&self, term: Term, entry: Bytes, respond: Respond<T>) {
        // A stopped group drops the message and with it the responder, which its owner sees.
        let _ = self.queue.send(Message::Propose { term, entry, respond });
    }

    /// Asks that a read be confirmed: everything committed before this call is applied when `confirm` hears `true`.
    pub fn confirm_read(&self, confirm: Confirm) {
        let _ = self.queue.send(Message::Confirm(confirm));
    }

    /// Whether a read of the applied state speaks for the group without asking anybody.
    #[must_use]
    pub fn local_reads(&self) -> bool {
        self.shared.local_reads.load(Ordering::Acquire)
    }
}

struct Sequencer<M> {
    machine: M,
    observe: Observe,
    shared: Arc<Shared>,
    hooks: Hooks,
    term: Term,
    leading: bool,
    index: u64,
}

impl<M: StateMachine> Sequencer<M> {
    async fn run(mut self, mut messages: mpsc::UnboundedReceiver<Message<M::Outcome>>) -> Result<(), Failed> {
        self.begin_term();
        let mut taken = Vec::with_capacity(TAKE_MAX);
        let mut held = Vec::new();
        while messages.recv_many(&mut taken, TAKE_MAX).await > 0 {
            for message in taken.drain(..) {
                self.message(message, &mut held)?;
            }
        }
        self.shared.local_reads.store(false, Ordering::Release);
        Ok(())
    }

    /// A term begins: its first entry, which carries nothing, counts as applied at once.
    fn begin_term(&mut self) {
        self.term = Term(self.term.0 + 1);
        self.leading = true;
        self.index += 1;
        self.shared.local_reads.store(self.hooks.local_reads(), Ordering::Release);
        let applied = self.machine.applied_version();
        (self.observe)(Leadership { term: self.term, ready: true, applied });
    }

    fn log_id(&self) -> LogId {
        LogId { term: self.term, leader: NodeId(1), index: self.index }
    }

    fn message(&mut self, message: Message<M::Outcome>, held: &mut Vec<Message<M::Outcome>>) -> Result<(), Failed> {
        self.faults(held)?;
        if self.hooks.holds() {
            held.push(message);
            self.hooks.note_held(held.len());
            return Ok(());
        }
        self.carry_out(message)
    }

    fn carry_out(&mut self, message: Message<M::Outcome>) -> Result<(), Failed> {
        match message {
            Message::Propose { term, .. } if term != self.term || !self.leading => self.refuse(message),
            Message::Propose { .. } if self.hooks.refuses() => self.refuse(message),
            Message::Propose { entry, respond, .. } => {
                self.index += 1;
                let outcome = self.machine.apply(self.log_id(), &entry).inspect_err(|_| {
                    self.shared.local_reads.store(false, Ordering::Release);
                })?;
                respond(Fate::Applied(outcome));
            }
            // Who does not lead does not know what was committed.
            Message::Confirm(confirm) => confirm(self.leading),
            #[cfg(feature = "testing")]
            Message::Wake => {}
        }
        Ok(())
    }

    fn refuse(&self, message: Message<M::Outcome>) {
        if let Message::Propose { respond, .. } = message {
            respond(Fate::Refused);
        }
    }
}

#[cfg(not(feature = "testing"))]
struct Hooks;

#[cfg(not(feature = "testing"))]
impl Hooks {
    fn none() -> Hooks {
        Hooks
    }
    fn local_reads(&self) -> bool {
        true
    }
    fn holds(&self) -> bool {
        false
    }
    fn refuses(&self) -> bool {
        false
    }
    fn note_held(&self, _count: usize) {}
}

#[cfg(not(feature = "testing"))]
impl<M: StateMachine> Sequencer<M> {
    #[expect(clippy::unused_self, clippy::unnecessary_wraps, reason = "the same shape as under test")]
    fn faults(&mut self, _held: &mut Vec<Message<M::Outcome>>) -> Result<(), Failed> {
        Ok(())
    }
}

#[cfg(feature = "testing")]
pub use testing::Faults;
#[cfg(feature = "testing")]
use testing::Hooks;

#[cfg(feature = "testing")]
mod testing {
    //! Bad days by command.

    use super::{
        Arc, Confirm, Env, Failed, Fate, Group, Leadership, Message, Mutex, Observe, Ordering, Sequencer, StateMachine,
        Task,
    };
    use crate::types::Term;

    /// What the sequencer consults. Without a [`Faults`] handle it says what a good day does.
    pub(super) struct Hooks(Option<Arc<Mutex<Script>>>);

    #[derive(Default)]
    struct Script {
        refuse: Vec<bool>,
        hold: bool,
        command: Option<Command>,
        remote_reads: bool,
        held: usize,
    }

    enum Command {
        /// Give up leadership: what is held is lost; `applied_first` of it are applied all the same.
        NewTerm {
            applied_first: usize,
        },
        StepDown,
    }

    /// Makes a group behave as a real one does on a bad day.
    pub struct Faults {
        script: Arc<Mutex<Script>>,
        wake: Box<dyn Fn() + Send + Sync>,
    }

    impl Faults {
        /// Refuses proposals by pattern: the first `true` refuses the next proposal, and so on. What follows is taken.
        pub fn refuse(&self, pattern: &[bool]) {
            self.script.lock().refuse = pattern.iter().rev().copied().collect();
        }

        /// Takes proposals and read confirmations without carrying them out, until [`Faults::release`].
        pub fn hold(&self) {
            self.script.lock().hold = true;
        }

        /// How many proposals and read confirmations are held now.
        #[must_use]
        pub fn held(&self) -> usize {
            self.script.lock().held
        }

        /// Carries out what is held, in order, and goes on.
        pub fn release(&self) {
            self.script.lock().hold = false;
            (self.wake)();
        }

        /// The term ends and this node leads the next one. Of what is held the first `applied` proposals are applied;
        /// every held proposal is answered as lost.
        pub fn new_term(&self, applied: usize) {
            self.script.lock().command = Some(Command::NewTerm { applied_first: applied });
            (self.wake)();
        }

        /// This node stops leading: nothing is taken until [`Faults::new_term`].
        pub fn step_down(&self) {
            self.script.lock().command = Some(Command::StepDown);
            (self.wake)();
        }
    }

    impl Hooks {
        pub(super) fn none() -> Hooks {
            Hooks(None)
        }

        pub(super) fn local_reads(&self) -> bool {
            self.0.as_ref().is_none_or(|script| !script.lock().remote_reads)
        }

        pub(super) fn holds(&self) -> bool {
            self.0.as_ref().is_some_and(|script| script.lock().hold)
        }

        pub(super) fn refuses(&self) -> bool {
            self.0.as_ref().is_some_and(|script| script.lock().refuse.pop().unwrap_or(false))
        }
    }

    impl Hooks {
        pub(super) fn note_held(&self, count: usize) {
            if let Some(script) = &self.0 {
                script.lock().held = count;
            }
        }
    }

    impl<T: Send + 'static> Group<T> {
        /// Starts a group of one that [`Faults`] command. With `remote_reads` no read is local: each must be confirmed,
        /// as in a group of several.
        pub fn start_faulty<M: StateMachine<Outcome = T>>(
            env: &Env,
            machine: M,
            observe: Observe,
            failed: Box<dyn FnOnce(Failed) + Send>,
            remote_reads: bool,
        ) -> (Group<T>, Task, Faults) {
            let script = Arc::new(Mutex::new(Script { remote_reads, ..Script::default() }));
            let (group, task) = Group::start_with(env, machine, observe, failed, Hooks(Some(Arc::clone(&script))));
            let queue = group.queue.clone();
            let wake = Box::new(move || drop(queue.send(Message::Wake)));
            (group, task, Faults { script, wake })
        }
    }

    impl<M: StateMachine> Sequencer<M> {
        /// Carries out what was commanded, and what is no longer held.
        pub(super) fn faults(&mut self, held: &mut Vec<Message<M::Outcome>>) -> Result<(), Failed> {
            let Some(script) = &self.hooks.0 else { return Ok(()) };
            let command = script.lock().command.take();
            match command {
                Some(Command::NewTerm { applied_first }) => {
                    self.lose(held, applied_first)?;
                    self.begin_term();
                }
                Some(Command::StepDown) => {
                    self.lose(held, 0)?;
                    self.shared.local_reads.store(false, Ordering::Release);
                    self.term = Term(self.term.0 + 1);
                    self.leading = false;
                    let applied = self.machine.applied_version();
                    (self.observe)(Leadership { term: self.term, ready: false, applied });
                }
                None => {}
            }
            if !self.hooks.holds() {
                for message in held.drain(..) {
                    self.carry_out(message)?;
                }
                self.hooks.note_held(0);
            }
            Ok(())
        }

        fn lose(&mut self, held: &mut Vec<Message<M::Outcome>>, mut applied_first: usize) -> Result<(), Failed> {
            for message in held.drain(..) {
                match message {
                    Message::Propose { term, entry, respond } => {
                        if applied_first > 0 && term == self.term {
                            applied_first -= 1;
                            self.index += 1;
                            self.machine.apply(self.log_id(), &entry)?;
                        }
                        respond(Fate::Lost);
                    }
                    Message::Confirm(confirm) => reject(confirm),
                    Message::Wake => {}
                }
            }
            if let Some(script) = &self.hooks.0 {
                script.lock().hold = false;
            }
            Ok(())
        }
    }

    fn reject(confirm: Confirm) {
        confirm(false);
    }
}

//! A group of one that misbehaves on command, for tests: it refuses one proposal and takes the next, holds proposals and
//! loses them, changes its term. On a good day it takes everything in order and applies it at once.

use super::{
    Confirm, Failed, Fate, Group, Leadership, Observe, StateMachine, Stopped,
    group::{Message, Queue},
    store::Reads,
};
use crate::types::{LogId, NodeId, Term};
use parking_lot::Mutex;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

/// How many messages the task takes from its queue at once.
const TAKE_MAX: usize = 64;
/// The only member.
const NODE: NodeId = NodeId(1);

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
    queue: Queue,
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
        self.queue.send(Message::Wake);
    }

    /// The term ends and this node leads the next one. Of what is held the first `applied` proposals are applied;
    /// every held proposal is answered as lost.
    pub fn new_term(&self, applied: usize) {
        self.script.lock().command = Some(Command::NewTerm { applied_first: applied });
        self.queue.send(Message::Wake);
    }

    /// This node stops leading: nothing is taken until [`Faults::new_term`].
    pub fn step_down(&self) {
        self.script.lock().command = Some(Command::StepDown);
        self.queue.send(Message::Wake);
    }
}

impl Group {
    /// Prepares a group of one that [`Faults`] command, and the future that drives it. With `remote_reads` no read is
    /// local: each must be confirmed, as in a group of several.
    pub fn start_faulty<M: StateMachine>(
        machine: M,
        observe: Observe,
        stopped: Stopped,
        remote_reads: bool,
    ) -> (Group, impl Future<Output = ()> + Send + 'static, Faults) {
        let (queue, messages) = Queue::new();
        let script = Arc::new(Mutex::new(Script { remote_reads, ..Script::default() }));
        let reads = Arc::new(Reads::new(NODE));
        let sequencer = Sequencer {
            machine,
            observe,
            reads: Arc::clone(&reads),
            script: Arc::clone(&script),
            held: Vec::new(),
            term: Term(0),
            leading: false,
            index: 0,
        };
        let drive = async move {
            if let Err(failed) = sequencer.run(messages).await {
                stopped(failed);
            }
        };
        (Group::new(queue.clone(), reads), drive, Faults { script, queue })
    }
}

struct Sequencer<M> {
    machine: M,
    observe: Observe,
    reads: Arc<Reads>,
    script: Arc<Mutex<Script>>,
    /// Proposals and confirmations that wait.
    held: Vec<Message>,
    term: Term,
    leading: bool,
    index: u64,
}

impl<M: StateMachine> Sequencer<M> {
    async fn run(mut self, mut messages: mpsc::UnboundedReceiver<Message>) -> Result<(), Failed> {
        self.begin_term();
        let mut taken = Vec::with_capacity(TAKE_MAX);
        let mut stop: Option<oneshot::Sender<()>> = None;
        while stop.is_none() && messages.recv_many(&mut taken, TAKE_MAX).await > 0 {
            for message in taken.drain(..) {
                match message {
                    Message::Stop(sender) => stop = Some(sender),
                    Message::Failed(failed) => {
                        self.reads.end();
                        return Err(failed);
                    }
                    message => self.message(message).inspect_err(|_| self.reads.end())?,
                }
            }
        }
        self.reads.end();
        let _ = stop.map(|stop| stop.send(()));
        Ok(())
    }

    /// A term begins: its first entry, which carries nothing, counts as applied at once.
    fn begin_term(&mut self) {
        self.term = Term(self.term.0 + 1);
        self.leading = true;
        self.index += 1;
        self.reads.assume(!self.script.lock().remote_reads);
        let applied = self.machine.applied().version;
        (self.observe)(Leadership { term: self.term, ready: true, applied });
    }

    fn message(&mut self, message: Message) -> Result<(), Failed> {
        let command = self.script.lock().command.take();
        match command {
            Some(Command::NewTerm { applied_first }) => {
                self.lose(applied_first)?;
                self.begin_term();
            }
            Some(Command::StepDown) => {
                self.lose(0)?;
                self.reads.assume(false);
                self.term = Term(self.term.0 + 1);
                self.leading = false;
                let applied = self.machine.applied().version;
                (self.observe)(Leadership { term: self.term, ready: false, applied });
            }
            None => {}
        }
        let holds = self.script.lock().hold;
        if holds {
            self.held.push(message);
        } else {
            for message in std::mem::take(&mut self.held).into_iter().chain([message]) {
                self.carry_out(message)?;
            }
        }
        self.script.lock().held = self.held.len();
        Ok(())
    }

    fn carry_out(&mut self, message: Message) -> Result<(), Failed> {
        match message {
            Message::Propose { term, entry, respond } => {
                let refused = term != self.term || !self.leading || self.script.lock().refuse.pop().unwrap_or(false);
                if refused {
                    respond(Fate::Refused);
                } else {
                    self.index += 1;
                    respond(Fate::Applied(self.machine.apply(self.log_id(), &entry)?));
                }
            }
            // Who does not lead does not know what was committed.
            Message::Confirm(confirm) => confirm(self.leading),
            _ => {}
        }
        Ok(())
    }

    /// What is held is lost; the first `applied_first` proposals of it are applied all the same.
    fn lose(&mut self, mut applied_first: usize) -> Result<(), Failed> {
        for message in std::mem::take(&mut self.held) {
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
                _ => {}
            }
        }
        self.script.lock().hold = false;
        Ok(())
    }

    fn log_id(&self) -> LogId {
        LogId { term: self.term, leader: NODE, index: self.index }
    }
}

fn reject(confirm: Confirm) {
    confirm(false);
}

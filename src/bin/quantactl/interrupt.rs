//! Ctrl-C and SIGTERM during long work: the first asks for a clean stop, which may take so long; then, or at the second,
//! the process ends.

use crate::failure::Exit;
use std::time::Duration;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
    time::timeout,
};

/// How long a clean stop may take.
const STOP_MAX: Duration = Duration::from_secs(15);

/// Whether a stop was asked for.
#[derive(Clone)]
pub struct Interrupt(watch::Receiver<bool>);

impl Interrupt {
    /// Begins to listen.
    pub fn listen() -> Interrupt {
        let (sender, receiver) = watch::channel(false);
        tokio::spawn(async move {
            heard().await;
            let _ = sender.send(true);
            let _ = timeout(STOP_MAX, heard()).await;
            std::process::exit(Exit::Interrupted as i32);
        });
        Interrupt(receiver)
    }

    /// Whether a stop was asked for.
    pub fn is_set(&self) -> bool {
        *self.0.borrow()
    }

    /// Completes when a stop is asked for.
    pub async fn set(&mut self) {
        if self.0.wait_for(|asked| *asked).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Completes at either signal; never, if they cannot be heard: then they end the process as they always do.
async fn heard() {
    let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}

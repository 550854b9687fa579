//! Whether clients are let in at the moment. While they are not, they wait in the queues of the listeners.

use tokio::sync::watch;

/// Open until it is closed, and again after it is opened.
#[derive(Debug)]
pub struct Intake {
    is_open: watch::Sender<bool>,
}

impl Default for Intake {
    fn default() -> Self {
        Self { is_open: watch::Sender::new(true) }
    }
}

impl Intake {
    /// Nobody is let in from now on.
    pub fn close(&self) {
        self.is_open.send_replace(false);
    }

    /// All are let in again.
    pub fn open(&self) {
        self.is_open.send_replace(true);
    }

    /// Waits until it is open.
    pub async fn opened(&self) {
        // The sender lives as long as self.
        let _ = self.is_open.subscribe().wait_for(|&is_open| is_open).await;
    }

    /// Waits until it is closed.
    pub async fn closed(&self) {
        let _ = self.is_open.subscribe().wait_for(|&is_open| !is_open).await;
    }
}

//! Whether clients are let in at the moment. While they are not, they wait in the queues of the listeners.

use std::sync::Arc;

use tokio::sync::watch;

/// Open as long as nobody holds a [`Closure`] of it: a planned move and an online restart may each hold one, and neither lets
/// in whom the other keeps out.
#[derive(Debug)]
pub struct Intake {
    closures: Arc<watch::Sender<u32>>,
}

/// Nobody is let in until this is dropped.
#[derive(Debug)]
#[must_use]
pub struct Closure(Arc<watch::Sender<u32>>);

impl Default for Intake {
    fn default() -> Self {
        Self { closures: Arc::new(watch::Sender::new(0)) }
    }
}

impl Intake {
    /// Nobody is let in from now on.
    pub fn close(&self) -> Closure {
        self.closures.send_modify(|closures| *closures += 1);
        Closure(Arc::clone(&self.closures))
    }

    /// Waits until it is open.
    pub async fn opened(&self) {
        // The sender lives as long as self.
        let _ = self.closures.subscribe().wait_for(|&closures| closures == 0).await;
    }

    /// Waits until it is closed.
    pub async fn closed(&self) {
        let _ = self.closures.subscribe().wait_for(|&closures| closures > 0).await;
    }
}

impl Closure {
    /// It is not opened again: the listeners have another owner.
    pub fn for_good(self) {
        std::mem::forget(self);
    }
}

impl Drop for Closure {
    fn drop(&mut self) {
        self.0.send_modify(|closures| *closures -= 1);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn is_open(intake: &Intake) -> bool {
        let is_open = intake.opened().now_or_never().is_some();
        assert_eq!(intake.closed().now_or_never().is_none(), is_open);
        is_open
    }

    #[test]
    fn opens_when_the_last_closure_is_gone() {
        let intake = Intake::default();
        assert!(is_open(&intake));
        let (planned_move, online_restart) = (intake.close(), intake.close());
        drop(planned_move);
        assert!(!is_open(&intake));
        drop(online_restart);
        assert!(is_open(&intake));
    }

    #[tokio::test]
    async fn those_who_wait_are_woken() {
        let intake = Intake::default();
        let closure = intake.close();
        let ((), ()) = tokio::join!(intake.opened(), async { drop(closure) });
        let mut closed = Box::pin(intake.closed());
        assert!(closed.as_mut().now_or_never().is_none());
        let _closure = intake.close();
        closed.await;
    }

    #[test]
    fn stays_closed_for_good() {
        let intake = Intake::default();
        intake.close().for_good();
        drop(intake.close());
        assert!(!is_open(&intake));
    }
}

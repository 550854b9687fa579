//! A timer that is armed at most once per timeout, not once per query: a deadline that moves away is only compared with, and
//! looked at again when the timer fires.

use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::time::{Sleep, sleep_until};

use crate::clock::Time;

/// See above. Costs nothing while no deadline was ever set.
#[derive(Debug, Default)]
pub struct LazyTimer {
    sleep: Option<Pin<Box<Sleep>>>,
    armed: Option<Time>,
}

impl LazyTimer {
    /// Ready once `due` has come; otherwise `cx` is woken in time.
    pub fn poll(&mut self, cx: &mut Context<'_>, due: Time) -> Poll<()> {
        if due == Time::NEVER {
            return Poll::Pending;
        }
        loop {
            if self.armed.is_none_or(|armed| due < armed) {
                let at = due.instant().into();
                match &mut self.sleep {
                    Some(sleep) => sleep.as_mut().reset(at),
                    None => self.sleep = Some(Box::pin(sleep_until(at))),
                }
                self.armed = Some(due);
            }
            let Some(sleep) = &mut self.sleep else { return Poll::Pending };
            if sleep.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            self.armed = None;
            if Time::now() >= due {
                return Poll::Ready(());
            }
        }
    }
}

//! The address helper as this process reaches it: by a descriptor that it was started with or that a former process has left,
//! or by a path where one waits; with a path a helper that has gone is called again.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::clock::Time;
use crate::daemon::helper::client::HelperClient;
use crate::daemon::helper::menu::{Event, PROTOCOL, Request};
use crate::session::io::shared::lock;

/// How often a helper that is not there is called.
const CALL_EVERY: Duration = Duration::from_millis(100);

/// A thread that has slept for so long cannot say for how long the helper has not answered.
const STALL: Duration = Duration::from_millis(250);

/// How long it may be away, or leave a request unanswered, while this node goes on as if it were there: its addresses live for two seconds without it, and the
/// service manager starts it again within a fraction of that.
const ABSENCE_MAX: Duration = Duration::from_secs(1);

const NOT_YET: &str = "not reached yet";

/// Where a helper comes from.
#[derive(Debug)]
pub(crate) struct Source {
    /// It is at the other end of this descriptor.
    pub(crate) channel: Option<OwnedFd>,
    /// It waits here, or the next one does. `None`: no other one can be had.
    pub(crate) path: Option<PathBuf>,
}

/// The helper.
#[derive(Debug)]
pub(super) struct Holder {
    client: Option<HelperClient>,
    path: Option<PathBuf>,
    fingerprint: [u8; 32],
    call_at: Time,
    gone_since: Option<Time>,
    /// Since when a lease that was asked for has not been granted: it may be stopped or stuck.
    unanswered_since: Option<Time>,
    examined_at: Time,
    trouble: String,
    /// It is not the one that this process began with.
    is_another: bool,
    /// That it is not reached was said.
    said: bool,
    /// A second descriptor of the channel, for a successor.
    duplicate: Arc<Mutex<Option<Arc<OwnedFd>>>>,
}

impl Holder {
    /// Reaches it, or begins to try.
    pub(super) fn new(
        now: Time,
        source: Source,
        fingerprint: [u8; 32],
        duplicate: Arc<Mutex<Option<Arc<OwnedFd>>>>,
    ) -> Self {
        let mut holder = Self {
            client: None,
            path: source.path,
            fingerprint,
            call_at: now,
            gone_since: Some(now),
            unanswered_since: None,
            examined_at: now,
            trouble: NOT_YET.to_owned(),
            is_another: source.channel.is_none(),
            said: false,
            duplicate,
        };
        match source.channel {
            Some(channel) => holder.adopt(now, HelperClient::from_fd(channel)),
            None => holder.call(now),
        }
        holder
    }

    fn adopt(&mut self, now: Time, client: io::Result<HelperClient>) {
        match client {
            Ok(client) => {
                *lock(&self.duplicate) = client.fd().try_clone_to_owned().ok().map(Arc::new);
                self.client = Some(client);
                self.trouble = "it has not answered yet".to_owned();
                self.ask(&Request::Hello { protocol: PROTOCOL, fingerprint: self.fingerprint });
            }
            Err(error) => self.lost(now, &error.to_string()),
        }
    }

    /// Calls a helper that is not there, if it is time.
    pub(super) fn call(&mut self, now: Time) {
        if self.client.is_none()
            && now >= self.call_at
            && let Some(path) = self.path.clone()
        {
            self.call_at = now + CALL_EVERY;
            let called = HelperClient::connect(&path);
            if let Err(error) = &called
                && !std::mem::replace(&mut self.said, true)
            {
                tracing::warn!(
                    "the address helper is not reached at {}: {error} (setting helper_socket; systemctl status \
                     pgtandem-helper.socket); until it is, this node holds no floating address",
                    path.display()
                );
            }
            self.adopt(now, called);
        }
    }

    /// When it is to be called.
    pub(super) fn deadline(&self) -> Option<Time> {
        (self.client.is_none() && self.path.is_some()).then_some(self.call_at)
    }

    /// To be waited for.
    pub(super) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.client.as_ref().map(HelperClient::fd)
    }

    /// Is it there, and does it answer?
    pub(super) fn is_there(&self) -> bool {
        self.client.is_some() && self.gone_since.is_none()
    }

    /// It is another one than a former process had, and knows nothing of that.
    pub(super) fn is_another(&self) -> bool {
        self.is_another
    }

    /// Why it does not hold addresses for us, if it has been away for too long or will not.
    pub(super) fn trouble(&mut self, now: Time) -> Option<String> {
        let stalled = now.since(std::mem::replace(&mut self.examined_at, now)) > STALL;
        if let Some(since) = self.unanswered_since.as_mut().filter(|_| stalled) {
            *since = now;
        }
        let absent = |since: Time| now.since(since) >= ABSENCE_MAX;
        let is_gone = self.gone_since.is_some_and(|since| self.path.is_none() || absent(since));
        if !is_gone && !self.unanswered_since.is_some_and(absent) {
            return None;
        }
        let trouble = if is_gone { &self.trouble } else { "it does not answer, it is stopped or stuck" };
        let place = self.path.as_ref().map(|path| format!(" at {}", path.display())).unwrap_or_default();
        let remedy = match &self.path {
            Some(_) => "systemctl status pgtandem-helper.socket pgtandem-helper.service",
            None if trouble == NOT_YET => "helper_socket is empty, and pgtandem was not started as root",
            None => "it was started with this process: restart pgtandem",
        };
        Some(format!("the address helper{place}: {trouble} ({remedy})"))
    }

    /// Asks for something. What a helper that is gone is asked for is nothing to it: it hears everything anew.
    pub(super) fn ask(&mut self, request: &Request) {
        let Some(client) = &self.client else { return };
        if matches!(request, Request::Renew { .. }) {
            self.unanswered_since.get_or_insert(Time::now());
        }
        if let Err(error) = client.send(request) {
            tracing::warn!("the address helper does not take a request: {error}");
            self.lost(Time::now(), &error.to_string());
        }
    }

    /// It works for us: a socket that takes a call is no sign of that, as the service manager's does so for one that cannot start.
    pub(super) fn welcomed(&mut self) {
        (self.gone_since, self.said) = (None, false);
        self.trouble.clear();
    }

    /// It has granted a lease: it works.
    pub(super) fn renewed(&mut self) {
        self.unanswered_since = None;
    }

    /// What it has said next.
    pub(super) fn hear(&mut self, now: Time) -> Option<(Event, Vec<OwnedFd>)> {
        match self.client.as_mut()?.receive() {
            Ok(heard) => heard,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                self.lost(now, "it has ended");
                None
            }
            Err(error) => {
                self.lost(now, &error.to_string());
                None
            }
        }
    }

    /// It will not, for this reason.
    pub(super) fn refused(&mut self, now: Time, reason: &str) {
        tracing::error!("the address helper refuses: {reason}");
        self.lost(now, &format!("it refuses: {reason}"));
    }

    fn lost(&mut self, now: Time, why: &str) {
        lock(&self.duplicate).take();
        self.unanswered_since = None;
        if self.client.take().is_some() {
            tracing::error!("the address helper is gone: {why}");
        }
        why.clone_into(&mut self.trouble);
        self.gone_since.get_or_insert(now);
        // The first one may have been replaced, and then the next one waits already.
        if std::mem::replace(&mut self.is_another, true) {
            self.call_at = self.call_at.max(now + CALL_EVERY);
        }
    }

    /// New configuration. One that is the same to the helper is not mentioned.
    pub(super) fn reread(&mut self, fingerprint: [u8; 32]) {
        if self.fingerprint != fingerprint {
            self.fingerprint = fingerprint;
            self.ask(&Request::Reread { fingerprint });
        }
    }
}

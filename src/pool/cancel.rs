//! Cancel requests: they travel on connections of their own, and a server is given to nobody while one is on its way to it,
//! lest it hits the next client's statement.

use super::Action;
use super::action::reason;
use super::registry::Registry;
use super::state::{Place, Request};
use crate::clock::Time;
use crate::ids::{ClientId, ServerId};

impl Registry {
    /// A cancel request for what runs on `target`. It is carried as soon as fewer than `pool_size` others are
    /// ([`Action::OpenCancel`]); if the server is released before that, it is dropped ([`Action::DropCancel`]).
    ///
    /// False if no client holds the server: too late, nothing will follow.
    #[must_use]
    pub fn cancel(&mut self, now: Time, request: ClientId, target: ServerId, out: &mut Vec<Action>) -> bool {
        let Some(&t) = self.server_slots.get(&target) else { return false };
        let held = self.servers[t].client.is_some() && self.servers[t].place == Place::Active;
        if !held || self.servers[t].moving || self.requests.contains_key(&request) {
            return false;
        }
        let p = self.servers[t].pool;
        self.servers[t].cancels += 1;
        self.requests.insert(request, Request { pool: p, target: Some(t), carrier: None, sent: false });
        self.pools[p].cancel_queue.push_back(request);
        self.carry(now, p, out);
        true
    }

    /// As [`Self::cancel`], but only if `owner` is the client that holds the server: by the time a request arrives the server
    /// may be somebody else's.
    #[must_use]
    pub fn cancel_of(
        &mut self,
        now: Time,
        request: ClientId,
        owner: ClientId,
        target: ServerId,
        out: &mut Vec<Action>,
    ) -> bool {
        let held = self.server_slots.get(&target).and_then(|&t| self.servers[t].client);
        held == Some(owner) && self.cancel(now, request, target, out)
    }

    /// `cancel_wait_timeout`: the request is given up if it has not been sent. What was sent cannot be called back, and its
    /// target stays held until it is over.
    pub fn cancel_given_up(&mut self, now: Time, request: ClientId, out: &mut Vec<Action>) {
        if self.requests.get(&request).is_some_and(|request| !request.sent) {
            self.cancel_done(now, request, out);
        }
    }

    /// The connection for this request is up. True: send the key now. False: it is too late, call [`Self::cancel_done`].
    #[must_use]
    pub fn cancel_connected(&mut self, request: ClientId) -> bool {
        let Some(Request { target: Some(t), carrier: Some(c), sent, .. }) = self.requests.get_mut(&request) else {
            return false;
        };
        let (t, c) = (*t, *c);
        if !std::mem::replace(sent, true) {
            self.servers[t].cancels_sent += 1;
            self.move_to(c, Place::ActiveCancel);
        }
        true
    }

    /// The request is over: the server has closed the connection that carried it, or could not be reached, or the
    /// client or `cancel_wait_timeout` gave it up. Its target is free again if nothing else is on its way to it.
    pub fn cancel_done(&mut self, now: Time, request: ClientId, out: &mut Vec<Action>) {
        let Some(Request { pool: p, target, carrier, sent }) = self.requests.remove(&request) else { return };
        match carrier {
            Some(c) => self.forget(now, c, out),
            None => self.pools[p].cancel_queue.retain(|&other| other != request),
        }
        if let Some(t) = target {
            let d = self.pools[p].database;
            let before = self.load(d);
            self.servers[t].cancels -= 1;
            self.servers[t].cancels_sent -= u32::from(sent);
            if self.servers[t].place == Place::BeingCanceled && self.servers[t].cancels_sent == 0 {
                self.settle(now, t, out);
            }
            self.announce(d, before, out);
        }
        self.carry(now, p, out);
    }

    /// Opens connections for queued requests, as many at a time as the pool has servers at most.
    fn carry(&mut self, now: Time, p: u32, out: &mut Vec<Action>) {
        let size = self.pools[p].params.pool_size;
        while size == 0 || self.pools[p].carriers() < size {
            let Some(request) = self.pools[p].cancel_queue.pop_front() else { break };
            let Some(Request { target: Some(t), .. }) = self.requests.get(&request) else { continue };
            let target = self.servers[*t].id;
            let (c, server) = self.add_server(now, p, Place::CancelLogin);
            self.servers[c].client = Some(request);
            if let Some(entry) = self.requests.get_mut(&request) {
                entry.carrier = Some(c);
            }
            out.push(Action::OpenCancel { server, pool: self.pools[p].id, request, target });
        }
    }

    /// The server is released or goes: requests that were not sent to it must not be. With `sent_too`, those that were
    /// are no longer its concern.
    pub(super) fn detach_cancels(&mut self, t: u32, sent_too: bool, out: &mut Vec<Action>) {
        let p = self.servers[t].pool;
        let mut queued = Vec::new();
        for (&client, request) in &mut self.requests {
            if request.target != Some(t) || (request.sent && !sent_too) {
                continue;
            }
            request.target = None;
            self.servers[t].cancels -= 1;
            self.servers[t].cancels_sent -= u32::from(request.sent);
            if request.carrier.is_none() {
                queued.push(client);
            }
        }
        for request in queued {
            self.requests.remove(&request);
            self.pools[p].cancel_queue.retain(|&other| other != request);
            out.push(Action::DropCancel { request, reason: reason::CANCEL_LATE });
        }
    }

    /// The pool goes, and its requests with it.
    pub(super) fn drop_cancels(&mut self, now: Time, p: u32, out: &mut Vec<Action>) {
        let of_pool: Vec<ClientId> =
            self.requests.iter().filter(|(_, request)| request.pool == p).map(|(&client, _)| client).collect();
        for client in of_pool {
            let Some(Request { target, carrier, sent, .. }) = self.requests.remove(&client) else { continue };
            if let Some(t) = target {
                self.servers[t].cancels -= 1;
                self.servers[t].cancels_sent -= u32::from(sent);
            }
            if let Some(c) = carrier {
                self.close(now, c, reason::REMOVED, out);
            }
            out.push(Action::DropCancel { request: client, reason: reason::REMOVED });
        }
        self.pools[p].cancel_queue.clear();
    }
}

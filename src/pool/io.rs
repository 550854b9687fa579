//! The driver of the pools: the one lock around [`Registry`], the idle servers themselves, and a mailbox for every client.
//! What a server is, how one is opened and what a client does with it is the business of `S` and of [`Host`].

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Wake, Waker};

use rustc_hash::FxHashMap;
use tokio::sync::{Notify, mpsc};

use super::{
    Action, Checkout, DatabaseId, Failure, Fate, GlobalParams, Ids, PoolEnd, Registry, Standing, UserId, Welcome,
};
use crate::clock::Time;
use crate::fault::Fault;
use crate::ids::{ClientId, PoolId, ServerId};

/// What the pool must be able to do with a server that it holds.
pub trait Idle: Send + 'static {
    /// Its id.
    fn id(&self) -> ServerId;

    /// Takes in what the server sent unasked (new parameter values, notices) and arms `cx` for more.
    ///
    /// # Errors
    /// The reason why the server must be closed.
    fn attend(&mut self, cx: &mut Context<'_>) -> Result<(), &'static str>;

    /// A place for the waker that the pool gives the server, so that one is made per server and not per release.
    fn idle_waker(&mut self) -> &mut Option<Waker>;
}

/// Who performs what is not about handing servers out. Called without the lock.
pub trait Host<S>: Send + Sync + 'static {
    /// Connect and log in, then [`Pools::ready`] or [`Pools::failed`].
    fn open(&self, server: ServerId, pool: PoolId);
    /// The same for a server that is to be this client's alone.
    fn open_own(&self, server: ServerId, pool: PoolId, client: ClientId);
    /// Carry a cancel request to the server `target`; then tell the registry `cancel_done`.
    fn open_cancel(&self, carrier: ServerId, pool: PoolId, request: ClientId, target: ServerId);
    /// The cancel request is not needed any more.
    fn drop_cancel(&self, request: ClientId, reason: &'static str);
    /// Say goodbye to a server.
    fn close(&self, server: Box<S>, reason: &'static str);
    /// A server that is not in the pool's hands (being opened, or held by a client) is not wanted any more.
    fn abandon(&self, server: ServerId, reason: &'static str);
    /// The server that this client holds is to be closed as soon as that is decent.
    fn close_needed(&self, server: ServerId, client: Option<ClientId>);
    /// A server of the reserve is about to be opened for this client.
    fn reserve_used(&self, pool: PoolId, client: ClientId);
    /// The pool is forgotten.
    fn pool_gone(&self, pool: PoolId, database: DatabaseId, user: UserId, why: PoolEnd);
}

/// What a client finds in its mailbox.
#[derive(Debug)]
pub enum Message<S> {
    /// Its server.
    Grant {
        /// The server.
        server: Box<S>,
        /// Run the check query first.
        needs_check: bool,
        /// When the wait began.
        waited_since: Time,
    },
    /// The parameters of the pool's servers are known now.
    Welcome,
    /// No server; the session ends.
    Refuse(Fault),
}

/// Where the pool reaches one client: a single letter at a time, and the client's task to be woken.
#[derive(Debug)]
pub struct Mailbox<S> {
    letter: Mutex<Option<Message<S>>>,
    waker: OnceLock<Waker>,
}

impl<S> Default for Mailbox<S> {
    fn default() -> Self {
        Self { letter: Mutex::new(None), waker: OnceLock::new() }
    }
}

impl<S> Mailbox<S> {
    /// Names the task that reads this mailbox; it stays the same for the client's whole life.
    pub fn bind(&self, waker: &Waker) {
        self.waker.get_or_init(|| waker.clone());
    }

    /// Wakes the client's task.
    pub fn wake(&self) {
        if let Some(waker) = self.waker.get() {
            waker.wake_by_ref();
        }
    }

    /// Takes the letter out.
    pub fn take(&self) -> Option<Message<S>> {
        lock(&self.letter).take()
    }

    /// To be called under the lock of the pools, so that nobody is dismissed between the decision and the letter.
    /// What lay there is given back, to be dropped when the lock is open again: a server that is dropped tells the registry.
    fn put(&self, message: Message<S>) -> Option<Message<S>> {
        lock(&self.letter).replace(message)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic under the lock leaves data behind that every method keeps valid between calls.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The waker of one idle server: something arrived on it, or it is closed.
struct Watch {
    server: ServerId,
    stirred: mpsc::UnboundedSender<ServerId>,
}

impl Wake for Watch {
    fn wake(self: Arc<Self>) {
        // Bounded by the number of idle servers: each is armed once. Nobody listens only when the process ends.
        let _ = self.stirred.send(self.server);
    }
}

/// All pools of the process.
pub struct Pools<S: Idle> {
    state: Mutex<State<S>>,
    host: OnceLock<Arc<dyn Host<S>>>,
    upkeep_due: Notify,
    settled: Notify,
    stirred: mpsc::UnboundedSender<ServerId>,
    stirring: Mutex<Option<mpsc::UnboundedReceiver<ServerId>>>,
}

struct State<S> {
    registry: Registry,
    parked: FxHashMap<ServerId, Box<S>>,
    mailboxes: FxHashMap<ClientId, Arc<Mailbox<S>>>,
    actions: Vec<Action>,
    armed: Time,
}

/// What is done once the lock is open again.
type Errand<S> = Box<dyn FnOnce(&dyn Host<S>) + Send>;

impl<S: Idle> Pools<S> {
    /// No pools yet.
    #[must_use]
    pub fn new(ids: Ids, globals: GlobalParams) -> Arc<Self> {
        let (stirred, stirring) = mpsc::unbounded_channel();
        let state = State {
            registry: Registry::new(ids, globals),
            parked: FxHashMap::default(),
            mailboxes: FxHashMap::default(),
            actions: Vec::new(),
            armed: Time::NEVER,
        };
        Arc::new(Self {
            state: Mutex::new(state),
            host: OnceLock::new(),
            upkeep_due: Notify::new(),
            settled: Notify::new(),
            stirred,
            stirring: Mutex::new(Some(stirring)),
        })
    }

    /// Names who performs the actions. To be called before the first client.
    pub fn set_host(&self, host: Arc<dyn Host<S>>) {
        let _ = self.host.set(host);
    }

    /// Asks or tells the registry something under the lock and performs what follows from it.
    pub fn with<R>(&self, call: impl FnOnce(&mut Registry, Time, &mut Vec<Action>) -> R) -> R {
        let mut state = lock(&self.state);
        let result = state.call(Time::now(), call);
        self.perform(state);
        result
    }

    /// Waits until something that PAUSE, WAIT_CLOSE or SHUTDOWN waits for may have come true. Create the future before
    /// looking, await it afterwards.
    pub fn settled(&self) -> impl Future<Output = ()> + '_ {
        self.settled.notified()
    }

    /// Makes those who wait for [`Self::settled`] look again.
    pub fn nudge(&self) {
        self.settled.notify_waiters();
    }

    /// Makes a client known before it asks for anything.
    pub fn enrol(&self, client: ClientId, mailbox: Arc<Mailbox<S>>) {
        lock(&self.state).mailboxes.insert(client, mailbox);
    }

    /// The client is gone; a server that was on its way to it goes to somebody else.
    pub fn dismiss(&self, client: ClientId) {
        let mut state = lock(&self.state);
        state.registry.leave(client);
        let mailbox = state.mailboxes.remove(&client);
        drop(state);
        if let Some(Message::Grant { server, .. }) = mailbox.and_then(|mailbox| mailbox.take()) {
            self.release(server, Fate::Unused);
        }
    }

    /// Asks for a server; `again_since` when the one granted before did not stand its check.
    pub fn checkout(&self, pool: PoolId, client: ClientId, again_since: Option<Time>) -> (Checkout, Option<Box<S>>) {
        let mut state = lock(&self.state);
        let answer = state.call(Time::now(), |registry, now, out| match again_since {
            Some(since) => registry.checkout_again(now, pool, client, since, out),
            None => registry.checkout(now, pool, client, out),
        });
        let server = match &answer {
            Checkout::Granted { server, .. } => state.parked.remove(server),
            _ => None,
        };
        self.perform(state);
        (answer, server)
    }

    /// Asks for a server that is to be this client's alone.
    pub fn checkout_own(&self, pool: PoolId, client: ClientId) -> Checkout {
        self.with(|registry, now, out| registry.checkout_own(now, pool, client, out))
    }

    /// Asks whether the parameters of the pool's servers are known; if not, a [`Message::Welcome`] will come.
    pub fn await_welcome(&self, pool: PoolId, client: ClientId) -> Welcome {
        self.with(|registry, now, out| registry.await_welcome(now, pool, client, out))
    }

    /// Takes a server back.
    pub fn release(&self, mut server: Box<S>, mut fate: Fate) {
        let id = server.id();
        if !matches!(fate, Fate::Close(_)) {
            // Armed before it can be seen by anybody else, so that no word of the server is missed.
            if let Err(reason) = self.arm(&mut server) {
                fate = Fate::Close(reason);
            }
        }
        match fate {
            Fate::Close(reason) => {
                let known = self.with(|registry, now, out| registry.release(now, id, fate, out));
                let _ = known;
                self.on_host(|host| host.close(server, reason));
            }
            _ => self.take_in(id, server, |registry, now, out| registry.release(now, id, fate, out)),
        }
    }

    /// A server that was to be opened is logged in.
    pub fn ready(&self, mut server: Box<S>) {
        let id = server.id();
        match self.arm(&mut server) {
            Ok(()) => self.take_in(id, server, |registry, now, out| registry.server_ready(now, id, out)),
            Err(reason) => {
                self.failed(id, Failure::Connect(reason.to_owned()));
                self.on_host(|host| host.close(server, reason));
            }
        }
    }

    /// A server that was to be opened could not be.
    pub fn failed(&self, server: ServerId, failure: Failure) {
        self.with(|registry, now, out| registry.server_failed(now, server, failure, out));
    }

    fn arm(&self, server: &mut S) -> Result<(), &'static str> {
        let id = server.id();
        let stirred = || Arc::new(Watch { server: id, stirred: self.stirred.clone() });
        let waker = server.idle_waker().get_or_insert_with(|| stirred().into()).clone();
        server.attend(&mut Context::from_waker(&waker))
    }

    fn take_in(&self, id: ServerId, server: Box<S>, tell: impl FnOnce(&mut Registry, Time, &mut Vec<Action>) -> bool) {
        let mut state = lock(&self.state);
        if state.call(Time::now(), tell) {
            state.parked.insert(id, server);
            self.perform(state);
        } else {
            self.perform(state);
            self.on_host(|host| host.close(server, "server no longer wanted"));
        }
    }

    fn on_host(&self, call: impl FnOnce(&dyn Host<S>)) {
        if let Some(host) = self.host.get() {
            call(&**host);
        }
    }

    /// Performs the actions that were collected, then opens the lock.
    fn perform(&self, mut state: MutexGuard<'_, State<S>>) {
        if state.actions.is_empty() {
            self.set_alarm(&mut state);
            return;
        }
        let mut actions = std::mem::take(&mut state.actions);
        let (mut woken, mut lost) = (Vec::new(), Vec::new());
        let mut errands: Vec<Errand<S>> = Vec::new();
        for action in actions.drain(..) {
            match action {
                Action::Grant { client, server: id, needs_check, waited_since } => {
                    // Both are there: the registry grants only what is parked, to those who are enrolled.
                    let Some(server) = state.parked.remove(&id) else { continue };
                    let letter = Message::Grant { server, needs_check, waited_since };
                    lost.extend(state.post(client, letter, &mut woken));
                }
                Action::Welcome { client, .. } => {
                    lost.extend(state.post(client, Message::Welcome, &mut woken));
                }
                Action::Refuse { client, fault } => {
                    lost.extend(state.post(client, Message::Refuse(fault), &mut woken));
                }
                Action::Settled { .. } => self.settled.notify_waiters(),
                other => errands.push(state.errand(other)),
            }
        }
        state.actions = actions;
        self.set_alarm(&mut state);
        drop(state);
        drop(lost);
        for mailbox in woken {
            mailbox.wake();
        }
        for errand in errands {
            self.on_host(errand);
        }
    }

    fn set_alarm(&self, state: &mut State<S>) {
        let due = state.registry.deadline().unwrap_or(Time::NEVER);
        if due < state.armed {
            state.armed = due;
            self.upkeep_due.notify_one();
        }
    }

    /// Does what falls due (timeouts, minimum sizes, retries) and looks after idle servers, for as long as the process runs.
    pub async fn upkeep(self: Arc<Self>) {
        let Some(mut stirring) = lock(&self.stirring).take() else { return };
        loop {
            let due = {
                let mut state = lock(&self.state);
                state.armed = state.registry.deadline().unwrap_or(Time::NEVER);
                state.armed
            };
            tokio::select! {
                () = tokio::time::sleep_until(due.instant().into()) => {
                    self.with(|registry, now, out| registry.tick(now, out));
                }
                () = self.upkeep_due.notified() => {}
                server = stirring.recv() => {
                    if let Some(server) = server {
                        self.look_after(server);
                    }
                }
            }
        }
    }

    /// Takes the idle servers out, so that nobody touches them while they are being passed on. The registry must be frozen.
    pub fn take_idle(&self) -> Vec<(Standing, Box<S>)> {
        let mut state = lock(&self.state);
        let idle = state.registry.idle_servers();
        idle.into_iter().filter_map(|standing| Some((standing, state.parked.remove(&standing.server)?))).collect()
    }

    /// Puts back what [`Self::take_idle`] took: they are not passed on after all.
    pub fn put_idle(&self, servers: Vec<Box<S>>) {
        for mut server in servers {
            let id = server.id();
            let fit = self.arm(&mut server);
            let mut state = lock(&self.state);
            if fit.is_ok() && state.registry.is_idle(id) {
                state.parked.insert(id, server);
            } else {
                state.call(Time::now(), |registry, now, out| registry.server_gone(now, id, out));
                self.perform(state);
                self.on_host(|host| host.close(server, fit.err().unwrap_or("server no longer wanted")));
            }
        }
    }

    /// Takes over an idle server of a former process. It is closed if its pool is not known.
    pub fn adopt_idle(&self, mut server: Box<S>, standing: &Standing) {
        let fit = self.arm(&mut server);
        let mut state = lock(&self.state);
        if fit.is_ok() && state.call(Time::now(), |registry, now, out| registry.adopt(now, standing, out)) {
            state.parked.insert(standing.server, server);
            self.perform(state);
        } else {
            drop(state);
            self.on_host(|host| host.close(server, fit.err().unwrap_or("server no longer wanted")));
        }
    }

    fn look_after(&self, id: ServerId) {
        let mut state = lock(&self.state);
        let Some(server) = state.parked.get_mut(&id) else { return };
        let Err(reason) = self.arm(server) else { return };
        let gone = state.parked.remove(&id);
        state.call(Time::now(), |registry, now, out| registry.server_gone(now, id, out));
        self.perform(state);
        if let Some(server) = gone {
            self.on_host(|host| host.close(server, reason));
        }
    }
}

impl<S: Idle> State<S> {
    fn call<R>(&mut self, now: Time, call: impl FnOnce(&mut Registry, Time, &mut Vec<Action>) -> R) -> R {
        call(&mut self.registry, now, &mut self.actions)
    }

    /// Puts a letter into a client's mailbox; returns what could not stay.
    fn post(&self, client: ClientId, message: Message<S>, woken: &mut Vec<Arc<Mailbox<S>>>) -> Option<Message<S>> {
        let Some(mailbox) = self.mailboxes.get(&client) else { return Some(message) };
        woken.push(Arc::clone(mailbox));
        mailbox.put(message)
    }

    fn errand(&mut self, action: Action) -> Errand<S> {
        match action {
            Action::Open { server, pool } => Box::new(move |host| host.open(server, pool)),
            Action::OpenOwn { server, pool, client } => Box::new(move |host| host.open_own(server, pool, client)),
            Action::OpenCancel { server, pool, request, target } => {
                Box::new(move |host| host.open_cancel(server, pool, request, target))
            }
            Action::DropCancel { request, reason } => Box::new(move |host| host.drop_cancel(request, reason)),
            Action::Close { server: id, reason } => match self.parked.remove(&id) {
                Some(server) => Box::new(move |host| host.close(server, reason)),
                None => Box::new(move |host| host.abandon(id, reason)),
            },
            Action::CloseNeeded { server, client } => Box::new(move |host| host.close_needed(server, client)),
            Action::LogReserve { pool, client } => Box::new(move |host| host.reserve_used(pool, client)),
            Action::PoolGone { pool, database, user, why } => {
                Box::new(move |host| host.pool_gone(pool, database, user, why))
            }
            Action::Grant { .. } | Action::Welcome { .. } | Action::Refuse { .. } | Action::Settled { .. } => {
                Box::new(|_| {})
            }
        }
    }
}

//! Who the peer is, over which paths it is heard, and since when: the machine of the link. A path is a connection that has
//! proved itself by TLS, whoever made it; what it says counts only after a Hello.
//!
//! The peer is *up* while any path has brought a status within [`Params::timeout`]. Statuses go out on all paths; requests go
//! over the path that was heard last, with a number, so that neither they nor their answers count twice, and are said again
//! when that path is gone. What must stay in order (flows, budgets) goes over one path as long as it is good.
//!
//! Of two processes of the peer the later one counts, and what the former said is void. A node that was stopped itself
//! first reads what came meanwhile before it says that the peer is lost.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use super::budget::{self, Budget, Rank};
use super::drift::{DriftKey, Setting};
use super::event::{Action, Event, FlowChange, Params, PathId};
use super::flows::{Incoming, Outgoing};
use super::message::{
    Answer, Beat, BootId, Flow, Hello, Message, Name, OLDEST_READABLE, PROTOCOL, Reason, Request, Settings, Status,
};
use super::picture::{Counters, Direction, PathPicture, PathState, PeerPicture, PeerState};
use super::requests::{Requests, Verdict};
use crate::clock::Time;

/// At least this much lies between two statuses that are sent because something has changed.
const CHANGE_GAP: Duration = Duration::from_millis(5);

/// A peer whose process is being replaced may be silent for so long.
const RESTART_PATIENCE: Duration = Duration::from_secs(5);

/// Paths that the peer may have opened; the oldest goes for a new one.
const INCOMING_MAX: usize = 8;

/// How long the other side may take to say who it is.
const GREETING_MAX: Duration = Duration::from_secs(2);

/// A path is not closed for less silence: dialling anew costs time too.
const SILENCE_MIN: Duration = Duration::from_secs(1);

/// A node that was stopped itself has this long to read what came meanwhile, before it says that the peer is lost.
const EXCUSE: Duration = Duration::from_millis(100);

#[derive(Debug)]
struct Path {
    direction: Direction,
    address: SocketAddr,
    key: DriftKey,
    since: Time,
    greeted: bool,
    heard: Option<Time>,
    round_trip: Option<Duration>,
    /// Its last stamp, and when it came.
    stamp: Option<(u64, Time)>,
    settings_sent: u64,
    /// The peer's fingerprints, made with this path's key.
    theirs: Option<Settings>,
}

impl Path {
    /// When it ends if nothing more is heard.
    fn expires(&self, patience: Duration) -> Time {
        match self.heard {
            Some(heard) => heard + (patience * 2).max(SILENCE_MIN),
            None => self.since + GREETING_MAX,
        }
    }
}

/// The link of one node.
#[derive(Debug)]
pub struct Link {
    params: Params,
    hello: Hello,
    paths: BTreeMap<PathId, Path>,
    errors: BTreeMap<SocketAddr, String>,
    peer: Option<Hello>,
    state: PeerState,
    since: Time,
    heard: Option<Time>,
    hears_us: bool,
    status: Status,
    their_seq: u64,
    own_status: Status,
    seq: u64,
    beat_at: Time,
    changed: bool,
    settings: Vec<Setting>,
    serial: u64,
    drift: Vec<String>,
    compared: bool,
    requests: Requests,
    /// The path for what must stay in order.
    main: Option<PathId>,
    /// When something was looked at last; and until when nobody is lost, because this node itself was stopped.
    stepped: Time,
    excused_until: Time,
    flows_out: Outgoing,
    flows_in: Incoming,
    budget: Budget,
    counters: Counters,
    said_refused: Option<String>,
    said_goodbye: Option<String>,
}

impl Link {
    /// A link without paths. `hello`: who this node is.
    #[must_use]
    pub fn new(now: Time, params: Params, hello: Hello) -> Self {
        Self {
            budget: Budget::new(now, hello.boot, params.budget),
            params,
            hello,
            paths: BTreeMap::new(),
            errors: BTreeMap::new(),
            peer: None,
            state: PeerState::Never,
            since: now,
            heard: None,
            hears_us: false,
            status: Status::default(),
            their_seq: 0,
            own_status: Status::default(),
            seq: 0,
            beat_at: now,
            changed: false,
            settings: Vec::new(),
            serial: 0,
            drift: Vec::new(),
            compared: false,
            requests: Requests::default(),
            main: None,
            stepped: now,
            excused_until: now,
            flows_out: Outgoing::default(),
            flows_in: Incoming::default(),
            counters: Counters::default(),
            said_refused: None,
            said_goodbye: None,
        }
    }

    /// Takes in what has happened, and appends what is to be done.
    pub fn step(&mut self, now: Time, event: Event, out: &mut Vec<Action>) {
        if now.since(self.stepped) > self.params.timeout / 2 && self.deadline() + self.params.timeout / 2 < now {
            self.excused_until = now + EXCUSE.min(self.params.timeout);
        }
        self.stepped = now;
        match event {
            Event::Connected { path, direction, address, key } => {
                self.connected(now, path, (direction, address), *key, out);
            }

            Event::Disconnected { path, error } => self.disconnected(path, error),
            Event::Heard { path, message } => self.heard(now, path, *message, out),
            Event::Damaged(path) => {
                self.counters.damaged += 1;
                self.close(path, "a message that cannot be read", out);
            }
            Event::Stranger => self.counters.strangers += 1,
            Event::Status(status) => {
                self.changed |= self.own_status != *status;
                self.own_status = *status;
            }
            Event::Settings(settings) => self.set_settings(settings, out),
            Event::Flow { flow, change: FlowChange::Came } => self.flows_out.add(now, flow),
            Event::Flow { flow, change: FlowChange::Went } => self.flows_out.remove(now, flow),
            Event::Flow { flow, change: FlowChange::Lost } => self.flows_out.lose(now, flow),
            Event::Flows(flows) => self.flows_out.replace(now, flows),
            Event::Ask { token, request, deadline } => self.ask(token, request, deadline, out),
            Event::Reply { id, answer } => self.reply(id, &answer, out),
            Event::Limit { key, servers } => self.budget(now, budget::Event::Limit { key: &key, servers }, out),
            Event::Use { key, in_use, waiting } => {
                self.budget(now, budget::Event::Use { key: &key, in_use, waiting }, out);
            }
            Event::Applied { key, servers, in_use } => {
                self.budget(now, budget::Event::Applied { key: &key, servers, in_use }, out);
            }
            Event::Params(params) => {
                self.params = params;
                self.budget(now, budget::Event::Params(params.budget), out);
            }
            Event::Timer => self.budget(now, budget::Event::Timer, out),
        }
        self.tend(now, out);
    }

    /// When to come back at the latest.
    #[must_use]
    pub fn deadline(&self) -> Time {
        let beat = if self.changed { self.beat_at.min(self.last_beat() + CHANGE_GAP) } else { self.beat_at };
        let lost = (self.state == PeerState::Up).then(|| self.lost_at());
        let patience = self.patience();
        let silent = self.paths.values().map(|path| path.expires(patience).max(self.excused_until)).min();
        // Without a path they wait until there is one.
        let flows = self.freshest().and_then(|_| self.flows_out.deadline());
        let (asked, budget) = (self.requests.deadline(), self.budget.deadline());
        [Some(beat), lost, silent, asked, flows, budget].into_iter().flatten().min().unwrap_or(Time::NEVER)
    }

    fn last_beat(&self) -> Time {
        Time(self.beat_at.0.saturating_sub(u64::try_from(self.params.interval.as_nanos()).unwrap_or(0)))
    }

    fn patience(&self) -> Duration {
        if self.status.restarting { self.params.timeout.max(RESTART_PATIENCE) } else { self.params.timeout }
    }

    /// When the peer is lost, if nothing is heard until then.
    fn lost_at(&self) -> Time {
        self.heard.map_or(Time(0), |at| at + self.patience()).max(self.excused_until)
    }

    /// The peer, and the paths to it.
    #[must_use]
    pub fn picture(&self) -> PeerPicture {
        let name = self.peer.as_ref().map(|peer| peer.node.as_str().to_owned());
        let paths = self.paths.values().map(|path| PathPicture {
            direction: path.direction,
            address: path.address,
            state: match path.heard {
                _ if !path.greeted => PathState::Greeting,
                Some(heard) if self.stepped.since(heard) >= self.params.timeout => PathState::Silent,
                _ => PathState::Up,
            },
            heard: path.heard,
            round_trip: path.round_trip,
            error: None,
        });
        let broken = self.errors.iter().map(|(address, error)| PathPicture {
            direction: Direction::Outgoing,
            address: *address,
            state: PathState::Waiting,
            heard: None,
            round_trip: None,
            error: Some(error.clone()),
        });
        PeerPicture {
            state: self.state,
            since: self.since,
            name: name.unwrap_or_default(),
            boot: self.peer.as_ref().map(|peer| peer.boot).unwrap_or_default(),
            program: self.peer.as_ref().map(|peer| peer.program.as_str().to_owned()).unwrap_or_default(),
            heard: self.heard,
            round_trip: self.paths.values().filter_map(|path| path.round_trip).min(),
            hears_us: self.hears_us,
            status: self.status.clone(),
            drift: self.drift.clone(),
            compared: self.compared,
            paths: paths.chain(broken).collect(),
            counters: self.counters,
        }
    }

    /// Takes the peer's clients of one address, to tell them that it is gone.
    pub fn take_flows(&mut self, address: IpAddr) -> Vec<Flow> {
        self.flows_in.take_to(address)
    }

    /// The path of the last outcome of dialling an address: why it did not come about.
    pub fn dial_failed(&mut self, address: SocketAddr, error: String) {
        self.errors.insert(address, error);
    }

    fn connected(
        &mut self,
        now: Time,
        path: PathId,
        (direction, address): (Direction, SocketAddr),
        key: DriftKey,
        out: &mut Vec<Action>,
    ) {
        if direction == Direction::Incoming {
            let incoming = self.paths.iter().filter(|(_, other)| other.direction == Direction::Incoming);
            let oldest: Vec<PathId> = incoming.map(|(id, _)| *id).collect();
            for old in oldest.iter().take((oldest.len() + 1).saturating_sub(INCOMING_MAX)) {
                self.close(*old, "there are too many connections of the peer", out);
            }
        } else {
            self.errors.remove(&address);
        }
        let entry = Path {
            direction,
            address,
            key,
            since: now,
            greeted: false,
            heard: None,
            round_trip: None,
            stamp: None,
            settings_sent: 0,
            theirs: None,
        };
        self.paths.insert(path, entry);
        out.push(Action::Send { path, message: Message::Hello(self.hello.clone()) });
    }

    fn disconnected(&mut self, path: PathId, error: String) {
        self.requests.path_gone(path);
        if self.main == Some(path) {
            // What was under way on it may be lost.
            self.main = None;
            if self.state == PeerState::Up {
                self.flows_out.restart(self.stepped);
            }
        }
        if let Some(gone) = self.paths.remove(&path)
            && gone.direction == Direction::Outgoing
        {
            self.errors.insert(gone.address, error);
        }
    }

    fn close(&mut self, path: PathId, reason: &str, out: &mut Vec<Action>) {
        self.disconnected(path, reason.to_owned());
        out.push(Action::Close { path, reason: reason.to_owned() });
    }

    fn heard(&mut self, now: Time, path: PathId, message: Message, out: &mut Vec<Action>) {
        let Some(greeted) = self.paths.get(&path).map(|path| path.greeted) else { return };
        match message {
            Message::Hello(hello) if !greeted => return self.greet(now, path, hello, out),
            Message::Goodbye(reason) if !greeted => return self.goodbye(path, reason.as_str(), out),
            _ if !greeted => return self.close(path, "it speaks before it says who it is", out),
            _ => {}
        }
        match message {
            Message::Beat(beat) => self.beat_in(now, path, *beat, out),
            Message::Settings(settings) => {
                if let Some(entry) = self.paths.get_mut(&path) {
                    entry.theirs = Some(settings);
                }
                self.compare();
            }
            Message::Request { id, request } => match self.requests.hear(id) {
                Verdict::Do(id) => out.push(Action::Asked { id, request }),
                Verdict::Done(answer) => out.push(Action::Send { path, message: Message::Answer { id, answer } }),
                Verdict::Underway => {}
            },
            Message::Answer { id, answer } => {
                if let Some(token) = self.requests.answered(id) {
                    out.push(Action::Answered { token, answer: Ok(answer) });
                }
            }
            Message::Flows(flows) => {
                if let Some(seen) = self.flows_in.take(&flows) {
                    out.push(Action::Send { path, message: Message::FlowsSeen(seen) });
                    if !flows.add.is_empty() {
                        out.push(Action::FlowsCame(flows.add.iter().copied().collect()));
                    }
                }
            }
            Message::FlowsSeen(seen) => self.flows_out.seen(now, seen),
            Message::Budget(report) => self.budget(now, budget::Event::Report(&report), out),
            Message::Goodbye(reason) => self.goodbye(path, reason.as_str(), out),
            Message::Hello(_) => {}
            Message::Unknown(_) => self.counters.unknown += 1,
        }
    }

    fn goodbye(&mut self, path: PathId, reason: &str, out: &mut Vec<Action>) {
        let text = self.paths.get(&path).map(|path| format!("pair link: {} hangs up: {reason}", path.address));
        if text.is_some() && self.said_goodbye != text {
            out.extend(text.clone().map(|text| Action::Log { warning: true, text }));
            self.said_goodbye = text;
        }
        self.close(path, reason, out);
    }

    /// Why not, if this is not the peer, or not one that we understand.
    fn refusal(&self, hello: &Hello) -> Option<String> {
        let own = &self.hello;
        if hello.boot == own.boot || hello.node == own.node {
            return Some(format!(
                "it calls itself {} as this node does: peer_address leads back here, or both have one node_name",
                hello.node
            ));
        }
        if hello.oldest_readable > PROTOCOL || hello.protocol < OLDEST_READABLE {
            let (old, new) =
                if hello.protocol > PROTOCOL { (&own.node, &hello.node) } else { (&hello.node, &own.node) };
            return Some(format!("{new} speaks a version of the link that {old} does not understand: upgrade {old}"));
        }
        // A peer that is lost may have a successor of any name, and a clock that went back.
        let peer = self.peer.as_ref().filter(|_| self.state == PeerState::Up)?;
        if peer.node != hello.node {
            return Some(format!("{} claims to be the peer, which is {}", hello.node, peer.node));
        }
        (peer.boot != hello.boot && peer.started_us > hello.started_us)
            .then(|| format!("a later process of {} is there already", hello.node))
    }

    /// Is it the peer, and one that we understand?
    fn greet(&mut self, now: Time, path: PathId, hello: Hello, out: &mut Vec<Action>) {
        if let Some(refusal) = self.refusal(&hello) {
            self.counters.refused += 1;
            if self.said_refused.as_ref() != Some(&refusal) {
                out.push(Action::Log { warning: true, text: format!("pair link: refused: {refusal}") });
                self.said_refused = Some(refusal.clone());
            }
            out.push(Action::Send { path, message: Message::Goodbye(Reason::new(&refusal)) });
            return self.close(path, &refusal, out);
        }
        self.said_refused = None;
        if self.peer.as_ref().is_none_or(|peer| peer.boot != hello.boot) {
            self.new_process(now, &hello, out);
        }
        self.peer = Some(hello);
        if let Some(entry) = self.paths.get_mut(&path) {
            (entry.greeted, entry.heard) = (true, Some(now));
        }
        // The peer counts as there with its first status: until then nothing is known of it.
        if self.state == PeerState::Up {
            self.heard = Some(now);
        }
        self.changed = true;
        self.send_settings(path, out);
        let again = self.requests.again(path);
        out.extend(again.into_iter().map(|message| Action::Send { path, message }));
    }

    /// The peer's process is another one than before: what the former has said is void.
    fn new_process(&mut self, now: Time, hello: &Hello, out: &mut Vec<Action>) {
        if let Some(before) = self.peer.as_ref().filter(|before| before.node != hello.node) {
            let text = format!("pair link: the peer is {} now, and no longer {}", hello.node, before.node);
            out.push(Action::Log { warning: true, text });
        }
        let former: Vec<PathId> = self.paths.iter().filter(|(_, path)| path.greeted).map(|(id, _)| *id).collect();
        for path in former {
            let reason = "a later process of this node has come";
            out.push(Action::Send { path, message: Message::Goodbye(Reason::new(reason)) });
            self.close(path, reason, out);
        }
        (self.their_seq, self.compared) = (0, false);
        self.drift.clear();
        self.requests.new_peer();
        self.give_up("the peer has started anew, and has perhaps not done it", out);
        self.flows_in.restart();
        if self.state == PeerState::Up {
            self.come_up(now, hello, out);
        }
    }

    fn give_up(&mut self, why: &str, out: &mut Vec<Action>) {
        let tokens = self.requests.give_up();
        self.counters.unanswered += tokens.len() as u64;
        out.extend(tokens.into_iter().map(|token| Action::Answered { token, answer: Err(why.to_owned()) }));
    }

    fn sign_of_life(&mut self, now: Time, out: &mut Vec<Action>) {
        self.heard = Some(now);
        if self.state != PeerState::Up {
            (self.state, self.since) = (PeerState::Up, now);
            let hello = self.peer.clone().unwrap_or_default();
            out.push(Action::Log {
                warning: false,
                text: format!("pair link: {} is there ({})", hello.node, hello.program),
            });
            self.come_up(now, &hello, out);
            out.push(Action::Peer(Arc::new(self.picture())));
        }
    }

    fn come_up(&mut self, now: Time, hello: &Hello, out: &mut Vec<Action>) {
        let rank = Rank::of(self.hello.node.as_str(), hello.node.as_str());
        self.main = None;
        self.budget(now, budget::Event::LinkUp { peer: hello.boot, rank }, out);
        self.flows_out.restart(now);
    }

    fn beat_in(&mut self, now: Time, path: PathId, beat: Beat, out: &mut Vec<Action>) {
        let now_us = now.0 / 1000;
        if let Some(entry) = self.paths.get_mut(&path) {
            entry.heard = Some(now);
            entry.stamp = Some((beat.stamp_us, now));
            if beat.echo_us > 0 {
                let away_us = now_us.saturating_sub(beat.echo_us).saturating_sub(beat.echo_held_us);
                entry.round_trip = Some(Duration::from_micros(away_us));
            }
        }
        self.sign_of_life(now, out);
        if beat.seq > self.their_seq {
            self.their_seq = beat.seq;
            self.hears_us = beat.heard_you;
            self.status = beat.status;
            out.push(Action::Peer(Arc::new(self.picture())));
        }
    }

    fn set_settings(&mut self, settings: Vec<Setting>, out: &mut Vec<Action>) {
        if settings == self.settings && self.serial > 0 {
            return;
        }
        self.settings = settings;
        self.serial += 1;
        let paths: Vec<PathId> = self.paths.iter().filter(|(_, path)| path.greeted).map(|(id, _)| *id).collect();
        paths.into_iter().for_each(|path| self.send_settings(path, out));
        self.compare();
    }

    fn send_settings(&mut self, path: PathId, out: &mut Vec<Action>) {
        let Some(entry) = self.paths.get_mut(&path) else { return };
        if self.serial > 0 && entry.settings_sent < self.serial {
            entry.settings_sent = self.serial;
            let message = Message::Settings(entry.key.fingerprints(self.serial, &self.settings));
            out.push(Action::Send { path, message });
        }
    }

    fn compare(&mut self) {
        let compared = self.paths.values().filter_map(|path| Some((path, path.theirs.as_ref()?)));
        if let Some((path, theirs)) = compared.max_by_key(|(_, theirs)| theirs.serial) {
            self.drift = path.key.differences(&self.settings, theirs);
            self.compared = true;
        }
    }

    /// The path that was heard last.
    fn freshest(&self) -> Option<PathId> {
        let greeted = self.paths.iter().filter(|(_, path)| path.greeted);
        greeted.max_by_key(|(_, path)| path.heard).map(|(id, _)| *id)
    }

    /// The path for what must stay in order: the same one until it is gone or has fallen behind.
    fn main_path(&mut self, now: Time) -> Option<PathId> {
        let behind = self.params.timeout / 2;
        let heard = |id: PathId| self.paths.get(&id).filter(|path| path.greeted).and_then(|path| path.heard);
        let fresh = self.freshest()?;
        let stays = self.main.filter(|main| heard(*main).zip(heard(fresh)).is_some_and(|(a, b)| b.since(a) < behind));
        if stays.is_none() {
            if self.main.is_some() {
                // What went over the other path may come late, or not at all.
                self.flows_out.restart(now);
            }
            self.main = Some(fresh);
        }
        self.main
    }

    fn ask(&mut self, token: u64, request: Request, deadline: Time, out: &mut Vec<Action>) {
        let path = self.freshest().filter(|_| self.state == PeerState::Up);
        let Some(path) = path else {
            let answer = Err("the peer is not heard on the pair link".to_owned());
            return out.push(Action::Answered { token, answer });
        };
        match self.requests.ask(token, request, deadline, path) {
            Some(message) => out.push(Action::Send { path, message }),
            None => {
                let answer = Err("there are too many requests to the peer already".to_owned());
                out.push(Action::Answered { token, answer });
            }
        }
    }

    fn reply(&mut self, local: u64, answer: &Answer, out: &mut Vec<Action>) {
        let Some(id) = self.requests.reply(local, answer) else { return };
        for path in self.paths.iter().filter(|(_, path)| path.greeted).map(|(id, _)| *id) {
            out.push(Action::Send { path, message: Message::Answer { id, answer: answer.clone() } });
        }
    }

    fn budget(&mut self, now: Time, event: budget::Event<'_>, out: &mut Vec<Action>) {
        let mut actions = Vec::new();
        self.budget.step(now, event, &mut actions);
        for action in actions {
            match action {
                budget::Action::Allot { key, allotment } => out.push(Action::Allot { key, allotment }),
                budget::Action::Send(report) => {
                    let path = self.main_path(now);
                    out.extend(path.map(|path| Action::Send { path, message: Message::Budget(report) }));
                }
            }
        }
    }

    /// What is due.
    fn tend(&mut self, now: Time, out: &mut Vec<Action>) {
        if self.state == PeerState::Up && now >= self.lost_at() {
            self.lose(now, out);
        }
        let patience = self.patience();
        if now >= self.excused_until {
            let silent = self.paths.iter().filter(|(_, path)| path.expires(patience) <= now);
            for path in silent.map(|(id, _)| *id).collect::<Vec<_>>() {
                self.close(path, "nothing was heard for too long", out);
            }
        }
        let late = self.requests.late(now);
        self.counters.unanswered += late.len() as u64;
        let unanswered = || Err("the peer has not answered in time".to_owned());
        out.extend(late.into_iter().map(|token| Action::Answered { token, answer: unanswered() }));
        if let Some(path) = self.freshest() {
            let again = self.requests.again(path);
            out.extend(again.into_iter().map(|message| Action::Send { path, message }));
        }
        if self.flows_out.deadline().is_some_and(|at| at <= now)
            && let Some(path) = self.main_path(now)
        {
            while let Some(flows) = self.flows_out.next(now) {
                out.push(Action::Send { path, message: Message::Flows(flows) });
            }
        }
        let due = now >= self.beat_at || self.changed && now >= self.last_beat() + CHANGE_GAP;
        if due {
            self.changed = false;
            self.beat_at = now + self.params.interval;
            self.beat(now, out);
        }
    }

    fn lose(&mut self, now: Time, out: &mut Vec<Action>) {
        let ms = self.patience().as_millis();
        let name = self.peer.as_ref().map_or("the peer", |peer| peer.node.as_str());
        let why = self.errors.values().next().map(|error| format!(" ({error})")).unwrap_or_default();
        let text = format!("pair link: {name} has not been heard for {ms} ms{why}");
        out.push(Action::Log { warning: true, text });
        (self.state, self.since) = (PeerState::Lost, now);
        self.counters.lost += 1;
        self.give_up("the peer is not heard any more, and has perhaps not done it", out);
        self.flows_out.stop();
        self.budget(now, budget::Event::LinkLost, out);
        out.push(Action::Peer(Arc::new(self.picture())));
    }

    fn beat(&mut self, now: Time, out: &mut Vec<Action>) {
        self.seq += 1;
        let heard_you = self.state == PeerState::Up;
        let settings_seen =
            self.paths.values().filter_map(|path| Some(path.theirs.as_ref()?.serial)).max().unwrap_or(0);
        for (path, entry) in self.paths.iter().filter(|(_, path)| path.greeted) {
            let (echo_us, echo_held_us) = match entry.stamp {
                Some((stamp, at)) => (stamp, u64::try_from(now.since(at).as_micros()).unwrap_or(u64::MAX)),
                None => (0, 0),
            };
            let beat = Beat {
                seq: self.seq,
                stamp_us: now.0 / 1000,
                echo_us,
                echo_held_us,
                heard_you,
                settings_seen,
                status: self.own_status.clone(),
            };
            out.push(Action::Send { path: *path, message: Message::Beat(Box::new(beat)) });
        }
    }
}

/// Who this node is, for the peer.
#[must_use]
pub fn hello(node: &str, program: &str, boot: BootId, started_us: u64) -> Hello {
    Hello {
        protocol: PROTOCOL,
        oldest_readable: OLDEST_READABLE,
        node: Name::new(node),
        boot,
        started_us,
        program: Name::new(program),
    }
}

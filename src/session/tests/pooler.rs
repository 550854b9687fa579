//! Clients over servers, as the relay drives the cores, but in memory and in an order that a random number decides.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use super::backend::{Backend, Log, NOISE, PARAMETER, PARAMETER_DEFAULT};
use crate::prepared::Statements;
use crate::session::client::{ClientCore, Turn, Verdict as ClientVerdict};
use crate::session::params::{Tracked, Values};
use crate::session::server::{ServerCore, Status, Verdict as ServerVerdict};
use crate::wire::frame::{HEAD_LEN, head};
use crate::wire::reply;

/// A small deterministic source of choices.
#[derive(Debug)]
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(super) fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % n.max(1)
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Passing {
    left: usize,
    forward: bool,
}

#[derive(Debug)]
pub(super) struct Client {
    pub(super) core: ClientCore,
    /// Not sent yet.
    script: VecDeque<u8>,
    /// Arrived and not judged.
    input: Vec<u8>,
    passing: Passing,
    /// Replies of ours that wait for the end of a frame of the server.
    late: Vec<u8>,
    pub(super) got: Vec<u8>,
    link: Option<usize>,
    pub(super) last_link: Option<usize>,
    waiting: bool,
    /// Why the session ended.
    pub(super) ended: Option<String>,
}

#[derive(Debug)]
pub(super) struct Link {
    pub(super) core: ServerCore,
    pub(super) backend: Backend,
    /// On its way to the backend.
    wire: VecDeque<u8>,
    /// Arrived from the backend and not judged.
    input: Vec<u8>,
    passing: Passing,
    owner: Option<usize>,
}

fn first_values(tracked: &Tracked) -> Values {
    let mut values = Values::unset(tracked);
    values.set(tracked.index(PARAMETER.as_bytes()).unwrap(), PARAMETER_DEFAULT.as_bytes());
    values
}

/// What a world is made with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    pub(super) servers: usize,
    /// 0: session pooling.
    pub(super) statements_max: usize,
    /// One step in so many is a message that nobody asked for; 0: none.
    pub(super) noise: usize,
    /// The longest piece that arrives at once.
    pub(super) piece_max: usize,
    pub(super) seed: u64,
}

#[derive(Debug)]
pub(super) struct World {
    pub(super) clients: Vec<Client>,
    pub(super) links: Vec<Link>,
    statements: RefCell<Statements>,
    tracked: Arc<Tracked>,
    rules: Rules,
    dice: Dice,
    pub(super) log: Log,
    pub(super) releases: usize,
    noise_left: usize,
}

enum Judged {
    Dry,
    Full,
    NeedServer,
}

impl World {
    pub(super) fn new(scripts: &[Vec<u8>], rules: Rules) -> Self {
        let tracked = Arc::new(Tracked::new([]));
        let values = first_values(&tracked);
        let log = Rc::default();
        let client = |script: &Vec<u8>| Client {
            core: ClientCore::new(values.clone()),
            script: script.iter().copied().collect(),
            input: Vec::new(),
            passing: Passing::default(),
            late: Vec::new(),
            got: Vec::new(),
            link: None,
            last_link: None,
            waiting: false,
            ended: None,
        };
        Self {
            clients: scripts.iter().map(client).collect(),
            links: (0..rules.servers).map(|_| Link::new(&tracked, &log)).collect(),
            statements: RefCell::default(),
            tracked: Arc::clone(&tracked),
            rules,
            dice: Dice::new(rules.seed),
            log,
            releases: 0,
            noise_left: 40,
        }
    }

    /// Lets things happen until nothing can.
    pub(super) fn run(&mut self) {
        for steps in 0.. {
            assert!(steps < 200_000, "it never ends");
            if self.rules.noise > 0 && self.noise_left > 0 && self.dice.below(self.rules.noise) == 0 {
                self.noise_left -= 1;
                let (link, kind) = (self.dice.below(self.links.len()), self.dice.below(3));
                self.links[link].backend.make_noise(kind);
            }
            let (clients, links) = (self.clients.len(), self.links.len());
            let actions = clients * 2 + links * 2;
            let first = self.dice.below(actions);
            if !(0..actions).any(|i| self.act((first + i) % actions)) {
                break;
            }
        }
    }

    fn act(&mut self, action: usize) -> bool {
        let (clients, links) = (self.clients.len(), self.links.len());
        match action {
            i if i < clients => self.client_sends(i),
            i if i < 2 * clients => self.client_gets_server(i - clients),
            i if i < 2 * clients + links => self.server_receives(i - 2 * clients),
            i => self.server_sends(i - 2 * clients - links),
        }
    }

    fn piece(&mut self, there: usize) -> usize {
        1 + self.dice.below(there.min(self.rules.piece_max))
    }

    fn client_sends(&mut self, i: usize) -> bool {
        if self.clients[i].script.is_empty() || self.clients[i].ended.is_some() || self.clients[i].waiting {
            return false;
        }
        // A frame that has begun is passed on to its end.
        if self.clients[i].passing.left == 0 && self.link_of(i).is_some_and(|l| l.core.is_full()) {
            return false;
        }
        let n = self.piece(self.clients[i].script.len());
        let client = &mut self.clients[i];
        client.input.extend(client.script.drain(..n));
        self.judge_client(i);
        true
    }

    fn client_gets_server(&mut self, i: usize) -> bool {
        if !self.clients[i].waiting || self.clients[i].ended.is_some() {
            return false;
        }
        let free: Vec<usize> = (0..self.links.len()).filter(|&l| self.links[l].owner.is_none()).collect();
        let others: Vec<usize> = free.iter().copied().filter(|&l| Some(l) != self.clients[i].last_link).collect();
        let choice = if others.is_empty() { &free } else { &others };
        if choice.is_empty() {
            return false;
        }
        let link = choice[self.dice.below(choice.len())];
        self.attach(i, link);
        self.judge_client(i);
        true
    }

    /// Lends a server, with the client's parameters.
    fn attach(&mut self, i: usize, l: usize) {
        let (client, link) = (&mut self.clients[i], &mut self.links[l]);
        link.hear(None, usize::MAX);
        assert!(link.core.is_free(), "a server that is not free was lent");
        if let Some(sql) = client.core.values.sql_to_change(link.core.values(), &self.tracked) {
            let mut query = Vec::new();
            reply::put_query(&mut query, &sql);
            link.core.sent_query(true);
            link.backend.receive(&query);
            link.hear(None, usize::MAX);
            assert!(link.core.is_free(), "SET did not end");
        }
        let wanted = client.core.values.get(self.tracked.index(PARAMETER.as_bytes()).unwrap()).unwrap();
        assert_eq!(link.backend.session_parameter().as_bytes(), wanted, "the client's parameter did not follow it");
        client.core.values = link.core.values().clone();
        client.waiting = false;
        client.link = Some(l);
        client.last_link = Some(l);
        link.owner = Some(i);
    }

    fn link_of(&self, i: usize) -> Option<&Link> {
        self.clients[i].link.map(|l| &self.links[l])
    }

    fn server_receives(&mut self, l: usize) -> bool {
        if self.links[l].wire.is_empty() {
            return false;
        }
        let n = self.piece(self.links[l].wire.len());
        let link = &mut self.links[l];
        let bytes: Vec<u8> = link.wire.drain(..n).collect();
        link.backend.receive(&bytes);
        self.try_release(l);
        true
    }

    fn server_sends(&mut self, l: usize) -> bool {
        let Some(there) = Some(self.links[l].backend.output.len()).filter(|&n| n > 0) else {
            return self.server_hangs_up(l);
        };
        let n = self.piece(there);
        let owner = self.links[l].owner;
        let link = &mut self.links[l];
        let client = owner.map(|i| &mut self.clients[i]);
        link.hear(client, n);
        self.try_release(l);
        if let Some(i) = owner {
            self.judge_client(i);
        }
        true
    }

    fn server_hangs_up(&mut self, l: usize) -> bool {
        if !self.links[l].backend.dead {
            return false;
        }
        match self.links[l].owner {
            Some(i) => self.end(i, "server gone".into()),
            None => self.links[l] = Link::new(&self.tracked, &self.log),
        }
        true
    }

    fn judge_client(&mut self, i: usize) {
        if self.clients[i].ended.is_some() || self.clients[i].waiting {
            return;
        }
        loop {
            match self.judge_frames(i) {
                Ok(Judged::NeedServer) => self.clients[i].waiting = true,
                Ok(Judged::Full | Judged::Dry) => {}
                Err(reason) => return self.end(i, reason),
            }
            // A release may be due without a word of the server, and is what the relay looks at next.
            let Some(l) = self.clients[i].link else { return };
            self.try_release(l);
            if self.clients[i].link.is_some() || self.clients[i].input.is_empty() {
                return;
            }
        }
    }

    /// The client goes, and its server with it; another server takes its place.
    fn end(&mut self, i: usize, reason: String) {
        self.clients[i].ended = Some(reason);
        if let Some(l) = self.clients[i].link.take() {
            self.links[l] = Link::new(&self.tracked, &self.log);
        }
    }

    fn judge_frames(&mut self, i: usize) -> Result<Judged, String> {
        let client = &mut self.clients[i];
        let mut link = client.link.map(|l| &mut self.links[l]);
        loop {
            if client.passing.left > 0 {
                let n = client.passing.left.min(client.input.len());
                let bytes = client.input.drain(..n);
                if client.passing.forward {
                    link.as_mut().expect("frames are forwarded to a server").wire.extend(bytes);
                }
                client.passing.left -= n;
                if client.passing.left > 0 {
                    return Ok(Judged::Dry);
                }
                continue;
            }
            if client.input.is_empty() {
                return Ok(Judged::Dry);
            }
            if link.as_ref().is_some_and(|l| l.core.is_full()) {
                return Ok(Judged::Full);
            }
            let Some(head) = head(&client.input).map_err(|e| e.to_string())? else { return Ok(Judged::Dry) };
            let (mut to_server, mut to_client) = (Vec::new(), Vec::new());
            let mut turn = Turn {
                to_server: &mut to_server,
                to_client: &mut to_client,
                statements_max: self.rules.statements_max,
                unknown_name_ends: false,
                intern: &|definition| self.statements.borrow_mut().intern(definition),
            };
            let body = &client.input[HEAD_LEN..];
            let verdict = client.core.on_frame(head, body, link.as_mut().map(|l| &mut l.core), &mut turn);
            match &mut link {
                Some(link) => link.wire.extend(to_server),
                None => assert!(to_server.is_empty(), "bytes for a server that is not there"),
            }
            if link.as_ref().is_some_and(|l| l.passing.left > 0) {
                client.late.extend(to_client);
            } else {
                client.got.extend(to_client);
            }
            client.passing = match verdict {
                ClientVerdict::Forward => Passing { left: head.total, forward: true },
                ClientVerdict::Consumed => Passing { left: head.total, forward: false },
                ClientVerdict::Rewritten(front) => {
                    client.input.drain(..front);
                    Passing { left: head.total - front, forward: true }
                }
                ClientVerdict::NeedMore(len) => {
                    assert!(len > client.input.len() && len <= head.total, "cannot need {len} of {}", head.total);
                    return Ok(Judged::Dry);
                }
                ClientVerdict::NeedServer => return Ok(Judged::NeedServer),
                ClientVerdict::Terminate => return Err("client close request".into()),
                ClientVerdict::Fatal(fault) => return Err(fault.text.to_string()),
            };
        }
    }

    /// Takes the server back if it is of no more use to its client, and looks whether that was right.
    fn try_release(&mut self, l: usize) {
        let link = &mut self.links[l];
        let Some(i) = link.owner else { return };
        let client = &mut self.clients[i];
        let over = self.rules.statements_max > 0
            && link.core.is_free()
            && link.passing.left == 0
            && link.input.is_empty()
            && link.wire.is_empty()
            && client.passing.left == 0;
        if !over {
            return;
        }
        assert!(link.backend.is_clean(), "a server was released dirty: {:?} {:?}", link.core, link.backend);
        let output: Vec<u8> = link.backend.output.iter().copied().collect();
        assert_eq!(without_noise(&output), b"", "a server was released with a reply on its way");
        assert!(link.backend.named_statements() <= self.rules.statements_max, "{:?}", link.backend);
        assert_eq!(link.backend.named_statements(), link.core.prepared(), "{:?} {:?}", link.core, link.backend);
        assert_eq!(link.core.status(), Status::Idle);
        self.releases += 1;
        link.owner = None;
        client.link = None;
    }

    /// Checks that everybody got to the end.
    pub(super) fn assert_over(&self) {
        for (i, client) in self.clients.iter().enumerate() {
            let rest = client.script.len() + client.input.len();
            assert!(client.ended.is_some() || rest == 0, "client {i} is stuck: {client:?} {:?}", self.link_of(i));
            let session = self.rules.statements_max == 0;
            assert!(client.ended.is_some() || session || client.link.is_none(), "client {i} kept its server");
            // Whose session ends in the middle of a server's message does not get what waited behind that.
            assert!(client.late.is_empty() || client.ended.is_some(), "client {i} never got a reply of ours");
        }
    }
}

impl Link {
    fn new(tracked: &Arc<Tracked>, log: &Log) -> Self {
        Self {
            core: ServerCore::new(Arc::clone(tracked), first_values(tracked)),
            backend: Backend::new(log),
            wire: VecDeque::new(),
            input: Vec::new(),
            passing: Passing::default(),
            owner: None,
        }
    }

    /// Takes `n` bytes from the backend and judges them, as the relay does and, without a client, as a query of ours does.
    fn hear(&mut self, mut client: Option<&mut Client>, n: usize) {
        let n = n.min(self.backend.output.len());
        self.input.extend(self.backend.output.drain(..n));
        loop {
            if self.passing.left > 0 {
                let n = self.passing.left.min(self.input.len());
                let bytes = self.input.drain(..n);
                if self.passing.forward
                    && let Some(client) = &mut client
                {
                    client.got.extend(bytes);
                }
                self.passing.left -= n;
                if self.passing.left > 0 {
                    return;
                }
            }
            if let Some(client) = &mut client {
                client.got.append(&mut client.late);
                self.core.put_due_replies(&mut client.got);
            }
            let Some(head) = head(&self.input).expect("the model's frames are well formed") else { return };
            let body = &self.input[HEAD_LEN..];
            self.passing = match self.core.on_frame(head, body, client.as_mut().map(|c| &mut c.core)) {
                ServerVerdict::Forward | ServerVerdict::ForwardReady => Passing { left: head.total, forward: true },
                ServerVerdict::Swallow | ServerVerdict::SwallowReady => Passing { left: head.total, forward: false },
                ServerVerdict::NeedMore(len) => {
                    assert!(len > self.input.len() && len <= head.total, "cannot need {len} of {}", head.total);
                    return;
                }
                ServerVerdict::Quarantine(
                    "unexpected message during COPY from stdin" | "prepared statements went away unseen",
                ) => {
                    // Only a wild client brings this about. For it, it is as if the server had hung up.
                    self.backend.dead = true;
                    self.backend.output.clear();
                    self.input.clear();
                    return;
                }
                ServerVerdict::Quarantine(reason) => panic!("{reason}: {:?} {:?}", self.core, self.backend),
            };
        }
    }
}

/// The frames of a stream, cut up.
pub(super) fn frames(mut stream: &[u8]) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    while let Some(head) = head(stream).expect("a stream of frames") {
        assert!(stream.len() >= head.total, "the last frame is cut off: {stream:?}");
        let (frame, rest) = stream.split_at(head.total);
        frames.push(frame.to_vec());
        stream = rest;
    }
    assert!(stream.is_empty(), "the last head is cut off: {stream:?}");
    frames
}

/// A stream without the messages that nobody asked for.
pub(super) fn without_noise(stream: &[u8]) -> Vec<u8> {
    let noise = |frame: &Vec<u8>| {
        matches!(frame[0], b'N' | b'A' | b'S') && frame.windows(NOISE.len()).any(|window| window == NOISE)
    };
    frames(stream).into_iter().filter(|f| !noise(f)).flatten().collect()
}

/// A stream for people.
pub(super) fn show(stream: &[u8]) -> Vec<String> {
    frames(stream)
        .iter()
        .map(|f| {
            let body = &f[HEAD_LEN..];
            format!("{} {}", char::from(f[0]), String::from_utf8_lossy(&body[..body.len().min(60)]).escape_debug())
        })
        .collect()
}

/// What the client would get from a backend of its own, and what would be committed.
pub(super) fn direct(script: &[u8]) -> (Vec<u8>, Vec<String>) {
    let log = Log::default();
    let mut backend = Backend::new(&log);
    backend.receive(script);
    let got = backend.output.iter().copied().collect();
    let committed = log.borrow().clone();
    (got, committed)
}

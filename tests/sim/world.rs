//! Two nodes, the network between them, and virtual time: whoever is due next acts, and after each act the judge looks.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::IpAddr;
use std::time::Duration;

use pgtandem::ha::{self, Ha, RouterKey, RouterParams};
use pgtandem::vrrp::{ChecksumVariant, Family, Params, Router, Version};

use super::judge::Judge;
use super::net::Net;
use super::node::{Clock, Mail, Node, Pooler, Request, Said, VALID, VALID_LATE, own_address};
use super::rng::Rng;
use super::script::Act;
use super::{MICRO, MILLI, SECOND};

/// What one run is about.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    pub(crate) routers: Vec<SetupRouter>,
    pub(crate) interval: Duration,
    pub(crate) preempt: bool,
    pub(crate) sole_peer: bool,
    pub(crate) link: bool,
    pub(crate) link_timeout: u64,
    pub(crate) fit_again: Duration,
    pub(crate) delay: (u64, u64),
    pub(crate) loss: u64,
    pub(crate) duplicates: u64,
    pub(crate) switchover_timeout: Duration,
    /// Of a hundred moves: clients do not come to rest.
    pub(crate) restless: u64,
}

#[derive(Clone, Debug)]
pub(crate) struct SetupRouter {
    pub(crate) family: Family,
    pub(crate) priority: [u8; 2],
}

impl Setup {
    /// The helper's lease, as the setting lease_ms has it by default.
    pub(crate) fn lease(&self) -> u64 {
        (nanos(self.interval) * 3).clamp(100 * MILLI, SECOND)
    }

    pub(crate) fn router_params(&self, node: usize, router: usize) -> Params {
        let SetupRouter { family, priority } = &self.routers[router];
        let address: IpAddr = match family {
            Family::V4 => "192.0.2.10".parse().unwrap(),
            Family::V6 => "2001:db8::10".parse().unwrap(),
        };
        Params {
            vrid: 51 + router as u8,
            family: *family,
            version: Version::V3,
            priority: priority[node],
            interval: self.interval,
            preempt: self.preempt,
            preempt_delay: Duration::ZERO,
            sole_peer: self.sole_peer,
            addresses: vec![address],
            unicast_peers: Vec::new(),
            link_local_first: false,
            checksum: ChecksumVariant::Plain,
        }
    }

    pub(crate) fn ha_params(&self, node: usize) -> ha::Params {
        let routers = (0..self.routers.len()).map(|router| {
            let params = self.router_params(node, router);
            RouterParams {
                name: format!("r{router}"),
                key: RouterKey { vrid: params.vrid, family: params.family },
                interval: params.interval,
                priority: params.priority,
                preempt: params.preempt,
            }
        });
        let mut params = ha::Params::new(format!("pooler{}", node + 1), routers.collect(), self.link);
        params.fit_again = self.fit_again;
        params.servers_down_delay = Duration::from_millis(300);
        params.servers_again = Duration::from_millis(500);
        params.servers_gap = Duration::from_secs(3);
        params.switchover_timeout = self.switchover_timeout;
        params.link_timeout = Duration::from_nanos(self.link_timeout);
        params
    }
}

pub(crate) fn nanos(duration: Duration) -> u64 {
    duration.as_nanos() as u64
}

/// Something that is due.
#[derive(Debug)]
enum Due {
    Pooler { node: usize },
    Helper { node: usize },
    ToPooler { node: usize, run: u32, queue: usize, mail: Box<Mail> },
    ToHelper { node: usize, run: u32, request: Request },
    Expire { node: usize, router: usize },
    Successor { node: usize, run: u32 },
    Script(usize),
}

/// By time, and by number among those of one time.
struct Slot(u64, u64, Due);

impl PartialEq for Slot {
    fn eq(&self, other: &Self) -> bool {
        (self.0, self.1) == (other.0, other.1)
    }
}
impl Eq for Slot {}
impl PartialOrd for Slot {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Slot {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.0, self.1).cmp(&(other.0, other.1))
    }
}

/// One run.
pub(crate) struct World {
    pub(crate) t: u64,
    pub(crate) setup: Setup,
    pub(crate) nodes: [Node; 2],
    pub(crate) net: Net,
    pub(crate) rng: Rng,
    pub(crate) judge: Judge,
    pub(crate) trace: Option<Vec<String>>,
    queue: BinaryHeap<Reverse<Slot>>,
    count: u64,
    script: Vec<(u64, Act)>,
    next_command: u64,
}

/// No schedule needs so many: a timer that has passed already goes round and round, or messages breed messages.
const EVENTS_MAX: u64 = 3_000_000;

impl World {
    pub(crate) fn new(setup: Setup, script: Vec<(u64, Act)>, mut rng: Rng, tracing: bool) -> Self {
        let mut clock = || Clock { origin: rng.below(1 << 50), drift: rng.below(300), lost: 0 };
        let clocks = [clock(), clock()];
        let mut net = Net::new(setup.delay);
        (net.loss, net.duplicates) = (setup.loss, setup.duplicates);
        let mut world = Self {
            t: 0,
            nodes: clocks.map(|clock| Node::new(clock, setup.routers.len())),
            judge: Judge::new(&setup),
            net,
            rng,
            setup,
            trace: tracing.then(Vec::new),
            queue: BinaryHeap::new(),
            count: 0,
            script,
            next_command: 1,
        };
        for index in 0..world.script.len() {
            let at = world.script[index].0;
            world.push(at, Due::Script(index));
        }
        world
    }

    pub(crate) fn note(&mut self, text: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            trace.push(format!("{:>12.3} ms  {}", self.t as f64 / MILLI as f64, text()));
        }
    }

    fn push(&mut self, at: u64, due: Due) {
        self.count += 1;
        self.queue.push(Reverse(Slot(at.max(self.t), self.count, due)));
    }

    /// Lets everything happen that is due until `end`.
    pub(crate) fn run(&mut self, end: u64) -> Result<(), String> {
        let mut events = 0;
        while let Some(Reverse(slot)) = self.queue.peek() {
            if slot.0 > end {
                break;
            }
            events += 1;
            if events > EVENTS_MAX {
                return Err(format!("(g) it does not come to rest: {EVENTS_MAX} events until {} ms", self.t / MILLI));
            }
            let Some(Reverse(Slot(at, _, due))) = self.queue.pop() else { break };
            if at > self.t {
                // What has been true since the last event was true until now.
                self.t = at;
                Judge::look(self)?;
            }
            self.happen(due)?;
            Judge::note_changes(self);
        }
        self.t = end;
        Judge::look(self)
    }

    fn happen(&mut self, due: Due) -> Result<(), String> {
        match due {
            Due::Pooler { node } => {
                if self.nodes[node].wake[0] <= self.t {
                    self.nodes[node].wake[0] = u64::MAX;
                    self.pooler_turn(node)?;
                }
            }
            Due::Helper { node } => {
                if self.nodes[node].wake[1] <= self.t {
                    self.nodes[node].wake[1] = u64::MAX;
                    self.helper_turn(node);
                }
            }
            Due::ToPooler { node, run, queue, mail } => {
                let there = &mut self.nodes[node];
                if run != there.pooler_run || there.pooler.is_none() {
                    return Ok(());
                }
                // The card of a machine that stands still keeps some of what comes, or none.
                if there.paused.is_some() && queue == 2 && self.rng.percent(50) {
                    return Ok(());
                }
                // A socket's buffer is bounded.
                if there.inbox[queue].len() < 256 || queue < 2 {
                    there.inbox[queue].push_back(*mail);
                }
                self.pooler_turn(node)?;
            }
            Due::ToHelper { node, run, request } => {
                if run == self.nodes[node].helper_run && self.nodes[node].helper.is_some() {
                    self.nodes[node].requests.push_back(request);
                    self.helper_turn(node);
                }
            }
            // The kernel's clock stands still too.
            Due::Expire { node, router } if matches!(self.nodes[node].paused, Some((_, true))) => {
                self.push(self.t + 100 * MILLI, Due::Expire { node, router });
            }
            Due::Expire { node, router } => match self.nodes[node].addresses[router] {
                Some(at) if at <= self.t => self.nodes[node].addresses[router] = None,
                Some(at) => self.push(at, Due::Expire { node, router }),
                None => {}
            },
            Due::Successor { node, run } => {
                if self.nodes[node].replacing && self.nodes[node].pooler_run == run {
                    self.nodes[node].replacing = false;
                    self.start_pooler(node, true);
                }
            }
            Due::Script(index) => {
                let act = self.script[index].1.clone();
                self.note(|| format!("---- {act:?}"));
                self.act(act)?;
                Judge::facts_changed(self);
            }
        }
        Ok(())
    }

    pub(crate) fn later(&mut self, span: u64, act: Act) {
        let at = self.t + span;
        self.script.push((at, act));
        self.push(at, Due::Script(self.script.len() - 1));
    }

    // -- Messages.

    pub(crate) fn mail_to_pooler(&mut self, node: usize, at: u64, queue: usize, mail: Mail) {
        let run = self.nodes[node].pooler_run;
        self.push(at, Due::ToPooler { node, run, queue, mail: Box::new(mail) });
    }

    /// A word of the helper.
    pub(crate) fn say(&mut self, node: usize, said: Said) {
        let at = self.soon().max(self.nodes[node].last[0]);
        self.nodes[node].last[0] = at;
        self.mail_to_pooler(node, at, 0, Mail::Helper(said));
    }

    /// Something that another part of the process has noticed.
    pub(crate) fn consider(&mut self, node: usize, event: ha::Event) {
        let at = self.soon().max(self.nodes[node].last[1]);
        self.nodes[node].last[1] = at;
        self.mail_to_pooler(node, at, 1, Mail::Consider(Box::new(event)));
    }

    pub(crate) fn ask_helper(&mut self, node: usize, request: Request) {
        let at = self.soon().max(self.nodes[node].last[2]);
        self.nodes[node].last[2] = at;
        let run = self.nodes[node].helper_run;
        self.push(at, Due::ToHelper { node, run, request });
    }

    /// Over the link to the other node.
    pub(crate) fn mail_to_peer(&mut self, node: usize, mail: Mail) {
        if let Some(at) = self.net.message(self.t, node, &mut self.rng) {
            self.mail_to_pooler(1 - node, at, 1, mail);
        }
    }

    pub(crate) fn multicast(&mut self, node: usize, router: usize, priority: u8, interval: Duration) {
        if !self.nodes[node].truth.interface || !self.nodes[1 - node].truth.interface {
            self.net.last_drop = self.t;
            return;
        }
        for at in self.net.advert(self.t, node, &mut self.rng).into_iter().flatten() {
            self.mail_to_pooler(1 - node, at, 2, Mail::Advert { router, priority, interval });
        }
    }

    /// How long a message within a machine takes, and how late a process is woken.
    fn soon(&mut self) -> u64 {
        let span = if self.rng.percent(97) { 100 * MICRO } else { 2 * MILLI };
        self.t + self.rng.between(5 * MICRO, span)
    }

    pub(crate) fn wake_pooler(&mut self, node: usize, at: u64) {
        if at < self.nodes[node].wake[0] {
            let late = self.soon() - self.t;
            self.nodes[node].wake[0] = at.saturating_add(late);
            self.push(at.saturating_add(late), Due::Pooler { node });
        }
    }

    pub(crate) fn wake_helper(&mut self, node: usize, at: u64) {
        if at < self.nodes[node].wake[1] {
            let late = self.soon() - self.t;
            self.nodes[node].wake[1] = at.saturating_add(late);
            self.push(at.saturating_add(late), Due::Helper { node });
        }
    }

    /// The kernel has the address, for a while.
    pub(crate) fn put_address(&mut self, node: usize, router: usize) {
        let until = self.t + VALID + self.rng.below(VALID_LATE);
        let before = self.nodes[node].addresses[router].replace(until);
        if before.is_none() {
            self.push(until, Due::Expire { node, router });
        }
    }

    // -- Processes.

    pub(crate) fn start_pooler(&mut self, node: usize, inherits: bool) {
        let (setup, t) = (&self.setup, self.t);
        let count = setup.routers.len();
        let now = self.nodes[node].clock.read(t);
        let routers = (0..count).map(|router| {
            let params = setup.router_params(node, router);
            let address = own_address(node, params.family);
            Router::new(now, params, address)
        });
        let pooler = Pooler {
            ha: Ha::new(now, setup.ha_params(node), &[]),
            routers: routers.collect(),
            held: vec![false; count],
            pending: vec![None; count],
            advertised: vec![0; count],
            welcomed: false,
            inherits,
            helper_gone: Some(t),
            unanswered: None,
            examined_at: t,
            call_at: t,
            renew_at: u64::MAX,
            said_helper: None,
            said_interface: None,
            interface: false,
            heard: None,
            link_up: false,
            beat_at: t,
            status: ha::Status::default(),
            leaving: false,
        };
        let there = &mut self.nodes[node];
        there.pooler = Some(pooler);
        there.pooler_run += 1;
        there.pooler_stopped = false;
        there.inbox.iter_mut().for_each(std::collections::VecDeque::clear);
        there.wake[0] = u64::MAX;
        (there.truth.draining, there.truth.leaving, there.truth.maintenance) = (false, false, false);
        for item in ha::Item::ALL {
            if item != ha::Item::Helper {
                self.tell_health(node, item);
            }
        }
        let servers = self.nodes[node].truth.servers;
        self.tell_servers(node, servers);
        self.wake_pooler(node, t);
    }

    pub(crate) fn tell_health(&mut self, node: usize, item: ha::Item) {
        let health = if self.nodes[node].truth.bad[item as usize] {
            ha::Health::Bad(format!("{item} are ill"))
        } else {
            ha::Health::Good
        };
        self.consider(node, ha::Event::Health(item, health));
    }

    pub(crate) fn tell_servers(&mut self, node: usize, reachable: bool) {
        let servers =
            if reachable { ha::Servers::Reachable } else { ha::Servers::Unreachable("connection refused".to_owned()) };
        self.consider(node, ha::Event::Servers(servers));
    }

    pub(crate) fn end_pooler(&mut self, node: usize) {
        let there = &mut self.nodes[node];
        if there.pooler.take().is_some() {
            there.pooler_run += 1;
            there.inbox.iter_mut().for_each(std::collections::VecDeque::clear);
            self.ask_helper(node, Request::Eof);
        }
    }

    /// By the machinery of the upgrade: the successor has the channel to the helper, which bridges the time between.
    pub(crate) fn replace_pooler(&mut self, node: usize, gap: u64) {
        let there = &mut self.nodes[node];
        if there.pooler.as_ref().is_none_or(|pooler| !pooler.welcomed || pooler.helper_gone.is_some())
            || there.pooler_stopped
            || there.paused.is_some()
        {
            return;
        }
        there.pooler = None;
        there.pooler_run += 1;
        there.replacing = true;
        there.inbox.iter_mut().for_each(std::collections::VecDeque::clear);
        let run = there.pooler_run;
        self.ask_helper(node, Request::Bridge { span: 3 * SECOND });
        self.push(self.t + gap, Due::Successor { node, run });
    }

    pub(crate) fn start_helper(&mut self, node: usize) {
        let count = self.setup.routers.len();
        let there = &mut self.nodes[node];
        if there.helper.is_none() {
            there.helper = Some(super::node::Helper::new(count));
            there.helper_run += 1;
            there.helper_stopped = false;
            there.wake[1] = u64::MAX;
        }
    }

    pub(crate) fn kill_helper(&mut self, node: usize) {
        let there = &mut self.nodes[node];
        if there.helper.take().is_some() {
            there.helper_run += 1;
            there.requests.clear();
            self.say(node, Said::Eof);
        }
    }

    pub(crate) fn reload(&mut self, node: usize) {
        let at = self.soon();
        self.mail_to_pooler(node, at, 1, Mail::Reload);
    }

    pub(crate) fn new_command(&mut self) -> u64 {
        self.next_command += 1;
        self.next_command
    }
}

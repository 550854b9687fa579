//! The pair in virtual time: two nodes with their virtual routers and decisions, a network that loses, doubles, reorders and is
//! cut in one direction, processes and machines that stop and die, and random schedules of all that. What must hold stands in
//! `sim/judge.rs`; what is simulated and how in `sim/world.rs`.
//!
//! `SIM_RUNS=100000 cargo test --release --test sim` runs so many schedules of each kind; `SIM_SEED=17` runs this one only, and
//! shows all that happens in it.

#![expect(clippy::unwrap_used, reason = "constants")]
#![expect(clippy::print_stdout, reason = "what was simulated, and the trace of a seed that is asked for")]

#[path = "sim/helper.rs"]
mod helper;
#[path = "sim/judge.rs"]
mod judge;
#[path = "sim/net.rs"]
mod net;
#[path = "sim/node.rs"]
mod node;
#[path = "sim/pooler.rs"]
mod pooler;
#[path = "sim/rng.rs"]
mod rng;
#[path = "sim/script.rs"]
mod script;
#[path = "sim/world.rs"]
mod world;

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;
use std::{env, thread};

use pgtandem::vrrp::State;
use rng::Rng;
use script::Act;
use world::{World, nanos};

const MICRO: u64 = 1_000;
const MILLI: u64 = 1_000_000;
const SECOND: u64 = 1_000_000_000;

/// What one run has seen.
#[derive(Default)]
struct Seen {
    moves: u64,
    transitions: u64,
    commands: u64,
}

impl Seen {
    fn add(&mut self, other: &Self) {
        self.moves += other.moves;
        self.transitions += other.transitions;
        self.commands += other.commands;
    }

    fn of(world: &World) -> Self {
        Self {
            moves: world.judge.moves.iter().sum(),
            transitions: world.judge.transitions,
            commands: world.judge.commands_done,
        }
    }
}

/// Runs a kind of schedule with many seeds, or the one asked for. The first that fails is told with all that happened.
fn run_all(kind: &str, runs: u64, run: impl Fn(u64, bool, &mut Vec<String>) -> Result<Seen, String> + Sync) {
    let number = |name: &str| env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    if let Some(seed) = number("SIM_SEED") {
        let mut trace = Vec::new();
        let result = run(seed, true, &mut trace);
        println!("{}", trace.join("\n"));
        result.map_err(|failure| format!("{kind}: SIM_SEED={seed}: {failure}")).unwrap();
        return;
    }
    let runs = number("SIM_RUNS").unwrap_or(runs);
    let began = Instant::now();
    let (next, failed) = (AtomicU64::new(0), AtomicU64::new(u64::MAX));
    let total = Mutex::new(Seen::default());
    let work = || {
        let mut own = Seen::default();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= runs.min(failed.load(Ordering::Relaxed)) {
                break;
            }
            match run(seed, false, &mut Vec::new()) {
                Ok(seen) => own.add(&seen),
                Err(_) => drop(failed.fetch_min(seed, Ordering::Relaxed)),
            }
        }
        total.lock().unwrap().add(&own);
    };
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(work);
        }
    });
    let seed = failed.into_inner();
    if seed != u64::MAX {
        let mut trace = Vec::new();
        let failure = run(seed, true, &mut trace).err().unwrap_or_else(|| "does not fail again".to_owned());
        panic!("{}\n{kind}: SIM_SEED={seed}: {failure}", trace.join("\n"));
    }
    let (seconds, total) = (began.elapsed().as_secs_f64(), total.into_inner().unwrap());
    println!(
        "{kind}: {runs} schedules, {} moves of addresses, {} changes of state, {} switchovers done in {seconds:.1} s \
         ({:.0} moves/s)",
        total.moves,
        total.transitions,
        total.commands,
        total.moves as f64 / seconds
    );
}

fn finish(mut world: World, result: Result<(), String>, trace: &mut Vec<String>) -> Result<Seen, String> {
    *trace = world.trace.take().unwrap_or_default();
    if !trace.is_empty() {
        trace.insert(0, format!("{:?}", world.setup));
        trace.push(format!("{:.3} ms: the end", world.t as f64 / MILLI as f64));
    }
    result.map(|()| Seen::of(&world))
}

/// (d) Exactly one node holds each address and is active, the other is backup, and it stays so.
fn converged(world: &mut World) -> Result<(), String> {
    let settled = world.judge.settled(&world.setup);
    world.run(world.t + settled)?;
    let watched_from = world.t;
    world.run(world.t + 12 * nanos(world.setup.interval) + 2 * SECOND)?;
    for router in 0..world.setup.routers.len() {
        let states =
            [0, 1].map(|node: usize| world.nodes[node].pooler.as_ref().map(|pooler| pooler.routers[router].state()));
        let holders = world.judge.holders(router);
        let good = matches!(
            (holders, states),
            (1, [Some(State::Active), Some(State::Backup)]) | (2, [Some(State::Backup), Some(State::Active)])
        );
        if !good {
            return Err(format!("(d) r{router} has not converged: {states:?}, holders {holders:#b}"));
        }
        if world.judge.moved_at[router] >= watched_from {
            return Err(format!("(d) r{router} still moves"));
        }
    }
    match judge::Judge::unanswered(world) {
        Some(command) => Err(format!("command {command} was never answered")),
        None => Ok(()),
    }
}

/// Anything at any time; in the end all is well.
#[test]
fn any_schedule_converges_and_breaks_no_promise() {
    run_all("chaos", 2_000, |seed, tracing, trace| {
        let mut rng = Rng::new(seed);
        let setup = script::setup(&mut rng);
        let (acts, end) = script::chaos(&mut rng, &setup);
        let mut world = World::new(setup, acts, rng, tracing);
        let result = world.run(end).and_then(|()| converged(&mut world));
        finish(world, result, trace)
    });
}

/// A few things, far apart, in a network that loses nothing: each planned move is made before it breaks, and succeeds.
#[test]
fn planned_moves_leave_no_gap() {
    run_all("planned", 300, |seed, tracing, trace| {
        let mut rng = Rng::new(seed ^ 0x1111);
        let mut setup = script::setup(&mut rng);
        (setup.link, setup.loss, setup.restless) = (true, 0, rng.pick(&[0, 0, 30]));
        // Adverts that overtake each other by more than an interval are no clean network.
        setup.delay.1 = setup.delay.1.min(nanos(setup.interval) / 4);
        let mut acts = script::beginning(&mut rng);
        let gap = judge::Judge::new(&setup).settled(&setup) + 2 * SECOND;
        let mut t = gap;
        for _ in 0..rng.between(1, 5) {
            let node = rng.index(2);
            let end = t + gap / 2;
            match rng.below(6) {
                0 => acts.extend([(t, Act::Maintenance(node, true)), (end, Act::Maintenance(node, false))]),
                1 => acts.extend([(t, Act::Drain(node, true)), (end, Act::Drain(node, false))]),
                2 => acts.extend([(t, Act::Servers(node, false)), (end, Act::Servers(node, true))]),
                3 => acts.extend([(t, Act::Leave(node)), (end, Act::StartPooler(node))]),
                _ => acts.push((t, Act::Switchover(node, None))),
            }
            t = end + gap + rng.below(SECOND);
        }
        let mut world = World::new(setup, acts, rng, tracing);
        let result = world.run(t).and_then(|()| converged(&mut world));
        finish(world, result, trace)
    });
}

/// (f) A node that comes back takes nothing from a fit active one, or with preempt what is its own, once.
#[test]
fn a_node_that_comes_back_takes_only_what_it_preempts() {
    run_all("rejoin", 300, |seed, tracing, trace| {
        let mut rng = Rng::new(seed ^ 0x2222);
        let mut setup = script::setup(&mut rng);
        setup.loss = 0;
        setup.delay.1 = setup.delay.1.min(nanos(setup.interval) / 4);
        setup.routers.iter_mut().for_each(|router| router.priority = router.priority.map(|it| it.min(254)));
        let acts = script::beginning(&mut rng);
        let node = rng.index(2);
        let mut world = World::new(setup, acts, rng, tracing);
        let result = converged(&mut world).and_then(|()| rejoin(&mut world, node));
        finish(world, result, trace)
    });
}

fn rejoin(world: &mut World, node: usize) -> Result<(), String> {
    let (away, back) = match world.rng.below(4) {
        0 => (Act::KillPooler(node), Act::StartPooler(node)),
        1 => (Act::StopPooler(node, true), Act::StopPooler(node, false)),
        // A machine whose clock has stood still too cannot know that it was replaced: it contends, by priority, and by address
        // where that is equal (RFC 9568 section 6.4.3).
        2 => (Act::Pause(node, world.setup.preempt && world.rng.percent(50)), Act::Unpause(node)),
        _ => (Act::Interface(node, false), Act::Interface(node, true)),
    };
    let contends = matches!(away, Act::Pause(_, true));
    let settled = world.judge.settled(&world.setup);
    world.act(away)?;
    judge::Judge::note_changes(world);
    world.run(world.t + settled)?;
    let before = world.judge.moves.clone();
    world.act(back)?;
    judge::Judge::note_changes(world);
    converged(world)?;
    for (router, before) in before.iter().enumerate() {
        let priority = world.setup.routers[router].priority;
        let own = priority[node] > priority[1 - node];
        // Where only addresses decide, it depends on what is heard first.
        let open = contends && priority[node] == priority[1 - node];
        let expected = u64::from(world.setup.preempt && own);
        let moves = world.judge.moves[router] - before;
        if moves != expected && !(open && moves <= 1) {
            return Err(format!("(f) r{router} has moved {moves} times, not {expected}, when node {node} came back"));
        }
    }
    Ok(())
}

/// Both are unfit: nobody holds it; the first that is fit again does.
#[test]
fn of_two_unfit_nodes_the_first_that_recovers_holds() {
    run_all("unfit", 200, |seed, tracing, trace| {
        let mut rng = Rng::new(seed ^ 0x3333);
        let mut setup = script::setup(&mut rng);
        setup.loss = 0;
        let acts = script::beginning(&mut rng);
        let first = rng.index(2);
        let mut world = World::new(setup, acts, rng, tracing);
        let result = converged(&mut world).and_then(|()| both_unfit(&mut world, first));
        finish(world, result, trace)
    });
}

fn both_unfit(world: &mut World, first: usize) -> Result<(), String> {
    let item = pgtandem::ha::Item::Probe;
    for node in [0, 1] {
        world.act(Act::Health(node, item, false))?;
    }
    judge::Judge::note_changes(world);
    world.run(world.t + 3 * SECOND)?;
    let held = |world: &World| (0..world.setup.routers.len()).map(|r| world.judge.holders(r)).collect::<Vec<u8>>();
    if held(world).iter().any(|holders| *holders != 0) {
        return Err("an unfit node holds an address".to_owned());
    }
    world.act(Act::Health(first, item, true))?;
    judge::Judge::note_changes(world);
    world.run(world.t + nanos(world.setup.fit_again) + 9 * nanos(world.setup.interval) + SECOND)?;
    if held(world).iter().any(|holders| *holders != 1 << first) {
        return Err(format!("node {first} is fit and does not hold all addresses: {:?}", held(world)));
    }
    world.act(Act::Health(1 - first, item, true))?;
    judge::Judge::note_changes(world);
    converged(world)
}

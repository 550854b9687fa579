//! Scripts, one for each rule: a time in seconds, a call, and after `->` what comes of it. `wait` runs the timers.

mod own;
mod random;
mod share;

use super::*;
use crate::clock::Time;
use crate::fault::{Culprit, Fault};
use crate::ids::{ClientId, PoolId, ServerId};
use std::collections::HashMap;
use std::time::Duration;

struct Script {
    registry: Registry,
    now: Time,
    out: Vec<Action>,
}

/// Runs a script; servers are `s1`, `s2` … in the order in which they are opened, `a.x` is database a, user x.
fn check(script: &str) {
    let mut run =
        Script { registry: Registry::new(Ids::default(), GlobalParams::default()), now: Time(0), out: vec![] };
    for line in script.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let (call, expected) = line.split_once("->").unwrap_or((line, ""));
        let words: Vec<&str> = call.split_whitespace().collect();
        let at = Time((words[0].parse::<f64>().unwrap() * 1e9) as u64);
        let got = if words[1] == "wait" {
            run.wait(at, true)
        } else {
            let early = run.wait(at, false);
            assert!(early.is_empty(), "before {line}: {early}");
            run.call(&words[1..])
        };
        assert_eq!(got, expected.trim(), "\n{line}");
    }
}

fn secs(text: &str) -> Duration {
    Duration::from_secs_f64(text.parse().unwrap())
}

fn id(word: &str) -> u64 {
    word[1..].parse().unwrap()
}

fn database(word: &str) -> DatabaseId {
    DatabaseId(u32::from(word.as_bytes()[0]))
}

fn user(word: &str) -> UserId {
    UserId(u32::from(word.as_bytes()[2]))
}

/// A server opened a moment ago by a former process.
fn standing(server: ServerId, pool: PoolId, client: Option<ClientId>, now: Time) -> Standing {
    Standing { server, pool, client, opened_at: now, idle_since: now, used: true, close_needed: false }
}

impl Script {
    fn wait(&mut self, until: Time, inclusive: bool) -> String {
        let mut said = vec![];
        while let Some(due) = self.registry.deadline() {
            if due > until || (due == until && !inclusive) {
                break;
            }
            self.now = self.now.max(due);
            self.registry.tick(self.now, &mut self.out);
            assert!(self.registry.deadline().is_none_or(|next| next > self.now), "a deadline stands still");
            let text = self.drain();
            if !text.is_empty() {
                said.push(format!("@{} {text}", self.now.0 as f64 / 1e9));
            }
        }
        self.now = until;
        said.join("; ")
    }

    fn call(&mut self, words: &[&str]) -> String {
        let mut said = self.answer(words);
        let actions = self.drain();
        if !said.is_empty() && !actions.is_empty() {
            said.push_str("; ");
        }
        said + &actions
    }

    fn pool(&self, word: &str) -> PoolId {
        self.registry.pool_of(database(word), user(word)).unwrap_or(PoolId(999))
    }

    fn answer(&mut self, words: &[&str]) -> String {
        let args: HashMap<&str, &str> = words.iter().filter_map(|word| word.split_once('=')).collect();
        let (now, word) = (self.now, |n: usize| words.get(n).copied().unwrap_or(""));
        let server = || ServerId(id(word(1)));
        match words[0] {
            "global" => self.globals(&args),
            "db" => {
                let max_db_connections = args["limit"].parse().unwrap();
                self.registry.set_database(now, database(word(1)), DatabaseParams { max_db_connections });
            }
            "user" => {
                let max_user_connections = args["limit"].parse().unwrap();
                self.registry.set_user(now, user(word(1)), UserParams { max_user_connections });
            }
            "share" => {
                let share = args["of"].parse().ok();
                match word(1) {
                    name if name.contains('.') => {
                        self.registry.set_user_share(now, user(name), share, &mut self.out);
                    }
                    name => self.registry.set_database_share(now, database(name), share, &mut self.out),
                }
            }
            "untold" => {
                let of: Option<Untold> = (word(1) == "half").then_some(|limit| limit / 2);
                self.registry.set_untold_share(now, of);
            }
            "use" => {
                let LimitUse { servers, blocked } = match word(1) {
                    name if name.contains('.') => self.registry.user_use(user(name)),
                    name => self.registry.database_use(database(name)),
                };
                return format!("{servers} servers, {blocked} blocked");
            }
            "pool" => self.ensure(word(1), &args, words.contains(&"forced")),
            "attach" => self.registry.client_attached(now, self.pool(word(1))),
            "detach" => self.registry.client_detached(now, self.pool(word(1))),
            "checkout" | "own" | "again" | "welcome" => return self.ask(words, &args),
            "leave" => return self.registry.leave(ClientId(id(word(1)))).to_string(),
            "ready" => return known(self.registry.server_ready(now, server(), &mut self.out)),
            "fail" => self.fail(words),
            "gone" => self.registry.server_gone(now, server(), &mut self.out),
            "checked" => self.registry.check_passed(server()),
            "retire" => self.registry.retire(now, server(), &mut self.out),
            "freeze" => self.registry.freeze(),
            "thaw" => self.registry.thaw(now, &mut self.out),
            "adopt" => {
                let client = words.get(2).map(|client| ClientId(id(client)));
                let pool = self.pool(word(1));
                let server = ServerId(self.registry.ids.draw());
                let standing = standing(server, pool, client, now);
                assert!(self.registry.adopt(now, &standing, &mut self.out));
                return format!("s{}", server.0);
            }
            "reset" => self.registry.begin_reset(server(), &mut self.out),
            "release" => {
                let fate = match word(2) {
                    "unused" => Fate::Unused,
                    "close" => Fate::Close("test"),
                    _ => Fate::Idle,
                };
                return known(self.registry.release(now, server(), fate, &mut self.out));
            }
            "cancel" => {
                let target = ServerId(id(word(2)));
                return self.registry.cancel(now, ClientId(id(word(1))), target, &mut self.out).to_string();
            }
            "sent" => return self.registry.cancel_connected(ClientId(id(word(1)))).to_string(),
            "done" => self.registry.cancel_done(now, ClientId(id(word(1))), &mut self.out),
            "show" => return self.show(word(1)),
            _ => return self.command(words),
        }
        String::new()
    }

    fn command(&mut self, words: &[&str]) -> String {
        let (now, named) = (self.now, words.get(1).map(|word| database(word)));
        match (words[0], named) {
            ("pause", Some(database)) => self.registry.pause(now, database, &mut self.out),
            ("pause", None) => self.registry.pause_all(now, &mut self.out),
            ("resume", Some(database)) => return self.registry.resume(now, database).to_string(),
            ("resume", None) => self.registry.resume_all(now),
            ("shutdown", _) => {
                let fault = Fault::fatal(Culprit::Us, "server shutting down");
                self.registry.shut_down(now, &fault, &mut self.out);
                assert!(self.registry.is_ending());
            }
            ("turn_away", _) => {
                let fault = Fault::fatal(Culprit::Us, "server shutting down");
                self.registry.turn_away(&fault, &mut self.out);
                assert!(self.registry.is_ending());
            }
            ("suspend", _) => self.registry.suspend(),
            ("reconnect", database) => self.registry.reconnect(now, database, &mut self.out),
            ("kill", Some(database)) => self.registry.kill(now, database, &mut self.out),
            ("kill", None) => self.registry.kill_all(now, &mut self.out),
            ("drop", Some(database)) => self.registry.drop_database(now, database, &mut self.out),
            ("busy", database) => return self.registry.busy(database).to_string(),
            ("closing", database) => return self.registry.closing(database).to_string(),
            ("paused", Some(database)) => return self.registry.is_paused(database).to_string(),
            ("servers", Some(database)) => return self.registry.of_database(database).to_string(),
            _ => panic!("unknown call {words:?}"),
        }
        String::new()
    }

    fn globals(&mut self, args: &HashMap<&str, &str>) {
        let mut globals = self.registry.globals.clone();
        for (&key, &value) in args {
            match key {
                "reserve_timeout" => globals.reserve_pool_timeout = secs(value),
                "idle_timeout" => globals.server_idle_timeout = secs(value),
                "check_delay" => globals.server_check_delay = secs(value),
                "check" => globals.server_check = value == "1",
                "retry" => globals.server_login_retry = secs(value),
                "rr" => globals.server_round_robin = value == "1",
                "pool_idle" => globals.pool_idle_timeout = secs(value),
                _ => panic!("{key}"),
            }
        }
        self.registry.set_globals(self.now, globals);
    }

    fn ensure(&mut self, word: &str, args: &HashMap<&str, &str>, forced_user: bool) {
        let mut params = PoolParams { forced_user, ..PoolParams::default() };
        for (&key, &value) in args {
            match key {
                "size" => params.pool_size = value.parse().unwrap(),
                "min" => params.min_pool_size = value.parse().unwrap(),
                "reserve" => params.reserve_pool_size = value.parse().unwrap(),
                "lifetime" => params.server_lifetime = secs(value),
                _ => panic!("{key}"),
            }
        }
        self.registry.ensure_pool(self.now, database(word), user(word), &params);
    }

    fn ask(&mut self, words: &[&str], args: &HashMap<&str, &str>) -> String {
        let (now, pool, client) = (self.now, self.pool(words[1]), ClientId(id(words[2])));
        let checkout = match words[0] {
            "checkout" => self.registry.checkout(now, pool, client, &mut self.out),
            "own" => self.registry.checkout_own(now, pool, client, &mut self.out),
            "again" => {
                let since = Time(secs(args["since"]).as_nanos() as u64);
                self.registry.checkout_again(now, pool, client, since, &mut self.out)
            }
            _ => match self.registry.await_welcome(now, pool, client, &mut self.out) {
                Welcome::Known => return "known".into(),
                Welcome::Queued => Checkout::Queued,
                Welcome::Refused(fault) => Checkout::Refused(fault),
            },
        };
        match checkout {
            Checkout::Granted { server, needs_check } => granted(server, needs_check),
            Checkout::Queued => "queued".into(),
            Checkout::Refused(fault) => format!("refused {fault}"),
        }
    }

    fn fail(&mut self, words: &[&str]) {
        let failure = match words[2] {
            "connect" => Failure::Connect(words[3..].join(" ")),
            code => Failure::Login(Fault::fatal(Culprit::Server, words[3..].join(" ")).with_sqlstate(code.to_owned())),
        };
        self.registry.server_failed(self.now, ServerId(id(words[1])), failure, &mut self.out);
    }

    fn show(&self, word: &str) -> String {
        let Some(PoolView { counts, .. }) = self.registry.pool(self.now, self.pool(word)) else { return "none".into() };
        let wait = u32::try_from(counts.max_wait.as_secs()).unwrap();
        let named = [
            ("cl_active", counts.clients_active),
            ("cl_waiting", counts.clients_waiting),
            ("cl_active_cancel_req", counts.cancels_active),
            ("cl_waiting_cancel_req", counts.cancels_waiting),
            ("active", counts.active),
            ("active_cancel", counts.active_cancel),
            ("being_canceled", counts.being_canceled),
            ("idle", counts.idle),
            ("used", counts.used),
            ("tested", counts.tested),
            ("login", counts.login),
            ("maxwait", wait),
        ];
        let shown = named.iter().filter(|(_, n)| *n > 0).map(|(name, n)| format!("{name}={n}"));
        shown.collect::<Vec<_>>().join(" ")
    }

    fn drain(&mut self) -> String {
        self.out.drain(..).map(|action| say(&action)).collect::<Vec<_>>().join("; ")
    }
}

fn known(known: bool) -> String {
    if known { String::new() } else { "unknown".into() }
}

fn granted(server: ServerId, needs_check: bool) -> String {
    format!("granted s{server}{}", if needs_check { " check" } else { "" })
}

fn say(action: &Action) -> String {
    match action {
        Action::Open { server, pool } => format!("open s{server} p{}", pool.0),
        Action::OpenOwn { server, pool, client } => format!("own s{server} p{} c{client}", pool.0),
        Action::OpenCancel { server, request, target, .. } => format!("carry c{request} s{server} to s{target}"),
        Action::DropCancel { request, .. } => format!("drop c{request}"),
        Action::Grant { client, server, needs_check, .. } => format!("c{client} {}", granted(*server, *needs_check)),
        Action::Welcome { client, .. } => format!("c{client} welcome"),
        Action::Refuse { client, fault } => format!("c{client} refused {fault}"),
        Action::Close { server, reason } => format!("close s{server} {reason}"),
        Action::CloseNeeded { server, .. } => format!("doomed s{server}"),
        Action::LogReserve { client, .. } => format!("reserve c{client}"),
        Action::PoolGone { pool, why: PoolEnd::Removed, .. } => format!("removed p{}", pool.0),
        Action::PoolGone { pool, why: PoolEnd::Idle(age), .. } => format!("abandoned p{} {}s", pool.0, age.as_secs()),
        Action::Settled { .. } => "settled".into(),
    }
}

#[test]
fn while_frozen_nothing_is_given_opened_or_closed() {
    check(
        "0 pool a.x size=2
         0 checkout a.x c1 -> queued; open s1 p1
         0 ready s1 -> c1 granted s1
         0 checkout a.x c2 -> queued; open s2 p1
         0 ready s2 -> c2 granted s2
         0 checkout a.x c3 -> queued
         1 freeze
         1 release s1 idle
         1 checkout a.x c4 -> queued
         9999 wait
         9999 show a.x -> cl_waiting=2 active=1 used=1 maxwait=9999
         9999 release s2 idle
         9999 leave c3 -> true
         9999 again a.x c3 since=0 -> queued
         9999 thaw -> close s2 server lifetime over; open s3 p1; c3 granted s1 check
         9999 ready s3 -> c4 granted s3",
    );
}

#[test]
fn while_frozen_a_login_can_finish() {
    check(
        "0 pool a.x size=2
         0 freeze
         0 welcome a.x c1 -> queued; open s1 p1
         0 checkout a.x c2 -> queued
         1 ready s1 -> c1 welcome
         1 checkout a.x c1 -> queued
         1 leave c1 -> true
         2 thaw -> c2 granted s1",
    );
}

#[test]
fn the_server_used_last_is_taken_first() {
    check(
        "0 pool a.x
         0 checkout a.x c1 -> queued; open s1 p1
         0 checkout a.x c2 -> queued
         1 ready s1 -> c1 granted s1; open s2 p1
         1 ready s2 -> c2 granted s2
         2 release s1 idle
         3 release s2 idle
         4 checkout a.x c3 -> granted s2
         4 checkout a.x c4 -> granted s1
         5 release s2 idle
         6 release s1 idle
         6 global rr=1
         7 checkout a.x c5 -> granted s2",
    );
}

#[test]
fn clients_wait_in_the_order_of_their_coming() {
    check(
        "0 pool a.x size=1
         0 checkout a.x c1 -> queued; open s1 p1
         0 ready s1 -> c1 granted s1
         1 checkout a.x c2 -> queued
         2 checkout a.x c3 -> queued
         3 checkout a.x c4 -> queued
         4 leave c3 -> true
         4 leave c3 -> false
         5 show a.x -> cl_waiting=2 active=1 maxwait=4
         6 release s1 idle -> c2 granted s1
         7 leave c2 -> false
         7 release s1 unused -> c4 granted s1
         8 release s1 close
         8 show a.x ->",
    );
}

#[test]
fn a_server_idle_for_long_is_checked_before_use() {
    check(
        "0 pool a.x size=1
         0 checkout a.x c1 -> queued; open s1 p1
         0 ready s1 -> c1 granted s1
         1 release s1 idle
         30 checkout a.x c2 -> granted s1
         30 release s1 idle
         60 show a.x -> used=1
         60 checkout a.x c3 -> granted s1 check
         60 show a.x -> tested=1
         60 checkout a.x c4 -> queued
         60 checked s1
         60 show a.x -> cl_waiting=1 active=1
         61 release s1 idle -> c4 granted s1
         62 release s1 idle
         95 checkout a.x c5 -> granted s1 check
         95 checkout a.x c6 -> queued
         96 release s1 close -> open s2 p1
         96 again a.x c5 since=95 -> queued
         97 ready s2 -> c6 granted s2
         98 release s2 idle -> c5 granted s2",
    );
}

#[test]
fn a_client_whose_check_failed_keeps_its_place() {
    check(
        "0 pool a.x size=1
         0 checkout a.x c1 -> queued; open s1 p1
         0 ready s1 -> c1 granted s1
         1 release s1 idle
         40 checkout a.x c2 -> granted s1 check
         41 checkout a.x c3 -> queued
         42 release s1 close -> open s2 p1
         42 again a.x c2 since=40 -> queued
         43 ready s2 -> c2 granted s2",
    );
}

#[test]
fn a_check_delay_of_zero_checks_every_reuse_but_not_a_fresh_login() {
    check(
        "0 global check_delay=0
         0 pool a.x size=1
         0 checkout a.x c1 -> queued; open s1 p1
         0 ready s1 -> c1 granted s1
         1 release s1 unused
         1.1 checkout a.x c2 -> granted s1 check
         1.1 checked s1
         2 checkout a.x c3 -> queued
         2 release s1 idle -> c3 granted s1 check
         2 checked s1
         3 release s1 idle
         3 global check=0
         3 checkout a.x c4 -> granted s1",
    );
}

#[test]
fn a_welcome_takes_no_server_and_uses_none_up() {
    check(
        "0 pool a.x lifetime=0
         0 attach a.x
         0 welcome a.x c1 -> queued; open s1 p1
         0 welcome a.x c2 -> queued
         0 checkout a.x c3 -> queued
         0.1 ready s1 -> c1 welcome; c2 welcome; c3 granted s1
         0.1 welcome a.x c4 -> known
         0.2 release s1 idle -> close s1 server lifetime over
         1 checkout a.x c3 -> queued; open s2 p1
         1 leave c3 -> true
         1 ready s2
         1.1 checkout a.x c3 -> granted s2
         1.2 release s2 idle -> close s2 server lifetime over
         2 checkout a.x c3 -> queued; open s3 p1
         2 leave c3 -> true
         2 ready s3
         3 wait -> @2.333 close s3 server lifetime over",
    );
}

#[test]
fn after_reconnect_clients_are_welcomed_by_a_new_server_if_there_is_room() {
    check(
        "0 pool a.x size=1
         0 checkout a.x c1 -> queued; open s1 p1
         0 ready s1 -> c1 granted s1
         1 reconnect a -> doomed s1
         1 welcome a.x c2 -> known
         2 release s1 idle -> close s1 close_needed; settled
         2 welcome a.x c3 -> queued; open s2 p1
         2 ready s2 -> c3 welcome
         2 welcome a.x c4 -> known",
    );
}

#[test]
fn a_login_error_is_told_to_all_and_remembered() {
    check(
        "0 pool a.x
         0 checkout a.x c1 -> queued; open s1 p1
         0 checkout a.x c2 -> queued
         0 welcome a.x c3 -> queued
         1 fail s1 28P01 no such role -> c1 refused no such role; c2 refused no such role; c3 refused no such role
         2 checkout a.x c4 -> refused server login has been failing, cached error: no such role (server_login_retry)
         3 welcome a.x c5 -> queued
         20 wait -> @15 open s2 p1
         20 checkout a.x c6 -> refused server login has been failing, cached error: no such role (server_login_retry)
         21 ready s2 -> c5 welcome
         21 checkout a.x c7 -> granted s2",
    );
}

#[test]
fn a_server_that_cannot_take_connections_now_or_be_reached_is_waited_for() {
    for failure in ["57P03 the database system is starting up", "connect connect failed"] {
        check(&format!(
            "0 global retry=3
             0 pool a.x
             0 checkout a.x c1 -> queued; open s1 p1
             1 fail s1 {failure}
             2.5 wait ->
             4 wait -> @3 open s2 p1
             4 fail s2 {failure}
             5 ready s2 -> unknown
             7 wait -> @6 open s3 p1
             7 ready s3 -> c1 granted s3"
        ));
    }
}

#[test]
fn a_login_error_is_told_to_nobody_while_the_pool_has_usable_servers() {
    check(
        "0 pool a.x
         0 checkout a.x c1 -> queued; open s1 p1
         0 ready s1 -> c1 granted s1
         1 checkout a.x c2 -> queued; open s2 p1
         2 fail s2 28P01 no
         3 checkout a.x c3 -> queued
         4 reconnect a -> doomed s1; open s3 p1
         5 fail s3 28P01 no -> c2 refused no; c3 refused no
         6 release s1 idle -> close s1 close_needed; settled
         6 checkout a.x c4 -> refused server login has been failing, cached error: no (server_login_retry)",
    );
}

#[test]
fn no_retry_without_pause_even_if_none_is_set() {
    check(
        "0 global retry=0
         0 pool a.x
         0 checkout a.x c1 -> queued; open s1 p1
         0 fail s1 connect refused
         0 checkout a.x c2 -> queued
         0.4 wait -> @0.333 open s2 p1",
    );
}

#[test]
fn one_attempt_at_a_time_and_never_more_than_pool_size() {
    check(
        "0 pool a.x size=2
         0 checkout a.x c1 -> queued; open s1 p1
         0 checkout a.x c2 -> queued
         0 checkout a.x c3 -> queued
         1 ready s1 -> c1 granted s1; open s2 p1
         2 ready s2 -> c2 granted s2
         3 gone s1 -> open s3 p1
         4 ready s3 -> c3 granted s3
         5 pool a.x size=0
         5 checkout a.x c4 -> queued; open s4 p1",
    );
}

#[test]
fn a_larger_pool_size_is_used_and_a_smaller_one_enforced() {
    check(
        "0 pool a.x size=1
         0 checkout a.x c1 -> queued; open s1 p1
         0 checkout a.x c2 -> queued
         0 ready s1 -> c1 granted s1
         1 pool a.x size=3
         1 wait -> @1 open s2 p1
         1 ready s2 -> c2 granted s2
         1 checkout a.x c3 -> queued; open s3 p1
         1 ready s3 -> c3 granted s3
         2 release s1 idle
         2 pool a.x size=1
         2 wait -> @2 close s1 too many servers in the pool
         3 checkout a.x c4 -> queued
         4 release s2 idle -> close s2 too many servers in the pool
         5 release s3 idle -> c4 granted s3",
    );
}

#[test]
fn the_reserve_is_for_those_who_waited_long() {
    check(
        "0 global reserve_timeout=2
         0 pool a.x size=1 reserve=2
         0 checkout a.x c1 -> queued; open s1 p1
         0 ready s1 -> c1 granted s1
         1 checkout a.x c2 -> queued
         2 checkout a.x c3 -> queued
         2 checkout a.x c4 -> queued
         2.9 wait ->
         3 wait -> @3 reserve c2; open s2 p1
         3.5 ready s2 -> c2 granted s2
         4 wait -> @4 reserve c3; open s3 p1
         4 ready s3 -> c3 granted s3
         30 wait ->
         31 release s1 idle -> c4 granted s1
         32 global reserve_timeout=0
         32 release s2 close
         32 checkout a.x c5 -> queued
         90 wait ->
         90 release s3 close
         90 release s1 close -> open s4 p1",
    );
}

#[test]
fn reserve_is_left_alone_when_its_timeout_is_off() {
    check(
        "0 global reserve_timeout=0
         0 pool a.x size=1 reserve=2
         0 checkout a.x c1 -> queued; open s1 p1
         0 ready s1 -> c1 granted s1
         1 checkout a.x c2 -> queued
         90 wait ->",
    );
}

#[test]
fn the_oldest_idle_server_of_the_database_makes_room() {
    check(
        "0 db a limit=2
         0 pool a.x
         0 pool a.y
         0 pool a.z
         0 checkout a.x c1 -> queued; open s1 p1
         0 checkout a.y c2 -> queued; open s2 p2
         0 checkout a.z c3 -> queued
         1 ready s1 -> c1 granted s1
         1 ready s2 -> c2 granted s2
         2 release s2 idle -> close s2 evicted; open s3 p3
         3 ready s3 -> c3 granted s3
         4 release s1 idle
         5 release s3 idle
         6 checkout a.y c4 -> queued; close s1 evicted; open s4 p2
         7 fail s4 connect x
         7 servers a -> 1
         8 db a limit=1
         8 wait ->
         21 wait -> @21 close s3 evicted; open s5 p2",
    );
}

#[test]
fn the_oldest_idle_server_of_the_user_makes_room() {
    check(
        "0 user _.x limit=1
         0 pool a.x
         0 pool b.x
         0 pool b.y
         0 checkout b.y c9 -> queued; open s1 p3
         0 ready s1 -> c9 granted s1
         0 release s1 idle
         0 checkout a.x c1 -> queued; open s2 p1
         0 ready s2 -> c1 granted s2
         1 checkout b.x c2 -> queued
         2 checkout a.x c3 -> queued
         3 release s2 idle -> c3 granted s2
         4 release s2 idle -> close s2 evicted; open s3 p2
         5 ready s3 -> c2 granted s3",
    );
}

#[test]
fn nobody_is_evicted_for_nothing() {
    check(
        "0 db a limit=1
         0 user _.x limit=1
         0 pool a.x
         0 pool a.y
         0 pool b.x
         0 checkout b.x c1 -> queued; open s1 p3
         0 ready s1 -> c1 granted s1
         0 checkout a.y c2 -> queued; open s2 p2
         0 ready s2 -> c2 granted s2
         1 release s2 idle
         2 checkout a.x c3 -> queued
         3 release s1 idle -> close s2 evicted; close s1 evicted; open s3 p1",
    );
}

#[test]
fn room_goes_to_the_pool_that_asked_first() {
    check(
        "0 db a limit=1
         0 pool a.x
         0 pool a.y
         0 pool a.z
         0 checkout a.x c1 -> queued; open s1 p1
         0 ready s1 -> c1 granted s1
         1 checkout a.z c2 -> queued
         2 checkout a.y c3 -> queued
         3 release s1 close -> open s2 p3
         4 fail s2 28000 no -> c2 refused no; open s3 p2
         5 db a limit=3
         5 wait ->
         6 ready s3 -> c3 granted s3",
    );
}

#[test]
fn min_pool_size_is_kept_up_one_server_a_round() {
    check(
        "0 global idle_timeout=100
         0 pool a.x min=2 forced
         0.3 wait ->
         0.4 wait -> @0.333 open s1 p1
         0.4 ready s1
         0.9 wait -> @0.733 open s2 p1
         0.9 ready s2
         99 wait ->
         150 wait ->
         151 gone s1
         152 wait -> @151.333 open s3 p1
         152 ready s3
         153 checkout a.x c1 -> granted s3
         153 checkout a.x c2 -> granted s2 check
         153 checkout a.x c3 -> queued; open s4 p1
         154 ready s4 -> c3 granted s4
         155 release s2 idle
         156 release s3 idle
         157 release s4 idle
         400 wait -> @255 close s2 server idle timeout",
    );
}

#[test]
fn min_pool_size_without_forced_user_needs_clients() {
    check(
        "0 global idle_timeout=100
         0 pool a.x min=1
         9 wait ->
         9 attach a.x
         10 wait -> @9.333 open s1 p1
         10 ready s1
         11 detach a.x
         500 wait ->
         500 gone s1
         600 wait ->",
    );
}

#[test]
fn min_pool_size_evicts_nobody_and_waits_for_room() {
    check(
        "0 db a limit=2
         0 pool a.y
         0 checkout a.y c1 -> queued; open s1 p1
         0 ready s1 -> c1 granted s1
         0 release s1 idle
         1 pool a.x min=3 forced
         2 wait -> @1.333 open s2 p2
         2 ready s2
         9 wait ->
         9 gone s1
         10 wait -> @9.333 open s3 p2
         10 ready s3
         60 wait ->
         61 pause a -> close s3 pause mode; close s2 pause mode
         70 wait ->
         71 resume a -> true
         72 wait -> @71.333 open s4 p2",
    );
}

#[test]
fn min_pool_size_respects_pool_size_and_login_retry() {
    check(
        "0 global retry=5
         0 pool a.x min=3 size=1 forced
         1 wait -> @0.333 open s1 p1
         1 fail s1 connect refused
         6 wait -> @5.333 open s2 p1
         6 ready s2
         99 wait ->",
    );
}

#[test]
fn idle_servers_are_closed_after_their_timeout() {
    check(
        "0 global idle_timeout=10
         0 pool a.x
         0 checkout a.x c1 -> queued; open s1 p1
         0 ready s1 -> c1 granted s1
         0 checkout a.x c2 -> queued; open s2 p1
         0 ready s2 -> c2 granted s2
         5 release s1 idle
         8 release s2 idle
         9 checkout a.x c3 -> granted s2
         15 wait -> @15 close s1 server idle timeout
         99 wait ->
         100 release s2 idle
         109 global idle_timeout=0
         999 wait ->",
    );
}

#[test]
fn lifetimes_end_one_after_the_other() {
    check(
        "0 pool a.x size=4 lifetime=100
         0 checkout a.x c1 -> queued; open s1 p1
         0 ready s1 -> c1 granted s1
         0 checkout a.x c2 -> queued; open s2 p1
         0 ready s2 -> c2 granted s2
         0 checkout a.x c3 -> queued; open s3 p1
         0 ready s3 -> c3 granted s3
         1 release s1 idle
         2 release s2 idle
         100 wait -> @100 close s1 server lifetime over
         110 release s3 idle
         125 wait -> @125 close s2 server lifetime over
         130 checkout a.x c4 -> granted s3
         150 release s3 idle -> close s3 server lifetime over",
    );
}

#[test]
fn reconnect_replaces_every_server() {
    check(
        "0 pool a.x
         0 pool b.x
         0 checkout b.x c8 -> queued; open s1 p2
         0 ready s1 -> c8 granted s1
         0 checkout a.x c1 -> queued; open s2 p1
         0 ready s2 -> c1 granted s2
         0 checkout a.x c2 -> queued; open s3 p1
         0 ready s3 -> c2 granted s3
         1 release s3 idle
         1 checkout a.x c3 -> granted s3
         1 checkout a.x c4 -> queued; open s4 p1
         1 release s3 idle -> c4 granted s3
         1 release s3 idle
         2 reconnect a -> close s4 connect string changed; close s3 database configuration changed; doomed s2
         2 closing a -> 1
         2 closing -> 1
         2 reconnect a ->
         3 ready s4 -> unknown
         3 release s2 idle -> close s2 close_needed; settled
         4 closing a -> 0
         4 reconnect -> doomed s1",
    );
}

#[test]
fn pause_closes_what_is_free_and_waits_for_the_rest() {
    check(
        "0 pool a.x
         0 checkout a.x c1 -> queued; open s1 p1
         0 ready s1 -> c1 granted s1
         0 checkout a.x c2 -> queued; open s2 p1
         0 ready s2 -> c2 granted s2
         0 release s2 idle
         0 checkout a.x c3 -> granted s2
         0 checkout a.x c4 -> queued; open s3 p1
         0 release s2 idle -> c4 granted s2
         0 release s2 idle
         1 pause a -> close s2 pause mode; close s3 pause mode
         1 paused a -> true
         1 busy a -> 1
         1 ready s3 -> unknown
         2 checkout a.x c5 -> queued
         3 release s1 idle -> close s1 pause mode; settled
         3 busy a -> 0
         900 wait ->
         900 show a.x -> cl_waiting=1 maxwait=898
         900 resume a -> true
         900 resume a -> false
         900 wait -> @900 open s4 p1",
    );
    check(
        "0 pool a.x
         0 checkout a.x c1 -> queued; open s1 p1
         0 ready s1 -> c1 granted s1
         1 pause ->
         1 reset s1
         1 busy -> 1
         1 release s1 idle -> close s1 pause mode; settled
         2 checkout a.x c2 -> queued
         3 resume
         3 wait -> @3 open s2 p1",
    );
}

#[test]
fn a_shutdown_waits_for_servers_and_refuses_clients() {
    check(
        "0 pool a.x
         0 checkout a.x c1 -> queued; open s1 p1
         0 ready s1 -> c1 granted s1
         0 checkout a.x c2 -> queued; open s2 p1
         1 shutdown -> close s2 pause mode; c2 refused server shutting down
         1 checkout a.x c3 -> refused server shutting down
         1 again a.x c3 since=0 -> refused server shutting down
         1 welcome a.x c4 -> known
         2 release s1 idle -> close s1 pause mode; settled",
    );
}

#[test]
fn at_the_end_nobody_waits_and_busy_servers_stay() {
    check(
        "0 pool a.x size=1
         0 checkout a.x c1 -> queued; open s1 p1
         0 ready s1 -> c1 granted s1
         0 checkout a.x c2 -> queued
         1 turn_away -> c2 refused server shutting down
         1 checkout a.x c3 -> refused server shutting down
         2 busy -> 1",
    );
}

#[test]
fn servers_of_a_former_process_are_taken_over() {
    check(
        "0 global idle_timeout=10
         0 pool a.x size=2
         0 adopt a.x -> s1
         0 adopt a.x c1 -> s2
         0 welcome a.x c3 -> known
         1 checkout a.x c3 -> granted s1
         1 checkout a.x c4 -> queued
         2 release s2 idle -> c4 granted s2
         3 release s1 idle
         13 wait -> @13 close s1 server idle timeout",
    );
}

#[test]
fn a_single_server_may_be_retired() {
    check(
        "0 pool a.x size=2
         0 adopt a.x -> s1
         0 adopt a.x c1 -> s2
         1 retire s1 -> close s1 database configuration changed
         1 retire s2 -> doomed s2
         1 closing a -> 1
         2 release s2 idle -> close s2 close_needed; settled",
    );
}

#[test]
fn suspend_gives_servers_out_but_closes_none() {
    check(
        "0 global idle_timeout=10
         0 pool a.x min=5
         0 attach a.x
         0 checkout a.x c1 -> queued; open s1 p1
         0 ready s1 -> c1 granted s1
         0 suspend
         0 release s1 idle
         1 checkout a.x c2 -> granted s1
         1 release s1 idle
         99 wait ->
         99 pool a.x
         99 resume
         99 wait -> @99 close s1 server idle timeout",
    );
}

#[test]
fn a_server_in_reset_is_waited_for_before_another_is_opened() {
    check(
        "0 pool a.x size=5
         0 checkout a.x c1 -> queued; open s1 p1
         0 ready s1 -> c1 granted s1
         1 reset s1
         1 show a.x -> tested=1
         1 checkout a.x c2 -> queued
         1 checkout a.x c3 -> queued; open s2 p1
         1 leave c3 -> true
         2 release s1 close
         2 ready s2 -> c2 granted s2
         3 reset s2
         3 checkout a.x c4 -> queued
         4 release s2 close -> open s3 p1",
    );
}

#[test]
fn a_server_is_nobodys_while_a_cancel_request_is_on_its_way() {
    check(
        "0 pool a.x size=1
         0 checkout a.x c1 -> queued; open s1 p1
         0 ready s1 -> c1 granted s1
         1 cancel c8 s1 -> true; carry c8 s2 to s1
         1 cancel c9 s1 -> true
         1 show a.x -> cl_waiting_cancel_req=2 active=1 login=1
         1 sent c8 -> true
         1 show a.x -> cl_active_cancel_req=1 cl_waiting_cancel_req=1 active=1 active_cancel=1
         2 checkout a.x c2 -> queued
         2 release s1 idle -> drop c9
         2 show a.x -> cl_waiting=1 cl_active_cancel_req=1 active_cancel=1 being_canceled=1
         3 done c8 -> c2 granted s1
         4 release s1 idle
         4 cancel c8 s1 -> false
         4 servers a -> 1",
    );
    check(
        "0 pool a.x size=1
         0 checkout a.x c1 -> queued; open s1 p1
         0 ready s1 -> c1 granted s1
         1 cancel c8 s1 -> true; carry c8 s2 to s1
         1 cancel c9 s1 -> true
         2 reset s1 -> drop c9
         2 cancel c9 s1 -> false
         2 sent c8 -> false
         2 done c8",
    );
    check(
        "0 pool a.x size=2
         0 checkout a.x c1 -> queued; open s1 p1
         0 ready s1 -> c1 granted s1
         1 cancel c8 s1 -> true; carry c8 s2 to s1
         1 sent c8 -> true
         2 reset s1
         2 checkout a.x c2 -> queued
         3 release s1 idle -> open s3 p1
         4 done c8 -> c2 granted s1
         5 ready s3",
    );
    check(
        "0 pool a.x size=2
         0 checkout a.x c1 -> queued; open s1 p1
         0 ready s1 -> c1 granted s1
         1 cancel c8 s1 -> true; carry c8 s2 to s1
         2 release s1 idle
         2 sent c8 -> false
         2 done c8 ->
         3 checkout a.x c2 -> granted s1
         3 cancel c9 s1 -> true; carry c9 s3 to s1
         3 sent c9 -> true
         4 gone s1
         5 done c9 ->
         5 show a.x ->",
    );
}

#[test]
fn kill_leaves_nothing_and_the_database_paused() {
    check(
        "0 pool a.x
         0 pool a.y
         0 pool b.x
         0 checkout a.x c1 -> queued; open s1 p1
         0 ready s1 -> c1 granted s1
         0 checkout a.y c2 -> queued; open s2 p2
         0 cancel c9 s1 -> true; carry c9 s3 to s1
         0 checkout b.x c3 -> queued; open s4 p3
         0 ready s4 -> c3 granted s4
         1 kill a -> close s3 database removed; drop c9; close s1 database removed; removed p1; c2 refused database removed; close s2 database removed; removed p2
         1 release s1 idle -> unknown
         1 show a.x -> none
         1 checkout a.x c5 -> refused database removed
         2 pool a.x
         2 checkout a.x c6 -> queued
         3 resume a -> true
         3 wait -> @3 open s5 p4
         4 drop b -> close s4 database removed; removed p3
         4 paused b -> false
         5 kill -> c6 refused database removed; close s5 database removed; removed p4
         9 wait ->",
    );
}

#[test]
fn what_a_killed_database_held_under_a_users_limit_is_given_on() {
    check(
        "0 user _.x limit=1
         0 pool a.x
         0 pool b.x
         0 checkout a.x c1 -> queued; open s1 p1
         0 ready s1 -> c1 granted s1
         0 checkout b.x c2 -> queued
         1 kill a -> close s1 database removed; removed p1; open s2 p2",
    );
}

#[test]
fn unused_pools_are_forgotten() {
    check(
        "0 global pool_idle=1 idle_timeout=1
         0 pool a.x
         0 pool a.y min=1 forced
         0 attach a.x
         0.2 checkout a.x c1 -> queued; open s1 p1
         0.2 ready s1 -> c1 granted s1
         0.3 release s1 idle
         0.3 detach a.x
         0.4 wait -> @0.333 open s2 p2
         0.4 fail s2 connect refused
         3 wait -> @1.3 close s1 server idle timeout; @2.3 abandoned p1 1s
         9 show a.x -> none
         9 show a.y ->",
    );
}

#[test]
fn client_limits_count_everybody_and_forget_who_left() {
    let mut limits = ClientLimits::new();
    let (db, usr) = (DatabaseId(1), UserId(1));
    limits.set_max_clients(2);
    limits.set_database(db, 1);
    let mut first = limits.enter();
    assert!(limits.admit(false).is_ok());
    assert!(limits.admit_database(&mut first, db, false).is_ok());
    assert!(limits.admit_database(&mut first, db, false).is_ok(), "the same client is not counted twice");
    assert!(limits.admit_user(&mut first, usr, false).is_ok());
    let mut second = limits.enter();
    assert!(limits.admit(false).is_ok());
    let fault = limits.admit_database(&mut second, db, false).unwrap_err();
    assert_eq!(fault.text, "client connections exceeded (max_db_client_connections)");
    assert!(limits.admit_database(&mut second, db, true).is_ok(), "an admin is let in");
    assert_eq!(limits.of_database(db), 2);
    limits.set_user(usr, 1);
    let fault = limits.admit_user(&mut second, usr, false).unwrap_err();
    assert_eq!(fault.text, "client connections exceeded (max_user_client_connections)");
    let third = limits.enter();
    assert_eq!(limits.admit(false).unwrap_err().text, "no more connections allowed (max_client_conn)");
    assert!(limits.admit(true).is_ok(), "the console is always let in");
    limits.begin_own();
    assert!(limits.admit(false).is_ok() && limits.clients() == 2, "our own takes nobody's place");
    limits.end_own();
    limits.leave(third);
    limits.leave(second);
    assert_eq!((limits.clients(), limits.of_database(db), limits.of_user(usr)), (1, 1, 1));
    limits.leave(first);
    assert_eq!((limits.clients(), limits.of_database(db), limits.of_user(usr)), (0, 0, 0));
}

#[test]
fn nobody_new_is_let_in_at_the_end() {
    let mut limits = ClientLimits::new();
    limits.set_max_clients(2);
    let mut seat = limits.enter();
    limits.close();
    assert!(limits.admit(false).is_ok(), "who it is must be known first");
    let fault = limits.admit_database(&mut seat, DatabaseId(1), false).unwrap_err();
    assert_eq!((&*fault.text, &*fault.sqlstate), ("pooler is shutting down", "57P03"));
    assert!(limits.admit_database(&mut seat, DatabaseId(1), true).is_ok(), "an admin is let in");
    limits.leave(seat);
    assert_eq!((limits.clients(), limits.of_database(DatabaseId(1))), (0, 0));
}

#[test]
fn clients_of_the_console_are_counted_and_let_in_to_the_end() {
    let mut limits = ClientLimits::new();
    let (console, stats, admin) = (DatabaseId(0), UserId(1), UserId(2));
    limits.set_database(console, 2);
    limits.set_user(stats, 1);
    limits.set_standby(true);
    limits.close();
    let mut seats = [limits.enter(), limits.enter(), limits.enter(), limits.enter()];
    assert!(limits.admit_console(&mut seats[0], (console, stats), false).is_ok());
    let fault = limits.admit_console(&mut seats[1], (console, stats), false).unwrap_err();
    assert_eq!(fault.text, "client connections exceeded (max_user_client_connections)");
    assert!(limits.admit_console(&mut seats[2], (console, admin), true).is_ok(), "an admin is let in");
    let fault = limits.admit_console(&mut seats[3], (console, UserId(3)), false).unwrap_err();
    assert_eq!(fault.text, "client connections exceeded (max_db_client_connections)");
    assert_eq!((limits.of_database(console), limits.of_user(stats), limits.of_user(admin)), (4, 2, 1));
    seats.into_iter().for_each(|seat| limits.leave(seat));
    assert_eq!((limits.of_database(console), limits.of_user(stats), limits.of_user(admin)), (0, 0, 0));
}

#[test]
fn a_database_that_nobody_uses_can_be_dropped() {
    let (mut registry, mut out) = (Registry::new(Ids::default(), GlobalParams::default()), Vec::new());
    let (now, client, database) = (Time(1), ClientId(1), DatabaseId(1));
    let pool = registry.ensure_pool(now, database, UserId(1), &PoolParams::default());
    assert_eq!(registry.checkout(now, pool, client, &mut out), Checkout::Queued);
    assert!(!registry.drop_unused(now, pool, &mut out), "somebody waits");
    assert!(registry.leave(client));
    assert!(!registry.drop_unused(now, pool, &mut out), "a server logs in");
    let [Action::Open { server, .. }] = out.as_slice() else { panic!("{out:?}") };
    let server = *server;
    registry.server_failed(now, server, Failure::Connect("nowhere".into()), &mut out);
    registry.set_disabled(database, true);
    assert!(!registry.drop_unused(now, pool, &mut out), "a command holds it");
    registry.set_disabled(database, false);
    let other = registry.ensure_pool(now, database, UserId(2), &PoolParams::default());
    assert!(!registry.drop_unused(now, pool, &mut out), "it has another pool");
    let alone = registry.ensure_pool(now, DatabaseId(2), UserId(1), &PoolParams::default());
    assert!(registry.drop_unused(now, alone, &mut out));
    assert!(!registry.drop_unused(now, alone, &mut out), "it is gone");
    assert_eq!(registry.owners(alone), None);
    assert_eq!(registry.owners(other), Some((database, UserId(2))));
}

#[test]
fn ids_count_from_one_and_never_go_back() {
    let ids = Ids::default();
    let same = ids.clone();
    assert_eq!((ids.draw(), same.draw()), (1, 2));
    ids.start_after(10);
    ids.start_after(5);
    assert_eq!(same.draw(), 11);
}

//! Host names of servers: the system's resolver (getaddrinfo(3): `/etc/hosts`, NSS, DNS), what it said kept for a while
//! (PgBouncer settings dns_max_ttl, dns_nxdomain_ttl), and a word to whoever wants it when a name loses an address.
//!
//! The system's resolver rather than a DNS library, so that a name means here what it means to every other program of the
//! machine. It does not tell a record's TTL, and PgBouncer ignores that too.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::net::lookup_host;
use tokio::sync::oneshot;

use crate::clock::Time;

/// How long answers are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ttls {
    /// Those with addresses (PgBouncer setting dns_max_ttl).
    pub found: Duration,
    /// Those without (PgBouncer setting dns_nxdomain_ttl).
    pub failed: Duration,
}

/// What the resolver said of a name: addresses, or why there are none.
type Found = Result<Vec<IpAddr>, String>;

/// Told of addresses that a name has no longer.
type Watcher = Box<dyn Fn(&str, &[IpAddr]) + Send + Sync>;

/// Names that are kept beyond their time, at the most; more are dropped once they are out of date. They come from the
/// configuration, so there are few.
const NAMES_KEPT_MAX: usize = 1024;

/// One name in the cache.
#[derive(Debug)]
struct Entry {
    /// `None`: never answered yet.
    found: Option<Found>,
    /// The last addresses, also when a later look-up failed.
    addresses: Vec<IpAddr>,
    until: Time,
    /// Whose turn it is to be first.
    turn: usize,
    pending: bool,
}

/// What to do to learn a name's addresses.
#[derive(Debug, PartialEq, Eq)]
enum Ask {
    Known(Found),
    /// Somebody is asking already.
    Wait,
    /// Ask the resolver.
    Look,
}

/// What is known of names; pure.
#[derive(Debug, Default)]
struct Cache {
    entries: HashMap<String, Entry>,
}

impl Cache {
    fn ask(&mut self, now: Time, name: &str) -> Ask {
        if self.entries.len() >= NAMES_KEPT_MAX {
            self.entries.retain(|_, entry| entry.pending || entry.until > now);
        }
        let entry = self.entries.entry(name.to_owned()).or_insert_with(|| Entry {
            found: None,
            addresses: Vec::new(),
            until: now,
            turn: 0,
            pending: false,
        });
        if entry.pending {
            return Ask::Wait;
        }
        match &entry.found {
            Some(found) if now < entry.until => {
                let found = found.clone();
                Ask::Known(found.map(|addresses| entry.in_turn(addresses)))
            }
            _ => {
                entry.pending = true;
                Ask::Look
            }
        }
    }

    /// The resolver has answered. Returns the addresses that the name has no longer.
    fn heard(&mut self, now: Time, name: &str, found: &Found, ttls: Ttls) -> Vec<IpAddr> {
        let Some(entry) = self.entries.get_mut(name) else { return Vec::new() };
        entry.pending = false;
        entry.until = now + if found.is_ok() { ttls.found } else { ttls.failed };
        entry.found = Some(found.clone());
        // A resolver that fails says nothing about where servers are.
        let Ok(addresses) = found else { return Vec::new() };
        let before = std::mem::replace(&mut entry.addresses, addresses.clone());
        before.into_iter().filter(|address| !addresses.contains(address)).collect()
    }

    fn in_turn(&mut self, name: &str, addresses: Vec<IpAddr>) -> Vec<IpAddr> {
        match self.entries.get_mut(name) {
            Some(entry) => entry.in_turn(addresses),
            None => addresses,
        }
    }
}

impl Entry {
    /// The addresses with another one in front each time: PgBouncer uses them in turn. Those of the family that the system
    /// prefers (RFC 6724) go before the others, which are mostly the same servers by a way that may not work.
    fn in_turn(&mut self, addresses: Vec<IpAddr>) -> Vec<IpAddr> {
        let Some(preferred) = addresses.first().map(IpAddr::is_ipv4) else { return addresses };
        let (mut front, back): (Vec<_>, Vec<_>) = addresses.into_iter().partition(|a| a.is_ipv4() == preferred);
        let turn = self.turn % front.len();
        front.rotate_left(turn);
        self.turn = turn + 1;
        front.extend(back);
        front
    }
}

/// A name for SHOW DNS_HOSTS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameView {
    /// The name.
    pub name: String,
    /// How much longer what is known of it is kept.
    pub left: Duration,
    /// Its addresses; none if the look-up failed.
    pub addresses: Vec<IpAddr>,
    /// It is being looked up.
    pub pending: bool,
}

/// The names of the process.
#[derive(Default)]
pub struct Names {
    state: Mutex<State>,
    watcher: OnceLock<Watcher>,
}

#[derive(Default)]
struct State {
    cache: Cache,
    ttls: Ttls,
    waiting: HashMap<String, Vec<oneshot::Sender<Found>>>,
}

impl Names {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has `watcher` told of addresses that a name has no longer. Once.
    pub fn watch(&self, watcher: impl Fn(&str, &[IpAddr]) + Send + Sync + 'static) {
        let _ = self.watcher.set(Box::new(watcher));
    }

    /// From the next answer on.
    pub fn set_ttls(&self, ttls: Ttls) {
        self.state().ttls = ttls;
    }

    /// Makes every name be looked up when it is next used.
    pub fn expire(&self) {
        let now = Time::now();
        for entry in self.state().cache.entries.values_mut() {
            entry.until = now;
        }
    }

    /// Where a name leads, another address in front each time. Look-ups of one name are made once at a time, and go on when
    /// the caller gives up.
    ///
    /// # Errors
    /// What the resolver said.
    pub async fn addresses(self: &Arc<Self>, name: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        let answer = {
            let mut state = self.state();
            match state.cache.ask(Time::now(), name) {
                Ask::Known(found) => Err(found),
                ask => {
                    let (tell, answer) = oneshot::channel();
                    state.waiting.entry(name.to_owned()).or_default().push(tell);
                    if ask == Ask::Look {
                        self.look_up(name.to_owned());
                    }
                    Ok(answer)
                }
            }
        };
        let found = match answer {
            Err(known) => known,
            Ok(answer) => answer.await.unwrap_or_else(|_| Err("look-up abandoned".to_owned())),
        };
        let found = found.map_err(io::Error::other)?;
        Ok(found.into_iter().map(|ip| SocketAddr::new(ip, port)).collect())
    }

    fn look_up(self: &Arc<Self>, name: String) {
        let names = Arc::clone(self);
        drop(tokio::spawn(async move { names.ask_system(&name).await }));
    }

    async fn ask_system(&self, name: &str) {
        let found = match lookup_host((name, 0)).await {
            Ok(found) => {
                let mut addresses: Vec<IpAddr> = Vec::new();
                for address in found {
                    if !addresses.contains(&address.ip()) {
                        addresses.push(address.ip());
                    }
                }
                Ok(addresses)
            }
            Err(error) => Err(error.to_string()),
        };
        if let Err(reason) = &found {
            tracing::warn!("DNS lookup failed: {name}: {reason}");
        }
        let gone = {
            let mut state = self.state();
            let ttls = state.ttls;
            let gone = state.cache.heard(Time::now(), name, &found, ttls);
            for waiting in state.waiting.remove(name).unwrap_or_default() {
                let found = found.clone().map(|addresses| state.cache.in_turn(name, addresses));
                // Whoever asked may have given up.
                let _ = waiting.send(found);
            }
            gone
        };
        if !gone.is_empty()
            && let Some(watcher) = self.watcher.get()
        {
            watcher(name, &gone);
        }
    }

    /// Looks every known name up again, one after the other (PgBouncer setting dns_zone_check_period).
    pub async fn look_again(&self) {
        let due: Vec<String> = {
            let state = self.state();
            let leading = state.cache.entries.iter().filter(|(_, entry)| !entry.addresses.is_empty());
            leading.map(|(name, _)| name.clone()).collect()
        };
        for name in due {
            let free = match self.state().cache.entries.get_mut(&name) {
                Some(entry) => !std::mem::replace(&mut entry.pending, true),
                None => false,
            };
            if free {
                self.ask_system(&name).await;
            }
        }
    }

    /// All names in the cache, in order.
    #[must_use]
    pub fn view(&self) -> Vec<NameView> {
        let now = Time::now();
        let state = self.state();
        let mut all: Vec<_> = state
            .cache
            .entries
            .iter()
            .map(|(name, entry)| NameView {
                name: name.clone(),
                left: entry.until.since(now),
                addresses: entry.found.clone().and_then(Result::ok).unwrap_or_default(),
                pending: entry.pending,
            })
            .collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTLS: Ttls = Ttls { found: Duration::from_secs(15), failed: Duration::from_secs(5) };

    fn at(s: u64) -> Time {
        Time(1_000_000_000_000 + s * 1_000_000_000)
    }

    fn ips(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn an_answer_is_kept_for_its_time_and_used_in_turn() {
        let mut cache = Cache::default();
        assert_eq!(cache.ask(at(0), "db"), Ask::Look);
        assert_eq!(cache.ask(at(0), "db"), Ask::Wait, "one look-up at a time");
        let found = Ok(ips(&["10.0.0.1", "10.0.0.2"]));
        assert!(cache.heard(at(1), "db", &found, TTLS).is_empty());
        assert_eq!(cache.ask(at(2), "db"), Ask::Known(found));
        assert_eq!(cache.ask(at(15), "db"), Ask::Known(Ok(ips(&["10.0.0.2", "10.0.0.1"]))));
        assert_eq!(cache.ask(at(15), "db"), Ask::Known(Ok(ips(&["10.0.0.1", "10.0.0.2"]))));
        assert_eq!(cache.ask(at(16), "db"), Ask::Look);
    }

    #[test]
    fn the_family_that_the_system_prefers_goes_first() {
        let mut cache = Cache::default();
        cache.ask(at(0), "db");
        cache.heard(at(0), "db", &Ok(ips(&["::1", "10.0.0.1", "::2", "10.0.0.2"])), TTLS);
        assert_eq!(cache.ask(at(0), "db"), Ask::Known(Ok(ips(&["::1", "::2", "10.0.0.1", "10.0.0.2"]))));
        assert_eq!(cache.ask(at(0), "db"), Ask::Known(Ok(ips(&["::2", "::1", "10.0.0.1", "10.0.0.2"]))));
        assert_eq!(cache.ask(at(0), "db"), Ask::Known(Ok(ips(&["::1", "::2", "10.0.0.1", "10.0.0.2"]))));
    }

    #[test]
    fn a_failure_is_kept_for_its_own_time_and_takes_no_address_away() {
        let mut cache = Cache::default();
        cache.ask(at(0), "db");
        cache.heard(at(0), "db", &Ok(ips(&["10.0.0.1"])), TTLS);
        assert_eq!(cache.ask(at(20), "db"), Ask::Look);
        assert!(cache.heard(at(20), "db", &Err("no".into()), TTLS).is_empty());
        assert_eq!(cache.ask(at(24), "db"), Ask::Known(Err("no".into())));
        assert_eq!(cache.ask(at(25), "db"), Ask::Look);
        assert_eq!(cache.heard(at(25), "db", &Ok(ips(&["::1"])), TTLS), ips(&["10.0.0.1"]), "told in the end");
    }

    #[test]
    fn without_a_ttl_every_use_asks() {
        let mut cache = Cache::default();
        for s in 0..3 {
            assert_eq!(cache.ask(at(s), "db"), Ask::Look);
            cache.heard(at(s), "db", &Ok(ips(&["10.0.0.1"])), Ttls::default());
        }
    }

    #[test]
    fn names_do_not_pile_up() {
        let mut cache = Cache::default();
        for i in 0..5 * NAMES_KEPT_MAX as u64 {
            let name = format!("host{i}");
            cache.ask(at(i), &name);
            cache.heard(at(i), &name, &Ok(ips(&["10.0.0.1"])), TTLS);
        }
        assert!(cache.entries.len() <= NAMES_KEPT_MAX + 1, "{} names kept", cache.entries.len());
    }

    #[tokio::test]
    async fn the_system_knows_localhost_and_the_watcher_hears_of_a_lost_address() {
        let names = Arc::new(Names::default());
        let (tell, told) = std::sync::mpsc::channel();
        names.watch(move |name, gone| tell.send((name.to_owned(), gone.to_vec())).unwrap());
        names.set_ttls(TTLS);
        let found = names.addresses("localhost", 5432).await.unwrap();
        assert!(found.iter().all(|address| address.ip().is_loopback() && address.port() == 5432), "{found:?}");
        assert!(!found.is_empty());
        // As if an earlier answer had named another address.
        names.state().cache.entries.get_mut("localhost").unwrap().addresses.push("192.0.2.1".parse().unwrap());
        names.look_again().await;
        assert_eq!(told.recv().unwrap(), ("localhost".to_owned(), ips(&["192.0.2.1"])));
        assert_eq!(names.view().len(), 1);
    }
}

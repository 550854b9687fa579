//! The fuzz targets on stable Rust: on their seeds, and on mutations of the seeds that are the same in every run.
//! A slow target gets fewer rounds. `FUZZ_SECONDS=600 cargo test --release --test fuzz` goes on for longer, and
//! `fuzz/run` uses a coverage-guided fuzzer.

#![expect(clippy::unwrap_used, reason = "a target may unwrap what it has just written itself")]
#![expect(clippy::expect_used, reason = "and says what it expected")]
#![expect(unreachable_pub, reason = "the targets are a library for the fuzzers")]

#[path = "../fuzz/src/lib.rs"]
mod targets;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use std::{env, fs};

use targets::{TARGETS, Target};

/// Lengths, terminators and words that random bytes hardly ever hit.
const WORDS: [&[u8]; 19] = [
    b"\0",
    b"\0\0\0\x04",
    b"\0\0\0\0",
    b"\xff\xff\xff\xff",
    b"\x7f\xff\xff\xff",
    b"\0\0\0\x0a",
    b"\0\0\0\x0b",
    b"\0\0\0\x0c",
    b"\n--\n",
    b"\n",
    b"\"",
    b"'",
    b"=",
    b"%include pgbouncer.ini\n",
    b"[databases]\n",
    b",",
    b"SHOW ",
    b"KILL_CLIENT ",
    b"\x30\x82\xff\xff",
];

/// xorshift64*: the same numbers in every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let wide = u128::from(self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)) * (limit.max(1) as u128);
        usize::try_from(wide >> 64).unwrap_or_default()
    }

    fn pick<'a>(&mut self, from: &[&'a [u8]]) -> &'a [u8] {
        let index = self.below(from.len());
        from.get(index).copied().unwrap_or_default()
    }

    fn mutate(&mut self, seeds: &[&[u8]]) -> Vec<u8> {
        let mut data = self.pick(seeds).to_vec();
        for _ in 0..=self.below(4) {
            let at = self.below(data.len() + 1);
            match self.below(6) {
                0 => data.truncate(at),
                1 => drop(data.splice(at..at, self.pick(&WORDS).iter().copied())),
                2 => drop(data.splice(at.., self.pick(seeds).iter().copied())),
                3 => drop(data.drain(at..(at + self.below(8)).min(data.len()))),
                4 => data.insert(at, u8::try_from(self.below(256)).unwrap_or_default()),
                _ => {
                    if let Some(byte) = data.get_mut(at) {
                        *byte ^= 1 << self.below(8);
                    }
                }
            }
        }
        data
    }
}

fn seeds_of(name: &str) -> Vec<Vec<u8>> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(name);
    let mut paths: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.into_iter().map(|path| fs::read(path).unwrap()).collect()
}

fn survives(name: &str, target: Target, data: &[u8]) {
    let outcome = catch_unwind(AssertUnwindSafe(|| target(data)));
    assert!(outcome.is_ok(), "fuzz target {name} panics on b\"{}\"", data.escape_ascii());
}

fn smoke(wanted: &str) {
    let seconds: Option<u64> = env::var("FUZZ_SECONDS").ok().map(|text| text.parse().unwrap());
    let end = Instant::now() + Duration::from_secs(seconds.unwrap_or(3));
    let (name, target) = TARGETS.into_iter().find(|(name, _)| *name == wanted).unwrap();
    let seeds = seeds_of(name);
    let seeds: Vec<&[u8]> = seeds.iter().map(Vec::as_slice).collect();
    assert!(!seeds.is_empty(), "fuzz/seeds/{name} is empty");
    for data in seeds.iter().copied().chain([&b""[..]]) {
        survives(name, target, data);
    }
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    for round in 0_u64.. {
        if Instant::now() > end || (seconds.is_none() && round == 3_000) {
            break;
        }
        survives(name, target, &dice.mutate(&seeds));
    }
}

#[test]
fn frames() {
    smoke("frame");
}

#[test]
fn startup_packets() {
    smoke("startup");
}

#[test]
fn extended_protocol_messages() {
    smoke("extended");
}

#[test]
fn logins() {
    smoke("scram");
}

#[test]
fn ini_files() {
    smoke("config_ini");
}

#[test]
fn toml_files() {
    smoke("config_toml");
}

#[test]
fn user_lists() {
    smoke("userlist");
}

#[test]
fn access_rules() {
    smoke("hba");
}

#[test]
fn console_clients() {
    smoke("console");
}

#[test]
fn certificates() {
    smoke("certificate");
}

#[test]
fn states_of_a_hand_over() {
    smoke("handover_state");
}

#[test]
fn words_of_a_hand_over() {
    smoke("handover_message");
}

#[test]
fn adverts() {
    smoke("vrrp_advert");
}

#[test]
fn a_panic_is_found() {
    let broken: Target = |data| assert!(data.len() < 3, "too long");
    let found = catch_unwind(|| survives("broken", broken, b"a\0bc")).unwrap_err();
    let text = found.downcast_ref::<String>().unwrap();
    assert!(text.contains(r#"fuzz target broken panics on b"a\x00bc""#), "{text}");
}

#[test]
fn words_of_the_other_node() {
    smoke("pair_message");
}

#[test]
fn requests_to_the_address_helper() {
    smoke("helper_menu");
}

//! The address helper as it is used: the real program in a network namespace of its own, a neighbour that sees every frame, and
//! poolers that ask, fall silent, hang up, are killed and stopped. Needs root, `ip` and `setpriv`; without them it fails.
//!
//! `cargo test --test address_helper -- WORD` runs the cases whose names have that word.

#![expect(clippy::unwrap_used, reason = "a failing case must stop")]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "cases and figures are reported here")]

#[path = "address_helper/cases.rs"]
mod cases;
#[path = "address_helper/figures.rs"]
mod figures;
#[path = "address_helper/lab.rs"]
mod lab;
#[path = "address_helper/roles.rs"]
mod roles;

use std::panic;
use std::process::{Command, ExitCode, Stdio};

use nix::unistd::Uid;
use pgtandem::daemon::cli::{self, Invocation};
use pgtandem::daemon::helper;

const CASES: &[(&str, fn())] = &[
    ("held_announced_released", cases::held_announced_released),
    ("never_a_source", cases::never_a_source),
    ("only_two_capabilities", cases::only_two_capabilities),
    ("a_child_ends_with_its_pooler", cases::a_child_ends_with_its_pooler),
    ("a_pooler_starts_its_own", cases::a_pooler_starts_its_own),
    ("a_lease_that_is_not_renewed_ends", cases::a_lease_that_is_not_renewed_ends),
    ("a_stopped_pooler_loses_the_addresses", cases::a_stopped_pooler_loses_the_addresses),
    ("a_replaced_pooler_loses_nothing", cases::a_replaced_pooler_loses_nothing),
    ("left_overs_are_removed", cases::left_overs_are_removed),
    ("a_deleted_address_comes_back", cases::a_deleted_address_comes_back),
    ("an_interface_may_come_and_go", cases::an_interface_may_come_and_go),
    ("only_one_pooler_of_the_right_user", cases::only_one_pooler_of_the_right_user),
    ("a_restarted_helper_is_no_failover", cases::a_restarted_helper_is_no_failover),
    ("addresses_die_with_a_killed_helper", cases::addresses_die_with_a_killed_helper),
    ("garbage_is_an_end", cases::garbage_is_an_end),
    ("duplicates_are_asked_for", cases::duplicates_are_asked_for),
    ("rivals_are_told_of", cases::rivals_are_told_of),
    ("a_virtual_mac", cases::a_virtual_mac),
    ("a_sweep_reaches_clients", cases::a_sweep_reaches_clients),
    ("a_reload_keeps_what_stays", cases::a_reload_keeps_what_stays),
    ("another_configuration_is_refused", cases::another_configuration_is_refused),
    ("how_fast_an_address_is_announced", figures::how_fast_an_address_is_announced),
    ("how_fast_a_killed_pooler_is_noticed", figures::how_fast_a_killed_pooler_is_noticed),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [option, role] = &arguments[..]
        && option == "--role"
    {
        roles::play(role);
        return ExitCode::SUCCESS;
    }
    if arguments.first().is_some_and(|argument| argument == "address-helper") {
        // What `start_child` starts is this program.
        let Ok(Invocation::AddressHelper(options)) = cli::parse(std::env::args_os()) else { return ExitCode::FAILURE };
        return helper::run(&options);
    }
    if arguments.iter().any(|argument| argument == "--list") {
        // Asked by nextest, which is to run this program as a whole.
        return ExitCode::SUCCESS;
    }
    if !Uid::effective().is_root() {
        eprintln!("tests/address_helper.rs makes network namespaces: run it as root");
        return ExitCode::FAILURE;
    }
    for program in ["ip", "setpriv", "sysctl"] {
        if Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err() {
            eprintln!("tests/address_helper.rs needs `{program}` (iproute2, util-linux, procps)");
            return ExitCode::FAILURE;
        }
    }
    let words: Vec<&String> = arguments.iter().filter(|argument| !argument.starts_with('-')).collect();
    let mut failed = 0;
    for (name, case) in CASES.iter().filter(|(name, _)| words.iter().all(|word| name.contains(word.as_str()))) {
        let outcome = panic::catch_unwind(case);
        println!("test {name} ... {}", if outcome.is_ok() { "ok" } else { "FAILED" });
        failed += u32::from(outcome.is_err());
    }
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

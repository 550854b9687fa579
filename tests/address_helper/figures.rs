//! How long things take. The bounds are generous, as the machine may be busy; the figures are printed.

use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use pgtandem::clock::Time;
use pgtandem::daemon::helper::menu::{Event, Request};
use socket2::Socket;

use super::lab::{Lab, Pooler, ROUTERS, Role, figures, until};

const RUNS: usize = 20;

pub(crate) fn how_fast_an_address_is_announced() {
    let lab = Lab::new(ROUTERS);
    let (_helper, socket) = lab.child();
    let mut pooler = Pooler::on(socket);
    let lan = Role::start(&lab.lan, "frames");
    pooler.greet(&lab);
    let (mut v4, mut v6) = (Vec::new(), Vec::new());
    for _ in 0..RUNS {
        for (router, address, times) in [(0, "10.77.0.10", &mut v4), (1, "fd77::10", &mut v6)] {
            pooler.renew(5000);
            thread::sleep(Duration::from_millis(10));
            let asked = Time::now();
            assert!(matches!(pooler.hold(router, 0), Event::Held { .. }));
            times.push(lan.first(&format!("announce {address}"), asked).at.since(asked));
            pooler.say(&Request::Release { router });
            pooler.await_event("Released", |event| matches!(event, Event::Released { .. }));
        }
    }
    let (v4, v6) = (figures(v4), figures(v6));
    println!(
        "    from the request to the first announcement on the wire, median and worst of {RUNS}: IPv4 {v4:?}, IPv6 {v6:?}"
    );
    assert!(v4.0 < Duration::from_millis(3) && v6.0 < Duration::from_millis(3));
}

/// This program as a pooler that holds both routers.
pub(crate) fn pooler_process(lab: &Lab, socket: Socket, lease_ms: u32) -> Child {
    let fingerprint: String = lab.config().fingerprint.iter().map(|byte| format!("{byte:02x}")).collect();
    Command::new(std::env::current_exe().unwrap())
        .args(["--role", &format!("{lease_ms},{fingerprint}")])
        .stdin(OwnedFd::from(socket))
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

pub(crate) fn how_fast_a_killed_pooler_is_noticed() {
    let lab = Lab::new(ROUTERS);
    let lan = Role::start(&lab.lan, "frames");
    let node = Role::start(&lab.node, "addresses");
    let (mut goodbye, mut gone) = (Vec::new(), Vec::new());
    for _ in 0..RUNS {
        let (helper, socket) = lab.child();
        helper.up();
        let mut pooler = pooler_process(&lab, socket, 5000);
        until("held", || lab.has("10.77.0.10") && lab.has("fd77::10"));
        thread::sleep(Duration::from_millis(20));
        let killed = Time::now();
        pooler.kill().unwrap();
        goodbye.push(lan.first("advert4 0 10.77.0.1", killed).at.since(killed));
        goodbye.push(lan.first("advert6 0 ", killed).at.since(killed));
        gone.push(node.first("gone4", killed).at.since(killed));
        gone.push(node.first("gone6", killed).at.since(killed));
        pooler.wait().unwrap();
        assert!(!lab.has("10.77.0.10") && !lab.has("fd77::10"));
    }
    let (goodbye, gone) = (figures(goodbye), figures(gone));
    println!(
        "    from SIGKILL of the pooler, median and worst of {RUNS}: goodbye on the wire {goodbye:?}, addresses gone {gone:?}"
    );
    assert!(goodbye.0 < Duration::from_millis(3) && gone.0 < Duration::from_millis(5));
}

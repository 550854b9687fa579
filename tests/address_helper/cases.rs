//! One case for each thing that the helper promises.

use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use nix::libc;
use pgtandem::clock::Time;
use pgtandem::daemon::helper::menu::{Event, PROTOCOL, Request, RouterStanding};
use pgtandem::daemon::helper::{HelperClient, HelperConfig};
use pgtandem::sys::descriptors;
use socket2::{Domain, Socket, Type};

use super::figures::pooler_process;
use super::lab::{Helper, Lab, PATIENCE, Pooler, ROUTERS, Role, address, sh, until};

const V4: &str = "10.77.0.10";
const V6: &str = "fd77::10";

fn has_both(lab: &Lab) -> bool {
    lab.has(V4) && lab.has(V6)
}

fn has_none(lab: &Lab) -> bool {
    !lab.has(V4) && !lab.has(V6)
}

/// A helper as a child, and a pooler that holds both routers.
fn holding(lab: &Lab, lease_ms: u32) -> (Helper, Pooler) {
    let (helper, socket) = lab.child();
    let mut pooler = Pooler::on(socket);
    pooler.hold_both(lab, lease_ms);
    assert!(has_both(lab));
    (helper, pooler)
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

pub(crate) fn held_announced_released() {
    let lab = Lab::new(ROUTERS);
    let lan = Role::start(&lab.lan, "frames");
    let (_helper, socket) = lab.child();
    let mut pooler = Pooler::on(socket);
    let Event::Welcome { protocol, .. } = pooler.hello(&lab) else { panic!() };
    assert_eq!(protocol, PROTOCOL);
    pooler.greet(&lab);
    // Without a lease nothing is held.
    assert_eq!(pooler.hold(0, 0), Event::HoldFailed { router: 0, errno: libc::ETIME });
    pooler.sockets.clear();
    let Event::Welcome { routers, .. } = pooler.hello(&lab) else { panic!() };
    let standing = |held, own: &str| RouterStanding { held, up: true, own_address: Some(address(own)) };
    assert_eq!(routers[0], standing(false, "10.77.0.1"));
    assert!(routers[1].up && routers[1].own_address.is_some_and(|own| own.to_string().starts_with("fe80::")));
    assert_eq!(pooler.sockets.len(), 2, "a VRRP socket for each");
    pooler.renew(5000);
    for (router, floating) in [(0, V4), (1, V6)] {
        let before = Time::now();
        assert_eq!(pooler.hold(router, 0), Event::Held { router, rival: None });
        assert!(lab.has(floating));
        until("three announcements", || lan.all(&format!("announce {floating}"), before).len() == 3);
        let seen = lan.all(&format!("announce {floating}"), before);
        assert!(seen[2].at.since(seen[0].at) < ms(20));
        let again = Time::now();
        pooler.say(&Request::Announce { router });
        until("three more", || lan.all(&format!("announce {floating}"), again).len() == 3);
        lab.reach(floating);
    }
    let Event::Welcome { routers, .. } = pooler.hello(&lab) else { panic!() };
    assert!(routers.iter().all(|router| router.held));
    // They are kept alive.
    thread::sleep(ms(2500));
    assert!(has_both(&lab));
    pooler.renew(5000);
    let before = Time::now();
    for router in [0, 1] {
        pooler.say(&Request::Release { router });
        assert_eq!(pooler.hear(), Event::Released { router });
    }
    assert!(has_none(&lab));
    thread::sleep(ms(50));
    assert!(lan.all("advert", before).is_empty(), "the goodbye of a release is the pooler's");
}

pub(crate) fn never_a_source() {
    let lab = Lab::new(ROUTERS);
    sh(&format!("ip -n {} route add default via 10.77.0.2", lab.node));
    sh(&format!("ip -n {} route add default via fd77::2", lab.node));
    let source = |to: &str| {
        let route = lab.node(&format!("ip route get {to}"));
        let mut words = route.split_whitespace();
        words.find(|word| *word == "src").unwrap();
        words.next().unwrap().to_owned()
    };
    let check = || {
        for (to, own) in
            [("10.77.0.2", "10.77.0.1"), ("192.0.2.1", "10.77.0.1"), ("fd77::2", "fd77::1"), ("2001:db8::1", "fd77::1")]
        {
            assert_eq!(source(to), own, "to {to}");
        }
    };
    let (_helper, pooler) = holding(&lab, 10_000);
    check();
    // The own addresses come after the floating ones, as when the network is configured anew.
    sh(&format!("ip -n {} address del 10.77.0.1/24 dev eth0", lab.node));
    sh(&format!("ip -n {} address add 10.77.0.1/24 dev eth0", lab.node));
    sh(&format!("ip -n {} address del fd77::1/64 dev eth0", lab.node));
    sh(&format!("ip -n {} address add fd77::1/64 dev eth0 nodad", lab.node));
    sh(&format!("ip -n {} route replace default via 10.77.0.2", lab.node));
    assert!(has_both(&lab));
    check();
    // And so with each degree of care about ARP.
    for ignore in [0, 1, 2] {
        lab.node(&format!("sysctl -qw net.ipv4.conf.eth0.arp_ignore={ignore}"));
        sh(&format!("ip -n {} neighbour flush all", lab.lan));
        lab.reach(V4);
    }
    drop(pooler);
}

pub(crate) fn only_two_capabilities() {
    let lab = Lab::new(ROUTERS);
    let nobody = sh("id -u nobody").trim().to_owned();
    let check = |helper: &Helper| {
        helper.up();
        for (field, wanted) in [
            ("CapEff", "0000000000003000"),
            ("CapPrm", "0000000000003000"),
            ("CapInh", "0000000000000000"),
            ("CapAmb", "0000000000000000"),
            ("NoNewPrivs", "1"),
            ("Threads", "1"),
            ("Uid", &format!("{nobody} {nobody} {nobody} {nobody}")),
        ] {
            assert_eq!(helper.status(field), wanted, "{field}");
        }
        assert!(!helper.status("Gid").split(' ').any(|group| group == "0"));
        let id = helper.process.id();
        // Of a process that may not be looked into, /proc belongs to root.
        assert_eq!(sh(&format!("stat -c %U /proc/{id}/mem")).trim(), "root");
        assert!(sh(&format!("grep 'Max core' /proc/{id}/limits")).split_whitespace().nth(4) == Some("0"));
    };
    let (helper, _socket) = lab.child();
    check(&helper);
    assert_eq!(helper.status("CapBnd"), "0000000000000000");
    let (_, listener) = lab.listener();
    check(&lab.unit(&listener));

    // Neither without them, nor as root.
    let refused = |command: &str| {
        let line = format!("exec {command} address-helper --child {} 2>&1 </dev/null", lab.file().display());
        let output = Command::new("sh").args(["-c", &line]).stdout(Stdio::piped()).output().unwrap();
        assert!(!output.status.success(), "{line}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let (_ours, theirs) = Socket::pair(Domain::UNIX, Type::SEQPACKET.cloexec(), None).unwrap();
    let mut command = Command::new("setpriv");
    command.args([
        "--reuid=nobody",
        "--regid=nogroup",
        "--clear-groups",
        super::lab::PROGRAM,
        "address-helper",
        "--child",
    ]);
    command.arg(lab.file()).stdin(std::os::fd::OwnedFd::from(theirs)).stdout(Stdio::null());
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && text.contains("AmbientCapabilities=CAP_NET_ADMIN"), "{text}");
    let text = refused(super::lab::PROGRAM);
    assert!(text.contains("the socket is of the wrong kind"), "{text}");
}

pub(crate) fn a_child_ends_with_its_pooler() {
    let lab = Lab::new(ROUTERS);
    let lan = Role::start(&lab.lan, "frames");
    let (mut helper, pooler) = holding(&lab, 5000);
    // Signals to everybody in sight do not part them.
    for signal in ["TERM", "INT", "HUP", "QUIT", "USR1"] {
        helper.signal(signal);
    }
    thread::sleep(ms(50));
    assert!(has_both(&lab));
    let before = Time::now();
    drop(pooler);
    assert!(helper.ended());
    assert!(has_none(&lab));
    assert_eq!(lan.first("advert4", before).what, "advert4 0 10.77.0.1");
    assert!(lan.first("advert6", before).what.starts_with("advert6 0 fe80::"));
}

pub(crate) fn a_pooler_starts_its_own() {
    let lab = Lab::new(ROUTERS);
    let lan = Role::start(&lab.lan, "frames");
    let begun = Time::now();
    let starter = Role::start(&lab.node, &format!("start={}", lab.file().display()));
    starter.first("held", begun);
    assert!(lab.has(V4));
    drop(starter);
    lan.first("advert4 0 10.77.0.1", begun);
    until("gone", || has_none(&lab));
}

pub(crate) fn a_lease_that_is_not_renewed_ends() {
    let lab = Lab::new(ROUTERS);
    let lan = Role::start(&lab.lan, "frames");
    let (_helper, mut pooler) = holding(&lab, 2000);
    for _ in 0..20 {
        pooler.renew(100);
        until("the helper says that it is there", || {
            pooler.client.receive().unwrap().is_some_and(|(event, _)| event == Event::Renewed)
        });
        thread::sleep(ms(30));
        assert!(pooler.heard().is_none());
    }
    let last = Time::now();
    pooler.renew(200);
    assert_eq!(pooler.hear(), Event::LeaseOver { routers: vec![0, 1] });
    let took = Time::now().since(last);
    assert!(took >= ms(200) && took < ms(250), "{took:?}");
    assert!(has_none(&lab));
    let goodbye = lan.first("advert4 0 10.77.0.1", last).at.since(last);
    assert!(goodbye >= ms(199) && goodbye < ms(230), "{goodbye:?}");
    assert_eq!(lan.all("advert", last).len(), 2);
    // What is over is over until the next renewal.
    assert_eq!(pooler.hold(0, 0), Event::HoldFailed { router: 0, errno: libc::ETIME });
    pooler.renew(5000);
    assert_eq!(pooler.hold(0, 0), Event::Held { router: 0, rival: None });
}

pub(crate) fn a_stopped_pooler_loses_the_addresses() {
    let lab = Lab::new(ROUTERS);
    let lan = Role::start(&lab.lan, "frames");
    let (helper, socket) = lab.child();
    helper.up();
    let mut pooler = pooler_process(&lab, socket, 200);
    until("held", || has_both(&lab));
    thread::sleep(ms(50));
    let stopped = Time::now();
    sh(&format!("kill -STOP {}", pooler.id()));
    let goodbye = lan.first("advert4 0 10.77.0.1", stopped).at.since(stopped);
    assert!(goodbye < ms(300), "{goodbye:?}");
    until("gone", || has_none(&lab));
    assert!(Time::now().since(stopped) < ms(1200));
    // Both stopped together, as in a machine that is paused: nobody is to blame, and nothing is lost.
    sh(&format!("kill -CONT {}", pooler.id()));
    pooler.kill().unwrap();
    pooler.wait().unwrap();
    let (helper, socket) = lab.child();
    helper.up();
    let mut pooler = pooler_process(&lab, socket, 500);
    until("held", || has_both(&lab));
    let before = Time::now();
    helper.signal("STOP");
    thread::sleep(ms(900));
    helper.signal("CONT");
    thread::sleep(ms(100));
    assert!(has_both(&lab) && lan.all("advert", before).is_empty());
    pooler.kill().unwrap();
    pooler.wait().unwrap();
}

pub(crate) fn a_replaced_pooler_loses_nothing() {
    let lab = Lab::new(ROUTERS);
    let lan = Role::start(&lab.lan, "frames");
    let (mut helper, pooler) = holding(&lab, 500);
    pooler.say(&Request::Advertised { router: 0, priority: 77 });
    pooler.say(&Request::Bridge { ms: 3000 });
    // The successor has a copy, the predecessor ends.
    let copy = pooler.client.fd().try_clone_to_owned().unwrap();
    let begun = Time::now();
    drop(pooler);
    thread::sleep(ms(1000));
    let adverts = lan.all("advert4 77 10.77.0.1", begun);
    assert!((9..=12).contains(&adverts.len()), "{adverts:?}");
    let longest = adverts.windows(2).map(|two| two[1].at.since(two[0].at)).max().unwrap();
    assert!(longest < ms(150), "{longest:?}");
    assert!(lan.all("advert6 254 ", begun).len() >= 9);
    assert!(has_both(&lab));
    let mut successor = Pooler::new(HelperClient::from_fd(copy).unwrap());
    let Event::Welcome { routers, .. } = successor.hello(&lab) else { panic!() };
    assert!(routers.iter().all(|router| router.held));
    successor.renew(1000);
    thread::sleep(ms(20));
    let renewed = Time::now();
    thread::sleep(ms(300));
    assert!(lan.all("advert", renewed).is_empty(), "adverts are the pooler's again");
    assert!(lan.all("advert4 0", begun).is_empty());
    // A bridge that nobody comes over ends.
    let begun = Time::now();
    successor.say(&Request::Bridge { ms: 300 });
    assert_eq!(successor.hear(), Event::LeaseOver { routers: vec![0, 1] });
    assert!(Time::now().since(begun) >= ms(300) && has_none(&lab));
    lan.first("advert4 0 10.77.0.1", begun);
    // So does one whose last pooler hangs up.
    successor.renew(1000);
    successor.hold(0, 0);
    successor.say(&Request::Bridge { ms: 10_000 });
    let begun = Time::now();
    drop(successor);
    assert!(helper.ended() && has_none(&lab));
    lan.first("advert4 0 10.77.0.1", begun);
}

pub(crate) fn left_overs_are_removed() {
    let lab = Lab::new(ROUTERS);
    let add = |text: &str| sh(&format!("ip -n {} address add {text} dev eth0", lab.node));
    add(&format!("{V4}/32"));
    add(&format!("{V6}/128 nodad preferred_lft 0"));
    let (helper, _socket) = lab.child();
    helper.up();
    assert!(has_none(&lab) && helper.log().contains("10.77.0.10 was left behind"));
    // What belongs to a network is not ours to remove.
    add(&format!("{V4}/24"));
    let (helper, _socket) = lab.child();
    helper.up();
    assert!(helper.log().contains("by other means than pgtandem"), "{}", helper.log());
    sh(&format!("ip -n {} address del {V4}/24 dev eth0", lab.node));
    // Under systemd, what is about to die is perhaps a living pooler's.
    add(&format!("{V4}/32"));
    add(&format!("{V6}/128 nodad valid_lft 2 preferred_lft 0"));
    let (_, listener) = lab.listener();
    lab.unit(&listener).up();
    assert!(!lab.has(V4) && lab.has(V6));
    until("it dies", || !lab.has(V6));
}

pub(crate) fn a_deleted_address_comes_back() {
    let lab = Lab::new(ROUTERS);
    let lan = Role::start(&lab.lan, "frames");
    let (helper, _pooler) = holding(&lab, 10_000);
    for (floating, prefix) in [(V4, 32), (V6, 128)] {
        let deleted = Time::now();
        sh(&format!("ip -n {} address del {floating}/{prefix} dev eth0", lab.node));
        until("it is back", || lab.has(floating));
        assert!(Time::now().since(deleted) < ms(500));
        lan.first(&format!("announce {floating}"), deleted);
        helper.said(&format!("somebody else has deleted {floating}: added again"));
        // A quarrel ends no worse.
        for _ in 0..5 {
            sh(&format!("ip -n {} address del {floating}/{prefix} dev eth0 2>/dev/null || true", lab.node));
            thread::sleep(ms(5));
        }
        let deleted = Time::now();
        until("it is back again", || lab.has(floating));
        assert!(Time::now().since(deleted) < ms(520));
        thread::sleep(ms(600));
    }
}

pub(crate) fn an_interface_may_come_and_go() {
    let lab = Lab::new(ROUTERS);
    let (_helper, mut pooler) = holding(&lab, 10_000);
    pooler.sockets.clear();
    // Carrier, by the other end.
    sh(&format!("ip -n {} link set eth0 down", lab.lan));
    let down = |router| Event::Link { router, up: false, own_address: None };
    assert_eq!([pooler.hear(), pooler.hear()], [down(0), down(1)]);
    assert_eq!(pooler.hold(0, 0), Event::HoldFailed { router: 0, errno: libc::ENODEV });
    sh(&format!("ip -n {} link set eth0 up", lab.lan));
    let is_up = |event: &Event, wanted: u8| matches!(event, Event::Link { router, up: true, own_address: Some(_) } if *router == wanted);
    for router in [0, 1] {
        pooler.await_event("up", |event| is_up(event, router));
    }
    assert!(pooler.sockets.len() >= 2);
    // Gone, and made anew under the same name.
    sh(&format!("ip -n {} link del eth0", lab.node));
    for router in [0, 1] {
        pooler.await_event("down", |event| *event == down(router));
    }
    pooler.sockets.clear();
    pooler.renew(10_000);
    lab.plug();
    let mut ups = [false; 2];
    while ups != [true; 2] {
        let event = pooler.hear();
        [0, 1].into_iter().for_each(|router: u8| ups[usize::from(router)] |= is_up(&event, router));
    }
    assert!(pooler.sockets.len() >= 2, "new VRRP sockets");
    assert!(has_none(&lab), "nothing is held without being asked for");
    let lan = Role::start(&lab.lan, "frames");
    let before = Time::now();
    assert_eq!(pooler.hold(0, 0), Event::Held { router: 0, rival: None });
    lan.first(&format!("announce {V4}"), before);
    assert!(lab.has(V4));
    drop(pooler);
    lan.first("advert4 0 10.77.0.1", before);
}

pub(crate) fn only_one_pooler_of_the_right_user() {
    let lab = Lab::new(ROUTERS);
    let (path, listener) = lab.listener();
    let helper = lab.unit(&listener);
    helper.up();
    let mut first = Pooler::new(HelperClient::connect(&path).unwrap());
    first.hold_both(&lab, 10_000);
    let mut second = Pooler::new(HelperClient::connect(&path).unwrap());
    assert!(matches!(second.hear(), Event::Refused(reason) if reason.starts_with("busy")));
    second.is_cut_off();
    // A user who is neither root nor the helper's.
    let answer = lab.role_of(&format!("call={}", path.display()));
    assert!(answer.contains("may not ask this address helper") && answer.contains("UnexpectedEof"), "{answer}");
    assert!(has_both(&lab));
    // The next one after the first has gone.
    drop(first);
    until("gone", || has_none(&lab));
    let mut third = Pooler::new(HelperClient::connect(&path).unwrap());
    third.hold_both(&lab, 10_000);
}

pub(crate) fn a_restarted_helper_is_no_failover() {
    let lab = Lab::new(ROUTERS);
    let (path, listener) = lab.listener();
    let mut helper = lab.unit(&listener);
    helper.up();
    let lan = Role::start(&lab.lan, "frames");
    let node = Role::start(&lab.node, "addresses");
    let mut pooler = Pooler::new(HelperClient::connect(&path).unwrap());
    pooler.hold_both(&lab, 10_000);
    let begun = Time::now();
    helper.signal("TERM");
    assert!(helper.ended());
    pooler.is_cut_off();
    // Its socket is still there, so the pooler calls at once and is answered by the next helper.
    let mut pooler = Pooler::new(HelperClient::connect(&path).unwrap());
    let next = lab.unit(&listener);
    next.up();
    pooler.hold_both(&lab, 10_000);
    thread::sleep(ms(2500));
    assert!(has_both(&lab));
    assert!(node.all("gone", begun).is_empty(), "not gone for a moment");
    assert!(lan.all("advert", begun).is_empty(), "no goodbye");
}

pub(crate) fn addresses_die_with_a_killed_helper() {
    let lab = Lab::new(ROUTERS);
    let (mut helper, mut pooler) = holding(&lab, 10_000);
    helper.process.kill().unwrap();
    let killed = Time::now();
    helper.process.wait().unwrap();
    pooler.is_cut_off();
    until("they die", || has_none(&lab));
    let took = Time::now().since(killed);
    println!("    from SIGKILL of the helper until the addresses have died: {took:?}");
    assert!(took < ms(3200), "{took:?}");
}

pub(crate) fn garbage_is_an_end() {
    let lab = Lab::new(ROUTERS);
    let (path, listener) = lab.listener();
    let helper = lab.unit(&listener);
    helper.up();
    let lan = Role::start(&lab.lan, "frames");
    let hello = Request::Hello { protocol: PROTOCOL, fingerprint: lab.config().fingerprint }.encode();
    let mut dice: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut throw = move || {
        dice ^= dice << 13;
        dice ^= dice >> 7;
        dice ^= dice << 17;
        dice
    };
    let mut packets: Vec<Vec<u8>> = vec![
        Vec::new(),
        vec![0],
        vec![255; 8192],
        vec![8; 20_000],
        hello[..10].to_vec(),
        Request::Renew { lease_ms: 1 }.encode(),
        Request::Hold { router: 99, check_us: 0, priority: 1 }.encode(),
    ];
    for _ in 0..200 {
        let len = usize::try_from(throw() % 64).unwrap();
        packets.push((0..len).map(|_| u8::try_from(throw() & 0xff).unwrap()).collect());
    }
    for (number, packet) in packets.iter().enumerate() {
        let mut client = HelperClient::connect(&path).unwrap();
        if number % 2 == 0 {
            descriptors::send(client.fd(), &hello, &[]).unwrap();
        }
        // Descriptors are nobody's business here.
        let mut beside = Vec::new();
        if number % 3 == 0 {
            beside.push(std::os::fd::AsRawFd::as_raw_fd(&client.fd()));
        }
        let _ = descriptors::send(client.fd(), packet, &beside);
        let _ = descriptors::send(client.fd(), &[0], &[]);
        until("it hangs up", || match client.receive() {
            Ok(_) => false,
            Err(error) => error.kind() == std::io::ErrorKind::UnexpectedEof,
        });
    }
    // A flood is an end too, with a goodbye, and nothing of it is left.
    let mut pooler = Pooler::new(HelperClient::connect(&path).unwrap());
    pooler.hold_both(&lab, 10_000);
    let before = Time::now();
    let deadline = before + PATIENCE;
    while pooler
        .client
        .send(&Request::Advertised { router: 0, priority: 254 })
        .map_or_else(|e| e.kind() == std::io::ErrorKind::WouldBlock, |()| true)
    {
        assert!(Time::now() < deadline);
    }
    lan.first("advert4 0 10.77.0.1", before);
    until("gone", || has_none(&lab));
    helper.said("asks for too much");
    let open = sh(&format!("ls /proc/{}/fd | wc -l", helper.process.id()));
    assert!(open.trim().parse::<u32>().unwrap() < 30, "{open}");
    let mut pooler = Pooler::new(HelperClient::connect(&path).unwrap());
    pooler.hold_both(&lab, 10_000);
}

pub(crate) fn duplicates_are_asked_for() {
    let lab = Lab::new(ROUTERS);
    let lan = Role::start(&lab.lan, "frames");
    let (_helper, socket) = lab.child();
    let mut pooler = Pooler::on(socket);
    pooler.greet(&lab);
    pooler.renew(10_000);
    for (router, floating) in [(0, V4), (1, V6)] {
        let asked = Time::now();
        assert_eq!(pooler.hold(router, 50_000), Event::Held { router, rival: None });
        assert!(Time::now().since(asked) >= ms(50));
        let question = lan.first(&format!("ask {floating}"), asked);
        let announced = lan.first(&format!("announce {floating}"), asked);
        assert!(announced.at.since(question.at) >= ms(45), "first the question, then the claim");
        pooler.say(&Request::Release { router });
        assert_eq!(pooler.hear(), Event::Released { router });
    }
    // Now somebody has them.
    let mac = sh(&format!("ip -n {} -o link show eth0", lab.lan));
    let mac = mac.split_whitespace().skip_while(|word| *word != "link/ether").nth(1).unwrap().to_owned();
    let mac: Vec<u8> = mac.split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
    sh(&format!(
        "ip -n {} address add {V4}/24 dev eth0 && ip -n {} address add {V6}/64 dev eth0 nodad",
        lab.lan, lab.lan
    ));
    for router in [0, 1] {
        let asked = Time::now();
        assert_eq!(pooler.hold(router, 900_000), Event::Held { router, rival: Some(mac.clone().try_into().unwrap()) });
        assert!(Time::now().since(asked) < ms(500), "an answer is enough");
    }
    assert!(has_both(&lab), "taken all the same");
    // A question is forgotten with a release.
    pooler.say(&Request::Release { router: 0 });
    pooler.await_event("Released", |event| matches!(event, Event::Released { .. }));
    sh(&format!("ip -n {} address del {V4}/24 dev eth0", lab.lan));
    pooler.say(&Request::Hold { router: 0, check_us: 100_000, priority: 1 });
    pooler.say(&Request::Release { router: 0 });
    pooler.await_event("Released", |event| matches!(event, Event::Released { .. }));
    thread::sleep(ms(200));
    assert!(!lab.has(V4));
}

pub(crate) fn rivals_are_told_of() {
    let lab = Lab::new(ROUTERS);
    let mut lan = Role::start(&lab.lan, "frames");
    let (_helper, mut pooler) = holding(&lab, 10_000);
    for (router, floating) in [(0, V4), (1, V6)] {
        lan.tell(&format!("claim {floating}"));
        assert_eq!(pooler.hear(), Event::Rival { router, address_index: 0, mac: [2, 0, 0, 0, 0, 0x66] });
        thread::sleep(ms(30));
        // Not for each frame.
        let begun = Time::now();
        let mut count = 0;
        while Time::now().since(begun) < ms(200) {
            lan.tell(&format!("claim {floating}"));
            thread::sleep(ms(1));
            while let Some((event, _)) = pooler.heard() {
                assert!(matches!(event, Event::Rival { .. }));
                count += 1;
            }
        }
        assert!((3..=12).contains(&count), "{count}");
        thread::sleep(ms(50));
        while pooler.heard().is_some() {}
    }
    // Others' addresses are others' business, and own announcements come from nobody else.
    lan.tell("claim 10.77.0.11");
    lan.tell("claim fd77::11");
    for router in [0, 1] {
        pooler.say(&Request::Announce { router });
    }
    thread::sleep(ms(100));
    assert!(pooler.heard().is_none());
}

pub(crate) fn a_virtual_mac() {
    let routers = "v4 = address=10.77.0.10 virtual_router_id=51 virtual_mac=1\nv6 = address=fd77::10 virtual_router_id=51 \
                   virtual_mac=1\n";
    let lab = Lab::new(routers);
    let mut lan = Role::start(&lab.lan, "frames");
    let before = Time::now();
    let (mut helper, mut pooler) = holding(&lab, 10_000);
    assert_eq!(lan.first(&format!("announce {V4}"), before).what, format!("announce {V4} 00:00:5e:00:01:33"));
    assert_eq!(lan.first(&format!("announce {V6}"), before).what, format!("announce {V6} 00:00:5e:00:02:33"));
    for (floating, device) in [(V4, "vrrp.51"), (V6, "vrrp6.51")] {
        sh(&format!("ip -n {} neighbour flush all", lab.lan));
        lab.reach(floating);
        let neighbours = sh(&format!("ip -n {} neighbour show {floating}", lab.lan));
        assert!(neighbours.contains("00:00:5e:00:0"), "{neighbours}");
        assert!(sh(&format!("ip -n {} -o address show dev {device}", lab.node)).contains(floating));
    }
    assert!(!sh(&format!("ip -n {} -o address show dev vrrp6.51", lab.node)).contains("fe80::"));
    assert_eq!(lab.node("sysctl -n net.ipv4.conf.eth0.arp_ignore").trim(), "1");
    assert_eq!(lab.node("sysctl -n net.ipv4.conf.eth0.arp_announce").trim(), "2");
    assert_eq!(lab.node("sysctl -n net.ipv4.conf.vrrp/51.arp_ignore").trim(), "1");
    assert_eq!(lab.node("sysctl -n net.ipv6.conf.vrrp6/51.accept_ra").trim(), "0");
    // Someone else's claim is still seen.
    while pooler.heard().is_some() {}
    lan.tell(&format!("claim {V4}"));
    assert!(matches!(pooler.hear(), Event::Rival { router: 0, .. }));
    pooler.say(&Request::Release { router: 0 });
    pooler.await_event("Released", |event| matches!(event, Event::Released { .. }));
    assert!(!lab.has(V4));
    // Killed, its interfaces are there for the next one; ended, they are not.
    helper.process.kill().unwrap();
    helper.process.wait().unwrap();
    let (mut helper, pooler) = holding(&lab, 10_000);
    drop(pooler);
    assert!(helper.ended());
    assert!(!sh(&format!("ip -n {} -o link show", lab.node)).contains("vrrp"));
}

pub(crate) fn a_sweep_reaches_clients() {
    let lab = Lab::new("v4 = address=10.77.0.10 virtual_router_id=51\nv6 = address=fd77::10 virtual_router_id=51\n");
    let lan = Role::start(&lab.lan, "frames");
    let (_helper, mut pooler) = holding(&lab, 10_000);
    let flows = vec![(address("10.77.0.2"), 40_001), (address("10.77.0.2"), 40_002)];
    let before = Time::now();
    pooler.say(&Request::Sweep { router: 0, port: 6432, flows });
    assert_eq!(pooler.hear(), Event::Swept { router: 0, sent: 2 });
    until("two segments", || lan.all("tcp10 10.77.0.10:6432", before).len() == 2);
    // A host without such a connection says so, which shows that the segments are sound.
    until("two answers", || lan.all("tcp04 10.77.0.2:", before).len() == 2);
    let flows: Vec<_> = (1..=256).map(|port| (address("fd77::2"), 40_000 + port)).collect();
    pooler.say(&Request::Sweep { router: 1, port: 6432, flows: flows.clone() });
    assert_eq!(pooler.hear(), Event::Swept { router: 1, sent: 256 });
    until("answers", || lan.all("tcp04 fd77::2:", before).len() == 256);
    // Only what is listened on, only what is held, and not for ever.
    let mut none = |router, port, flows| {
        pooler.say(&Request::Sweep { router, port, flows });
        assert_eq!(pooler.hear(), Event::Swept { router, sent: 0 });
    };
    none(0, 22, vec![(address("10.77.0.2"), 1)]);
    none(0, 6432, vec![(address("255.255.255.255"), 1), (address("224.0.0.1"), 1), (address("fd77::2"), 1)]);
    pooler.say(&Request::Release { router: 0 });
    pooler.await_event("Released", |event| matches!(event, Event::Released { .. }));
    pooler.say(&Request::Sweep { router: 0, port: 6432, flows: vec![(address("10.77.0.2"), 1)] });
    assert_eq!(pooler.hear(), Event::Swept { router: 0, sent: 0 });
    let mut total = 256;
    let begun = Time::now();
    loop {
        pooler.say(&Request::Sweep { router: 1, port: 6432, flows: flows.clone() });
        match pooler.hear() {
            Event::Swept { sent: 0, .. } => break,
            Event::Swept { sent, .. } => total += sent,
            other => panic!("{other:?}"),
        }
        assert!(total <= 65_536);
    }
    assert!(total > 60_000, "{total}");
    println!("    {total} clients were swept within {:?}", Time::now().since(begun));
    a_dead_connection_is_reset(&lab);
    one_in_time_wait_is_no_obstacle(&lab);
    none_in_time_wait_is_left_behind(&lab);
}

/// A client whose server is gone without a word, and whose address another one has now.
fn a_dead_connection_is_reset(lab: &Lab) {
    let (_helper, mut pooler) = holding(lab, 10_000);
    let mut server = Role::start(&lab.node, "server");
    let client = Role::start(&lab.lan, "client");
    let port = client.first("port", Time::default()).what.strip_prefix("port ").unwrap().parse().unwrap();
    server.first("accepted", Time::default());
    pooler.say(&Request::Release { router: 0 });
    assert_eq!(pooler.hear(), Event::Released { router: 0 });
    server.tell("go");
    server.first("gone", Time::default());
    thread::sleep(ms(100));
    assert!(client.all("Connection", Time::default()).is_empty(), "the client knows nothing of it");
    pooler.renew(10_000);
    pooler.hold(0, 0);
    let swept = Time::now();
    pooler.say(&Request::Sweep { router: 0, port: 6432, flows: vec![(address("10.77.0.2"), port)] });
    let told = client.first("ConnectionReset", swept).at.since(swept);
    println!("    from the sweep until a client knew that its connection was dead: {told:?}");
}

/// A client that has a connection with the same two ends as one that this node has closed.
fn one_in_time_wait_is_no_obstacle(lab: &Lab) {
    let (_helper, pooler) = holding(lab, 10_000);
    let server = Role::start(&lab.node, "closer");
    let client = Role::start(&lab.lan, "comer");
    server.first("closed", Time::default());
    let port = client.first("port", Time::default()).what.strip_prefix("port ").unwrap().parse().unwrap();
    let swept = Time::now();
    // Of the others the kernel says who listens for them.
    let others = (1..256).map(|other| (address("10.77.0.2"), other));
    let flows = others.chain([(address("10.77.0.2"), port)]).collect();
    pooler.say(&Request::Sweep { router: 0, port: 6432, flows });
    client.first("ConnectionReset", swept);
}

/// Which nobody but this node would know of when the address comes back.
fn none_in_time_wait_is_left_behind(lab: &Lab) {
    let (_helper, mut pooler) = holding(lab, 10_000);
    let server = Role::start(&lab.node, "closer");
    let _client = Role::start(&lab.lan, "comer");
    server.first("closed", Time::default());
    let left = || sh(&format!("ip netns exec {} ss -Htan state time-wait src {V4}", lab.node));
    until("one in TIME-WAIT", || !left().is_empty());
    pooler.say(&Request::Release { router: 0 });
    pooler.await_event("Released", |event| matches!(event, Event::Released { .. }));
    until("none in TIME-WAIT", || left().is_empty());
}

pub(crate) fn a_reload_keeps_what_stays() {
    let lab = Lab::new(ROUTERS);
    let lan = Role::start(&lab.lan, "frames");
    let node = Role::start(&lab.node, "addresses");
    let (_helper, mut pooler) = holding(&lab, 10_000);
    // IPv4 stays as it is, IPv6 gets another address, a third router comes.
    lab.configure(
        "v4 = address=10.77.0.10 virtual_router_id=51 priority=254
v6 = address=fd77::11 virtual_router_id=51 priority=100
new = address=10.77.0.20 virtual_router_id=60\n",
    );
    let begun = Time::now();
    pooler.say(&Request::Reread { fingerprint: lab.config().fingerprint });
    let Event::Welcome { routers, .. } = pooler.hear() else { panic!() };
    assert_eq!(routers.len(), 3);
    let held = |interface: &HelperConfig, floating: &str| {
        let index = interface.routers.iter().position(|router| router.addresses.contains(&address(floating))).unwrap();
        routers[index].held
    };
    let config = lab.config();
    assert!(held(&config, V4) && held(&config, "fd77::11") && !held(&config, "10.77.0.20"));
    until("the new address", || lab.has("fd77::11"));
    assert!(lab.has(V4) && !lab.has(V6) && !lab.has("10.77.0.20"));
    lan.first("announce fd77::11", begun);
    assert!(node.all("gone4", begun).is_empty());
    assert!(lan.all("advert", begun).is_empty());
    // What the pooler has not read, or what is broken, changes nothing.
    pooler.say(&Request::Reread { fingerprint: [7; 32] });
    assert!(matches!(pooler.hear(), Event::Refused(reason) if reason.contains("another configuration")));
    lab.configure("v4 = nonsense\n");
    pooler.say(&Request::Reread { fingerprint: [7; 32] });
    assert!(matches!(pooler.hear(), Event::Refused(reason) if reason.contains("cannot read the configuration")));
    assert!(lab.has(V4) && lab.has("fd77::11"));
    // What is no more is given up.
    lab.configure("v4 = address=10.77.0.10 virtual_router_id=51 priority=254\n");
    pooler.say(&Request::Reread { fingerprint: lab.config().fingerprint });
    assert!(matches!(pooler.hear(), Event::Welcome { routers, .. } if routers.len() == 1 && routers[0].held));
    assert!(lab.has(V4) && !lab.has("fd77::11"));
}

pub(crate) fn another_configuration_is_refused() {
    let lab = Lab::new(ROUTERS);
    let (path, listener) = lab.listener();
    let helper = lab.unit(&listener);
    helper.up();
    let mut pooler = Pooler::new(HelperClient::connect(&path).unwrap());
    pooler.say(&Request::Hello { protocol: PROTOCOL, fingerprint: [1; 32] });
    assert!(matches!(pooler.hear(), Event::Refused(reason) if reason.contains("another configuration")));
    pooler.is_cut_off();
    let mut pooler = Pooler::new(HelperClient::connect(&path).unwrap());
    pooler.say(&Request::Hello { protocol: 9, fingerprint: lab.config().fingerprint });
    assert!(matches!(pooler.hear(), Event::Refused(reason) if reason.contains("version 9")));
    pooler.is_cut_off();
    // A file that was changed before the pooler came is read again.
    lab.configure("v4 = address=10.77.0.30 virtual_router_id=51\n");
    let mut pooler = Pooler::new(HelperClient::connect(&path).unwrap());
    assert!(matches!(pooler.hello(&lab), Event::Welcome { routers, .. } if routers.len() == 1));
}

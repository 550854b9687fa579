//! What the fuzzers call: one function per parser that reads bytes of strangers. None may panic on any input, and each
//! asserts what must hold beyond that: what was read is written back as it came, and nobody logs in without the password.
//!
//! `tests/fuzz.rs` runs the same functions on stable Rust, on the seeds and on mutations of them; `fuzz/run` runs them
//! under libFuzzer.

use std::io;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use jiff::tz::TimeZone;
use pgtandem::admin::{Action, ActionResult, Console, Rights, Then, sql};
use pgtandem::auth::hba::{IdentMaps, Knock, Rules};
use pgtandem::auth::{
    self, Channel, ClientLogin, Credential, Entropy, Evidence, LoginParams, Method, ScramKeys, ScramSecret, Secret,
    SecretKind, ServerLogin, ServerStep, Step, UserList,
};
use pgtandem::clock::Time;
use pgtandem::config::{self, problem};
use pgtandem::daemon::helper::menu;
use pgtandem::handover::dialogue::{MESSAGE_LEN_MAX, Message};
use pgtandem::handover::format;
use pgtandem::pair::event::{Event as PairEvent, Params as PairParams};
use pgtandem::pair::link::{self, Link};
use pgtandem::pair::message::{self as pair, BootId, Message as PairMessage};
use pgtandem::pair::picture::Direction;
use pgtandem::snapshot::Snapshot;
use pgtandem::tls;
use pgtandem::vrrp::{self, Advert, ChecksumVariant, Event, Family, Params, Received, Router, packet};
use pgtandem::wire::{extended, frame, startup};
use zeroize::Zeroizing;

/// One fuzz target.
pub type Target = fn(&[u8]);

/// All targets by name; the seeds of each are in `fuzz/seeds/NAME/`.
pub const TARGETS: [(&str, Target); 15] = [
    ("frame", frame),
    ("startup", startup),
    ("extended", extended),
    ("scram", scram),
    ("config_ini", config_ini),
    ("config_toml", config_toml),
    ("userlist", userlist),
    ("hba", hba),
    ("console", console),
    ("certificate", certificate),
    ("handover_state", handover_state),
    ("handover_message", handover_message),
    ("helper_menu", helper_menu),
    ("vrrp_advert", vrrp_advert),
    ("pair_message", pair_message),
];

/// A stream of messages: each ends where its length says, and is written back as it came.
pub fn frame(data: &[u8]) {
    let mut rest = data;
    while let Ok(Some(head)) = frame::head(rest) {
        assert!(head.total >= frame::HEAD_LEN && head.body_len() == head.total - frame::HEAD_LEN);
        let Some((message, behind)) = rest.split_at_checked(head.total) else { break };
        let mut again = Vec::new();
        frame::put(&mut again, head.tag, |out| out.extend_from_slice(&message[frame::HEAD_LEN..]));
        assert_eq!(again, message);
        rest = behind;
    }
    if let Some((text, behind)) = frame::cstr(data) {
        let mut again = Vec::new();
        frame::put_cstr(&mut again, text);
        again.extend_from_slice(behind);
        assert_eq!(again, data);
    }
}

/// A first packet: what it says is what we would send to say the same.
pub fn startup(data: &[u8]) {
    if let Ok(Some(len)) = startup::packet_len(data) {
        assert!((8..=startup::PACKET_LEN_MAX).contains(&len));
    }
    let mut again = Vec::new();
    match startup::first(data) {
        Ok(startup::First::Startup(packet)) => {
            let _ = (packet.get("user"), packet.needs_negotiation(), packet.extensions().count());
            let params = packet.params.iter().map(|(name, value)| (&**name, &**value));
            startup::put_startup(&mut again, packet.protocol, params);
        }
        Ok(startup::First::Cancel(key)) => startup::put_cancel(&mut again, &key),
        Ok(startup::First::Ssl) => startup::put_ssl_request(&mut again),
        Ok(startup::First::Gss) | Err(_) => return,
    }
    // The length field is the caller's business: it cut the packet by it.
    assert_eq!(again[4..], data[4..]);
}

/// Bodies of Parse, Bind, Describe and Close: renaming to the same name changes nothing.
pub fn extended(data: &[u8]) {
    let mut again = Vec::new();
    if let Some(parse) = extended::parse(data) {
        extended::put_parse(&mut again, parse.name, parse.definition);
        assert_eq!(again[frame::HEAD_LEN..], *data);
    }
    if let Some(bind) = extended::bind_names(data) {
        again.clear();
        let values = &data[bind.len..];
        extended::put_bind_front(&mut again, bind.portal, bind.statement, values.len());
        again.extend_from_slice(values);
        assert_eq!(again[frame::HEAD_LEN..], *data);
        assert_eq!(frame::head(&again).unwrap().unwrap().total, again.len());
    }
    if let Some(extended::Target::Statement(name)) = extended::target(data) {
        again.clear();
        extended::put_statement_target(&mut again, b'D', name);
        assert_eq!(again[frame::HEAD_LEN..], *data);
    }
}

const SEPARATOR: &[u8] = b"\n--\n";
const PASSWORD: &[u8] = b"nobody-can-guess-this-3f9a1c";

fn messages(data: &[u8]) -> Vec<&[u8]> {
    let (mut found, mut rest) = (Vec::new(), data);
    while let Some(at) = rest.windows(SEPARATOR.len()).position(|window| window == SEPARATOR) {
        found.push(&rest[..at]);
        rest = &rest[at + SEPARATOR.len()..];
    }
    found.push(rest);
    found
}

fn entropy() -> Entropy {
    Entropy { nonce: [0x55; 18], md5_salt: [1, 2, 3, 4], mock_key: Zeroizing::new([9; 32]) }
}

/// Password and SCRAM messages of strangers, to us as a server and to us as a client (separated by `\n--\n`): whoever
/// does not know the password is not let in, and a server that does not know it is not believed.
pub fn scram(data: &[u8]) {
    let messages = messages(data);
    for message in &messages {
        let _ = auth::parse_client_first(message);
        let _ = auth::parse_server_first(message);
        let _ = auth::parse_client_final(message);
        let _ = auth::parse_server_final(message);
        if let Some(secret) = ScramSecret::parse(message) {
            let text = secret.to_text();
            assert_eq!(*ScramSecret::parse(text.as_bytes()).unwrap().to_text(), *text);
        }
    }
    let iterations = NonZeroU32::MIN;
    let scram = ScramSecret::from_keys(&ScramKeys::from_bytes(&[7; 64]), b"0123456789abcdef", iterations);
    let plain = Secret::Plain(Zeroizing::new(PASSWORD.to_vec()));
    let hash = Channel::Tls(Some(vec![3; 32]));
    for method in [Method::Md5, Method::ScramSha256, Method::ScramSha256Plus, Method::Plain] {
        for secret in [Some(&Secret::Scram(scram.clone())), Some(&plain), None] {
            for channel in [Channel::Clear, hash.clone()] {
                stranger_as_client(method, secret, channel, &messages);
            }
        }
    }
    stranger_as_server(Channel::Clear, &messages);
    stranger_as_server(hash, &messages);
}

fn stranger_as_client(method: Method, secret: Option<&Secret>, channel: Channel, messages: &[&[u8]]) {
    let params = LoginParams {
        method,
        user: b"user",
        secret,
        cached: None,
        mock_kind: SecretKind::Scram,
        scram_iterations: NonZeroU32::MIN,
        channel,
        evidence: Evidence::None,
        entropy: entropy(),
    };
    let (mut login, mut step) = ClientLogin::start(params);
    for message in messages {
        while let Step::Derive(derivation) = &step {
            step = login.on_keys(&derivation.run());
        }
        if matches!(step, Step::Send(_)) {
            step = login.on_message(message);
        }
    }
    assert!(!matches!(step, Step::Accepted(_)), "let in without the password");
}

fn stranger_as_server(channel: Channel, messages: &[&[u8]]) {
    let password = Credential::Password(Zeroizing::new(PASSWORD.to_vec()));
    let mut login = ServerLogin::new(b"user", password, channel, &entropy());
    let mut scram = false;
    for message in messages {
        let Ok(mut step) = login.on_auth(message) else { return };
        while let ServerStep::Derive(derivation) = &step {
            // A stranger may ask for millions of iterations; the fuzzer has no time for them.
            let slow = derivation.iterations().get() > 10;
            let keys = if slow { ScramKeys::from_bytes(&[8; 64]) } else { derivation.run() };
            let Ok(next) = login.on_keys(&keys) else { return };
            step = next;
        }
        scram |= message.starts_with(&[0, 0, 0, 10]);
        assert!(!(scram && matches!(step, ServerStep::Ok)), "believed a server that does not know the password");
    }
}

/// `pgbouncer.ini`, which may include itself.
pub fn config_ini(data: &[u8]) {
    configuration("pgbouncer.ini", data);
}

/// `pgtandem.toml`.
pub fn config_toml(data: &[u8]) {
    configuration("pgtandem.toml", data);
}

fn configuration(name: &str, data: &[u8]) {
    let mut reads = 0;
    let mut read = |path: &Path| -> io::Result<Vec<u8>> {
        reads += 1;
        if path.ends_with(name) && reads <= 20 { Ok(data.to_vec()) } else { Err(io::ErrorKind::NotFound.into()) }
    };
    match config::load(Path::new(name), &mut read) {
        Ok((_, problems)) => assert!(!problem::has_errors(&problems), "valid, with errors: {problems:?}"),
        Err(problems) => assert!(problem::has_errors(&problems), "invalid, without an error: {problems:?}"),
    }
}

/// `userlist.txt`, and what stands in place of a password.
pub fn userlist(data: &[u8]) {
    let lines = data.split(|byte| *byte == b'\n').count();
    let (list, warnings) = UserList::parse(data);
    assert!(list.len() <= lines && warnings.iter().all(|warning| (1..=lines).contains(&warning.line)));
    assert!(list.iter().all(|(user, _)| list.get(user).is_some()));
    let _ = (Secret::parse(data).kind(), list.prevailing_kind());
}

/// Access rules and, behind a separator, user maps: every finding names a line, and nobody gets in by a line that holds for
/// somebody else.
pub fn hba(data: &[u8]) {
    let parts = messages(data);
    let (rules, maps) = (parts.first().copied().unwrap_or_default(), parts.get(1).copied().unwrap_or_default());
    let (maps, odd) = IdentMaps::parse(maps);
    let lines = data.split(|byte| *byte == b'\n').count();
    assert!(odd.iter().all(|finding| (1..=lines).contains(&finding.line)));
    let mut names = |name: &str| if name == "names" { Ok(b"joe, ann".to_vec()) } else { Err("none".to_owned()) };
    let (rules, findings) = Rules::parse(rules, &maps, &mut names);
    assert!(rules.len() <= lines && findings.iter().all(|finding| (1..=lines).contains(&finding.line)));
    for from in [None, Some(IpAddr::from([10, 0, 0, 1])), Some(IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1]))] {
        let knock = Knock { from, tls: false, replication: false, database: "db", user: "joe" };
        let found = rules.find(&knock);
        assert!(found.is_none() || !rules.is_empty());
        if let Some(map) = found.and_then(|rule| rule.map.as_ref()) {
            let _ = map.admits("joe", Some("os"), &|system| system == "os");
            assert!(!map.admits("joe", None, &|_| false));
        }
    }
}

/// Frames of a console client: every answer is made of whole messages, and each simple query is answered to its end.
pub fn console(data: &[u8]) {
    let mut console = Console::new(Rights::Admin, TimeZone::UTC);
    let mut rest = data;
    while let Ok(Some(head)) = frame::head(rest) {
        let Some((message, behind)) = rest.split_at_checked(head.total) else { break };
        rest = behind;
        let mut turn = console.on_frame(head.tag, &message[frame::HEAD_LEN..]);
        let mut answer = turn.reply.to_vec();
        let mut acted = 0;
        while let Then::Act(action) = turn.then {
            acted += 1;
            let result = match action {
                Action::Sql(job) => query(&job),
                _ if acted % 2 == 1 => ActionResult::Snapshot(Box::default()),
                _ => ActionResult::Done,
            };
            turn = console.finish(result);
            answer.extend_from_slice(&turn.reply);
            assert!(acted < 1000, "a frame that never ends");
        }
        whole_messages(&answer);
        if let Then::Close(_) = turn.then {
            return;
        }
    }
}

/// SQL of a console client, for a short while.
fn query(job: &sql::Job) -> ActionResult {
    let looks = AtomicU32::new(0);
    let mut world = sql::World {
        zone: &TimeZone::UTC,
        now_us: 0,
        picture: &mut |_| Snapshot::default(),
        stop: Arc::new(move || looks.fetch_add(1, Ordering::Relaxed) > 1000),
    };
    sql::run(job, &mut world).map_or_else(ActionResult::Failed, ActionResult::Sql)
}

fn whole_messages(mut answer: &[u8]) {
    while !answer.is_empty() {
        let head = frame::head(answer).expect("an impossible length in our own answer").expect("half a head");
        answer = answer.get(head.total..).expect("half a message");
    }
}

/// A certificate of a stranger, in DER.
pub fn certificate(data: &[u8]) {
    let _ = (tls::server_end_point_hash(data), tls::peer_common_name(data), tls::certificate_names_user(data, "user"));
}

/// What another process leaves: whatever is believed is complete in itself, and goes on to the next process unchanged. So that
/// a mutation reaches the fields, the length in the head is set right first.
pub fn handover_state(data: &[u8]) {
    let mut whole = data.to_vec();
    if let Some(len) = data.len().checked_sub(24) {
        whole[16..24].copy_from_slice(&(len as u64).to_be_bytes());
    }
    for bytes in [data, &whole] {
        if let Ok(state) = format::decode(bytes) {
            let again = format::encode(&state).unwrap();
            assert_eq!(format::decode(&again), Ok(state));
        }
    }
}

/// A word of another process.
pub fn handover_message(data: &[u8]) {
    if let Some(message) = Message::decode(data) {
        let again = message.encode();
        assert!(again.len() > MESSAGE_LEN_MAX || Message::decode(&again) == Some(message));
    }
}

/// A packet between pooler and address helper, in either direction: what is understood is all that it says.
pub fn helper_menu(data: &[u8]) {
    if let Ok(request) = menu::Request::decode(data) {
        assert_eq!(request.encode(), data);
    }
    if let Ok(event) = menu::Event::decode(data) {
        assert_eq!(event.encode(), data);
    }
}

/// An advert, from and to addresses that the first byte chooses, as it came and with its checksum made right: one that passes
/// every check is written back as it came, and a virtual router hears it.
pub fn vrrp_advert(data: &[u8]) {
    let Some((&choice, bytes)) = data.split_first() else { return };
    let (source, own) = if choice & 1 == 0 { ("192.0.2.1", "192.0.2.2") } else { ("fe80::1", "fe80::2") };
    let (Ok(source), Ok(own)) = (source.parse(), own.parse()) else { return };
    let destination = if choice & 2 == 0 { Family::of(source).group() } else { own };
    let received = Received { source, destination, ttl: vrrp::TTL, interface_index: 1 };
    let mut mended = bytes.to_vec();
    if mended.len() >= 8 {
        mended[6..8].fill(0);
        let checksum = vrrp_checksum(&mended, &received);
        mended[6..8].copy_from_slice(&checksum.to_be_bytes());
    }
    for bytes in [bytes, &mended] {
        assert!(packet::decode(bytes, &Received { ttl: 254, ..received }).is_err());
        let Ok(advert) = packet::decode(bytes, &received) else { continue };
        assert!((1..=255).contains(&advert.addresses.len()) && !advert.interval.is_zero() && advert.vrid != 0);
        let mut again = Vec::new();
        advert.encode(source, destination, &mut again);
        // The upper half of the fifth byte is reserved, and what version 2 has behind the addresses is not looked at.
        let end = 8 + advert.addresses.len() * if source.is_ipv4() { 4 } else { 16 };
        for range in [0..4, 5..6, 8..end] {
            assert_eq!(again.get(range.clone()), bytes.get(range));
        }
        assert_eq!(packet::decode(&again, &received).as_ref(), Ok(&advert));
        vrrp_hear(&advert, source, own);
    }
}

/// RFC 1071, with the pseudo-header of IPv6.
fn vrrp_checksum(bytes: &[u8], received: &Received) -> u16 {
    let mut all = bytes.to_vec();
    if let (IpAddr::V6(source), IpAddr::V6(destination)) = (received.source, received.destination) {
        all.resize(bytes.len().next_multiple_of(2), 0);
        all.extend_from_slice(&[source.octets(), destination.octets()].concat());
        all.extend_from_slice(&[(bytes.len() >> 8) as u8, bytes.len() as u8, 0, vrrp::PROTOCOL]);
    }
    let words = all.chunks(2).map(|pair| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u32::from(*low)));
    let sum = words.fold(0, |sum, word| (sum + word) % 0xffff);
    !(sum as u16)
}

/// Whatever it says, a router has a time ahead of it afterwards.
fn vrrp_hear(advert: &Advert, from: IpAddr, own: IpAddr) {
    let params = Params {
        vrid: advert.vrid,
        family: Family::of(own),
        version: advert.version,
        priority: 100,
        interval: advert.interval,
        preempt: false,
        preempt_delay: Duration::ZERO,
        sole_peer: true,
        addresses: advert.addresses.clone(),
        unicast_peers: Vec::new(),
        link_local_first: false,
        checksum: ChecksumVariant::default(),
    };
    for held in [false, true] {
        let (mut router, mut actions, now) = (Router::new(Time(1), params.clone(), own), Vec::new(), Time(2));
        router.step(now, Event::Start { held }, &mut actions);
        router.step(now, Event::Advert { from, advert }, &mut actions);
        assert_eq!(router.picture().counters.adverts_received, 1);
        assert!(router.deadline().is_some_and(|deadline| deadline > now));
    }
}

/// What a node that has proved itself says: a stream of frames as it came, and each byte string as the fields of every kind. What
/// is understood is bounded, can be said again, and leaves the link with a time ahead of it.
pub fn pair_message(data: &[u8]) {
    let (mut link, mut out) = pair_link();
    let mut stream = data;
    while let Ok(Some(len)) = pair::frame_len(stream) {
        let Some(body) = stream.get(pair::FRAME_HEAD_LEN..pair::FRAME_HEAD_LEN + len) else { break };
        stream = &stream[pair::FRAME_HEAD_LEN + len..];
        pair_hear(&mut link, body, &mut out);
    }
    for kind in 0..=10 {
        pair_hear(&mut link, &[&[kind], data].concat(), &mut out);
    }
}

fn pair_link() -> (Link, Vec<pgtandem::pair::event::Action>) {
    let params = PairParams {
        interval: Duration::from_millis(100),
        timeout: Duration::from_millis(500),
        budget: pgtandem::pair::budget::Params {
            mode: pgtandem::pair::budget::Mode::Lend,
            interval: Duration::from_millis(100),
            lease: Duration::from_millis(500),
            shed_grace: Duration::from_millis(100),
        },
    };
    let hello = link::hello("left", "pgtandem", BootId::new([1; 16]), 1);
    let (mut link, mut out) = (Link::new(Time(1), params, hello), Vec::new());
    let address = ([192, 0, 2, 2], 7432).into();
    let (path, direction) = (1, Direction::Incoming);
    let key = Box::new(pgtandem::pair::drift::DriftKey::new(&Zeroizing::new([7; 32])));
    link.step(Time(2), PairEvent::Connected { path, direction, address, key }, &mut out);
    (link, out)
}

fn pair_hear(link: &mut Link, body: &[u8], out: &mut Vec<pgtandem::pair::event::Action>) {
    let Ok(message) = PairMessage::decode(body) else { return };
    let frame = message.encode();
    if pair::frame_len(&frame).is_ok() {
        assert_eq!(PairMessage::decode(&frame[pair::FRAME_HEAD_LEN..]).as_ref(), Ok(&message));
    }
    out.clear();
    link.step(Time(3), PairEvent::Heard { path: 1, message: Box::new(message) }, out);
    link.step(Time(3), PairEvent::Timer, out);
    assert!(link.deadline() > Time(3));
}

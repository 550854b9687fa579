//! What the fuzzers call: one function per parser that reads bytes of strangers. None may panic on any input, and each
//! asserts what must hold beyond that: what was read is written back as it came, and nobody logs in without the password.
//!
//! `tests/fuzz.rs` runs the same functions on stable Rust, on the seeds and on mutations of them; `fuzz/run` runs them
//! under libFuzzer.

use std::io;
use std::num::NonZeroU32;
use std::path::Path;

use jiff::tz::TimeZone;
use pgtandem::admin::{ActionResult, Console, Rights, Then};
use pgtandem::auth::{
    self, Channel, ClientLogin, Credential, Entropy, Evidence, LoginParams, Method, ScramKeys, ScramSecret, Secret,
    SecretKind, ServerLogin, ServerStep, Step, UserList,
};
use pgtandem::config::{self, problem};
use pgtandem::daemon::helper::menu;
use pgtandem::handover::dialogue::{MESSAGE_LEN_MAX, Message};
use pgtandem::handover::format;
use pgtandem::tls;
use pgtandem::wire::{extended, frame, startup};
use zeroize::Zeroizing;

/// One fuzz target.
pub type Target = fn(&[u8]);

/// All targets by name; the seeds of each are in `fuzz/seeds/NAME/`.
pub const TARGETS: [(&str, Target); 12] = [
    ("frame", frame),
    ("startup", startup),
    ("extended", extended),
    ("scram", scram),
    ("config_ini", config_ini),
    ("config_toml", config_toml),
    ("userlist", userlist),
    ("console", console),
    ("certificate", certificate),
    ("handover_state", handover_state),
    ("handover_message", handover_message),
    ("helper_menu", helper_menu),
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
        while let Then::Act(_) = turn.then {
            acted += 1;
            let picture = ActionResult::Snapshot(Box::default());
            turn = console.finish(if acted % 2 == 1 { picture } else { ActionResult::Done });
            answer.extend_from_slice(&turn.reply);
            assert!(acted < 1000, "a frame that never ends");
        }
        whole_messages(&answer);
        if let Then::Close(_) = turn.then {
            return;
        }
    }
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

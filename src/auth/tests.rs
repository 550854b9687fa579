//! Both machines against each other and against a second implementation.

use std::num::NonZeroU32;

use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{ChannelBinding, ScramSha256};
use proptest::prelude::*;
use zeroize::Zeroizing;

use super::messages::{SCRAM, SCRAM_PLUS, sasl_initial, sasl_request};
use super::*;

const ITERATIONS: NonZeroU32 = NonZeroU32::new(3).unwrap();
const HASH: &[u8] = b"0123456789abcdef0123456789abcdef";

fn entropy(seed: u8) -> Entropy {
    Entropy { nonce: [seed; 18], md5_salt: [seed, 0, 255, 9], mock_key: Zeroizing::new([7; 32]) }
}

fn tls() -> Channel {
    Channel::Tls(Some(HASH.to_vec()))
}

fn plain(password: &[u8]) -> Secret {
    Secret::Plain(Zeroizing::new(password.to_vec()))
}

fn scram(password: &[u8]) -> Secret {
    Secret::Scram(ScramSecret::from_password(password, b"salt of the user", ITERATIONS))
}

fn md5(password: &[u8]) -> Secret {
    Secret::Md5(Md5Secret::from_password(password, b"joe"))
}

fn params(method: Method, secret: Option<&Secret>) -> LoginParams<'_> {
    LoginParams {
        method,
        user: b"joe",
        secret,
        cached: None,
        mock_kind: SecretKind::Plain,
        scram_iterations: ITERATIONS,
        channel: Channel::Clear,
        evidence: Evidence::None,
        entropy: entropy(1),
    }
}

fn password(password: &[u8]) -> Credential {
    Credential::Password(Zeroizing::new(password.to_vec()))
}

/// The body of the only message in `bytes`.
fn body(bytes: &[u8]) -> &[u8] {
    let length = u32::from_be_bytes(bytes[1..5].try_into().unwrap());
    assert_eq!(length as usize + 1, bytes.len(), "one whole message");
    &bytes[5..]
}

/// Runs derivations until the machine has something to say.
fn settle(login: &mut ClientLogin, mut step: Step) -> Step {
    while let Step::Derive(derivation) = &step {
        let keys = derivation.run();
        step = login.on_keys(&keys);
    }
    step
}

/// How it ended, and everything that was said, our side's messages first in each round.
#[derive(Debug)]
struct Outcome {
    accepted: Result<Accepted, Refusal>,
    server: Result<(), Refusal>,
    said: Vec<Vec<u8>>,
}

/// A client that logs in to us is played by the machine with which we log in to servers.
fn drive(params: LoginParams<'_>, credential: Credential, channel: Channel) -> Outcome {
    drive_through(params, credential, channel, |_, _| {})
}

/// The same with somebody in the middle who may change the body of any message (numbered from 0).
fn drive_through(
    params: LoginParams<'_>,
    credential: Credential,
    channel: Channel,
    mut middle: impl FnMut(usize, &mut Vec<u8>),
) -> Outcome {
    let mut said = Vec::new();
    let mut pass = |bytes: &[u8]| {
        let mut body = body(bytes).to_vec();
        middle(said.len(), &mut body);
        said.push(body.clone());
        body
    };
    let mut peer = ServerLogin::new(params.user, credential, channel, &entropy(200));
    let (mut login, mut step) = ClientLogin::start(params);
    loop {
        let bytes = match settle(&mut login, step) {
            Step::Send(bytes) => bytes,
            Step::Accepted(accepted) => {
                let mut server = Ok(());
                if !accepted.reply.is_empty() {
                    server = peer.on_auth(&pass(&accepted.reply)).map(|step| assert!(matches!(step, ServerStep::Wait)));
                }
                let server = server.and_then(|()| peer.on_auth(body(&AUTHENTICATION_OK))).map_err(|refusal| *refusal);
                let server = server.map(|step| assert!(matches!(step, ServerStep::Ok)));
                return Outcome { accepted: Ok(*accepted), server, said };
            }
            Step::Refused(refusal) => return Outcome { accepted: Err(*refusal), server: Ok(()), said },
            Step::Derive(_) | Step::Ask(_) => unreachable!(),
        };
        let answer = match peer.on_auth(&pass(&bytes)) {
            Ok(ServerStep::Derive(derivation)) => peer.on_keys(&derivation.run()),
            other => other,
        };
        let answer = match answer {
            Ok(ServerStep::Send(bytes)) => bytes,
            Ok(other) => panic!("{other:?}"),
            Err(refusal) => {
                let nobody = Refusal::new(Culprit::Client, "client gave up", "");
                return Outcome { accepted: Err(nobody), server: Err(*refusal), said };
            }
        };
        step = login.on_message(&pass(&answer));
    }
}

fn text(outcome: &Outcome) -> &str {
    &outcome.accepted.as_ref().unwrap_err().fault.text
}

#[test]
fn somebody_else_may_judge_a_password() {
    // Nobody need be on file, and whoever is gets no other treatment.
    for secret in [None, Some(&plain(b"other"))] {
        let begin = || {
            let (login, step) = ClientLogin::start(params(Method::Ldap, secret));
            assert!(matches!(&step, Step::Send(request) if body(request) == [0, 0, 0, 3]));
            login
        };
        let mut login = begin();
        assert!(matches!(login.on_message(b"pw\0"), Step::Ask(password) if *password == b"pw"));
        let Step::Accepted(accepted) = login.on_answer(Ok(())) else { panic!("turned away") };
        assert_eq!(accepted.password.as_deref().map(Vec::as_slice), Some(&b"pw"[..]));
        assert!(accepted.pass_through.is_none());
        for (message, answer, text) in [
            (&b"pw\0"[..], Some(Err("no such entry".to_owned())), "LDAP authentication failed"),
            (b"\0", None, "empty password returned by client"),
            (b"", None, "invalid password message"),
            (b"pw", None, "invalid password message"),
            (b"p\0w\0", None, "invalid password message"),
            (&[b'x'; MAX_PASSWORD_BYTES + 2], None, "password authentication failed"),
        ] {
            let mut login = begin();
            let step = match (login.on_message(message), answer) {
                (Step::Ask(_), Some(answer)) => login.on_answer(answer),
                (step, None) => step,
                (step, Some(_)) => panic!("{step:?}"),
            };
            assert!(matches!(&step, Step::Refused(refusal) if refusal.fault.text == text), "{step:?}");
            assert!(matches!(login.on_answer(Ok(())), Step::Refused(_)), "an answer to no question");
        }
        assert!(matches!(begin().on_answer(Ok(())), Step::Refused(_)), "an answer before the question");
    }
}

#[test]
fn methods_and_secrets() {
    let secrets = [plain(b"pw"), md5(b"pw"), scram(b"pw")];
    for method in [Method::Plain, Method::Md5, Method::ScramSha256] {
        for secret in &secrets {
            let right = drive(params(method, Some(secret)), password(b"pw"), Channel::Clear);
            let wrong = drive(params(method, Some(secret)), password(b"pW"), Channel::Clear);
            if method == Method::ScramSha256 && secret.kind() == SecretKind::Md5 {
                assert_eq!(text(&right), "SASL authentication failed");
            } else {
                let accepted = right.accepted.unwrap();
                assert_eq!(right.server, Ok(()), "{method:?} {secret:?}");
                assert_eq!(accepted.pass_through.is_some(), secret.kind() == SecretKind::Scram);
                assert_eq!(accepted.password.is_some(), method == Method::Plain);
            }
            let sasl = method == Method::ScramSha256 || method == Method::Md5 && secret.kind() == SecretKind::Scram;
            let expected = if sasl { "SASL authentication failed" } else { "password authentication failed" };
            assert_eq!(text(&wrong), expected, "{method:?} {secret:?}");
        }
    }
}

#[test]
fn methods_that_ask_nothing() {
    let secret = Secret::Empty;
    let start = |params| ClientLogin::start(params).1;
    let told = |step| match step {
        Step::Refused(refusal) => refusal.fault.text.into_owned(),
        Step::Accepted(_) => "in".to_owned(),
        other => panic!("{other:?}"),
    };
    assert_eq!(told(start(params(Method::Any, None))), "in");
    assert_eq!(told(start(params(Method::Trust, Some(&secret)))), "in");
    assert_eq!(told(start(params(Method::Trust, None))), "\"trust\" authentication failed");
    assert_eq!(told(start(params(Method::Reject, Some(&secret)))), "login rejected");
    for (method, refused) in
        [(Method::Cert, "certificate authentication failed"), (Method::Peer, "unix socket login rejected")]
    {
        let with = |evidence, secret| told(start(LoginParams { evidence, ..params(method, secret) }));
        assert_eq!(with(Evidence::None, Some(&secret)), refused);
        assert_eq!(with(Evidence::Mismatch("other name".into()), Some(&secret)), refused);
        assert_eq!(with(Evidence::Matches, None), refused);
        assert_eq!(with(Evidence::Matches, Some(&secret)), "in");
    }
}

#[test]
fn nobody_gets_in_without_a_password_on_file() {
    for method in [Method::Plain, Method::Md5, Method::ScramSha256] {
        for guess in [b"".as_slice(), b"x"] {
            let outcome = drive(params(method, Some(&Secret::Empty)), password(guess), Channel::Clear);
            assert!(outcome.accepted.is_err(), "{method:?}");
        }
    }
    let empty = drive(params(Method::Plain, Some(&plain(b"pw"))), password(b""), Channel::Clear);
    assert_eq!(text(&empty), "empty password returned by client");
}

#[test]
fn unknown_users_hear_what_wrong_passwords_hear() {
    let plain_scram = ScramSecret::from_password(b"pw", b"sixteen byte sal", ITERATIONS);
    for (kind, secret) in [
        (SecretKind::Plain, plain(b"pw")),
        (SecretKind::Md5, md5(b"pw")),
        (SecretKind::Scram, Secret::Scram(plain_scram)),
    ] {
        for method in [Method::Plain, Method::Md5, Method::ScramSha256] {
            for channel in [Channel::Clear, tls()] {
                let with = |secret| LoginParams { mock_kind: kind, channel: channel.clone(), ..params(method, secret) };
                let wrong = drive(with(Some(&secret)), password(b"guess"), channel.clone());
                let unknown = drive(with(None), password(b"guess"), channel.clone());
                let empty = drive(with(Some(&Secret::Empty)), password(b"guess"), channel.clone());
                assert_eq!(text(&wrong), text(&unknown));
                assert_eq!(text(&wrong), text(&empty));
                let shape = |outcome: &Outcome| outcome.said.iter().map(Vec::len).collect::<Vec<_>>();
                assert_eq!(shape(&wrong), shape(&unknown), "{method:?} {kind:?}");
                if kind == SecretKind::Plain {
                    // Even the salt is the same for a user whose password is on file in clear text.
                    assert_eq!(wrong.said[..wrong.said.len() - 1], unknown.said[..unknown.said.len() - 1]);
                }
            }
        }
    }
}

#[test]
fn mock_salts_are_stable_and_differ() {
    let salt_of = |user: &'static [u8], seed| {
        let params = LoginParams { user, entropy: entropy(seed), ..params(Method::ScramSha256, None) };
        let outcome = drive(params, password(b"x"), Channel::Clear);
        parse_server_first(&outcome.said[2][4..]).unwrap().salt
    };
    assert_eq!(salt_of(b"joe", 1), salt_of(b"joe", 2));
    assert_ne!(salt_of(b"joe", 1), salt_of(b"jim", 1));
    assert_eq!(salt_of(b"joe", 1).len(), 16);
}

#[test]
fn a_cached_secret_saves_the_derivation() {
    let secret = plain(b"pw");
    let cached = ScramSecret::from_password(b"pw", b"other salt", ITERATIONS);
    let outcome = drive(
        LoginParams { cached: Some(&cached), ..params(Method::ScramSha256, Some(&secret)) },
        password(b"pw"),
        Channel::Clear,
    );
    assert_eq!(parse_server_first(&outcome.said[2][4..]).unwrap().salt, b"other salt");
    assert!(outcome.accepted.unwrap().pass_through.is_none());
}

#[test]
fn keys_of_a_login_open_a_server_with_the_same_secret() {
    let secret = scram(b"pw");
    let first = drive(params(Method::ScramSha256, Some(&secret)), password(b"pw"), Channel::Clear);
    let mut pass_through = first.accepted.unwrap().pass_through.unwrap();
    pass_through.keys = ScramKeys::from_bytes(&pass_through.keys.to_bytes());
    for channel in [Channel::Clear, tls()] {
        let credential = Credential::choose(Some(&secret), Some(&pass_through));
        let second = drive(
            LoginParams { channel: channel.clone(), ..params(Method::ScramSha256, Some(&secret)) },
            credential.clone(),
            channel,
        );
        assert_eq!(second.accepted.unwrap().pass_through.unwrap(), pass_through);
        assert_eq!(second.server, Ok(()));
        let other = Secret::Scram(ScramSecret::from_password(b"pw", b"another salt", ITERATIONS));
        let third = drive(params(Method::ScramSha256, Some(&other)), credential, Channel::Clear);
        assert!(third.server.unwrap_err().fault.text.starts_with("server login failed: the server's SCRAM secret"));
    }
}

#[test]
fn plain_login_against_a_scram_secret_gives_keys_too() {
    let secret = scram(b"pw");
    let first = drive(params(Method::Plain, Some(&secret)), password(b"pw"), Channel::Clear);
    let credential = Credential::PassThrough(first.accepted.unwrap().pass_through.unwrap());
    let second = drive(params(Method::ScramSha256, Some(&secret)), credential, Channel::Clear);
    assert!(second.accepted.is_ok() && second.server.is_ok());
}

#[test]
fn wrong_password_type() {
    let md5_only = Credential::choose(Some(&md5(b"pw")), None);
    let scram_only = Credential::choose(Some(&scram(b"pw")), None);
    let cases = [
        (Method::ScramSha256, &md5_only),
        (Method::ScramSha256, &scram_only),
        (Method::ScramSha256, &Credential::None),
        (Method::Md5, &scram_only),
        (Method::Md5, &Credential::None),
        (Method::Plain, &md5_only),
        (Method::Plain, &scram_only),
        (Method::Plain, &Credential::None),
    ];
    for (method, credential) in cases {
        let outcome = drive(params(method, Some(&plain(b"pw"))), credential.clone(), Channel::Clear);
        let refusal = outcome.server.unwrap_err();
        assert_eq!(refusal.fault.text, "server login failed: wrong password type", "{method:?} {credential:?}");
        assert!(!refusal.reason.is_empty());
    }
    let secret = plain(b"pw");
    let md5_login = drive(params(Method::Md5, Some(&secret)), md5_only, Channel::Clear);
    assert!(md5_login.accepted.is_ok());
}

mod channel_binding {
    use super::*;

    fn with(method: Method, secret: &Secret, ours: Channel, theirs: Channel) -> Outcome {
        drive(LoginParams { channel: ours, ..params(method, Some(secret)) }, password(b"pw"), theirs)
    }

    fn mechanism(outcome: &Outcome) -> &[u8] {
        outcome.said[1].split(|byte| *byte == 0).next().unwrap()
    }

    #[test]
    fn is_used_where_both_can() {
        let secret = scram(b"pw");
        for method in [Method::Md5, Method::ScramSha256, Method::ScramSha256Plus] {
            let outcome = with(method, &secret, tls(), tls());
            assert_eq!(mechanism(&outcome), SCRAM_PLUS);
            assert!(outcome.accepted.is_ok() && outcome.server.is_ok());
        }
        let cannot = with(Method::ScramSha256, &secret, tls(), Channel::Tls(None));
        assert_eq!((mechanism(&cannot), cannot.accepted.is_ok()), (SCRAM, true));
        let not_offered = with(Method::ScramSha256, &secret, Channel::Tls(None), tls());
        assert_eq!((mechanism(&not_offered), not_offered.accepted.is_ok()), (SCRAM, true));
        assert!(not_offered.said[1].ends_with(b"y,,n=,r=yMjIyMjIyMjIyMjIyMjIyMjI"));
    }

    #[test]
    fn fails_if_the_client_sees_another_certificate() {
        let outcome = with(Method::ScramSha256, &scram(b"pw"), tls(), Channel::Tls(Some(b"mallory".to_vec())));
        assert_eq!(text(&outcome), "SASL authentication failed");
        assert!(outcome.accepted.unwrap_err().reason.contains("certificate"));
    }

    #[test]
    fn notices_that_the_offer_was_hidden() {
        let secret = scram(b"pw");
        let params = LoginParams { channel: tls(), ..params(Method::ScramSha256, Some(&secret)) };
        let hide = |index: usize, body: &mut Vec<u8>| {
            if index == 0 {
                *body = sasl_request(&[SCRAM])[5..].to_vec();
            }
        };
        let outcome = drive_through(params, password(b"pw"), tls(), hide);
        assert!(outcome.accepted.unwrap_err().reason.contains("hide the offer"));
    }

    #[test]
    fn can_be_demanded() {
        let secret = scram(b"pw");
        let clear = with(Method::ScramSha256Plus, &secret, Channel::Clear, Channel::Clear);
        assert!(text(&clear).contains("sslmode=require"), "{}", text(&clear));
        let no_hash = with(Method::ScramSha256Plus, &secret, Channel::Tls(None), Channel::Tls(None));
        assert_eq!(no_hash.accepted.as_ref().unwrap_err().fault.culprit, Culprit::Config);
        let (mut login, step) =
            ClientLogin::start(LoginParams { channel: tls(), ..params(Method::ScramSha256Plus, Some(&secret)) });
        let Step::Send(offer) = step else { panic!() };
        assert_eq!(body(&offer)[4..], *b"SCRAM-SHA-256-PLUS\0\0");
        let Step::Refused(refusal) = login.on_message(body(&sasl_initial(SCRAM, b"n,,n=,r=abc"))) else { panic!() };
        assert!(refusal.fault.text.contains("channel_binding=prefer"), "{refusal:?}");
    }

    #[test]
    fn flag_and_mechanism_must_agree() {
        let secret = scram(b"pw");
        for (name, first) in [
            (SCRAM_PLUS, "n,,n=,r=abc"),
            (SCRAM_PLUS, "y,,n=,r=abc"),
            (SCRAM_PLUS, "p=tls-unique,,n=,r=abc"),
            (SCRAM, "p=tls-server-end-point,,n=,r=abc"),
            (SCRAM, "y,,n=,r=abc"),
        ] {
            let (mut login, _) =
                ClientLogin::start(LoginParams { channel: tls(), ..params(Method::ScramSha256, Some(&secret)) });
            let step = login.on_message(body(&sasl_initial(name, first.as_bytes())));
            assert!(matches!(step, Step::Refused(_)), "{first}");
        }
    }
}

#[test]
fn sasl_initial_response_without_data() {
    let secret = scram(b"pw");
    let (mut login, _) = ClientLogin::start(params(Method::ScramSha256, Some(&secret)));
    let Step::Send(bytes) = login.on_message(b"SCRAM-SHA-256\0\xff\xff\xff\xff") else { panic!() };
    assert_eq!(bytes, b"R\0\0\0\x08\0\0\0\x0b");
    let Step::Send(bytes) = login.on_message(b"n,,n=joe,r=abc") else { panic!() };
    assert!(bytes[9..].starts_with(b"r=abcAQEBAQEBAQEBAQEBAQEBAQEB,s="));
}

#[test]
fn unknown_mechanism_has_pgbouncers_text() {
    let secret = scram(b"pw");
    let (mut login, _) = ClientLogin::start(params(Method::ScramSha256, Some(&secret)));
    let Step::Refused(refusal) = login.on_message(b"OAUTHBEARER\0\0\0\0\x01x") else { panic!() };
    assert_eq!(refusal.fault.text, "client selected an invalid SASL authentication mechanism");
    let Step::Refused(refusal) = login.on_message(b"again") else { panic!() };
    assert_eq!(refusal.fault.text, "unexpected password message");
}

#[test]
fn long_passwords_and_longer_ones() {
    let longest = vec![b'x'; MAX_PASSWORD_BYTES];
    let secret = plain(&longest);
    assert!(drive(params(Method::Plain, Some(&secret)), password(&longest), Channel::Clear).accepted.is_ok());
    let longer = vec![b'x'; MAX_PASSWORD_BYTES + 1];
    let outcome = drive(params(Method::Plain, Some(&secret)), password(&longer), Channel::Clear);
    assert_eq!(text(&outcome), "password authentication failed");
}

mod server_side {
    use super::*;

    fn login(credential: Credential) -> ServerLogin {
        ServerLogin::new(b"joe", credential, Channel::Clear, &entropy(3))
    }

    fn fault(result: Result<ServerStep, Box<Refusal>>) -> String {
        result.unwrap_err().fault.text.into_owned()
    }

    #[test]
    fn trust() {
        assert!(matches!(login(Credential::None).on_auth(&[0; 4]), Ok(ServerStep::Ok)));
    }

    #[test]
    fn names_the_methods_that_it_lacks() {
        for (request, name) in [(2, "Kerberos"), (7, "GSSAPI"), (9, "SSPI"), (77, "77")] {
            let text = fault(login(password(b"pw")).on_auth(&[0, 0, 0, request]));
            assert!(text.starts_with("server login failed: ") && text.contains(name), "{text}");
        }
        let text = fault(login(password(b"pw")).on_auth(&sasl_request(&[b"OAUTHBEARER"])[5..]));
        assert_eq!(text, "server login failed: none of the server's SASL authentication mechanisms are supported");
        assert!(login(password(b"pw")).on_auth(b"abc").is_err());
    }

    #[test]
    fn server_must_prove_itself() {
        let mut login = login(password(b"pw"));
        login.on_auth(&sasl_request(&[SCRAM])[5..]).unwrap();
        assert!(fault(login.on_auth(&[0; 4])).contains("without proving"));
        assert!(login.on_auth(&[0; 4]).is_err(), "it stays refused");
    }

    #[test]
    fn absurd_challenges_are_refused() {
        let ours = "AwMDAwMDAwMDAwMDAwMDAwMDAwMD";
        let ours = &ours[..24];
        for (challenge, complaint) in [
            (format!("r={ours}x,s=c2FsdA==,i=10000001"), "10000001 SCRAM iterations"),
            (format!("r={ours},s=c2FsdA==,i=4096"), "does not extend"),
            ("r=else,s=c2FsdA==,i=4096".to_owned(), "does not extend"),
            (format!("r={ours}x,s=,i=4096"), "salt is empty"),
            (format!("r={ours}x,s=c2FsdA==,i=0"), "iteration count"),
            (format!("m=x,r={ours}x,s=c2FsdA==,i=1"), "extension"),
            (format!("r={ours}x,s=c2FsdA==,i=1,x={}", "y".repeat(5000)), "4096 bytes"),
        ] {
            let mut login = login(password(b"pw"));
            login.on_auth(&sasl_request(&[SCRAM])[5..]).unwrap();
            let text = fault(login.on_auth(&[b"\0\0\0\x0b", challenge.as_bytes()].concat()));
            assert!(text.contains(complaint), "{text}");
        }
    }
}

/// The other implementation logs in to us.
fn oracle_logs_in(password: &[u8], secret: &Secret, channel: Channel) -> bool {
    let binding = match &channel {
        Channel::Clear => ChannelBinding::unsupported(),
        Channel::Tls(None) => ChannelBinding::unrequested(),
        Channel::Tls(Some(hash)) => ChannelBinding::tls_server_end_point(hash.clone()),
    };
    let name = if channel == tls() { SCRAM_PLUS } else { SCRAM };
    let mut oracle = ScramSha256::new(password, binding);
    let (mut login, _) = ClientLogin::start(LoginParams { channel, ..params(Method::ScramSha256, Some(secret)) });
    let step = login.on_message(body(&sasl_initial(name, oracle.message())));
    let Step::Send(bytes) = settle(&mut login, step) else { return false };
    oracle.update(&bytes[9..]).unwrap();
    let Step::Accepted(accepted) = login.on_message(oracle.message()) else { return false };
    oracle.finish(&accepted.reply[9..]).unwrap();
    true
}

fn any_password() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        "\\PC{1,40}".prop_map(String::into_bytes),
        "[a-zA-Z0-9 ]{1,70}".prop_map(String::into_bytes),
        // Characters that SASLprep maps, drops, prohibits or reorders.
        "[\u{ad}\u{a0}\u{2003}\u{aa}\u{2168}\u{627}\u{5d0}e\u{301}\u{1}\u{e000}\u{fb01}a1]{1,12}"
            .prop_map(String::into_bytes),
        prop::collection::vec(1_u8.., 1..40),
    ]
}

fn any_channel() -> impl Strategy<Value = Channel> {
    prop_oneof![Just(Channel::Clear), Just(Channel::Tls(None)), Just(tls())]
}

fn any_method() -> impl Strategy<Value = Method> {
    prop_oneof![Just(Method::Plain), Just(Method::Md5), Just(Method::ScramSha256), Just(Method::ScramSha256Plus)]
}

fn any_secret(password: &[u8]) -> impl Strategy<Value = Secret> + use<> {
    prop_oneof![Just(plain(password)), Just(md5(password)), Just(scram(password))]
}

proptest! {
    #[test]
    fn the_right_password_always_opens(
        (word, secret) in any_password().prop_flat_map(|word| (Just(word.clone()), any_secret(&word))),
        method in any_method(),
        channel in any_channel(),
    ) {
        let possible = !(matches!(method, Method::ScramSha256 | Method::ScramSha256Plus)
            && secret.kind() == SecretKind::Md5 || method == Method::ScramSha256Plus && channel != tls());
        let params = LoginParams { channel: channel.clone(), ..params(method, Some(&secret)) };
        let outcome = drive(params, password(&word), channel);
        prop_assert_eq!(outcome.accepted.is_ok(), possible, "{:?}", outcome);
        prop_assert!(outcome.server.is_ok());
    }

    #[test]
    fn another_password_never_opens(
        (word, secret) in any_password().prop_flat_map(|word| (Just(word.clone()), any_secret(&word))),
        guess in any_password(),
        method in any_method(),
        channel in any_channel(),
    ) {
        prop_assume!(scram::prepare(&word) != scram::prepare(&guess));
        let params = LoginParams { channel: channel.clone(), ..params(method, Some(&secret)) };
        prop_assert!(drive(params, password(&guess), channel).accepted.is_err());
    }

    #[test]
    fn one_flipped_bit_always_fails(
        message in 1_usize..5,
        place in any::<prop::sample::Index>(),
        bit in 0_u32..8,
        method in any_method(),
        channel in any_channel(),
        secret in any_secret(b"pw"),
    ) {
        let mut flipped = false;
        let params = LoginParams { channel: channel.clone(), ..params(method, Some(&secret)) };
        let outcome = drive_through(params, password(b"pw"), channel, |index, body| {
            if index == message {
                let place = place.index(body.len());
                body[place] ^= 1 << bit;
                flipped = true;
            }
        });
        // Short exchanges have no such message.
        prop_assert!(!flipped || outcome.accepted.is_err() || outcome.server.is_err(), "{:?}", outcome);
    }

    #[test]
    fn the_other_implementation_agrees(word in any_password(), guess in any_password(), channel in any_channel()) {
        // It takes a password of which SASLprep leaves nothing for empty; PostgreSQL and we use it as it is.
        let vanishes = |word: &[u8]| word.iter().all(|byte| [0xc2, 0xad].contains(byte));
        prop_assume!(!vanishes(&word) && !vanishes(&guess));
        for secret in [plain(&word), scram(&word)] {
            prop_assert!(oracle_logs_in(&word, &secret, channel.clone()));
            if scram::prepare(&word) != scram::prepare(&guess) {
                prop_assert!(!oracle_logs_in(&guess, &secret, channel.clone()));
            }
        }
        let response = Md5Secret::from_password(&word, b"joe").response([1, 2, 3, 4]);
        let oracle = md5_hash(b"joe", &word, [1, 2, 3, 4]);
        prop_assert_eq!(response.as_slice(), oracle.as_bytes());
    }

    #[test]
    fn arbitrary_messages_never_panic_and_never_open(
        bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..80), 1..4),
        method in any_method(),
        channel in any_channel(),
        secret in any_secret(b"a password that nobody guesses"),
    ) {
        let (mut login, _) = ClientLogin::start(LoginParams { channel: channel.clone(), ..params(method, Some(&secret)) });
        let mut peer = ServerLogin::new(b"joe", password(b"pw"), channel, &entropy(9));
        for body in &bodies {
            let step = login.on_message(body);
            let step = settle(&mut login, step);
            prop_assert!(!matches!(step, Step::Accepted(_)));
            let _ = peer.on_auth(body);
            let _ = parse_client_first(body);
            let _ = parse_client_final(body);
            let _ = parse_server_first(body);
            let _ = parse_server_final(body);
            let _ = Secret::parse(body);
        }
    }

    #[test]
    fn debug_output_never_holds_the_password(channel in any_channel(), method in any_method()) {
        let word = b"T0pS3cr3t";
        for secret in [plain(word), md5(word), scram(word)] {
            let params = LoginParams { channel: channel.clone(), ..params(method, Some(&secret)) };
            let mut printed = format!("{params:?} {secret:?} {:?}", password(word));
            let (login, step) = ClientLogin::start(params.clone());
            printed += &format!("{login:?} {step:?}");
            printed += &format!("{:?}", drive(params, password(word), channel.clone()).accepted);
            prop_assert!(!printed.contains("T0pS3cr3t") && !printed.contains("84, 48, 112"), "{}", printed);
        }
    }
}

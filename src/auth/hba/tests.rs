//! A table of lines and clients, and properties of the parser.

use std::net::IpAddr;

use proptest::prelude::*;

use super::*;

fn files(path: &str) -> Result<Vec<u8>, String> {
    match path {
        "names" => Ok(b"joe, ann\n\n# nobody\n  \"Q U\"  tom # and him\n".to_vec()),
        "all" => Ok(b"all\n".to_vec()),
        "nested" => Ok(b"@names\nzoe".to_vec()),
        "circle" => Ok(b"@circle\n".to_vec()),
        "broken" => Ok(b"joe\n\"ann\n".to_vec()),
        "role" => Ok(b"+staff\n".to_vec()),
        _ => Err("No such file or directory".to_owned()),
    }
}

const MAPS: &str = "m os joe\nm \"o s\" ann\nall  os all\nq \"os\" \"all\"\nre /^(.*)@example\\.com$ \\1\nre /^admin- all\n\
                    re2 /boss joe\nre3 /^(a|b)+$ x\\1y";

fn maps() -> IdentMaps {
    let (maps, findings) = IdentMaps::parse(MAPS.as_bytes());
    assert_eq!(findings, []);
    maps
}

fn read(text: &str) -> (Rules, Vec<Finding>) {
    Rules::parse(text.as_bytes(), &maps(), &mut files)
}

/// `user@database/place[+tls][+repl]`; the place is an address, or `unix`.
fn outcome(rules: &Rules, client: &str) -> Option<Method> {
    let (user, rest) = client.rsplit_once('@').unwrap();
    let (database, place) = rest.split_once('/').unwrap();
    let mut words = place.split('+');
    let from = words.next().map(|place| place.parse::<IpAddr>().ok()).unwrap();
    let words: Vec<_> = words.collect();
    let knock = Knock { from, tls: words.contains(&"tls"), replication: words.contains(&"repl"), database, user };
    rules.find(&knock).map(|rule| rule.method)
}

/// One line, a client, and whether the line holds for it.
const LINES: &[(&str, &str, bool)] = &[
    // record types
    ("local all all trust", "joe@db/unix", true),
    ("local all all trust", "joe@db/127.0.0.1", false),
    ("host all all all trust", "joe@db/unix", false),
    ("host all all all trust", "joe@db/127.0.0.1", true),
    ("host all all all trust", "joe@db/127.0.0.1+tls", true),
    ("host all all all trust", "joe@db/::1", true),
    ("hostssl all all all trust", "joe@db/127.0.0.1", false),
    ("hostssl all all all trust", "joe@db/127.0.0.1+tls", true),
    ("hostssl all all all trust", "joe@db/unix", false),
    ("hostnossl all all all trust", "joe@db/127.0.0.1", true),
    ("hostnossl all all all trust", "joe@db/127.0.0.1+tls", false),
    ("hostnogssenc all all all trust", "joe@db/127.0.0.1", true),
    ("hostnogssenc all all all trust", "joe@db/127.0.0.1+tls", true),
    ("hostgssenc all all all trust", "joe@db/127.0.0.1", false),
    ("hostgssenc all all all trust", "joe@db/127.0.0.1+tls", false),
    // databases
    ("local db all trust", "joe@db/unix", true),
    ("local db all trust", "joe@db2/unix", false),
    ("local db all trust", "joe@DB/unix", false),
    ("local DB all trust", "joe@db/unix", false),
    ("local a,db all trust", "joe@db/unix", true),
    ("local a, db all trust", "joe@db/unix", true),
    ("local a ,db all trust", "joe@db/unix", true),
    ("local a , db all trust", "joe@db/unix", true),
    ("local a,b all trust", "joe@db/unix", false),
    ("local a,all all trust", "joe@db/unix", true),
    ("local \"all\" all trust", "joe@db/unix", false),
    ("local \"all\" all trust", "joe@all/unix", true),
    ("local ALL all trust", "joe@db/unix", false),
    ("local \"d b\" all trust", "joe@d b/unix", true),
    ("local \"d,b\" all trust", "joe@d,b/unix", true),
    ("local \"d#b\" all trust", "joe@d#b/unix", true),
    ("local \"d\"\"b\" all trust", "joe@d\"b/unix", true),
    ("local \"\" all trust", "joe@db/unix", false),
    ("local sameuser all trust", "joe@joe/unix", true),
    ("local sameuser all trust", "joe@db/unix", false),
    ("local sameuser,db all trust", "joe@db/unix", true),
    ("local \"sameuser\" all trust", "joe@joe/unix", false),
    ("local \"sameuser\" all trust", "joe@sameuser/unix", true),
    ("local \"samerole\" all trust", "joe@samerole/unix", true),
    // replication
    ("local replication all trust", "joe@db/unix", false),
    ("local replication all trust", "joe@replication/unix", false),
    ("local replication all trust", "joe@db/unix+repl", true),
    ("local all all trust", "joe@db/unix+repl", false),
    ("local db,replication all trust", "joe@db/unix+repl", true),
    ("local db,replication all trust", "joe@db/unix", true),
    ("local \"replication\" all trust", "joe@replication/unix", true),
    ("local \"replication\" all trust", "joe@db/unix+repl", false),
    ("local replication ann trust", "joe@db/unix+repl", false),
    // users
    ("local all joe trust", "joe@db/unix", true),
    ("local all joe trust", "Joe@db/unix", false),
    ("local all joe trust", "joey@db/unix", false),
    ("local all ann,joe trust", "joe@db/unix", true),
    ("local all ann , joe trust", "joe@db/unix", true),
    ("local all \"joe\" trust", "joe@db/unix", true),
    ("local all \"all\" trust", "joe@db/unix", false),
    ("local all \"all\" trust", "all@db/unix", true),
    ("local all \"a , b\" trust", "a , b@db/unix", true),
    ("local all \"+x\" trust", "+x@db/unix", true),
    ("local all \"@names\" trust", "@names@db/unix", true),
    ("local all \"@names\" trust", "joe@db/unix", false),
    ("local all replication trust", "replication@db/unix", true),
    ("local all replication trust", "joe@db/unix", false),
    ("local all sameuser trust", "db@db/unix", true),
    ("local all jo\u{e9} trust", "jo\u{e9}@db/unix", true),
    // files of names
    ("local all @names trust", "joe@db/unix", true),
    ("local all @names trust", "ann@db/unix", true),
    ("local all @names trust", "tom@db/unix", true),
    ("local all @names trust", "Q U@db/unix", true),
    ("local all @names trust", "nobody@db/unix", false),
    ("local all @names trust", "him@db/unix", false),
    ("local all @nested trust", "zoe@db/unix", true),
    ("local all @nested trust", "ann@db/unix", true),
    ("local all bob,@names trust", "bob@db/unix", true),
    ("local all @names,bob trust", "bob@db/unix", true),
    ("local all @all trust", "bob@db/unix", true),
    ("local @names all trust", "x@joe/unix", true),
    // addresses
    ("host all all 10.1.2.3/32 trust", "joe@db/10.1.2.3", true),
    ("host all all 10.1.2.3/32 trust", "joe@db/10.1.2.4", false),
    ("host all all 10.0.0.0/8 trust", "joe@db/10.255.0.1", true),
    ("host all all 10.0.0.0/8 trust", "joe@db/11.0.0.1", false),
    ("host all all 10.0.0.0/9 trust", "joe@db/10.127.255.255", true),
    ("host all all 10.0.0.0/9 trust", "joe@db/10.128.0.0", false),
    ("host all all 0.0.0.0/0 trust", "joe@db/203.0.113.9", true),
    ("host all all 0.0.0.0/0 trust", "joe@db/::1", false),
    ("host all all ::/0 trust", "joe@db/::1", true),
    ("host all all ::/0 trust", "joe@db/127.0.0.1", false),
    ("host all all 0.0.0.0/0 trust", "joe@db/::ffff:203.0.113.9", true),
    ("host all all 10.0.0.0 255.0.0.0 trust", "joe@db/10.9.9.9", true),
    ("host all all 10.0.0.0 255.0.0.0 trust", "joe@db/11.9.9.9", false),
    ("host all all 10.0.0.0 255.0.255.0 trust", "joe@db/10.7.0.9", true),
    ("host all all 10.0.0.0 255.0.255.0 trust", "joe@db/10.7.1.9", false),
    ("host all all 192.168.1.1/0 trust", "joe@db/192.168.1.1", false),
    ("host all all 192.168.1.1/0 trust", "joe@db/127.0.0.1", false),
    ("host all all 10.1.0.0/8 trust", "joe@db/10.1.0.0", false),
    ("host all all ff11::0/16 trust", "joe@db/ff11:2::1", true),
    ("host all all ff20::/12 trust", "joe@db/ff22:3::1", true),
    ("host all all ff20::/12 trust", "joe@db/ff32:3::1", false),
    ("host all all ::1/128 trust", "joe@db/::1", true),
    ("host all all ::1/128 trust", "joe@db/::2", false),
    ("host all all 2001:db8:: ffff:ffff:: trust", "joe@db/2001:db8:9::1", true),
    ("host all all 2001:db8:: ffff:ffff:: trust", "joe@db/2001:db9::1", false),
    // odd looks
    ("  local\tall \x0b all\ttrust  ", "joe@db/unix", true),
    ("local all all trust\r", "joe@db/unix", true),
    ("local all all trust # host", "joe@db/unix", true),
    ("local all all trust#host", "joe@db/unix", true),
    ("local all all\"trust\"", "joe@db/unix", false),
    ("\u{feff}local all all trust", "joe@db/unix", true),
];

#[test]
fn lines_hold_for_clients() {
    assert!(LINES.len() >= 100, "{}", LINES.len());
    for (line, client, holds) in LINES {
        let (rules, _) = read(line);
        assert_eq!(outcome(&rules, client), holds.then_some(Method::Trust), "{line:?} for {client}");
    }
}

#[test]
fn methods_are_those_of_pgbouncer_and_scram_plus() {
    for (word, method) in [
        ("trust", Method::Trust),
        ("reject", Method::Reject),
        ("md5", Method::Md5),
        ("password", Method::Plain),
        ("scram-sha-256", Method::ScramSha256),
        ("scram-sha-256-plus", Method::ScramSha256Plus),
        ("cert", Method::Cert),
    ] {
        let (rules, findings) = read(&format!("hostssl all all all {word}\n"));
        assert_eq!((outcome(&rules, "joe@db/::1+tls"), findings), (Some(method), vec![]), "{word}");
    }
    let line = "host all \"a b\" 10.0.0.0/8 ldap  ldapserver=h \"ldapport\"=77, ldapprefix=\"uid=\" # ldaptls=1";
    let (rules, findings) = read(line);
    assert_eq!((outcome(&rules, "a b@db/10.0.0.1"), findings), (Some(Method::Ldap), vec![]));
    assert_eq!(rules.ldap_options().map(|options| options.port).collect::<Vec<_>>(), [77]);
    assert_eq!(outcome(&read("local all all peer").0, "joe@db/unix"), Some(Method::Peer));
}

#[test]
fn the_first_line_that_holds_counts() {
    let text = "# rules\n\nlocal all postgres peer\nhostssl all postgres 0.0.0.0/0 reject\nhostssl db joe 10.0.0.0/8 cert\n\
                host db,db2 all 10.0.0.0/8 md5\nhost \"all\" all 0.0.0.0/0 trust\n\nhost all all 127.0.0.1/32 scram-sha-256";
    let (rules, findings) = read(text);
    assert_eq!((findings, rules.len()), (vec![], 6));
    for (client, method) in [
        ("postgres@db/unix", Some(Method::Peer)),
        ("joe@db/unix", None),
        ("postgres@db/10.0.0.1+tls", Some(Method::Reject)),
        ("postgres@db/10.0.0.1", Some(Method::Md5)),
        ("joe@db/10.0.0.1+tls", Some(Method::Cert)),
        ("joe@db/10.0.0.1", Some(Method::Md5)),
        ("joe@db2/10.0.0.1+tls", Some(Method::Md5)),
        ("joe@db/11.0.0.1+tls", None),
        ("joe@all/11.0.0.1+tls", Some(Method::Trust)),
        ("joe@db/127.0.0.1", Some(Method::ScramSha256)),
        ("joe@db/::1", None),
    ] {
        assert_eq!(outcome(&rules, client), method, "{client}");
    }
    let lines: Vec<_> = rules.rules.iter().map(|rule| rule.line).collect();
    assert_eq!(lines, [3, 4, 5, 6, 7, 9]);
}

#[test]
fn a_bad_line_is_an_error_and_says_why() {
    for (line, words) in [
        ("hosts all all all trust", "unknown type hosts"),
        ("LOCAL all all trust", "unknown type LOCAL"),
        ("\"local\" all all trust", "unknown type local"),
        (",local all all trust", "unknown type ,"),
        ("include other.conf", "other files of rules cannot be included"),
        ("local", "the database is missing"),
        ("local all", "the user is missing"),
        ("local all all", "the method is missing"),
        ("local all, all", "the user is missing"),
        ("local a,,b all trust", "the database is missing before a comma"),
        ("local all all , trust", "the method is missing"),
        ("local \"all all trust", "a quotation mark is not closed"),
        ("local all all trust \"", "a quotation mark is not closed"),
        ("local all a\0b trust", "no UTF-8 text"),
        ("local samerole all trust", "samerole is not supported"),
        ("local samegroup all trust", "samegroup is not supported"),
        ("local all +staff trust", "+staff: membership of a role"),
        ("local all @none trust", "could not open @none: No such file or directory"),
        ("local all @ trust", "the name of a file is missing behind @"),
        ("local all @circle trust", "files of names that name each other"),
        ("local all @broken trust", "@broken, line 2: a quotation mark is not closed"),
        ("local all @role trust", "@role, line 1: +staff"),
        ("host all all trust", "invalid address trust"),
        ("host all all", "the address is missing"),
        ("host all all \"all\" trust", "the address is missing"),
        ("host all all 10.0.0.1 trust", "the address has no mask"),
        ("host all all 10.0.0.1", "the address has no mask"),
        ("host all all 10.0.0.0/ trust", "invalid mask /"),
        ("host all all 10.0.0.0/33 trust", "invalid mask /33"),
        ("host all all 10.0.0.0/+8 trust", "invalid mask /+8"),
        ("host all all 10.0.0.0/-1 trust", "invalid mask /-1"),
        ("host all all 10.0.0.0/8x trust", "invalid mask /8x"),
        ("host all all ::/129 trust", "invalid mask /129"),
        ("host all all 10.0.0.0 ffff:: trust", "is no mask for it"),
        ("host all all 10.0.0/8 trust", "invalid address 10.0.0/8"),
        ("host all all db.example.com trust", "invalid address db.example.com"),
        ("host all all samenet trust", "samehost and samenet are not supported"),
        ("host all all .example.com md5", "invalid address"),
        ("local all all ident", "unsupported method ident"),
        ("local all all MD5", "unsupported method MD5"),
        ("local all all pam", "unsupported method pam"),
        ("local all all \"trust\"", "the method is missing"),
        ("local all all trust x", "unsupported option x"),
        ("local all all trust \\", "unsupported option \\"),
        ("local all all trust ,", "unexpected text behind the method"),
        ("host all all all ldap ldapbasedn=x", "no LDAP server"),
        ("host all all all ldap", "requires argument \"ldapbasedn\""),
        ("host all all all ldap ldapserver=a ldapprefix=x map=m", "put values with commas"),
        ("local all all peer map=none", "map=none is not found in auth_ident_file"),
        ("local all all peer map=", "map= is not found in auth_ident_file"),
        ("hostssl all all all cert clientcert=1", "unsupported option clientcert=1"),
    ] {
        let (rules, findings) = read(&format!("\n{line}\nlocal all all reject"));
        assert!(
            findings.iter().any(|finding| finding.is_error && finding.line == 2 && finding.text.contains(words)),
            "{line:?}: {findings:?}"
        );
        assert_eq!(rules.len(), 1, "{line:?}");
    }
}

#[test]
fn lines_that_refuse_everybody_are_told() {
    for (line, words) in [
        ("host all all 192.168.1.1/0 md5", "the address does not match its mask"),
        ("host all all 10.0.0.1 255.0.0.0 md5", "the address does not match its mask"),
        ("hostgssenc all all all md5", "no client comes by GSS encryption"),
        ("local all all cert", "cert: without TLS nobody has a certificate"),
        ("hostnossl all all all cert", "cert: without TLS nobody has a certificate"),
        ("host all all all peer", "peer: only a Unix socket tells"),
        ("local all /^a trust", "/^a: regular expressions are not understood here"),
        ("host all all all ldap ldapurl=ldaps://h/o=x ldaptls=1", "exclude each other"),
        ("local all all trust map=m", "map= has an effect on cert and peer only"),
    ] {
        let (rules, findings) = read(line);
        assert_eq!(rules.len(), 1, "{line}");
        assert!(
            matches!(&findings[..], [Finding { line: 1, is_error: false, text }] if text.contains(words)),
            "{findings:?}"
        );
    }
}

#[test]
fn complaints_are_bounded() {
    let (_, findings) = read(&"x\n".repeat(1000));
    assert_eq!(findings.len(), MAX_FINDINGS);
    assert_eq!(findings[MAX_FINDINGS - 1].text, "more lines like these from here on");
    let (_, maps) = IdentMaps::parse("x\n".repeat(1000).as_bytes());
    assert_eq!(maps.len(), MAX_FINDINGS);
}

#[test]
fn maps_say_who_may_be_whom() {
    for (map, name, user, admitted) in [
        ("m", "os", "joe", true),
        ("m", "os", "ann", false),
        ("m", "o s", "ann", true),
        ("m", "OS", "joe", false),
        ("m", "joe", "joe", false),
        ("all", "os", "anybody", true),
        ("all", "other", "anybody", false),
        ("q", "os", "all", true),
        ("q", "os", "joe", false),
        ("re", "joe@example.com", "joe", true),
        ("re", "joe@example.com", "ann", false),
        ("re", "joe@example.com.evil.org", "joe", false),
        ("re", "@example.com", "", true),
        ("re", "admin-x", "postgres", true),
        ("re", "x-admin-x", "postgres", false),
        ("re2", "the boss himself", "joe", true),
        ("re2", "the boss himself", "ann", false),
        ("re3", "ab", "xby", true),
        ("re3", "ab", "xay", false),
        ("re3", "c", "xcy", false),
    ] {
        let line = format!("local all all peer map=\"{map}\"");
        let (rules, findings) = read(&line);
        assert_eq!(findings, []);
        let found = rules.rules[0].map.as_ref().unwrap();
        assert_eq!(found.name, map);
        assert_eq!(found.admits(user, Some(name), &|system| system == name), admitted, "{map} {name} as {user}");
        assert!(!found.admits(user, None, &|_| false), "nobody in particular");
    }
}

#[test]
fn a_bad_line_of_a_map_is_an_error_and_says_why() {
    for (line, words) in [
        ("m", "the system user is missing"),
        ("m os", "the database user is missing"),
        ("m os joe more", "more than three fields"),
        ("m , joe", "the system user is missing"),
        ("m \"\" joe", "the system user is missing"),
        ("m os \"joe", "a quotation mark is not closed"),
        ("m os +staff", "+staff: membership of a role"),
        ("m os /^j", "regular expressions are understood for the system user only"),
        ("m /( joe", "the regular expression ("),
        ("m /^joe$ \\1", "no group in parentheses for \\1"),
    ] {
        let (maps, findings) = IdentMaps::parse(format!("# maps\n{line}\n").as_bytes());
        assert!(maps.get("m").is_none(), "{line}");
        assert!(
            matches!(&findings[..], [Finding { line: 2, is_error: true, text }] if text.contains(words)),
            "{line}: {findings:?}"
        );
    }
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('"', "\"\""))
}

proptest! {
    #[test]
    fn arbitrary_files_never_panic(file in prop::collection::vec(any::<u8>(), 0..300)) {
        let (maps, _) = IdentMaps::parse(&file);
        let (rules, findings) = Rules::parse(&file, &maps, &mut files);
        let lines = file.split(|byte| *byte == b'\n').count();
        prop_assert!(rules.len() <= lines && findings.iter().all(|finding| (1..=lines).contains(&finding.line)));
    }

    #[test]
    fn words_in_any_order_never_panic(words in prop::collection::vec(
        prop::sample::select(vec![
            "local", "host", "hostssl", "all", "sameuser", "replication", "@names", "\"", ",", "#", "10.0.0.0/8", "::/0",
            "255.0.0.0", "md5", "peer", "cert", "map=m", "\n", "+x", "/x", "reject", "\\", "=",
        ]), 0..24)) {
        let text = words.join(" ");
        let (rules, _) = read(&text);
        let _ = outcome(&rules, "joe@db/10.0.0.1");
    }

    #[test]
    fn quoted_names_hold_for_themselves_alone(user in "[^\n\0\u{fffd}]{1,20}", database in "[^\n\0\u{fffd}]{1,20}") {
        let (rules, findings) = read(&format!("local {} {} trust", quoted(&database), quoted(&user)));
        prop_assert_eq!(findings, []);
        let knock = Knock { from: None, tls: false, replication: false, database: &database, user: &user };
        prop_assert!(rules.find(&knock).is_some());
        let longer = format!("{user}x");
        let others = [
            Knock { user: &longer, ..knock },
            Knock { database: "", ..knock },
            Knock { replication: true, ..knock },
            Knock { from: Some(IpAddr::from([127, 0, 0, 1])), ..knock },
        ];
        prop_assert!(others.iter().all(|other| rules.find(other).is_none()));
    }

    #[test]
    fn a_network_holds_for_its_own_addresses_alone(base in any::<u32>(), bits in 0_u32..=32, other in any::<u32>()) {
        let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
        let network = std::net::Ipv4Addr::from_bits(base & mask);
        let (rules, findings) = read(&format!("host all all {network}/{bits} trust"));
        prop_assert_eq!(findings, []);
        let inside = |address: u32| {
            let from = Some(IpAddr::from(std::net::Ipv4Addr::from_bits(address)));
            rules.find(&Knock { from, tls: false, replication: false, database: "d", user: "u" }).is_some()
        };
        prop_assert!(inside(base));
        prop_assert_eq!(inside(other), other & mask == base & mask);
    }

    #[test]
    fn an_earlier_refusal_is_never_overruled(lines in prop::collection::vec(
        prop::sample::select(vec!["host all all all trust", "local all all trust", "host db joe ::/0 md5", "bad line"]), 0..6)) {
        let text = format!("host all joe all reject\n{}", lines.join("\n"));
        let (rules, _) = read(&text);
        prop_assert_eq!(outcome(&rules, "joe@db/10.0.0.1"), Some(Method::Reject));
        prop_assert_eq!(outcome(&rules, "joe@db/::1+tls"), Some(Method::Reject));
    }
}

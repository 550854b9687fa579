//! Configuration files of both forms: what they mean, and what is said about those that are wrong.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pgtandem::config::diff::Effect;
use pgtandem::config::model::{DEFAULT_PEER_PORT, DEFAULT_SERVER_PORT};
use pgtandem::config::print::to_toml;
use pgtandem::config::{
    AuthType, Config, HostSpec, LoadBalanceHosts, Plan, PoolMode, Problem, Settings, Severity, SslMode, apply_reload,
    check, check_alone, diff, explain_set, load,
};

type Loaded = Result<(Config, Vec<Problem>), Vec<Problem>>;

/// Load the first of some files that exist only here.
fn load_files(files: &[(&str, &[u8])]) -> Loaded {
    let map: BTreeMap<PathBuf, Vec<u8>> = files.iter().map(|(name, text)| (name.into(), text.to_vec())).collect();
    load(Path::new(files[0].0), &mut |path| {
        map.get(path).cloned().ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "No such file or directory"))
    })
}

fn ini(text: &str) -> Loaded {
    load_files(&[("a.ini", text.as_bytes())])
}

fn toml(text: &str) -> Loaded {
    load_files(&[("a.toml", text.as_bytes())])
}

const MAIN: &str = "\n[pgbouncer]\nauth_type=trust\nauth_file=u\n";

fn with_main(text: &str) -> Loaded {
    ini(&format!("{text}{MAIN}"))
}

fn data(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/config").join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// (line, start of the text, part of the hint) of each error.
fn errors(loaded: Loaded) -> Vec<(u32, String, String)> {
    let Err(problems) = loaded else { panic!("accepted: {loaded:#?}") };
    problems
        .into_iter()
        .filter(|problem| problem.severity == Severity::Error)
        .map(|problem| (problem.line().unwrap_or(0), problem.text.clone(), problem.hint.unwrap_or_default()))
        .collect()
}

#[track_caller]
fn assert_error(loaded: Loaded, line: u32, text: &str, hint: &str) {
    let errors = errors(loaded);
    assert!(
        errors.iter().any(|(at, what, advice)| *at == line && what.starts_with(text) && advice.contains(hint)),
        "{errors:#?}"
    );
}

#[test]
fn operators_file_with_defaults_loads() {
    let text = data("enterprisescanner/pgbouncer.ini");
    let (config, problems) = load_files(&[("pgbouncer.ini", &text)]).unwrap();
    assert_eq!(problems, []);
    let database = &config.databases["enterprisescanner"];
    assert_eq!(database.hosts, [HostSpec::Ipv4([127, 0, 0, 1].into())]);
    assert_eq!((database.port, database.dbname.as_deref()), (5432, None));
    assert_eq!(config.settings.pool_mode, PoolMode::Transaction);
    assert_eq!(config.settings.reserve_pool_timeout, Duration::from_secs(3));
    assert_eq!(config.pool_size(database, None), 25);
    assert_eq!(config.max_db_connections(database), 50);
}

#[test]
fn operators_file_with_tls_loads() {
    let text = data("revenue-engine/pgbouncer.ini");
    let (config, problems) = load_files(&[("pgbouncer.ini", &text)]).unwrap();
    assert_eq!(problems, []);
    assert_eq!(config.databases.len(), 4);
    assert_eq!(config.databases["analytics_db"].hosts, [HostSpec::Name("postgres-replica-1".into())]);
    assert_eq!(config.databases["analytics_db"].dbname.as_deref(), Some("revenue_engine"));
    assert_eq!(config.settings.client_tls_sslmode, SslMode::Require);
    assert_eq!(config.settings.server_check_query, "SELECT 1");
    assert_eq!(config.settings.auth_user.get(), Some("pgbouncer_admin"));
}

#[test]
fn operators_misplaced_setting_is_found() {
    let text = data("revenue-engine/access-control.ini");
    let loaded = load_files(&[("access-control.ini", &text)]);
    let problems = loaded.unwrap_err();
    let shown: Vec<String> = problems.iter().map(Problem::to_string).collect();
    assert_eq!(
        shown,
        [
            "main section missing from config file (access-control.ini:1); settings belong in a section [pgbouncer]: add one",
            "syntax error in connection string of \"max_user_connections\" (access-control.ini:7); \
             `max_user_connections` is a setting and belongs in section [pgbouncer]",
        ]
    );
}

/// Accepted by PgBouncer, with the same meaning (tried on the program): the host and port of database `x`.
#[test]
fn ini_syntax_that_pgbouncer_takes() {
    let table: &[(&str, &str, &str, u16)] = &[
        ("plain", "[databases]\nx = host=a\n", "a", 5432),
        ("no blanks", "[databases]\nx=host=a\n", "a", 5432),
        ("tabs round =", "[databases]\nx   \t=\t host=a\n", "a", 5432),
        ("tab before", "\t[databases]\n\tx = host=a\n", "a", 5432),
        ("form feed", "[databases]\n\x0c x = host=a\n", "a", 5432),
        ("indented", "   [databases]\n   x = host=a\n   ", "a", 5432),
        ("windows lines", "[databases]\r\nx = host=a\r\n", "a", 5432),
        ("same line", "[databases] x = host=a\n", "a", 5432),
        ("comment behind header", "[databases] ; comment\nx = host=a\n", "a", 5432),
        ("comments", "; c\n#c\n[databases]\n  ; c\n  # y = host=b\nx = host=a\n", "a", 5432),
        ("last wins", "[databases]\nx = host=b port=1\nx = host=a\n", "a", 5432),
        ("sections again", "[databases]\ny = host=b\n[users]\n[databases]\nx = host=a\n", "a", 5432),
        ("quoted name", "[databases]\n'x' = host=a\n", "a", 5432),
        ("quoted value", "[databases]\nx = host='a' port='5433'\n", "a", 5433),
        ("junk behind quote", "[databases]\nx = host='a', port=5433\n", "a", 5433),
        ("letter behind quote", "[databases]\nx = host='a'b port=5433\n", "a", 5433),
        ("junk behind port", "[databases]\nx = host=a port=5433,\n", "a", 5433),
        ("key again", "[databases]\nx = host=b host=a\n", "a", 5432),
    ];
    for (what, text, host, port) in table {
        let (config, _) = with_main(text).unwrap_or_else(|problems| panic!("{what}: {problems:#?}"));
        let database = &config.databases["x"];
        assert_eq!((database.host_text().as_deref(), database.port), (Some(*host), *port), "{what}");
    }
}

/// Refused by PgBouncer; its text and our advice.
#[test]
fn ini_syntax_that_pgbouncer_refuses() {
    let table: &[(&str, u32, &str, &str)] = &[
        ("[databases]\n\"a\" = host=x\n", 2, "syntax error in configuration", "single quotes"),
        ("[databases]\né = host=x\n", 2, "syntax error in configuration", "single quotes"),
        ("[databases]\n'' = host=x\n", 2, "syntax error in configuration", ""),
        ("[databases]\n'a = host=x\n", 2, "syntax error in configuration", "quote"),
        ("[databases]\nx\n", 2, "syntax error in configuration", "name = value"),
        ("[databases]\nx\n= host=a\n", 2, "syntax error in configuration", ""),
        ("[databases]\nx : host=a\n", 2, "syntax error in configuration", ""),
        ("[databases] junk\n", 1, "syntax error in configuration", ""),
        ("[databases\n", 1, "syntax error in configuration", "]"),
        ("%includefoo\n", 1, "syntax error in configuration", ""),
        ("%INCLUDE foo\n", 1, "syntax error in configuration", ""),
        ("%include nosuch.ini\n", 1, "could not load file \"nosuch.ini\": No such file", ""),
        ("[ databases ]\n", 1, "invalid section \" databases \" in configuration", "`databases`"),
        ("[Databases]\n", 1, "invalid section \"Databases\" in configuration", "`databases`"),
        ("[database]\n", 1, "invalid section \"database\" in configuration", "`databases`"),
        ("[metrics]\n", 1, "invalid section \"metrics\" in configuration", "TOML"),
        ("[virtual_router]\n", 1, "invalid section \"virtual_router\" in configuration", "`virtual_routers`"),
        ("[hα]\n", 1, "invalid section \"hα\" in configuration", "[ha], [virtual_routers]"),
        ("x = 1\n", 1, "load_init_file: value without section: x", ""),
        ("pool_mode = session\n", 1, "load_init_file: value without section: pool_mode", "[pgbouncer]"),
        ("[databases]\nx = user=a password=''\n", 2, "syntax error in connection string", "empty value"),
        ("[databases]\nx = user=a password=\n", 2, "syntax error in connection string", "empty value"),
        ("[databases]\nx = host='a port=1\n", 2, "syntax error in connection string", "quote"),
        ("[databases]\nx = host=a ; comment\n", 2, "syntax error in connection string", "line of its own"),
        ("[databases]\nx = host=a # comment\n", 2, "syntax error in connection string", "line of its own"),
        ("[databases]\nx = hots=b\n", 2, "unrecognized connection parameter: hots", "`host`"),
        ("[databases]\nx = listen_port=1\n", 2, "unrecognized connection parameter: listen_port", "[pgbouncer]"),
        ("[databases]\nx = query_timeout=1\n", 2, "unrecognized connection parameter: query_timeout", "[pgbouncer]"),
        ("[databases]\nx = port=0\n", 2, "invalid port: 0", "\"x\""),
        ("[databases]\nx = port=x\n", 2, "invalid port: x", ""),
        ("[databases]\nx = pool_mode=abc\n", 2, "invalid pool mode: abc", ""),
        ("[databases]\nx = load_balance_hosts=abc\n", 2, "invalid load_balance_hosts: abc", ""),
        ("[databases]\npgbouncer = host=a\n", 2, "database name \"pgbouncer\" is reserved", "admin console"),
        ("[users]\nu = host=x\n", 2, "unrecognized user parameter: host", "[databases]"),
        ("[users]\nu = pool_mode\n", 2, "syntax error in user settings", ""),
        ("[peers]\n0 = host=x\n", 2, "ids of peers must be a number larger than 0", ""),
        ("[peers]\n65536 = host=x\n", 2, "ids of peers must be a number larger than 0", ""),
        ("[peers]\n1 = port=1\n", 2, "host was not provided for peer 1", ""),
        ("[pgbouncer]\nnosuch = 1\n", 2, "unknown parameter: pgbouncer/nosuch", ""),
        ("[pgbouncer]\nLOG_STATS = 1\n", 2, "unknown parameter: pgbouncer/LOG_STATS", "`log_stats`"),
        ("[pgbouncer]\npool_size = 1\n", 2, "unknown parameter: pgbouncer/pool_size", "[databases] or [users]"),
        ("[pgbouncer]\ndbname = x\n", 2, "unknown parameter: pgbouncer/dbname", "[databases]"),
        ("[pgbouncer]\nservice_name = x\n", 2, "unknown parameter: pgbouncer/service_name", "Windows"),
        (
            "[pgbouncer]\nlisten_port = x\n",
            2,
            "invalid value \"x\" for parameter listen_port in configuration",
            "listen_port wants a whole number",
        ),
        (
            "[pgbouncer]\nauth_type = pam\n",
            2,
            "invalid value \"pam\" for parameter auth_type in configuration",
            "not available yet",
        ),
        (
            "[pgbouncer]\nauth_dbname = pgbouncer\n",
            2,
            "cannot use the reserved \"pgbouncer\" database as an auth_dbname",
            "",
        ),
    ];
    for (text, line, what, hint) in table {
        assert_error(with_main(text), *line, what, hint);
    }
}

/// PgBouncer takes these and something surprising happens; here they are refused.
#[test]
fn ini_that_only_we_refuse() {
    let table: &[(&str, u32, &str)] = &[
        ("[databases]\nx = port=70000\n", 2, "invalid port: 70000"),
        ("[databases]\nx = port=-1\n", 2, "invalid port: -1"),
        ("[databases]\nx = pool_size=abc\n", 2, "invalid value \"abc\" for parameter pool_size"),
        ("[databases]\nx = server_lifetime=-1\n", 2, "invalid value \"-1\" for parameter server_lifetime"),
        ("[databases]\nx = host=a:5432\n", 2, "invalid host: a:5432"),
        ("[databases]\nx = host=a,,b\n", 2, "invalid host"),
        ("[databases]\n = host=a\n", 2, "an entry of [databases] has no usable name"),
        ("[databases]\n* = nosuch=1\n", 2, "unrecognized connection parameter: nosuch"),
    ];
    for (text, line, what) in table {
        assert_error(with_main(text), *line, what, "");
    }
    assert_error(load_files(&[("a.ini", b"[pgbouncer]\n\n\0")]), 3, "the file contains a NUL byte", "");
    let latin1 = load_files(&[("a.ini", b"[databases]\n'\xe9' = host=a\n[pgbouncer]\nstats_users = \xe9\n")]);
    let errors = errors(latin1);
    assert_eq!(errors.iter().map(|(line, ..)| *line).collect::<Vec<_>>(), [2, 4]);
}

#[test]
fn everything_is_reported_at_once_and_in_order() {
    let loaded =
        ini("[databases]\nx = hots=b port=0\njunk\n[nosuch]\nignored = \x01\n[pgbouncer]\nlisten_port=x\nfoo=1\n");
    let lines: Vec<u32> = errors(loaded).iter().map(|(line, ..)| *line).collect();
    assert_eq!(lines, [2, 2, 3, 4, 7, 8]);
}

#[test]
fn main_header_resets_what_stands_above_it() {
    let text = "[pgbouncer]\ndefault_pool_size=77\nauth_user=joe\nnosuch=1\n[pgbouncer]\nmax_client_conn=9\n";
    let errors = errors(ini(text));
    assert_eq!(errors.len(), 1, "what is wrong in the first section is still reported");
    let (config, problems) = with_main("[pgbouncer]\ndefault_pool_size=77\nauth_user=joe\n[databases]\n").unwrap();
    assert_eq!(config.settings.default_pool_size, 20);
    // Tried on PgBouncer: a setting without a default is not reset.
    assert_eq!(config.settings.auth_user.get(), Some("joe"));
    let warnings: Vec<_> = problems.iter().filter(|p| p.severity == Severity::Warning).map(Problem::line).collect();
    assert_eq!(warnings, [Some(6)]);
}

/// What the NixOS module writes around an operator's own file.
#[test]
fn settings_come_on_top_of_a_whole_file() {
    let operators = b"[databases]\nx = host=a\n[pgbouncer]\nlisten_port = 7000\nauth_type = trust\nauth_file = old\n";
    let on_top = |header: &str| {
        let text = format!("%include own.ini\n\n[{header}]\nauth_file = new\n");
        load_files(&[("a.ini", text.as_bytes()), ("own.ini", operators)]).unwrap().0.settings
    };
    let settings = on_top("pgtandem");
    assert_eq!((settings.listen_port, settings.auth_file.get()), (7000, Some("new")));
    assert_eq!(settings.auth_type, AuthType::Trust);
    // PgBouncer's own header puts everything back.
    assert_eq!(on_top("pgbouncer").listen_port, 6432);
}

#[test]
fn includes() {
    let files: &[(&str, &[u8])] = &[
        ("a.ini", b"[databases]\n%include sub/dbs.ini  \n[pgbouncer]\nmax_client_conn = 7\n%include more\n"),
        ("sub/dbs.ini", b"x = host=a\n%include users\n"),
        ("users", b"[users]\nu = pool_size=3\n"),
        ("more", b"listen_port = 7777\nmax_client_conn = 8"),
    ];
    let (config, _) = load_files(files).unwrap();
    assert_eq!(config.databases["x"].hosts.len(), 1);
    assert_eq!(config.users["u"].pool_size, Some(3));
    assert_eq!((config.settings.listen_port, config.settings.max_client_conn), (7777, 8));

    let broken: &[(&str, &[u8])] =
        &[("a.ini", b"[pgbouncer]\n\n%include b.ini\n"), ("b.ini", b"# c\nlisten_port = zero\n")];
    let problems = load_files(broken).unwrap_err();
    assert_eq!((problems[0].file(), problems[0].line()), (Some("b.ini"), Some(2)));

    for text in ["[pgbouncer]\n%include a.ini\n", "[pgbouncer]\n%include a.ini\n%include a.ini\n%include a.ini\n"] {
        let mut reads = 0;
        let loaded = load(Path::new("a.ini"), &mut |_| {
            reads += 1;
            Ok(text.as_bytes().to_vec())
        });
        assert!(loaded.unwrap_err()[0].text.starts_with("include nesting level too deep"));
        assert!(reads < 1100, "{reads}");
    }
    // Ten levels are allowed.
    let chain: Vec<(String, Vec<u8>)> = (0..=10)
        .map(|level| {
            (
                format!("{level}"),
                if level == 10 { b"[pgbouncer]\n".to_vec() } else { format!("%include {}\n", level + 1).into_bytes() },
            )
        })
        .collect();
    let chain: Vec<(&str, &[u8])> = chain.iter().map(|(name, text)| (name.as_str(), text.as_slice())).collect();
    load_files(&chain).unwrap();
}

#[test]
fn every_parameter_of_a_database() {
    let text = "[databases]\nx = host=/run,@abs,::1 port=1 dbname=d user=u password='p''w' auth_user=au auth_query='a b' \
                auth_dbname=ad pool_size=1 min_pool_size=1 reserve_pool=3 connect_query='set a=1; b' pool_mode=STATEMENT \
                query_wait_timeout=0 load_balance_hosts=disable max_db_connections=5 max_db_client_connections=6 \
                server_lifetime=7 client_encoding=UTF8 datestyle=ISO timezone=UTC application_name=app\n* = host=b\n";
    let (config, problems) = with_main(text).unwrap();
    assert_eq!(problems, []);
    let x = &config.databases["x"];
    assert_eq!(
        x.hosts,
        [HostSpec::UnixDir("/run".into()), HostSpec::Abstract("abs".into()), HostSpec::parse("::1").unwrap()]
    );
    assert_eq!(x.password.as_ref().map(|secret| secret.expose()), Some("p'w"));
    assert_eq!((x.pool_size, x.min_pool_size, x.reserve_pool_size), (Some(1), Some(1), Some(3)));
    assert_eq!((x.pool_mode, x.query_wait_timeout), (Some(PoolMode::Statement), Some(Duration::ZERO)));
    assert_eq!(x.load_balance_hosts, LoadBalanceHosts::Disable);
    assert_eq!(x.connect_query.as_deref(), Some("set a=1; b"));
    assert_eq!(config.database("unnamed"), config.autodb.as_ref());
    assert_eq!(config.database("x"), Some(x));
}

#[test]
fn precedence_is_user_database_setting() {
    let text = "[databases]\nx = pool_size=2 pool_mode=transaction reserve_pool_size=2 query_wait_timeout=2 \
                server_lifetime=2 max_db_connections=0 min_pool_size=-1\ny =\n\
                [users]\nu = pool_size=3 pool_mode=statement reserve_pool_size=3 query_wait_timeout=0 query_timeout=0\nv =\n\
                [pgbouncer]\nauth_type=trust\nauth_file=u\ndefault_pool_size=1\nreserve_pool_size=1\nquery_wait_timeout=1\n\
                max_db_connections=9\nquery_timeout=9\nmin_pool_size=1\n";
    let (config, problems) = ini(text).unwrap();
    let (x, y) = (&config.databases["x"], &config.databases["y"]);
    let (u, v) = (config.users.get("u"), config.users.get("v"));
    assert_eq!((config.pool_size(x, u), config.pool_size(x, v), config.pool_size(y, None)), (3, 2, 1));
    assert_eq!(config.pool_mode(x, u), PoolMode::Statement);
    assert_eq!(config.pool_mode(x, v), PoolMode::Transaction);
    assert_eq!(config.pool_mode(y, v), PoolMode::Session);
    assert_eq!((config.reserve_pool_size(x, u), config.reserve_pool_size(y, u)), (3, 3));
    assert_eq!(config.query_wait_timeout(x, u), Duration::ZERO);
    assert_eq!(config.query_wait_timeout(x, v), Duration::from_secs(2));
    assert_eq!(config.query_wait_timeout(y, v), Duration::from_secs(1));
    assert_eq!(config.server_lifetime(x), Duration::from_secs(2));
    assert_eq!(config.server_lifetime(y), Duration::from_secs(3600));
    assert_eq!(config.max_db_connections(x), 9, "0 means the global limit");
    assert_eq!(config.query_timeout(u), Duration::from_secs(9), "0 means the global time");
    assert_eq!(config.min_pool_size(x), 1);
    assert_eq!(problems.len(), 2, "{problems:#?}");
}

#[test]
fn settings_that_need_each_other() {
    let table: &[(&str, u32, &str)] = &[
        ("client_tls_sslmode=require\n", 2, "To allow TLS connections from clients, client_tls_key_file and"),
        (
            "client_tls_sslmode=verify-full\nclient_tls_key_file=k\nclient_tls_cert_file=c\n",
            2,
            "client_tls_sslmode requires client_tls_ca_file",
        ),
        ("auth_type=cert\n", 2, "auth_type=cert requires client_tls_sslmode=SSLMODE_VERIFY_FULL"),
        ("auth_type=cert\n", 2, "auth_type=cert requires client_tls_ca_file"),
        ("auth_type=scram-sha-256-plus\n", 2, "auth_type=scram-sha-256-plus needs TLS"),
        ("auth_type=hba\n", 2, "auth_type=hba needs auth_hba_file"),
        ("auth_type=ldap\n", 2, "auth_type=ldap needs auth_ldap_options"),
        ("server_tls_protocols=bogus\n", 2, "invalid server_tls_protocols: bogus"),
        (
            "server_tls_sslmode=require\nserver_tls_protocols=tlsv1.1\n",
            3,
            "invalid server_tls_protocols: tlsv1.1 leaves no usable TLS version",
        ),
    ];
    for (text, line, what) in table {
        assert_error(ini(&format!("[pgbouncer]\n{text}")), *line, what, "");
    }
    let long = format!("[pgbouncer]\n\nunix_socket_dir=/{}\n", "x".repeat(100));
    assert_error(ini(&long), 3, "the Unix socket's path is longer", "");
}

#[test]
fn warnings_and_notices() {
    let table: &[(&str, &str)] = &[
        ("auth_type=md5\n", "auth_type=md5 without auth_file and auth_user"),
        ("auth_file=u\ndefault_pool_size=0\n", "default_pool_size=0"),
        ("auth_file=u\nmin_pool_size=21\n", "min_pool_size=21 is more than default_pool_size=20"),
        ("auth_file=u\nunix_socket_dir=\n", "nowhere to listen on"),
        ("auth_file=u\nserver_tls_sslmode=verify-ca\n", "server_tls_sslmode=verify-ca without server_tls_ca_file"),
        ("auth_file=u\n[peers]\n1=host=a\n", "[peers] are given, but peer_id is 0"),
        ("auth_file=u\nresolv_conf=/etc/other\n", "resolv_conf has no effect yet"),
        ("auth_file=u\nserver_tls_protocols=tlsv1.0\n", "server_tls_protocols: tlsv1.0 leaves no usable TLS version"),
        ("auth_file=u\n[databases]\nx = auth_dbname=pgbouncer\n", "database \"x\": auth_dbname is the admin console"),
        ("auth_type=any\n[databases]\nx = host=a\n", "auth_type=any requires forced user"),
        ("auth_file=u\nauth_user=a\nauth_dbname=b\n", "auth_dbname=b is not an entry"),
    ];
    for (text, what) in table {
        let (_, problems) = ini(&format!("[pgbouncer]\n{text}")).unwrap();
        assert_eq!(problems.len(), 1, "{text}: {problems:#?}");
        assert!(problems[0].text.starts_with(what) && problems[0].place.is_some(), "{problems:#?}");
    }
    let (_, problems) = ini("[pgbouncer]\nauth_file=u\n").unwrap();
    assert_eq!(problems, []);
}

const TOML: &str = r#"
[pgtandem]
listen_port = 7000
pool_mode = "transaction"
admin_users = ["a", "b"]
server_lifetime = 1.5
log_connections = false
unix_socket_mode = 0o700
auth_file = "u"
default_pool_size = "0x10"

[databases.x]
host = ["10.0.0.1", "::1"]
port = 5433
password = "it's"
connect_query = "select\n1"

[databases."*"]
host = "b"

[databases."my db"]

[users.u]
pool_size = 3
query_timeout = 4

[peers.1]
host = "/tmp"

[metrics]
listen = "x"
nested = { list = [1, 2] }
"#;

#[test]
fn toml_means_the_same() {
    let (config, problems) = toml(TOML).unwrap();
    assert_eq!(
        problems.iter().map(|problem| problem.severity).collect::<Vec<_>>(),
        [Severity::Warning, Severity::Notice]
    );
    let ini_text = "[databases]\nx = host=10.0.0.1,::1 port=5433 password='it''s' connect_query='select 1'\n* = host=b\n\
                    'my db' =\n[users]\nu = pool_size=3 query_timeout=4\n[peers]\n1 = host=/tmp\n[pgbouncer]\n\
                    listen_port=7000\npool_mode=transaction\nadmin_users=a, b\nserver_lifetime=1.5\nlog_connections=0\n\
                    unix_socket_mode=0700\nauth_file=u\ndefault_pool_size=16\n";
    let (mut other, _) = ini(ini_text).unwrap();
    assert_eq!(config.reserved.0.len(), 1);
    assert_eq!(config.reserved.0["metrics"]["listen"].as_str(), Some("x"));
    other.reserved = config.reserved.clone();
    other.databases.get_mut("x").unwrap().connect_query = Some("select\n1".into());
    assert_eq!(config, other);
    assert_eq!((config.databases["x"].port, config.databases["my db"].port), (5433, DEFAULT_SERVER_PORT));
    assert_eq!(config.peers[&1].port, DEFAULT_PEER_PORT);

    let printed = to_toml(&config);
    assert!(printed.contains("unix_socket_mode = 0o700") && printed.contains("log_connections = false"), "{printed}");
    assert!(!printed.contains("max_client_conn"), "only what differs: {printed}");
    assert_eq!(toml(&printed).unwrap().0, config, "{printed}");
}

#[test]
fn toml_mistakes() {
    let table: &[(&str, u32, &str, &str)] = &[
        ("[pgtandem]\nlisten_prt = 1\n", 2, "unknown parameter: pgtandem/listen_prt", "`listen_port`"),
        (
            "[pgtandem]\n\nlisten_port = true\n",
            3,
            "invalid value for parameter listen_port",
            "a whole number, not a TOML boolean",
        ),
        (
            "[pgtandem]\nlisten_port = 70000\n",
            2,
            "invalid value \"70000\" for parameter listen_port",
            "from 0 to 65535",
        ),
        ("[pgtandem]\nlisten_port = 99999999999999999999\n", 2, "invalid value", ""),
        ("[pgtandem]\nadmin_users = [1]\n", 2, "invalid value for parameter admin_users", "a list of texts"),
        ("[pgtandem]\npool_mode = 1\n", 2, "invalid value for parameter pool_mode", "text in quotes"),
        ("[pgtandem]\nserver_lifetime = -1\n", 2, "invalid value \"-1\" for parameter server_lifetime", ""),
        ("[pgtandem]\nserver_lifetime = inf\n", 2, "invalid value \"inf\" for parameter server_lifetime", ""),
        ("[pgtandem]\nuser = \"a\\u0000b\"\n", 2, "invalid value for parameter user", "NUL"),
        ("[pgbouncer]\n", 1, "invalid section \"pgbouncer\"", "[pgtandem]"),
        ("[database.x]\n", 1, "invalid section \"database\"", "`databases`"),
        ("listen_port = 1\n", 1, "invalid section \"listen_port\"", "[pgtandem]"),
        ("databases = 1\n", 1, "`databases` must be a table", "[databases]"),
        ("[databases]\nx = \"host=a\"\n", 2, "entry \"x\" of [databases] must be a table", "[databases.NAME]"),
        (
            "[databases]\nmax_client_conn = 1\n",
            2,
            "entry \"max_client_conn\" of [databases]",
            "belongs in section [pgtandem]",
        ),
        ("[databases.x]\nhots = \"a\"\n", 2, "unrecognized connection parameter: hots", "`host`"),
        ("[databases.x]\nmax_client_conn = 1\n", 2, "unrecognized connection parameter", "[pgtandem]"),
        ("[databases.pgbouncer]\n", 1, "database name \"pgbouncer\" is reserved", ""),
        ("[users.u]\npool_size = 1.5\n", 2, "invalid value for parameter pool_size", "whole number"),
        ("[peers.x]\nhost = \"a\"\n", 1, "ids of peers must be a number", ""),
        ("[pgtandem\n", 1, "syntax error in configuration", ""),
        ("[pgtandem]\nlisten_port = 1\nlisten_port = 2\n", 3, "syntax error in configuration", "duplicate"),
    ];
    for (text, line, what, hint) in table {
        assert_error(toml(text), *line, what, hint);
    }
    assert_error(load_files(&[("a.toml", b"[pgtandem]\n\xff")]), 2, "syntax error in configuration", "UTF-8");
    let many = errors(toml("[pgtandem]\na = 1\nlisten_port = \"x\"\n[users.u]\nb = 1\n"));
    assert_eq!(many.iter().map(|(line, ..)| *line).collect::<Vec<_>>(), [2, 3, 5]);
}

#[test]
fn missing_files_are_named() {
    for name in ["nosuch.ini", "nosuch.toml"] {
        let problems = load(Path::new(name), &mut |_| Err(io::Error::other("gone"))).unwrap_err();
        assert_eq!(problems.len(), 1);
        assert_eq!(problems[0].to_string(), format!("could not load file \"{name}\": gone"));
    }
}

#[test]
fn reload_keeps_what_only_a_restart_changes() {
    let old = ini(
        "[databases]\na = host=h\nb = host=h\n* = host=h\n[users]\nu = pool_size=1\n[pgbouncer]\nlisten_port=7000\n\
         auth_type=trust\nauth_file=f\nauth_user=joe\nmax_client_conn=9\n",
    );
    let new = ini(
        "[databases]\nb = host=i pool_size=3\nc = host=h\n* = host=h pool_size=3\n[users]\nu = pool_size=2\n[pgbouncer]\n\
         auth_type=trust\nauth_file=g\nserver_tls_protocols=tlsv1.3\nlogfile=l\n",
    );
    let (old, new) = (old.unwrap().0, new.unwrap().0);
    let plan = diff(&old, &new);
    let effects: Vec<_> = plan.settings.iter().map(|change| (change.name, change.effect)).collect();
    assert_eq!(
        effects,
        [
            ("auth_file", Effect::Applied),
            ("auth_user", Effect::KeptUnnamed),
            ("listen_port", Effect::NeedsRestart),
            ("logfile", Effect::Applied),
            ("max_client_conn", Effect::Applied),
            ("server_tls_protocols", Effect::Applied),
        ]
    );
    assert_eq!(
        (plan.databases_added.clone(), plan.databases_removed.clone()),
        (vec!["c".to_owned()], vec!["a".to_owned()])
    );
    let changed: Vec<_> =
        plan.databases_changed.iter().map(|c| (c.name.as_str(), c.params.clone(), c.reconnect)).collect();
    assert_eq!(changed, [("*", vec!["pool_size"], false), ("b", vec!["host", "pool_size"], true)]);
    assert_eq!(plan.users_changed, ["u"]);
    assert!(plan.server_tls && !plan.client_tls && plan.auth_file && plan.logging && !plan.hba);

    let merged = apply_reload(&old, &new);
    assert_eq!(merged.settings.listen_port, 7000);
    assert_eq!(merged.settings.auth_user.get(), Some("joe"), "PgBouncer keeps settings that have no default");
    assert_eq!(merged.settings.max_client_conn, 100, "back to the default");
    assert_eq!(merged.databases, new.databases);
    assert_eq!(diff(&merged, &merged), Plan::default());
    let again = diff(&merged, &new);
    assert!(again.applied().next().is_none() && again.databases_changed.is_empty());

    let cleared = ini("[pgbouncer]\nauth_type=trust\nauth_file=f\nauth_user=\n").unwrap().0;
    assert_eq!(apply_reload(&old, &cleared).settings.auth_user.get(), None);
}

#[test]
fn saying_the_database_name_is_no_change() {
    let one = with_main("[databases]\nx = host=a\n").unwrap().0;
    let two = with_main("[databases]\nx = host=a dbname=x port=5432 load_balance_hosts=round-robin\n").unwrap().0;
    assert!(diff(&one, &two).is_empty());
}

fn check_with(text: &str, files: &[(&str, &[u8])]) -> check::Report {
    check(
        Path::new("a.ini"),
        &mut |path| match path.to_str() {
            Some("a.ini") => Ok(text.as_bytes().to_vec()),
            Some(name) => files
                .iter()
                .find(|(file, _)| *file == name)
                .map(|(_, bytes)| bytes.to_vec())
                .ok_or_else(|| io::Error::other("missing")),
            None => Err(io::Error::other("no name")),
        },
        &mut check::inspect,
    )
}

#[test]
fn check_reads_the_files_that_settings_name() {
    let text = "[pgbouncer]\nauth_type = md5\nauth_file = users\nclient_tls_sslmode = require\n\
                client_tls_key_file = key\nclient_tls_cert_file = cert\nclient_tls_ca_file = ca\nlisten_port = x\n";
    let users = data("revenue-engine/userlist.txt");
    let report =
        check_with(text, &[("users", &users), ("key", b"-----BEGIN PRIVATE KEY-----\n"), ("cert", b"\x30\x82binary")]);
    assert!(report.config.is_none());
    let shown: Vec<String> = report.problems.iter().map(Problem::to_string).collect();
    assert_eq!(
        shown,
        [
            "could not open client_tls_ca_file ca: missing (a.ini:7); does the file exist, and may this user read it?",
            "invalid value \"x\" for parameter listen_port in configuration (a.ini:8); listen_port wants a whole number",
            "client_tls_cert_file: the file holds no certificate in PEM form (cert:1)",
        ]
    );
    let good =
        check_with("[pgbouncer]\nauth_file = users\n", &[("users", b"; c\n\n\"a\" \"b\"\n\"x\"\"y\" \"\" junk")]);
    assert_eq!(good.problems, []);
    assert!(good.config.is_some());
}

#[test]
fn check_alone_reads_what_is_included_and_nothing_else() {
    let mut opened = Vec::new();
    let report = check_alone(Path::new("a.ini"), &mut |path| {
        opened.push(path.to_owned());
        match path.to_str() {
            Some("a.ini") => Ok(b"%include b.ini\n[pgbouncer]\nauth_file = users\n".to_vec()),
            Some("b.ini") => Ok(b"[pgbouncer]\nlisten_port = x\n".to_vec()),
            _ => Err(io::Error::other("not for this check")),
        }
    });
    assert_eq!(opened, [Path::new("a.ini"), Path::new("b.ini")]);
    assert!(report.config.is_none());
    let [problem] = &report.problems[..] else { panic!("{:?}", report.problems) };
    assert!(problem.to_string().contains("parameter listen_port in configuration (b.ini:2)"), "{problem}");
}

#[test]
fn refused_set_is_explained_for_the_log() {
    let mut settings = Settings::default();
    for (name, value, text) in [
        ("listen_prt", "1", "unknown parameter: pgbouncer/listen_prt; did you mean `listen_port`?"),
        (
            "pool_mode",
            "tx",
            "invalid value \"tx\" for parameter pool_mode in configuration; \
             pool_mode wants one of session, transaction, statement",
        ),
    ] {
        let Err(error) = settings.set(name, value) else { panic!("{name}") };
        assert_eq!(explain_set(name, value, error).to_string(), text);
    }
}

#[test]
fn auth_types_have_the_names_of_pgbouncer() {
    assert_eq!(AuthType::WORDS.join(" "), "any trust plain md5 cert hba ldap scram-sha-256 scram-sha-256-plus peer");
}

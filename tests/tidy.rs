//! The rules of `docs/ARCHITECTURE.md` that a compiler does not check: who may import whom, what a pure file may not
//! touch, where `unsafe` may stand, how long files and functions may grow, and what every module must say of itself.
//!
//! A rule is a plain function over a [`Tree`], so that each is run twice: on this repository, where it must be silent,
//! and on a small bad example, where it must complain. A rule that cannot fail is not a rule.

#![expect(clippy::unwrap_used, reason = "a file that cannot be read or parsed must stop the check, with its name")]

#[path = "tidy/tree.rs"]
mod tree;

use std::collections::BTreeSet;
use std::sync::LazyLock;

use proc_macro2::{TokenStream, TokenTree};

use tree::{Tree, is_driver, is_pure, line, part_of};

// ---------------------------------------------------------------------------------------------------------------------
// The table. One row for each part (`pool`) and for each driver (`pool::io`).

struct Row {
    part: &'static str,
    rank: u8,
    may: &'static [&'static str],
}

/// May be imported by every part of rank 1 and up: names, faults, and `clock::Time` as a plain number.
const EVERYWHERE: [&str; 3] = ["ids", "fault", "clock"];

const fn row(part: &'static str, rank: u8, may: &'static [&'static str]) -> Row {
    Row { part, rank, may }
}

const TABLE: &[Row] = &[
    row("ids", 0, &[]),
    row("fault", 0, &[]),
    row("wire", 1, &[]),
    row("clock", 1, &[]),
    row("sys", 1, &[]),
    row("handover", 1, &[]),
    row("net", 2, &["wire", "sys"]),
    row("tls", 2, &["wire", "sys"]),
    row("prepared", 2, &["wire"]),
    row("auth", 2, &["wire"]),
    row("pool", 2, &[]),
    row("session", 2, &["wire", "prepared"]),
    row("topology", 2, &["wire"]),
    row("vrrp", 2, &[]),
    row("pair", 2, &[]),
    row("ha", 3, &["vrrp", "pair", "topology"]),
    row("config", 3, &["wire", "net", "tls", "prepared", "auth", "pool", "session", "topology", "vrrp", "pair", "ha"]),
    row(
        "snapshot",
        3,
        &["wire", "net", "tls", "prepared", "auth", "pool", "session", "topology", "vrrp", "pair", "ha"],
    ),
    row("admin", 4, &["wire", "snapshot", "config"]),
    row("metrics", 4, &["wire", "snapshot", "config"]),
    row("auth::io", 5, &["wire", "net", "tls", "sys"]),
    row("vrrp::io", 5, &["net", "tls", "sys"]),
    row("pair::io", 5, &["net", "tls", "sys"]),
    row("metrics::io", 5, &["net", "tls", "sys", "snapshot"]),
    row("pool::io", 6, &["wire", "net", "tls", "sys", "auth", "auth::io"]),
    row("topology::io", 6, &["wire", "net", "tls", "sys", "auth", "auth::io"]),
    row(
        "session::io",
        7,
        &[
            "wire",
            "net",
            "tls",
            "sys",
            "handover",
            "prepared",
            "auth",
            "auth::io",
            "pool",
            "pool::io",
            "topology",
            "topology::io",
        ],
    ),
];

/// The parts that may import everything: composition.
const COMPOSITION: [&str; 3] = ["daemon", "main", "lib"];

/// What a pure file may not name, and why. Compared with the start of a full path.
const IMPURE: &[(&str, &str)] = &[
    ("tokio", "a runtime"),
    ("tokio_rustls", "a runtime"),
    ("mio", "sockets"),
    ("socket2", "sockets"),
    ("nix", "system calls"),
    ("libc", "system calls"),
    ("sd_notify", "a socket"),
    ("tracing_journald", "a socket"),
    ("rand", "randomness"),
    ("getrandom", "randomness"),
    ("aws_lc_rs::rand", "randomness"),
    ("std::fs", "files"),
    ("std::env", "the environment"),
    ("std::process", "processes"),
    ("std::thread::spawn", "threads"),
    ("std::thread::scope", "threads"),
    ("std::thread::Builder", "threads"),
    ("std::thread::sleep", "a clock"),
    ("std::os::unix::net", "sockets"),
    ("std::net::TcpStream", "sockets"),
    ("std::net::TcpListener", "sockets"),
    ("std::net::UdpSocket", "sockets"),
    ("std::net::ToSocketAddrs", "name resolution"),
    ("std::io::stdin", "files"),
    ("std::io::stdout", "files"),
    ("std::io::stderr", "files"),
];

/// Where a pure file may touch what it otherwise may not: file, what (as in [`IMPURE`]), and the reason.
const EXCEPTIONS: &[(&str, &str, &str)] =
    &[("src/tls/p521.rs", "randomness", "a key exchange draws its private key where the TLS library draws its own")];

const MAX_FILE_LINES: usize = 800;
const MAX_FN_LINES: usize = 70;

// ---------------------------------------------------------------------------------------------------------------------
// The rules.

type Complaints = BTreeSet<String>;

fn find_row(part: &str) -> Option<&'static Row> {
    TABLE.iter().find(|row| row.part == part)
}

/// The row of the table that a path names: `crate::pool::io::Pool` is `pool::io`.
fn target_of(path: &[String]) -> Option<String> {
    let [krate, part, rest @ ..] = path else { return None };
    let driver = rest.iter().any(|name| name == "io");
    (krate == "crate").then(|| if driver { format!("{part}::io") } else { part.clone() })
}

fn imports(tree: &Tree) -> Complaints {
    let mut bad = Complaints::new();
    for (path, source) in &tree.sources {
        let part = part_of(path);
        if COMPOSITION.contains(&part) {
            continue;
        }
        let own = if is_driver(path) { format!("{part}::io") } else { part.to_owned() };
        let Some(row) = find_row(&own) else {
            bad.insert(format!(
                "{path}:1: `{own}` is not in the import table: \
                 give it a row in tests/tidy.rs and in docs/ARCHITECTURE.md"
            ));
            continue;
        };
        for (line, used) in &source.paths {
            let Some(target) = target_of(used) else { continue };
            let common = row.rank > 0 && EVERYWHERE.contains(&target.as_str());
            let own_core = target == part || target == own;
            if !own_core && !common && !row.may.contains(&target.as_str()) {
                let used = used.join("::");
                let used = used.trim_end_matches("::self");
                bad.insert(format!(
                    "{path}:{line}: `{own}` may not import `{target}` (here `{used}`): \
                     see \"Who may import whom\" in docs/ARCHITECTURE.md"
                ));
            }
        }
    }
    bad
}

fn purity(tree: &Tree) -> Complaints {
    let mut bad = Complaints::new();
    for (path, source) in tree.sources.iter().filter(|(path, _)| is_pure(path)) {
        let mut complain = |line: &usize, what: &str, why: &str| {
            bad.insert(format!(
                "{path}:{line}: a pure file may not touch {why} (`{what}`): \
                 let it come in as an argument, or move this to io.rs"
            ));
        };
        for (line, used) in &source.paths {
            let full = used.join("::");
            let word = IMPURE.iter().find(|(word, _)| {
                let below = full.strip_prefix(word).is_some_and(|rest| rest.starts_with("::"));
                let complete = full == *word && used.len() > 1;
                let glob = full.strip_suffix("::*::self").is_some_and(|start| word.starts_with(&format!("{start}::")));
                below || complete || glob
            });
            let excepted = |why: &str| EXCEPTIONS.iter().any(|(file, what, _)| file == path && *what == why);
            if let Some((_, why)) = word.filter(|(_, why)| !excepted(why)) {
                complain(line, full.trim_end_matches("::self"), why);
            }
            if full.ends_with("::now") || full.ends_with("::now::self") {
                complain(line, &full, "a clock");
            }
        }
        for (line, _) in source.methods.iter().filter(|(_, name)| name == "elapsed") {
            complain(line, ".elapsed()", "a clock");
        }
    }
    bad
}

fn unsafe_code(tree: &Tree) -> Complaints {
    fn search(tokens: TokenStream, path: &str, bad: &mut Complaints) {
        for tree in tokens {
            match tree {
                TokenTree::Group(group) => search(group.stream(), path, bad),
                TokenTree::Ident(ident) if ident == "unsafe" => {
                    let line = line(ident.span());
                    bad.insert(format!(
                        "{path}:{line}: `unsafe` outside src/sys: wrap the call in a safe function there"
                    ));
                }
                _ => {}
            }
        }
    }
    let mut bad = Complaints::new();
    for (path, text) in &tree.texts {
        if path.ends_with(".rs") && !path.starts_with("src/sys/") {
            search(text.parse().unwrap(), path, &mut bad);
        }
    }
    bad
}

fn lengths(tree: &Tree) -> Complaints {
    let mut bad = Complaints::new();
    for (path, source) in &tree.sources {
        let count = tree.texts.get(path).map_or(0, |text| text.lines().count()) - source.test_lines;
        if count > MAX_FILE_LINES {
            bad.insert(format!("{path}:1: {count} lines outside tests, at most {MAX_FILE_LINES}: split the file"));
        }
        for (name, line, count) in source.functions.iter().filter(|(_, _, count)| *count > MAX_FN_LINES) {
            bad.insert(format!("{path}:{line}: function `{name}` has {count} lines, at most {MAX_FN_LINES}: split it"));
        }
    }
    bad
}

fn openings(tree: &Tree) -> Complaints {
    let mut bad = Complaints::new();
    for path in tree.sources.keys().filter(|path| path.ends_with("mod.rs")) {
        let text = tree.texts.get(path).map_or("", String::as_str);
        let opening: Vec<&str> = text.lines().map_while(|line| line.strip_prefix("//!")).map(str::trim).collect();
        // A title may stand above the paragraph.
        let paragraphs = opening.split(|line| line.is_empty()).take(2).map(|lines| lines.join(" ") + " ");
        if paragraphs.map(|text| text.matches(". ").count()).max().unwrap_or_default() < 2 {
            bad.insert(format!(
                "{path}:1: must open with a `//!` paragraph of two sentences or more: \
                 what the module decides, and what it must never know"
            ));
        }
    }
    bad
}

fn order(tree: &Tree) -> Complaints {
    let mut bad = Complaints::new();
    let Some(lib) = tree.sources.get("src/lib.rs") else { return bad };
    let rank = |name: &str| find_row(name).map_or(8, |row| row.rank);
    for (index, (line, name)) in lib.modules.iter().enumerate() {
        let above = lib.modules.get(..index).unwrap_or_default();
        if let Some((_, higher)) = above.iter().find(|(_, other)| rank(other) > rank(name)) {
            bad.insert(format!(
                "src/lib.rs:{line}: `{name}` (rank {}) must stand above `{higher}` (rank {})",
                rank(name),
                rank(higher)
            ));
        }
        let own = tree.sources.iter().filter(|(path, _)| part_of(path) == name && !is_driver(path));
        for (path, source) in own.filter(|_| !COMPOSITION.contains(&name.as_str())) {
            for (line, target) in source.paths.iter().filter_map(|(line, path)| Some((line, target_of(path)?))) {
                let below = lib.modules.iter().skip(index + 1).any(|(_, other)| *other == target);
                if below {
                    bad.insert(format!(
                        "{path}:{line}: uses `{target}`, which stands below `{name}` in src/lib.rs: \
                         modules stand in dependency order"
                    ));
                }
            }
        }
    }
    bad
}

/// Byte offsets at which `word` stands in `text` as a whole word.
fn words<'a>(text: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    let part = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'));
    text.match_indices(word).map(|(at, _)| at).filter(move |at| {
        let before = at.checked_sub(1).and_then(|at| text.as_bytes().get(at)).copied();
        let after = text.as_bytes().get(at + word.len()).copied();
        // A path must start where it stands: `${x}/word` and `a/word` are parts of other paths.
        let inside = word.starts_with('/') && matches!(before, Some(b'}' | b')' | b'.' | b'/' | b'*' | b'>'));
        !part(before) && !part(after) && !inside
    })
}

fn leftovers(tree: &Tree) -> Complaints {
    let later = [concat!("TO", "DO"), concat!("FIX", "ME")];
    let machine = [concat!("/", "home"), concat!("/", "root"), concat!("/", "work")];
    let mut bad = Complaints::new();
    for (path, text) in &tree.texts {
        let line_of = |at: usize| text.get(..at).unwrap_or_default().matches('\n').count() + 1;
        for at in later.iter().flat_map(|word| words(text, word)) {
            bad.insert(format!("{path}:{}: do it now, or open an issue and say nothing here", line_of(at)));
        }
        for (word, at) in machine.iter().flat_map(|word| words(text, word).map(move |at| (word, at))) {
            bad.insert(format!(
                "{path}:{}: `{word}` is a path of one machine: take it from the environment or a flag",
                line_of(at)
            ));
        }
    }
    bad
}

fn reasons(tree: &Tree) -> Complaints {
    let is_comment = |text: &str| text.split('#').nth(1).is_some_and(|reason| reason.split_whitespace().count() >= 2);
    let mut bad = Complaints::new();
    for (path, text) in tree.texts.iter().filter(|(path, _)| *path == "Cargo.toml" || path.ends_with("/Cargo.toml")) {
        let (mut dependencies, mut open, mut above) = (false, false, "");
        for (index, line) in text.lines().enumerate() {
            let code = line.split('#').next().unwrap_or_default();
            let mut needs = false;
            if let Some(header) = code.trim().strip_prefix('[').filter(|_| !open) {
                let name = header.trim_end_matches(']');
                dependencies = name.ends_with("dependencies");
                needs = name.contains("dependencies.");
            } else if dependencies && !open {
                needs = code.contains('=');
            }
            if dependencies && code.contains('=') {
                open = code.matches(['{', '[']).count() > code.matches(['}', ']']).count();
            } else if code.trim().starts_with(['}', ']']) {
                open = false;
            }
            if needs && !is_comment(line) && !(above.trim_start().starts_with('#') && is_comment(above)) {
                let what = code.trim().split(['=', ' ']).next().unwrap_or_default();
                bad.insert(format!("{path}:{}: say in a comment why `{what}` is needed", index + 1));
            }
            above = line;
        }
    }
    bad
}

// ---------------------------------------------------------------------------------------------------------------------
// Each rule on this repository, and on bad examples.

static HERE: LazyLock<Tree> = LazyLock::new(Tree::here);

fn silent(rule: fn(&Tree) -> Complaints) {
    let bad = rule(&HERE);
    assert!(bad.is_empty(), "\n{}\n", bad.into_iter().collect::<Vec<_>>().join("\n"));
}

/// The rule must complain of exactly these places: the start of each complaint, in order.
#[track_caller]
fn complains(rule: fn(&Tree) -> Complaints, files: &[(&str, &str)], expected: &[&str]) {
    let bad = rule(&Tree::of(files));
    let expected: BTreeSet<&str> = expected.iter().copied().collect();
    let fits = bad.len() == expected.len() && bad.iter().zip(&expected).all(|(bad, start)| bad.starts_with(start));
    assert!(fits, "expected {expected:#?}\ngot {bad:#?}");
}

#[test]
fn the_repository_is_read() {
    assert!(HERE.sources.contains_key("src/lib.rs") && HERE.texts.contains_key("Cargo.toml"));
    assert!(HERE.texts.keys().all(|path| !path.starts_with("target/")));
    let mut paths = HERE.sources.values().flat_map(|source| &source.paths);
    assert!(paths.any(|(_, path)| target_of(path).as_deref() == Some("wire")), "no import was seen");
}

#[test]
fn the_table_names_only_parts_below() {
    for row in TABLE {
        for other in row.may.iter().filter_map(|name| find_row(name)) {
            assert!(other.rank <= row.rank, "`{}` may import `{}`, which is not below it", row.part, other.part);
        }
        assert!(row.may.iter().all(|name| find_row(name).is_some()), "`{}` may import a part without a row", row.part);
    }
}

#[test]
fn imports_follow_the_table() {
    silent(imports);
}

#[test]
fn imports_upwards_are_found() {
    let core = "use crate::ids::PoolId;\nuse crate::config::{self, Config};\nfn f() -> crate::auth::Hba { x }\n";
    let driver = "use super::limits::L;\nuse crate::auth::io::login;\nfn f() { println!(\"{}\", crate::session::N) }\n";
    complains(
        imports,
        &[("src/pool/mod.rs", core)],
        &[
            "src/pool/mod.rs:2: `pool` may not import `config` (here `crate::config`)",
            "src/pool/mod.rs:2: `pool` may not import `config` (here `crate::config::Config`)",
            "src/pool/mod.rs:3: ",
        ],
    );
    complains(imports, &[("src/pool/io.rs", driver)], &["src/pool/io.rs:3: `pool::io` may not import `session`"]);
    complains(imports, &[("src/ids.rs", "use crate::clock::Time;")], &["src/ids.rs:1: `ids` may not import `clock`"]);
    complains(imports, &[("src/vrrp/fsm.rs", "use super::super::wire::Frame;")], &["src/vrrp/fsm.rs:1: `vrrp`"]);
    complains(imports, &[("src/pool/mod.rs", "mod io;\npub use io::Pool;")], &["src/pool/mod.rs:2: `pool` may not"]);
    complains(imports, &[("src/helpers.rs", "")], &["src/helpers.rs:1: `helpers` is not in the import table"]);
    complains(
        imports,
        &[("src/daemon/mod.rs", "use crate::session::io::Relay;"), ("src/main.rs", "use pgtandem::x;")],
        &[],
    );
}

#[test]
fn tests_may_import_anything() {
    let inline = "#[cfg(test)]\nmod tests {\n    use crate::config::Config;\n    use std::fs;\n}\n";
    let beside = "#[cfg(test)]\nmod trials;\n";
    let files =
        [("src/pool/mod.rs", inline), ("src/auth/mod.rs", beside), ("src/auth/trials.rs", "use crate::pool::X;")];
    complains(imports, &files, &[]);
    complains(purity, &files, &[]);
}

#[test]
fn pure_files_are_pure() {
    silent(purity);
}

#[test]
fn impurity_is_found() {
    let lines = [
        "use tokio::net;",
        "use std::{fs, time::Instant as Clock};",
        "use std::net::{IpAddr, SocketAddr, TcpStream};",
        "use std::thread;",
        "use crate::clock::Time;",
        "fn a() { thread::spawn(f); }",
        "fn b() { let now = Clock::now(); }",
        "fn c() { tracing::info!(at = ?Time::now(), \"x\"); }",
        "fn d() { std::env::var(name); }",
        "fn e() { start.elapsed(); let rand = 1; rand }",
        "use std::net::*;",
        "fn f() { let path: &std::path::Path = std::process::id(); }",
        "fn g() -> u8 { rand::random() }",
    ];
    let text = lines.join("\n");
    let expected = [1, 10, 11, 12, 13, 2, 3, 6, 7, 8, 9].map(|line| format!("src/pool/core.rs:{line}: "));
    complains(purity, &[("src/pool/core.rs", &text)], &expected.each_ref().map(String::as_str));
    let impure =
        ["src/pool/io.rs", "src/net/mod.rs", "src/sys/fds.rs", "src/daemon/mod.rs", "src/clock.rs", "src/main.rs"];
    complains(purity, &impure.map(|path| (path, text.as_str())), &[]);
}

#[test]
fn unsafe_stands_only_in_sys() {
    silent(unsafe_code);
}

#[test]
fn unsafe_elsewhere_is_found() {
    let text = "// unsafe\nfn f() { let s = \"unsafe\"; }\nfn g() { m!(unsafe { h() }) }\n";
    let files = [("src/sys/fds.rs", text), ("src/net/mod.rs", text), ("benches/b.rs", text)];
    complains(unsafe_code, &files, &["benches/b.rs:3: ", "src/net/mod.rs:3: "]);
}

#[test]
fn files_and_functions_are_short() {
    silent(lengths);
}

#[test]
fn long_files_and_functions_are_found() {
    let body = "    work();\n".repeat(69);
    let function = format!("fn long() {{\n{body}}}\n");
    let short = format!("fn short() {{\n{}}}\n", "    work();\n".repeat(68));
    let in_impl = format!("struct S;\nimpl S {{\n{function}}}\n");
    let in_tests = format!("#[cfg(test)]\nmod tests {{\n{function}}}\n");
    let file = "const A: u8 = 1;\n".repeat(801);
    let files = [
        ("src/a.rs", function.as_str()),
        ("src/b.rs", &short),
        ("src/c.rs", &in_impl),
        ("src/d.rs", &in_tests),
        ("src/e.rs", &file),
        ("src/f/tests.rs", &file),
        ("src/g.rs", &format!("#[cfg(test)]\nmod tests {{\n{file}}}\n")),
    ];
    complains(lengths, &files, &["src/a.rs:1: function `long` has 71 lines", "src/c.rs:3: ", "src/e.rs:1: 801 lines"]);
}

#[test]
fn modules_open_with_a_paragraph() {
    silent(openings);
}

#[test]
fn modules_that_say_nothing_are_found() {
    let good = "//! Decides a. Must never know\n//! b.\n\nuse x::y;\n";
    let files =
        [("src/a/mod.rs", good), ("src/b/mod.rs", "//! One.\n//!\n//! Two.\n"), ("src/c/mod.rs", "use x::y;\n")];
    complains(openings, &files, &["src/b/mod.rs:1", "src/c/mod.rs:1"]);
}

#[test]
fn modules_stand_in_dependency_order() {
    silent(order);
}

#[test]
fn disorder_is_found() {
    complains(order, &[("src/lib.rs", "mod pool;\nmod wire;\n")], &["src/lib.rs:2: `wire` (rank 1) must stand above"]);
    let lib = "mod session;\nmod prepared;\n";
    let files = [("src/lib.rs", lib), ("src/session/mod.rs", "fn f(x: &crate::prepared::Name) {}\n")];
    complains(order, &files, &["src/session/mod.rs:1: uses `prepared`, which stands below"]);
}

#[test]
fn nothing_is_left_over() {
    silent(leftovers);
}

#[test]
fn leftovers_are_found() {
    let text =
        format!("fine\n// {}: later\n{}/me/x, {}er\n", concat!("TO", "DO"), concat!("/", "home"), concat!("/", "work"));
    let good = format!("x/root, ${{x}}{0}, {0}s and MASTO{1}N\n", concat!("/", "work"), concat!("TO", "DO"));
    complains(leftovers, &[("docs/a.md", &text), ("b.sh", &good)], &["docs/a.md:2: do it now", "docs/a.md:3: `/"]);
}

#[test]
fn dependencies_say_why() {
    silent(reasons);
}

#[test]
fn dependencies_without_a_reason_are_found() {
    let lines = [
        "[package]",
        "name = \"x\"",
        "[dependencies]",
        "bytes = \"1\"",
        "# Passwords must not stay in memory.",
        "zeroize = \"1\"",
        "nix = { features = [ # the system calls",
        "  \"user\"",
        "] }",
        "serde = { version = \"1\", features = [\"derive\"] } # TOML files",
        "[target.'cfg(unix)'.dev-dependencies]",
        "syn = \"3\"",
        "[dependencies.tokio]",
        "version = \"1\"",
        "[lints.rust]",
        "unsafe_code = \"deny\"",
    ];
    let expected = ["Cargo.toml:12: say in a comment why `syn`", "Cargo.toml:13: ", "Cargo.toml:4: "];
    complains(reasons, &[("Cargo.toml", &lines.join("\n"))], &expected);
}

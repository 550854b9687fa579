//! A configuration as TOML, with only what differs from the defaults (`pgtandem convert`). Read again it is equal.

use std::fmt::Write as _;
use std::time::Duration;

use super::ha::{Ha, HaSettings};
use super::model::Config;
use super::params::{self, Param, PeerDraft};
use super::settings::Settings;
use super::value::Scalar;

/// The TOML text of a configuration. It holds the passwords of `[databases]` entries: write it where the ini file was as
/// safe.
#[must_use]
pub fn to_toml(config: &Config) -> String {
    let mut text = String::from("[pgtandem]\n");
    for spec in Settings::specs() {
        if config.settings.is_changed(spec)
            && let Some(value) = (spec.get)(&config.settings)
        {
            assignment(&mut text, spec.name, &value);
        }
    }
    let named = config.databases.iter().map(|(name, database)| (name.as_str(), database));
    for (name, database) in named.chain(config.autodb.as_ref().map(|database| ("*", database))) {
        entry(&mut text, "databases", name, params::DATABASE, database);
    }
    for (name, user) in &config.users {
        entry(&mut text, "users", name, params::USER, user);
    }
    for (id, peer) in &config.peers {
        entry(&mut text, "peers", &id.to_string(), params::PEER, &PeerDraft::from(peer));
    }
    if let Some(ha) = &config.ha {
        pair(&mut text, ha);
    }
    for (name, table) in &config.reserved.0 {
        let mut outer = toml::Table::new();
        outer.insert(name.clone(), toml::Value::Table(table.clone()));
        let _ = write!(text, "\n{outer}");
    }
    text
}

/// `[ha]` is printed even if all its settings have their defaults: that it is there means something.
fn pair(text: &mut String, ha: &Ha) {
    text.push_str("\n[ha]\n");
    for spec in HaSettings::specs() {
        if ha.settings.is_changed(spec)
            && let Some(value) = (spec.get)(&ha.settings)
        {
            assignment(text, spec.name, &value);
        }
    }
    for (name, router) in &ha.entries {
        entry(text, "virtual_routers", name, params::ROUTER, router);
    }
}

fn entry<T>(text: &mut String, section: &str, name: &str, params: &[Param<T>], value: &T) {
    let _ = writeln!(text, "\n[{section}.{}]", key(name));
    for param in params {
        if let Some(value) = (param.get)(value) {
            assignment(text, param.name, &value);
        }
    }
}

fn assignment(text: &mut String, name: &str, value: &Scalar) {
    let value = match value {
        Scalar::Int(number) => number.to_string(),
        Scalar::Mode(mode) => format!("0o{mode:03o}"),
        Scalar::Bool(on) => on.to_string(),
        Scalar::Time(time) => seconds(*time),
        Scalar::Text(value) => quoted(value),
        Scalar::List(items, _) => {
            let items: Vec<_> = items.iter().map(|item| quoted(item)).collect();
            format!("[{}]", items.join(", "))
        }
    };
    let _ = writeln!(text, "{name} = {value}");
}

/// Seconds without loss, with a fraction only if there is one.
fn seconds(time: Duration) -> String {
    match time.subsec_micros() {
        0 => time.as_secs().to_string(),
        micros => format!("{}.{micros:06}", time.as_secs()).trim_end_matches('0').to_owned(),
    }
}

/// A key, bare if TOML allows.
fn key(name: &str) -> String {
    let bare = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte));
    if bare { name.to_owned() } else { quoted(name) }
}

/// A basic string of TOML 1.0.
fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => {
                quoted.push('\\');
                quoted.push(c);
            }
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            c if u32::from(c) < 0x20 || c == '\x7f' => {
                let _ = write!(quoted, "\\u{:04X}", u32::from(c));
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

//! What a reload changes: which settings take effect and which wait for a restart, which databases must reconnect.
//!
//! PgBouncer's rules: boot-only settings keep their value; a setting whose default is NULL and that the new file does not name
//! keeps its value, too (so what the console's SET gave it survives); everything else is as the new file says.

use std::collections::BTreeMap;

use super::ha::{self, HaPlan};
use super::model::{Config, Database};
use super::params::{self, Param};
use super::settings::{Apply, Settings};

/// A setting that differs between the running and the new configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettingChange {
    /// Its name.
    pub name: &'static str,
    /// The running value as `SHOW CONFIG` prints it; `None` is NULL.
    pub old: Option<String>,
    /// The value in the new file.
    pub new: Option<String>,
    /// What comes of it.
    pub effect: Effect,
}

/// What comes of a changed setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The new value holds from now on.
    Applied,
    /// The old value stays until a restart.
    NeedsRestart,
    /// The new file no longer names it, and it has no default: the old value stays (write `name =` to clear it).
    KeptUnnamed,
}

/// A database entry that is in both configurations and differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatabaseChange {
    /// Its name; `*` for the pattern.
    pub name: String,
    /// The parameters that differ.
    pub params: Vec<&'static str>,
    /// Must its servers be connected anew? (PgBouncer: `database configuration changed`.)
    pub reconnect: bool,
}

/// Everything that a reload changes. Equal configurations give the default, empty plan.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Settings that differ.
    pub settings: Vec<SettingChange>,
    /// Databases that are new (`*` included).
    pub databases_added: Vec<String>,
    /// Databases that are gone, whose clients are dropped (`*` included).
    pub databases_removed: Vec<String>,
    /// Databases that differ (`*` included).
    pub databases_changed: Vec<DatabaseChange>,
    /// Users whose entry was added, removed or changed.
    pub users_changed: Vec<String>,
    /// Peers whose entry was added, removed or changed.
    pub peers_changed: Vec<u16>,
    /// What changes about the pair.
    pub ha: HaPlan,
    /// Kept tables (`metrics`, …) that differ.
    pub reserved_changed: Vec<String>,
    /// A `client_tls_…` setting changed. (That a file's content changed only its reader can see.)
    pub client_tls: bool,
    /// A `server_tls_…` setting changed.
    pub server_tls: bool,
    /// `auth_file` names another file.
    pub auth_file: bool,
    /// `auth_hba_file`, `auth_ident_file` or whether they are used (`auth_type`) changed.
    pub hba: bool,
    /// `logfile`, or a `syslog…` setting, changed.
    pub logging: bool,
}

impl Plan {
    /// Does the reload change nothing, not even something that waits for a restart?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The settings that take effect.
    pub fn applied(&self) -> impl Iterator<Item = &SettingChange> {
        self.settings.iter().chain(&self.ha.settings).filter(|change| change.effect == Effect::Applied)
    }

    /// The settings that wait for a restart.
    pub fn needing_restart(&self) -> impl Iterator<Item = &SettingChange> {
        self.settings.iter().chain(&self.ha.settings).filter(|change| change.effect == Effect::NeedsRestart)
    }
}

/// The configuration that holds after a reload: the new one, but with what a running process keeps.
#[must_use]
pub fn apply_reload(old: &Config, new: &Config) -> Config {
    let mut merged = new.clone();
    for spec in Settings::specs() {
        let unnamed = spec.default.is_none() && !new.settings.is_changed(spec);
        if spec.apply == Apply::Boot || unnamed {
            (spec.copy)(&mut merged.settings, &old.settings);
        }
    }
    merged.ha = ha::diff::apply_reload(old.ha.as_ref(), new.ha.as_ref());
    merged
}

/// Compare the running configuration with the one of the file.
#[must_use]
pub fn diff(old: &Config, new: &Config) -> Plan {
    let mut plan = Plan::default();
    for spec in Settings::specs() {
        if (spec.same)(&old.settings, &new.settings) {
            continue;
        }
        let unnamed = spec.default.is_none() && !new.settings.is_changed(spec);
        let effect = match spec.apply {
            Apply::Boot => Effect::NeedsRestart,
            Apply::Reload if unnamed => Effect::KeptUnnamed,
            Apply::Reload => Effect::Applied,
        };
        let show = |settings: &Settings| match spec.name {
            "auth_ldap_options" => None,
            _ => (spec.get)(settings).map(|value| value.show()),
        };
        let (old, new) = (show(&old.settings), show(&new.settings));
        plan.settings.push(SettingChange { name: spec.name, old, new, effect });
        if effect == Effect::Applied {
            plan.mark(spec.name);
        }
    }
    let databases = entries(&with_autodb(old), &with_autodb(new));
    plan.databases_added = databases.added;
    plan.databases_removed = databases.removed;
    plan.databases_changed = databases
        .changed
        .into_iter()
        .map(|(name, old, new)| {
            let changed: Vec<_> = params::DATABASE.iter().filter(|param| differs(param, old, new)).collect();
            let reconnect = changed.iter().any(|param| param.reconnects);
            DatabaseChange { name, params: changed.iter().map(|param| param.name).collect(), reconnect }
        })
        .collect();
    plan.users_changed = entries(&by_ref(&old.users), &by_ref(&new.users)).all_names();
    plan.peers_changed = entries(&by_ref(&old.peers), &by_ref(&new.peers)).all_names();
    plan.ha = ha::diff::diff(old.ha.as_ref(), new.ha.as_ref());
    plan.reserved_changed = entries(&by_ref(&old.reserved.0), &by_ref(&new.reserved.0)).all_names();
    plan
}

impl Plan {
    fn mark(&mut self, setting: &str) {
        self.client_tls |= setting.starts_with("client_tls");
        self.server_tls |= setting.starts_with("server_tls");
        match setting {
            "auth_file" => self.auth_file = true,
            "auth_hba_file" | "auth_ident_file" | "auth_type" => self.hba = true,
            "logfile" | "syslog" | "syslog_facility" | "syslog_ident" => self.logging = true,
            _ => {}
        }
    }
}

fn differs(param: &Param<Database>, old: &Database, new: &Database) -> bool {
    (param.get)(old) != (param.get)(new)
}

fn by_ref<K: Ord + Clone, V>(map: &BTreeMap<K, V>) -> BTreeMap<K, &V> {
    map.iter().map(|(name, value)| (name.clone(), value)).collect()
}

fn with_autodb(config: &Config) -> BTreeMap<String, &Database> {
    let mut databases = by_ref(&config.databases);
    databases.extend(config.autodb.iter().map(|database| ("*".to_owned(), database)));
    databases
}

/// How the entries of a section differ.
struct Entries<'a, K, V> {
    added: Vec<K>,
    removed: Vec<K>,
    changed: Vec<(K, &'a V, &'a V)>,
}

impl<K: Ord, V> Entries<'_, K, V> {
    fn all_names(self) -> Vec<K> {
        let changed = self.changed.into_iter().map(|(name, _, _)| name);
        let mut names: Vec<K> = self.added.into_iter().chain(self.removed).chain(changed).collect();
        names.sort();
        names
    }
}

fn entries<'a, K: Ord + Clone, V: PartialEq>(old: &BTreeMap<K, &'a V>, new: &BTreeMap<K, &'a V>) -> Entries<'a, K, V> {
    let only = |one: &BTreeMap<K, &V>, other: &BTreeMap<K, &V>| -> Vec<K> {
        one.keys().filter(|name| !other.contains_key(*name)).cloned().collect()
    };
    let both = old.iter().filter_map(|(name, was)| new.get(name).map(|is| (name, *was, *is)));
    let changed = both.filter(|(_, was, is)| was != is).map(|(name, was, is)| (name.clone(), was, is)).collect();
    Entries { added: only(new, old), removed: only(old, new), changed }
}

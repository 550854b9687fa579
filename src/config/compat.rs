//! How each setting of PgBouncer's does here: `pgtandem check --pgbouncer FILE` and docs/compatibility.md say the same.

use super::settings::{Origin, Settings, Spec, Status};
use super::{Config, params};

/// Settings that do more than PgBouncer's, and what.
const BETTER: &[(&str, &str)] = &[
    ("auth_hba_file", "a line that cannot be read is an error, instead of being left out; `scram-sha-256-plus`"),
    ("auth_ident_file", "regular expressions, as in PostgreSQL"),
    ("auth_query", "asked on server connections of its own, 4 at most; every name in the default is qualified"),
    ("auth_type", "SCRAM with channel binding; `scram-sha-256-plus` demands it"),
    (
        "client_tls_sslmode",
        "several certificates, keys and CAs are checked at start, and a reload that cannot use them changes nothing",
    ),
    ("default_pool_size", "holds for all threads of the process, and with [ha] for both nodes by max_db_connections"),
    ("listen_backlog", "at least 4096 on a node of a pair"),
    ("logfile", "a missing directory is made where that is safe"),
    ("max_db_connections", "with [ha] it holds for both nodes together"),
    ("max_user_connections", "with [ha] it holds for both nodes together"),
    ("pidfile", "a missing directory is made where that is safe; kept over restarts"),
    ("so_reuseport", "not needed to use all cores: one process does"),
    ("unix_socket_dir", "a missing directory is made where that is safe"),
];

/// One setting, judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Its name.
    pub name: &'static str,
    /// `same`, `better: how`, `not needed: why` or `not yet: why`.
    pub text: String,
}

fn verdict(spec: &Spec) -> Verdict {
    let text = match spec.status {
        Status::Later(missing) => format!("not yet: {missing}"),
        Status::Idle(why) => format!("not needed: {why}"),
        Status::Works => match BETTER.iter().find(|(name, _)| *name == spec.name) {
            Some((_, how)) => format!("better: {how}"),
            None => "same".to_owned(),
        },
    };
    Verdict { name: spec.name, text }
}

/// All settings of PgBouncer's, in the order of SHOW CONFIG.
#[must_use]
pub fn verdicts() -> Vec<Verdict> {
    Settings::specs().iter().filter(|spec| spec.origin == Origin::Pgbouncer).map(verdict).collect()
}

/// Those of the settings that a configuration gives another value than the default.
#[must_use]
pub fn verdicts_of(config: &Config) -> Vec<Verdict> {
    let used = |spec: &&Spec| spec.origin == Origin::Pgbouncer && config.settings.is_changed(spec);
    Settings::specs().iter().filter(used).map(verdict).collect()
}

/// docs/compatibility.md.
#[must_use]
pub fn page() -> String {
    let mut page = String::from(
        "# What PgBouncer's settings do here\n\n\
         Every setting of PgBouncer 1.25, as the program itself judges it: `pgtandem check --pgbouncer FILE` prints this for the\n\
         settings of one file. A test compares this page with the program. What each setting means, its default and when a change\n\
         takes effect: [settings.md](settings.md). Commands of the admin console: [console.md](console.md). What behaves otherwise,\n\
         whatever the settings: [README](../README.md#what-differs-on-purpose).\n\n\
         ## `[pgbouncer]`\n\n| setting | beside PgBouncer |\n|---|---|\n",
    );
    for Verdict { name, text } in verdicts() {
        page.push_str(&format!("| `{name}` | {} |\n", text.replace('|', "\\|")));
    }
    for (section, names) in params::names() {
        page.push_str(&format!("\n## `[{section}]`\n\n| parameter | beside PgBouncer |\n|---|---|\n"));
        for name in names {
            page.push_str(&format!("| `{name}` | same |\n"));
        }
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn better_settings_are_settings_that_work() {
        for (name, how) in BETTER {
            let spec = Settings::spec(name).unwrap();
            assert!(spec.status == Status::Works && !how.is_empty(), "{name}");
        }
        assert!(BETTER.is_sorted_by(|(a, _), (b, _)| a < b));
    }
}

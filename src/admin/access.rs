//! Who may enter the console, and with which rights (PgBouncer's `admin_users` and `stats_users`).

use super::CONSOLE_NAME;
use crate::fault::{Culprit, Fault};

/// What a client may do in the console. Fixed at login: a reload changes it for later logins only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rights {
    /// Everything.
    Admin,
    /// SHOW (all but SHOW FDS) and what changes nothing.
    Stats,
}

impl Rights {
    /// Does a client with these rights count against `max_client_conn`, `max_db_client_connections` and
    /// `max_user_client_connections`? An admin must get in when everything is full.
    #[must_use]
    pub fn counts_towards_limits(self) -> bool {
        self == Self::Stats
    }

    /// The error for what only admins may do.
    pub(super) fn require_admin(self) -> Result<(), Fault> {
        match self {
            Self::Admin => Ok(()),
            Self::Stats => Err(Fault::error(Culprit::Client, "admin access needed")),
        }
    }
}

/// The settings that rule entry.
#[derive(Clone, Copy, Debug)]
pub struct Access<'a> {
    /// `admin_users`.
    pub admin_users: &'a [String],
    /// `stats_users`.
    pub stats_users: &'a [String],
    /// Is `auth_type` `any`?
    pub auth_type_any: bool,
}

/// Who asks to be let in.
#[derive(Clone, Copy, Debug)]
pub struct Knock<'a> {
    /// The user name of the startup message.
    pub user: &'a str,
    /// Came over our Unix socket from a process of our own user id.
    pub same_uid_unix: bool,
}

/// How to go on with a login to the console.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// Let in at once whatever `auth_type` says, without a look at hba; log `pgbouncer access from unix socket`.
    BackDoor,
    /// Let in with these rights once the login proper (which asks for nothing under `auth_type=any`) has succeeded.
    AfterLogin(Rights),
    /// Close with this, before any password is asked for.
    Denied(Fault),
}

impl Entry {
    /// The rights that go with it; `None` if denied.
    #[must_use]
    pub fn rights(&self) -> Option<Rights> {
        match self {
            Self::BackDoor => Some(Rights::Admin),
            Self::AfterLogin(rights) => Some(*rights),
            Self::Denied(_) => None,
        }
    }
}

impl Access<'_> {
    /// Decides on a login to the console. Names are compared exactly.
    #[must_use]
    pub fn entry(&self, knock: Knock<'_>) -> Entry {
        let listed = |names: &[String]| names.iter().any(|name| name == knock.user);
        if knock.same_uid_unix && knock.user == CONSOLE_NAME {
            Entry::BackDoor
        } else if listed(self.admin_users) {
            Entry::AfterLogin(Rights::Admin)
        } else if self.auth_type_any || listed(self.stats_users) {
            Entry::AfterLogin(Rights::Stats)
        } else {
            Entry::Denied(Fault::fatal(Culprit::Client, "not allowed"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entry_follows_the_lists() {
        let admins = ["root".to_owned()];
        let stats = ["grafana".to_owned()];
        let access = Access { admin_users: &admins, stats_users: &stats, auth_type_any: false };
        let any = Access { auth_type_any: true, ..access };
        let tcp = |user| Knock { user, same_uid_unix: false };
        let unix = |user| Knock { user, same_uid_unix: true };
        let denied = Entry::Denied(Fault::fatal(Culprit::Client, "not allowed"));

        assert_eq!(access.entry(unix("pgbouncer")), Entry::BackDoor);
        assert_eq!(access.entry(tcp("pgbouncer")), denied);
        assert_eq!(access.entry(unix("nobody")), denied);
        assert_eq!(access.entry(tcp("root")), Entry::AfterLogin(Rights::Admin));
        assert_eq!(access.entry(tcp("ROOT")), denied);
        assert_eq!(access.entry(tcp("grafana")), Entry::AfterLogin(Rights::Stats));
        assert_eq!(any.entry(tcp("nobody")), Entry::AfterLogin(Rights::Stats));
        assert_eq!(any.entry(tcp("root")), Entry::AfterLogin(Rights::Admin));
        assert_eq!(any.entry(unix("pgbouncer")).rights(), Some(Rights::Admin));
        assert_eq!(denied.rights(), None);
        assert!(Rights::Stats.counts_towards_limits() && !Rights::Admin.counts_towards_limits());
    }
}

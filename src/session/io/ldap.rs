//! Asks an LDAP server whether a password is a user's. Each question is a connection of its own, in a task of its own, and is
//! given up when the client goes or the time is over; other clients never wait for it.

use std::sync::Arc;
use std::time::Duration;

use ldap3::result::LdapResult;
use ldap3::{Ldap, LdapConnAsync, LdapConnSettings, Scope, SearchEntry, SearchOptions};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::route::Params;
use crate::auth::ldap::{LdapOptions, LdapScope, LdapSearch, LdapWay};
use crate::tls::Connector;

/// For connecting to one server of a list, TLS included. Shorter than the three seconds after which many clients give up, so that
/// they and the log hear the reason (PgBouncer has three).
const CONNECT_LIMIT: Duration = Duration::from_secs(2);
/// For the whole question.
const LIMIT: Duration = Duration::from_secs(10);
/// Questions at a time; more would be no help to a server that is slow already.
const QUESTIONS_MAX: usize = 64;

/// What is needed to ask LDAP servers.
pub struct LdapAccess {
    /// Setting `auth_ldap_options`.
    pub options: Option<Arc<LdapOptions>>,
    /// TLS towards the servers, as OpenLDAP's configuration has it, or why there can be none.
    pub tls: Result<Connector, String>,
    gate: Semaphore,
}

impl LdapAccess {
    /// With the settings of all clients, if there are any, and TLS.
    #[must_use]
    pub fn new(options: Option<Arc<LdapOptions>>, tls: Result<Connector, String>) -> Self {
        Self { options, tls, gate: Semaphore::new(QUESTIONS_MAX) }
    }
}

/// Is this the password of the user? An error is the reason for the log: it is not, or nobody could tell.
pub(super) async fn ask(
    params: &Params,
    options: Option<&Arc<LdapOptions>>,
    user: &str,
    password: Zeroizing<Vec<u8>>,
) -> Result<(), String> {
    let (Some(access), Some(options)) = (&params.ldap, options) else {
        return Err("no LDAP server is configured".to_owned());
    };
    let Ok(password) = String::from_utf8(password.to_vec()).map(Zeroizing::new) else {
        return Err("the password is no UTF-8 text".to_owned());
    };
    let question =
        Question { access: Arc::clone(access), options: Arc::clone(options), user: user.to_owned(), password };
    // Ends with the client. A library that stumbles over an answer ends the task and nothing else.
    let mut task = JoinSet::new();
    task.spawn(timeout(LIMIT, question.put()));
    match task.join_next().await {
        Some(Ok(Ok(answer))) => answer,
        Some(Ok(Err(_))) => Err(format!("no answer from the LDAP server within {} s", LIMIT.as_secs())),
        Some(Err(_)) | None => Err("internal error in asking the LDAP server".to_owned()),
    }
}

struct Question {
    access: Arc<LdapAccess>,
    options: Arc<LdapOptions>,
    user: String,
    password: Zeroizing<String>,
}

impl Question {
    async fn put(self) -> Result<(), String> {
        let _turn = self.access.gate.acquire().await.map_err(|error| error.to_string())?;
        let (name, place) = match &self.options.way {
            LdapWay::Bind { prefix, suffix } => (format!("{prefix}{}{suffix}", self.user), None),
            LdapWay::Search(search) => {
                let (name, host) = self.find(search).await?;
                (name, Some(host))
            }
        };
        // An empty name or password would bind as nobody, which succeeds.
        if name.is_empty() || self.password.is_empty() {
            return Err("an empty name or password proves nothing".to_owned());
        }
        let (mut ldap, host) = self.connect(place.as_deref()).await?;
        let bound = bind(&mut ldap, &name, &self.password).await;
        let _ = ldap.unbind().await;
        bound.map_err(|error| format!("LDAP login failed for user {name} on server {host}: {error}"))
    }

    /// The one entry of the user, and the server that has it.
    async fn find(&self, search: &LdapSearch) -> Result<(String, String), String> {
        let invalid = "invalid character in user name for LDAP authentication";
        let filter = search.filter(&self.user).ok_or_else(|| invalid.to_owned())?;
        let (mut ldap, host) = self.connect(None).await?;
        bind(&mut ldap, &search.bind_dn, &search.bind_password).await.map_err(|error| {
            let dn = &search.bind_dn;
            format!("could not perform initial LDAP bind for ldapbinddn \"{dn}\" on server \"{host}\": {error}")
        })?;
        let scope = match search.scope {
            LdapScope::Base => Scope::Base,
            LdapScope::One => Scope::OneLevel,
            LdapScope::Subtree => Scope::Subtree,
        };
        // Two are too many already, and none of their attributes is wanted.
        ldap.with_search_options(SearchOptions::new().sizelimit(2));
        let found = ldap.search(&search.base, scope, &filter, ["1.1"]).await;
        let _ = ldap.unbind().await;
        let failed =
            |error: String| format!("could not search LDAP for filter \"{filter}\" on server \"{host}\": {error}");
        let found = found.map_err(|error| failed(error.to_string()))?;
        let entries = found.0.into_iter().filter(|entry| !entry.is_ref() && !entry.is_intermediate());
        let mut names = entries.map(|entry| SearchEntry::construct(entry).dn);
        match (names.next(), names.next()) {
            (Some(_), Some(_)) => Err(format!("LDAP user \"{}\" is not unique", self.user)),
            _ if found.1.rc != 0 => Err(failed(told(&found.1))),
            (None, _) => Err(format!("LDAP user \"{}\" does not exist", self.user)),
            (Some(name), None) => Ok((name, host)),
        }
    }

    /// A connection to this server, or to the first that can be reached.
    async fn connect(&self, only: Option<&str>) -> Result<(Ldap, String), String> {
        let options = &self.options;
        if options.ldaps && options.start_tls {
            return Err("could not start LDAP TLS session: ldaps has TLS already".to_owned());
        }
        let mut last = "no LDAP server".to_owned();
        for host in options.hosts.iter().filter(|host| only.is_none_or(|only| only == *host)) {
            let mut settings = LdapConnSettings::new().set_conn_timeout(CONNECT_LIMIT).set_starttls(options.start_tls);
            if options.wants_tls() {
                let tls = self.access.tls.as_ref().map_err(|error| format!("LDAP without TLS: {error}"))?;
                settings = settings.set_config(tls.dial(host).map_err(|error| error.to_string())?.0);
            }
            let scheme = if options.ldaps { "ldaps" } else { "ldap" };
            match LdapConnAsync::with_settings(settings, &format!("{scheme}://{host}:{}", options.port)).await {
                Ok((connection, ldap)) => {
                    ldap3::drive!(connection);
                    return Ok((ldap, host.clone()));
                }
                Err(error) => {
                    let what =
                        if options.start_tls { "could not start LDAP TLS session" } else { "could not reach LDAP" };
                    last = format!("{what}: {error}, server: {host}, port: {}", options.port);
                }
            }
        }
        Err(last)
    }
}

async fn bind(ldap: &mut Ldap, name: &str, password: &str) -> Result<(), String> {
    let result = ldap.simple_bind(name, password).await.map_err(|error| error.to_string())?;
    if result.rc == 0 { Ok(()) } else { Err(told(&result)) }
}

/// What the server said, without what it may have added for the user's eyes.
fn told(result: &LdapResult) -> String {
    match result.rc {
        4 => "Size limit exceeded".to_owned(),
        32 => "No such object".to_owned(),
        34 => "Invalid DN syntax".to_owned(),
        49 => "Invalid credentials".to_owned(),
        50 => "Insufficient access".to_owned(),
        code => format!("result code {code}"),
    }
}

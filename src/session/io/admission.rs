//! How a client has to prove who it is: the method of all clients or of the line of the access rules that holds for it, and what
//! its certificate or the operating system tells of it.

use std::sync::Arc;

use super::login::{Arrival, Failed};
use crate::auth::hba::{IdentMap, Knock};
use crate::auth::ldap::LdapOptions;
use crate::auth::{Evidence, Method};
use crate::fault::{Culprit, Fault};
use crate::net::stream::{Peer, Stream};
use crate::session::replication::Kind;
use crate::tls::{certificate_names_user, peer_common_name};

/// What is asked of a client.
pub(super) struct Demand {
    /// How it must prove who it is.
    pub(super) method: Method,
    /// What is known without asking it.
    pub(super) evidence: Evidence,
    /// Which LDAP server to ask, with [`Method::Ldap`].
    pub(super) ldap: Option<Arc<LdapOptions>>,
}

impl Arrival {
    /// What is asked of this client, which has named its database and user.
    pub(super) async fn demand(&self) -> Result<Demand, Failed> {
        let Some(rules) = &self.params.rules else {
            let method = self.params.method;
            let ldap = self.params.ldap.as_ref().and_then(|ldap| ldap.options.clone());
            return Ok(Demand { method, evidence: self.evidence(method, None).await, ldap });
        };
        let from = match self.peer {
            Peer::Inet(address) => Some(address.ip()),
            Peer::Unix { .. } => None,
        };
        let tls = self.stream.as_ref().is_some_and(|stream| stream.tls().is_some());
        let knock = Knock {
            from,
            tls,
            replication: self.replication == Some(Kind::Physical),
            database: &self.database,
            user: &self.user,
        };
        let Some(rule) = rules.find(&knock) else {
            let fault = Fault::fatal(Culprit::Client, "no authentication method is found");
            let way = if tls { "with TLS" } else { "without TLS" };
            let (user, database) = (&self.user, &self.database);
            let reason = match from {
                Some(ip) => {
                    format!("no line of auth_hba_file for host {ip}, user \"{user}\", database \"{database}\", {way}")
                }
                None => {
                    format!("no line of auth_hba_file for a Unix socket, user \"{user}\", database \"{database}\"")
                }
            };
            return Err(Failed::Refused(fault, reason));
        };
        tracing::debug!(subject = %self.subject(), "{} HBA Line {} is matched", self.name(), rule.line);
        let evidence = self.evidence(rule.method, rule.map.as_deref()).await;
        Ok(Demand { method: rule.method, evidence, ldap: rule.ldap.clone() })
    }

    async fn evidence(&self, method: Method, map: Option<&IdentMap>) -> Evidence {
        match method {
            Method::Cert => self.by_certificate(map),
            Method::Peer => self.by_system(map).await,
            _ => Evidence::None,
        }
    }

    /// A certificate that the TLS library has verified.
    fn by_certificate(&self, map: Option<&IdentMap>) -> Evidence {
        let Some(der) = self.stream.as_ref().and_then(Stream::peer_certificate) else { return Evidence::None };
        let name = peer_common_name(&der);
        let shown = name.as_deref().unwrap_or_default();
        match map {
            None if certificate_names_user(&der, &self.user) => Evidence::Matches,
            None => Evidence::Mismatch(format!("the certificate is for \"{shown}\"").into()),
            Some(map) if map.admits(&self.user, name.as_deref(), &|system| certificate_names_user(&der, system)) => {
                Evidence::Matches
            }
            Some(map) => {
                let text = format!("ident map: {} does not have a match", map.name);
                tracing::error!(subject = %self.subject(), "{} {text}", self.name());
                Evidence::Mismatch(format!("{text}: the certificate is for \"{shown}\"").into())
            }
        }
    }

    /// The user who runs the program at the other end of a Unix socket.
    async fn by_system(&self, map: Option<&IdentMap>) -> Evidence {
        let Peer::Unix { uid: Some(uid), .. } = self.peer else { return Evidence::None };
        // A look into the system's user database, which may ask other machines.
        let look_up = move || nix::unistd::User::from_uid(uid.into());
        let found = tokio::task::spawn_blocking(look_up).await;
        let Ok(Ok(Some(found))) = found else {
            return Evidence::Mismatch(format!("user id {uid} has no name on this machine").into());
        };
        match map {
            None if found.name == self.user => Evidence::Matches,
            None => Evidence::Mismatch(format!("it is user \"{}\" of this machine", found.name).into()),
            Some(map) if map.admits(&self.user, Some(&found.name), &|system| system == found.name) => Evidence::Matches,
            Some(map) => {
                let text = format!("ident map {} cannot be matched", map.name);
                tracing::error!(subject = %self.subject(), "{} {text}", self.name());
                Evidence::Mismatch(format!("{text}: it is user \"{}\" of this machine", found.name).into())
            }
        }
    }
}

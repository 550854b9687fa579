//! A client proves who it is: drives [`ClientLogin`] with what the client sends.

use std::sync::Arc;

use super::login::{Arrival, Failed};
use super::roster::ClientInfo;
use super::route::client_channel;
use super::shared::{Shared, lock};
use crate::auth::{
    ClientLogin, Derivation, LoginParams, MAX_PASSWORD_BYTES, Method, ScramKeys, ScramSecret, Secret, Step,
};
use crate::fault::{Culprit, Fault};
use crate::net::stream::Stream;
use crate::wire::frame::{HEAD_LEN, head};

impl Arrival {
    pub(super) async fn authenticate(
        &mut self,
        info: &Arc<ClientInfo>,
    ) -> Result<Option<crate::auth::PassThrough>, Failed> {
        let demand = self.demand().await?;
        let secret = match demand.method {
            // Nobody need be asked who it is.
            Method::Reject | Method::Ldap => None,
            _ => self.secret(info).await?,
        };
        // Nobody who is found or not must stand out by the kind of question.
        let found_kind = if self.asked { *lock(&self.shared.found_kind) } else { None };
        let tls = self.stream.as_ref().is_some_and(Stream::needs_flush);
        let cached = None::<ScramSecret>;
        let (mut machine, mut step) = ClientLogin::start(LoginParams {
            method: demand.method,
            user: self.user.as_bytes(),
            secret: secret.as_ref(),
            cached: cached.as_ref(),
            mock_kind: found_kind.unwrap_or(self.params.mock_kind),
            scram_iterations: self.params.scram_iterations,
            channel: client_channel(self.params.acceptor.as_deref(), tls),
            evidence: demand.evidence,
            entropy: self.shared.entropy(),
        });
        loop {
            step = match step {
                Step::Send(bytes) => {
                    self.send(&bytes).await?;
                    let body = self.password_message().await?;
                    machine.on_message(&body)
                }
                Step::Derive(derivation) => {
                    let keys = derive(&self.shared, secret.as_ref(), derivation).await;
                    let keys = keys.ok_or_else(|| Fault::fatal(Culprit::Us, "internal error in authentication"))?;
                    machine.on_keys(&keys)
                }
                Step::Ask(password) => {
                    let answer = super::ldap::ask(&self.params, demand.ldap.as_ref(), &self.user, password).await;
                    machine.on_answer(answer)
                }
                Step::Refused(refusal) => {
                    return Err(Failed::Refused(refusal.fault, refusal.reason.into_owned()));
                }
                Step::Accepted(accepted) => {
                    if !accepted.reply.is_empty() {
                        self.send(&accepted.reply).await?;
                    }
                    if demand.method == Method::Ldap {
                        // Nothing is on file with which servers could be logged in to.
                        self.found = accepted.password.map(Secret::Plain);
                    }
                    return Ok(accepted.pass_through);
                }
            };
        }
    }

    async fn password_message(&mut self) -> Result<Vec<u8>, Failed> {
        loop {
            let bad = |_| Fault::fatal(Culprit::Client, "bad packet header");
            if let Some(head) = head(self.input.bytes()).map_err(bad)? {
                if head.tag != b'p' || head.total > MAX_PASSWORD_BYTES + 1024 {
                    return Err(Fault::fatal(Culprit::Client, "unexpected message during authentication").into());
                }
                if let Some(body) = self.input.bytes().get(HEAD_LEN..head.total) {
                    let body = body.to_vec();
                    self.input.consume(head.total);
                    return Ok(body);
                }
            }
            self.fill().await?;
        }
    }
}

/// Runs a key derivation off the workers, or takes its result from the cache. `None` if the thread for it failed.
pub(super) async fn derive(shared: &Shared, secret: Option<&Secret>, derivation: Derivation) -> Option<ScramKeys> {
    let (salt, iterations) = (derivation.salt().to_vec(), derivation.iterations());
    // Only what is on file may be kept: a wrong guess of a client must not fill the cache.
    let secret = secret.filter(|_| derivation.of_stored_password());
    if let Some(keys) = secret.and_then(|s| shared.derived_keys(s, &salt, iterations)) {
        return Some(keys);
    }
    let keys = tokio::task::spawn_blocking(move || derivation.run()).await.ok()?;
    if let Some(secret) = secret {
        shared.keep_derived_keys(secret, &salt, iterations, &keys);
    }
    Some(keys)
}

//! A replication client's login: it waits for a server of its own and is welcomed with what that server said.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::timeout;

use super::freeze::cannot_move;
use super::login::{Arrival, Failed};
use super::roster::{ClientInfo, Doing};
use super::route::Route;
use super::server::Server;
use super::shared::{PoolContext, Reported};
use crate::clock::Time;
use crate::fault::{Culprit, Fault};
use crate::pool::Checkout;
use crate::pool::io::Message;
use crate::session::params::Values;

impl Arrival {
    /// Waits for the server that is opened for this client, and takes from it what it said at its login. Not cancel-safe: the
    /// client leaves the queue by the end of its presence.
    pub(super) async fn own_server(
        &mut self,
        context: &PoolContext,
        info: &Arc<ClientInfo>,
        route: &Route,
    ) -> Result<(Box<Server>, Reported), Failed> {
        let shared = Arc::clone(&self.shared);
        // Others must find it from now on: the server is opened with what stands there, and whoever ends clients must reach it.
        info.set_doing(Doing::Waiting);
        info.set_request(Time::now());
        info.set_pool(context.pool);
        info.set_keeps_server(true);
        shared.roster.add_client(Arc::clone(info));
        shared.pools.enrol(self.id, Arc::clone(&info.mailbox));
        if let Checkout::Refused(fault) = shared.pools.checkout_own(context.pool, self.id) {
            return Err(fault.into());
        }
        let limit = route.timeouts.query_wait;
        let limit = if limit.is_zero() { Duration::from_secs(86_400 * 365) } else { limit };
        let letter = timeout(limit, poll_fn(|cx| self.poll_own(cx, info))).await;
        match letter {
            Err(_) => Err(Fault::fatal(Culprit::Us, "query_wait_timeout").into()),
            Ok(Err(failed)) => Err(failed),
            Ok(Ok(Message::Grant { mut server, .. })) => {
                let nothing = || Reported { fixed: Vec::new(), values: Values::unset(&self.params.tracked) };
                let reported = server.reported.take().unwrap_or_else(nothing);
                Ok((server, reported))
            }
            Ok(Ok(Message::Refuse(fault))) => Err(fault.into()),
            Ok(Ok(Message::Welcome)) => Err(Fault::fatal(Culprit::Us, "internal error: unexpected welcome").into()),
        }
    }

    fn poll_own(&mut self, cx: &mut Context<'_>, info: &ClientInfo) -> Poll<Result<Message<Server>, Failed>> {
        if let Poll::Ready(outcome) = self.poll_letter(cx, info) {
            return Poll::Ready(outcome);
        }
        if self.shared.freeze.is_on() {
            // Neither can it be passed on, nor will there be a server for it here.
            return Poll::Ready(Err(cannot_move().into()));
        }
        Poll::Pending
    }
}

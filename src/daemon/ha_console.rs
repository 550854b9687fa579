//! What the console asks of the pair: `SWITCHOVER`, `HA MAINTENANCE`, `… ON PAIR`, and the picture for `SHOW HA`.

use super::run::Daemon;
use crate::admin::{Action, ActionResult, NO_PAIR, Refusal};
use crate::fault::{Culprit, Fault};
use crate::snapshot::HaPicture;

impl Daemon {
    /// Does [`Action::Switchover`] or [`Action::HaMaintenance`]; there is a section `[ha]`.
    pub(super) async fn ha_command(&self, action: &Action) -> ActionResult {
        let config = self.config();
        if let (Action::Switchover(Some(name)), Some(ha)) = (action, &config.ha)
            && ha.routers_named(name).next().is_none()
        {
            return ActionResult::Refused(Refusal::NoSuchRouter);
        }
        std::future::ready(ActionResult::Refused(Refusal::NoPair)).await
    }

    /// Has the peer do what this text means, and waits for its answer, but not for ever.
    ///
    /// # Errors
    /// Why the peer has not done it.
    pub(super) async fn ha_at_peer(&self, _command: &str) -> Result<(), Fault> {
        std::future::ready(Err(Fault::error(Culprit::Client, NO_PAIR))).await
    }

    /// The pair as this node sees it; `None` if there is none.
    pub(super) fn ha_picture(&self) -> Option<HaPicture> {
        None
    }
}

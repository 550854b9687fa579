//! What the console asks of the pair: `SWITCHOVER`, `HA MAINTENANCE`, `… ON PAIR`, and the picture for `SHOW HA`.

use super::run::Daemon;
use crate::admin::{Action, ActionResult, Refusal};
use crate::snapshot::HaPicture;

impl Daemon {
    /// Does one of [`Action::Switchover`], [`Action::HaMaintenance`] and [`Action::OnPair`]; [`Action::verdict`] has let it
    /// pass on this node.
    pub(super) async fn ha_command(&self, _action: &Action) -> ActionResult {
        std::future::ready(ActionResult::Refused(Refusal::NoPair)).await
    }

    /// The pair as this node sees it; `None` if there is none.
    pub(super) fn ha_picture(&self) -> Option<HaPicture> {
        None
    }
}

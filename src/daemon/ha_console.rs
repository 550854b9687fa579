//! What the console asks of the pair: `SWITCHOVER`, `HA MAINTENANCE`, `… ON PAIR`, and the picture for `SHOW HA`.

use super::run::Daemon;
use crate::admin::{Action, ActionResult, NO_PAIR, Refusal};
use crate::fault::{Culprit, Fault};
use crate::ha::Event;
use crate::snapshot::HaPicture;

/// Who has said it, in the words of the log.
const BY: &str = "an administrator on the console";

/// SQLSTATE `object_not_in_prerequisite_state`.
const WRONG_STATE: &str = "55000";

fn failed(text: String) -> Fault {
    Fault::error(Culprit::Client, text).with_sqlstate(WRONG_STATE)
}

impl Daemon {
    /// Does [`Action::Switchover`] or [`Action::HaMaintenance`]; there is a section `[ha]`.
    pub(super) async fn ha_command(&self, action: &Action) -> ActionResult {
        let Some(node) = self.ha() else { return ActionResult::Refused(Refusal::NoPair) };
        let by = BY.to_owned();
        match action {
            Action::Switchover(None) => {
                report(node.command(|command| Event::Switchover { command, router: None, by }).await)
            }
            Action::Switchover(Some(name)) => {
                let settings = node.settings();
                let named: Vec<_> = settings.routers_named(name).map(|router| router.name.clone()).collect();
                let indexes: Vec<_> =
                    (0..).zip(&settings.routers).filter(|(_, r)| named.contains(&r.name)).map(|(at, _)| at).collect();
                if indexes.is_empty() {
                    return ActionResult::Refused(Refusal::NoSuchRouter);
                }
                let mut said = Vec::new();
                for router in indexes {
                    let by = by.clone();
                    let outcome = node.command(|command| Event::Switchover { command, router: Some(router), by }).await;
                    if !outcome.0 {
                        return report(outcome);
                    }
                    said.push(outcome.1);
                }
                report((true, said.join("; ")))
            }
            Action::HaMaintenance(on) => {
                node.maintain(*on, by);
                ActionResult::Done
            }
            _ => ActionResult::Refused(Refusal::NoPair),
        }
    }

    /// Has the peer do what this text means, and waits for its answer, but not for ever.
    ///
    /// # Errors
    /// Why the peer has not done it.
    pub(super) async fn ha_at_peer(&self, command: &str) -> Result<(), Fault> {
        let Some(node) = self.ha() else { return Err(Fault::error(Culprit::Client, NO_PAIR)) };
        node.at_peer(command).await.map_err(failed)
    }

    /// The pair as this node sees it; `None` if there is none.
    pub(super) fn ha_picture(&self) -> Option<HaPicture> {
        self.ha().map(|node| node.picture())
    }
}

fn report((ok, text): (bool, String)) -> ActionResult {
    if ok { ActionResult::DoneWithNotice(text.into()) } else { ActionResult::Failed(failed(text)) }
}

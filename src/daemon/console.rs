//! Serves one client of the admin console: frames to the core, its actions to the daemon.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use jiff::tz::TimeZone;
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use super::directory::{CONSOLE_DATABASE, admin_entry};
use super::run::Daemon;
use super::shutdown::Phase;
use crate::admin::{
    self, Action, ActionResult, Console, DatabaseStanding, MAX_FRAME_BYTES, Refusal, Rights, ShutdownMode, Standing,
    TLS_NOT_APPLIED, Then, Turn,
};
use crate::fault::{Culprit, Fault};
use crate::ids::ClientId;
use crate::net::buffer::Buffer;
use crate::net::stream::Stream;
use crate::pool::{DatabaseId, Mode};
use crate::session::io::login::CONSOLE;
use crate::session::io::presence::{Presence, SeatGuard};
use crate::session::io::roster::{ClientInfo, Doing, Ending};
use crate::session::io::shared::lock;
use crate::snapshot::Activity;
use crate::wire::frame::{HEAD_LEN, head};
use crate::wire::reply;
use crate::wire::startup::CancelKey;

/// A client that has logged in to the console.
pub struct Client {
    pub(super) stream: Stream,
    pub(super) input: Buffer,
    pub(super) info: Arc<ClientInfo>,
    pub(super) _seat: SeatGuard,
    pub(super) presence: Option<Presence>,
    pub(super) key: CancelKey,
    pub(super) back_door: bool,
}

/// Serves the client to its end.
pub async fn serve(daemon: &Arc<Daemon>, mut client: Client) {
    let rights = if client.back_door {
        Rights::Admin
    } else {
        admin_entry(&daemon.config(), &client.info.user, false).rights().unwrap_or(Rights::Stats)
    };
    client.info.set_doing(Doing::Active);
    let reason = match run(daemon, &mut client, rights).await {
        Ok(reason) => reason,
        Err(error) => match client.info.ending() {
            Some(Ending { fault, .. }) => dismiss(&mut client, &fault).await,
            None => format!("client unexpected eof ({error})"),
        },
    };
    client.presence = None;
    if daemon.config().settings.log_disconnections {
        let age_s = crate::clock::Time::now().since(client.info.connected_at).as_secs();
        tracing::info!(subject = %client.info.subject(), "{} closing because: {reason} (age={age_s}s)", client.info);
    }
    resume_if_alone(daemon);
    // The client may be gone already.
    let _ = client.stream.shutdown().await;
}

/// SUSPEND ends with the last client of the console, as nobody is left who would end it.
fn resume_if_alone(daemon: &Daemon) {
    let pools = &daemon.shared.pools;
    if pools.with(|r, _, _| r.mode()) != Mode::Suspended
        || daemon.shared.roster.clients().iter().any(|other| other.database == CONSOLE)
    {
        return;
    }
    tracing::info!("admin disappeared when suspended, doing RESUME");
    pools.with(|r, now, _| r.resume_all(now));
    pools.nudge();
}

/// Tells a client why it must go; one that does not read is not waited for.
async fn dismiss(client: &mut Client, fault: &Fault) -> String {
    let mut out = Vec::new();
    reply::put_error(&mut out, fault);
    let _ = timeout(LAST_WORDS_MAX, send(client, &out)).await;
    fault.text.to_string()
}

/// How long a client may take to read why it must go.
const LAST_WORDS_MAX: Duration = Duration::from_millis(500);

async fn run(daemon: &Arc<Daemon>, client: &mut Client, rights: Rights) -> io::Result<String> {
    let mut out = admin::welcome([]).to_vec();
    reply::put_backend_key_data(&mut out, &client.key);
    out.extend_from_slice(reply::READY_IDLE);
    send(client, &out).await?;
    let mut console = Console::new(rights, TimeZone::system());
    loop {
        let Some((tag, body)) = next_frame(client).await? else {
            let turn = console.oversized();
            send(client, &turn.reply).await?;
            return Ok("message too long".to_owned());
        };
        let mut turn = console.on_frame(tag, &body);
        loop {
            let Turn { reply, errors, ran_query, then } = turn;
            if ran_query {
                let stats = daemon.shared.stats_of(CONSOLE_DATABASE);
                stats.queries.fetch_add(1, Ordering::Relaxed);
                stats.transactions.fetch_add(1, Ordering::Relaxed);
            }
            for fault in errors {
                tracing::warn!(subject = %client.info.subject(), "{} pooler error: {fault}", client.info);
            }
            send(client, &reply).await?;
            match then {
                Then::Read => break,
                Then::Close(reason) => return Ok(reason.into_owned()),
                Then::Act(action) => {
                    let result = perform(daemon, Some(client), &action).await?;
                    turn = console.finish(result);
                }
            }
        }
    }
}

async fn send(client: &mut Client, bytes: &[u8]) -> io::Result<()> {
    if bytes.is_empty() {
        return Ok(());
    }
    client.stream.write_all(bytes).await?;
    client.stream.flush().await
}

/// The next whole frame; `None` if it is longer than the console takes.
async fn next_frame(client: &mut Client) -> io::Result<Option<(u8, Vec<u8>)>> {
    loop {
        let bad = |e| io::Error::new(io::ErrorKind::InvalidData, e);
        if let Some(head) = head(client.input.bytes()).map_err(bad)? {
            if head.body_len() > MAX_FRAME_BYTES {
                return Ok(None);
            }
            if let Some(body) = client.input.bytes().get(HEAD_LEN..head.total) {
                let body = body.to_vec();
                client.input.consume(head.total);
                return Ok(Some((head.tag, body)));
            }
        }
        fill(client).await?;
    }
}

/// Takes in what the client sends; an error if it has left, or must leave.
pub(super) async fn fill(client: &mut Client) -> io::Result<()> {
    if client.input.is_full() {
        let want = client.input.len() + 1;
        client.input.make_room(want);
    }
    let n = poll_fn(|cx| match client.info.ending() {
        Some(Ending { fault, .. }) => Poll::Ready(Err(io::Error::other(fault))),
        None => client.input.poll_fill(cx, &mut client.stream),
    });
    if n.await? == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
}

/// Does what the console of the peer asks of this node, as text (`… ON PAIR`). The caller sets the deadline.
///
/// # Errors
/// Why it was not done.
pub async fn perform_for_peer(daemon: &Arc<Daemon>, command: &str) -> Result<(), Fault> {
    let action = Action::from_command(command)?;
    let unexpected = |what: String| Fault::error(Culprit::Us, what).with_sqlstate("XX000");
    match perform(daemon, None, &action).await.map_err(|error| unexpected(error.to_string()))? {
        ActionResult::Done | ActionResult::DoneWithNotice(_) => Ok(()),
        ActionResult::Refused(refusal) if action.is_already_so(refusal) => Ok(()),
        ActionResult::Refused(refusal) => Err(action.refuse(refusal)),
        ActionResult::Failed(fault) => Err(fault),
        other @ (ActionResult::Snapshot(_) | ActionResult::Sql(_) | ActionResult::Cancelled) => {
            Err(unexpected(format!("internal error: {} gave {other:?}", action.name())))
        }
    }
}

/// Does an action on both nodes: at the same time, for PAUSE waits until clients are done.
async fn perform_on_pair(
    daemon: &Arc<Daemon>,
    client: Option<&mut Client>,
    action: &Action,
) -> io::Result<ActionResult> {
    let command = action.to_command().unwrap_or_default();
    let (here, there) = tokio::join!(Box::pin(perform(daemon, client, action)), daemon.ha_at_peer(&command));
    Ok(match (here?, there) {
        (ActionResult::Done | ActionResult::DoneWithNotice(_), Err(fault)) => {
            let text = format!("done on this node, but not at the peer: {}", fault.text);
            ActionResult::Failed(Fault { text: text.into(), ..fault })
        }
        (here, _) => here,
    })
}

/// What this node has been told already, the peer may have missed.
async fn perform_at_peer(daemon: &Daemon, action: &Action) -> ActionResult {
    match daemon.ha_at_peer(&action.to_command().unwrap_or_default()).await {
        Ok(()) => ActionResult::DoneWithNotice("it was so on this node already; done at the peer".into()),
        Err(fault) => ActionResult::Failed(fault),
    }
}

/// Does an action, for a client or, where there is none, for the peer.
async fn perform(daemon: &Arc<Daemon>, client: Option<&mut Client>, action: &Action) -> io::Result<ActionResult> {
    if let Action::Show { needs, .. } = action {
        return Ok(ActionResult::Snapshot(Box::new(daemon.picture(*needs))));
    }
    if let Action::Sql(job) = action {
        return super::sql::perform(daemon, client, job).await;
    }
    let of_the_pair = matches!(action, Action::Switchover(_) | Action::HaMaintenance(_) | Action::OnPair(_));
    if of_the_pair && daemon.config().ha.is_none() {
        return Ok(ActionResult::Refused(Refusal::NoPair));
    }
    let database = resolve(daemon, action);
    let verdict = action.verdict(&standing(daemon, database));
    if verdict.log
        && let Some(text) = action.log_text()
    {
        tracing::info!("{text}");
    }
    if let Some(refusal) = verdict.refusal {
        return Ok(match action {
            Action::OnPair(action) if action.is_already_so(refusal) => perform_at_peer(daemon, action).await,
            _ => ActionResult::Refused(refusal),
        });
    }
    match action {
        Action::OnPair(action) => return perform_on_pair(daemon, client, action).await,
        _ if of_the_pair => return Ok(daemon.ha_command(action).await),
        _ => {}
    }
    let id = database.map(|(id, _)| id);
    let pools = &daemon.shared.pools;
    match action {
        Action::Pause(_) => {
            pools.with(|r, now, out| match id {
                Some(id) => r.pause(now, id, out),
                None => r.pause_all(now, out),
            });
            return wait_until(daemon, client, || pools.with(|r, _, _| r.busy(id)) == 0).await;
        }
        Action::Resume(_) => pools.with(|r, now, _| match id {
            Some(id) => {
                r.resume(now, id);
            }
            None => r.resume_all(now),
        }),
        Action::Suspend => pools.with(|r, _, _| r.suspend()),
        Action::WaitClose(_) => {
            return wait_until(daemon, client, || pools.with(|r, _, _| r.closing(id)) == 0).await;
        }
        Action::Reconnect(_) => {
            // Often given because a name leads elsewhere now.
            daemon.shared.names.expire();
            pools.with(|r, now, out| r.reconnect(now, id, out));
        }
        Action::Kill(_) => pools.with(|r, now, out| match id {
            Some(id) => r.kill(now, id, out),
            None => r.kill_all(now, out),
        }),
        Action::Disable(_) | Action::Enable(_) => {
            let disabled = matches!(action, Action::Disable(_));
            if let Some(id) = id {
                pools.with(|r, _, _| r.set_disabled(id, disabled));
            }
        }
        other => return Ok(perform_other(daemon, other)),
    }
    // Somebody may wait for just this.
    pools.nudge();
    Ok(ActionResult::Done)
}

fn perform_other(daemon: &Arc<Daemon>, action: &Action) -> ActionResult {
    match action {
        Action::Set { key, value } => match daemon.set(key, value) {
            Ok(false) => ActionResult::Done,
            Ok(true) => ActionResult::DoneWithNotice(TLS_NOT_APPLIED.into()),
            Err(reason) => {
                tracing::error!("SET: {reason}");
                ActionResult::Refused(Refusal::SetFailed)
            }
        },
        Action::Reload => match daemon.reload() {
            Ok(()) => ActionResult::Done,
            Err(error) => {
                for line in error.to_string().lines() {
                    tracing::error!("{line}");
                }
                ActionResult::Refused(Refusal::ReloadFailed)
            }
        },
        Action::KillClient(id) => match daemon.shared.roster.client(ClientId(*id)) {
            Some(victim) => {
                let fault = Fault::fatal(Culprit::Us, "admin forced disconnect").with_sqlstate("57P01");
                victim.end(Ending::at_once(fault));
                ActionResult::Done
            }
            None => ActionResult::Refused(Refusal::NoSuchClient),
        },
        Action::Shutdown(mode) => {
            let phase = match mode {
                ShutdownMode::Now => Phase::Now,
                ShutdownMode::WaitForServers => Phase::WaitForServers,
                ShutdownMode::WaitForClients => Phase::WaitForClients,
            };
            daemon.shut_down(phase);
            ActionResult::Done
        }
        _ => ActionResult::Failed(Fault::error(Culprit::Us, "internal error: action not performed")),
    }
}

/// Waits for a condition of the pools, or for the client, if there is one, to hang up or cancel.
async fn wait_until(
    daemon: &Arc<Daemon>,
    mut client: Option<&mut Client>,
    mut is_so: impl FnMut() -> bool,
) -> io::Result<ActionResult> {
    loop {
        let settled = daemon.shared.pools.settled();
        if is_so() {
            return Ok(ActionResult::Done);
        }
        match &mut client {
            None => settled.await,
            Some(client) => tokio::select! {
                () = settled => {}
                filled = fill(client) => filled?,
            },
        }
    }
}

/// The database that the action names, with its id; the fallback entry makes one where it may.
fn resolve(daemon: &Daemon, action: &Action) -> Option<(DatabaseId, bool)> {
    let name = action.database()?;
    if name == CONSOLE {
        return Some((CONSOLE_DATABASE, true));
    }
    let config = daemon.config();
    let known = config.databases.contains_key(name) || lock(&daemon.numbers).database_named(name).is_some();
    let made = action.registers_database() && config.autodb.is_some();
    (known && config.database(name).is_some() || made).then(|| (lock(&daemon.numbers).database(name), false))
}

fn standing(daemon: &Daemon, database: Option<(DatabaseId, bool)>) -> Standing {
    let ids: Vec<_> = lock(&daemon.numbers).databases().map(|(_, id)| id).collect();
    daemon.shared.pools.with(|registry, _, _| Standing {
        activity: activity(registry.mode()),
        shutting_down: daemon.shutdown.phase() != Phase::Serving,
        paused_databases: ids.iter().filter(|&&id| registry.is_paused(id)).count(),
        database: database.map(|(id, is_console)| DatabaseStanding { is_console, is_paused: registry.is_paused(id) }),
    })
}

/// What the registry's mode is called in SHOW STATE.
#[must_use]
pub fn activity(mode: Mode) -> Activity {
    match mode {
        Mode::Active => Activity::Active,
        Mode::Paused => Activity::Paused,
        Mode::Suspended => Activity::Suspended,
    }
}

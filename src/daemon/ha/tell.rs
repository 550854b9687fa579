//! What the thread tells: lines of the log, tasks for the runtime, the operator's program, and who asks for the picture.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;

use tokio::sync::{mpsc, watch};

use super::Brief;
use super::notify::{Notice, Notifier};
use super::seat::{News, Seat};
use crate::config::ha::{Ha as Settings, VirtualRouter};
use crate::ha::{self, Action, Ha, Level, Order};
use crate::vrrp::{self, Event, State};

/// Something for the runtime to do.
#[derive(Debug)]
pub(super) enum Task {
    /// A decision that concerns clients, the peer or the console.
    Decided(Action),
    /// What the peer is to be told of this node, and the priorities that its routers advertise.
    Status(Box<ha::Status>, Vec<u8>),
    /// This router holds its addresses now.
    Holds { router: usize, from_the_living: bool },
    /// These addresses are not here any more.
    Lost { addresses: Vec<IpAddr> },
    /// The settings have changed, or the decision has begun anew and knows nothing of what it was told.
    Anew,
}

/// One virtual router for SHOW HA.
#[derive(Clone, Debug)]
pub(super) struct RouterView {
    pub(super) config: VirtualRouter,
    pub(super) vrrp: vrrp::Picture,
    /// Why the last advert was discarded.
    pub(super) last_discard: Option<String>,
}

/// How things stand.
#[derive(Clone, Debug)]
pub(super) struct View {
    pub(super) ha: ha::Picture,
    pub(super) routers: Vec<RouterView>,
}

/// The voice of the thread.
pub(super) struct Teller {
    pub(super) node: String,
    pub(super) tasks: mpsc::UnboundedSender<Task>,
    pub(super) brief: watch::Sender<Brief>,
    pub(super) notifier: Notifier,
}

/// What an order of the decision is to the state machine of a router.
pub(super) fn event_of(order: Order) -> Event<'static> {
    match order {
        Order::Start { held } => Event::Start { held },
        Order::StepDown { goodbye } => Event::Stop { goodbye },
        Order::Yield => Event::Yield,
        Order::YieldFor(patience) => Event::YieldFor(patience),
        Order::NoYield => Event::NoYield,
        Order::TakeOver(why) => Event::TakeOver(why),
        Order::PeerActive(opinion) => Event::PeerActive(opinion),
    }
}

impl Teller {
    /// Gives the runtime something to do. It ends after this thread.
    pub(super) fn task(&self, task: Task) {
        let _ = self.tasks.send(task);
    }

    /// What was decided, as far as it is not an order to a router.
    pub(super) fn decided(&self, ha: &Ha, seats: &[Seat], action: Action) {
        match action {
            Action::Log { level: Level::Info, text } => tracing::info!("{text}"),
            Action::Log { level: Level::Warn, text } => tracing::warn!("{text}"),
            Action::StatusChanged => self.status(ha, seats),
            other => self.task(Task::Decided(other)),
        }
    }

    /// How this node is, for the peer.
    pub(super) fn status(&self, ha: &Ha, seats: &[Seat]) {
        let priorities = seats.iter().map(|seat| seat.picture().priority).collect();
        self.task(Task::Status(Box::new(ha.status()), priorities));
    }

    /// What has happened to a router.
    pub(super) fn news(&self, router: usize, seat: &Seat, news: &News, settings: &Arc<Settings>) {
        let name = &seat.config.name;
        match news {
            News::Transition { from, to, reason } => {
                if *from == State::Active {
                    self.task(Task::Lost { addresses: seat.config.addresses.clone() });
                }
                self.notify(seat, *to, &reason.to_string(), settings);
            }
            News::Held { took, rival } => {
                self.task(Task::Holds { router, from_the_living: seat.took_from_the_living() });
                tracing::info!(
                    "virtual router {name}: the addresses are here after {:.1} ms",
                    took.as_secs_f64() * 1e3
                );
                if let Some(mac) = rival {
                    let mac = mac.map(|byte| format!("{byte:02x}")).join(":");
                    tracing::warn!(
                        "virtual router {name}: {mac} had an address that nobody advertises any more, and was overruled"
                    );
                }
            }
            News::Released => tracing::info!("virtual router {name}: the addresses are gone from here"),
            News::Warning(warning) => tracing::warn!("virtual router {name}: {warning}"),
            News::HoldFailed(error) => tracing::error!(
                "virtual router {name}: the addresses cannot be had on {}: {error}",
                seat.config.interface
            ),
        }
    }

    /// New settings of a router leave out addresses that it has: who came in by them is let go of.
    pub(super) fn addresses_gone(&self, seat: &Seat, new: &VirtualRouter) {
        let old = seat.config.addresses.iter();
        let addresses: Vec<IpAddr> = old.filter(|address| !new.addresses.contains(address)).copied().collect();
        if seat.state() == State::Active && !addresses.is_empty() {
            self.task(Task::Lost { addresses });
        }
    }

    fn notify(&self, seat: &Seat, state: State, reason: &str, settings: &Arc<Settings>) {
        let program = &settings.settings.notify_program;
        if program.is_empty() {
            return;
        }
        let addresses: Vec<_> = seat.config.addresses.iter().map(ToString::to_string).collect();
        self.notifier.tell(Notice {
            program: program.clone(),
            timeout: settings.settings.notify_timeout,
            node: self.node.clone(),
            router: seat.config.name.clone(),
            interface: seat.config.interface.clone(),
            state: match state {
                State::Initialize => "initialize",
                State::Backup => "backup",
                State::Active => "active",
            },
            addresses: addresses.join(" "),
            reason: reason.to_owned(),
        });
    }

    /// What everybody may look at.
    pub(super) fn publish(&self, seats: &[Seat], ha: &Ha) {
        let active = seats.iter().any(|seat| seat.state() == State::Active);
        let now = Brief { active, moving: ha.is_moving() };
        self.brief.send_if_modified(|brief| {
            let changed = *brief != now;
            *brief = now;
            changed
        });
    }

    /// The thread ends: no address is held by it any more.
    pub(super) fn ended(&self) {
        self.brief.send_replace(Brief::default());
    }

    /// The picture, for whoever has asked.
    pub(super) fn show(seats: &[Seat], ha: &Ha, reply: &SyncSender<View>) {
        let routers = seats.iter().map(Seat::view).collect();
        // Whoever asked has perhaps given up.
        let _ = reply.send(View { ha: ha.picture(), routers });
    }
}

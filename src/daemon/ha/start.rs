//! How this node becomes one of a pair, and what a reload changes about it.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};

use anyhow::Context;
use tokio::sync::{mpsc, watch};

use super::holder::{Holder, Source};
use super::link::Link;
use super::notify::Notifier;
use super::seat::family;
use super::steward::{Steward, set_standby};
use super::tell::Teller;
use super::thread::{Begin, Order, Reconfigure, Thread};
use super::wake::queue;
use super::{Brief, DataPath, Node, legacy, servers};
use crate::clock::Time;
use crate::config::Config;
use crate::config::ha::Ha as Settings;
use crate::daemon::helper::HelperConfig;
use crate::daemon::run::Daemon;
use crate::ha;
use crate::session::io::shared::lock;

/// Where this process finds its address helper.
#[derive(Debug, Default)]
pub(crate) struct Wanted {
    /// A helper that was started with this process, or that a former process has passed on.
    pub(crate) channel: Option<OwnedFd>,
    /// It comes from a former process, which has left addresses that are held.
    pub(crate) inherited: bool,
}

/// The name of this node: the setting, or the machine's.
fn node_name(settings: &Settings) -> String {
    let host = || nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
    settings.settings.node_name.get().map(str::to_owned).or_else(host).unwrap_or_else(|| "node".to_owned())
}

fn params(name: &str, settings: &Settings) -> ha::Params {
    let routers = settings.routers.iter().map(|router| ha::RouterParams {
        name: router.name.clone(),
        key: ha::RouterKey { vrid: router.vrid, family: family(router.family) },
        interval: router.interval,
        priority: router.priority,
        preempt: router.preempt,
    });
    ha::Params {
        servers_down_delay: settings.settings.servers_down_delay,
        switchover_timeout: settings.settings.switchover_timeout,
        link_timeout: std::time::Duration::from_millis(settings.settings.link_timeout_ms.into()),
        ..ha::Params::new(name.to_owned(), routers.collect(), settings.has_peer())
    }
}

impl Daemon {
    /// Takes part in the pair, if there is a section `[ha]`. To be called inside the runtime, when clients can come in.
    ///
    /// # Errors
    /// The kernel's, or what the helper cannot work with.
    pub(crate) fn join_pair(self: &Arc<Self>, data_path: DataPath) -> anyhow::Result<()> {
        let config = self.config();
        let Some(settings) = &config.ha else { return Ok(()) };
        let helper = HelperConfig::from_config(&config).context("[ha]")?;
        let settings = Arc::new(settings.clone());
        let Wanted { channel, inherited } = std::mem::take(&mut *lock(&self.helper));
        // A helper that was started with this process is the only one; one that a former process has left may have come from
        // the socket, and then the next one does too.
        let called = (channel.is_none() || inherited) && !settings.settings.helper_socket.is_empty();
        let testament = std::mem::take(&mut *lock(&self.testament));
        let active = legacy::keys(&testament.active_v4, &testament.active_v6);
        // Where the helper was replaced together with this process, its channel has not come along.
        let inherits = (inherited || channel.is_none() && !active.is_empty()).then_some(active);
        let source = Source { channel, path: called.then(|| PathBuf::from(&settings.settings.helper_socket)) };
        let name = node_name(&settings);
        let (orders, outlet) = queue::<Order>()?;
        let (tasks, to_do) = mpsc::unbounded_channel();
        let (brief, seen) = watch::channel(Brief { active: inherits.is_some(), moving: false });
        let notifier = Notifier::start();
        let node = Arc::new(Node {
            name: name.clone(),
            settings: Mutex::new(Arc::clone(&settings)),
            orders,
            brief: seen,
            link: Mutex::default(),
            channel: Arc::default(),
            commands: Mutex::default(),
            last_command: AtomicU64::new(0),
        });
        let holder = Holder::new(Time::now(), source, helper.fingerprint, Arc::clone(&node.channel));
        let begin = Begin {
            params: params(&name, &settings),
            settings: Arc::clone(&settings),
            holder,
            orders: outlet,
            data_path,
            teller: Teller { node: name, tasks, brief, notifier },
            inherits,
        };
        node.heed(&testament);
        self.shared.roster.keep_journal();
        self.settle_shares(&settings);
        self.shared.floating.set(settings.addresses().collect());
        // From here on others may ask.
        let _ = self.ha.set(Arc::clone(&node));
        let steward = Steward {
            daemon: Arc::clone(self),
            node: Arc::clone(&node),
            tasks: to_do,
            still: Arc::default(),
            quiescing: None,
        };
        tokio::spawn(steward.run());
        let (daemon, joined) = (Arc::clone(self), Arc::clone(&node));
        tokio::spawn(async move {
            let link = Link::start(&daemon, &joined, &joined.settings()).await;
            *lock(&joined.link) = link;
            // What was said before there was a link.
            joined.orders.put(Order::Tell);
        });
        self.watch_servers(node);
        std::thread::Builder::new().name("pgtandem-vrrp".into()).spawn(move || Thread::new(begin).run())?;
        Ok(())
    }

    fn watch_servers(self: &Arc<Self>, node: Arc<Node>) {
        tokio::spawn(servers::watch(Arc::clone(self), move |reached| {
            let servers = match reached {
                Ok(()) => ha::Servers::Reachable,
                Err(reason) => ha::Servers::Unreachable(reason),
            };
            node.consider(ha::Event::Servers(servers));
        }));
    }

    /// A reload: virtual routers and link that are as they were are not touched.
    pub(crate) fn rejoin_pair(self: &Arc<Self>, config: &Config) {
        let Some(node) = self.ha() else {
            if config.ha.is_some() {
                tracing::warn!("[ha] is new; it takes effect at the next start");
            }
            return;
        };
        let Some(settings) = &config.ha else {
            tracing::warn!("[ha] is gone; that takes effect at the next start");
            return;
        };
        let settings = Arc::new(settings.clone());
        self.presume_shares(true);
        // Its keys, and the other settings that the peer compares with its own, may have changed all the same.
        self.relink(node, Arc::clone(&settings));
        if **lock(&node.settings) == *settings {
            node.orders.put(Order::Anew);
            return;
        }
        match HelperConfig::from_config(config) {
            Ok(helper) => {
                *lock(&node.settings) = Arc::clone(&settings);
                self.shared.floating.set(settings.addresses().collect());
                set_standby(self, node);
                let params = params(&node.name, &settings);
                let new = Reconfigure { settings: Arc::clone(&settings), params, fingerprint: helper.fingerprint };
                node.orders.put(Order::Reconfigure(Box::new(new)));
                node.orders.put(Order::Anew);
            }
            Err(error) => tracing::error!("{error}; the former virtual routers stay in force"),
        }
    }

    /// Has the link adhere to new settings; begins it if there was no peer before.
    fn relink(self: &Arc<Self>, node: &Arc<Node>, settings: Arc<Settings>) {
        let (daemon, node) = (Arc::clone(self), Arc::clone(node));
        tokio::spawn(async move {
            match node.link() {
                Some(link) => link.reconfigure(&daemon, &settings).await,
                None => {
                    let link = Link::start(&daemon, &node, &settings).await;
                    if link.is_some() {
                        *lock(&node.link) = link;
                        node.orders.put(Order::Tell);
                    }
                }
            }
        });
    }
}

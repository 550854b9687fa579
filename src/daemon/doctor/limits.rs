//! Limits of the process and the kernel, against what the configuration may need.

use std::collections::BTreeMap;
use std::fs;

use nix::sys::resource::{Resource, getrlimit};

use super::report::{Finding, Subject};
use super::unit::Unit;
use crate::config::Config;
use crate::daemon::listeners::tcp_backlog;
use crate::daemon::process::expected_descriptors;
use crate::daemon::start::most_servers;

/// What the limits are, and what they are held against.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LimitFacts {
    /// RLIMIT_NOFILE of this process; `u64::MAX` is infinity.
    pub(super) nofile_soft: u64,
    pub(super) nofile_hard: u64,
    /// LimitNOFILE= of the installed unit.
    pub(super) nofile_unit: Option<u64>,
    pub(super) max_client_conn: u64,
    /// Servers that the pools may have together.
    pub(super) servers: u64,
    /// net.core.somaxconn, if it can be read.
    pub(super) somaxconn: Option<u64>,
    pub(super) listen_backlog: u64,
    /// net.ipv4.ip_local_port_range, if it can be read.
    pub(super) local_ports: Option<(u64, u64)>,
    /// The host over TCP to which the most servers may be connected, and how many.
    pub(super) busiest_host: Option<(String, u64)>,
}

/// Reads the limits.
pub(super) fn collect(config: &Config, unit: Option<&Unit>) -> LimitFacts {
    let (nofile_soft, nofile_hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((u64::MAX, u64::MAX));
    let read = |name: &str| fs::read_to_string(format!("/proc/sys/net/{name}")).unwrap_or_default();
    LimitFacts {
        nofile_soft,
        nofile_hard,
        nofile_unit: unit.and_then(|unit| unit.limit_nofile),
        max_client_conn: config.settings.max_client_conn.into(),
        servers: most_servers(config),
        somaxconn: read("core/somaxconn").trim().parse().ok(),
        listen_backlog: tcp_backlog(config).into(),
        local_ports: range(&read("ipv4/ip_local_port_range")),
        busiest_host: busiest_host(config),
    }
}

fn range(text: &str) -> Option<(u64, u64)> {
    let mut numbers = text.split_whitespace().map(|word| word.parse().ok());
    Some((numbers.next()??, numbers.next()??))
}

fn busiest_host(config: &Config) -> Option<(String, u64)> {
    let mut hosts: BTreeMap<String, u64> = BTreeMap::new();
    for database in config.databases.values() {
        for host in database.hosts.iter().map(ToString::to_string).filter(|host| !host.starts_with(['/', '@'])) {
            *hosts.entry(format!("{host}:{}", database.port)).or_default() +=
                u64::from(config.pool_size(database, None));
        }
    }
    hosts.into_iter().max_by_key(|(_, servers)| *servers)
}

/// Judges the limits.
pub(super) fn judge(facts: &LimitFacts) -> Vec<Finding> {
    let mut findings = vec![judge_files(facts)];
    findings.extend(judge_unit(facts));
    if let Some(somaxconn) = facts.somaxconn {
        let backlog = facts.listen_backlog;
        findings.push(if somaxconn < backlog {
            let text =
                format!("listen_backlog = {backlog}, but the kernel cuts it to net.core.somaxconn = {somaxconn}");
            let remedy =
                format!("sysctl -w net.core.somaxconn={backlog} (and the same line in /etc/sysctl.d/pgtandem.conf)");
            Finding::warning(Subject::Limits, text).remedy(remedy)
        } else {
            Finding::ok(Subject::Limits, format!("listen_backlog = {backlog}, net.core.somaxconn = {somaxconn}"))
        });
    }
    if let (Some((first, last)), Some((host, servers))) = (facts.local_ports, &facts.busiest_host) {
        let ports = last.saturating_sub(first) + 1;
        if *servers > ports {
            let text = format!(
                "{servers} servers at {host}, but only {ports} local ports (ip_local_port_range {first} {last})"
            );
            let remedy = "sysctl -w net.ipv4.ip_local_port_range='1024 65535', or a smaller default_pool_size";
            findings.push(Finding::warning(Subject::Limits, text).remedy(remedy));
        }
    }
    findings
}

fn judge_files(facts: &LimitFacts) -> Finding {
    let LimitFacts { nofile_soft: soft, nofile_hard: hard, max_client_conn, servers, .. } = *facts;
    let needed = expected_descriptors(max_client_conn, servers);
    let need = format!("max_client_conn = {max_client_conn} and the pools ({servers} servers) need {needed}");
    let remedy = format!(
        "LimitNOFILE={needed} in the systemd unit, or ulimit -n {needed} before the start, or a lower max_client_conn"
    );
    if hard < expected_descriptors(1, servers) {
        let text = format!("only {hard} files can be open (hard limit), not enough for the servers alone: {need}");
        return Finding::error(Subject::Limits, text).remedy(remedy);
    }
    if hard < needed {
        let text = format!("only {hard} files can be open (hard limit), but {need}: clients beyond that are refused");
        return Finding::warning(Subject::Limits, text).remedy(remedy);
    }
    let raised = if soft < hard { format!(" (soft limit {soft}, raised at the start)") } else { String::new() };
    Finding::ok(Subject::Limits, format!("{} files can be open{raised}; {need}", limit(hard)))
}

fn judge_unit(facts: &LimitFacts) -> Option<Finding> {
    let needed = expected_descriptors(facts.max_client_conn, facts.servers);
    let unit = facts.nofile_unit.filter(|unit| *unit < needed)?;
    let text = format!("the installed unit sets LimitNOFILE={unit}, but {needed} files may be needed");
    Some(Finding::warning(Subject::Limits, text).remedy(format!("LimitNOFILE={needed} in the unit")))
}

fn limit(value: u64) -> String {
    if value == u64::MAX { "any number of".to_owned() } else { value.to_string() }
}

#[cfg(test)]
mod tests {
    use super::super::report::Level;
    use super::*;

    fn facts() -> LimitFacts {
        LimitFacts {
            nofile_soft: 1024,
            nofile_hard: 4096,
            nofile_unit: None,
            max_client_conn: 1000,
            servers: 40,
            somaxconn: Some(4096),
            listen_backlog: 128,
            local_ports: Some((32768, 60999)),
            busiest_host: Some(("db:5432".into(), 40)),
        }
    }

    fn levels(facts: &LimitFacts) -> Vec<Level> {
        judge(facts).iter().map(|finding| finding.level).collect()
    }

    #[test]
    fn enough_is_enough() {
        assert_eq!(levels(&facts()), [Level::Ok, Level::Ok]);
        assert!(judge(&facts())[0].text.contains("soft limit 1024, raised at the start"));
        let infinite = LimitFacts { nofile_soft: u64::MAX, nofile_hard: u64::MAX, ..facts() };
        assert!(judge(&infinite)[0].text.starts_with("any number of files"));
    }

    #[test]
    fn too_few_files_are_named_with_the_number_that_is_needed() {
        let low = judge(&LimitFacts { nofile_hard: 1024, ..facts() }).remove(0);
        assert_eq!(low.level, Level::Warning);
        assert!(low.text.contains("only 1024 files") && low.text.contains("max_client_conn = 1000"), "{low:?}");
        assert!(low.remedy.unwrap().starts_with("LimitNOFILE=1104 in the systemd unit, or ulimit -n 1104"));
        assert_eq!(levels(&LimitFacts { nofile_hard: 100, ..facts() })[0], Level::Error);
        let unit = LimitFacts { nofile_unit: Some(1024), ..facts() };
        assert!(judge(&unit)[1].text.contains("LimitNOFILE=1024"));
    }

    #[test]
    fn the_kernels_limits() {
        let short = judge(&LimitFacts { somaxconn: Some(64), ..facts() }).remove(1);
        assert!(short.level == Level::Warning && short.remedy.unwrap().contains("net.core.somaxconn=128"));
        let narrow = LimitFacts { local_ports: Some((32768, 32777)), ..facts() };
        assert!(judge(&narrow)[2].text.contains("only 10 local ports"));
        assert_eq!(range("32768\t60999\n"), Some((32768, 60999)));
        assert_eq!(range("x"), None);
    }

    #[test]
    fn the_busiest_host_is_the_sum_of_its_pools() {
        let text = b"[databases]\na=host=h pool_size=5\nb=host=h pool_size=6\nc=host=/tmp pool_size=50\n[pgbouncer]\n";
        let (config, _) = crate::config::load(std::path::Path::new("p.ini"), &mut |_| Ok(text.to_vec())).unwrap();
        assert_eq!(busiest_host(&config), Some(("h:5432".into(), 11)));
    }
}

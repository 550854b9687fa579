//! The one table of settings: name, type, default, bounds, when a change takes effect, where else it can be given, whether it
//! works yet, and one line of help. Facts from PgBouncer's `doc/config.md`; the order is that of its `SHOW CONFIG`.

use std::sync::LazyLock;
use std::time::Duration;

use super::choice::{AuthType, LogFormat, PoolMode, SslMode, SyslogFacility, UnknownStatement};
use super::settings::Apply::{Boot, Reload};
use super::settings::Kind::{Bool, Choice, File, Int, List, Mode, Text, Time};
use super::settings::Origin::{Pgbouncer, Pgtandem};
use super::settings::Status::{Idle, Later, Works};
use super::settings::{ANY, Overrides, Spec};
use super::value::{DatabaseName, FileMode, NameList, Nullable, PacketSize, Secret, Value};

/// PgBouncer's query for a user's secret, which honours VALID UNTIL. Every name in it is qualified, operators too, so that it
/// means the same whatever search_path the database or the role sets.
const DEFAULT_AUTH_QUERY: &str = "SELECT rolname, CASE WHEN rolvaliduntil OPERATOR(pg_catalog.<) pg_catalog.now() \
                                  THEN NULL ELSE rolpassword END FROM pg_catalog.pg_authid \
                                  WHERE rolname OPERATOR(pg_catalog.=) $1 AND rolcanlogin";

/// A table of settings: the struct of their values, the rows, the defaults. `[ha]` has its own table.
macro_rules! settings {
    ($(#[$doc:meta])* struct $settings:ident;
     $($name:ident: $type:ty = $default:expr, $kind:expr, $bounds:expr, $apply:ident, $overrides:ident, $status:expr,
       $origin:ident, $help:literal;)+) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq)]
        pub struct $settings {
            $(#[doc = $help] pub $name: $type,)+
        }

        pub(super) static SPECS: &[Spec<$settings>] = &[$(Spec {
            name: stringify!($name),
            kind: $kind,
            default: $default,
            bounds: $bounds,
            apply: $apply,
            overrides: Overrides::$overrides,
            status: $status,
            origin: $origin,
            help: $help,
            get: |settings| settings.$name.scalar(),
            set: |settings, text, bounds| {
                let (value, caution) = <$type as Value>::parse(text, bounds)?;
                settings.$name = value;
                Ok(caution)
            },
            same: |one, other| one.$name == other.$name,
            copy: |to, from| to.$name.clone_from(&from.$name),
        },)+];

        pub(super) static DEFAULTS: LazyLock<$settings> =
            LazyLock::new(|| $settings { $($name: from_default($default, $bounds),)+ });

        impl Default for $settings {
            /// The defaults, as the table has them.
            fn default() -> Self {
                DEFAULTS.clone()
            }
        }
    };
}
pub(super) use settings;

/// The value of a default text of the table. A test reads every one that is not NULL.
pub(super) fn from_default<T: Value>(default: Option<&str>, bounds: (i64, i64)) -> T {
    default.and_then(|text| T::parse(text, bounds).ok()).map_or_else(T::null, |(value, _)| value)
}

settings! {
    /// Every setting of section `[pgbouncer]` (TOML: `[pgtandem]`) under its own name.
    struct Settings;
    admin_users: NameList = Some(""), List, ANY, Reload, None, Works, Pgbouncer, "Users who may do everything on the admin console.";
    application_name_add_host: bool = Some("0"), Bool, ANY, Reload, None, Works, Pgbouncer, "Append the client's address and port to application_name.";
    auth_dbname: DatabaseName = None, Text, ANY, Reload, Database, Works, Pgbouncer, "The database in which auth_query runs.";
    auth_file: Nullable = None, File, ANY, Reload, None, Works, Pgbouncer, "The file of users and their passwords or secrets.";
    auth_hba_file: String = Some(""), File, ANY, Reload, None, Works, Pgbouncer, "The file of access rules that auth_type=hba reads.";
    auth_ident_file: Nullable = None, File, ANY, Reload, None, Works, Pgbouncer, "The file of user maps that the access rules may name.";
    auth_ldap_options: Option<Secret> = None, Text, ANY, Reload, None, Works, Pgbouncer, "How to ask the LDAP server when auth_type=ldap.";
    auth_query: String = Some(DEFAULT_AUTH_QUERY), Text, ANY, Reload, Database, Works, Pgbouncer, "The query that finds the secret of a user who is not in auth_file.";
    auth_type: AuthType = Some("md5"), Choice(AuthType::WORDS), ANY, Reload, None, Works, Pgbouncer, "How clients prove who they are.";
    auth_user: Nullable = None, Text, ANY, Reload, Database, Works, Pgbouncer, "The user under whose name auth_query runs.";
    autodb_idle_timeout: Duration = Some("3600"), Time, ANY, Reload, None, Works, Pgbouncer, "Forget a database made by the `*` entry when unused this long.";
    cancel_wait_timeout: Duration = Some("10"), Time, ANY, Reload, None, Works, Pgbouncer, "Drop a cancel request that has waited this long for a server; 0 = never.";
    client_idle_timeout: Duration = Some("0"), Time, ANY, Reload, User, Works, Pgbouncer, "Disconnect a client that is idle outside a transaction this long; 0 = never.";
    client_login_timeout: Duration = Some("60"), Time, ANY, Reload, None, Works, Pgbouncer, "Disconnect a client that has not logged in after this time; 0 = never.";
    client_tls13_ciphers: Nullable = None, Text, ANY, Reload, None, Works, Pgbouncer, "TLS 1.3 cipher suites for clients.";
    client_tls_ca_file: String = Some(""), File, ANY, Reload, None, Works, Pgbouncer, "The certificates that sign client certificates.";
    client_tls_cert_file: String = Some(""), File, ANY, Reload, None, Works, Pgbouncer, "The certificate shown to clients.";
    client_tls_ciphers: String = Some("default"), Text, ANY, Reload, None, Works, Pgbouncer, "TLS 1.2 cipher suites for clients.";
    client_tls_dheparams: String = Some("auto"), Text, ANY, Reload, None, Idle("key exchange is by elliptic curves only, so there are none to choose"), Pgbouncer, "Diffie-Hellman parameters for clients.";
    client_tls_ecdhcurve: String = Some("auto"), Text, ANY, Reload, None, Works, Pgbouncer, "The elliptic curve for key exchange with clients.";
    client_tls_key_file: String = Some(""), File, ANY, Reload, None, Works, Pgbouncer, "The private key of client_tls_cert_file.";
    client_tls_protocols: String = Some("secure"), Text, ANY, Reload, None, Works, Pgbouncer, "TLS versions allowed to clients.";
    client_tls_sslmode: SslMode = Some("disable"), Choice(SslMode::WORDS), ANY, Reload, None, Works, Pgbouncer, "How much TLS is wanted of clients.";
    conffile: Nullable = None, File, ANY, Reload, None, Works, Pgbouncer, "The file that the next RELOAD reads.";
    default_pool_size: u32 = Some("20"), Int, ANY, Reload, Both, Works, Pgbouncer, "Server connections that one user may have in one database.";
    disable_pqexec: bool = Some("0"), Bool, ANY, Boot, None, Works, Pgbouncer, "Refuse the simple query protocol.";
    dns_max_ttl: Duration = Some("15"), Time, ANY, Reload, None, Works, Pgbouncer, "How long a looked-up host name is kept.";
    dns_nxdomain_ttl: Duration = Some("15"), Time, ANY, Reload, None, Works, Pgbouncer, "How long a failed look-up is kept.";
    dns_zone_check_period: Duration = Some("0"), Time, ANY, Reload, None, Works, Pgbouncer, "How often all host names of servers are looked up again; 0 = only when a server is opened.";
    idle_transaction_timeout: Duration = Some("0"), Time, ANY, Reload, User, Works, Pgbouncer, "Disconnect a client that is idle in a transaction this long; 0 = never.";
    ignore_startup_parameters: NameList = Some(""), List, ANY, Reload, None, Works, Pgbouncer, "Startup parameters to accept from clients and ignore.";
    job_name: String = Some("pgbouncer"), Text, ANY, Boot, None, Idle("PgBouncer uses it as the name of a Windows service only"), Pgbouncer, "The name of the program in its log.";
    listen_addr: NameList = Some(""), List, ANY, Boot, None, Works, Pgbouncer, "Addresses to listen on; `*` = all, empty = Unix socket only.";
    listen_backlog: u32 = Some("128"), Int, (1, i32::MAX as i64), Boot, None, Works, Pgbouncer, "The backlog given to listen(2); on a node of a pair at least 4096.";
    listen_port: u16 = Some("6432"), Int, (0, 65535), Boot, None, Works, Pgbouncer, "The port to listen on; it names the Unix socket, too.";
    log_connections: bool = Some("1"), Bool, ANY, Reload, None, Works, Pgbouncer, "Log successful logins.";
    log_disconnections: bool = Some("1"), Bool, ANY, Reload, None, Works, Pgbouncer, "Log disconnections with their reasons.";
    log_pooler_errors: bool = Some("1"), Bool, ANY, Reload, None, Works, Pgbouncer, "Log the errors that the pooler sends to clients.";
    log_stats: bool = Some("1"), Bool, ANY, Reload, None, Works, Pgbouncer, "Log a line of statistics every stats_period.";
    logfile: String = Some(""), File, ANY, Reload, None, Works, Pgbouncer, "The log file; empty = none.";
    login_notify_message: String = Some(""), Text, ANY, Reload, None, Works, Pgbouncer, "A notice to every client that has logged in.";
    max_client_conn: u32 = Some("100"), Int, ANY, Reload, None, Works, Pgbouncer, "Client connections in all.";
    max_db_client_connections: u32 = Some("0"), Int, ANY, Reload, Database, Works, Pgbouncer, "Client connections to one database; 0 = no limit.";
    max_db_connections: u32 = Some("0"), Int, ANY, Reload, Database, Works, Pgbouncer, "Server connections to one database; 0 = no limit.";
    max_packet_size: PacketSize = Some("2147483647"), Int, (0, u32::MAX as i64), Reload, None, Works, Pgbouncer, "The longest protocol message, in bytes, that is let through.";
    max_prepared_statements: u32 = Some("200"), Int, ANY, Reload, None, Works, Pgbouncer, "Prepared statements kept on one server connection; 0 = do not follow them.";
    max_user_client_connections: u32 = Some("0"), Int, ANY, Reload, User, Works, Pgbouncer, "Client connections of one user; 0 = no limit.";
    max_user_connections: u32 = Some("0"), Int, ANY, Reload, User, Works, Pgbouncer, "Server connections of one user; 0 = no limit.";
    min_pool_size: u32 = Some("0"), Int, ANY, Reload, Database, Works, Pgbouncer, "Server connections to keep open in each pool in use.";
    peer_id: u16 = Some("0"), Int, (0, 16383), Reload, None, Works, Pgbouncer, "The number of this process among its peers; 0 = no peering.";
    pidfile: String = Some(""), File, ANY, Boot, None, Works, Pgbouncer, "The file for the process id.";
    pkt_buf: u32 = Some("4096"), Int, (16, i32::MAX as i64), Boot, None, Idle("buffers grow and shrink with what passes"), Pgbouncer, "The size, in bytes, of the buffer of one connection.";
    pool_mode: PoolMode = Some("session"), Choice(PoolMode::WORDS), ANY, Reload, Both, Works, Pgbouncer, "When a server connection goes back to its pool.";
    pool_idle_timeout: Duration = Some("0"), Time, ANY, Reload, None, Works, Pgbouncer, "Forget a pool without connections after this time; 0 = never.";
    query_timeout: Duration = Some("0"), Time, ANY, Reload, User, Works, Pgbouncer, "Cancel a query that runs this long; 0 = never.";
    query_wait_notify: u32 = Some("5"), Int, ANY, Reload, None, Works, Pgbouncer, "Tell a client in the queue after this many seconds that it waits; 0 = do not.";
    query_wait_timeout: Duration = Some("120"), Time, ANY, Reload, Both, Works, Pgbouncer, "Disconnect a client that has waited this long for a server; 0 = never.";
    reserve_pool_size: u32 = Some("0"), Int, ANY, Reload, Both, Works, Pgbouncer, "Additional server connections for a pool whose clients wait too long.";
    reserve_pool_timeout: Duration = Some("5"), Time, ANY, Reload, None, Works, Pgbouncer, "How long a client waits before the reserve is used; 0 = reserve off.";
    resolv_conf: String = Some(""), File, ANY, Boot, None, Later("a resolver configuration of its own (the system's is used)"), Pgbouncer, "The resolver configuration to use instead of the system's.";
    sbuf_loopcnt: u32 = Some("5"), Int, ANY, Reload, None, Idle("every thread takes turns by itself"), Pgbouncer, "Buffers moved for one connection before the next has its turn; 0 = no limit.";
    scram_iterations: u32 = Some("4096"), Int, (1, i32::MAX as i64), Reload, None, Works, Pgbouncer, "Iterations in SCRAM secrets made from plain passwords.";
    server_check_delay: Duration = Some("30"), Time, ANY, Reload, None, Works, Pgbouncer, "Check a server connection before use when it was idle this long; 0 = always.";
    server_check_query: String = Some("<empty>"), Text, ANY, Reload, None, Works, Pgbouncer, "The query that checks a server connection; empty = no check, `<empty>` = an empty query.";
    server_connect_timeout: Duration = Some("15"), Time, ANY, Reload, None, Works, Pgbouncer, "Give up connecting and logging in to a server after this time; 0 = never.";
    server_fast_close: bool = Some("0"), Bool, ANY, Reload, None, Works, Pgbouncer, "Close servers in session pooling at the end of the transaction when they have to be closed.";
    server_idle_timeout: Duration = Some("600"), Time, ANY, Reload, None, Works, Pgbouncer, "Close a server connection that is idle this long; 0 = never.";
    server_lifetime: Duration = Some("3600"), Time, ANY, Reload, Database, Works, Pgbouncer, "Close an unused server connection that is older than this; 0 = use each only once.";
    server_login_retry: Duration = Some("15"), Time, ANY, Reload, None, Works, Pgbouncer, "Wait this long after a failed server login.";
    server_reset_query: String = Some("DISCARD ALL"), Text, ANY, Reload, None, Works, Pgbouncer, "The query that cleans a server connection before the next client, in session pooling.";
    server_reset_query_always: bool = Some("0"), Bool, ANY, Reload, None, Works, Pgbouncer, "Run server_reset_query in every pool mode.";
    server_round_robin: bool = Some("0"), Bool, ANY, Reload, None, Works, Pgbouncer, "Use server connections in turn instead of the last used first.";
    server_tls13_ciphers: Nullable = None, Text, ANY, Reload, None, Works, Pgbouncer, "TLS 1.3 cipher suites for servers.";
    server_tls_ca_file: String = Some(""), File, ANY, Reload, None, Works, Pgbouncer, "The certificates that sign server certificates.";
    server_tls_cert_file: String = Some(""), File, ANY, Reload, None, Works, Pgbouncer, "The certificate shown to servers.";
    server_tls_ciphers: String = Some("default"), Text, ANY, Reload, None, Works, Pgbouncer, "TLS 1.2 cipher suites for servers.";
    server_tls_key_file: String = Some(""), File, ANY, Reload, None, Works, Pgbouncer, "The private key of server_tls_cert_file.";
    server_tls_protocols: String = Some("secure"), Text, ANY, Reload, None, Works, Pgbouncer, "TLS versions allowed to servers.";
    server_tls_sslmode: SslMode = Some("prefer"), Choice(SslMode::WORDS), ANY, Reload, None, Works, Pgbouncer, "How much TLS is wanted of servers.";
    so_reuseport: bool = Some("0"), Bool, ANY, Boot, None, Works, Pgbouncer, "Share the listening port with other processes.";
    stats_period: u32 = Some("60"), Int, (1, i32::MAX as i64), Reload, None, Works, Pgbouncer, "Seconds over which averages are taken.";
    stats_users: NameList = Some(""), List, ANY, Reload, None, Works, Pgbouncer, "Users who may look, but not touch, on the admin console.";
    suspend_timeout: Duration = Some("10"), Time, ANY, Reload, None, Idle("SUSPEND answers at once and drops nobody; a restart has handover_timeout"), Pgbouncer, "Drop clients that hold up SUSPEND this long; 0 = never.";
    syslog: bool = Some("0"), Bool, ANY, Reload, None, Works, Pgbouncer, "Log to syslog.";
    syslog_facility: SyslogFacility = Some("daemon"), Choice(SyslogFacility::WORDS), ANY, Reload, None, Works, Pgbouncer, "The facility for syslog.";
    syslog_ident: String = Some("pgbouncer"), Text, ANY, Reload, None, Works, Pgbouncer, "The name for syslog.";
    tcp_defer_accept: bool = Some("1"), Bool, ANY, Reload, None, Works, Pgbouncer, "Take a client's connection only when it has sent something.";
    tcp_keepalive: bool = Some("1"), Bool, ANY, Reload, None, Works, Pgbouncer, "Use TCP keepalive.";
    tcp_keepcnt: u32 = Some("0"), Int, ANY, Reload, None, Works, Pgbouncer, "Lost keepalive probes before a connection is dead; 0 = the system's value.";
    tcp_keepidle: u32 = Some("0"), Int, ANY, Reload, None, Works, Pgbouncer, "Idle seconds before the first keepalive probe; 0 = the system's value.";
    tcp_keepintvl: u32 = Some("0"), Int, ANY, Reload, None, Works, Pgbouncer, "Seconds between keepalive probes; 0 = the system's value.";
    tcp_socket_buffer: u32 = Some("0"), Int, ANY, Reload, None, Works, Pgbouncer, "The size, in bytes, of the system's socket buffers; 0 = the system's value.";
    tcp_user_timeout: u32 = Some("0"), Int, ANY, Reload, None, Works, Pgbouncer, "Milliseconds that sent data may stay unacknowledged; 0 = the system's value.";
    track_extra_parameters: NameList = Some("IntervalStyle"), List, ANY, Boot, None, Works, Pgbouncer, "Parameters to keep for each client besides the standard ones.";
    transaction_timeout: Duration = Some("0"), Time, ANY, Reload, User, Works, Pgbouncer, "Cancel a transaction that runs this long; 0 = never.";
    unix_socket_dir: String = Some("/tmp"), File, ANY, Boot, None, Works, Pgbouncer, "The directory of the Unix socket; `@…` = abstract, empty = none.";
    unix_socket_group: String = Some(""), Text, ANY, Boot, None, Works, Pgbouncer, "The group that owns the Unix socket.";
    unix_socket_mode: FileMode = Some("0777"), Mode, (0, 0o7777), Boot, None, Works, Pgbouncer, "Permissions of the Unix socket.";
    user: Nullable = None, Text, ANY, Boot, None, Works, Pgbouncer, "The system user to become after the start.";
    verbose: Option<u32> = None, Int, ANY, Reload, None, Works, Pgbouncer, "How much to log, 0 to 3; as the flag -v.";
    drain_grace: Duration = Some("5"), Time, ANY, Reload, None, Works, Pgtandem, "In a shutdown that waits, leave clients alone this long, to go by themselves.";
    drain_spread: Duration = Some("15"), Time, ANY, Reload, None, Works, Pgtandem, "After drain_grace, close clients between transactions, evenly over this time; 0 = all at once.";
    drain_timeout: Duration = Some("45"), Time, ANY, Reload, None, Works, Pgtandem, "End a shutdown after this time, closing who is left; 0 = wait for ever, as PgBouncer.";
    handover_timeout: Duration = Some("30"), Time, ANY, Reload, None, Works, Pgtandem, "How long a restart waits for clients whose query is still running before it tells them to go.";
    hide_unknown_users: bool = Some("0"), Bool, ANY, Reload, None, Works, Pgtandem, "Let users whom auth_query does not find fail as with a wrong password, instead of `no such user`.";
    log_format: LogFormat = Some("pgbouncer"), Choice(LogFormat::WORDS), ANY, Boot, None, Works, Pgtandem, "The form of log lines.";
    unknown_prepared_statement: UnknownStatement = Some("disconnect"), Choice(UnknownStatement::WORDS), ANY, Reload, None, Works, Pgtandem, "A client uses a statement that it did not prepare: disconnect as PgBouncer, or only error.";
    worker_threads: u32 = Some("0"), Int, (0, 1024), Boot, None, Works, Pgtandem, "Threads that move data; 0 = one for each CPU core.";
}

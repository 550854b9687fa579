# The settings of [pgtandem] that a running process cannot change: those with "start" or "read at start only" in
# docs/settings.md. A change of one of them restarts the unit, which hands the clients over. tests/nix/run compares both lists.
[
  "disable_pqexec"
  "job_name"
  "listen_addr"
  "listen_backlog"
  "listen_port"
  "log_format"
  "pidfile"
  "pkt_buf"
  "resolv_conf"
  "so_reuseport"
  "stats_period"
  "tcp_defer_accept"
  "track_extra_parameters"
  "unix_socket_dir"
  "unix_socket_group"
  "unix_socket_mode"
  "user"
  "worker_threads"
]

"""The six hosts of the topology, as containers. `topology.nix` describes the same hosts for virtual machines; README.md tells
what both promise to the scenarios."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from driver.network import Network
from driver.root import Root

HOSTS = ("client", "pooler1", "pooler2", "primary", "replica1", "replica2")
# What a script finds as variables; topology.nix puts the same before its text.
VALUES = {"floating": "192.168.1.100", "floating6": "2001:db8:1::100"}

_HERE = Path(__file__).parent
_PACKAGING = _HERE.parent / "packaging"
_PROGRAMS = _HERE / "programs"
_PAIR_SECRET = "a secret of the scenarios, long enough for two nodes\n"
# A scenario that brings this file for a pooler has it read that file, instead of pgtandem.toml.
_INI = "/etc/pgbouncer/pgbouncer.ini"
_PAIR = ("pooler1", "pooler2")
_PRIORITY = {"pooler1": 150, "pooler2": 100}


def provision(name: str, root: Root, network: Network, scenario: Path) -> None:
    """Give a host what makes it this host, before its first boot."""
    root.write("/etc/hostname", f"{name}\n")
    root.write("/etc/hosts", network.hosts_file())
    # Without DNS an unknown name is to fail at once.
    root.write("/etc/resolv.conf", "")
    root.write("/etc/machine-id", hashlib.md5(name.encode(), usedforsecurity=False).hexdigest() + "\n", mode=0o444)
    if name == "client":
        _client(root)
    elif name in _PAIR:
        _pooler(name, root, network, scenario)
    else:
        _postgresql(name, root)
    _own_files(name, root, network, scenario)


# ---- client

def _client(root: Root) -> None:
    for program in sorted(_PROGRAMS.glob("*.py")):
        root.copy(program, f"/usr/local/bin/{program.stem}", mode=0o755)


# ---- poolers

def _pooler(name: str, root: Root, network: Network, scenario: Path) -> None:
    root.copy(Path(os.environ["PGTANDEM_BIN"]), "/usr/bin/pgtandem", mode=0o755)
    for unit in ("pgtandem.service", "pgtandem-helper.service", "pgtandem-helper.socket"):
        root.unit(unit, _as_packaged((_PACKAGING / unit).read_text()))
    root.enable("pgtandem.service", "multi-user.target")
    root.enable("pgtandem-helper.socket", "sockets.target")
    folder = "/etc/pgtandem"
    text = _settings(name, network)
    chosen = scenario.with_suffix(".toml")
    if chosen.exists():
        text = _filled_in(chosen.read_text(), name, network)
    root.write(f"{folder}/pgtandem.toml", text)
    # Root's alone: systemd hands them over, under the names of the settings.
    root.write("/etc/systemd/system/pgtandem.service.d/secrets.conf",
               # systemd 257 gives the command of a reload no credentials.
               "[Service]\nExecReload=\nExecReload=/usr/bin/pgtandem check -q --without-files ${PGTANDEM_CONFIG}\n"
               f"LoadCredential=auth_file:{folder}/userlist.txt\n"
               f"LoadCredential=pair_secret_file:{folder}/pair.secret\n")
    if any((scenario.with_suffix("") / group / _INI.lstrip("/")).exists() for group in ("poolers", name)):
        # As the module does it with pgbouncerConfigFile.
        root.write("/etc/systemd/system/pgtandem.service.d/ini.conf",
                   f"[Service]\nEnvironment=PGTANDEM_CONFIG={_INI}\n"
                   "RuntimeDirectory=pgbouncer postgresql\nLogsDirectory=pgbouncer\n")
    root.write(f"{folder}/userlist.txt", '"app" "secret"\n"admin" "admin-secret"\n', mode=0o600)
    root.write(f"{folder}/pair.secret", _PAIR_SECRET, mode=0o600)


def _as_packaged(text: str) -> str:
    """A unit of packaging/ as the NixOS module has it: the program of the system, a user of its own, TOML."""
    for old, new in (("/usr/local/bin/pgtandem", "/usr/bin/pgtandem"), ("User=postgres", "User=pgtandem"),
                     ("/etc/pgtandem/pgtandem.ini", "/etc/pgtandem/pgtandem.toml")):
        text = text.replace(old, new)
    return text


def _settings(name: str, network: Network) -> str:
    """pgtandem.toml of a scenario that says nothing else."""
    text = """\
[pgtandem]
listen_addr = "*"
listen_port = 6432
unix_socket_dir = "/run/pgtandem"
auth_type = "scram-sha-256"
auth_file = "/run/credentials/pgtandem.service/auth_file"
admin_users = ["admin"]
pool_mode = "transaction"
max_client_conn = 1000
server_login_retry = 1

[databases.app]
host = "primary"
port = 5432
"""
    if "replica1" in network.numbers:
        text += '\n[databases.app_ro]\nhost = ["replica1", "replica2"]\nport = 5432\ndbname = "app"\n'
    if all(node in network.numbers for node in _PAIR):
        text += _filled_in(f"""
[ha]
interface = "eth1"
address = ["{VALUES["floating"]}", "{VALUES["floating6"]}"]
virtual_router_id = 51
priority = {_PRIORITY[name]}
peer_address = ["@peer@"]
pair_secret_file = "/run/credentials/pgtandem.service/pair_secret_file"
""", name, network)
    return text


def _filled_in(text: str, name: str, network: Network) -> str:
    """`@peer@` becomes the address of the pair's other node, `@self@` the host's own, `@primary@` the primary's, and so on."""
    for host in network.numbers:
        text = text.replace(f"@{host}@", network.address(host))
    if name in _PAIR:
        peer = _PAIR[1 - _PAIR.index(name)]
        text = text.replace("@peer@", network.address(peer) if peer in network.numbers else "")
        text = text.replace("@priority@", str(_PRIORITY[name])).replace("@peer_priority@", str(_PRIORITY[peer]))
    return text.replace("@self@", network.address(name))


def _own_files(name: str, root: Root, network: Network, scenario: Path) -> None:
    """The files below `NAME/HOST/` or, for both poolers, `NAME/poolers/`, beside a scenario `NAME.py`."""
    for group in (["poolers"] if name in _PAIR else []) + [name]:
        top = scenario.with_suffix("") / group
        for source in sorted(path for path in top.rglob("*") if path.is_file()):
            path = f"/{source.relative_to(top)}"
            # There are secrets among what belongs to the program; systemd hands them over.
            mode = 0o600 if path.startswith("/etc/pgtandem/") and not path.endswith(".toml") else 0o644
            root.write(path, _filled_in(source.read_text(), name, network), mode=mode)


# ---- PostgreSQL: units of the names that NixOS has

_BIN = "/usr/lib/postgresql/17/bin"
_DATA = "/var/lib/postgresql/17"
_CONF = "/etc/postgresql/postgresql.conf"
_LIB = "/usr/local/lib/vm-tests"

_SERVICE = f"""\
[Unit]
Description=PostgreSQL Server
After=network.target

[Service]
Type=notify
User=postgres
Group=postgres
Environment=PGDATA={_DATA}
ExecStart={_BIN}/postgres -D {_DATA} -c config_file={_CONF}
ExecReload=/bin/kill -HUP $MAINPID
KillMode=mixed
KillSignal=SIGINT
TimeoutSec=120
RuntimeDirectory=postgresql
Restart=on-failure
RestartSec=1

[Install]
WantedBy=multi-user.target
"""
_SETUP = f"""\
[Unit]
Description=PostgreSQL setup scripts
Requires=postgresql.service
After=postgresql.service

[Service]
Type=oneshot
RemainAfterExit=yes
User=postgres
Group=postgres
ExecStart={_LIB}/setup
"""
_TARGET = """\
[Unit]
Description=PostgreSQL
Requires=postgresql.service{setup}
After=postgresql.service{setup}
"""
# A oneshot unit before postgresql.service; it does nothing at later boots.
_FIRST = """\
[Unit]
Description={description}
After=network.target
Before=postgresql.service
ConditionPathExists=!{data}/PG_VERSION

[Service]
Type=oneshot
RemainAfterExit=yes
User=postgres
Group=postgres
ExecStart={lib}/first
TimeoutStartSec=600
"""
_INITDB = f"""\
#!/bin/bash
set -euo pipefail
{_BIN}/initdb --pgdata={_DATA} --username=postgres --encoding=UTF8 --locale=C.UTF-8 --auth=peer --no-sync
"""
# The primary may still be booting.
_BASEBACKUP = f"""\
#!/bin/bash
set -uo pipefail
until {_BIN}/pg_basebackup --dbname='host=primary user=replicator password=secret connect_timeout=2' --pgdata={_DATA} \\
    --write-recovery-conf --wal-method=stream --checkpoint=fast --no-sync; do
    rm -rf {_DATA}/*
    sleep 0.3
done
"""
# All of it or, after a crash in the middle, all of it again.
_SETUP_SCRIPT = f"""\
#!/bin/bash
set -euo pipefail
[ ! -e {_DATA}/.set-up ] || exit 0
psql -XqAt -v ON_ERROR_STOP=1 -d postgres <<'SQL'
DROP DATABASE IF EXISTS app;
DROP ROLE IF EXISTS app, replicator;
CREATE ROLE replicator LOGIN REPLICATION PASSWORD 'secret';
CREATE ROLE app LOGIN PASSWORD 'secret' IN ROLE pg_monitor;
CREATE DATABASE app OWNER app;
SQL
touch {_DATA}/.set-up
"""


def _postgresql(name: str, root: Root) -> None:
    primary = name == "primary"
    root.write(_CONF, _postgresql_conf(name))
    root.write("/etc/postgresql/pg_hba.conf", """\
local all all peer
host all all samenet scram-sha-256
host all all 127.0.0.1/32 scram-sha-256
host all all ::1/128 scram-sha-256
host replication replicator samenet scram-sha-256
""")
    root.unit("postgresql.service", _SERVICE, "multi-user.target")
    first, description = ("postgresql-initdb.service", "PostgreSQL data folder") if primary else (
        "postgresql-basebackup.service", "PostgreSQL data folder, as a copy of the primary's")
    root.unit(first, _FIRST.format(description=description, data=_DATA, lib=_LIB))
    # Wanted, not required: at later boots its condition does not hold, and that is no failure.
    root.write("/etc/systemd/system/postgresql.service.d/first.conf", f"[Unit]\nWants={first}\nAfter={first}\n")
    root.write(f"{_LIB}/first", _INITDB if primary else _BASEBACKUP, mode=0o755)
    if primary:
        root.unit("postgresql-setup.service", _SETUP)
        root.write(f"{_LIB}/setup", _SETUP_SCRIPT, mode=0o755)
    root.unit("postgresql.target", _TARGET.format(setup=" postgresql-setup.service" if primary else ""), "multi-user.target")
    root.folder(_DATA, "postgres", 0o700)


def _postgresql_conf(name: str) -> str:
    # Containers share their machine's disk and its fate: fsync would only wait for the machine. A crash of a container loses
    # nothing that was written.
    return f"""\
data_directory = '{_DATA}'
hba_file = '/etc/postgresql/pg_hba.conf'
ident_file = '{_DATA}/pg_ident.conf'
external_pid_file = ''
listen_addresses = '*'
unix_socket_directories = '/run/postgresql'
max_connections = 200
shared_buffers = 32MB
wal_level = replica
hot_standby = on
wal_keep_size = 256MB
max_wal_senders = 10
wal_receiver_timeout = 5s
wal_sender_timeout = 5s
wal_retrieve_retry_interval = 500ms
cluster_name = '{name}'
log_destination = stderr
fsync = off
full_page_writes = off
log_min_messages = warning
"""

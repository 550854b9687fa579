"""Everything one test session owns: the folder, the certificates, the cluster, and the poolers made from them."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from pathlib import Path

from . import certificates, process
from .configuration import Ini, Mapping, write_userlist
from .pooler import Pooler
from .ports import free_port
from .postgres import Cluster

INPUTS = Path(__file__).resolve().parents[1] / "inputs"
_PREFIX = "pgtandem-e2e-"


class Folder:
    """A short temporary folder (Unix socket paths end at 107 bytes), named after the process that owns it."""

    def __init__(self, user: str | None):
        sweep()
        self.path = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir="/tmp"))
        process.give_to_user(self.path, user)
        self.path.chmod(0o755)

    def remove(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        if self.path.exists():
            raise AssertionError(f"could not remove {self.path}")


def sweep() -> None:
    """Remove folders whose test process was killed before it could."""
    for left in Path("/tmp").glob(_PREFIX + "*"):
        owner = re.match(rf"{_PREFIX}(\d+)-", left.name)
        if owner and not Path(f"/proc/{owner[1]}").exists():
            shutil.rmtree(left, ignore_errors=True)


class Deployment:
    """A cluster with certificates, and poolers in front of it."""

    def __init__(self, stand_in: bool = False) -> None:
        self.stand_in = stand_in
        self.user = process.unprivileged_user()
        self.folder = Folder(self.user)
        self.base = self.folder.path
        self.poolers: list[Pooler] = []
        self.cluster: Cluster | None = None
        try:
            self._make_certificates()
            self.cluster = Cluster(self.base, self.user, self.server_cert, self.ca.cert, INPUTS)
            self.cluster.start()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        for pooler in list(self.poolers):
            self.discard(pooler)
        if self.cluster is not None:
            self.cluster.stop()
        self.folder.remove()

    def discard(self, pooler: Pooler) -> None:
        """Stop a pooler and remove its files."""
        pooler.stop()
        if pooler in self.poolers:
            self.poolers.remove(pooler)
        shutil.rmtree(pooler.folder, ignore_errors=True)

    def _make_certificates(self) -> None:
        place = self.base / "tls"
        place.mkdir()
        self.tls = place
        self.ca = certificates.authority(place, "ca")
        self.server_cert = certificates.self_signed(place, "postgres", "postgres-primary")
        self.pooler_cert = certificates.self_signed(place, "pgbouncer", "pgbouncer-service")
        self.readable(place)

    def readable(self, place: Path | None = None) -> None:
        """Hand every key and certificate to the account that the servers run as."""
        for path in (place or self.tls).rglob("*"):
            process.give_to_user(path, self.user)
        process.give_to_user(place or self.tls, self.user)

    def new_folder(self, name: str) -> Path:
        path = Path(tempfile.mkdtemp(prefix=name + "-", dir=self.base))
        path.chmod(0o755)
        process.give_to_user(path, self.user)
        return path

    # -- poolers

    def revenue_engine(self) -> Pooler:
        """The revenue-engine configuration, unchanged but for host names, ports and file paths."""
        folder, port = self.new_folder("revenue"), free_port()
        nodes = [self.cluster.primary, *self.cluster.replicas]
        for part in ("etc", "log", "run", "tls"):
            (folder / part).mkdir()
        users = (INPUTS / "revenue-engine/userlist.txt").read_text()
        if self.stand_in:
            # PgBouncer knows only `;` as the start of a comment: at the operators' `#` line it gives up the whole
            # file. The pooler under test must take the file as it is.
            users = users.replace("# PgBouncer", "; PgBouncer")
        (folder / "etc/userlist.txt").write_text(users)
        mapping = Mapping()
        for node in nodes:
            mapping.put(f"host={node.name} port=5432", f"host=127.0.0.1 port={node.port}")
        mapping.put("listen_port = 6432", f"listen_port = {port}")
        mapping.put("unix_socket_dir = /tmp", f"unix_socket_dir = {folder}")
        mapping.put("/etc/pgbouncer/userlist.txt", str(folder / "etc/userlist.txt"))
        mapping.put("/var/log/pgbouncer/pgbouncer.log", str(folder / "log/pgbouncer.log"))
        mapping.put("/var/run/pgbouncer/pgbouncer.pid", str(folder / "run/pgbouncer.pid"))
        mapping.put("/etc/ssl/certs/pgbouncer.crt", str(folder / "tls/pgbouncer.crt"))
        mapping.put("/etc/ssl/private/pgbouncer.key", str(folder / "tls/pgbouncer.key"))
        mapping.put("/etc/ssl/certs/ca.crt", str(folder / "tls/ca.crt"))
        shutil.copy(self.pooler_cert.cert, folder / "tls/pgbouncer.crt")
        shutil.copy(self.pooler_cert.key, folder / "tls/pgbouncer.key")
        shutil.copy(self.server_cert.cert, folder / "tls/ca.crt")
        self.readable(folder)
        text = mapping.apply((INPUTS / "revenue-engine/pgbouncer.ini").read_text())
        pooler = Pooler(folder, text, port, self.user, folder)
        pooler.logfile = folder / "log/pgbouncer.log"
        pooler.admin_user, pooler.admin_password = "pgbouncer_admin", "secure_admin_password"
        pooler.admin_sslmode = "require"
        return self._launch(pooler)

    def enterprisescanner(self) -> Pooler:
        """The enterprisescanner configuration, unchanged but for ports and file paths."""
        folder, port = self.new_folder("scanner"), free_port()
        shutil.copy(INPUTS / "enterprisescanner/userlist.txt", folder / "userlist.txt")
        mapping = Mapping()
        mapping.put("host=127.0.0.1 port=5432", f"host=127.0.0.1 port={self.cluster.primary.port}")
        mapping.put("listen_port = 6432", f"listen_port = {port}")
        mapping.put("/etc/pgbouncer/userlist.txt", str(folder / "userlist.txt"))
        mapping.put("/var/run/postgresql/pgbouncer.pid", str(folder / "pgbouncer.pid"))
        text = mapping.apply((INPUTS / "enterprisescanner/pgbouncer.ini").read_text())
        # The file sets no unix_socket_dir, so the socket is in /tmp, under a port of its own.
        pooler = Pooler(folder, text, port, self.user, Path("/tmp"))
        pooler.admin_user, pooler.admin_password = "admin", "SecurePass2024!"
        return self._launch(pooler)

    def pooler(self, databases: dict[str, str] | None = None, users: dict[str, str] | None = None,
               secrets: dict[str, str] | None = None, start: bool = True, **settings) -> Pooler:
        """A pooler for one behaviour: transaction pooling in front of the primary's database `app`, user `app`.

        `databases`, `users` and `settings` are lines of the sections; a setting of None is left out.
        """
        folder, port = self.new_folder("pooler"), free_port()
        write_userlist(folder / "userlist.txt", {
            "console": "console password", "stats": "stats password", "app": "app password",
            "alice": "alice password", "bob": "bob password", **(secrets or {})})
        base: dict[str, object] = {
            "listen_addr": "127.0.0.1", "listen_port": port, "unix_socket_dir": folder, "auth_type": "md5",
            "auth_file": folder / "userlist.txt", "admin_users": "console", "stats_users": "stats",
            "pool_mode": "transaction", "max_client_conn": 500, "server_login_retry": 1,
            "logfile": folder / "pgbouncer.log", **settings}
        chosen = databases if databases is not None else {"app": self.to_primary()}
        ini = Ini(chosen, {k: v for k, v in base.items() if v is not None}, users or {})
        pooler = Pooler(folder, ini.text(), port, self.user, folder)
        pooler.logfile = folder / "pgbouncer.log"
        pooler.configuration = ini
        if start:
            return self._launch(pooler)
        self.poolers.append(pooler)
        return pooler

    def to_primary(self, more: str = "", dbname: str = "app") -> str:
        """The value of a [databases] line that leads to the primary."""
        return f"host=127.0.0.1 port={self.cluster.primary.port} dbname={dbname} {more}".strip()

    def to_replica(self, number: int, more: str = "", dbname: str = "app") -> str:
        """The value of a [databases] line that leads to replica 0 or 1."""
        return f"host=127.0.0.1 port={self.cluster.replicas[number].port} dbname={dbname} {more}".strip()

    def _launch(self, pooler: Pooler) -> Pooler:
        self.poolers.append(pooler)
        return pooler.start()

"""What runs on a node: pgtandem, or keepalived in its place."""

from __future__ import annotations

import os
import signal
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from .lab import FLOATING4, FLOATING6, Lab, address, chown, run
from .waiting import until

VRID = 51
PORT = 6432
SECRET = "a secret of the tests, long enough for two"


@dataclass
class Wish:
    """How the pair is to be set up."""

    interval_ms: int = 100
    version: int = 3
    unicast: bool = False
    preempt: bool = False
    families: str = "46"
    priorities: tuple[int, int] = (150, 100)
    settings: str = ""
    ha: str = ""
    databases: str = "app = host=10.77.0.20 port=5432"
    secrets: tuple[str, str] = (SECRET, SECRET)

    def priority(self, host: str) -> int:
        return self.priorities["ab".index(host)]

    def addresses(self) -> list[str]:
        return [one for one, family in ((FLOATING4, "4"), (FLOATING6, "6")) if family in self.families]


class Node:
    """A daemon on a host, and the echo beside it."""

    name = ""

    def __init__(self, lab: Lab, host: str, wish: Wish):
        self.lab, self.host, self.wish = lab, host, wish
        self.folder = lab.folder / f"{host}-{self.name}"
        self.folder.mkdir(exist_ok=True)
        chown(self.folder)
        self.log = self.folder / "log"
        self.process: subprocess.Popen | None = None

    @property
    def peer(self) -> str:
        return "b" if self.host == "a" else "a"

    def is_active(self) -> bool:
        return all(self.lab.holds(self.host, which) for which in self.wish.addresses())

    def pids(self) -> list[int]:
        raise NotImplementedError

    def signal(self, number: int) -> None:
        for pid in self.pids():
            os.kill(pid, number)

    def text(self) -> str:
        return self.log.read_text() if self.log.exists() else ""


class Keepalived(Node):
    """keepalived with its defaults, but for what a test is about."""

    name = "keepalived"

    def start(self) -> "Keepalived":
        blocks = []
        for family, which in (("4", FLOATING4), ("6", FLOATING6)):
            if family not in self.wish.families:
                continue
            length = 32 if family == "4" else 128
            peer, own = address(self.peer, int(family)), address(self.host, int(family))
            unicast = f"unicast_src_ip {own}\n unicast_peer {{ {peer} }}" if self.wish.unicast else ""
            blocks.append(
                f"vrrp_instance V{family} {{\n version {self.wish.version}\n state BACKUP\n interface eth0\n"
                f" virtual_router_id {VRID}\n priority {self.wish.priority(self.host)}\n"
                f" advert_int {self.wish.interval_ms / 1000:g}\n {'' if self.wish.preempt else 'nopreempt'}\n {unicast}\n"
                f" virtual_ipaddress {{ {which}/{length} }}\n}}\n")
        config = self.folder / "keepalived.conf"
        config.write_text("global_defs {\n router_id test\n vrrp_version 3\n}\n" + "".join(blocks))
        log = self.log.open("a")
        for left_behind in (self.folder / "pid", self.folder / "vrrp"):
            left_behind.unlink(missing_ok=True)
        self.process = self.lab.spawn(
            self.host, "keepalived", "-n", "-l", "-P", "-D", "-f", config, "-p", self.folder / "pid", "-r",
            self.folder / "vrrp", stdout=log, stderr=log)
        until(lambda: len(self.pids()) > 1, "keepalived runs")
        return self

    def pids(self) -> list[int]:
        found = [self.folder / "pid", self.folder / "vrrp"]
        return [int(path.read_text()) for path in found if path.exists() and path.read_text().strip()]

    def stop(self) -> None:
        os.kill(self.pids()[0], signal.SIGTERM)
        assert self.process is not None
        self.process.wait(timeout=20)

    switch_over = stop

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        assert self.process is not None
        self.process.wait(timeout=20)


@dataclass
class Started:
    """The two processes of a node."""

    pooler: int
    helper: int


class Pgtandem(Node):
    """The program under test, started as an operator without systemd does it: as root, with the setting user."""

    name = "pgtandem"
    binary: Path = field(init=False)

    def configure(self) -> Path:
        wish = self.wish
        users, secret, file = self.folder / "users", self.folder / "secret", self.folder / "pgtandem.ini"
        users.write_text('"admin" "x"\n"app" "app"\n"postgres" "x"\n')
        secret.write_text(wish.secrets["ab".index(self.host)])
        peers = ",".join(address(self.peer, int(family)) for family in wish.families) if wish.unicast else \
            address(self.peer)
        file.write_text(
            f"[databases]\n{wish.databases}\n[pgbouncer]\nlisten_addr = *\nlisten_port = {PORT}\n"
            f"unix_socket_dir = {self.folder}\nauth_type = trust\nauth_file = {users}\nadmin_users = admin\n"
            f"pool_mode = transaction\npidfile = {self.folder}/pid\nlogfile = {self.log}\nuser = postgres\n"
            f"max_client_conn = 1000\nserver_login_retry = 1\n{wish.settings}\n"
            f"[ha]\nnode_name = node-{self.host}\ninterface = eth0\naddress = {','.join(wish.addresses())}\n"
            f"virtual_router_id = {VRID}\npriority = {wish.priority(self.host)}\nvrrp_version = {wish.version}\n"
            f"advertisement_interval_ms = {wish.interval_ms}\npreempt = {int(wish.preempt)}\n"
            f"unicast = {int(wish.unicast)}\n"
            + ("" if "peer_address" in wish.ha else f"peer_address = {peers}\npair_secret_file = {secret}\n") + f"{wish.ha}\n")
        for path in (users, secret, file):
            path.chmod(0o600)
            chown(path)
        return file

    def start(self) -> "Pgtandem":
        file = self.configure()
        done = subprocess.run(
            ["ip", "netns", "exec", self.lab.namespace(self.host), os.environ["PGTANDEM_BIN"], "-d", str(file)],
            capture_output=True, text=True, timeout=30, check=False)
        assert done.returncode == 0, f"start of {self.host}: {done.stdout}{done.stderr}\n{self.text()}"
        return self

    def pids(self) -> list[int]:
        return [self.pooler()]

    def pooler(self) -> int:
        return int((self.folder / "pid").read_text())

    def helper(self) -> int:
        children = Path(f"/proc/{self.pooler()}/task/{self.pooler()}/children").read_text().split()
        found = [int(pid) for pid in children if b"address-helper" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        assert len(found) == 1, f"helpers of {self.host}: {found}"
        return found[0]

    def processes(self) -> Started:
        return Started(self.pooler(), self.helper())

    def runs(self) -> bool:
        try:
            os.kill(self.pooler(), 0)
        except (OSError, ValueError):
            return False
        return True

    def kill(self) -> None:
        """SIGKILL of the pooler; the helper sees it."""
        self.signal(signal.SIGKILL)
        until(lambda: not self.runs(), "the pooler is gone", interval=0.001)

    def die(self) -> None:
        """Both at once, as when the power goes."""
        both = self.processes()
        os.kill(both.helper, signal.SIGSTOP)
        os.kill(both.pooler, signal.SIGKILL)
        os.kill(both.helper, signal.SIGKILL)

    def stop(self) -> None:
        pid = self.pooler()
        os.kill(pid, signal.SIGTERM)
        until(lambda: not Path(f"/proc/{pid}").exists(), f"the pooler of {self.host} has ended", timeout=30)

    def reload(self) -> None:
        self.configure()
        os.kill(self.pooler(), signal.SIGHUP)

    def console(self, command: str, user: str = "admin") -> list[dict[str, str]]:
        """Rows of a console command, by column."""
        output = run("psql", "-X", "-w", "--csv", "-h", str(self.folder), "-p", str(PORT), "-U", user, "pgbouncer", "-c",
                     command)
        lines = output.splitlines()
        import csv
        return list(csv.DictReader(lines))

    def switch_over(self) -> None:
        self.console("SWITCHOVER")

    def ha(self, column: str) -> list[str]:
        return [row[column] for row in self.console("SHOW HA")]


KINDS = {kind.name: kind for kind in (Keepalived, Pgtandem)}

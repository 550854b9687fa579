"""Throwaway servers for the demo and the benchmarks: PostgreSQL, poolers, and all that must be gone afterwards.

Everything a Lab starts runs as an unprivileged user, keeps its files in the lab's temporary directory, listens on
loopback only, and is stopped when the lab is left, for whatever reason it is left. Python's standard library only.
"""

import ctypes
import glob
import hashlib
import os
import pwd
import re
import shutil
import signal
import socket
import ssl
import struct
import subprocess
import tempfile
import time

LOOPBACK = "127.0.0.1"


class Failed(Exception):
    """Something the person at the terminal must know; the text says what to do."""


class Stopped(Exception):
    """A signal asked us to stop."""

    def __init__(self, signum):
        super().__init__(signal.Signals(signum).name)
        self.signum = signum


def free_ports(count):
    """Ports that nobody listens on now. They are reserved together, so that they differ."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind((LOOPBACK, 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def postgres_bin():
    """The directory of PostgreSQL's programs: $PG_BINDIR, the newest one of Debian, or the one on PATH."""
    debian = sorted(glob.glob("/usr/lib/postgresql/*/bin"), key=lambda path: float(path.split("/")[4]))
    on_path = shutil.which("postgres")
    found = [os.environ.get("PG_BINDIR", "")] + debian[::-1]
    found += [os.path.dirname(os.path.realpath(on_path))] if on_path else []
    for folder in found:
        if all(os.access(os.path.join(folder, name), os.X_OK) for name in ("postgres", "initdb", "pgbench", "psql")):
            return folder
    raise Failed("no PostgreSQL server programs found: install postgresql, or set PG_BINDIR to their directory")


def _die_with_parent(signum):
    """Runs in the child: if this script is killed outright, the kernel stops its children."""
    libc = ctypes.CDLL(None)
    return lambda: libc.prctl(1, signum)


class Lab:
    """One temporary directory, the processes started for it, and the user that they run as."""

    def __init__(self, name):
        self.processes = []  # (Popen, name, signals to stop it: asked, told)
        self.user = None
        self.dir = None
        self.name = name
        self.pg = postgres_bin()
        if os.geteuid() == 0:
            names = {entry.pw_name: entry for entry in pwd.getpwall()}
            self.user = names.get("postgres") or names.get("nobody")
            if not self.user:
                raise Failed("PostgreSQL does not run as root, and there is no user postgres or nobody to run it")

    def __enter__(self):
        def stop(signum, _frame):
            raise Stopped(signum)

        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(signum, stop)
        # As root not below $TMPDIR, which the other user may not be able to enter.
        self.dir = tempfile.mkdtemp(prefix=self.name + "-", dir="/tmp" if self.user else None)
        self._own(self.dir)
        return self

    def __exit__(self, *_):
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(signum, signal.SIG_IGN)
        for process, _, _ in reversed(self.processes):
            self.stop(process)
        shutil.rmtree(self.dir, ignore_errors=True)

    def _own(self, path):
        if self.user:
            os.chown(path, self.user.pw_uid, self.user.pw_gid)

    def path(self, *names):
        return os.path.join(self.dir, *names)

    def write(self, name, text, mode=0o600):
        """A file in the lab's directory that the lab's user may read."""
        path = self.path(name)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(path, mode)
        self._own(path)
        return path

    def program(self, path, name):
        """A copy of a program where the lab's user can run it (a home directory may be closed to that user)."""
        if not os.access(path, os.X_OK):
            raise Failed(f"{path} is not a program")
        copy = self.path(name)
        shutil.copyfile(path, copy)
        os.chmod(copy, 0o755)
        return copy

    def _how(self, env):
        clean = {key: value for key, value in os.environ.items() if not key.startswith("PG")}
        clean.update(HOME=self.dir, LC_ALL="C", **(env or {}))
        how = {"env": clean, "cwd": self.dir, "stdin": subprocess.DEVNULL, "start_new_session": True}
        if self.user:
            how.update(user=self.user.pw_uid, group=self.user.pw_gid, extra_groups=[])
        return how

    def run(self, *args, env=None):
        """Runs a program to its end and returns what it printed."""
        done = subprocess.run(args, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **self._how(env))
        if done.returncode != 0:
            raise Failed(f"{os.path.basename(args[0])} failed:\n{(done.stderr or done.stdout).strip()[-2000:]}")
        return done.stdout

    def spawn(self, *args, name, env=None, stop=(signal.SIGTERM, signal.SIGQUIT), orphaned=signal.SIGKILL):
        """Starts a program that runs until it is stopped; what it prints goes to NAME.log."""
        with open(self.path(name + ".log"), "ab") as log:
            process = subprocess.Popen(
                args, stdout=log, stderr=log, preexec_fn=_die_with_parent(orphaned), **self._how(env)
            )
        self.processes.append((process, name, stop))
        return process

    def stop(self, process):
        """Asks the process to stop, then tells it, then kills it."""
        entry = next(entry for entry in self.processes if entry[0] is process)
        for signum, patience_s in zip((*entry[2], signal.SIGKILL), (4, 4, 4)):
            if process.poll() is not None:
                break
            process.send_signal(signum)
            try:
                process.wait(patience_s)
            except subprocess.TimeoutExpired:
                continue
        self.processes.remove(entry)

    def log(self, name):
        """The end of a process's output, for error messages."""
        try:
            with open(self.path(name + ".log"), encoding="utf-8", errors="replace") as file:
                return "".join(file.readlines()[-15:])
        except OSError:
            return ""

    def wait_for(self, what, ready, process=None, name=None, patience_s=30):
        """Calls ready() until it returns something true; a connection refused meanwhile is no failure."""
        end = time.monotonic() + patience_s
        while True:
            try:
                value = ready()
                if value:
                    return value
                error = "not yet"
            except (OSError, PgError) as caught:
                error = caught
            if process is not None and process.poll() is not None:
                raise Failed(f"{name} ended with status {process.returncode}:\n{self.log(name)}")
            if time.monotonic() > end:
                raise Failed(f"{what}: {error}\n{self.log(name) if name else ''}")
            time.sleep(0.05)

    # PostgreSQL

    def initdb(self, name):
        self.run(self.pg + "/initdb", "-D", self.path(name), "-U", "postgres", "-A", "trust", "-E", "UTF8",
                 "--locale=C", "--no-sync", "--no-instructions")  # fmt: skip
        return self.path(name)

    def postgres(self, name, port, settings):
        """Starts the cluster in directory NAME and waits until it takes connections on its Unix socket."""
        lines = {"listen_addresses": LOOPBACK, "port": port, "unix_socket_directories": self.dir, "fsync": "off",
                 "cluster_name": name, **settings}  # fmt: skip
        with open(self.path(name, "postgresql.auto.conf"), "a", encoding="utf-8") as conf:
            conf.writelines(f"{key} = '{value}'\n" for key, value in lines.items())
        process = self.spawn(self.pg + "/postgres", "-D", self.path(name), name=name,
                             stop=(signal.SIGINT, signal.SIGQUIT), orphaned=signal.SIGQUIT)  # fmt: skip
        self.wait_for(f"{name} does not start", lambda: self.sql(port, "SELECT 1", quiet=True), process, name)
        return process

    def sql(self, port, text, database="postgres", quiet=False):
        """Runs SQL as the superuser and returns the rows as lists of strings."""
        args = [self.pg + "/psql", "-XAtq", "-F", "\t", "-v", "ON_ERROR_STOP=1", "-h", self.dir, "-p", str(port)]
        try:
            out = self.run(*args, "-U", "postgres", "-d", database, "-c", text)
        except Failed:
            if quiet:
                return None
            raise
        return [row.split("\t") for row in out.splitlines()]


def descendants(pid):
    """The process and all below it."""
    found = [pid]
    for each in found:
        for path in glob.glob(f"/proc/{each}/task/*/children"):
            try:
                with open(path, encoding="ascii") as file:
                    found += [int(child) for child in file.read().split()]
            except OSError:
                continue
    return found


def cpu_seconds(pid):
    """User and system time of a process with all its threads, its children and those that it has reaped."""
    ticks = 0
    for each in descendants(pid):
        try:
            with open(f"/proc/{each}/stat", encoding="ascii", errors="replace") as file:
                fields = file.read().rpartition(")")[2].split()
        except OSError:
            continue
        ticks += sum(int(field) for field in fields[11:15])
    return ticks / os.sysconf("SC_CLK_TCK")


def rss_kib(pid):
    """Resident memory of a process and its children."""
    total = 0
    for each in descendants(pid):
        with open(f"/proc/{each}/status", encoding="ascii", errors="replace") as file:
            total += int(re.search(r"VmRSS:\s+(\d+)", file.read()).group(1))
    return total


class PgError(Exception):
    """An ErrorResponse, as its message text."""


class PgClient:
    """The smallest PostgreSQL client: TLS, trust, clear-text and md5 passwords, the simple query protocol."""

    def __init__(self, port, user, database, password="", tls=False, host=LOOPBACK, timeout_s=10):
        self.socket = socket.create_connection((host, port), timeout_s)
        try:
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if tls:
                self._start_tls(host)
            pairs = f"user\0{user}\0database\0{database}\0application_name\0pgtandem-demo\0\0".encode()
            self.socket.sendall(struct.pack("!II", len(pairs) + 8, 196608) + pairs)
            self.input = self.socket.makefile("rb")
            self._login(user, password)
        except BaseException:
            self.socket.close()
            raise

    def _start_tls(self, host):
        self.socket.sendall(struct.pack("!II", 8, 80877103))
        if self.socket.recv(1) != b"S":
            raise PgError("the server does not offer TLS")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        self.socket = context.wrap_socket(self.socket, server_hostname=host)

    def _read(self):
        head = self.input.read(5)
        if len(head) < 5:
            raise PgError("the server closed the connection")
        body = self.input.read(struct.unpack("!I", head[1:])[0] - 4)
        if head[:1] == b"E":
            fields = {field[:1]: field[1:].decode(errors="replace") for field in body.split(b"\0") if field}
            raise PgError(fields.get(b"M", "unknown error"))
        return head[:1], body

    def _login(self, user, password):
        def send(text):
            self.socket.sendall(b"p" + struct.pack("!I", len(text) + 5) + text + b"\0")

        while True:
            kind, body = self._read()
            if kind == b"Z":
                return
            if kind != b"R":
                continue
            method = struct.unpack("!I", body[:4])[0]
            if method == 3:
                send(password.encode())
            elif method == 5:
                inner = hashlib.md5((password + user).encode()).hexdigest().encode()
                send(b"md5" + hashlib.md5(inner + body[4:8]).hexdigest().encode())
            elif method != 0:
                raise PgError(f"this client does not know authentication method {method}")

    def query(self, text):
        """Runs one statement; returns the rows as dictionaries of strings."""
        data = text.encode() + b"\0"
        self.socket.sendall(b"Q" + struct.pack("!I", len(data) + 4) + data)
        names, rows = [], []
        while True:
            kind, body = self._read()
            if kind == b"Z":
                return rows
            if kind == b"T":
                names, at = [], 2
                for _ in range(struct.unpack("!H", body[:2])[0]):
                    end = body.index(b"\0", at)
                    names.append(body[at:end].decode())
                    at = end + 19
            elif kind == b"D":
                values, at = [], 2
                for _ in range(struct.unpack("!H", body[:2])[0]):
                    size = struct.unpack("!i", body[at : at + 4])[0]
                    at += 4
                    values.append(None if size < 0 else body[at : at + size].decode(errors="replace"))
                    at += max(size, 0)
                rows.append(dict(zip(names, values)))

    def close(self):
        try:
            self.socket.sendall(b"X\0\0\0\4")
        except OSError:
            pass
        self.input.close()
        self.socket.close()


NUMBER = re.compile(r"[-\d.,]+( ms)?$")


def table(rows, columns=None):
    """Rows (dictionaries) as text; columns of numbers stand to the right."""
    columns = columns or (list(rows[0]) if rows else [])
    cells = [[str(row.get(name) if row.get(name) is not None else "") for name in columns] for row in rows]
    lines = [""] * (len(cells) + 1)
    for index, name in enumerate(columns):
        values = [line[index] for line in cells]
        width = max(len(text) for text in [name, *values])
        right = all(NUMBER.match(text) for text in values)
        for number, text in enumerate([name, *values]):
            lines[number] += (text.rjust(width) if right else text.ljust(width)) + "  "
    return "\n".join(line.rstrip() for line in lines)

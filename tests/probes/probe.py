#!/usr/bin/env python3
"""Asks PgBouncer and pgtandem the same questions and compares the answers.

probe.py REFERENCE PROGRAM FOLDER    both as paths; PostgreSQL's programs are in $PG_BINDIR

Every answer is text: rows, or severity, SQLSTATE and message of an error, or exit status and last words of a process. What
differs by nature (ports, numbers of processes, times) is replaced by names first. A difference must be explained in
differences.txt, and an explanation without a difference must go.
"""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psycopg

from questions import BROKEN_FILES, CLIENTS, CONSOLE, INVALID, SHOWN, STATEMENTS, VALID

PROBES_MIN = 200
DIFFERENCES = Path(__file__).with_name("differences.txt")
USERLIST = """"postgres" ""
"app" "app-secret"
"admin" "admin-secret"
"stats" "stats-secret"
"hashed" "md5{hashed}"
"""
INI = """[databases]
app = host=127.0.0.1 port={server} dbname=postgres
forced = host=127.0.0.1 port={server} dbname=postgres user=postgres
small = host=127.0.0.1 port={server} dbname=postgres pool_size=1
closed = host=127.0.0.1 port=1 dbname=postgres

[users]
hashed = pool_mode=session

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir = {folder}
auth_type = md5
auth_file = {folder}/userlist.txt
admin_users = admin
stats_users = stats
logfile = {folder}/log
pidfile = {folder}/pid
pool_mode = transaction
max_client_conn = 50
"""


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def until(condition, what: str, seconds: float = 15.0):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        time.sleep(0.05)
    return found


class Server:
    """PostgreSQL, as long as the questions are asked."""

    def __init__(self, folder: Path):
        self.bin, self.data, self.port = Path(os.environ["PG_BINDIR"]), folder / "data", free_port()
        run = {"check": True, "stdout": subprocess.DEVNULL}
        subprocess.run([self.bin / "initdb", "-D", self.data, "-A", "trust", "-U", "postgres", "-N"], **run)
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder} -c fsync=off"
        subprocess.run([self.bin / "pg_ctl", "-w", "-D", self.data, "-l", folder / "server.log", "-o", options, "start"], **run)
        with psycopg.connect(host="127.0.0.1", port=self.port, user="postgres", autocommit=True) as session:
            for user in ("app", "hashed"):
                session.execute(f"CREATE ROLE {user} LOGIN")

    def stop(self) -> None:
        subprocess.run([self.bin / "pg_ctl", "-D", self.data, "-m", "immediate", "stop"], check=True, stdout=subprocess.DEVNULL)


class Pooler:
    """One of the two programs, with a configuration of its own."""

    def __init__(self, program: str, folder: Path, server: int):
        self.program, self.folder, self.server, self.port = program, folder, server, free_port()
        folder.mkdir()
        import hashlib
        secret = hashlib.md5(b"hashed-secrethashed", usedforsecurity=False).hexdigest()
        (folder / "userlist.txt").write_text(USERLIST.format(hashed=secret))
        self.base = INI.format(server=server, port=self.port, folder=folder)
        self.file = folder / "pooler.ini"
        self.process = None

    def start(self) -> None:
        self.file.write_text(self.base)
        self.process = subprocess.Popen([self.program, "-q", self.file], stdin=subprocess.DEVNULL)
        until(self._answers, f"{self.program} answers")

    def _answers(self) -> bool:
        assert self.process.poll() is None, (self.folder / "log").read_text()
        try:
            self.connect("pgbouncer", "admin", "admin-secret").close()
        except psycopg.OperationalError:
            return False
        return True

    def stop(self) -> None:
        self.process.send_signal(signal.SIGQUIT)
        self.process.wait(timeout=15)

    def connect(self, database: str, user: str, password: str, **more) -> psycopg.Connection:
        more = {"connect_timeout": 10, "sslmode": "disable", "application_name": "probe"} | more
        return psycopg.connect(host="127.0.0.1", port=self.port, dbname=database, user=user, password=password,
                               autocommit=True, prepare_threshold=None, **more)

    def neutral(self, text: str) -> str:
        """Without what differs by nature."""
        text = text.replace(str(self.folder), "FOLDER").replace(str(self.port), "PORT").replace(str(self.server), "SERVER")
        text = text.replace(self.program, "PROGRAM")
        text = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d+)? \w+", "TIME", text)
        text = re.sub(r"\[\d+\]", "[PID]", text)
        return re.sub(r"pgtandem|pgbouncer", "pooler", text, flags=re.IGNORECASE)


def error_text(error: psycopg.Error) -> str:
    diagnostic = error.diag
    if diagnostic.message_primary is None:
        return f"no answer: {str(error).splitlines()[-1].strip()}"
    return f"{diagnostic.severity} {diagnostic.sqlstate}: {diagnostic.message_primary}"


def ask(session: psycopg.Connection, question: str) -> str:
    """The answer: column names and rows, or the error."""
    notices = []
    def handler(notice):
        notices.append(f"{notice.severity}: {notice.message_primary}")
    session.add_notice_handler(handler)
    try:
        # By the simple protocol, as psql does.
        cursor = psycopg.ClientCursor(session)
        cursor.execute(question)
        lines = [cursor.statusmessage or ""]
        if cursor.description is not None:
            lines.append("|".join(column.name for column in cursor.description))
            lines += ["|".join("" if value is None else str(value) for value in row) for row in cursor.fetchall()]
    except psycopg.Error as error:
        lines = [error_text(error)]
    finally:
        session.remove_notice_handler(handler)
    return "\n".join(notices + lines)


class Answers(dict):
    """By the name of the probe."""

    def __init__(self, pooler: Pooler):
        super().__init__()
        self._pooler = pooler

    def give(self, name: str, text: str) -> None:
        assert name not in self, name
        self[name] = self._pooler.neutral(text)


def ask_console(pooler: Pooler, answers: Answers, common: set[str] | None) -> None:
    def console(question: str, user: str = "admin") -> str:
        with pooler.connect("pgbouncer", user, f"{user}-secret") as session:
            return ask(session, question)

    for item in SHOWN:
        # The columns; of most tables the rows are what is going on.
        answers.give(f"SHOW {item}", "\n".join(console(f"SHOW {item}").splitlines()[:2]))
    rows = console("SHOW CONFIG").splitlines()[2:]
    # Settings that only the other program has would be in the way of what is asked of the others.
    rows = [row for row in rows if common is None or row.split("|")[0] in common]
    for row in rows:
        answers.give(f"SHOW CONFIG {row.split('|')[0]}", row)
    for question, user in CONSOLE:
        answers.give(f"{user}: {question}", console(question, user))
    for question in STATEMENTS:
        answers.give(f"console: {question!r}", console(question))
    keys = [row.split("|")[0] for row in rows]
    ask_settings(pooler, answers, keys)


def ask_settings(pooler: Pooler, answers: Answers, keys: list[str]) -> None:
    # In one session: some of these keep everybody else out.
    session = pooler.connect("pgbouncer", "admin", "admin-secret")
    # Not conffile: RELOAD would read that, and nothing would be as before.
    keys = [key for key in keys if key != "conffile"]
    for key, value in [*((key, value) for key in keys for value in INVALID), *VALID]:
        given = ask(session, f"SET {key} = '{value}'")
        now = [row for row in ask(session, "SHOW CONFIG").splitlines() if row.startswith(f"{key}|")]
        answers.give(f"SET {key} = '{value}'", "\n".join([given, *now, ask(session, "RELOAD")]))
    session.close()


def ask_clients(pooler: Pooler, answers: Answers) -> None:
    for name, parameters, question in CLIENTS:
        try:
            with pooler.connect(**parameters) as session:
                answer = ask(session, question)
        except psycopg.Error as error:
            texts = [line for line in str(error).splitlines() if "FATAL" in line or "ERROR" in line]
            answer = texts[-1][texts[-1].index(": ") + 2:] if texts else "no answer"
        answers.give(f"client: {name}", answer)


def answers_at(family: int, address) -> bool:
    """A socket alone may be there before the program has found out that it cannot serve: this waits for a word."""
    ssl_request = (8).to_bytes(4) + (80877103).to_bytes(4)
    with socket.socket(family) as client:
        client.settimeout(1)
        try:
            client.connect(address)
            client.sendall(ssl_request)
            return client.recv(1) in (b"N", b"S")
        except OSError:
            return False


def ask_files(pooler: Pooler, answers: Answers) -> None:
    """Starts with files that are wrong, or only odd: does it come up, and what are its last words?"""
    for name, edit in BROKEN_FILES:
        file = pooler.folder / "broken.ini"
        text = edit(pooler.base.replace(f"logfile = {pooler.folder}/log\n", ""))
        file.write_text(text)
        child = subprocess.Popen([pooler.program, file], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                 stderr=subprocess.PIPE, text=True)
        def ended_or_up() -> bool:
            if child.poll() is not None:
                return True
            places = [(socket.AF_UNIX, str(pooler.folder / f".s.PGSQL.{pooler.port}")),
                      (socket.AF_INET, ("127.0.0.1", pooler.port))]
            return any(answers_at(*place) for place in places)
        try:
            until(ended_or_up, f"{name}: ended or up", 4)
            state = "starts"
        except AssertionError:
            state = "runs, and listens elsewhere"
        up = child.poll() is None
        if up:
            child.send_signal(signal.SIGQUIT)
        words = child.communicate(timeout=15)[1].splitlines()
        if up:
            answers.give(f"file: {name}", state)
        else:
            answers.give(f"file: {name}", f"exit {child.returncode}: {words[-1] if words else ''}")


def answers_of(program: str, folder: Path, server: int, common: set[str] | None = None) -> Answers:
    pooler = Pooler(program, folder, server)
    answers = Answers(pooler)
    pooler.start()
    try:
        ask_console(pooler, answers, common)
        ask_clients(pooler, answers)
    finally:
        pooler.stop()
    ask_files(pooler, answers)
    return answers


def explained() -> dict[str, str]:
    """Pattern of names, and why."""
    lines = [line for line in DIFFERENCES.read_text().splitlines() if line and not line.startswith("#")]
    return dict(line.split("  ", 1) for line in lines)


def main() -> int:
    reference, program, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    server = Server(folder)
    try:
        theirs = answers_of(reference, folder / "r", server.port)
        common = {name.removeprefix("SHOW CONFIG ") for name in theirs}
        ours = answers_of(program, folder / "p", server.port, common)
    finally:
        server.stop()
    reasons = explained()
    used, wrong = set(), []
    for name in [*theirs, *(name for name in ours if name not in theirs)]:
        if theirs.get(name) == ours.get(name):
            continue
        reason = next((pattern for pattern in reasons if re.fullmatch(pattern, name)), None)
        used.add(reason)
        if reason is None:
            wrong.append(f"{name}\n  - " + theirs.get(name, "(not asked)").replace("\n", "\n  - ") + "\n  + "
                         + ours.get(name, "(not asked)").replace("\n", "\n  + "))
    same = sum(theirs[name] == ours.get(name) for name in theirs)
    print(*wrong, sep="\n")
    print(f"{len(theirs)} questions: {same} answers are the same, {len(theirs) - same} differ, of which "
          f"{len([n for n in wrong])} without an explanation")
    idle = [pattern for pattern in reasons if pattern not in used]
    print(*(f"no difference any more, take it off {DIFFERENCES.name}: {pattern}" for pattern in idle), sep="\n", end="")
    assert len(theirs) >= PROBES_MIN, "the questions are not all there"
    return 1 if wrong or idle else 0


if __name__ == "__main__":
    sys.exit(main())

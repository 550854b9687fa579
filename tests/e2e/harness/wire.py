"""The PostgreSQL protocol by hand (PostgreSQL documentation, part "Frontend/Backend Protocol").

For what no driver can be made to send, and to see every byte that comes back.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import socket
import ssl
import struct
from dataclasses import dataclass, field

PROTOCOL_3_0 = 3 << 16
PROTOCOL_3_2 = (3 << 16) | 2
SSL_REQUEST = struct.pack("!ii", 8, 80877103)
GSSENC_REQUEST = struct.pack("!ii", 8, 80877104)
CANCEL_CODE = 80877102


class Closed(Exception):
    """The other side closed the connection."""


class WireError(Exception):
    """An ErrorResponse; `fields` by their one-letter codes."""

    def __init__(self, fields: dict[str, str]):
        super().__init__(f"{fields.get('S')} {fields.get('C')}: {fields.get('M')}")
        self.fields = fields

    @property
    def sqlstate(self) -> str:
        return self.fields.get("C", "")

    @property
    def text(self) -> str:
        return self.fields.get("M", "")


@dataclass
class Reply:
    """Everything up to ReadyForQuery."""

    kinds: str = ""
    messages: list[tuple[str, bytes]] = field(default_factory=list)
    rows: list[list] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    errors: list[WireError] = field(default_factory=list)
    notices: list[dict] = field(default_factory=list)
    status: str = ""


# -- messages of the frontend


def message(kind: str, body: bytes = b"") -> bytes:
    return kind.encode() + struct.pack("!i", len(body) + 4) + body


def text(value: str) -> bytes:
    return value.encode() + b"\0"


def startup(parameters: dict[str, str], version: int = PROTOCOL_3_0) -> bytes:
    body = struct.pack("!i", version) + b"".join(text(k) + text(v) for k, v in parameters.items()) + b"\0"
    return struct.pack("!i", len(body) + 4) + body


def cancel(pid: int, secret: bytes) -> bytes:
    return struct.pack("!iii", 12 + len(secret), CANCEL_CODE, pid) + secret


def query(sql: str) -> bytes:
    return message("Q", text(sql))


def parse(name: str, sql: str, types: tuple[int, ...] = ()) -> bytes:
    return message("P", text(name) + text(sql) + struct.pack(f"!h{len(types)}i", len(types), *types))


def bind(statement: str, values: tuple = (), portal: str = "") -> bytes:
    body = text(portal) + text(statement) + struct.pack("!hh", 0, len(values))
    for value in values:
        if value is None:
            body += struct.pack("!i", -1)
        else:
            raw = str(value).encode()
            body += struct.pack("!i", len(raw)) + raw
    return message("B", body + struct.pack("!h", 0))


def describe(kind: str, name: str) -> bytes:
    return message("D", kind.encode() + text(name))


def execute(portal: str = "", rows: int = 0) -> bytes:
    return message("E", text(portal) + struct.pack("!i", rows))


def close(kind: str, name: str) -> bytes:
    return message("C", kind.encode() + text(name))


def sync() -> bytes:
    return message("S")


def flush() -> bytes:
    return message("H")


def function_call(oid: int, arguments: list[bytes], binary: bool = True) -> bytes:
    form = 1 if binary else 0
    body = struct.pack("!ihh", oid, 1, form) + struct.pack("!h", len(arguments))
    for argument in arguments:
        body += struct.pack("!i", len(argument)) + argument
    return message("F", body + struct.pack("!h", form))


# -- a connection


class Wire:
    """A connection of raw frames with a deadline on every read."""

    def __init__(self, port: int, host: str = "127.0.0.1", unix: str | None = None, timeout: float = 15):
        if unix is not None:
            self.socket: socket.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self.socket.settimeout(timeout)
            self.socket.connect(f"{unix}/.s.PGSQL.{port}")
        else:
            self.socket = socket.create_connection((host, port), timeout=timeout)
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.parameters: dict[str, str] = {}
        self.pid, self.secret = 0, b""
        self.challenges: list[bytes] = []
        self.negotiated: tuple[int, list[str]] | None = None
        # Notices that came during the login.
        self.notices: list[dict] = []

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_exception) -> None:
        self.close()

    def close(self) -> None:
        self.socket.close()

    # -- bytes

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def read_exactly(self, count: int) -> bytes:
        parts = []
        while count:
            try:
                part = self.socket.recv(min(count, 1 << 20))
            except (ConnectionResetError, ssl.SSLEOFError) as error:
                raise Closed(str(error)) from error
            if not part:
                raise Closed("end of stream")
            parts.append(part)
            count -= len(part)
        return b"".join(parts)

    def read(self) -> tuple[str, bytes]:
        """One message: its kind and its body."""
        head = self.read_exactly(5)
        return chr(head[0]), self.read_exactly(struct.unpack("!i", head[1:])[0] - 4)

    def read_to_end(self) -> bytes:
        """All bytes until the other side closes."""
        everything = b""
        while True:
            try:
                everything += self.read_exactly(1)
            except Closed:
                return everything

    # -- TLS

    def request_tls(self, context: ssl.SSLContext, name: str | None = None) -> None:
        """SSLRequest, the answer 'S', the handshake."""
        self.send(SSL_REQUEST)
        answer = self.read_exactly(1)
        assert answer == b"S", f"SSLRequest was answered {answer!r}"
        self.start_tls(context, name)

    def start_tls(self, context: ssl.SSLContext, name: str | None = None) -> None:
        self.socket = context.wrap_socket(self.socket, server_hostname=name)

    # -- login

    def login(self, user: str, database: str, password: str = "", version: int = PROTOCOL_3_0, **more: str) -> Wire:
        """Startup and password exchange up to the first ReadyForQuery; an ErrorResponse is raised."""
        self.send(startup({"user": user, "database": database, **more}, version))
        return self.finish_login(user, password)

    def finish_login(self, user: str, password: str) -> Wire:
        while True:
            kind, body = self.read()
            if kind == "R":
                self._authenticate(body, user, password)
            elif kind == "S":
                name, value = body[:-1].split(b"\0")
                self.parameters[name.decode()] = value.decode()
            elif kind == "K":
                self.pid, self.secret = struct.unpack("!i", body[:4])[0], body[4:]
            elif kind == "v":
                self.negotiated = parse_negotiation(body)
            elif kind == "E":
                raise WireError(parse_fields(body))
            elif kind == "Z":
                return self
            elif kind == "N":
                self.notices.append(parse_fields(body))
            else:
                raise AssertionError(f"unexpected message {kind!r} during login")

    def _authenticate(self, body: bytes, user: str, password: str) -> None:
        code = struct.unpack("!i", body[:4])[0]
        if code != 0:
            self.challenges.append(body)
        if code == 3:
            self.send(message("p", text(password)))
        elif code == 5:
            inner = hashlib.md5(password.encode() + user.encode()).hexdigest()
            self.send(message("p", text("md5" + hashlib.md5(inner.encode() + body[4:8]).hexdigest())))
        elif code == 10:
            self._scram(password)
        elif code not in (0, 12):
            raise AssertionError(f"authentication request {code} is not known here")

    def _scram(self, password: str) -> None:
        """RFC 5802 without channel binding, with PostgreSQL's empty user name."""
        nonce = base64.b64encode(os.urandom(18)).decode()
        first = f"n=,r={nonce}"
        initial = ("n,," + first).encode()
        self.send(message("p", text("SCRAM-SHA-256") + struct.pack("!i", len(initial)) + initial))
        kind, body = self.read()
        if kind == "E":
            raise WireError(parse_fields(body))
        assert kind == "R" and body[:4] == struct.pack("!i", 11), (kind, body)
        server_first = body[4:].decode()
        values = dict(part.split("=", 1) for part in server_first.split(","))
        assert values["r"].startswith(nonce)
        salted = hashlib.pbkdf2_hmac("sha256", password.encode(), base64.b64decode(values["s"]), int(values["i"]))
        client_key = hmac.digest(salted, b"Client Key", "sha256")
        final = f"c=biws,r={values['r']}"
        signed = f"{first},{server_first},{final}".encode()
        signature = hmac.digest(hashlib.sha256(client_key).digest(), signed, "sha256")
        proof = base64.b64encode(bytes(a ^ b for a, b in zip(client_key, signature))).decode()
        self.send(message("p", f"{final},p={proof}".encode()))
        kind, body = self.read()
        if kind == "E":
            raise WireError(parse_fields(body))
        expected = hmac.digest(hmac.digest(salted, b"Server Key", "sha256"), signed, "sha256")
        assert kind == "R" and body[4:] == b"v=" + base64.b64encode(expected), "the server could not prove itself"

    # -- queries

    def reply(self) -> Reply:
        """Read up to ReadyForQuery."""
        reply = Reply()
        while True:
            kind, body = self.read()
            reply.kinds += kind
            reply.messages.append((kind, body))
            if kind == "D":
                reply.rows.append(parse_row(body))
            elif kind == "C":
                reply.tags.append(body[:-1].decode())
            elif kind == "E":
                reply.errors.append(WireError(parse_fields(body)))
            elif kind == "N":
                reply.notices.append(parse_fields(body))
            elif kind == "S":
                name, value = body[:-1].split(b"\0")
                self.parameters[name.decode()] = value.decode()
            elif kind == "Z":
                reply.status = body.decode()
                return reply

    def ask(self, data: bytes) -> Reply:
        self.send(data)
        return self.reply()

    def query(self, sql: str) -> list[list]:
        """A simple query; the first ErrorResponse is raised."""
        reply = self.ask(query(sql))
        if reply.errors:
            raise reply.errors[0]
        return reply.rows

    def value(self, sql: str):
        return self.query(sql)[0][0]

    def expect_error(self) -> WireError:
        """Read until an ErrorResponse."""
        while True:
            kind, body = self.read()
            if kind == "E":
                return WireError(parse_fields(body))

    def is_closed(self) -> bool:
        """Whether the other side has closed, or does so before the time-out."""
        try:
            while True:
                self.read_exactly(1)
        except Closed:
            return True
        except TimeoutError:
            return False


def parse_fields(body: bytes) -> dict[str, str]:
    """The fields of ErrorResponse and NoticeResponse."""
    return {part[:1].decode(): part[1:].decode() for part in body.split(b"\0") if part}


def parse_row(body: bytes) -> list:
    """The values of a DataRow as text (bytes that are not UTF-8 stay bytes)."""
    count, at, values = struct.unpack("!h", body[:2])[0], 2, []
    for _ in range(count):
        length = struct.unpack("!i", body[at:at + 4])[0]
        at += 4
        if length < 0:
            values.append(None)
            continue
        raw = body[at:at + length]
        at += length
        try:
            values.append(raw.decode())
        except UnicodeDecodeError:
            values.append(raw)
    return values


def parse_negotiation(body: bytes) -> tuple[int, list[str]]:
    """NegotiateProtocolVersion: the newest minor version known, and the options not known."""
    version, count = struct.unpack("!ii", body[:8])
    names = [n.decode() for n in body[8:].split(b"\0")[:count]]
    return version, names


def client_context(verify: str | None = None) -> ssl.SSLContext:
    """A TLS client; `verify` is a CA file, None trusts anything."""
    context = ssl.create_default_context(cafile=verify) if verify else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if verify is None:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context

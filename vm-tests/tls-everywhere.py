# hosts: client pooler1 pooler2 primary
# Clients and servers by verify-full: plain ones are refused, new certificates take effect at a reload, bad ones are not believed.
import csv
import io
import json

CLIENTS = 10
UNIT = "pgtandem.service"
# Where the poolers' files lie, and the client's own.
FOLDER, OWN = "/var/lib/tls", "/var/tmp/tls"
poolers = {"pooler1": pooler1, "pooler2": pooler2}
nodes = {**poolers, "primary": primary}
POOLER = f"DNS:pooler1,DNS:pooler2,DNS:pooler.test,IP:{floating},IP:{floating6}"
verified = f"sslmode=verify-full&sslrootcert={OWN}/ca.crt"
through = f"postgresql://app:secret@{floating}:6432/app?{verified}"
direct = "postgresql://app:secret@primary/app"


def authority(name: str) -> None:
    """Somebody who signs certificates, on the client."""
    client.succeed(
        f"cd {OWN} && openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN={name} "
        f"-keyout {name}.key -out {name}.crt 2>&1"
    )


def certificate(serial: int, names: str, by: str = "ca", dates: str = "-days 2") -> tuple[str, str]:
    """A certificate and its key."""
    client.succeed(
        f"cd {OWN} && openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=scenario "
        "-keyout leaf.key -out leaf.csr 2>&1",
        f"cd {OWN} && openssl x509 -req -in leaf.csr -CA {by}.crt -CAkey {by}.key -set_serial {serial} {dates} "
        f"-extfile <(echo subjectAltName={names}) -out leaf.crt 2>&1",
    )
    return client.succeed(f"cat {OWN}/leaf.crt"), client.succeed(f"cat {OWN}/leaf.key")


def put(host: str, path: str, text: str, owner: str) -> None:
    """A file on a host. Not by succeed(), which would print it."""
    command = f"install -D -m 600 -o {owner} -g {owner} /dev/stdin {path} <<'END'\n{text}END\n"
    t.assertEqual(nodes[host].execute(command)[0], 0, f"{host}: {path}")


def show(serial: int, **how: str) -> None:
    """Give both poolers a certificate; it is not in force yet."""
    crt, key = certificate(serial, POOLER, **how)
    for name in poolers:
        put(name, f"{FOLDER}/pooler.crt", crt, "pgtandem")
        put(name, f"{FOLDER}/pooler.key", key, "pgtandem")


def reload() -> None:
    for node in poolers.values():
        node.succeed(f"systemctl reload {UNIT}", timeout=60)


def serials() -> set[int]:
    """What is shown at each address."""
    found = set()
    for address in (*poolers, floating, f"[{floating6}]"):
        text = client.succeed(
            f"openssl s_client -connect {address}:6432 -starttls postgres < /dev/null 2> /dev/null | openssl x509 -noout -serial"
        )
        found.add(int(text.strip().removeprefix("serial="), 16))
    return found


def console(name: str, command: str) -> list[dict[str, str]]:
    """A command for a node's console, at its own address; its rows."""
    uri = f"postgresql://admin:admin-secret@{name}:6432/pgbouncer?{verified}"
    return list(csv.DictReader(io.StringIO(client.succeed(f"psql -Xw --csv '{uri}' -c '{command}'", timeout=30))))


def refused(uri: str) -> str:
    """What a client says that does not get in."""
    return client.fail(f"psql -XwAtq '{uri}' -c 'SELECT 1' 2>&1", timeout=30)


def sockets() -> list[tuple[str, str]]:
    """The connections of the clients at work."""
    rows = [row for name in poolers for row in console(name, "SHOW CLIENTS") if row["database"] == "app"]
    t.assertEqual([row for row in rows if not row["tls"].startswith("TLSv1.")], [], "clients without TLS")
    return sorted((row["addr"], row["port"]) for row in rows)


start_all()
with subtest("everybody gets a certificate"):
    primary.wait_for_unit("postgresql.target", timeout=120)
    client.wait_for_unit("multi-user.target", timeout=120)
    client.succeed(f"mkdir -p {OWN}")
    authority("ca")
    authority("stranger")
    ca = client.succeed(f"cat {OWN}/ca.crt")
    crt, key = certificate(1, "DNS:primary")
    data = primary.succeed("runuser -u postgres -- psql -XAtqc 'SHOW data_directory'").strip()
    put("primary", f"{data}/server.crt", crt, "postgres")
    put("primary", f"{data}/server.key", key, "postgres")
    primary.succeed("runuser -u postgres -- psql -Xqc 'ALTER SYSTEM SET ssl = on' -c 'SELECT pg_reload_conf()'")
    for name in poolers:
        put(name, f"{FOLDER}/ca.crt", ca, "pgtandem")
    show(100)

with subtest("the pair comes up with them"):
    for node in poolers.values():
        node.wait_for_unit(UNIT, timeout=120)

    def settled(_last: bool) -> bool:
        rows = console("pooler1", "SHOW HA") + console("pooler2", "SHOW HA")
        return all(row["peer_link"] == "up" for row in rows) and sum(row["state"] == "active" for row in rows) == 2

    retry(settled, 60)
    t.assertEqual(serials(), {100})

with subtest("TLS all the way, by name and by address"):
    question = "SELECT ssl, version FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
    for host in (floating, f"[{floating6}]", "pooler1", "pooler2"):
        answer = client.succeed(f"psql -XwAtq 'postgresql://app:secret@{host}:6432/app?{verified}' -c '{question}'", timeout=60)
        t.assertEqual(answer.strip(), "t|TLSv1.3", host)

with subtest("plain clients are refused, and clients refuse a pooler of another name"):
    for host in (floating, *poolers):
        t.assertIn("SSL required", refused(f"postgresql://app:secret@{host}:6432/app?sslmode=disable"))
    named = refused(f"postgresql://app:secret@other.test:6432/app?{verified}&hostaddr={floating}")
    t.assertRegex(named, 'server certificate for .* does not match host name "other.test"')

with subtest("clients are at work"):
    client.succeed(f"ledger init {direct}")
    client.succeed(f"systemd-run --unit=ledger ledger run '{through}' --clients {CLIENTS}")
    client.wait_until_succeeds("ledger back", timeout=20)
    connected = sockets()
    t.assertEqual(len(connected), CLIENTS)

with subtest("a renewed certificate takes effect at a reload, and not before"):
    show(200)
    t.assertEqual(serials(), {100})
    client.succeed("ledger mark renewed")
    reload()
    t.assertEqual(serials(), {200})
    client.succeed(f"psql -XwAtq '{through}' -c 'SELECT 1'")
    client.wait_until_succeeds("ledger back", timeout=20)
    t.assertEqual(sockets(), connected)

with subtest("one that cannot be used is refused, and said; the former one stays in force"):
    crt, key = certificate(250, POOLER)
    for name, node in poolers.items():
        put(name, f"{FOLDER}/pooler.crt", crt, "pgtandem")
        since = node.succeed("date +%s").strip()
        node.succeed(f"systemctl reload {UNIT}", timeout=60)
        t.assertIn("pooler.key", node.succeed(f"journalctl -q -b -o cat -u {UNIT} -p warning --since=@{since}"))
    t.assertEqual(serials(), {200})

with subtest("an expired one and a stranger's are refused by the client; who is connected stays"):
    dates = "-not_before 20200101000000Z -not_after 20200201000000Z"
    for serial, how, complaint in (
        (300, {"dates": dates}, "certificate has expired"),
        (400, {"by": "stranger"}, "unable to get local issuer certificate"),
    ):
        client.succeed(f"ledger mark of{serial}")
        show(serial, **how)
        reload()
        t.assertEqual(serials(), {serial})
        for host in (floating, *poolers):
            t.assertIn("certificate verify failed", refused(f"postgresql://app:secret@{host}:6432/app?{verified}"))
            # psql does not say why.
            asked = f"openssl s_client -connect {host}:6432 -starttls postgres -verify_return_error -CAfile {OWN}/ca.crt"
            t.assertIn(complaint, client.fail(f"{asked} < /dev/null 2>&1", timeout=30))
        client.wait_until_succeeds("ledger back", timeout=20)
    show(500)
    reload()
    t.assertEqual(serials(), {500})
    t.assertEqual(sockets(), connected)

with subtest("a server that a stranger vouches for is refused by the poolers"):
    client.succeed("ledger mark end", "systemctl stop ledger")
    strange, strange_key = certificate(2, "DNS:primary", by="stranger")
    good, good_key = certificate(3, "DNS:primary")
    for text, key in ((strange, strange_key), (good, good_key)):
        put("primary", f"{data}/server.crt", text, "postgres")
        put("primary", f"{data}/server.key", key, "postgres")
        primary.succeed("systemctl reload postgresql")
        for name, node in poolers.items():
            # What is open may stay so: only new connections look at the certificate.
            console(name, "RECONNECT app")
            ask = f"timeout 3 psql -XwAtq 'postgresql://app:secret@{name}:6432/app?{verified}' -c 'SELECT 1' 2>&1"
            if text == strange:
                client.wait_until_fails(ask, timeout=30)
                said = f"journalctl -q -b -o cat -u {UNIT}"
                node.wait_until_succeeds(f"{said} | grep 'handshake failed: certificate verify failed'", timeout=30)
            else:
                client.wait_until_succeeds(ask, timeout=30)

with subtest("the ledger"):
    report = json.loads(client.succeed(f"ledger report {direct}"))
    for event in ("renewed", "of300", "of400"):
        t.assertGreater(report["marks"][event]["committed"], 3 * CLIENTS, event)
    log.info(f"  {report['committed']} committed, {report['failed']} failed, {report['unknown']} unknown; {report['errors']}")
    t.assertEqual((report["lost"], report["doubled"], report["ghosts"]), ([], [], []))
    t.assertEqual((report["failed"], report["unknown"], report["errors"]), (0, 0, {}), "no reload disturbs a client")
    t.assertEqual(report["there"], report["committed"])

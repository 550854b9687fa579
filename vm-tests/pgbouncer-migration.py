# Two operators' files for PgBouncer are what the service reads, as they are: their clients, commands and scripts go on.
import csv
import io
import json
import shlex

CLIENTS, QUERIES = 10, 50
UNIT = "pgtandem.service"
INI = "/etc/pgbouncer/pgbouncer.ini"
poolers = {"pooler1": pooler1, "pooler2": pooler2}
servers = {"primary": primary, "replica1": replica1, "replica2": replica2}
# The users of pooler2's operator; that of pooler1 has one.
PASSWORDS = {
    "pgbouncer_admin": "secure_admin_password", "monitor_user": "secure_monitor_password",
    "revenue_user": "secure_revenue_password", "analytics_user": "secure_analytics_password",
}
USERLIST = "# PgBouncer user authentication\n" + "\n".join(f'"{user}" "{word}"' for user, word in PASSWORDS.items())
ENTERPRISE = "PGPASSWORD='SecurePass2024!' psql -h 127.0.0.1 -p 6432 -U admin"
revenue = f"postgresql://revenue_user:{PASSWORDS['revenue_user']}@pooler2:6432/revenue_engine"
direct = f"postgresql://revenue_user:{PASSWORDS['revenue_user']}@primary/revenue_engine"


def superuser(host: str, *statements: str) -> str:
    words = " ".join(f"-c {shlex.quote(statement)}" for statement in statements)
    return servers[host].succeed(f"runuser -u postgres -- psql -XAtq -v ON_ERROR_STOP=1 {words}", timeout=60)


def psql(user: str, database: str, *statements: str) -> str:
    """As the second operator's scripts do it, from the client's machine; what it prints."""
    words = " ".join(f"-c {shlex.quote(statement)}" for statement in statements)
    place = f"-h pooler2 -p 6432 -U {user} -d {database}"
    return client.succeed(f"PGPASSWORD={PASSWORDS[user]} psql -Xw --csv {place} {words}", timeout=60)


def console(command: str) -> list[dict[str, str]]:
    """A command of the second operator's administrator; its rows."""
    return list(csv.DictReader(io.StringIO(psql("pgbouncer_admin", "pgbouncer", command))))


def setting(name: str) -> str:
    """A value of SHOW CONFIG."""
    return next(row["value"] for row in console("SHOW CONFIG") if row["key"] == name)


def append(lines: str) -> None:
    """What `echo … >> pgbouncer.ini` and a reload do. By sed: the file may be a link."""
    for line in lines.splitlines():
        pooler2.succeed(f"sed -i '$a {line}' {INI}")
    pooler2.succeed(f"systemctl reload {UNIT}", timeout=60)


def pids(name: str, pidfile: str) -> tuple[str, str]:
    """The number in the pidfile, and the service's."""
    node = poolers[name]
    return node.succeed(f"cat {pidfile}").strip(), node.get_unit_property(UNIT, "MainPID")


start_all()
with subtest("servers as the operators have them"):
    primary.wait_for_unit("postgresql.target", timeout=120)
    superuser("primary", "CREATE ROLE admin LOGIN PASSWORD 'SecurePass2024!'", "CREATE DATABASE enterprisescanner OWNER admin")
    superuser("primary", *(f"CREATE ROLE {user} LOGIN PASSWORD '{password}'" for user, password in PASSWORDS.items()))
    superuser("primary", "CREATE DATABASE revenue_engine OWNER revenue_user")
    for name, node in servers.items():
        node.wait_for_unit("postgresql.target", timeout=180)
        data = superuser(name, "SHOW data_directory").strip()
        node.succeed(
            f"cd {data} && runuser -u postgres -- openssl req -new -x509 -days 365 -nodes -text -out server.crt -keyout server.key "
            f"-subj /CN={name} 2>&1"
        )
        superuser(name, "ALTER SYSTEM SET ssl = on", "SELECT pg_reload_conf()")
    for name in ("replica1", "replica2"):
        retry(lambda _: superuser(name, "SELECT 1 FROM pg_database WHERE datname = 'revenue_engine'").strip() == "1", 60)

with subtest("their users, certificates by the operator's own command, and both poolers serve"):
    for name, text in (("pooler1", '"admin" "SecurePass2024!"'), ("pooler2", USERLIST)):
        install = "install -m 600 -o pgtandem -g pgtandem /dev/stdin /etc/pgbouncer/userlist.txt"
        poolers[name].succeed(f"{install} <<'END'\n{text}\nEND")
    pooler2.succeed(
        "openssl req -new -x509 -days 365 -nodes -text -out /tmp/pgbouncer.crt -keyout /tmp/pgbouncer.key "
        "-subj '/CN=pgbouncer-service' 2>&1",
        "install -d -m 755 /etc/ssl/certs && install -d -m 711 /etc/ssl/private",
        "install -m 644 /tmp/pgbouncer.crt /etc/ssl/certs/ca.crt",
        "install -m 644 -o pgtandem -g pgtandem /tmp/pgbouncer.crt /etc/ssl/certs/pgbouncer.crt",
        "install -m 600 -o pgtandem -g pgtandem /tmp/pgbouncer.key /etc/ssl/private/pgbouncer.key",
    )
    for node in poolers.values():
        node.wait_for_unit(UNIT, timeout=120)
        node.wait_for_open_port(6432, addr="127.0.0.1", timeout=30)

with subtest("the first operator: login, SHOW, pidfile, reload"):
    answer = pooler1.wait_until_succeeds(f"{ENTERPRISE} -d enterprisescanner -c 'SELECT 1, version();'", timeout=60)
    t.assertRegex(answer, r"\(1 row\)")
    t.assertIn("PostgreSQL 17", answer)
    before = pooler1.succeed(f"{ENTERPRISE} -d pgbouncer -c 'SHOW POOLS;' -c 'SHOW STATS;'")
    t.assertRegex(before, r"enterprisescanner +\| admin +\| +0 \|.*\| transaction ")
    pooler1.succeed(f"{ENTERPRISE} -XAtq -d enterprisescanner " + "-c 'SELECT 1' " * QUERIES)
    rows = pooler1.succeed(f"{ENTERPRISE} -Xw --csv -d pgbouncer -c 'SHOW STATS'")
    (stats,) = [row for row in csv.DictReader(io.StringIO(rows)) if row["database"] == "enterprisescanner"]
    t.assertEqual(int(stats["total_query_count"]), QUERIES + 1)
    rows = pooler1.succeed(f"{ENTERPRISE} -Xw --csv -d pgbouncer -c 'SHOW DATABASES'")
    (entry,) = [row for row in csv.DictReader(io.StringIO(rows)) if row["name"] == "enterprisescanner"]
    t.assertEqual(
        (entry["port"], entry["database"], entry["pool_size"], entry["max_connections"]), ("5432", "enterprisescanner", "25", "50")
    )
    written, running = pids("pooler1", "/var/run/postgresql/pgbouncer.pid")
    t.assertEqual(written, running)
    pooler1.succeed("kill -HUP $(cat /var/run/postgresql/pgbouncer.pid)")
    journal = f"journalctl -q -b -o cat -u {UNIT}"
    pooler1.wait_until_succeeds(f"{journal} | grep -i 'SIGHUP'", timeout=20)
    # log_connections and log_disconnections.
    pooler1.succeed(f"{journal} | grep 'enterprisescanner/admin@127.0.0.1:.* login attempt: db=enterprisescanner user=admin'")
    # It listens on 127.0.0.1 and nowhere else.
    client.fail("nc -z -w 2 pooler1 6432")

with subtest("the second operator: TLS demanded, each name leads to its server"):
    t.assertIn("SSL required", client.fail(f"psql -w '{revenue}?sslmode=disable' -c 'SELECT 1' 2>&1"))
    t.assertEqual(psql("revenue_user", "revenue_engine", "SELECT current_user;"), "current_user\nrevenue_user\n")
    client.succeed(f"psql -XwAtq '{revenue}?sslmode=require' -c 'CREATE TABLE orders (number int)'")
    for database, host in (
        ("revenue_engine", "primary"), ("revenue_engine_replica1", "replica1"), ("revenue_engine_replica2", "replica2"),
        ("analytics_db", "replica1"),
    ):
        user = "analytics_user" if database == "analytics_db" else "revenue_user"
        question = "SELECT current_setting('cluster_name'), ssl, pg_is_in_recovery() FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
        answer = psql(user, database, question).splitlines()[1]
        t.assertEqual(answer, f"{host},t,{'f' if host == 'primary' else 't'}", database)
    wrong = client.fail("PGPASSWORD=no psql -w -h pooler2 -p 6432 -U revenue_user -d revenue_engine -c 'SELECT 1' 2>&1")
    t.assertIn("password authentication failed", wrong)

with subtest("its console, health check, pidfile and log file"):
    for what, least in (("STATS", 5), ("POOLS", 5), ("DATABASES", 5), ("CLIENTS", 1), ("SERVERS", 4)):
        t.assertGreaterEqual(len(console(f"SHOW {what};")), least, what)
    t.assertIn("PgBouncer 1.", psql("monitor_user", "pgbouncer", "SHOW VERSION;"))
    look = f"PGPASSWORD={PASSWORDS['monitor_user']} psql -w -h pooler2 -p 6432 -U monitor_user -d pgbouncer"
    t.assertIn("admin access needed", client.fail(f"{look} -c PAUSE 2>&1"))
    lines = "".join(f"*:*:*:{user}:{password}\\n" for user, password in PASSWORDS.items())
    pooler2.succeed(f"umask 077 && printf '{lines}' > /tmp/passwords")
    # The operator's script as it is, password included, which has no place among the files of a NixOS machine.
    insert = f"sed 's/@ADMIN_PASS@/{PASSWORDS['pgbouncer_admin']}/' /etc/pgbouncer/health-check.sh"
    pooler2.succeed(f"umask 077 && {insert} > /tmp/health-check.sh")
    answer = pooler2.succeed("PGPASSFILE=/tmp/passwords bash /tmp/health-check.sh", timeout=60)
    t.assertIn("Database connectivity through PgBouncer is working", answer)
    t.assertIn("PgBouncer health check complete", answer)
    written, running = pids("pooler2", "/var/run/pgbouncer/pgbouncer.pid")
    t.assertEqual(written, running)
    # log_connections is on by default.
    pooler2.succeed("grep 'revenue_engine/revenue_user@.* login attempt: db=revenue_engine' /var/log/pgbouncer/pgbouncer.log")

with subtest("reloads, PAUSE and RESUME, and nobody at work notices"):
    client.succeed(f"ledger init {direct}")
    client.succeed(f"systemd-run --unit=ledger ledger run '{revenue}?sslmode=require' --clients {CLIENTS}")
    client.wait_until_succeeds("ledger back", timeout=20)
    append("default_pool_size = 30")
    sizes = {row["name"]: row["pool_size"] for row in console("SHOW DATABASES")}
    t.assertEqual(sizes["revenue_engine"], "30")
    append("server_connect_timeout = 30\nclient_login_timeout = 120\npkt_buf = 8192")
    t.assertEqual((setting("server_connect_timeout"), setting("client_login_timeout")), ("30", "120"))
    console("RELOAD;")
    console("PAUSE;")
    client.succeed("ledger mark paused")
    t.assertEqual({row["key"]: row["value"] for row in console("SHOW STATE;")}["paused"], "yes")
    waiting = ("revenue_engine", "revenue_user")

    def all_wait(_last: bool) -> bool:
        return [row["cl_waiting"] for row in console("SHOW POOLS") if (row["database"], row["user"]) == waiting] == [str(CLIENTS)]

    retry(all_wait, 20)
    client.succeed("ledger mark resume")
    console("RESUME;")
    client.wait_until_succeeds("ledger back --acks 20", timeout=30)
    t.assertEqual(pids("pooler2", "/var/run/pgbouncer/pgbouncer.pid"), (written, running))

with subtest("the ledger"):
    client.succeed("ledger mark end", "systemctl stop ledger")
    report = json.loads(client.succeed(f"ledger report {direct}"))
    log.info(f"  {report['committed']} committed, {report['failed']} failed, {report['unknown']} unknown; {report['marks']}")
    t.assertEqual((report["lost"], report["doubled"], report["ghosts"]), ([], [], []))
    t.assertEqual((report["failed"], report["unknown"], report["errors"]), (0, 0, {}))
    t.assertEqual((report["marks"]["paused"]["committed"], report["there"]), (0, report["committed"]))

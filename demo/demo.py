"""The demo: a primary, two replicas, pgtandem with the revenue-engine configuration, and 200 clients and more.

Called by demo/run. With a terminal it keeps running until Ctrl-C; without one it ends after the report.
"""

import os
import re
import signal
import statistics
import sys
import time

from throwaway import LOOPBACK, Failed, Lab, PgClient, PgError, Stopped, free_ports, table

HERE = os.path.dirname(os.path.abspath(__file__))
CONFIG = os.path.join(HERE, "revenue-engine")
PRIMARY, *REPLICAS = NODES = ("postgres-primary", "postgres-replica-1", "postgres-replica-2")
DATABASE = "revenue_engine"

# Who puts load on which database of the pooler: clients, and the share of transactions that write.
WRITERS = ("revenue_engine", "revenue_user", 200, "reads and writes")
READERS = (
    ("revenue_engine_replica1", "revenue_user", 20, "reads"),
    ("revenue_engine_replica2", "revenue_user", 20, "reads"),
    ("analytics_db", "analytics_user", 20, "reads"),
)
CLIENTS = sum(line[2] for line in (WRITERS, *READERS))


def say(text=""):
    print(text, flush=True)


def passwords():
    with open(os.path.join(CONFIG, "userlist.txt"), encoding="utf-8") as file:
        return dict(re.findall(r'^"([^"]+)" "([^"]+)"', file.read(), re.M))


def certificates(lab):
    """As in revenue-engine/operator-commands.sh: one self-signed certificate, which is also the CA file."""
    lab.run("openssl", "req", "-new", "-x509", "-days", "365", "-nodes", "-text", "-out", lab.path("pgbouncer.crt"),
            "-keyout", lab.path("pgbouncer.key"), "-subj", "/CN=pgbouncer-service")  # fmt: skip
    os.chmod(lab.path("pgbouncer.key"), 0o600)
    lab.run("cp", lab.path("pgbouncer.crt"), lab.path("ca.crt"))


def mapped_config(lab, ports, listen_port):
    """The operator's pgbouncer.ini; only host names, ports and paths of files are replaced."""
    changes = {"listen_addr": LOOPBACK, "listen_port": listen_port, "unix_socket_dir": lab.dir}
    lines, changed = [], 0
    with open(os.path.join(CONFIG, "pgbouncer.ini"), encoding="utf-8") as file:
        original = file.read().splitlines()
    for line in original:
        new = re.sub(r"host=(\S+) port=\d+", lambda m: f"host={LOOPBACK} port={ports[m.group(1)]}", line)
        key = re.match(r"(\w+) = (.*)", line)
        if key and key.group(1) in changes:
            new = f"{key.group(1)} = {changes[key.group(1)]}"
        elif key and key.group(2).startswith("/"):
            new = f"{key.group(1)} = {lab.path(os.path.basename(key.group(2)))}"
        changed += new != line
        lines.append(new)
    say(f"  demo/revenue-engine/pgbouncer.ini: {changed} of {len(lines)} lines replaced (hosts, ports, paths of files)")
    return lab.write("pgbouncer.ini", "\n".join(lines) + "\n")


def user_list(lab, binary):
    """The operator's userlist.txt. PgBouncer itself calls the file broken for its first line, a # comment."""
    with open(os.path.join(CONFIG, "userlist.txt"), encoding="utf-8") as file:
        text = file.read()
    if "pgtandem" not in lab.run(binary, "--version"):
        text = re.sub(r"^#.*\n", "", text, flags=re.M)
    lab.write("userlist.txt", text)


def start_cluster(lab, ports, users):
    """A primary with the operator's database and users, and two streaming replicas of it."""
    data = lab.initdb(PRIMARY)
    hba = "local all all trust\nlocal replication all trust\nhostssl all all 127.0.0.1/32 md5\n"
    with open(os.path.join(data, "pg_hba.conf"), "w", encoding="utf-8") as file:
        file.write(hba)
    settings = {"ssl": "on", "ssl_cert_file": lab.path("pgbouncer.crt"), "ssl_key_file": lab.path("pgbouncer.key"),
                "password_encryption": "md5", "max_connections": 200, "shared_buffers": "64MB", "max_wal_size": "2GB",
                "log_min_messages": "fatal"}  # fmt: skip
    lab.postgres(PRIMARY, ports[PRIMARY], settings)
    say(f"  {PRIMARY} on port {ports[PRIMARY]}")
    for user in ("revenue_user", "analytics_user"):
        lab.sql(ports[PRIMARY], f"CREATE ROLE {user} LOGIN PASSWORD '{users[user]}'")
    lab.sql(ports[PRIMARY], f"CREATE DATABASE {DATABASE} OWNER revenue_user")
    pgbench(lab, ports[PRIMARY], "revenue_user", DATABASE, users, "-i", "-q", "-s", "5")
    lab.sql(ports[PRIMARY], "GRANT SELECT ON ALL TABLES IN SCHEMA public TO analytics_user", DATABASE)
    for name in REPLICAS:
        lab.run(lab.pg + "/pg_basebackup", "-h", lab.dir, "-p", str(ports[PRIMARY]), "-U", "postgres", "-D",
                lab.path(name), "-R", "-X", "stream", "-c", "fast", "--no-sync")  # fmt: skip
        lab.postgres(name, ports[name], settings)
        say(f"  {name} on port {ports[name]}, streaming")
    streaming = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'"
    lab.wait_for("the replicas do not stream", lambda: lab.sql(ports[PRIMARY], streaming) == [["2"]])
    seen = "SELECT count(*) FROM pg_class WHERE relname = 'pgbench_accounts'"
    for name in REPLICAS:
        lab.wait_for(f"{name} lags", lambda port=ports[name]: lab.sql(port, seen, DATABASE) == [["1"]])


def login_env(user, users):
    return {"PGPASSWORD": users[user], "PGSSLMODE": "require"}


def pgbench(lab, port, user, database, users, *args):
    """One run of pgbench to its end."""
    return lab.run(lab.pg + "/pgbench", "-h", LOOPBACK, "-p", str(port), "-U", user, *args, database,
                   env=login_env(user, users))  # fmt: skip


def start_load(lab, port, users, rate=None):
    """One pgbench for each line of WRITERS and READERS; with a rate, that many transactions a second in all."""
    running = []
    for database, user, clients, kind in (WRITERS, *READERS):
        share = clients // 10 if rate else clients
        args = ["-n", "-T", "1000000", "-c", str(share), "-j", "1", "-b", "select-only@9"]
        args += ["-b", "simple-update@1"] if kind != "reads" else []
        args += ["--rate", str(max(1, rate * clients // CLIENTS))] if rate else []
        name = f"load-{database}" + ("-slow" if rate else "")
        command = [lab.pg + "/pgbench", "-h", LOOPBACK, "-p", str(port), "-U", user, *args, database]
        running.append((lab.spawn(*command, name=name, env=login_env(user, users)), name))
    return running


def check_load(lab, running):
    """Any client that was refused or whose transaction failed is a failure of the demo."""
    for process, name in running:
        log = lab.log(name)
        if process.poll() is not None or "error:" in log:
            raise Failed(f"{name}: a client or transaction failed (status {process.returncode}):\n{log}")


def stop_load(lab, running):
    check_load(lab, running)
    for process, _ in running:
        lab.stop(process)


def connect_times(ports, listen_port, users, samples=60):
    """Median of connecting, logging in, one SELECT and closing, direct and pooled in turn, in milliseconds."""
    ways = {"direct to PostgreSQL": (ports[PRIMARY], DATABASE), "through pgtandem": (listen_port, "revenue_engine")}
    times = {way: [] for way in ways}
    for _ in range(samples + 5):
        for way, (port, database) in ways.items():
            start = time.perf_counter()
            client = PgClient(port, "revenue_user", database, users["revenue_user"], tls=True)
            client.query("SELECT 1")
            client.close()
            times[way].append((time.perf_counter() - start) * 1000)
    return {way: statistics.median(each[5:]) for way, each in times.items()}


def node_counts(lab, ports):
    """What each PostgreSQL node has done so far, by its own statistics."""
    text = (
        "SELECT xact_commit, tup_returned, tup_inserted + tup_updated + tup_deleted FROM pg_stat_database "
        f"WHERE datname = '{DATABASE}'"
    )
    return {name: [int(value) for value in lab.sql(ports[name], text)[0]] for name in NODES}


def pools_under_load(admin):
    return [row for row in admin.query("SHOW POOLS") if row["database"] != "pgbouncer"]


def total(pools, *columns):
    return sum(int(row[column]) for row in pools for column in columns)


def wait_for_clients(lab, admin, running):
    """pgbench connects its clients one after the other, each with a TLS handshake; the load begins when all are in."""
    start = time.monotonic()

    def connected():
        check_load(lab, running)
        return total(pools_under_load(admin), "cl_active", "cl_waiting") >= CLIENTS

    lab.wait_for(f"the {CLIENTS} clients do not all get in", connected, patience_s=120)
    say(f"  {CLIENTS} clients connected after {time.monotonic() - start:.1f} s")


def watch(lab, admin, running, seconds):
    """Shows progress every two seconds; returns the last SHOW POOLS."""
    start, before, pools = time.monotonic(), None, []
    while time.monotonic() - start < seconds:
        check_load(lab, running)
        now, stats, pools = time.monotonic(), admin.query("SHOW STATS"), pools_under_load(admin)
        queries = sum(int(row["total_query_count"]) for row in stats if row["database"] != "pgbouncer")
        if before:
            rate = (queries - before[1]) / (now - before[0])
            servers = total(pools, "sv_active", "sv_idle", "sv_used", "sv_tested", "sv_login")
            say(f"  {now - start:4.0f} s  {rate:8,.0f} queries/s   clients: {total(pools, 'cl_active'):3} served, "
                f"{total(pools, 'cl_waiting'):3} waiting   servers: {servers}")  # fmt: skip
        before = (now, queries)
        time.sleep(max(0, min(2, start + seconds - time.monotonic())))
    return pools


def report(pools, before, after, stats, times, listen_port, users):
    columns = ["database", "user", "cl_active", "cl_waiting", "sv_active", "sv_idle", "sv_used", "maxwait", "pool_mode"]
    say("\nSHOW POOLS under load: each pool serves its clients over 20 servers at most")
    say(table([row for row in pools if int(row["cl_active"]) + int(row["cl_waiting"])], columns))
    say("\nWhere the queries went, as each PostgreSQL node counts")
    rows = []
    for name in NODES:
        did = [new - old for old, new in zip(before[name], after[name])]
        rows.append(dict(zip(("node", "transactions", "rows read", "rows written"), (name, *(f"{n:,}" for n in did)))))
        if did[0] < 20 or (did[2] > 0) != (name == PRIMARY):
            raise Failed(f"{name} has not done its share:\n{table(rows)}")
    say(table(rows))
    say("\nWhere the queries went, as pgtandem counts (SHOW STATS)")
    rows = []
    for row in stats:
        queries, spent_us = int(row["total_query_count"]), int(row["total_query_time"])
        if row["database"] != "pgbouncer" and queries:
            rows.append({"database": row["database"], "transactions": row["total_xact_count"], "queries": queries,
                         "mean time": f"{spent_us / queries / 1000:.2f} ms"})  # fmt: skip
    say(table(rows))
    say("\nTime to connect, log in (TLS, md5) and run SELECT 1: medians")
    say(table([{"way": way, "time": f"{value:.2f} ms"} for way, value in times.items()]))
    say("\nTry it:")
    for user, database in (("revenue_user", "revenue_engine"), ("pgbouncer_admin", "pgbouncer")):
        say(f"  PGPASSWORD={users[user]} psql 'host={LOOPBACK} port={listen_port} dbname={database} user={user} "
            "sslmode=require'")  # fmt: skip


def stay(lab, listen_port, users):
    """A gentle load until Ctrl-C."""
    say("\nA gentle load goes on (150 transactions/s). Ctrl-C stops everything and leaves nothing behind.")
    running = start_load(lab, listen_port, users, rate=150)
    while True:
        check_load(lab, running)
        time.sleep(1)


def demo(lab, binary, seconds):
    users = passwords()
    *pg_ports, listen_port = free_ports(4)
    ports = dict(zip(NODES, pg_ports))
    who = lab.user.pw_name if lab.user else "you"
    say(f"Starting PostgreSQL in {lab.dir}, as {who}")
    certificates(lab)
    start_cluster(lab, ports, users)

    say("Starting pgtandem")
    program = lab.program(binary, "pgtandem")
    user_list(lab, program)
    config = mapped_config(lab, ports, listen_port)
    pooler = lab.spawn(program, config, name="pgtandem")

    def admin_console():
        return PgClient(listen_port, "pgbouncer_admin", "pgbouncer", users["pgbouncer_admin"], tls=True)

    admin = lab.wait_for("pgtandem does not answer", admin_console, pooler, "pgtandem")
    try:
        show(lab, admin, ports, listen_port, users, seconds)
    finally:
        admin.close()  # A polite shutdown waits for clients.


def show(lab, admin, ports, listen_port, users, seconds):
    """Load, progress and report."""
    say(f"  {admin.query('SHOW VERSION')[0]['version']} on port {listen_port}, TLS required")

    times = connect_times(ports, listen_port, users)
    before = node_counts(lab, ports)
    say(f"Load for {seconds} s: 200 clients on revenue_engine (1 in 10 transactions writes), "
        "20 readers on each replica database")  # fmt: skip
    running = start_load(lab, listen_port, users)
    wait_for_clients(lab, admin, running)
    pools = watch(lab, admin, running, seconds)
    stop_load(lab, running)
    stats = admin.query("SHOW STATS")
    admin.query("RECONNECT")  # PostgreSQL adds up what a server has done when it ends, or late
    time.sleep(1)
    report(pools, before, node_counts(lab, ports), stats, times, listen_port, users)
    if sys.stdin.isatty() and sys.stdout.isatty():
        stay(lab, listen_port, users)


def main():
    seconds = int(os.environ.get("DEMO_SECONDS", "20"))
    lab = None
    try:
        with Lab("pgtandem-demo") as lab:
            try:
                demo(lab, os.path.abspath(sys.argv[1]), seconds)
            except (Failed, PgError, OSError) as error:
                log = lab.log("pgtandem") or lab.log("pgbouncer")
                if log and log not in str(error):
                    say(f"\nThe end of pgtandem's log:\n{log}")
                raise Failed(str(error)) from error
    except Failed as error:
        print(f"demo failed: {error}", file=sys.stderr)
        return 1
    except Stopped as stopped:
        say(f"\nStopped by {stopped}; everything is gone.")
        return 0 if stopped.signum == signal.SIGINT else 128 + stopped.signum
    say("\nDone; everything is gone.")
    return 0


if __name__ == "__main__":
    sys.exit(main())

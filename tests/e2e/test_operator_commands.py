"""The operators' scripts and commands, run as they are written.

Only host, port, file paths and "reload the service" are adapted, as an operator would.
"""

import os
import re
import signal
from pathlib import Path

import pytest
from harness import process
from harness.deployment import INPUTS
from harness.pooler import binary
from harness.postgres import userlist
from harness.process import poll_until

REVENUE = INPUTS / "revenue-engine"
SCANNER = INPUTS / "enterprisescanner"


def commands(path: Path) -> str:
    return path.read_text()


def psql_lines(path: Path) -> list[str]:
    """Each psql command of one line."""
    lines = re.findall(r"^(?:\$ )?((?:PGPASSWORD=\S+ )?psql .*)$", path.read_text(), re.M)
    return [line for line in lines if not line.endswith("<< 'EOF'")]


def adapt(text: str, pooler) -> str:
    """Host, port, paths, and the ways to reload and stop."""
    for old, new in ((r"-p 6432", f"-p {pooler.port}"), (r'PGBOUNCER_PORT="6432"', f'PGBOUNCER_PORT="{pooler.port}"'),
                     (r"/etc/pgbouncer/", f"{pooler.ini.parent}/"),
                     (r"\$PRIMARY_PGBOUNCER", "localhost"),
                     (r"systemctl reload pgbouncer|killall -HUP pgbouncer", f"kill -HUP {pooler.pid}")):
        text = re.sub(old, new, text)
    return text


@pytest.fixture(scope="module")
def revenue_shell(revenue, tmp_path_factory):
    """Run a piece of shell with the passwords of the userlist in .pgpass, as operators keep them."""
    passwords = tmp_path_factory.mktemp("pgpass") / "pgpass"
    users = userlist(REVENUE / "userlist.txt")
    passwords.write_text("".join(f"*:*:*:{name}:{secret}\n" for name, secret in users.items()))
    passwords.chmod(0o600)

    def shell(text: str, stdin: str | None = None, check: bool = True):
        environment = process.clean_environment(PGPASSFILE=str(passwords), PGCONNECT_TIMEOUT="10", PSQLRC="/dev/null",
                                                PAGER="cat")
        return process.run(["bash", "-c", text], env=environment, stdin=stdin, check=check)

    return shell


def test_revenue_health_check(revenue, revenue_shell):
    done = revenue_shell(adapt(commands(REVENUE / "health-check.sh"), revenue))
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert lines[0] == "PgBouncer is responding"
    assert "Connection Pool Status:" in lines
    assert "Database connectivity through PgBouncer is working" in lines
    assert lines[-1] == "PgBouncer health check complete"


def test_revenue_health_check_fails_when_the_pooler_is_down(revenue, revenue_shell):
    text = adapt(commands(REVENUE / "health-check.sh"), revenue).replace(str(revenue.port), "1")
    done = revenue_shell(text, check=False)
    assert done.returncode == 1 and done.stdout == "PgBouncer is unreachable\n"


def test_revenue_psql_lines(revenue, revenue_shell):
    lines = psql_lines(REVENUE / "operator-commands.sh")
    assert len(lines) == 3
    for line in lines:
        done = revenue_shell(adapt(line, revenue), stdin="")
        assert done.stderr == "", (line, done.stderr)
        if "current_user" in line:
            assert "revenue_user" in done.stdout
        if "SHOW POOLS" in line:
            assert "maxwait" in done.stdout


def test_revenue_interactive_console(revenue, revenue_shell):
    """The SHOW commands typed at the prompt of the first psql command."""
    text = commands(REVENUE / "operator-commands.sh")
    typed = re.findall(r"^SHOW \w+;$", text, re.M)
    assert len(typed) == 5
    done = revenue_shell(adapt(psql_lines(REVENUE / "operator-commands.sh")[0], revenue), stdin="\n".join(typed) + "\n")
    assert done.stderr == ""
    for column in ("total_xact_count", "cl_waiting", "force_user", "application_name", "remote_pid"):
        assert column in done.stdout


@pytest.mark.beyond_pgbouncer("PgBouncer's console knows no SQL")
def test_revenue_pool_efficiency_query(revenue, revenue_shell):
    """The query of several lines that they feed to psql."""
    text = commands(REVENUE / "operator-commands.sh")
    (block,) = re.findall(r"^psql [^\n]*<< 'EOF'\n.*?^EOF$", text, re.M | re.S)
    with revenue.connect("revenue_engine", "revenue_user", "secure_revenue_password", sslmode="require") as connection:
        connection.execute("select 1")
        done = revenue_shell(adapt(block, revenue))
    assert done.stderr == ""
    head, _, *rows, count, end = done.stdout.splitlines()
    names = [name.strip() for name in head.split("|")]
    assert names == re.findall(r"^    (\w+),?$", block, re.M)
    pools = [dict(zip(names, (cell.strip() for cell in row.split("|")), strict=True)) for row in rows]
    (pool,) = [pool for pool in pools if pool["database"] == "revenue_engine" and pool["user"] == "revenue_user"]
    assert pool["cl_active"] == "1" and pool["cl_waiting"] == "0" and pool["maxwait"] == "0"
    assert (count, end) == (f"({len(rows)} rows)", "")


def test_revenue_memory_usage_by_the_name_of_the_process(own_revenue, revenue_shell):
    """`ps` and `pgrep pgbouncer`: the program is found under the name that it was started by."""
    pooler = own_revenue
    pooler.stop()
    link = pooler.folder / "pgbouncer"
    link.symlink_to(binary())
    pooler.process = process.spawn([link, pooler.ini], user=pooler.user, stderr=pooler.stderr, cwd=pooler.folder)
    poll_until(lambda: pooler.admin("SHOW VERSION"), "the pooler serves")
    text = commands(REVENUE / "operator-commands.sh")
    (listing,) = re.findall(r"^ps aux .*$", text, re.M)
    assert str(pooler.ini) in revenue_shell(listing).stdout
    (memory,) = re.findall(r"^cat /proc/.*$", text, re.M)
    # Other tests' poolers may run beside it.
    memory = memory.replace("pgrep pgbouncer", f"pgrep -P {os.getpid()} pgbouncer")
    assert re.fullmatch(r"VmRSS:\s+\d+ kB\n", revenue_shell(memory).stdout)


def test_every_line_of_the_revenue_engine_file_is_covered():
    """What this module runs, together, is all of it but comments."""
    text = commands(REVENUE / "operator-commands.sh")
    covered = [r"^psql [^\n]*<< 'EOF'\n.*?^EOF$", r"^cat >> \S+ << EOF\n.*?^EOF$", r"^psql .*$", r"^SHOW \w+;$",
               r"^SELECT \* FROM pg_stat_activity.*$", r"^echo .*$", r"^systemctl reload pgbouncer$", r"^openssl req .*$",
               r"^ps aux .*$", r"^cat /proc/.*$"]
    for pattern in covered:
        text = re.sub(pattern, "", text, flags=re.M | re.S if "EOF" in pattern else re.M)
    left = [line for line in text.splitlines() if line and not line.startswith("#")]
    # Their own files: nothing of the pooler's.
    assert left == ["chmod 600 pgbouncer.key", "chown pgbouncer:pgbouncer pgbouncer.crt pgbouncer.key",
                    "cat /etc/pgbouncer/userlist.txt"]


def test_revenue_pg_stat_activity_goes_to_the_database(revenue, revenue_shell):
    (query,) = re.findall(r"^SELECT \* FROM pg_stat_activity.*$", commands(REVENUE / "operator-commands.sh"), re.M)
    done = revenue_shell(f"psql -h localhost -p {revenue.port} -U revenue_user -d revenue_engine -c '{query}'")
    assert "backend_type" in done.stdout


def test_revenue_failover_scripts_check(revenue, revenue_shell):
    text = commands(REVENUE / "haproxy-and-failover-to-replace.txt")
    (line,) = re.findall(r"^if ! (psql .*?) > /dev/null", text, re.M)
    assert "version" in revenue_shell(adapt(line, revenue)).stdout


def run_edit(pooler, shell, pattern: str) -> None:
    """Run the lines of operator-commands.sh that match, against the pooler's own file."""
    text = commands(REVENUE / "operator-commands.sh")
    lines = re.findall(pattern, text, re.M)
    assert lines, f"operator-commands.sh has no {pattern} any more"
    for line in lines:
        shell(adapt(line, pooler))


@pytest.fixture
def own_revenue(site, request):
    """A pooler of its own, since the test changes its file."""
    pooler = site.revenue_engine()
    yield pooler
    assert pooler.process.poll() is None, pooler.log()[-3000:]
    site.discard(pooler)


def test_revenue_edits_of_the_file_and_reload(own_revenue, revenue_shell):
    pooler = own_revenue
    assert pooler.setting("default_pool_size") == "20"
    run_edit(pooler, revenue_shell, r'^(echo "default_pool_size = 30" >> .*\nsystemctl reload pgbouncer)$')
    poll_until(lambda: pooler.setting("default_pool_size") == "30", "the larger pool")
    run_edit(pooler, revenue_shell,
             r'^(echo "server_connect_timeout = 30" >> .*\necho .*\nsystemctl reload pgbouncer)$')
    poll_until(lambda: pooler.setting("client_login_timeout") == "120", "the longer timeouts")
    assert pooler.setting("server_connect_timeout") == "30"
    run_edit(pooler, revenue_shell, r'^(echo "pkt_buf = 8192" >> .*)$')
    pooler.hangup()
    # A setting that needs a restart must not make the reload fail, nor take effect.
    revenue_shell(f"echo 'default_pool_size = 31' >> {pooler.ini}; kill -HUP {pooler.pid}")
    poll_until(lambda: pooler.setting("default_pool_size") == "31", "the reload")
    assert pooler.setting("pkt_buf") == "4096"


def test_revenue_new_certificate_by_the_operators_command_and_reload(own_revenue, revenue_shell, site):
    pooler = own_revenue
    text = commands(REVENUE / "operator-commands.sh")
    (make,) = re.findall(r"^openssl req .*$", text, re.M)
    (append,) = re.findall(r"^cat >> /etc/pgbouncer/pgbouncer.ini << EOF\n.*?^EOF$", text, re.M | re.S)
    place = pooler.folder / "new"
    place.mkdir()
    revenue_shell(f"cd {place} && {make} && chmod 600 pgbouncer.key")
    site.readable(place)
    append = append.replace("/etc/ssl/certs/pgbouncer.crt", str(place / "pgbouncer.crt"))
    append = append.replace("/etc/ssl/private/pgbouncer.key", str(place / "pgbouncer.key"))
    revenue_shell(adapt(append, pooler))
    pooler.hangup()
    login = ("revenue_engine", "revenue_user", "secure_revenue_password")

    def new_certificate_is_used() -> bool:
        with pooler.connect(*login, sslmode="verify-ca", sslrootcert=str(place / "pgbouncer.crt")) as connection:
            return connection.execute("select 1").fetchone() == (1,)

    poll_until(new_certificate_is_used, "the new certificate")


def test_revenue_access_control_databases(own_revenue, site):
    """The fragment's databases with forced users; its last line belongs to another section and is told so."""
    pooler = own_revenue
    fragment = (REVENUE / "access-control.ini").read_text()
    lines = re.findall(r"^(?:revenue_engine|analytics_db) = .*$", fragment, re.M)
    assert len(lines) == 2
    text = pooler.ini.read_text()
    for line in lines:
        for node in (site.cluster.primary, *site.cluster.replicas):
            line = line.replace(f"host={node.name} port=5432", f"host=127.0.0.1 port={node.port}")
        text = re.sub(rf"^{line.split(' = ')[0]} = .*$", lambda _, line=line: line, text, flags=re.M)
    pooler.write(text.replace("max_user_connections = 100", "max_user_connections = 50"))
    pooler.hangup()
    poll_until(lambda: pooler.setting("max_user_connections") == "50", "the reload")
    for database, user in (("revenue_engine", "revenue_user"), ("analytics_db", "analytics_user")):
        with pooler.connect(database, "monitor_user", "secure_monitor_password", sslmode="require") as connection:
            assert connection.execute("select current_user").fetchone() == (user,)
    pooler.write(text.replace("[pgbouncer]", "max_user_connections = 50\n\n[pgbouncer]", 1))
    pooler.hangup()
    pooler.wait_log("max_user_connections")
    assert pooler.connect("revenue_engine", "revenue_user", "secure_revenue_password").closed is False


def test_scanner_psql_lines(scanner):
    lines = psql_lines(SCANNER / "operator-commands.sh")
    assert len(lines) == 2
    for line in lines:
        done = process.run(["bash", "-c", adapt(line, scanner)], env=process.clean_environment(PAGER="cat"))
        assert done.stderr == ""
    assert "total_xact_count" in done.stdout and "cl_active" in done.stdout


def test_scanner_show_columns(scanner):
    text = commands(SCANNER / "show-pools-and-databases.txt")
    with scanner.connect("enterprisescanner", "admin", "SecurePass2024!") as connection:
        connection.execute("select 1")
        for command in ("SHOW POOLS", "SHOW DATABASES"):
            (head,) = re.findall(rf"^{command};\n\n(.*)$", text, re.M)
            wanted = [name.strip() for name in head.split("|")]
            rows = scanner.admin(command)
            assert [name for name in rows[0] if name in wanted] == wanted
    pools = {row["database"]: row for row in scanner.admin("SHOW POOLS")}
    assert pools["enterprisescanner"]["user"] == "admin" and pools["enterprisescanner"]["pool_mode"] == "transaction"
    assert pools["pgbouncer"]["user"] == "pgbouncer" and pools["pgbouncer"]["pool_mode"] == "statement"
    databases = {row["name"]: row for row in scanner.admin("SHOW DATABASES")}
    assert databases["enterprisescanner"]["host"] == "127.0.0.1"
    assert databases["enterprisescanner"]["max_connections"] == 50


def test_scanner_daemon_restart_and_reload(site):
    """`pgbouncer -d FILE`, `killall -HUP`, `pkill`, and the same again, as in the operators' notes."""
    pooler = site.enterprisescanner()
    pooler.stop()
    pidfile = pooler.folder / "pgbouncer.pid"
    pid = None
    try:
        for _ in range(2):
            text = commands(SCANNER / "operator-commands.sh")
            (edit,) = re.findall(r"^sed -i .*$", text, re.M)
            edit = edit.replace("/var/run/postgresql/pgbouncer.pid", str(pidfile))
            process.run(["bash", "-c", edit.replace("/etc/pgbouncer/", f"{pooler.ini.parent}/")], user=site.user)
            process.run([binary(), "-d", pooler.ini], user=site.user, timeout=15)
            pid = poll_until(lambda: int(pidfile.read_text()), "the pidfile")
            poll_until(lambda: pooler.admin("SHOW VERSION"), "the daemon serves")
            pooler.write(pooler.ini.read_text() + "default_pool_size = 26\n")
            os.kill(pid, signal.SIGHUP)
            poll_until(lambda: pooler.setting("default_pool_size") == "26", "the reload")
            os.kill(pid, signal.SIGTERM)
            poll_until(lambda: not Path(f"/proc/{pid}").exists() or _is_zombie(pid), "the daemon ends")
            pid = None
            assert not pidfile.exists()
    finally:
        if pid is not None and Path(f"/proc/{pid}").exists():
            os.kill(pid, signal.SIGKILL)
        site.discard(pooler)


def _is_zombie(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"

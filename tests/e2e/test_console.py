"""The admin console: columns, commands, signals, and reloads that change all or nothing."""

import os
import signal
import threading
from pathlib import Path

import psycopg
import pytest
from harness import process, wire
from harness.pooler import binary
from harness.process import poll_until
from harness.wire import WireError

PID = "select pg_backend_pid()"

COLUMNS = {
    "VERSION": "version",
    "STATE": "key value",
    "CONFIG": "key value default changeable",
    "DATABASES": "name host port database force_user pool_size min_pool_size reserve_pool_size server_lifetime"
                 " pool_mode load_balance_hosts max_connections current_connections max_client_connections"
                 " current_client_connections paused disabled reserve_pool",
    "POOLS": "database user cl_active cl_waiting cl_active_cancel_req cl_waiting_cancel_req sv_active"
             " sv_active_cancel sv_being_canceled sv_idle sv_used sv_tested sv_login maxwait maxwait_us pool_mode"
             " load_balance_hosts",
    "CLIENTS": "type user database replication state addr port local_addr local_port connect_time request_time wait"
               " wait_us close_needed ptr link remote_pid tls application_name prepared_statements id",
    "STATS_TOTALS": "database server_assignment_count xact_count query_count bytes_received bytes_sent xact_time"
                    " query_time wait_time client_parse_count server_parse_count bind_count client_login_count",
    "USERS": "name pool_size reserve_pool_size pool_mode max_user_connections current_connections"
             " max_user_client_connections current_client_connections",
    "LISTS": "list items",
    "MEM": "name size used free memtotal",
    "DNS_HOSTS": "hostname ttl addrs",
    "DNS_ZONES": "zonename serial count",
    "PEERS": "peer_id host port pool_size",
    "PEER_POOLS": "peer_id cl_active_cancel_req cl_waiting_cancel_req sv_active_cancel sv_login",
    "TOTALS": "name value",
}
COLUMNS["SERVERS"] = COLUMNS["CLIENTS"]
COLUMNS["SOCKETS"] = COLUMNS["CLIENTS"] + " recv_pos pkt_pos pkt_remain send_pos send_remain pkt_avail send_avail"
COLUMNS["ACTIVE_SOCKETS"] = COLUMNS["SOCKETS"]


@pytest.fixture(scope="module")
def console(site):
    """A console of a pooler with one busy client."""
    pooler = site.pooler()
    client = pooler.wire()
    client.query("begin")
    connection = pooler.console()
    yield connection
    connection.close()
    client.close()
    site.discard(pooler)


@pytest.mark.parametrize("item", COLUMNS)
def test_show_columns(console, item):
    cursor = console.execute(f"SHOW {item};")
    assert [c.name for c in cursor.description] == COLUMNS[item].split()
    cursor.fetchall()
    assert cursor.statusmessage == "SHOW"


def test_show_stats_columns(console):
    names = [c.name for c in console.execute("SHOW STATS").description]
    assert names[:13] == ("database total_server_assignment_count total_xact_count total_query_count total_received"
                          " total_sent total_xact_time total_query_time total_wait_time total_client_parse_count"
                          " total_server_parse_count total_bind_count total_client_login_count").split()
    assert names[13:18] == "avg_server_assignment_count avg_xact_count avg_query_count avg_recv avg_sent".split()


def test_show_help_is_a_notice(console):
    notices = []
    console.add_notice_handler(lambda diagnostic: notices.append((diagnostic.message_primary,
                                                                  diagnostic.message_detail)))
    console.execute("SHOW HELP")
    assert notices[0][0] == "Console usage" and "RELOAD" in notices[0][1]


@pytest.mark.parametrize("command", ["SHOW NOTHING", "HELLO", "SHOW", "select pg_sleep(1)", "SHOW POOLS; SHOW STATS"])
def test_unknown_command(console, command):
    with pytest.raises(psycopg.DatabaseError) as caught:
        console.execute(command)
    assert caught.value.sqlstate == "08P01" and "use SHOW HELP" in str(caught.value)


def test_version_is_that_of_the_command_line(start_pooler, site):
    pooler = start_pooler()
    first = process.run([binary(), "--version"], user=site.user).stdout.splitlines()[0]
    assert pooler.admin("SHOW VERSION") == [{"version": first}]
    process.run([binary(), "--help"], user=site.user)


@pytest.mark.beyond_pgbouncer("PgBouncer's console speaks simple queries only")
def test_console_speaks_extended_queries(start_pooler):
    pooler = start_pooler()
    with pooler.wire("pgbouncer", "console", "console password") as client:
        reply = client.ask(wire.parse("", "SHOW STATE") + wire.bind("") + wire.execute() + wire.sync())
        assert reply.rows == [["active", "yes"], ["paused", "no"], ["suspended", "no"]] and reply.status == "I"


def test_set_and_show_config(start_pooler):
    pooler = start_pooler()
    pooler.admin("SET query_timeout = 12")
    pooler.admin("SET server_idle_timeout TO '34'")
    assert (pooler.setting("query_timeout"), pooler.setting("server_idle_timeout")) == ("12", "34")
    for command in ("SET no_such_setting = 1", "SET query_timeout = 'soon'"):
        with pytest.raises(psycopg.DatabaseError, match="SET failed"):
            pooler.admin(command)
    pooler.admin("RELOAD")
    assert pooler.setting("query_timeout") == "0", "a reload undoes SET"


@pytest.mark.parametrize("how", ["RELOAD", "SIGHUP"])
def test_reload_changes_settings_and_databases(site, start_pooler, how):
    pooler = start_pooler()
    text = pooler.ini.read_text()
    text = text.replace("[pgbouncer]", f"extra = {site.to_primary()}\n\n[pgbouncer]") + "default_pool_size = 7\n"
    pooler.write(text)
    if how == "RELOAD":
        pooler.admin("RELOAD")
    else:
        pooler.hangup()
    poll_until(lambda: pooler.setting("default_pool_size") == "7", "the new size")
    with pooler.wire("extra") as client:
        assert client.value("select 1") == "1"


def test_reload_drops_databases_that_are_gone(site, start_pooler):
    pooler = start_pooler(databases={"app": site.to_primary(), "old": site.to_primary()})
    before = pooler.ini.read_text()
    with pooler.wire("old") as client, pooler.wire() as stays:
        client.query("select 1")
        pooler.write("\n".join(line for line in before.splitlines() if not line.startswith("old =")) + "\n")
        pooler.admin("RELOAD")
        error = client.expect_error()
        assert error.text == "database removed" and client.is_closed()
        assert stays.value("select 1") == "1"
    with pytest.raises(WireError, match="no such database: old"):
        pooler.wire("old")


def test_reload_of_a_changed_target_moves_to_new_servers(site, start_pooler):
    pooler = start_pooler(databases={"app": site.to_primary()}, default_pool_size=1)
    with pooler.wire() as client:
        assert client.value("select current_database()") == "app"
        pooler.write(pooler.ini.read_text().replace("dbname=app", "dbname=revenue_engine"))
        pooler.admin("RELOAD")
        poll_until(lambda: client.value("select current_database()") == "revenue_engine", "the new database")


@pytest.mark.parametrize("how", ["RELOAD", "SIGHUP"])
def test_reload_of_userlist(start_pooler, how):
    pooler = start_pooler()
    users = pooler.folder / "userlist.txt"
    with pytest.raises(WireError):
        pooler.wire("app", "trusted", "secret")
    users.write_text(users.read_text() + '"trusted" "secret"\n')
    if how == "RELOAD":
        pooler.admin("RELOAD")
    else:
        pooler.hangup()

    def logs_in():
        with pooler.wire("app", "trusted", "secret") as client:
            return client.value("select current_user") == "trusted"

    poll_until(logs_in, "the new user logs in")


def test_failed_reload_says_so_and_goes_on_serving(start_pooler):
    pooler = start_pooler()
    good = pooler.ini.read_text()
    with pooler.wire() as client:
        client.query("select 1")
        for bad in ("default_pool_size = many\n", "no_such_key = 1\n", "[no such section]\n", "just words\n"):
            pooler.write(good + bad)
            with pytest.raises(psycopg.DatabaseError, match="RELOAD failed, see logs") as caught:
                pooler.admin("RELOAD")
            assert caught.value.sqlstate == "F0000"
            assert client.value("select 'served'") == "served"
    pooler.write(good)
    pooler.admin("RELOAD")


@pytest.mark.beyond_pgbouncer("PgBouncer keeps what it read before the bad line")
@pytest.mark.parametrize("how", ["RELOAD", "SIGHUP"])
def test_reload_is_all_or_nothing(site, start_pooler, how):
    pooler = start_pooler(query_timeout=11)
    before = pooler.admin("SHOW CONFIG"), pooler.admin("SHOW DATABASES")
    text = pooler.ini.read_text().replace("query_timeout = 11", "query_timeout = 22")
    text = text.replace("[pgbouncer]", f"extra = {site.to_primary()}\n\n[pgbouncer]")
    pooler.write(text + "default_pool_size = 33\nserver_lifetime = a while\n")
    if how == "RELOAD":
        with pytest.raises(psycopg.DatabaseError, match="RELOAD failed"):
            pooler.admin("RELOAD")
    else:
        mark = len(pooler.log())
        pooler.hangup()
        poll_until(lambda: "server_lifetime" in pooler.log()[mark:], "the log names the bad setting")

    def without_clients(databases):
        return [{k: v for k, v in row.items() if not k.startswith("current_")} for row in databases]

    after = pooler.admin("SHOW CONFIG"), pooler.admin("SHOW DATABASES")
    assert after[0] == before[0] and without_clients(after[1]) == without_clients(before[1])


@pytest.mark.beyond_pgbouncer("PgBouncer stops at the first error and names no file in it for databases")
def test_all_errors_of_a_file_are_told_at_once(start_pooler):
    pooler = start_pooler()
    pooler.write(pooler.ini.read_text() + "defualt_pool_size = 5\nserver_lifetime = a while\n")
    with pytest.raises(psycopg.DatabaseError):
        pooler.admin("RELOAD")
    log = pooler.log()
    assert "defualt_pool_size" in log and "default_pool_size" in log and "server_lifetime" in log
    assert f"{pooler.ini.name}:" in log


def test_pause_and_resume(start_pooler):
    pooler = start_pooler()
    with pooler.wire() as client:
        client.query("select 1")
        pooler.admin("PAUSE app")
        client.send(wire.query("select 'after the pause'"))
        poll_until(lambda: pooler.pool()["cl_waiting"] == 1, "the client waits")
        assert not pooler.servers()
        pooler.admin("RESUME app")
        assert client.reply().rows == [["after the pause"]]


def test_pause_waits_for_transactions(start_pooler):
    pooler = start_pooler()
    with pooler.wire() as client:
        client.query("begin")
        done = threading.Event()

        def pause():
            pooler.admin("PAUSE")
            done.set()

        thread = threading.Thread(target=pause)
        thread.start()
        poll_until(lambda: "PAUSE command issued" in pooler.log(), "the PAUSE has come")
        assert client.value("select 'still mine'") == "still mine"
        assert not done.is_set()
        client.query("commit")
        assert done.wait(10)
        thread.join()
        with pytest.raises(psycopg.DatabaseError, match="already suspended/paused"):
            pooler.admin("PAUSE")
        pooler.admin("RESUME")
        assert client.value("select 1") == "1"
        with pytest.raises(psycopg.DatabaseError, match="pooler is not paused/suspended"):
            pooler.admin("RESUME")


def test_suspend_and_resume(start_pooler):
    pooler = start_pooler()
    with pooler.wire() as client, pooler.console() as console:
        client.query("select 1")
        console.execute("SUSPEND")
        client.send(wire.query("select 'later'"))
        console.execute("RESUME")
        assert client.reply().rows == [["later"]]


def test_suspend_ends_with_the_last_console(start_pooler):
    pooler = start_pooler()
    with pooler.wire() as client:
        client.query("select 1")
        with pooler.console() as console, pooler.console():
            console.execute("SUSPEND")
        pooler.wait_log("admin disappeared when suspended, doing RESUME")
        assert {row["key"]: row["value"] for row in pooler.admin("SHOW STATE")}["suspended"] == "no"
        assert client.value("select 1") == "1"


def test_kill_drops_clients_and_pauses(start_pooler):
    pooler = start_pooler()
    with pooler.wire() as client:
        client.query("select 1")
        pooler.admin("KILL app")
        assert client.expect_error().text == "database removed"
        assert client.is_closed()
    pooler.admin("RESUME app")
    pooler.connect().close()
    with pytest.raises(psycopg.DatabaseError, match="no such database: nowhere"):
        pooler.admin("KILL nowhere")


def test_kill_client(start_pooler):
    pooler = start_pooler()
    with pooler.wire(application_name="victim") as victim, pooler.wire() as other:
        (row,) = [r for r in pooler.admin("SHOW CLIENTS") if r["application_name"] == "victim"]
        pooler.admin(f"KILL_CLIENT {row['id']}")
        assert victim.expect_error().text == "admin forced disconnect"
        assert other.value("select 1") == "1"
    for argument, text in (("999999", "client not found"), ("abc", "invalid client pointer supplied")):
        with pytest.raises(psycopg.DatabaseError, match=text):
            pooler.admin(f"KILL_CLIENT {argument}")


def test_reconnect(start_pooler):
    pooler = start_pooler(default_pool_size=1)
    with pooler.wire() as client:
        first = client.value(PID)
        client.query("begin")
        pooler.admin("RECONNECT")
        assert client.value(PID) == first, "not in the middle of a transaction"
        client.query("commit")
        poll_until(lambda: client.value(PID) != first, "a new server")
    pooler.admin("RECONNECT app")


def test_wait_close(start_pooler):
    pooler = start_pooler(default_pool_size=1)
    with pooler.wire() as client:
        client.query("select 1")
        pooler.admin("RECONNECT app")
        pooler.admin("WAIT_CLOSE app")
        assert not any(row["close_needed"] for row in pooler.servers())


def test_disable_and_enable(start_pooler):
    pooler = start_pooler()
    with pooler.wire() as client:
        pooler.admin("DISABLE app")
        with pytest.raises(WireError, match='database "app" is disabled'):
            pooler.wire()
        assert client.value("select 1") == "1"
        pooler.admin("ENABLE app")
        pooler.wire().close()


def test_client_states(start_pooler):
    pooler = start_pooler(default_pool_size=1)
    with pooler.wire(application_name="one") as one, pooler.wire(application_name="two") as two:
        def states():
            return {r["application_name"]: r["state"] for r in pooler.admin("SHOW CLIENTS") if r["database"] == "app"}

        assert states() == {"one": "idle", "two": "idle"}
        one.query("begin")
        two.send(wire.query("commit"))
        poll_until(lambda: states() == {"one": "active", "two": "waiting"}, "the states")
        one.query("commit")
        two.reply()
        poll_until(lambda: states() == {"one": "idle", "two": "idle"}, "idle again")


def test_transactions_and_queries_are_counted(start_pooler):
    pooler = start_pooler()
    with pooler.wire() as client:
        for _ in range(3):
            client.query("begin")
            client.query("select 1")
            client.query("commit")
    row = next(r for r in pooler.admin("SHOW STATS_TOTALS") if r["database"] == "app")
    assert (int(row["xact_count"]), int(row["query_count"]), int(row["client_login_count"])) == (3, 9, 1)
    assert int(row["bytes_received"]) > 0 and int(row["bytes_sent"]) > 0


def test_start_with_a_bad_file_fails_and_names_the_line(start_pooler):
    pooler = start_pooler(start=False)
    pooler.write(pooler.ini.read_text() + "default_pool_size = many\n")
    done = process.run([binary(), pooler.ini], user=pooler.user, check=False, timeout=10)
    assert done.returncode == 1
    assert "default_pool_size" in done.stderr + done.stdout + pooler.log()


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: only root can try to start as root")


@needs_root
def test_root_without_a_user_to_become_is_refused(start_pooler):
    pooler = start_pooler(start=False)
    done = process.run([binary(), pooler.ini], check=False, timeout=10)
    assert done.returncode != 0 and "root" in done.stderr + done.stdout + pooler.log()


@needs_root
def test_root_becomes_the_user_of_the_file(start_pooler, site):
    pooler = start_pooler(start=False)
    pooler.write(pooler.ini.read_text() + f"user = {site.user}\n")
    pooler.user = None
    pooler.start()
    status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pooler.pid}/status").read_text().splitlines())
    uid = str(pooler.ini.stat().st_uid)
    assert uid != "0" and set(status["Uid"].split()) == {uid}
    assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == 0
    pooler.connect().close()

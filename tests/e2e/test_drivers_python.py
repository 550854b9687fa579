"""psql and the Python drivers under the revenue-engine file: TLS, md5, transaction pooling."""

import asyncio
import io
import ssl
import threading

import asyncpg
import psycopg
import psycopg2
import pytest
import sqlalchemy
from harness import process
from harness.process import poll_until

USER, PASSWORD, DATABASE = "revenue_user", "secure_revenue_password", "revenue_engine"
LARGE = "select repeat(chr(97 + g % 26), 1000000) from generate_series(1, 100) g"
SMALL_ROWS = 1000
SLEEP = "select pg_sleep(60)"


@pytest.fixture(autouse=True)
def table(cluster):
    cluster.primary.sql("drop table if exists made_by_driver", DATABASE)


def sleepers(cluster) -> int:
    """How many pg_sleep queries of the driver run on the primary."""
    return cluster.primary.sql("select count(*) from pg_stat_activity where state = 'active' and query like %s"
                               " and pid <> pg_backend_pid()", parameters=("%pg_sleep(60)%",))[0][0]


def when_asleep(cluster, action) -> threading.Thread:
    """Call `action` from another thread as soon as the query runs on the server."""
    def act():
        poll_until(lambda: sleepers(cluster) > 0, "the query runs")
        action()

    thread = threading.Thread(target=act)
    thread.start()
    return thread


# -- psql


@pytest.fixture
def psql(revenue):
    def run(*arguments, stdin=None, check=True):
        return process.run(
            ["psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-d",
             revenue.dsn(DATABASE, USER, None, sslmode="require"), *arguments],
            env=process.clean_environment(PGPASSWORD=PASSWORD), stdin=stdin, check=check)
    return run


def test_psql(psql, cluster):
    assert psql("-c", "create table made_by_driver (v int, t text)", "-c",
                "insert into made_by_driver values (1, 'one'), (2, 'two')", "-c",
                "select count(*) from made_by_driver").stdout == "2\n"
    psql("-c", r"\copy made_by_driver from stdin", stdin="3\tthree\n4\tfour\n")
    assert psql("-c", r"\copy (select v from made_by_driver order by v) to stdout").stdout == "1\n2\n3\n4\n"
    assert psql("-c", r"\d made_by_driver").returncode == 0
    failed = psql("-c", r"\set VERBOSITY verbose", "-c", "select 1/0", check=False)
    assert failed.returncode == 1 and "22012" in failed.stderr
    assert psql(stdin="begin; insert into made_by_driver values (5, 'five'); rollback;\n"
                "select count(*) from made_by_driver;\n").stdout == "4\n"


def test_psql_large_result(psql):
    assert len(psql("-c", LARGE).stdout) == 100 * 1_000_001


def test_psql_cancel_by_ctrl_c(revenue, cluster):
    import signal
    import subprocess
    running = subprocess.Popen(
        ["psql", "-XAtq", "-v", "VERBOSITY=verbose", "-d", revenue.dsn(DATABASE, USER, None, sslmode="require"),
         "-c", SLEEP], stderr=subprocess.PIPE, text=True, env=process.clean_environment(PGPASSWORD=PASSWORD))
    poll_until(lambda: sleepers(cluster) > 0, "the query runs")
    running.send_signal(signal.SIGINT)
    _, errors = running.communicate(timeout=20)
    assert "57014" in errors and sleepers(cluster) == 0


# -- psycopg2


@pytest.fixture
def psycopg2_connection(revenue):
    connection = psycopg2.connect(revenue.dsn(DATABASE, USER, PASSWORD, sslmode="require"))
    yield connection
    connection.close()


def test_psycopg2(psycopg2_connection):
    connection = psycopg2_connection
    with connection, connection.cursor() as cursor:
        cursor.execute("create table made_by_driver (v int primary key, t text)")
        cursor.execute("insert into made_by_driver values (%s, %s)", (1, "one"))
    with connection, connection.cursor() as cursor:
        cursor.copy_expert("copy made_by_driver from stdin", io.StringIO("2\ttwo\n3\tthree\n"))
        out = io.StringIO()
        cursor.copy_expert("copy (select v from made_by_driver order by v) to stdout", out)
        assert out.getvalue() == "1\n2\n3\n"
        cursor.execute("prepare by_sql(int) as select $1 * 2")
        for number in range(8):
            cursor.execute("execute by_sql(%s)", (number,))
            assert cursor.fetchone() == (number * 2,)
        cursor.execute("deallocate by_sql")
    with pytest.raises(psycopg2.errors.UniqueViolation) as caught, connection, connection.cursor() as cursor:
        cursor.execute("insert into made_by_driver values (1, 'again')")
    assert caught.value.pgcode == "23505"
    with connection, connection.cursor("server_side") as cursor:
        cursor.execute("select generate_series(1, 5000)")
        assert sum(row[0] for row in cursor) == 5000 * 5001 // 2


def test_psycopg2_cancel(psycopg2_connection, cluster):
    thread = when_asleep(cluster, psycopg2_connection.cancel)
    with pytest.raises(psycopg2.errors.QueryCanceled), psycopg2_connection.cursor() as cursor:
        cursor.execute(SLEEP)
    thread.join()


def test_psycopg2_large_result(psycopg2_connection):
    with psycopg2_connection.cursor() as cursor:
        cursor.execute(LARGE)
        assert sum(len(row[0]) for row in cursor) == 100_000_000


# -- psycopg 3, blocking


@pytest.fixture
def psycopg_connection(revenue):
    with revenue.connect(DATABASE, USER, PASSWORD, autocommit=True, sslmode="require") as connection:
        yield connection


def test_psycopg(psycopg_connection):
    connection = psycopg_connection
    connection.execute("create table made_by_driver (v int primary key, t text)")
    with connection.transaction():
        connection.execute("insert into made_by_driver values (%s, %s)", (1, "one"))
    with connection.cursor() as cursor, cursor.copy("copy made_by_driver (v, t) from stdin") as copy:
        for number in range(2, 1002):
            copy.write_row((number, "x" * 100))
    with connection.cursor() as cursor, cursor.copy("copy made_by_driver to stdout (format binary)") as copy:
        copy.set_types(["int4", "text"])
        assert sum(row[0] for row in copy.rows()) == 1001 * 1002 // 2
    with pytest.raises(psycopg.errors.UniqueViolation) as caught:
        connection.execute("insert into made_by_driver values (1, 'again')")
    assert caught.value.sqlstate == "23505"
    connection.cursor().executemany("insert into made_by_driver values (%s, %s)", [(n, "y") for n in range(2000, 2100)])
    with connection.transaction(), connection.cursor("server_side") as cursor:
        cursor.execute("select v from made_by_driver")
        assert len(cursor.fetchall()) == 1101


def prepared_on_server(execute) -> bool:
    """Whether the statement just run is a prepared one on its server."""
    return execute("select count(*) from pg_prepared_statements where statement like '%marker%'"
                   " and statement not like '%pg_prepared%'") > 0


def test_psycopg_prepared(psycopg_connection):
    connection = psycopg_connection
    for number in range(20):  # prepared on the server from the sixth on
        assert connection.execute("select %s::int + 1 /* marker */", (number,)).fetchone() == (number + 1,)
    with connection.transaction():
        connection.execute("select %s::int + 1 /* marker */", (0,))
        assert prepared_on_server(lambda sql: connection.execute(sql).fetchone()[0])
    connection.execute("select %s::int + 1 /* explicitly */", (1,), prepare=True)


def test_psycopg_cancel(psycopg_connection, cluster):
    thread = when_asleep(cluster, psycopg_connection.cancel_safe)
    with pytest.raises(psycopg.errors.QueryCanceled):
        psycopg_connection.execute(SLEEP)
    thread.join()
    assert psycopg_connection.execute("select 1").fetchone() == (1,)


def test_psycopg_large_result(psycopg_connection):
    assert sum(len(row[0]) for row in psycopg_connection.execute(LARGE)) == 100_000_000


def test_psycopg_pipeline_mode(psycopg_connection):
    connection = psycopg_connection
    connection.execute("create table made_by_driver (v int primary key)")
    with connection.pipeline() as pipeline:
        for number in range(200):
            connection.execute("insert into made_by_driver values (%s)", (number,))
        counted = connection.execute("select count(*) from made_by_driver")
        pipeline.sync()
        assert counted.fetchone() == (200,)
    with pytest.raises(psycopg.errors.UniqueViolation), connection.pipeline():
        connection.execute("insert into made_by_driver values (1000)")
        connection.execute("insert into made_by_driver values (1)")
        connection.execute("insert into made_by_driver values (1001)")
    assert connection.execute("select count(*) from made_by_driver").fetchone() == (200,)
    with connection.pipeline():
        large = [connection.execute("select repeat('z', 1000000)") for _ in range(50)]
        assert sum(len(c.fetchone()[0]) for c in large) == 50_000_000


# -- psycopg 3, asyncio


async def test_psycopg_async(revenue, cluster):
    connection = await psycopg.AsyncConnection.connect(
        revenue.dsn(DATABASE, USER, PASSWORD, sslmode="require"), autocommit=True)
    async with connection:
        await connection.execute("create table made_by_driver (v int primary key)")
        async with connection.cursor() as cursor:
            async with cursor.copy("copy made_by_driver from stdin") as copy:
                for number in range(1000):
                    await copy.write_row((number,))
            async with cursor.copy("copy made_by_driver to stdout") as copy:
                assert len([row async for row in copy.rows()]) == 1000
        for number in range(10):
            row = await (await connection.execute("select %s::int", (number,), prepare=True)).fetchone()
            assert row == (number,)
        with pytest.raises(psycopg.errors.UndefinedTable) as caught:
            await connection.execute("select * from no_such_table")
        assert caught.value.sqlstate == "42P01"
        async with connection.pipeline():
            cursors = [await connection.execute("select %s::int", (n,)) for n in range(100)]
            assert [(await c.fetchone())[0] for c in cursors] == list(range(100))
        task = asyncio.create_task(connection.execute(SLEEP))
        await asyncio.to_thread(poll_until, lambda: sleepers(cluster) > 0, "the query runs")
        await connection.cancel_safe()
        with pytest.raises(psycopg.errors.QueryCanceled):
            await task
        cursor = await connection.execute(LARGE)
        assert sum([len(row[0]) async for row in cursor]) == 100_000_000


async def test_psycopg_async_many_at_once(revenue):
    async def one(number: int) -> None:
        connection = await psycopg.AsyncConnection.connect(
            revenue.dsn(DATABASE, USER, PASSWORD, sslmode="require"), autocommit=True)
        async with connection:
            for turn in range(10):
                cursor = await connection.execute("select %s::int, %s::int", (number, turn), prepare=True)
                assert await cursor.fetchone() == (number, turn)

    await asyncio.gather(*(one(n) for n in range(60)))


# -- asyncpg


def asyncpg_arguments(revenue, site) -> dict:
    context = ssl.create_default_context(cafile=str(site.pooler_cert.cert))
    context.check_hostname = False  # Python reads no CN
    return {"host": "127.0.0.1", "port": revenue.port, "user": USER, "password": PASSWORD, "database": DATABASE,
            "ssl": context, "timeout": 15, "command_timeout": 60}


async def test_asyncpg(revenue, site, cluster):
    connection = await asyncpg.connect(**asyncpg_arguments(revenue, site))
    try:
        await connection.execute("create table made_by_driver (v int primary key, t text)")
        assert await connection.execute("insert into made_by_driver values ($1, $2)", 1, "one") == "INSERT 0 1"
        await connection.copy_records_to_table("made_by_driver", records=[(n, "x") for n in range(2, 1002)])
        out = io.BytesIO()
        await connection.copy_from_query("select v from made_by_driver", output=out)
        assert len(out.getvalue().splitlines()) == 1001
        rows = [(n, "y") for n in range(2000, 2100)]
        await connection.executemany("insert into made_by_driver values ($1, $2)", rows)
        statement = await connection.prepare("select $1::int + 1 /* marker */")
        for number in range(20):
            assert await statement.fetchval(number) == number + 1
        async with connection.transaction():
            await statement.fetchval(1)
            count = await connection.fetchval(
                "select count(*) from pg_prepared_statements where statement like '%marker */'")
            assert count > 0
        with pytest.raises(asyncpg.UniqueViolationError) as caught:
            await connection.execute("insert into made_by_driver values (1, 'again')")
        assert caught.value.sqlstate == "23505"
        async with connection.transaction():
            assert len([r async for r in connection.cursor("select * from generate_series(1, 500)")]) == 500
        with pytest.raises(asyncio.TimeoutError):
            await connection.execute(SLEEP, timeout=0.5)  # asyncpg then sends a cancel request
        assert await connection.fetchval("select 1") == 1
        assert sleepers(cluster) == 0
        assert sum(len(r[0]) for r in await connection.fetch(LARGE)) == 100_000_000
    finally:
        await connection.close()


async def test_asyncpg_pool(revenue, site):
    async with asyncpg.create_pool(min_size=2, max_size=20, **asyncpg_arguments(revenue, site)) as pool:
        async def one(number: int) -> None:
            async with pool.acquire() as connection, connection.transaction():
                assert await connection.fetchval("select $1::int", number) == number

        await asyncio.gather(*(one(n) for n in range(300)))


# -- SQLAlchemy


@pytest.mark.parametrize("driver", ["psycopg2", "psycopg"])
def test_sqlalchemy_with_pre_ping(revenue, driver):
    url = sqlalchemy.URL.create(f"postgresql+{driver}", USER, PASSWORD, "127.0.0.1", revenue.port, DATABASE,
                                {"sslmode": "require", "application_name": f"alchemy-{driver}"})
    engine = sqlalchemy.create_engine(url, pool_pre_ping=True, pool_size=3)
    metadata = sqlalchemy.MetaData()
    table = sqlalchemy.Table("made_by_driver", metadata, sqlalchemy.Column("v", sqlalchemy.Integer, primary_key=True),
                             sqlalchemy.Column("t", sqlalchemy.Text))
    metadata.create_all(engine)
    with engine.begin() as connection:
        connection.execute(table.insert(), [{"v": n, "t": "x" * n} for n in range(SMALL_ROWS)])
    for _ in range(10):
        with engine.connect() as connection:
            statement = sqlalchemy.select(sqlalchemy.func.count()).where(table.c.v < SMALL_ROWS)
            assert connection.scalar(statement) == SMALL_ROWS
    # The pooled connection dies behind SQLAlchemy's back: the ping finds out, the caller sees nothing.
    for row in revenue.admin("SHOW CLIENTS"):
        if row["application_name"] == f"alchemy-{driver}":
            revenue.admin(f"KILL_CLIENT {row['id']}")
    with engine.connect() as connection:
        assert connection.scalar(sqlalchemy.text("select 1")) == 1
        with pytest.raises(sqlalchemy.exc.IntegrityError):
            connection.execute(table.insert(), {"v": 1, "t": ""})
        connection.rollback()
        assert len(connection.scalar(sqlalchemy.text("select repeat('x', 10000000)"))) == 10_000_000
    metadata.drop_all(engine)
    engine.dispose()


async def test_sqlalchemy_asyncpg(revenue, site):
    from sqlalchemy.ext.asyncio import create_async_engine
    arguments = asyncpg_arguments(revenue, site)
    url = sqlalchemy.URL.create("postgresql+asyncpg", USER, PASSWORD, "127.0.0.1", revenue.port, DATABASE)
    engine = create_async_engine(url, pool_pre_ping=True, connect_args={"ssl": arguments["ssl"]})
    for number in range(20):
        async with engine.begin() as connection:
            assert await connection.scalar(sqlalchemy.text("select cast(:n as int)"), {"n": number}) == number
    await engine.dispose()

# Five restarts by -R while clients work, all of them and all servers over TLS: nobody may notice.
# needs: pgtandem postgres
. /lib/guest.sh

restarts=5
p=/tmp/p
url="host=localhost port=6432 sslmode=require"

fail() {
    {
        echo "guest: FAILED: $*"
        tail -n 30 $p/log $p/*.out $p/pgbench.* 2>/dev/null
    } >&2
    exit 1
}

# A session of psql is gone.
trap 'fail "somebody has hung up"' PIPE

# until_true SECONDS WHAT COMMAND…
until_true() {
    left=$(($1 * 10)) what=$2
    shift 2
    until "$@" >/dev/null 2>&1; do
        left=$((left - 1))
        [ $left -gt 0 ] || fail "$what"
        usleep 100000
    done
}

# is WHAT EXPECTED ACTUAL
is() { [ "$2" = "$3" ] || fail "$1 is '$3' and not '$2'"; }

# -- psql sessions, named by the descriptor (3 to 9) that leads to their standard input

# begin N OPTION…: a session of psql.
begin() {
    mkfifo $p/$1.in
    session=$1
    shift
    psql -qAtX "$url $*" <$p/$session.in >$p/$session.out 2>&1 &
    eval "psql_$session=\$!; exec $session>$p/$session.in"
}

# say N SQL: does not wait. What comes of it is in $p/N.answer when $p/N.done is there.
say() {
    rm -f $p/$1.answer $p/$1.done
    eval "printf '%s\n' '\\o $p/$1.answer' \"\$2\" '\\o' '\\! touch $p/$1.done' >&$1"
}

hear() {
    until_true 30 "no answer in session $1" test -e $p/$1.done
    tr '\n' ' ' <$p/$1.answer
}

ask() {
    say "$@"
    hear "$1"
}

# -- pgtandem

show() { psql -XA -P footer=off "$url dbname=pgbouncer" -c "show $1" || fail "the console does not answer"; }

# all_tls WHAT: how many of SHOW WHAT are in the databases below; an error if one has no TLS.
all_tls() {
    show "$1" >$p/shown
    awk -F'|' 'NR == 1 { for (i = 1; i <= NF; i++) at[$i] = i; next }
        $at["database"] == "pgbouncer" { next }
        $at["tls"] !~ /^TLSv1.3\/TLS_/ { print "no TLS: " $0 > "/dev/stderr"; bad = 1 }
        { count++ }
        END { print count + 0; exit bad }' $p/shown || { cat $p/shown; fail "a row of SHOW $1 has no TLS"; }
}

moved() { awk '/took over [0-9]+ clients/ { sub(/.*took over /, ""); sum += $1 } END { print sum + 0 }' $p/log; }

serves() { [ "$(cat $p/pid)" != "$1" ] && [ ! -e "/proc/$1" ]; }

restart() {
    former=$(cat $p/pid)
    as_user pgtandem /opt/pgtandem -d -R $p/ini || fail "-R ended with status $?"
}

settled() { until_true 30 "process $former is still there" serves "$former"; }

# -- the set-up

mkdir $p
load_tls && certificate $p/postgres postgres && certificate $p/pooler pgtandem || exit
start_postgres -c ssl=on -c ssl_cert_file=$p/postgres.crt -c ssl_key_file=$p/postgres.key || exit
pgbench -iq -h localhost postgres >$p/init.log 2>&1 || { cat $p/init.log; exit 1; }
echo '"postgres" ""' >$p/users
chmod 600 $p/users
cat >$p/ini <<END
[databases]
txn = host=127.0.0.1 port=5432 dbname=postgres
sess = host=127.0.0.1 port=5432 dbname=postgres pool_mode=session
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = 6432
unix_socket_dir = $p
pidfile = $p/pid
logfile = $p/log
auth_type = trust
auth_file = $p/users
admin_users = postgres
pool_mode = transaction
max_prepared_statements = 50
default_pool_size = 10
client_tls_sslmode = require
client_tls_cert_file = $p/pooler.crt
client_tls_key_file = $p/pooler.key
server_tls_sslmode = require
END
chown pgtandem:pgtandem $p $p/users
as_user pgtandem /opt/pgtandem -d $p/ini || fail "it does not start"
psql "host=localhost port=6432 dbname=txn sslmode=disable" -c 'select 1' >/dev/null 2>&1 && fail "it lets in clients without TLS"

begin 3 dbname=sess
begin 4 dbname=txn
begin 5 dbname=txn
begin 6 dbname=sess
begin 7 dbname=txn
backend=$(ask 3 "set work_mem = '7MB'; prepare double as select \$1::int * 2; create temp table t as select generate_series(1, 100) g;
    select pg_backend_pid();")
ask 4 "set timezone = 'Etc/GMT-9'; set application_name = 'the fourth';"
ask 5 "create table kept (v int); begin; insert into kept values (1);"
ask 6 "begin; declare c cursor for select generate_series(1, 1000); fetch 1 from c;" >$p/fetched
ask 7 "select 1;" >/dev/null

cat >$p/select.sql <<'END'
\set a random(1, 100000)
select abalance from pgbench_accounts where aid = :a;
END
cat >$p/transaction.sql <<'END'
\set a random(1, 100000)
begin;
update pgbench_accounts set abalance = abalance + 1 where aid = :a;
select abalance from pgbench_accounts where aid = :a;
insert into pgbench_history (tid, bid, aid, delta, mtime) values (1, 1, :a, 1, now());
commit;
END
bench() {
    # One thread for each: pgbench waits for the answer to a Parse without looking at its thread's other clients, which may
    # have all the servers.
    pgbench -n -M "$1" -c 10 -j 10 -R 15 -T 400 -f $p/select.sql -f $p/transaction.sql -l \
        --log-prefix=$p/each.$1 "$url dbname=txn" >$p/pgbench.$1 2>&1 &
}
bench simple
simple=$!
bench prepared
prepared=$!
clients=25
all_here() { [ "$(all_tls clients)" = $clients ]; }
until_true 30 "pgbench does not begin" all_here
before=$(awk '$1 == "TlsTxSw" || $1 == "TlsRxSw" { sum += $2 } END { print sum }' /proc/net/tls_stat)

# -- the restarts

for round in $(seq $restarts); do
    sleep 1
    # One query that the former process finishes alone.
    say 7 "select pg_sleep(2), 'slept $round';"
    usleep 300000
    at=$(date +%s)
    restart
    # In the transactions and sessions that moved.
    is "the sum ($round)" "5050 42 7MB $backend" "$(ask 3 "select sum(g) from t; execute double(21); show work_mem; select pg_backend_pid();")"
    is "what was set ($round)" "Etc/GMT-9 the fourth " "$(ask 4 "show timezone; show application_name;")"
    is "the open transaction ($round)" "$round " "$(ask 5 "select count(*) from kept; insert into kept values (1);")"
    is "the cursor ($round)" "$((round + 1)) " "$(ask 6 "fetch 1 from c;")"
    is "the slow query ($round)" "|slept $round " "$(hear 7)"
    settled
    echo "guest: restart $round: $(moved) clients moved so far, $(all_tls clients) there, with $(all_tls servers) servers;" \
        "$(($(date +%s) - at)) s until the former process was gone"
    is "what moved" $((round * clients)) "$(moved)"
done
# As if their time was over.
sleep 1
kill -ALRM $simple $prepared || fail "pgbench was at its end before the last restart"

# Much data in both directions, and a cancel request, after the fifth change.
say 4 "select repeat('pgtandem', 250000);"
is "the long answer" 2000000 $(($(hear 4 | wc -c) - 1))
is "the long query" "300000 " "$(ask 4 "select length('$(head -c 300000 /dev/zero | tr '\0' x)');")"
say 3 "select pg_sleep(60);"
usleep 500000
kill -INT "$psql_3"
until_true 20 "the cancel request does not arrive" grep -q "canceling statement due to user request" $p/3.out
# After that psql reads no more of what it has not from a terminal.
wait "$psql_3"
is "the committed rows" "$((restarts + 1)) " "$(ask 5 "commit; select count(*) from kept;")"

wait $simple || fail "pgbench (simple) ended with status $?"
wait $prepared || fail "pgbench (prepared) ended with status $?"

# -- how it went

grep -h "aborted\|ERROR\|FATAL\|failed transactions: [1-9]" $p/pgbench.* && fail "pgbench had failures"
is "how often pgbench is content" 2 "$(cat $p/pgbench.* | grep -c "^number of failed transactions: 0 ")"
wrote=$(grep -h -A3 "SQL script 2" $p/pgbench.* | awk '/ transactions \(/ { sum += $2 } END { print sum }')
is "the rows that pgbench wrote" "$wrote|$wrote" "$(psql -XAt -h localhost postgres \
    -c 'select count(*), (select sum(abalance) from pgbench_accounts) from pgbench_history')"
grep "told to\|cannot be passed\|gave up\|ended the hand-over" $p/log && fail "the log tells of trouble"
is "TLS of all clients" 4 "$(all_tls clients)"
after=$(awk '$1 == "TlsTxSw" || $1 == "TlsRxSw" { sum += $2 } END { print sum }' /proc/net/tls_stat)
[ "$after" -ge $((before + 2 * clients)) ] || fail "the kernel counts $after connections and had $before before"

grep "taken over with\|took over" $p/log | sed 's/.* LOG /guest: log: /'
awk '{ print "guest: /proc/net/tls_stat: " $0 }' /proc/net/tls_stat | grep -v " 0$\|	0$"
cat $p/each.* | sort -n -k3 >$p/latencies
awk '{ us[NR] = $3 } END { printf "guest: %d transactions over TLS, none failed; median %.1f ms, 99.9 %% %.1f ms, longest %.1f ms\n",
    NR, us[int(NR / 2)] / 1000, us[int(NR * 0.999)] / 1000, us[NR] / 1000 }' $p/latencies
exit 0

# For scenarios: `. /lib/guest.sh`. /bin is busybox, /usr/bin has openssl, there is a network on lo and nothing else.
# `as_user NAME COMMAND…` runs a command as one of /etc/passwd: postgres, pgtandem, nobody.

# Loads the kernel's TLS and its ciphers.
load_tls() {
    modprobe tls && echo "guest: Linux $(uname -r), tls loaded $(cut -d. -f1 /proc/uptime) s after the boot"
}

# Starts PostgreSQL on port 5432 of 127.0.0.1 and in /run/postgresql, and puts its programs in the PATH.
# Options for it may follow.
start_postgres() {
    PATH=$PATH:$(echo /usr/lib/postgresql/*/bin)
    export PATH PGUSER=postgres
    chown postgres:postgres /run/postgresql
    as_user postgres pg_ctl -D /var/pgdata -l /tmp/postgres.log -w -t 120 \
        -o "-c unix_socket_directories=/run/postgresql -c fsync=off -c jit=off $*" start >/dev/null ||
        { cat /tmp/postgres.log; return 1; }
}

# certificate PATH USER: makes PATH.crt and PATH.key, which is USER's.
certificate() {
    openssl req -new -x509 -days 30 -nodes -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -subj /CN=localhost \
        -keyout "$1.key" -out "$1.crt" 2>/tmp/openssl.log || { cat /tmp/openssl.log; return 1; }
    chmod 600 "$1.key"
    chown "$2" "$1.key"
}

# The six hosts as NixOS machines; hosts.py describes the same as containers. README.md tells what both promise to scenarios.
{
  lib,
  pkgs,
  module,
  # The hosts that a scenario wants, the poolers' pgtandem.toml if it brings one, and the folder of what else hosts get.
  hosts,
  toml ? null,
  files ? null,
}:
let
  floating = "192.168.1.100";
  floating6 = "2001:db8:1::100";
  number = name: lib.lists.findFirstIndex (host: host == name) 0 (lib.sort lib.lessThan hosts) + 1;
  addressOf = name: "192.168.1.${toString (number name)}";
  pair = [
    "pooler1"
    "pooler2"
  ];
  isPair = lib.all (name: lib.elem name hosts) pair;
  hasReplicas = lib.elem "replica1" hosts;
  priorities = {
    pooler1 = 150;
    pooler2 = 100;
  };
  peerOf = name: if name == "pooler1" then "pooler2" else "pooler1";

  filledIn =
    name:
    lib.replaceStrings
      (
        [
          "@self@"
          "@peer@"
          "@priority@"
          "@peer_priority@"
        ]
        ++ map (host: "@${host}@") hosts
      )
      (
        [
          (addressOf name)
          (lib.optionalString isPair (addressOf (peerOf name)))
          (toString (priorities.${name} or ""))
          (toString (priorities.${peerOf name} or ""))
        ]
        ++ map addressOf hosts
      );

  common = name: {
    networking.firewall.enable = lib.mkDefault true;
    environment.systemPackages = [
      pkgs.netcat
      pkgs.curl
      pkgs.openssl
      pkgs.nftables
      pkgs.postgresql_17
    ];
    environment.etc = ownFiles name;
  };

  groupsOf = name: lib.optional (lib.elem name pair) "poolers" ++ [ name ];
  brings =
    name: path:
    files != null && lib.any (group: lib.pathExists (files + "/${group}/etc/${path}")) (groupsOf name);

  # Below NAME/HOST/etc/, and NAME/poolers/etc/ for both poolers.
  ownFiles =
    name:
    let
      groups = lib.filter (group: files != null && lib.pathExists (files + "/${group}/etc")) (
        groupsOf name
      );
      below = group: lib.filesystem.listFilesRecursive (files + "/${group}/etc");
      entry =
        group: path:
        lib.nameValuePair (lib.removePrefix "./" (lib.path.removePrefix (files + "/${group}/etc") path)) {
          text = filledIn name (lib.readFile path);
        };
    in
    lib.listToAttrs (lib.concatMap (group: map (entry group) (below group)) groups);

  pooler = name: {
    imports = [
      module
      (common name)
    ];
    # As sops-nix or agenix would have it: the secrets are there before the service begins. Here the script brings them, so that
    # none is in the store.
    systemd.services.secrets = {
      description = "Secrets of this machine";
      requiredBy = [ "pgtandem.service" ];
      before = [ "pgtandem.service" ];
      serviceConfig.Type = "oneshot";
      serviceConfig.TimeoutStartSec = 600;
      script = "until [ -e /var/lib/secrets/userlist.txt ]; do sleep 0.1; done";
    };
    services.pgtandem =
      if brings name "pgbouncer/pgbouncer.ini" then
        {
          enable = true;
          openFirewall = true;
          pgbouncerConfigFile = "/etc/pgbouncer/pgbouncer.ini";
        }
      else if toml == null then
        defaults name
      else
        ofToml (lib.fromTOML (filledIn name (lib.readFile toml)));
    # What a file outside the store says of its port nobody knows here.
    networking.firewall.allowedTCPPorts = [ 6432 ];
    # A neighbour of another make, for the script to start.
    systemd.services.keepalived = lib.mkIf (brings name "keepalived/keepalived.conf") {
      description = "keepalived";
      serviceConfig.ExecStart = "${pkgs.keepalived}/bin/keepalived -n -l -f /etc/keepalived/keepalived.conf";
    };
  };

  shared = {
    enable = true;
    openFirewall = true;
    userlistFile = "/var/lib/secrets/userlist.txt";
  };
  nodes = lib.genAttrs pair (name: {
    address = addressOf name;
    priority = priorities.${name};
  });

  defaults =
    _name:
    shared
    // {
      settings = {
        listen_addr = [ "*" ];
        auth_type = "scram-sha-256";
        admin_users = [ "admin" ];
        pool_mode = "transaction";
        max_client_conn = 1000;
        server_login_retry = 1;
      };
      databases = {
        app = {
          host = "primary";
          port = 5432;
        };
      }
      // lib.optionalAttrs hasReplicas {
        app_ro = {
          host = [
            "replica1"
            "replica2"
          ];
          port = 5432;
          dbname = "app";
        };
      };
      ha = lib.optionalAttrs isPair {
        enable = true;
        interface = "eth1";
        addresses = [
          floating
          floating6
        ];
        virtualRouterId = 51;
        inherit nodes;
        pairSecretFile = "/var/lib/secrets/pair.secret";
      };
    };

  # The same in the words of the module.
  ofToml =
    config:
    let
      ha = config.ha or { };
      router = entry: {
        interface = entry.interface or null;
        addresses = lib.toList (entry.address or [ ]);
        virtualRouterId = entry.virtual_router_id or null;
      };
      rest =
        entry:
        removeAttrs entry [
          "interface"
          "address"
          "virtual_router_id"
        ];
    in
    shared
    // {
      settings = removeAttrs config.pgtandem [ "auth_file" ] // {
        listen_addr = lib.toList (config.pgtandem.listen_addr or "*");
      };
      databases = config.databases or { };
      users = config.users or { };
      ha = lib.optionalAttrs (config ? ha) (
        router ha
        // {
          enable = true;
          inherit nodes;
          pairSecretFile = "/var/lib/secrets/pair.secret";
          settings = removeAttrs (rest ha) [
            "priority"
            "peer_address"
            "pair_secret_file"
          ];
          virtualRouters = lib.mapAttrs (_: entry: router entry // { settings = rest entry; }) (
            config.virtual_routers or { }
          );
        }
      );
    };

  postgresql = name: {
    imports = [ (common name) ];
    networking.firewall.allowedTCPPorts = [ 5432 ];
    services.postgresql = {
      enable = true;
      package = pkgs.postgresql_17;
      enableTCPIP = true;
      authentication = lib.mkForce ''
        local all all peer
        host all all samenet scram-sha-256
        host all all 127.0.0.1/32 scram-sha-256
        host all all ::1/128 scram-sha-256
        host replication replicator samenet scram-sha-256
      '';
      settings = {
        max_connections = 200;
        wal_level = "replica";
        hot_standby = true;
        wal_keep_size = "256MB";
        max_wal_senders = 10;
        wal_receiver_timeout = "5s";
        wal_sender_timeout = "5s";
        wal_retrieve_retry_interval = "500ms";
        cluster_name = name;
      };
      initialScript = lib.mkIf (name == "primary") (
        pkgs.writeText "roles.sql" ''
          CREATE ROLE replicator LOGIN REPLICATION;
          CREATE ROLE app LOGIN IN ROLE pg_monitor;
          CREATE DATABASE app OWNER app;
        ''
      );
    };
    # A copy of the primary before the first start; the primary may still be booting.
    systemd.services.postgresql-basebackup = lib.mkIf (name != "primary") {
      description = "PostgreSQL data folder, as a copy of the primary's";
      wantedBy = [ "postgresql.service" ];
      before = [ "postgresql.service" ];
      unitConfig.ConditionPathExists = "!/var/lib/postgresql/17/PG_VERSION";
      path = [ pkgs.postgresql_17 ];
      serviceConfig = {
        Type = "oneshot";
        RemainAfterExit = true;
        User = "postgres";
        StateDirectory = "postgresql postgresql/17";
        StateDirectoryMode = "0750";
        TimeoutStartSec = 600;
      };
      script = ''
        until pg_basebackup --dbname='host=primary user=replicator passfile=/var/lib/pgpass connect_timeout=2' \
            --pgdata=/var/lib/postgresql/17 --write-recovery-conf --wal-method=stream --checkpoint=fast --no-sync; do
          rm -rf /var/lib/postgresql/17/*
          sleep 0.3
        done
      '';
    };
  };

  client = {
    imports = [ (common "client") ];
    environment.systemPackages = [
      (pkgs.writeShellScriptBin "ledger" ''
        exec ${
          pkgs.python3.withPackages (python: [ python.psycopg2 ])
        }/bin/python3 ${./programs/ledger.py} "$@"
      '')
    ];
  };

  all = {
    inherit client;
    pooler1 = pooler "pooler1";
    pooler2 = pooler "pooler2";
    primary = postgresql "primary";
    replica1 = postgresql "replica1";
    replica2 = postgresql "replica2";
  };
in
{
  nodes = lib.getAttrs hosts all;
  # What scripts find as variables, and the secrets.
  prelude = ''
    floating, floating6 = "${floating}", "${floating6}"
    pair_secret = __import__("secrets").token_hex(32)
    for node in [${lib.concatStringsSep ", " (lib.intersectLists pair hosts)}]:
        node.start()
        node.succeed("install -d -m 700 /var/lib/secrets")
        node.succeed(f"echo {pair_secret} > /var/lib/secrets/pair.secret")
        node.succeed("""echo '"app" "secret"' > /var/lib/secrets/users; echo '"admin" "admin-secret"' >> /var/lib/secrets/users""")
        node.succeed("chmod 600 /var/lib/secrets/*; mv /var/lib/secrets/users /var/lib/secrets/userlist.txt")
    for node in [${lib.concatStringsSep ", " (lib.intersectLists [ "replica1" "replica2" ] hosts)}]:
        node.start()
        node.succeed("install -o postgres -m 600 /dev/stdin /var/lib/pgpass <<< primary:5432:*:replicator:secret")
    primary.start()
    primary.wait_for_unit("postgresql.target")
    for role in ("app", "replicator"):
        primary.succeed(f"runuser -u postgres -- psql -c \"ALTER ROLE {role} PASSWORD 'secret'\"")
  '';
}

# Configurations that must be accepted without a word, ones that are accepted with the warning given, and ones that must be refused
# with the words given. Addresses are those of RFC 5737.
let
  minimal = {
    services.pgtandem = {
      enable = true;
      databases.app.host = "192.0.2.5";
    };
  };
  pair = name: {
    networking.hostName = name;
    services.pgtandem = {
      enable = true;
      settings.listen_addr = [ "*" ];
      databases.app.host = "192.0.2.5";
      userlistFile = "/run/secrets/userlist.txt";
      openFirewall = true;
      ha = {
        enable = true;
        interface = "eth0";
        addresses = [ "192.0.2.10" ];
        virtualRouterId = 51;
        nodes.pooler1.address = "192.0.2.1";
        nodes.pooler2.address = "192.0.2.2";
        pairSecretFile = "/run/secrets/pair.secret";
      };
    };
  };
  both = one: other: {
    imports = [
      one
      other
    ];
  };
  pairBut = other: both (pair "pooler1") { services.pgtandem = other; };
  minimalBut = other: both minimal { services.pgtandem = other; };
  # Two virtual routers, each at home on another node.
  crossed = priorityOfRead: other: {
    imports = [
      (pair "pooler1")
      (
        { lib, ... }:
        {
          services.pgtandem.ha = {
            addresses = lib.mkForce [ ];
            virtualRouterId = lib.mkForce null;
            virtualRouters = {
              write = {
                virtualRouterId = 51;
                addresses = [ "192.0.2.10" ];
                priority = {
                  pooler1 = 200;
                  pooler2 = 100;
                };
              };
              read = {
                virtualRouterId = 52;
                addresses = [ "192.0.2.11" ];
                priority = priorityOfRead;
              };
            };
          };
        }
      )
      { services.pgtandem.ha = other; }
    ];
  };
  readAtHomeOn2 = {
    pooler1 = 100;
    pooler2 = 200;
  };
in
{
  accepted = {
    minimal = minimalBut { userlistFile = "/run/secrets/userlist.txt"; };
    auth_query = minimalBut { settings.auth_user = "pgtandem"; };

    # What operators bring, in the words of the module.
    enterprise = {
      services.pgtandem = {
        enable = true;
        settings = {
          listen_addr = [ "127.0.0.1" ];
          auth_type = "md5";
          admin_users = [ "admin" ];
          pool_mode = "transaction";
          max_client_conn = 100;
          default_pool_size = 25;
          min_pool_size = 5;
          reserve_pool_size = 5;
          reserve_pool_timeout = 3;
          max_db_connections = 50;
          log_connections = true;
          log_disconnections = true;
          pidfile = "/run/pgtandem/pgtandem.pid";
        };
        databases.enterprisescanner = {
          host = "127.0.0.1";
          port = 5432;
          dbname = "enterprisescanner";
        };
        userlistFile = "/etc/pgbouncer/userlist.txt";
      };
    };
    revenue = {
      services.pgtandem = {
        enable = true;
        openFirewall = true;
        settings = {
          listen_addr = [ "0.0.0.0" ];
          auth_type = "md5";
          pool_mode = "transaction";
          max_client_conn = 1000;
          default_pool_size = 20;
          max_user_connections = 100;
          server_check_query = "SELECT 1";
          admin_users = [ "pgbouncer_admin" ];
          stats_users = [ "monitor_user" ];
          client_tls_sslmode = "require";
          server_tls_sslmode = "require";
        };
        databases = {
          revenue_engine.host = "postgres-primary";
          revenue_engine_replica1 = {
            host = "postgres-replica-1";
            dbname = "revenue_engine";
          };
          analytics_db = {
            host = "postgres-replica-1";
            dbname = "revenue_engine";
          };
        };
        userlistFile = "/etc/pgbouncer/userlist.txt";
        clientTls = {
          certificateFile = "/etc/ssl/certs/pgbouncer.crt";
          keyFile = "/etc/ssl/private/pgbouncer.key";
          caFile = "/etc/ssl/certs/ca.crt";
        };
        serverTls.caFile = "/etc/ssl/certs/ca.crt";
      };
    };

    pooler1 = pair "pooler1";
    pooler2 = pair "pooler2";

    # Their file as it is.
    ini.services.pgtandem = {
      enable = true;
      pgbouncerConfigFile = "/etc/pgbouncer/pgbouncer.ini";
    };
    iniAndItsPort = {
      services.pgtandem = {
        enable = true;
        openFirewall = true;
        pgbouncerConfigFile = "/etc/pgbouncer/pgbouncer.ini";
      };
      networking.firewall.allowedTCPPorts = [ 6432 ];
    };
    iniOfTheSystem = both (pair "pooler1") (
      { lib, ... }:
      {
        services.pgtandem = {
          databases = lib.mkForce { };
          pgbouncerConfigFile = ./pgbouncer.ini;
        };
      }
    );

    # Everything that there is.
    everything = both (pair "pooler1") {
      services.pgtandem = {
        settings.worker_threads = 2;
        users.batch.pool_mode = "session";
        hbaFile = "/run/secrets/hba.conf";
        clientTls = {
          certificateFile = "/run/secrets/client.crt";
          keyFile = "/run/secrets/client.key";
        };
        serverTls.caFile = "/run/secrets/ca.crt";
        ha = {
          settings.advertisement_interval_ms = 20;
          virtualRouters.read = {
            addresses = [ "2001:db8::11" ];
            virtualRouterId = 52;
            priority.pooler1 = 100;
            settings.preempt = true;
          };
        };
        prometheus = {
          enable = true;
          scrape = true;
          alerts = true;
        };
      };
      services.prometheus.enable = true;
    };

    # Both addresses in use, one on each node.
    crossed = crossed readAtHomeOn2 {
      virtualRouters.write.settings.preempt = true;
      virtualRouters.read.settings.preempt = true;
    };
    crossedForAll = crossed readAtHomeOn2 { settings.preempt = true; };
    preferred = pairBut {
      ha.settings.preempt = true;
      ha.nodes.pooler1.priority = 200;
      ha.nodes.pooler2.priority = 100;
    };
    keepalived = pairBut {
      ha.settings.vrrp_version = 2;
      ha.settings.advertisement_interval_ms = 1000;
    };
    # The other node's is not known here.
    priorityOfThisNode = pairBut {
      ha.settings.preempt = true;
      ha.settings.priority = 200;
    };

    nftables = both (pair "pooler1") (
      { options, ... }:
      {
        networking.firewall.backend = "nftables";
        # Before this option came nftables could not be the firewall's backend.
        networking.nftables.enable = options.networking.nftables ? flushRuleset;
      }
    );

    firewallByHand = both (pairBut { }) (
      { lib, ... }:
      {
        services.pgtandem.openFirewall = lib.mkForce false;
        networking.firewall.extraCommands = "iptables -A nixos-fw -p vrrp -j nixos-fw-accept";
      }
    );
  };

  warned = {
    noUsers = {
      config = minimal;
      says = "services.pgtandem.userlistFile: there is none";
    };
    firewallOfAFile = {
      config.services.pgtandem = {
        enable = true;
        openFirewall = true;
        pgbouncerConfigFile = "/etc/pgbouncer/pgbouncer.ini";
      };
      says = "services.pgtandem.openFirewall: clients are not let in, as their port stands in a file";
    };
    firewallOfAnInclude = {
      config.services.pgtandem = {
        enable = true;
        openFirewall = true;
        pgbouncerConfigFile = builtins.toFile "include.ini" "%include /etc/pgbouncer/pgbouncer.ini";
      };
      says = "services.pgtandem.openFirewall: clients are not let in, as their port stands in a file";
    };
    socketOfAFile = {
      config.services.pgtandem = {
        enable = true;
        pgbouncerConfigFile = builtins.toFile "short.ini" "[databases]\napp = host=192.0.2.5";
      };
      says = "services.pgtandem.pgbouncerConfigFile: its unix_socket_dir is /tmp";
    };
    prefixLength = {
      config = pairBut { ha.addresses = [ "192.0.2.11/24" ]; };
      says = "services.pgtandem.ha: the prefix length of 192.0.2.11/24 is not used";
    };
  };

  refused = {
    password = {
      config = minimalBut { databases.app.password = "hunter2"; };
      says = "services.pgtandem.databases.app.password: this is a password";
    };
    secretOfAUser = {
      config = minimalBut { settings.connect_query = "md5d41d8cd98f00b204e9800998ecf8427e"; };
      says = "services.pgtandem.settings.connect_query: this is a password";
    };
    passwordInIni = {
      config.services.pgtandem = {
        enable = true;
        pgbouncerConfigFile = ./password.ini;
      };
      says = "services.pgtandem.pgbouncerConfigFile (line 3): this is a password";
    };
    userlistInTheStore = {
      config = minimalBut { settings.auth_file = "${./password.ini}"; };
      says = "services.pgtandem.settings.auth_file: this file is in the Nix store";
    };
    twice = {
      config = minimalBut {
        userlistFile = "/run/secrets/userlist.txt";
        settings.auth_file = "/etc/userlist.txt";
      };
      says = "services.pgtandem.settings.auth_file: also given by the option";
    };
    nothing = {
      config.services.pgtandem.enable = true;
      says = "services.pgtandem.databases: there is none";
    };
    root = {
      config = minimalBut { user = "root"; };
      says = "services.pgtandem.user: pgtandem never serves as root";
    };
    socketInTmp = {
      config = minimalBut { settings.unix_socket_dir = "/tmp"; };
      says = "services.pgtandem.settings.unix_socket_dir: the service has a /tmp of its own";
    };
    router = {
      config = both (pair "pooler1") (
        { lib, ... }: { services.pgtandem.ha.virtualRouterId = lib.mkForce 256; }
      );
      says = "services.pgtandem.ha.virtualRouterId: must be a number from 1 to 255";
    };
    address = {
      config = pairBut { ha.addresses = [ "db.example.org" ]; };
      says = "services.pgtandem.ha.addresses: db.example.org is no address";
    };
    priorities = {
      config = pairBut {
        ha.nodes.pooler1.priority = 100;
        ha.nodes.pooler2.priority = 100;
      };
      says = "services.pgtandem.ha.nodes: both nodes have the same priority (100; not given is 254), so neither comes first. Say both: ha.nodes.pooler1.priority = 200; ha.nodes.pooler2.priority = 100;";
    };
    preempt = {
      config = pairBut { ha.settings.preempt = true; };
      says = "both nodes have the same priority (254; not given is 254), so neither comes first, and preempt means nothing. Say both:";
    };
    asNotGiven = {
      config = pairBut {
        ha.settings.preempt = true;
        ha.nodes.pooler1.priority = 254;
      };
      says = "services.pgtandem.ha.nodes: both nodes have the same priority (254; not given is 254)";
    };
    prioritiesOfARouter = {
      config = crossed {
        pooler1 = 100;
        pooler2 = 100;
      } { virtualRouters.read.settings.preempt = true; };
      says = "services.pgtandem.ha.virtualRouters.read.priority: both nodes have the same priority (100; not given is 254), so neither comes first, and preempt means nothing. Say both: ha.virtualRouters.read.priority = { pooler1 = 200; pooler2 = 100; };";
    };
    strangerInARouter = {
      config = crossed {
        pooler1 = 100;
        poolerX = 200;
      } { };
      says = "services.pgtandem.ha.virtualRouters.read.priority: \"poolerX\" is none of ha.nodes (pooler1, pooler2)";
    };
    sameAddress = {
      config = both (pair "pooler1") (
        { lib, ... }: { services.pgtandem.ha.nodes.pooler2.address = lib.mkForce "192.0.2.1"; }
      );
      says = "services.pgtandem.ha.nodes: pooler1 and pooler2 have the same address 192.0.2.1";
    };
    threeNodes = {
      config = pairBut { ha.nodes.pooler3.address = "192.0.2.3"; };
      says = "services.pgtandem.ha.nodes: a pair has two nodes, not 3";
    };
    stranger = {
      config = pair "elsewhere";
      says = "services.pgtandem.ha.nodeName: \"elsewhere\" is none of ha.nodes";
    };
    floatingIsOwn = {
      config = pairBut { ha.nodes.pooler2.addresses = [ "192.0.2.10" ]; };
      says = "services.pgtandem.ha.nodes: 192.0.2.10 is a floating address";
    };
    noSecret = {
      config = both (pair "pooler1") (
        { lib, ... }: { services.pgtandem.ha.pairSecretFile = lib.mkForce null; }
      );
      says = "services.pgtandem.ha.pairSecretFile: the nodes know each other by a secret";
    };
    notListening = {
      config = both (pair "pooler1") (
        { lib, ... }: { services.pgtandem.settings.listen_addr = lib.mkForce [ "127.0.0.1" ]; }
      );
      says = "services.pgtandem.settings.listen_addr: clients come in at the floating addresses (192.0.2.10)";
    };
    firewall = {
      config = both (pair "pooler1") (
        { lib, ... }: { services.pgtandem.openFirewall = lib.mkForce false; }
      );
      says = "services.pgtandem.openFirewall: the firewall drops VRRP";
    };
  };
}

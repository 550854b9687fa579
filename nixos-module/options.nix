# What an operator may say of one pooler.
{ lib, pkgs, ... }:
let
  inherit (lib) mkOption types;
  shared = import ./types.nix { inherit lib; };

  secret =
    what:
    mkOption {
      type = shared.secretFile;
      default = null;
      description = ''
        ${what} It is handed over by systemd (`LoadCredential=`), so it may belong to root alone. A quoted absolute path: what is
        in the Nix store can be read by everybody. A new file takes effect with `systemctl restart pgtandem`, which keeps the
        clients.
      '';
    };

  entries =
    what:
    mkOption {
      type = types.attrsOf (types.attrsOf shared.value);
      default = { };
      description = what;
    };
in
{
  options.services.pgtandem = {
    enable = lib.mkEnableOption "pgtandem, a connection pooler for PostgreSQL";

    package = lib.mkPackageOption pkgs "pgtandem" { };

    settings = mkOption {
      default = { };
      example = {
        listen_addr = [ "*" ];
        pool_mode = "transaction";
        max_client_conn = 1000;
      };
      description = ''
        The settings of the section `[pgtandem]`: the names and values of PgBouncer's `[pgbouncer]`, and pgtandem's own; see
        docs/settings.md. A change of them reloads the service; one of a setting that takes a new process restarts it, which
        hands all clients over.
      '';
      type = types.submodule {
        freeformType = types.attrsOf shared.value;
        options = {
          listen_addr = mkOption {
            type = types.listOf types.str;
            default = [ "127.0.0.1" ];
            example = [ "*" ];
            description = "Addresses to listen on; `*` is all of them, and an empty list the Unix socket only.";
          };
          listen_port = mkOption {
            type = types.port;
            default = 6432;
            description = "The port to listen on; it names the Unix socket, too.";
          };
          unix_socket_dir = mkOption {
            type = types.str;
            default = "/run/pgtandem";
            description = "The directory of the Unix socket. The service has a `/tmp` of its own, so not there.";
          };
        };
      };
    };

    databases = entries "" // {
      example = {
        app = {
          host = "192.0.2.5";
          port = 5432;
        };
        reports = {
          host = [
            "192.0.2.6"
            "192.0.2.7"
          ];
          dbname = "app";
          pool_size = 5;
        };
      };
      description = ''
        The databases that clients may ask for, and where they are; `"*"` is for all others. Parameters as in PgBouncer's
        `[databases]`. Without `password`: what a server wants to hear is found in
        [](#opt-services.pgtandem.userlistFile).
      '';
    };

    users =
      entries ''
        Settings of single users (`pool_mode`, `pool_size`, `max_user_connections` and such), as in PgBouncer's `[users]`. Their
        passwords belong into [](#opt-services.pgtandem.userlistFile).
      ''
      // {
        example.batch.pool_mode = "session";
      };

    pgbouncerConfigFile = mkOption {
      type = types.nullOr (types.either types.path types.str);
      default = null;
      example = "/etc/pgbouncer/pgbouncer.ini";
      description = ''
        A `pgbouncer.ini` as it is, instead of `settings`, `databases` and `users`. As a path (`./pgbouncer.ini`) it becomes
        part of the system, is checked when that is built, and must have no password in it. As a text (`"/etc/…"`) it is read
        where it lies, by the user of the service, and `systemctl reload pgtandem` has it read again. The files of secrets that
        are options here replace those that it names.
      '';
    };

    userlistFile =
      secret "Users and their passwords or SCRAM secrets (setting `auth_file`, PgBouncer's `userlist.txt`)."
      // {
        example = "/run/secrets/userlist.txt";
      };
    hbaFile = secret "Access rules (setting `auth_hba_file`)." // {
      example = "/etc/pgtandem/hba.conf";
    };

    clientTls = {
      certificateFile = secret "The certificate that clients see (setting `client_tls_cert_file`)." // {
        example = "/var/lib/acme/db.example.org/fullchain.pem";
      };
      keyFile = secret "Its private key (setting `client_tls_key_file`)." // {
        example = "/var/lib/acme/db.example.org/key.pem";
      };
      caFile = secret "Who signs certificates of clients (setting `client_tls_ca_file`)." // {
        example = "/etc/pgtandem/clients-ca.pem";
      };
    };

    serverTls = {
      certificateFile = secret "The certificate that servers see (setting `server_tls_cert_file`)." // {
        example = "/run/secrets/pgtandem.crt";
      };
      keyFile = secret "Its private key (setting `server_tls_key_file`)." // {
        example = "/run/secrets/pgtandem.key";
      };
      caFile = secret "Who signs the servers' certificates (setting `server_tls_ca_file`)." // {
        example = "/etc/pgtandem/servers-ca.pem";
      };
    };

    user = mkOption {
      type = types.str;
      default = "pgtandem";
      example = "postgres";
      description = "Who serves. It is made only under its default name.";
    };

    group = mkOption {
      type = types.str;
      default = "pgtandem";
      example = "postgres";
      description = "The group of who serves. It is made only under its default name.";
    };

    openFilesLimit = mkOption {
      type = types.ints.positive;
      default = 65536;
      example = 200000;
      description = "How many files the service may have open: one for each client and server, and some.";
    };

    openFirewall = mkOption {
      type = types.bool;
      default = false;
      description = ''
        Let clients in through the firewall, and with `ha` the other node: VRRP (IP protocol 112) on the interfaces of the floating
        addresses, and the pair link from its addresses. With `pgbouncerConfigFile` the port is known only if that file is part of
        the system and includes no other; else say it in `networking.firewall.allowedTCPPorts`.
      '';
    };

    checkConfiguration = mkOption {
      type = types.bool;
      default = true;
      description = ''
        Check the configuration when the system is built (`pgtandem check`), so that one that cannot be used is never switched to.
        Not done where the program cannot run on the machine that builds, nor for a file outside the store.
      '';
    };

    configurationFile = mkOption {
      type = types.path;
      internal = true;
      readOnly = true;
      description = "What /etc/pgtandem has of it.";
    };
  };
}

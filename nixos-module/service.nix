# pgtandem.service: as packaging/pgtandem.service, which says why each line is there.
{
  config,
  lib,
  ...
}:
let
  cfg = config.services.pgtandem;
  inherit (lib) mkIf;
  secrets = import ./secrets.nix { inherit lib cfg; };
  start = import ./start-only.nix;
  startHa = import ./start-only-ha.nix;

  own = import ./own-ini.nix { inherit lib cfg; };
  ownIni = own.given;
  file = "pgtandem/pgtandem.${if ownIni then "ini" else "toml"}";
  name = lib.escapeShellArg "/etc/${file}";

  # What a running process cannot change, so that a change of it is one of the unit. What is not in the store nobody can
  # compare here; there pgtandem itself says at a reload what takes a restart.
  iniLines = lib.filter (
    line: lib.any (setting: lib.match "[[:space:]]*${setting}[[:space:]]*=.*" line != null) start
  ) own.lines;
  taken = names: attrs: lib.filterAttrs (name: _: lib.elem name names) attrs;
  needsNewProcess = {
    settings = if ownIni then iniLines else taken start cfg.settings;
    ha = lib.optionalAttrs cfg.ha.enable (
      taken startHa ({ node_name = cfg.ha.nodeName; } // cfg.ha.settings)
    );
    secrets = secrets.all;
    pair = cfg.ha.enable;
  };
in
{
  config = mkIf cfg.enable {
    environment.etc.${file}.source = cfg.configurationFile;

    systemd.services.pgtandem = {
      description = "pgtandem, connection pooler for PostgreSQL";
      documentation = [ "https://github.com/pgtandem/pgtandem" ];
      wantedBy = [ "multi-user.target" ];
      wants = [ "network-online.target" ];
      after = [
        "network-online.target"
        "postgresql.service"
        "postgresql.target"
        "dbus.socket"
        "dbus.service"
      ];
      startLimitIntervalSec = 0;

      # A restart, not a stop and a start: systemd keeps the clients for the next process.
      stopIfChanged = false;
      reloadTriggers = [ cfg.configurationFile ];
      restartTriggers = [ (builtins.hashString "sha256" (builtins.toJSON needsNewProcess)) ];

      environment.PGTANDEM_CONFIG = "/etc/${file}";
      serviceConfig = import ./hardening.nix // {
        Type = "notify-reload";
        ExecStart = "${lib.getExe cfg.package} ${name}";
        # Not the files of secrets: systemd 257 gives this command none of the credentials of the service.
        ExecReload = "${lib.getExe cfg.package} check -q --without-files ${name}";
        User = cfg.user;
        Group = cfg.group;
        LoadCredential = lib.mapAttrsToList (setting: path: "${setting}:${path}") secrets.all;

        Restart = "always";
        RestartSec = "100ms";
        RestartSteps = 6;
        RestartMaxDelaySec = "5s";
        WatchdogSec = "15s";
        TimeoutAbortSec = "5s";
        KillMode = "mixed";
        TimeoutStopSec = "60s";
        FileDescriptorStoreMax = 16;
        FileDescriptorStorePreserve = "restart";
        NotifyAccess = "main";

        # The directories of PgBouncer's packages too, for those who bring its file.
        RuntimeDirectory = [
          "pgtandem"
        ]
        ++ lib.optional ownIni "pgbouncer"
        ++ lib.optional (ownIni && !config.services.postgresql.enable) "postgresql";
        RuntimeDirectoryPreserve = "restart";
        LogsDirectory = [ "pgtandem" ] ++ lib.optional ownIni "pgbouncer";
        ReadWritePaths = [
          "-/run/postgresql"
          "-/var/log/postgresql"
        ];

        LimitNOFILE = cfg.openFilesLimit;
        OOMScoreAdjust = -500;
        CapabilityBoundingSet = "";
        AmbientCapabilities = "";
        ProcSubset = "pid";
        ProtectKernelTunables = true;
        RestrictAddressFamilies = [
          "AF_UNIX"
          "AF_INET"
          "AF_INET6"
          "AF_NETLINK"
        ];
        SystemCallFilter = [
          "@system-service"
          "~@privileged @resources"
        ];
      };
    };

    # Keeps clients with TLS over a restart; the hardened service may load no module.
    boot.kernelModules = [ "tls" ];

    users.users = mkIf (cfg.user == "pgtandem") {
      pgtandem = {
        isSystemUser = true;
        group = cfg.group;
        description = "pgtandem, connection pooler for PostgreSQL";
      };
    };
    users.groups = mkIf (cfg.group == "pgtandem") { pgtandem = { }; };

    # For `pgtandem check` and `pgtandem doctor`.
    environment.systemPackages = [ cfg.package ];

    networking.firewall.allowedTCPPorts = mkIf cfg.openFirewall (
      lib.filter (port: port != null) [ (if ownIni then own.listenPort else cfg.settings.listen_port) ]
    );
  };
}

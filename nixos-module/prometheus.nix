# Figures for Prometheus: PgBouncer's exporter beside the pooler, which speaks pgtandem's console as well.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.services.pgtandem;
  inherit (cfg) prometheus;
  inherit (lib) mkOption types;

  console = "postgres://pgbouncer@:${toString cfg.settings.listen_port}/pgbouncer?host=${cfg.settings.unix_socket_dir}&sslmode=disable";
  at = "${prometheus.listenAddress}:${toString prometheus.port}";
in
{
  options.services.pgtandem.prometheus = {
    enable = lib.mkEnableOption ''
      an exporter of pgtandem's figures for Prometheus. It logs in by the Unix socket as the user of the service, which takes no
      password'';
    package = lib.mkPackageOption pkgs "prometheus-pgbouncer-exporter" { };
    listenAddress = mkOption {
      type = types.str;
      default = "127.0.0.1";
      example = "192.0.2.1";
      description = "The address at which it serves.";
    };
    port = mkOption {
      type = types.port;
      default = 9127;
      description = "The port at which it serves.";
    };
    scrape = mkOption {
      type = types.bool;
      default = false;
      description = "Have the Prometheus of this machine read it.";
    };
    alerts = mkOption {
      type = types.bool;
      default = false;
      description = "Give the Prometheus of this machine the alerts of pgtandem.";
    };
  };

  config = lib.mkIf (cfg.enable && prometheus.enable) {
    systemd.services.pgtandem-exporter = {
      description = "pgtandem, figures for Prometheus";
      wantedBy = [ "multi-user.target" ];
      after = [ "pgtandem.service" ];
      serviceConfig = import ./hardening.nix // {
        ExecStart = "${lib.getExe prometheus.package} --web.listen-address=${at} --pgBouncer.connectionString=${
          lib.replaceStrings [ "%" ] [ "%%" ] console
        }";
        User = cfg.user;
        Group = cfg.group;
        Restart = "always";
        RestartSec = "5s";
        CapabilityBoundingSet = "";
        ProcSubset = "pid";
        ProtectKernelTunables = true;
        RestrictAddressFamilies = [
          "AF_UNIX"
          "AF_INET"
          "AF_INET6"
        ];
        SystemCallFilter = [
          "@system-service"
          "~@privileged @resources"
        ];
      };
    };

    services.prometheus = {
      scrapeConfigs = lib.mkIf prometheus.scrape [
        {
          job_name = "pgtandem";
          static_configs = [ { targets = [ at ]; } ];
        }
      ];
      rules = lib.mkIf prometheus.alerts [ (builtins.toJSON (import ./alerts.nix)) ];
    };
  };
}

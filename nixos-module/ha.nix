# What a node of a pair needs beside the pooler: the address helper, which alone may touch interfaces, and a way through the
# firewall. The units are those of packaging/, which say why each line is there.
{
  config,
  lib,
  ...
}:
let
  cfg = config.services.pgtandem;
  inherit (cfg) ha;
  shared = import ./types.nix { inherit lib; };
  sections = import ./ha-sections.nix { inherit lib cfg; };
  enabled = cfg.enable && ha.enable;

  socket = "/run/pgtandem-helper/socket";
  interfaces = lib.unique (
    lib.filter (name: name != null) (
      [ ha.interface ] ++ map (router: router.interface) (lib.attrValues ha.virtualRouters)
    )
  );
  peers = sections.ha.peer_address or [ ];
  pairPort = toString (ha.settings.pair_port or 6433);

  iptables =
    action:
    lib.concatMapStrings (
      name:
      "ip46tables ${action} nixos-fw -i ${lib.escapeShellArg name} -p 112 -j nixos-fw-accept${tolerant action}\n"
    ) interfaces
    + lib.concatMapStrings (
      peer:
      "${
        if shared.isIpv6 peer then "ip6tables" else "iptables"
      } ${action} nixos-fw -s ${peer} -p tcp --dport ${pairPort} -j nixos-fw-accept${tolerant action}\n"
    ) peers;
  tolerant = action: lib.optionalString (action == "-D") " || true";

  nftables =
    lib.concatMapStrings (name: "iifname \"${name}\" meta l4proto 112 accept\n") interfaces
    + lib.concatMapStrings (
      peer: "${if shared.isIpv6 peer then "ip6" else "ip"} saddr ${peer} tcp dport ${pairPort} accept\n"
    ) peers;
  withNftables =
    config.networking.firewall.backend or "iptables" == "nftables" || config.networking.nftables.enable;
in
{
  config = lib.mkIf enabled {
    systemd.sockets.pgtandem-helper = {
      description = "pgtandem, holder of floating addresses (socket)";
      documentation = [ "https://github.com/pgtandem/pgtandem" ];
      wantedBy = [ "sockets.target" ];
      socketConfig = {
        ListenSequentialPacket = socket;
        SocketUser = cfg.user;
        SocketMode = "0600";
        DirectoryMode = "0755";
        Backlog = 4;
        TriggerLimitIntervalSec = 0;
      };
    };

    systemd.services.pgtandem-helper = {
      description = "pgtandem, holder of floating addresses";
      documentation = [ "https://github.com/pgtandem/pgtandem" ];
      wantedBy = [ "multi-user.target" ];
      requires = [ "pgtandem-helper.socket" ];
      after = [
        "pgtandem-helper.socket"
        "network-pre.target"
      ];
      before = [ "pgtandem.service" ];
      startLimitIntervalSec = 0;

      # Not in one job with pgtandem: nobody would advertise meanwhile, and with a short interval the peer would take over. See
      # below. It rereads its file when pgtandem does.
      restartIfChanged = false;

      environment.PGTANDEM_CONFIG = config.systemd.services.pgtandem.environment.PGTANDEM_CONFIG;
      serviceConfig = import ./hardening.nix // {
        Type = "notify";
        ExecStart = "${lib.getExe cfg.package} address-helper ${config.systemd.services.pgtandem.environment.PGTANDEM_CONFIG}";
        User = cfg.user;
        Group = cfg.group;
        Restart = "always";
        RestartSec = "50ms";
        WatchdogSec = "10s";
        TimeoutStopSec = "5s";
        KillMode = "mixed";
        AmbientCapabilities = [
          "CAP_NET_ADMIN"
          "CAP_NET_RAW"
        ];
        CapabilityBoundingSet = [
          "CAP_NET_ADMIN"
          "CAP_NET_RAW"
        ];
        OOMScoreAdjust = -900;
        Nice = -10;
        LimitNOFILE = 4096;
        TasksMax = 4;
        MemoryMax = "64M";
        RestrictAddressFamilies = [
          "AF_UNIX"
          "AF_INET"
          "AF_INET6"
          "AF_NETLINK"
          "AF_PACKET"
        ];
        SystemCallFilter = [
          "@system-service"
          "~@privileged @resources"
          "capset"
        ];
      };
    };

    # A new package for the helper, once pgtandem has its own: alone that is no failover.
    systemd.services.pgtandem-helper-update = {
      description = "pgtandem, new package for the holder of floating addresses";
      wantedBy = [ "multi-user.target" ];
      after = [
        "pgtandem.service"
        "pgtandem-helper.service"
      ];
      # Root, who may restart a unit and see which program a process runs, and nothing else.
      serviceConfig = import ./hardening.nix // {
        Type = "oneshot";
        RemainAfterExit = true;
        CapabilityBoundingSet = "CAP_SYS_PTRACE";
        PrivateNetwork = true;
        IPAddressDeny = "any";
        ProtectKernelTunables = true;
        RestrictAddressFamilies = "AF_UNIX";
        SystemCallFilter = [
          "@system-service"
          "~@privileged @resources"
        ];
      };
      script = ''
        pid=$(systemctl show --property=MainPID --value pgtandem-helper.service)
        if [ "$pid" != 0 ] && [ "$(readlink "/proc/$pid/exe")" != ${lib.getExe cfg.package} ]; then
          systemctl restart pgtandem-helper.service
        fi
      '';
    };

    networking.firewall = lib.mkIf cfg.openFirewall {
      extraCommands = lib.mkIf (!withNftables) (iptables "-A");
      extraStopCommands = lib.mkIf (!withNftables) (iptables "-D");
      extraInputRules = lib.mkIf withNftables nftables;
    };
  };
}

# What an operator may say of a pair.
{ config, lib, ... }:
let
  inherit (lib) mkOption types;
  shared = import ./types.nix { inherit lib; };
  priority =
    default:
    mkOption {
      type = types.nullOr types.int;
      inherit default;
      example = 100;
      description = "Which node becomes active if both could: the higher, from 1 to 255. Not given is 254. Give it to both nodes, or to neither.";
    };
  identity = {
    virtualRouterId = mkOption {
      type = types.nullOr types.int;
      default = null;
      example = 51;
      description = "The number of the virtual router, 1 to 255: the same on both nodes, and used by nothing else in the network.";
    };
    interface = mkOption {
      type = types.nullOr types.str;
      default = null;
      example = "eth0";
      description = "The network interface that bears the floating addresses.";
    };
  };
in
{
  options.services.pgtandem.ha = {
    enable = lib.mkEnableOption "a pair: two nodes that hold floating addresses between them";

    inherit (identity) virtualRouterId interface;

    addresses = mkOption {
      type = types.listOf types.str;
      default = [ ];
      example = [ "192.0.2.10" ];
      description = "The floating addresses, without a prefix length: each is held as one host's address.";
    };

    nodes = mkOption {
      default = { };
      example = {
        pooler1.address = "192.0.2.1";
        pooler2.address = "192.0.2.2";
      };
      description = ''
        Both nodes. So the same lines serve for both: which of them this one is tells [](#opt-services.pgtandem.ha.nodeName).
      '';
      type = types.attrsOf (
        types.submodule {
          options = {
            address = mkOption {
              type = types.nullOr types.str;
              default = null;
              example = "192.0.2.1";
              description = "Its own address, at which the other node reaches it.";
            };
            addresses = mkOption {
              type = types.listOf types.str;
              default = [ ];
              example = [
                "192.0.2.1"
                "198.51.100.1"
              ];
              description = "Its own addresses, one for each way to it, if there are several.";
            };
            priority = priority null;
          };
        }
      );
    };

    nodeName = mkOption {
      type = types.str;
      default = config.networking.hostName;
      defaultText = lib.literalExpression "config.networking.hostName";
      example = "pooler1";
      description = "Which of [](#opt-services.pgtandem.ha.nodes) this one is; its name in `SHOW HA` and to the other node.";
    };

    pairSecretFile = mkOption {
      type = shared.secretFile;
      default = null;
      example = "/run/secrets/pair.secret";
      description = ''
        The secret that both nodes share (setting `pair_secret_file`), made by `openssl rand -hex 32`. A quoted absolute path,
        handed over by systemd. Without it: certificates, by `settings`.
      '';
    };

    settings = mkOption {
      type = types.attrsOf shared.value;
      default = { };
      example = {
        advertisement_interval_ms = 20;
        preempt = true;
      };
      description = "Further settings of the section `[ha]`; see docs/settings.md.";
    };

    virtualRouters = mkOption {
      default = { };
      example = {
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
          priority = {
            pooler1 = 100;
            pooler2 = 200;
          };
        };
      };
      description = ''
        Several virtual routers instead of one, so that both nodes can be active, each for other addresses (section
        `[virtual_routers]`).
      '';
      type = types.attrsOf (
        types.submodule {
          options = identity // {
            addresses = mkOption {
              type = types.listOf types.str;
              default = [ ];
              example = [ "192.0.2.10" ];
              description = "Its floating addresses.";
            };
            priority = mkOption {
              type = types.attrsOf types.int;
              default = { };
              example = {
                pooler1 = 100;
                pooler2 = 200;
              };
              description = "The priority of each node for it, by the node's name, instead of the node's own. Give both, or neither.";
            };
            settings = mkOption {
              type = types.attrsOf shared.value;
              default = { };
              example.preempt = true;
              description = "Further parameters of its entry.";
            };
          };
        }
      );
    };
  };
}

# The sections [ha] and [virtual_routers], as options have them.
{ lib, cfg }:
let
  inherit (cfg) ha;
  shared = import ./types.nix { inherit lib; };
  bare = map shared.bare;
  own = ha.nodes.${ha.nodeName} or { };
  others = lib.attrValues (removeAttrs ha.nodes [ ha.nodeName ]);
  addressesOf = node: lib.optional (node.address != null) node.address ++ node.addresses;
  filled = lib.filterAttrs (_: value: value != null && value != [ ]);
in
{
  ha =
    filled {
      node_name = ha.nodeName;
      inherit (ha) interface;
      address = bare ha.addresses;
      virtual_router_id = ha.virtualRouterId;
      priority = own.priority or null;
      peer_address = bare (lib.concatMap addressesOf others);
    }
    // ha.settings;

  virtual_routers = lib.mapAttrs (
    _: router:
    filled {
      inherit (router) interface;
      address = bare router.addresses;
      virtual_router_id = router.virtualRouterId;
      priority = router.priority.${ha.nodeName} or null;
    }
    // router.settings
  ) ha.virtualRouters;
}

# Every scenario as a test of NixOS, by its name.
{
  pkgs,
  lib,
  module,
}:
let
  scenarios = lib.filter (name: name != "hosts.py") (
    lib.filter (lib.hasSuffix ".py") (
      lib.attrNames (lib.filterAttrs (_: kind: kind == "regular") (builtins.readDir ./.))
    )
  );
  every = [
    "client"
    "pooler1"
    "pooler2"
    "primary"
    "replica1"
    "replica2"
  ];

  # "# hosts: client pooler1", if the first line says so.
  hostsOf =
    script:
    let
      first = lib.head (lib.splitString "\n" script);
      named = lib.match "# hosts: (.*)" first;
    in
    if named == null then every else lib.splitString " " (lib.head named);

  test =
    file:
    let
      name = lib.removeSuffix ".py" file;
      script = lib.readFile (./. + "/${file}");
      beside = path: if lib.pathExists (./. + "/${path}") then ./. + "/${path}" else null;
      topology = import ./topology.nix {
        inherit lib pkgs module;
        hosts = hostsOf script;
        toml = beside "${name}.toml";
        files = beside name;
      };
    in
    lib.nameValuePair name (
      pkgs.testers.runNixOSTest {
        inherit name;
        inherit (topology) nodes;
        testScript = topology.prelude + script;
        globalTimeout = 1800;
      }
    );
in
lib.listToAttrs (map test scenarios)

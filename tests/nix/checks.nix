# Checks of the flake: the module's cases, and the form of all Nix files.
{
  pkgs,
  lib,
  module,
}:
let
  cases = import ./cases.nix;
  evaluate =
    config:
    (lib.nixosSystem {
      modules = [
        module
        config
        {
          nixpkgs.hostPlatform = pkgs.stdenv.hostPlatform.system;
          nixpkgs.overlays = [ (_final: _prev: { inherit (pkgs) pgtandem; }) ];
          # Any: the cases build nothing.
          services.pgtandem.prometheus.package = pkgs.pgtandem;
          boot.loader.grub.enable = false;
          fileSystems."/".device = "/dev/vda1";
          system.stateVersion = "26.05";
        }
      ];
    }).config;
  failures =
    config: map (it: it.message) (lib.filter (it: !it.assertion) (evaluate config).assertions);

  warnings = config: lib.filter (lib.hasPrefix "services.pgtandem.") (evaluate config).warnings;

  accepted =
    lib.mapAttrs (_: config: failures config ++ warnings config) cases.accepted
    // lib.mapAttrs (_: case: failures case.config) cases.warned;
  warned = lib.mapAttrs (_: case: {
    inherit (case) says;
    heard = warnings case.config;
  }) cases.warned;
  refused = lib.mapAttrs (_: case: {
    inherit (case) says;
    heard = failures case.config;
  }) cases.refused;

  wrong =
    lib.mapAttrsToList (
      name: heard: "${name} is refused or warned of: ${lib.concatStringsSep "; " heard}"
    ) (lib.filterAttrs (_: heard: heard != [ ]) accepted)
    ++ lib.mapAttrsToList (
      name: case: "${name} does not say \"${case.says}\", but: ${lib.concatStringsSep "; " case.heard}"
    ) (lib.filterAttrs (_: case: !lib.any (lib.hasInfix case.says) case.heard) (warned // refused));
in
{
  module =
    if wrong != [ ] then
      throw "the module's cases:\n${lib.concatStringsSep "\n" wrong}"
    else
      pkgs.runCommand "pgtandem-module-cases" { }
        "echo ${toString (lib.length (lib.attrNames (accepted // refused)))} > $out";

  formatting =
    pkgs.runCommand "pgtandem-formatting"
      {
        nativeBuildInputs = [
          pkgs.nixfmt
          pkgs.deadnix
        ];
      }
      ''
        cd ${
          lib.fileset.toSource {
            root = ../..;
            fileset = lib.fileset.fileFilter (file: file.hasExt "nix") ../..;
          }
        }
        find . -name '*.nix' -print0 | xargs -0 nixfmt --check
        deadnix --fail .
        touch $out
      '';
}

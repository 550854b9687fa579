# The file that pgtandem reads, made of the options.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.services.pgtandem;
  shared = import ./types.nix { inherit lib; };

  # Where systemd puts what LoadCredential= names; the service's own %d.
  credentials = "/run/credentials/pgtandem.service";
  own = import ./own-ini.nix { inherit lib cfg; };
  secrets = import ./secrets.nix { inherit lib cfg; };
  credentialSettings = section: lib.mapAttrs (name: _: "${credentials}/${name}") secrets.${section};

  settings = cfg.settings // credentialSettings "pgtandem";
  ha = import ./ha-sections.nix { inherit lib cfg; };
  haSections = lib.optionalAttrs cfg.ha.enable (ha // { ha = ha.ha // credentialSettings "ha"; });

  toml = (pkgs.formats.toml { }).generate "pgtandem.toml" (
    lib.filterAttrs (_: section: section != { }) (
      shared.withoutNulls (
        {
          pgtandem = settings;
          inherit (cfg) databases users;
        }
        // haSections
      )
    )
  );

  # The form of PgBouncer, around the operator's own file. What comes later counts.
  plain =
    value:
    if lib.isBool value then
      (if value then "1" else "0")
    else if lib.isList value then
      lib.concatStringsSep ", " value
    else
      toString value;
  section =
    name: lines:
    lib.optionalString (lines != { }) (
      "\n[${name}]\n" + lib.concatStrings (lib.mapAttrsToList (key: value: "${key} = ${value}\n") lines)
    );
  entry =
    params:
    lib.concatStringsSep " " (
      lib.mapAttrsToList (
        key: value: "${key}=${lib.replaceStrings [ ", " ] [ "," ] (plain value)}"
      ) params
    );
  ini = pkgs.writeText "pgtandem.ini" (
    "%include ${cfg.pgbouncerConfigFile}\n"
    # Not [pgbouncer]: a second header of that name puts the settings of the file back to their defaults.
    + section "pgtandem" (credentialSettings "pgtandem")
    + section "ha" (lib.mapAttrs (_: plain) (shared.withoutNulls (haSections.ha or { })))
    + section "virtual_routers" (
      lib.mapAttrs (_: entry) (shared.withoutNulls (haSections.virtual_routers or { }))
    )
  );

  generated = if cfg.pgbouncerConfigFile == null then toml else ini;

  # A file outside the store is not there when the system is built.
  checkable =
    cfg.checkConfiguration
    && pkgs.stdenv.buildPlatform.system == pkgs.stdenv.hostPlatform.system
    && (!own.given || own.inStore);
  checked =
    pkgs.runCommand generated.name
      {
        preferLocalBuild = true;
        passthru = { inherit (generated) text; };
      }
      ''
        cp ${generated} ${generated.name}
        ${lib.getExe cfg.package} check --without-files ${generated.name}
        mv ${generated.name} $out
      '';
in
{
  services.pgtandem.configurationFile = if checkable then checked else generated;
}

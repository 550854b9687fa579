# Where passwords are found in a configuration that would go to the Nix store.
{ lib }:
let
  looksLikeOne =
    name: value:
    lib.match ".*(password|passwd|secret)" name != null || lib.isString value && hasSecret value;

  # What PostgreSQL keeps of a password, and a password in a connection string.
  hasSecret =
    text: lib.match ".*(SCRAM-SHA-256\\$|md5[0-9a-f]{32}|password=|://[^/@]*:[^/@]*@).*" text != null;
in
{
  inSettings =
    place: settings:
    map (name: "${place}.${name}") (lib.attrNames (lib.filterAttrs looksLikeOne settings));

  inEntries =
    place: entries:
    lib.concatLists (
      lib.mapAttrsToList (
        entry: params:
        map (name: "${place}.${entry}.${name}") (lib.attrNames (lib.filterAttrs looksLikeOne params))
      ) entries
    );

  # The lines, without what is secret in them.
  inIni =
    text:
    let
      lines = lib.filter lib.isString (lib.split "\n" text);
      numbered = lib.imap1 (number: line: { inherit number line; }) lines;
      isComment = line: lib.match "[[:space:]]*[;#].*" line != null;
    in
    map ({ number, ... }: "line ${toString number}") (
      lib.filter (
        { line, ... }: !isComment line && lib.match ".*[[:space:]=]password[[:space:]]*=.*" line != null
      ) numbered
    );
}

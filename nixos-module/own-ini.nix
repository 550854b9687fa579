# What the module knows of the operator's own pgbouncer.ini: its text, if it is in the store, and what follows from that.
{ lib, cfg }:
let
  file = cfg.pgbouncerConfigFile;
in
rec {
  given = file != null;
  inStore = given && (lib.isPath file || lib.isStorePath file);
  text = lib.optionalString inStore (lib.readFile file);
  lines = lib.filter lib.isString (lib.split "\n" text);
  includes = lib.any (lib.hasPrefix "%include") lines;

  # The last line of a setting counts, as in PgBouncer. Null where only the running program can tell: the file is not here, or it
  # includes others.
  listenPort =
    let
      says = lib.filter (line: lib.match "[[:space:]]*listen_port[[:space:]]*=.*" line != null) lines;
      number = lib.match "[[:space:]]*listen_port[[:space:]]*=[[:space:]]*([0-9]{1,5})[[:space:]]*" (
        lib.last says
      );
    in
    if !inStore || includes then
      null
    else if says == [ ] then
      6432
    else
      lib.mapNullable (found: lib.toIntBase10 (lib.head found)) number;

  # Also where the file does not say: it is PgBouncer's default.
  socketInTmp =
    lib.match ".*\n[[:space:]]*unix_socket_dir[[:space:]]*=[[:space:]]*/tmp[[:space:]]*(\n.*)?" (
      "\n" + text
    ) != null
    || !includes && !lib.hasInfix "unix_socket_dir" text;
}

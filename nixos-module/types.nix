# Types and small functions that several files of the module share.
{ lib }:
let
  inherit (lib) types;
  inherit (lib.strings) match;
in
rec {
  # What a setting may be in pgtandem's TOML.
  atom = types.oneOf [
    types.bool
    types.int
    types.float
    types.str
  ];
  value = types.nullOr (types.either atom (types.listOf types.str));

  # A file that exists when the service starts, and never in the store.
  secretFile = types.nullOr types.externalPath;

  isIpv4 =
    text:
    let
      parts = match "([0-9]{1,3})\\.([0-9]{1,3})\\.([0-9]{1,3})\\.([0-9]{1,3})" text;
    in
    parts != null && lib.all (part: lib.toIntBase10 part <= 255) parts;
  isIpv6 = text: lib.hasInfix ":" text && match "[0-9a-fA-F:.]+" text != null;
  isAddress = text: isIpv4 text || isIpv6 text;

  # Without a prefix length behind it.
  bare = address: lib.head (lib.splitString "/" address);

  withoutNulls = lib.filterAttrsRecursive (_: value: value != null);
}

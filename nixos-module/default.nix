# services.pgtandem: see docs/nixos.md, and docs/nixos-options.md for every option.
{
  imports = [
    ./options.nix
    ./options-ha.nix
    ./configuration.nix
    ./service.nix
    ./ha.nix
    ./assertions.nix
    ./prometheus.nix
  ];
}

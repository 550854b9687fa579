# A machine that is a pooler node and nothing else: no compiler, no login as root by password, a serial console, and updates by
# `nixos-rebuild switch --target-host`. What is particular to a node comes on top: see example-pair.nix.
{
  config,
  lib,
  modulesPath,
  ...
}:
{
  imports = [ "${modulesPath}/profiles/minimal.nix" ];

  nixpkgs.hostPlatform = lib.mkDefault "x86_64-linux";

  boot = {
    kernelParams = [
      "console=tty0"
      "console=ttyS0,115200"
    ];
    loader.timeout = lib.mkDefault 1;
    loader.grub.enable = lib.mkDefault false;
    loader.systemd-boot.enable = lib.mkDefault true;
    loader.efi.canTouchEfiVariables = lib.mkDefault false;
    growPartition = true;
  };
  fileSystems."/" = lib.mkDefault {
    device = "/dev/disk/by-label/nixos";
    fsType = "ext4";
    autoResize = true;
  };
  fileSystems."/boot" = lib.mkDefault {
    device = "/dev/disk/by-label/ESP";
    fsType = "vfat";
  };

  services.openssh = {
    enable = true;
    openFirewall = true;
  };
  # By keys only.
  services.openssh.passwordAuthentication = false;
  users.users.root.hashedPassword = "!";
  warnings =
    lib.optional (config.users.users.root.openssh.authorizedKeys.keys == [ ])
      ''Nobody can log in to this appliance, nor update it: say users.users.root.openssh.authorizedKeys.keys = [ "ssh-ed25519 …" ].'';
  security.sudo.enable = lib.mkDefault false;

  networking.firewall.enable = true;
  services.pgtandem.openFirewall = lib.mkDefault true;

  # Nothing is built here, so no compiler is kept; the system comes from elsewhere.
  nix.extraOptions = ''
    allowed-users = root
    max-jobs = 0
  '';
  documentation.enable = false;
  services.journald.extraConfig = "SystemMaxUse=500M";

  system.stateVersion = lib.mkDefault "26.05";
  system.nixos.tags = [ "pgtandem-${config.services.pgtandem.package.version}" ];
}

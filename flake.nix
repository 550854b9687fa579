{
  description = "pgtandem: two nodes that act as one highly available PostgreSQL connection pooler";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-26.05";

  outputs =
    { self, nixpkgs }:
    let
      inherit (nixpkgs) lib;
      forAllSystems = lib.genAttrs [
        "x86_64-linux"
        "aarch64-linux"
      ];
      pkgsFor = forAllSystems (system: nixpkgs.legacyPackages.${system}.extend self.overlays.default);

      applianceFor = forAllSystems (
        system:
        self.nixosConfigurations.appliance.extendModules {
          modules = [ { nixpkgs.hostPlatform = system; } ];
        }
      );

      node =
        hostName: modules:
        lib.nixosSystem {
          modules = [
            self.nixosModules.default
            { networking = { inherit hostName; }; }
          ]
          ++ modules;
        };
    in
    {
      overlays.default = final: _prev: { pgtandem = final.callPackage ./package.nix { }; };

      packages = forAllSystems (
        system:
        {
          inherit (pkgsFor.${system}) pgtandem;
          default = pkgsFor.${system}.pgtandem;
          # An image for podman, docker or Kubernetes.
          image = pkgsFor.${system}.callPackage ./nixos-module/container-image.nix { };
        }
        # Since NixOS 25.05.
        // lib.optionalAttrs (builtins.pathExists (nixpkgs + "/nixos/modules/image")) {
          # A bootable node: write it to a disk, or start it in a virtual machine. appliance-iso is the same to boot from.
          appliance = applianceFor.${system}.config.system.build.images.raw-efi;
          appliance-iso = applianceFor.${system}.config.system.build.images.iso;
        }
      );

      nixosModules.pgtandem =
        { pkgs, ... }:
        {
          imports = [ ./nixos-module ];
          services.pgtandem.package = lib.mkDefault self.packages.${pkgs.stdenv.hostPlatform.system}.pgtandem;
        };
      nixosModules.default = self.nixosModules.pgtandem;

      checks = forAllSystems (
        system:
        let
          pkgs = pkgsFor.${system};
        in
        {
          package = self.packages.${system}.pgtandem;
        }
        // import ./tests/nix/checks.nix {
          inherit pkgs lib;
          module = ./nixos-module;
        }
        // import ./vm-tests {
          inherit pkgs lib;
          module = self.nixosModules.default;
        }
      );

      apps = forAllSystems (
        system:
        let
          pkgs = pkgsFor.${system};
          demo = pkgs.writeShellApplication {
            name = "pgtandem-demo";
            runtimeInputs = [
              pkgs.pgtandem
              pkgs.postgresql
              pkgs.python3
            ];
            text = "exec ${./demo}/run";
          };
        in
        {
          default = {
            type = "app";
            program = lib.getExe pkgs.pgtandem;
            meta.description = "pgtandem itself";
          };
          demo = {
            type = "app";
            program = lib.getExe demo;
            meta.description = "A primary, two replicas and pgtandem with 200 clients, on this machine; leaves nothing behind";
          };
        }
      );

      nixosConfigurations = {
        appliance = node "pgtandem" [
          ./nixos-module/appliance.nix
          ./nixos-module/appliance-node.nix
        ];
        example-pair-a = node "pooler1" [
          ./nixos-module/appliance.nix
          ./nixos-module/example-pair.nix
        ];
        example-pair-b = node "pooler2" [
          ./nixos-module/appliance.nix
          ./nixos-module/example-pair.nix
        ];
      };

      devShells = forAllSystems (
        system:
        let
          pkgs = pkgsFor.${system};
        in
        {
          default = pkgs.mkShell {
            packages = [
              pkgs.cargo
              pkgs.clippy
              pkgs.rustc
              pkgs.rustfmt
              pkgs.cargo-nextest
              pkgs.cargo-deny
              pkgs.deadnix
              pkgs.nixfmt
              pkgs.python3
              pkgs.postgresql
              pkgs.openssl
              pkgs.iproute2
              pkgs.nftables
              pkgs.strace
            ];
          };
        }
      );

      formatter = forAllSystems (system: pkgsFor.${system}.nixfmt-tree);
    };
}

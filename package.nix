# The program, for `pkgs.callPackage ./package.nix { }`.
{
  lib,
  rustPlatform,
  installShellFiles,
}:
let
  manifest = (lib.importTOML ./Cargo.toml).package;
in
rustPlatform.buildRustPackage {
  pname = manifest.name;
  inherit (manifest) version;

  src = lib.fileset.toSource {
    root = ./.;
    fileset = lib.fileset.unions [
      ./Cargo.toml
      ./Cargo.lock
      ./README.md
      ./src
      ./tests
      ./fuzz
      ./docs
      ./packaging
    ];
  };
  cargoLock.lockFile = ./Cargo.lock;

  nativeBuildInputs = [ installShellFiles ];

  # The tests want a server, other users and network namespaces; the VM tests of the flake show the program at work.
  doCheck = false;

  postInstall = ''
    installManPage packaging/man/pgtandem.1
    installShellCompletion --cmd pgtandem \
      --bash packaging/completions/pgtandem.bash \
      --zsh packaging/completions/_pgtandem \
      --fish packaging/completions/pgtandem.fish
  '';

  meta = {
    inherit (manifest) description;
    homepage = manifest.repository;
    license = with lib.licenses; [
      mit
      asl20
    ];
    mainProgram = "pgtandem";
    platforms = lib.platforms.linux;
  };
}

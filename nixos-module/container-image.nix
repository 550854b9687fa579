# pgtandem in a container: mount the configuration at /etc/pgtandem, and the secrets where it names them.
{
  dockerTools,
  lib,
  pgtandem,
}:
dockerTools.streamLayeredImage {
  name = "pgtandem";
  tag = pgtandem.version;
  contents = [ pgtandem ];
  extraCommands = ''
    mkdir -p run/pgtandem tmp
    chmod 1777 run/pgtandem tmp
  '';
  config = {
    Entrypoint = [ (lib.getExe pgtandem) ];
    Cmd = [ "/etc/pgtandem/pgtandem.toml" ];
    # Somebody who is nobody: never root.
    User = "65534:65534";
    ExposedPorts."6432/tcp" = { };
    StopSignal = "SIGTERM";
  };
}

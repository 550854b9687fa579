# A pair in a dozen lines, the same for both nodes: copy it, and change names, addresses and paths.
{
  services.pgtandem = {
    enable = true;
    settings.listen_addr = [ "*" ];
    settings.pool_mode = "transaction";
    settings.auth_type = "scram-sha-256";
    databases.app.host = "192.0.2.5";
    userlistFile = "/var/lib/pgtandem/userlist.txt";
    ha = {
      enable = true;
      interface = "eth0";
      addresses = [ "192.0.2.10" ];
      virtualRouterId = 51;
      nodes.pooler-a.address = "192.0.2.1";
      nodes.pooler-b.address = "192.0.2.2";
      pairSecretFile = "/var/lib/pgtandem/pair.secret";
    };
  };
  # From elsewhere in your configuration, or as here for eth0.
  networking.useDHCP = false;
  networking.usePredictableInterfaceNames = false;
}

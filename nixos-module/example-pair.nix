# A pair in a dozen lines, the same for both nodes: copy it, and change key, addresses, names and paths.
{ config, ... }:
{
  services.pgtandem = {
    enable = true;
    settings.listen_addr = [ "*" ];
    settings.pool_mode = "transaction";
    settings.auth_type = "scram-sha-256";
    databases.app.host = "192.0.2.5";
    userlistFile = "/var/lib/secrets/userlist.txt";
    ha = {
      enable = true;
      interface = "eth0";
      addresses = [ "192.0.2.10" ];
      virtualRouterId = 51;
      nodes.pooler1.address = "192.0.2.1";
      nodes.pooler2.address = "192.0.2.2";
      pairSecretFile = "/var/lib/secrets/pair.secret";
    };
  };

  # Yours, or nobody can log in.
  users.users.root.openssh.authorizedKeys.keys = [ ];

  # The node's own address; the floating one comes and goes by itself.
  networking = {
    usePredictableInterfaceNames = false; # eth0
    useDHCP = false;
    interfaces.eth0.ipv4.addresses = [
      {
        address = config.services.pgtandem.ha.nodes.${config.networking.hostName}.address;
        prefixLength = 24;
      }
    ];
    defaultGateway = "192.0.2.254";
  };
}

# The appliance as it is delivered: it boots, gets an address by DHCP and pools one database, until its own configuration is
# switched to.
{
  services.pgtandem = {
    enable = true;
    settings = {
      listen_addr = [ "*" ];
      auth_type = "scram-sha-256";
      pool_mode = "transaction";
    };
    # Written by hand on the first boot; the service tries again until it is there.
    userlistFile = "/var/lib/secrets/userlist.txt";
    databases."*".host = "postgresql.example.org";
  };
  networking.useDHCP = true;

  # Yours, or nobody can log in.
  users.users.root.openssh.authorizedKeys.keys = [ ];
}

# The files that are handed over by LoadCredential=, by the setting that names each, as options have them.
{ lib, cfg }:
let
  given = lib.filterAttrs (_: file: file != null);
in
rec {
  pgtandem = given {
    auth_file = cfg.userlistFile;
    auth_hba_file = cfg.hbaFile;
    client_tls_cert_file = cfg.clientTls.certificateFile;
    client_tls_key_file = cfg.clientTls.keyFile;
    client_tls_ca_file = cfg.clientTls.caFile;
    server_tls_cert_file = cfg.serverTls.certificateFile;
    server_tls_key_file = cfg.serverTls.keyFile;
    server_tls_ca_file = cfg.serverTls.caFile;
  };
  ha = given { pair_secret_file = if cfg.ha.enable then cfg.ha.pairSecretFile else null; };
  all = pgtandem // ha;
}

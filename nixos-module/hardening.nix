# What both units have in common: as packaging/pgtandem.service and packaging/pgtandem-helper.service, which say why.
{
  LimitCORE = 0;
  NoNewPrivileges = true;
  ProtectSystem = "strict";
  ProtectHome = true;
  InaccessiblePaths = "-/var/lib/postgresql";
  PrivateTmp = true;
  PrivateDevices = true;
  DevicePolicy = "closed";
  PrivateIPC = true;
  ProtectProc = "invisible";
  ProtectClock = true;
  ProtectHostname = true;
  ProtectControlGroups = true;
  ProtectKernelLogs = true;
  ProtectKernelModules = true;
  KeyringMode = "private";
  LockPersonality = true;
  MemoryDenyWriteExecute = true;
  RestrictNamespaces = true;
  RestrictRealtime = true;
  RestrictSUIDSGID = true;
  SystemCallArchitectures = "native";
  SystemCallErrorNumber = "EPERM";
  UMask = "0077";
}

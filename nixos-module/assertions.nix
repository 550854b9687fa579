# What can be known to be wrong before anything is built. Everything else is said by `pgtandem check`, when the system is.
{ config, lib, ... }:
let
  cfg = config.services.pgtandem;
  inherit (cfg) ha;
  nodeNames = lib.attrNames ha.nodes;
  shared = import ./types.nix { inherit lib; };
  secrets = import ./secrets.nix { inherit lib cfg; };
  inherit (import ./passwords.nix { inherit lib; }) inEntries inSettings inIni;

  ini = import ./own-ini.nix { inherit lib cfg; };
  ownIni = ini.given;

  found =
    inSettings "settings" cfg.settings
    ++ inEntries "databases" cfg.databases
    ++ inEntries "users" cfg.users
    ++ inSettings "ha.settings" ha.settings
    ++ map (line: "pgbouncerConfigFile (${line})") (inIni ini.text);

  fileSettings = lib.filterAttrs (
    name: value: lib.isString value && (lib.hasSuffix "_file" name || lib.hasSuffix "_key" name)
  ) (cfg.settings // ha.settings);
  inStore = lib.filter (
    name: lib.isStorePath fileSettings.${name} && lib.match ".*(auth|key|secret).*" name != null
  ) (lib.attrNames fileSettings);
  twice = lib.intersectLists (lib.attrNames secrets.pgtandem) (lib.attrNames cfg.settings);

  say = assertion: message: {
    inherit assertion;
    message = "services.pgtandem.${message}";
  };

  general = [
    (say (found == [ ])
      ''${lib.concatStringsSep ", services.pgtandem." found}: this is a password, and everybody can read the Nix store. Write users and their passwords into a file that only root can read, and name it in services.pgtandem.userlistFile = "/run/secrets/userlist.txt"; pgtandem logs in to servers with the passwords of that file, too.''
    )
    (say (inStore == [ ])
      ''settings.${lib.concatStringsSep ", settings." inStore}: this file is in the Nix store, which everybody can read. Write a quoted absolute path ("/run/secrets/…"), or use the option for it (userlistFile, clientTls.keyFile, ha.pairSecretFile …).''
    )
    (say (twice == [ ])
      "settings.${lib.concatStringsSep ", settings." twice}: also given by the option for this file. Remove one of them."
    )
    (say (!ownIni || cfg.databases == { } && cfg.users == { })
      "pgbouncerConfigFile: databases and users stand in that file; remove services.pgtandem.databases and services.pgtandem.users."
    )
    (say (ownIni || cfg.databases != { })
      ''databases: there is none, so nobody could log in. Say services.pgtandem.databases.NAME.host = "…"; or bring a file by services.pgtandem.pgbouncerConfigFile.''
    )
    (say (
      cfg.user != "root"
    ) "user: pgtandem never serves as root. Leave the option out, or name an ordinary user.")
    (say (
      !(cfg.settings ? user)
    ) "settings.user: the user is that of the service; use services.pgtandem.user.")
    (say (ownIni || cfg.settings.unix_socket_dir != "/tmp")
      "settings.unix_socket_dir: the service has a /tmp of its own, so nobody would find the socket there. Leave it out: it is /run/pgtandem."
    )
  ];

  # By a list, or by somebody else who knows them.
  usersAreKnown =
    cfg.userlistFile != null
    || cfg.settings ? auth_file
    || cfg.hbaFile != null
    || lib.any (params: params ? auth_user) ([ cfg.settings ] ++ lib.attrValues cfg.databases)
    || lib.elem (cfg.settings.auth_type or "md5") [
      "any"
      "hba"
      "ldap"
      "pam"
    ];

  routers =
    lib.optional (ha.addresses != [ ] || ha.virtualRouterId != null || ha.virtualRouters == { }) {
      option = "ha";
      inherit (ha) interface addresses virtualRouterId;
      priority = { };
      settings = { };
    }
    ++ lib.mapAttrsToList (name: router: {
      option = "ha.virtualRouters.${name}";
      interface = if router.interface != null then router.interface else ha.interface;
      inherit (router)
        addresses
        virtualRouterId
        priority
        settings
        ;
    }) ha.virtualRouters;

  strangers = router: lib.subtractLists nodeNames (lib.attrNames router.priority);

  routerAssertions = router: [
    (say (router.interface != null)
      "${router.option}.interface: say which network interface bears the floating addresses, such as \"eth0\"."
    )
    (say (router.addresses != [ ])
      "${router.option}.addresses: say which floating addresses the pair holds, such as [ \"192.0.2.10\" ]."
    )
    (say (lib.all (address: shared.isAddress (shared.bare address)) router.addresses)
      ''${router.option}.addresses: ${
        lib.concatStringsSep ", " (lib.filter (it: !shared.isAddress (shared.bare it)) router.addresses)
      } is no address. Write it in figures, without a prefix length: "192.0.2.10".''
    )
    (say (strangers router == [ ])
      "${router.option}.priority: ${
        lib.concatMapStringsSep ", " (name: "\"${name}\"") (strangers router)
      } is none of ha.nodes (${lib.concatStringsSep ", " nodeNames})."
    )
    (say
      (router.virtualRouterId != null && router.virtualRouterId >= 1 && router.virtualRouterId <= 255)
      "${router.option}.virtualRouterId: must be a number from 1 to 255, the same on both nodes and used by nothing else in the network, not ${toString router.virtualRouterId}."
    )
  ];

  identities = map (
    router: "${toString router.interface} ${toString router.virtualRouterId}"
  ) routers;
  floating = map shared.bare (lib.concatMap (router: router.addresses) routers);
  addressesOf = node: lib.optional (node.address != null) node.address ++ node.addresses;
  own = lib.concatMap addressesOf (lib.attrValues ha.nodes);
  ofBoth = lib.foldl' lib.intersectLists (lib.unique own) (map addressesOf (lib.attrValues ha.nodes));
  outOfRange = lib.filter (priority: priority != null && (priority < 1 || priority > 255)) (
    map (node: node.priority) (lib.attrValues ha.nodes)
    ++ lib.concatMap (router: lib.attrValues router.priority) (lib.attrValues ha.virtualRouters)
  );

  # Which priority a virtual router has on each node, as pgtandem finds it. One in `settings` may differ from node to node, and
  # only that of this one is known here.
  priorityOf =
    router: name:
    lib.findFirst (it: it != null) 254 [
      (router.priority.${name} or null)
      ha.nodes.${name}.priority
    ];
  unclear =
    router:
    let
      found = map (priorityOf router) nodeNames;
      preempts = lib.elem (router.settings.preempt or ha.settings.preempt or false) [
        true
        1
        "1"
      ];
      given = router.priority != { } || lib.any (node: node.priority != null) (lib.attrValues ha.nodes);
    in
    {
      wrong =
        lib.length found == 2
        && lib.length (lib.unique found) == 1
        && (preempts || given)
        && !(router.settings ? priority || ha.settings ? priority);
      message = "${
        if router.priority == { } then "ha.nodes" else "${router.option}.priority"
      }: both nodes have the same priority (${toString (lib.head found)}; not given is 254), so neither comes first${lib.optionalString preempts ", and preempt means nothing"}. Say both: ${advice router nodeNames}";
    };
  advice =
    router: names:
    let
      high = lib.head names;
      low = lib.last names;
    in
    if router.priority == { } then
      "ha.nodes.${high}.priority = 200; ha.nodes.${low}.priority = 100;"
    else
      "${router.option}.priority = { ${high} = 200; ${low} = 100; };";
  # One of the nodes' priorities is said once, however many virtual routers have it.
  priorityAssertions = map (message: say false message) (
    lib.unique (map (it: it.message) (lib.filter (it: it.wrong) (map unclear routers)))
  );

  listensEverywhere =
    lib.elem "*" cfg.settings.listen_addr
    || lib.elem "0.0.0.0" cfg.settings.listen_addr
    || lib.elem "::" cfg.settings.listen_addr;

  firewall = config.networking.firewall;
  # Beside those of ssh: the operator has said which.
  opensPorts =
    !firewall.enable
    || lib.subtractLists config.services.openssh.ports firewall.allowedTCPPorts != [ ]
    || firewall.allowedTCPPortRanges != [ ];
  rules = firewall.extraCommands + firewall.extraInputRules;
  letsVrrpIn = lib.match ".*(vrrp|112).*" (lib.replaceStrings [ "\n" ] [ " " ] rules) != null;

  pair = [
    (say (lib.length nodeNames == 2)
      ''ha.nodes: a pair has two nodes, not ${toString (lib.length nodeNames)}. Say ha.nodes.pooler1.address = "192.0.2.1" and ha.nodes.pooler2.address = "192.0.2.2".''
    )
    (say (ha.nodes ? ${ha.nodeName})
      ''ha.nodeName: "${ha.nodeName}" is none of ha.nodes (${lib.concatStringsSep ", " nodeNames}). Name the nodes as their hosts (networking.hostName), or set services.pgtandem.ha.nodeName.''
    )
    (say (lib.all (node: node.address != null || node.addresses != [ ]) (
      lib.attrValues ha.nodes
    )) "ha.nodes: a node has no address; the other one would not find it. Say ha.nodes.NAME.address.")
    (say (lib.length nodeNames != 2 || ofBoth == [ ])
      "ha.nodes: ${lib.concatStringsSep " and " nodeNames} have the same address ${lib.concatStringsSep ", " ofBoth}. Say each node's own."
    )
    (say (lib.intersectLists own floating == [ ])
      "ha.nodes: ${lib.concatStringsSep ", " (lib.intersectLists own floating)} is a floating address. A node's own address stays with it; the floating one must be another."
    )
    (say (lib.length (lib.unique identities) == lib.length identities)
      "ha.virtualRouters: two of them have the same virtualRouterId on one interface. Give each a number of its own."
    )
    (say (outOfRange == [ ])
      "ha.nodes: a priority is a number from 1 to 255, not ${
        lib.concatMapStringsSep ", " toString outOfRange
      }."
    )
    (say
      (ha.pairSecretFile != null || ha.settings ? pair_secret_file || ha.settings ? pair_tls_cert_file)
      ''ha.pairSecretFile: the nodes know each other by a secret. Make one with `openssl rand -hex 32`, put it on both nodes where only root can read it, and name it: ha.pairSecretFile = "/run/secrets/pair.secret".''
    )
    (say (ownIni || listensEverywhere || lib.subtractLists cfg.settings.listen_addr floating == [ ])
      ''settings.listen_addr: clients come in at the floating addresses (${lib.concatStringsSep ", " floating}), and nothing listens there. Say listen_addr = [ "*" ], or name them too.''
    )
    (say (!firewall.enable || cfg.openFirewall || letsVrrpIn)
      "openFirewall: the firewall drops VRRP (IP protocol 112), so both nodes would take the addresses. Set services.pgtandem.openFirewall = true, or let the protocol in with networking.firewall.extraInputRules or extraCommands."
    )
  ];
in
{
  config = lib.mkIf cfg.enable {
    assertions =
      general
      ++ lib.optionals ha.enable (lib.concatMap routerAssertions routers ++ pair ++ priorityAssertions);
    warnings =
      map
        (
          address:
          "services.pgtandem.ha: the prefix length of ${address} is not used; a floating address is held as one host's address."
        )
        (
          lib.optionals ha.enable (
            lib.filter (lib.hasInfix "/") (lib.concatMap (router: router.addresses) routers)
          )
        )
      ++
        lib.optional (!ha.enable && (ha.nodes != { } || ha.addresses != [ ]))
          "services.pgtandem.ha: nodes and addresses are given, but ha.enable is not set: this node holds no floating address."
      ++
        lib.optional (!ownIni && !usersAreKnown)
          ''services.pgtandem.userlistFile: there is none, so nobody can log in. Name the file with users and their passwords: userlistFile = "/var/lib/secrets/userlist.txt".''
      ++
        lib.optional (cfg.openFirewall && ownIni && ini.listenPort == null && !opensPorts)
          "services.pgtandem.openFirewall: clients are not let in, as their port stands in a file that is not read here. Say networking.firewall.allowedTCPPorts = [ 6432 ], or the port of that file."
      ++
        lib.optional (ini.inStore && ini.socketInTmp)
          "services.pgtandem.pgbouncerConfigFile: its unix_socket_dir is /tmp, and the service has a /tmp of its own: nobody finds the socket there. Say unix_socket_dir = /run/pgtandem in the file.";
  };
}

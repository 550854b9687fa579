# As start-only.nix, of the section [ha].
[
  "helper_socket"
  "node_name"
]

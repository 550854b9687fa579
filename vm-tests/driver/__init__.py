"""A driver for NixOS test scripts that boots the hosts as containers on any Linux with systemd-nspawn."""

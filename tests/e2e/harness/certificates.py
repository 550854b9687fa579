"""Certificates as operators make them with the openssl command, in every shape met in the field."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .process import run


@dataclass(frozen=True)
class Pair:
    """A certificate file and its key file."""

    cert: Path
    key: Path


def self_signed(folder: Path, name: str, cn: str) -> Pair:
    """The revenue-engine operators' own command: X.509 v3, no alternative name, text in front of the PEM block."""
    pair = Pair(folder / f"{name}.crt", folder / f"{name}.key")
    run(["openssl", "req", "-new", "-x509", "-days", "365", "-nodes", "-text", "-out", pair.cert, "-keyout", pair.key,
         "-subj", f"/CN={cn}"])
    pair.key.chmod(0o600)
    return pair


def authority(folder: Path, name: str) -> Pair:
    """A certificate authority with an elliptic-curve key, and the EC PARAMETERS block that openssl writes."""
    pair = Pair(folder / f"{name}.crt", folder / f"{name}.key")
    run(["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-out", pair.key])
    run(["openssl", "req", "-new", "-x509", "-days", "365", "-key", pair.key, "-out", pair.cert, "-subj",
         f"/CN=pgtandem test {name}", "-addext", "basicConstraints=critical,CA:TRUE,pathlen:1"])
    pair.key.chmod(0o600)
    return pair


def signed(folder: Path, name: str, cn: str, by: Pair, *, names: str = "", version1: bool = False,
           rsa: bool = False) -> Pair:
    """A leaf certificate; `names` is a subjectAltName, `version1` the old shape without any extension."""
    pair = Pair(folder / f"{name}.crt", folder / f"{name}.key")
    request, extensions = folder / f"{name}.csr", folder / f"{name}.ext"
    if rsa:
        run(["openssl", "genrsa", "-out", pair.key, "2048"])
    else:
        run(["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-out", pair.key])
    run(["openssl", "req", "-new", "-key", pair.key, "-out", request, "-subj", f"/CN={cn}"])
    sign = ["openssl", "x509", "-req", "-in", request, "-CA", by.cert, "-CAkey", by.key, "-CAcreateserial", "-days",
            "365", "-sha256", "-out", pair.cert]
    if not version1:
        lines = ["basicConstraints=CA:FALSE"] + ([f"subjectAltName={names}"] if names else [])
        extensions.write_text("\n".join(lines) + "\n")
        sign += ["-extfile", extensions]
    run(sign)
    pair.key.chmod(0o600)
    return pair

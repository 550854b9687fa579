"""An LDAP server (OpenLDAP's slapd) of a test's own, on loopback."""

from __future__ import annotations

import socket
import subprocess
from pathlib import Path

from . import certificates, process
from .ports import free_port

BASE = "dc=example,dc=net"

CONFIGURATION = """\
include /etc/ldap/schema/core.schema
include /etc/ldap/schema/cosine.schema
include /etc/ldap/schema/inetorgperson.schema
pidfile {folder}/slapd.pid
TLSCACertificateFile {ca}
TLSCertificateFile {cert}
TLSCertificateKeyFile {key}
access to attrs=userPassword by anonymous auth by * none
access to * by dn="cn=reader,{base}" read by anonymous auth by * none
database ldif
directory {folder}/data
suffix "{base}"
rootdn "cn=admin,{base}"
rootpw secret
"""


class Slapd:
    """The server, with the people `uid=NAME,dc=example,dc=net` and a reader who may search."""

    def __init__(self, folder: Path, people: dict[str, str], authority: certificates.Pair):
        (folder / "data").mkdir(parents=True)
        self.port, self.tls_port, self.ca = free_port(), free_port(), authority.cert
        pair = certificates.signed(folder, "slapd", "localhost", authority, names="DNS:localhost")
        (folder / "slapd.conf").write_text(CONFIGURATION.format(
            folder=folder, base=BASE, ca=authority.cert, cert=pair.cert, key=pair.key))
        entries = [f"dn: {BASE}\nobjectClass: dcObject\nobjectClass: organization\ndc: example\no: Example\n",
                   f"dn: cn=reader,{BASE}\nobjectClass: person\ncn: reader\nsn: reader\nuserPassword: reader secret\n"]
        entries += [f"dn: uid={name},{BASE}\nobjectClass: inetOrgPerson\nuid: {name}\ncn: {name}\nsn: {name}\n"
                    f"mail: {name}@example.net\nuserPassword: {password}\n" for name, password in people.items()]
        (folder / "people.ldif").write_text("\n".join(entries))
        process.run(["/usr/sbin/slapadd", "-f", folder / "slapd.conf", "-l", folder / "people.ldif"])
        # -d keeps it in the foreground.
        self.process: subprocess.Popen = process.spawn(
            ["/usr/sbin/slapd", "-d", "0", "-f", folder / "slapd.conf", "-h",
             f"ldap://127.0.0.1:{self.port} ldaps://127.0.0.1:{self.tls_port}"], user=None, stderr=folder / "stderr.log")
        process.poll_until(self._answers, "slapd answers")

    def _answers(self) -> bool:
        assert self.process.poll() is None, "slapd ended"
        try:
            socket.create_connection(("127.0.0.1", self.tls_port), timeout=1).close()
        except OSError:
            return False
        return True

    def stop(self) -> None:
        process.stop(self.process, 15)

"""The root file system that every host boots: Debian 13 with systemd, PostgreSQL 17 and what scenarios need. Made once."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

_SUITE = "trixie"
_PACKAGES = (
    "systemd", "systemd-sysv", "dbus", "procps", "psmisc", "postgresql-17", "postgresql-client", "netcat-openbsd", "iproute2",
    "iputils-ping", "nftables", "keepalived", "python3", "python3-psycopg2", "openssl", "curl",
)
# What a container of a few minutes does not need.
_MASKED = (
    "apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "fstrim.timer", "e2scrub_all.timer",
    "getty@tty1.service", "console-getty.service", "ldconfig.service", "systemd-journal-catalog-update.service",
    "systemd-update-done.service", "systemd-networkd-wait-online.service",
)
# What is there for scenarios to start, and must not start by itself.
_DISABLED = ("keepalived.service", "postgresql.service", "nftables.service", "systemd-networkd.service")
# Every line counts, also those of a host that has crashed since: hence the folder, and no delay.
_JOURNALD = "[Journal]\nStorage=persistent\nRateLimitIntervalSec=0\nSyncIntervalSec=0\nSystemMaxUse=256M\n"
_MAKE_S = 1800


def make(folder: Path) -> None:
    """Make the image in `folder`, unless it is there already and was made by this very file."""
    want = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
    stamp = folder / ".stamp"
    if stamp.exists() and stamp.read_text() == want:
        return
    print(f"making the root file system ({_SUITE}), which takes a minute or two", flush=True)
    new = folder.with_name(folder.name + ".new")
    for old in (folder, new):
        shutil.rmtree(old, ignore_errors=True)
    try:
        _debootstrap(new, folder.with_name(folder.name + ".log"))
        _arrange(new)
        (new / ".stamp").write_text(want)
        new.rename(folder)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _mirror() -> list[str]:
    """Where this machine's own apt takes Debian from; nothing on machines that have no apt, which is debootstrap's default."""
    if shutil.which("apt-get") is None:
        return []
    form = "$(ORIGIN) $(LABEL) $(COMPONENT) $(REPO_URI)"
    done = subprocess.run(["apt-get", "indextargets", "--format", form, "Created-By: Packages"],
                          capture_output=True, text=True, timeout=60, check=True)
    prefix = "Debian Debian main "
    return [line.removeprefix(prefix) for line in done.stdout.splitlines() if line.startswith(prefix)][:1]


def _debootstrap(root: Path, log: Path) -> None:
    root.parent.mkdir(parents=True, exist_ok=True)
    command = ["debootstrap", "--variant=minbase", f"--include={','.join(_PACKAGES)}", _SUITE, str(root), *_mirror()]
    with log.open("wb") as out:
        # A session of its own, so that an interrupted debootstrap can be ended with all that it has started.
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True,
                                   env={**os.environ, "LC_ALL": "C.UTF-8"})
        try:
            code = process.wait(_MAKE_S)
        except BaseException:
            os.killpg(process.pid, 15)
            process.wait(30)
            raise
    if code != 0:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-20:])
        sys.exit(f"{tail}\ndebootstrap failed; all of its output is in {log}")


def _arrange(root: Path) -> None:
    """Make of a fresh Debian what hosts begin with: nothing that runs by itself, no name, no cluster."""
    for pattern in ("var/cache/apt/archives/*.deb", "var/lib/apt/lists/*", "usr/share/doc/*", "usr/share/man/*",
                    "etc/postgresql/17", "var/lib/postgresql/17", "etc/apt/sources.list", "etc/resolv.conf", "etc/machine-id"):
        for found in root.glob(pattern):
            if found.is_dir() and not found.is_symlink():
                shutil.rmtree(found)
            else:
                found.unlink()
    units = root / "etc/systemd/system"
    for unit in _DISABLED:
        for link in units.rglob(unit):
            link.unlink()
    for unit in _MASKED:
        link = units / unit
        link.unlink(missing_ok=True)
        link.symlink_to("/dev/null")
    (root / "etc/systemd/journald.conf.d").mkdir(parents=True, exist_ok=True)
    (root / "etc/systemd/journald.conf.d/test.conf").write_text(_JOURNALD)
    (root / "var/log/journal").mkdir(parents=True, exist_ok=True)
    subprocess.run(["chroot", str(root), "/usr/sbin/useradd", "--system", "--user-group", "--home-dir", "/",
                    "--shell", "/usr/sbin/nologin", "pgtandem"], timeout=60, check=True)

"""The root file system of one host: the image, with a layer above it in memory that goes with the scenario."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from pathlib import Path

_JOURNAL_S = 60
_libc = ctypes.CDLL(None, use_errno=True)


def _mount(source: str, target: Path, kind: str, data: str) -> None:
    if _libc.mount(source.encode(), str(target).encode(), kind.encode(), ctypes.c_ulong(0), data.encode()) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"cannot mount {kind} on {target}: {os.strerror(number)}")


class Root:
    """A host's files, before and while it runs."""

    def __init__(self, image: Path, folder: Path) -> None:
        self.path = folder / "root"
        upper, work = folder / "upper", folder / "work"
        for one in (upper, work, self.path):
            one.mkdir(parents=True)
        upper.chmod(0o755)
        _mount("overlay", self.path, "overlay", f"lowerdir={image},upperdir={upper},workdir={work}")

    def _inside(self, path: str) -> Path:
        return self.path / path.lstrip("/")

    def _identity(self, file: str, name: str) -> int:
        """A user's or a group's number, as the host knows it."""
        for line in (self.path / "etc" / file).read_text().splitlines():
            fields = line.split(":")
            if fields[0] == name:
                return int(fields[2])
        raise KeyError(f"no {name} in the image's /etc/{file}")

    def own(self, path: str, owner: str, mode: int) -> None:
        """Set owner (`user:group`, or one name for both) and mode."""
        user, _, group = owner.partition(":")
        os.chown(self._inside(path), self._identity("passwd", user), self._identity("group", group or user))
        self._inside(path).chmod(mode)

    def write(self, path: str, text: str, owner: str = "root", mode: int = 0o644) -> None:
        """Write a file, with the folders above it."""
        inside = self._inside(path)
        inside.parent.mkdir(parents=True, exist_ok=True)
        # Not through a link: its target would be looked for out here.
        inside.unlink(missing_ok=True)
        inside.write_text(text)
        self.own(path, owner, mode)

    def copy(self, source: Path, path: str, owner: str = "root", mode: int = 0o644) -> None:
        """Copy a file, with the folders above it."""
        inside = self._inside(path)
        inside.parent.mkdir(parents=True, exist_ok=True)
        inside.unlink(missing_ok=True)
        shutil.copyfile(source, inside)
        self.own(path, owner, mode)

    def folder(self, path: str, owner: str = "root", mode: int = 0o755) -> None:
        """Make a folder, with those above it."""
        self._inside(path).mkdir(parents=True, exist_ok=True)
        self.own(path, owner, mode)

    def unit(self, name: str, text: str, wanted_by: str | None = None) -> None:
        """Write a unit; with `wanted_by` it is enabled."""
        self.write(f"/etc/systemd/system/{name}", text)
        if wanted_by is not None:
            self.enable(name, wanted_by)

    def enable(self, name: str, wanted_by: str) -> None:
        """What `systemctl enable` does."""
        link = self._inside(f"/etc/systemd/system/{wanted_by}.wants/{name}")
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(f"/etc/systemd/system/{name}")

    def journal(self) -> str:
        """All that the journal of the host has, over all of its boots, whether it runs now or not."""
        # The image's own journalctl: this machine may have none, or one that is too old for the files.
        done = subprocess.run(["chroot", str(self.path), "journalctl", "--directory=/var/log/journal", "--no-pager", "--quiet",
                               "--all", "--output=short-precise"],
                              capture_output=True, timeout=_JOURNAL_S, check=False)
        return done.stdout.decode(errors="replace") + done.stderr.decode(errors="replace")

"""What goes into the guest: a kernel, its modules, programs with their libraries, PostgreSQL."""

import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

# Modules that TLS needs, by name: the protocol, and for each cipher the template and what it stands on.
MODULES = ["tls", "gcm", "ctr", "ghash_generic", "chacha20poly1305", "chacha_generic", "poly1305_generic", "aesni_intel",
           "ghash_clmulni_intel", "chacha_x86_64", "poly1305_x86_64"]
PACKAGE = "linux-image-cloud-amd64"
POSTGRES_ID = 70


def fail(why):
    print(f"kernel_tls: {why}", file=sys.stderr)
    sys.exit(2)


def output_of(*command, **options):
    done = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, text=True, check=False, **options)
    return done.stdout if done.returncode == 0 else None


class Archive:
    """Files of an initramfs (cpio, "newc": Documentation/driver-api/early-userspace/buffer-format.rst of Linux)."""

    def __init__(self):
        self.entries = {}

    def add(self, path, mode, data=b"", owner=0):
        path = str(path).lstrip("/")
        parent = os.path.dirname(path)
        if parent and parent not in self.entries:
            self.add(parent, stat.S_IFDIR | 0o755)
        self.entries[path] = (mode, data, owner)

    def directories(self, *paths):
        for path in paths:
            self.add(path, stat.S_IFDIR | (0o1777 if path in ("tmp", "run/postgresql") else 0o755))

    def text(self, path, text, mode=0o644):
        self.add(path, stat.S_IFREG | mode, text.encode())

    def file(self, path, source, mode=None, owner=0):
        source = Path(source)
        if mode is None:
            mode = 0o755 if os.access(source, os.X_OK) else 0o644
        self.add(path, stat.S_IFREG | mode, source.read_bytes(), owner)

    def tree(self, path, source, owner=0, leave_out=lambda path: False):
        for folder, _, names in os.walk(source):
            at = Path(path) / Path(folder).relative_to(source)
            if leave_out(at):
                continue
            self.add(at, stat.S_IFDIR | (Path(folder).stat().st_mode & 0o777), owner=owner)
            for name in names:
                file = Path(folder) / name
                # Links are followed: what they lead to may be elsewhere on this machine.
                if file.is_file() and not leave_out(at / name):
                    self.file(at / name, file, file.stat().st_mode & 0o777, owner)

    def write(self, to):
        with open(to, "wb") as out:
            entries = [*self.entries.items(), ("TRAILER!!!", (0, b"", 0))]
            for number, (path, (mode, data, owner)) in enumerate(entries, 1):
                name = path.encode() + b"\0"
                links = 2 if stat.S_ISDIR(mode) else 1
                fields = [number, mode, owner, owner, links, 0, len(data), 0, 0, 0, 0, len(name), 0]
                head = b"070701" + b"".join(b"%08x" % field for field in fields) + name
                out.write(head + b"\0" * (-len(head) % 4) + data + b"\0" * (-len(data) % 4))


class Kernel:
    """Debian's kernel for virtual machines, its modules, and a busybox, unpacked and not installed."""

    def __init__(self, folder):
        self.folder = folder
        images = sorted(folder.glob("boot/vmlinuz-*"))
        if not images:
            fail(f"{folder} has no kernel; remove it to have it made again")
        self.image = images[-1]
        self.release = self.image.name.removeprefix("vmlinuz-")

    @classmethod
    def cached(cls, cache):
        folder = cache / "kernel"
        if not folder.exists():
            with tempfile.TemporaryDirectory(dir=cache) as made:
                cls.download(Path(made))
                shutil.copytree(Path(made) / "root", folder, symlinks=True)
        return cls(folder)

    @staticmethod
    def download(folder):
        if not shutil.which("apt-get"):
            fail(f"the kernel comes from Debian's package {PACKAGE}, and there is no apt-get here")
        # The lists of packages may be old, and then name files that are gone.
        subprocess.run(["apt-get", "-qq", "update"], stdout=subprocess.DEVNULL, check=False)
        depends = output_of("apt-cache", "depends", PACKAGE) or ""
        name = re.search(r"Depends: (linux-image-\S+)", depends)
        if not name:
            fail(f"apt knows no package {PACKAGE}, so there is no kernel to test with")
        for package in (name[1], "busybox-static"):
            if output_of("apt-get", "-qq", "download", package, cwd=folder, stderr=subprocess.DEVNULL) is None:
                fail(f"the package {package} cannot be downloaded")
        for package in folder.glob("*.deb"):
            subprocess.run(["dpkg", "-x", package, folder / "root"], check=True)

    def modules(self):
        """Name -> file, of those in MODULES that this kernel has as modules and of what they need."""
        files = {file.stem.replace("-", "_"): file for file in self.folder.glob("lib/modules/*/kernel/**/*.ko")}
        files or fail("the kernel's modules are packed in a way that this program does not know")
        found, wanted = {}, list(MODULES)
        while wanted:
            name = wanted.pop().replace("-", "_")
            if name in files and name not in found:
                found[name] = files[name]
                wanted += self.said_of(files[name], "depends")
        if "tls" not in found:
            fail(f"{self.release} has no module tls")
        return found

    @staticmethod
    def said_of(module, what):
        said = re.findall(rb"\0" + what.encode() + rb"=([^\0]*)\0", module.read_bytes())
        return [word for text in said for word in text.decode().split(",") if word]

    def put_into(self, archive):
        archive.file("bin/busybox", self.folder / "bin/busybox", 0o755)
        modules = self.modules()
        base = f"lib/modules/{self.release}"
        for name, file in modules.items():
            archive.file(f"{base}/{name}.ko", file)
        needs = {name: self.said_of(file, "depends") for name, file in modules.items()}
        archive.text(f"{base}/modules.dep", "".join(
            f"{name}.ko: {' '.join(f'{need}.ko'.replace('-', '_') for need in needs[name] if need.replace('-', '_') in modules)}\n"
            for name in modules))
        # With these the kernel loads a module by itself when it is asked for what the module does.
        archive.text(f"{base}/modules.alias", "".join(
            f"alias {alias} {name}\n" for name, file in modules.items() for alias in self.said_of(file, "alias")))


class Program:
    """A program (or any other file) with the libraries that it is linked to."""

    def __init__(self, source, path, strip=False):
        self.source, self.path, self.strip = Path(source), path, strip
        if not self.source.is_file():
            fail(f"{source} is not there")

    def put_into(self, archive):
        archive.file(self.path, self.source)
        if self.strip:
            with tempfile.NamedTemporaryFile() as stripped:
                if output_of("strip", "-g", "-o", stripped.name, self.source) is not None:
                    archive.file(self.path, stripped.name, 0o755)
        libraries_of(self.source, archive)


def libraries_of(program, archive):
    listed = output_of("ldd", program, stderr=subprocess.DEVNULL) or ""
    for library in re.findall(r"(/\S+) \(0x", listed):
        if library.lstrip("/") not in archive.entries:
            archive.file(library, library, 0o755)


class Postgres:
    """PostgreSQL's programs in /usr/lib/postgresql, and a data directory /var/pgdata with trust for everybody."""

    def __init__(self, cache):
        found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
        if not found:
            fail("PostgreSQL is missing: apt-get install postgresql")
        self.home = found[-1].parent.parent
        self.version = self.home.name
        self.data = cache / f"pgdata-{self.version}"
        if not self.data.exists():
            self.init()

    def init(self):
        with tempfile.TemporaryDirectory() as folder:
            data = Path(folder) / "data"
            command = [str(self.home / "bin/initdb"), "-D", str(data), "-U", "postgres", "-A", "trust", "-N", "-E", "UTF8",
                       "--no-locale"]
            if os.geteuid() == 0:
                shutil.chown(folder, "postgres")
                command = ["runuser", "-u", "postgres", "--", *command]
            if output_of(*command, cwd="/") is None:
                fail("initdb failed")
            shutil.copytree(data, self.data)

    def put_into(self, archive):
        for name in ("postgres", "pg_ctl", "psql", "pgbench"):
            Program(self.home / "bin" / name, self.home / "bin" / name).put_into(archive)
        # Compiled expressions (bitcode, llvmjit) are as large as everything else together.
        archive.tree(self.home / "lib", self.home / "lib", leave_out=lambda path: re.search("bitcode|llvmjit", str(path)))
        for library in (self.home / "lib").glob("*.so"):
            if "llvmjit" not in library.name:
                libraries_of(library, archive)
        archive.tree(f"/usr/share/postgresql/{self.version}", f"/usr/share/postgresql/{self.version}",
                     leave_out=lambda path: re.search("man|extension", str(path)))
        archive.tree("/usr/share/zoneinfo/Etc", "/usr/share/zoneinfo/Etc")
        archive.tree("var/pgdata", self.data, owner=POSTGRES_ID)

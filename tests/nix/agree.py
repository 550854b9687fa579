"""Compares what is said twice: the module's lists and the documentation, its units and packaging/, scenarios and the driver."""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent

# What the test driver gives a scenario beside its hosts.
DRIVER_NAMES = "start_all subtest retry t log floating floating6"
HOSTS = "client pooler1 pooler2 primary replica1 replica2"

# What differs between the units of packaging/ and those that the module makes, and may.
OTHER_PATHS = {"ExecStart", "ExecReload", "User", "Group", "SocketUser", "Environment", "Documentation", "LoadCredential"}
OF_PGBOUNCERS_PACKAGES = {"ReadWritePaths", "RuntimeDirectory", "LogsDirectory"}
# NixOS says these in its own words.
OF_NIXOS = {"WantedBy", "Also", "X-Reload-Triggers", "X-Restart-Triggers", "X-StopIfChanged"}
NOT_COMPARED = OTHER_PATHS | OF_PGBOUNCERS_PACKAGES | OF_NIXOS


def start_only(section):
    """The settings of a section of docs/settings.md that a running process cannot change."""
    text = (ROOT / "docs/settings.md").read_text()
    ha = text.index("## The section `[ha]`")
    part = text[ha:] if section == "ha" else text[:ha]
    names = set()
    for line in part.splitlines():
        cells = [cell.strip() for cell in line.split(" | ")]
        name = re.match(r"\| `(\w+)`", line)
        if name and len(cells) >= 6 and (cells[3] == "start" or cells[3] == "reload" and "read at start only" in line):
            names.add(name[1])
    assert len(names) > 1, f"nothing was found in docs/settings.md for [{section}]"
    return names


def listed(path):
    return set(re.findall(r'^  "(\w+)"$', (ROOT / path).read_text(), re.M))


def directives(path):
    """A unit's lines by section, without comments; a list that stands on several lines is one."""
    section, lines = "", {}
    for line in path.read_text().splitlines():
        line = line.strip()
        if line.startswith("["):
            section = line
        elif line and not line.startswith(("#", ";")):
            name, value = line.split("=", 1)
            if name not in NOT_COMPARED:
                lines.setdefault((section, name), set()).update(value.split())
    assert len(lines) > 5, f"{path} says hardly anything"
    return {key: {plain(word) for word in words} for key, words in lines.items()}


def plain(word):
    return {"true": "yes", "false": "no"}.get(word, word)


def units_agree():
    complaints = []
    for name in ["pgtandem.service", "pgtandem-helper.service", "pgtandem-helper.socket"]:
        ours, modules = directives(ROOT / "packaging" / name), directives(ROOT / "tests/nix/units" / name)
        for key in sorted(ours.keys() | modules.keys()):
            if ours.get(key) != modules.get(key):
                both = f"packaging/: {sorted(ours.get(key, []))}, module: {sorted(modules.get(key, []))}"
                complaints.append(f"{name}: {key[1]} differs. {both}")
    return complaints


def lists_agree():
    complaints = []
    for section, path in [("pgtandem", "nixos-module/start-only.nix"), ("ha", "nixos-module/start-only-ha.nix")]:
        documented, in_module = start_only(section), listed(path)
        if documented != in_module:
            complaints.append(f"{path} and docs/settings.md differ in {sorted(documented ^ in_module)}")
    return complaints


def options_are_documented():
    """Every option of the module stands on the page that is made of it."""
    page = (ROOT / "docs/nixos-options.md").read_text()
    documented = {name.split(".")[-1] for name in re.findall(r"^## `([^`]+)`", page, re.M)}
    makers = r"(?:lib\.)?(?:mkOption|mkEnableOption|mkPackageOption|secret|entries|priority)\b"
    declared = set()
    for path in (ROOT / "nixos-module").glob("*.nix"):
        text = path.read_text()
        for name, rest in re.findall(rf"^\s+(\w+) =\s+{makers}(.*?)^\s*}};", text, re.M | re.S):
            if "internal = true" not in rest:
                declared.add(name)
    assert len(declared) > 20, "hardly any option was found in nixos-module/"
    return [f"docs/nixos-options.md lacks {name}" for name in sorted(declared - documented)]


def scenarios_are_sound(pyflakes):
    scenarios = sorted(path for path in (ROOT / "vm-tests").glob("*.py") if path.name != "hosts.py")
    environment = {**os.environ, "PYFLAKES_BUILTINS": ",".join(f"{DRIVER_NAMES} {HOSTS}".split())}
    found = subprocess.run([pyflakes, *scenarios], env=environment, text=True, capture_output=True) if scenarios else None
    return found.stdout.splitlines() + found.stderr.splitlines() if found else ["there is no scenario in vm-tests"]


def main():
    complaints = lists_agree() + units_agree() + options_are_documented() + scenarios_are_sound(sys.argv[1])
    for complaint in complaints:
        print(complaint, file=sys.stderr)
    if complaints:
        sys.exit(1)
    print("module, documentation, packaging and scenarios agree")


main()

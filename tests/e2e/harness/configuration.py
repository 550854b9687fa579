"""The operators' configuration files adapted to a throwaway cluster, and short ones for single behaviours."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path


class Mapping:
    """Ordered replacements in an operator's file. Each must be needed, and nothing but them is changed."""

    def __init__(self) -> None:
        self._steps: list[tuple[str, str]] = []

    def put(self, old: str, new: str) -> Mapping:
        """Replace every `old` (whole words) by `new`."""
        self._steps.append((old, new))
        return self

    def apply(self, text: str) -> str:
        for old, new in self._steps:
            pattern = r"(?<![\w./-])" + re.escape(old) + r"(?![\w./-])"
            text, count = re.subn(pattern, lambda _: new, text)
            if count == 0:
                raise AssertionError(f"the operators' file has no {old!r} any more: adapt the mapping")
        return text


@dataclass
class Ini:
    """A short pgbouncer.ini for one behaviour."""

    databases: dict[str, str]
    settings: dict[str, object] = field(default_factory=dict)
    users: dict[str, str] = field(default_factory=dict)

    def text(self) -> str:
        lines = ["[databases]", *(f"{k} = {v}" for k, v in self.databases.items())]
        if self.users:
            lines += ["", "[users]", *(f"{k} = {v}" for k, v in self.users.items())]
        lines += ["", "[pgbouncer]", *(f"{k} = {v}" for k, v in self.settings.items()), ""]
        return "\n".join(lines)


def write_userlist(path: Path, users: dict[str, str]) -> None:
    """Write a userlist.txt."""
    quoted = (f'"{name}" "{secret}"\n'.replace("\\", "\\\\") for name, secret in users.items())
    path.write_text("".join(quoted))
    path.chmod(0o644)

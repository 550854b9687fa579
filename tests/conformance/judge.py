#!/usr/bin/env python3
"""Compares what the suite has said with the list of failures that are expected, which may only shrink.

judge.py RESULTS.xml [AGAIN.xml] [--whole]    tells the figures; fails on any difference from the list
judge.py RESULTS.xml --again                  names the tests that failed and are not on the list
"""

import argparse
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

EXPECTED = Path(__file__).with_name("expected-failures.txt")
# Fewer than these, and the suite was not there or was not collected.
TESTS_MIN = 200


def expected() -> dict[str, str]:
    """Test and reason; every line has one."""
    lines = [line for line in EXPECTED.read_text().splitlines() if line and not line.startswith("#")]
    pairs = dict(line.split("  ", 1) for line in lines)
    assert all(reason.strip() for reason in pairs.values()), "an expected failure without a reason"
    return {name: reason.strip() for name, reason in pairs.items()}


def outcomes(file: Path) -> dict[str, str]:
    """passed, failed or skipped, by file.py::name."""
    found = {}
    for case in ElementTree.parse(file).getroot().iter("testcase"):
        module = case.get("classname", "").split(".")[-1]
        kinds = {child.tag for child in case}
        outcome = "failed" if kinds & {"failure", "error"} else "skipped" if "skipped" in kinds else "passed"
        name = f"{module}.py::{case.get('name')}"
        # An error while tearing down is a second entry of a test that passed.
        if found.get(name) != "failed":
            found[name] = outcome
    return found


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("results", type=Path, nargs="+")
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--whole", action="store_true")
    arguments = parser.parse_args()
    listed = expected()
    found = outcomes(arguments.results[0])
    if arguments.again:
        print(*(name for name, outcome in found.items() if outcome == "failed" and name not in listed), sep="\n", end="")
        return 0
    second = {name: outcome for file in arguments.results[1:] for name, outcome in outcomes(file).items()}
    late = [name for name, outcome in second.items() if outcome == "passed" and found.get(name) == "failed"]
    found.update(dict.fromkeys(late, "passed"))
    count = {word: sum(outcome == word for outcome in found.values()) for word in ("passed", "failed", "skipped")}
    print(f"{count['passed']} of {len(found)} passed, {count['failed']} failed, {count['skipped']} skipped; "
          f"{len(late)} passed only when alone; {len(listed)} failures are expected")
    wrong = [f"failed: {name}" for name, outcome in found.items() if outcome == "failed" and name not in listed]
    wrong += [f"passed, take it off {EXPECTED.name}: {name}" for name in listed if found.get(name) == "passed"]
    if arguments.whole:
        wrong += [f"is not in the suite, take it off {EXPECTED.name}: {name}" for name in listed if name not in found]
        if len(found) < TESTS_MIN:
            wrong.append(f"only {len(found)} tests: the suite is not whole")
    print(*wrong, sep="\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""Prints what the tests printed that failed, shortened so that the end of a kept log holds all of it:
failed_tests.py NAME=RESULTS[,AGAIN]...

RESULTS and AGAIN are what ctest --output-junit has written, AGAIN when the failed ones were run once more. A file that is
not there is of tests that were not run."""

import pathlib
import re
import sys
import xml.etree.ElementTree as xml

LINES = 120  # in all, of a log of which CI keeps the last 150
NAMES = 60  # at most
FEWEST = 12  # of what a test printed
_SANITIZER = re.compile(r"WARNING: ThreadSanitizer|ERROR: (Address|Leak)Sanitizer|: runtime error: |^==\d+== ?ERROR: libFuzzer")


def results(file):
    """The tests of a file that ran, by name: whether each failed, and the lines that it printed."""
    if not file or not pathlib.Path(file).is_file():
        return {}
    tests = {}
    for case in xml.parse(file).iter("testcase"):
        missing = any(skipped.get("message", "").startswith("Unable to find") for skipped in case.iter("skipped"))  # its program
        tests[case.get("name")] = (missing or case.get("status") == "fail", (case.findtext("system-out") or "").splitlines())
    return tests


def excerpt(lines, most):
    """What says the most in so many lines: a sanitizer's report from its beginning, else the end."""
    begin = next((at for at, line in enumerate(lines) if _SANITIZER.search(line)), None)
    if len(lines) <= most:
        return lines
    if begin is None or len(lines) - begin <= most:
        return [f"... ({len(lines) - most} lines)"] + lines[len(lines) - most:]
    return lines[begin:begin + most] + [f"... ({len(lines) - begin - most} lines)"]


def verdict(name, again):
    if name not in again:
        return ""
    return ", and once more when run alone" if again[name][0] else "; run once more, alone, it passed"


def report(runs):
    """`runs`: name and results of each run, first and again. Lines."""
    failed = [(f"---- {name} failed ({run}){verdict(name, again)}", lines)
              for run, first, again in runs for name, (bad, lines) in first.items() if bad]
    named = failed[:NAMES]
    left = LINES - len(named)
    shown = min(len(named), left // FEWEST)
    told = []
    for heading, lines in named[:shown]:
        told += [f"{heading}:", *excerpt(lines, left // shown - 1)]
    told += [heading for heading, _ in named[shown:]]
    if len(failed) > len(named):
        told.append(f"---- and {len(failed) - len(named)} more")
    return told


def main():
    runs = []
    for argument in sys.argv[1:]:
        name, _, files = argument.partition("=")
        first, _, again = files.partition(",")
        runs.append((name, results(first), results(again)))
    print("\n".join(report(runs)))


if __name__ == "__main__":
    main()

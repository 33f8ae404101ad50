#!/usr/bin/env python3
"""Prints the test program that a source file is compiled into: test_of.py build-debug/compile_commands.json tests/pipeline/models/mmdit_test.cc"""

import json
import pathlib
import re
import sys


def test_of(database, file):
    """The target, or None where the file is part of no test program."""
    wanted = pathlib.Path(file).resolve()
    for entry in json.loads(pathlib.Path(database).read_text(encoding="utf-8")):
        if (pathlib.Path(entry["directory"]) / entry["file"]).resolve() == wanted:
            target = re.search(r"CMakeFiles/([^/\s]+_test)\.dir/", entry.get("output", entry["command"]))
            if target:
                return target[1]
    return None


def main():
    database, file = sys.argv[1:]
    target = test_of(database, file)
    if target is None:
        sys.exit(f"{file} is part of no test program: open one of tests/**/*_test.cc (a new one needs its line in CMakeLists.txt)")
    print(target)


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Runs clang over the translation units of a compile_commands.json that gcc is built with.

  clang_check.py thread-safety build/compile_commands.json -j 2     -Wthread-safety, errors on; files without ATen
  clang_check.py tidy build/compile_commands.json -j 2 [REGEX]      clang-tidy with .clang-tidy; all files, or those that match
"""

import argparse
import concurrent.futures
import json
import os
import re
import shlex
import shutil
import subprocess
import sys


def project_units(database, root):
    """The project's own units: (source, compile arguments). Generated code is left out."""
    seen = set()
    for entry in json.load(open(database)):
        source = os.path.realpath(os.path.join(entry["directory"], entry["file"]))
        inside = source.startswith(root + os.sep) and not os.path.relpath(source, root).startswith(("build", ".deps"))
        if inside and source.endswith(".cc") and source not in seen:
            seen.add(source)
            yield source, entry["directory"], shlex.split(entry["command"])


def clang_arguments(command):
    """gcc's arguments, less the launcher, the output and what clang does not know (nor has it OpenMP's header)."""
    arguments = command[1:]
    if os.path.basename(command[0]) == "ccache":
        arguments = command[2:]
    kept, skip = [], False
    for argument in arguments:
        if skip:
            skip = False
        elif argument == "-o":
            skip = True
        elif argument not in ("-c", "-fopenmp", "-femit-class-debug-always"):
            kept.append(argument)
    return kept[:-1] + ["-Wno-unknown-warning-option"]


def sees_torch(command):
    return any("/site-packages/torch/include" in argument or argument.endswith("/torch/include") for argument in command)


def tool(name):
    found = shutil.which(name) or next((p for v in range(20, 13, -1) if (p := shutil.which(f"{name}-{v}"))), None)
    return found or sys.exit(f"{name} is missing: ./dev analyze installs it")


def check(job):
    source, directory, command = job
    result = subprocess.run(command, cwd=directory, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    return source, result.returncode, result.stdout


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mode", choices=["thread-safety", "tidy"])
    parser.add_argument("database")
    parser.add_argument("only", nargs="?", default="")
    parser.add_argument("-j", type=int, default=os.cpu_count())
    options = parser.parse_intermixed_args()  # REGEX may stand behind -j

    root = os.getcwd()
    jobs = []
    for source, directory, command in project_units(options.database, os.path.realpath(root)):
        if not re.search(options.only, os.path.relpath(source, root)):
            continue
        arguments = clang_arguments(command)
        if options.mode == "tidy":
            jobs.append((source, directory, [tool("clang-tidy"), "--quiet", "--warnings-as-errors=*", source, "--"] + arguments))
        elif not sees_torch(command):
            flags = ["-fsyntax-only", "-Wthread-safety", "-Wthread-safety-beta", "-Werror=thread-safety", "-Werror=thread-safety-beta"]
            jobs.append((source, directory, [tool("clang++")] + arguments + flags + [source]))
    if not jobs:
        sys.exit(f"no file to check in {options.database}")

    failed = 0
    with concurrent.futures.ThreadPoolExecutor(options.j) as pool:
        for done, (source, code, output) in enumerate(pool.map(check, jobs), 1):
            name = os.path.relpath(source, root)
            print(f"[{done}/{len(jobs)}] {name}{'' if code == 0 else ': FAILED'}", flush=True)
            if code != 0:
                failed += 1
                print(output, flush=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()

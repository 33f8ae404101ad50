#!/usr/bin/env python3
"""Checks the protos: how they are written, and that no caller is broken by them.

  lint.py                    both, against proto/landed.txtpb: the protos of the last landed commit
  lint.py --against REF      the same, against the protos of a git commit
  lint.py --accept           takes today's protos for the landed ones; refuses what breaks a caller
  lint.py --accept --breaking  takes them all the same

The rules are buf's (https://buf.build/docs/lint/rules, .../breaking/rules), by their names there; exceptions, each with its reason,
are in proto/lint.toml. Needs grpcio-tools and googleapis-common-protos (.deps/venv/bin/python has them after ./dev test).
Exit codes: 0 nothing found, 1 something, 2 wrong usage or no protos to be had.
"""

import argparse
import dataclasses
import pathlib
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable

import google.api.annotations_pb2  # noqa: F401 (text form names its option)
from google.protobuf import descriptor_pb2, text_format

import breaking
import descriptors
import style
from findings import Finding

HEADER = "# The protos of the last landed commit, for proto/tools/lint.py, which writes this file: lint.py --accept.\n"


@dataclasses.dataclass(frozen=True)
class Rules:
    """proto/lint.toml."""

    exceptions: dict[tuple[str, str], str]  # (rule, element): why
    planned: dict[str, breaking.Planned]

    @staticmethod
    def read(path: pathlib.Path) -> "Rules":
        table = tomllib.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        exceptions = {}
        for rule, elements in table.get("exceptions", {}).items():
            if rule not in style.RULES:
                raise ValueError(f"{path}: there is no rule {rule}")
            for element, reason in elements.items():
                if not reason.strip():
                    raise ValueError(f"{path}: {rule}: {element}: why?")
                exceptions[rule, element] = reason
        planned = {message: breaking.Planned(frozenset(range(entry["first"], entry["last"] + 1)), frozenset(entry.get("names", ())))
                   for message, entry in table.get("planned", {}).items()}
        return Rules(exceptions, planned)


def check_style(files: Iterable[descriptor_pb2.FileDescriptorProto], rules: Rules) -> list[Finding]:
    """What is found less what is excepted; an exception that excepts nothing is found too."""
    found = style.check_files(files)
    used = {(finding.rule, finding.element) for finding in found}
    stale = [Finding(rule, element, "proto/lint.toml", "this exception excepts nothing")
             for rule, element in rules.exceptions if (rule, element) not in used]
    return [finding for finding in found if (finding.rule, finding.element) not in rules.exceptions] + stale


def to_text(files: Iterable[descriptor_pb2.FileDescriptorProto]) -> str:
    """Without comments, which break nobody."""
    kept = descriptor_pb2.FileDescriptorSet(file=files)
    for file in kept.file:
        file.ClearField("source_code_info")
    return HEADER + text_format.MessageToString(kept, use_short_repeated_primitives=True)


def from_text(text: str) -> list[descriptor_pb2.FileDescriptorProto]:
    return list(text_format.Parse(text, descriptor_pb2.FileDescriptorSet()).file)


def of_commit(reference: str, root: pathlib.Path) -> list[descriptor_pb2.FileDescriptorProto]:
    """The protos as they were in a commit of the repository that `root` is in."""
    git = ["git", "-C", str(root)]
    names = subprocess.run([*git, "ls-tree", "-r", "--name-only", reference, "--", "."], check=True, capture_output=True, text=True)
    with tempfile.TemporaryDirectory() as folder:
        for name in names.stdout.splitlines():
            if name.endswith(".proto"):
                path = pathlib.Path(folder) / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(subprocess.run([*git, "show", f"{reference}:./{name}"], check=True, capture_output=True).stdout)
        return descriptors.own_files(descriptors.compile_protos(pathlib.Path(folder)), pathlib.Path(folder))


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=pathlib.Path, default=descriptors.ROOT, help=argparse.SUPPRESS)
    parser.add_argument("--against", metavar="REF", help="a git commit")
    parser.add_argument("--accept", action="store_true", help="take today's protos for the landed ones")
    parser.add_argument("--breaking", action="store_true", help="with --accept: whatever they break")
    options = parser.parse_args(arguments)
    landed = options.root / "landed.txtpb"
    try:
        rules = Rules.read(options.root / "lint.toml")
        files = descriptors.own_files(descriptors.compile_protos(options.root), options.root)
        if options.against:
            before = of_commit(options.against, options.root)
        else:
            before = from_text(landed.read_text(encoding="utf-8")) if landed.exists() else []
    except (descriptors.CompileError, ValueError, text_format.ParseError) as error:
        print(f"lint.py: {error}", file=sys.stderr)
        return 2
    except subprocess.CalledProcessError as error:
        print(f"lint.py: git: {error.stderr if isinstance(error.stderr, str) else error.stderr.decode()}", file=sys.stderr)
        return 2
    broken = breaking.compare(before, files, rules.planned)
    if options.accept:
        return accept(files, [] if options.breaking else broken, landed)
    found = check_style(files, rules) + broken
    if not options.against and not found and before != from_text(to_text(files)):
        found = [Finding("LANDED", landed.name, str(landed), "is not of these protos; once they are as they shall be: proto/tools/lint.py --accept")]
    for finding in found:
        print(finding)
    if not found:
        print(f"{len(files)} protos, {len(style.RULES)} rules, {len(rules.exceptions)} exceptions; nothing that breaks a caller")
    return 1 if found else 0


def accept(files: list[descriptor_pb2.FileDescriptorProto], broken: list[Finding], landed: pathlib.Path) -> int:
    for finding in broken:
        print(finding)
    if broken:
        print("lint.py: not accepted: this breaks callers. Reserve what is gone, or give the new a number of its own; --breaking if it must be.")
        return 1
    landed.write_text(to_text(files), encoding="utf-8")
    print(f"{landed}: written")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

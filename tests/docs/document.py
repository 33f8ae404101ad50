"""A document's commands, and what it shows of their outputs."""

import dataclasses
import re

NUMBER = re.compile(r"[-+]?\d[\d.,]*(?:e[-+]?\d+)?")
ELLIPSIS = "…"


@dataclasses.dataclass
class Block:
    """A fenced block: `language` "bash" has commands, "text" what the commands before it print, "gdb" what is typed there."""

    language: str
    text: str
    line: int


def blocks(path):
    """Every fenced block of the document, in order."""
    found, current = [], None
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if not line.startswith("```"):
            if current:
                current.text += line + "\n"
        elif current:
            found.append(current)
            current = None
        else:
            current = Block(line[3:].strip(), "", number + 1)
    assert current is None, f"{path}: a block does not end"
    return found


def comparable(line):
    """Without what differs from machine to machine and run to run: numbers, what is high in, and how many spaces make a column."""
    return re.sub(r"\s+", " ", NUMBER.sub("#", line.replace("bfloat", "float"))).strip()


def lines_not_printed(shown, printed):
    """Of what a document shows, the first line that the output lacks from there on, as a list of one; empty where it has all.

    A line that is "…" stands for any number of lines; "…" at a line's end for the rest of it.
    """
    rest = iter([comparable(line) for line in printed.splitlines()])
    for line in shown.splitlines():
        wanted = comparable(line)
        if wanted in ("", ELLIPSIS):
            continue
        if wanted.endswith(ELLIPSIS):
            found = any(have.startswith(wanted[: -len(ELLIPSIS)].strip()) for have in rest)
        else:
            found = wanted in rest
        if not found:
            return [line]
    return []

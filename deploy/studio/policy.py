#!/usr/bin/env python3
"""Writes into index.html's Content-Security-Policy the hashes of its one style and its one script, by which alone they are let run.

  policy.py            after every change of the page
  policy.py --check    fails if that was forgotten
"""

import base64
import hashlib
import pathlib
import re
import sys

PAGE = pathlib.Path(__file__).resolve().parent / "index.html"


def source_of(page, tag):
    """The policy's source expression for the one element of that tag; what lies between its tags counts, to the byte."""
    contents = re.findall(rf"<{tag}>(.*?)</{tag}>", page, flags=re.DOTALL)
    if len(contents) != 1:
        sys.exit(f"index.html: expected one <{tag}>, found {len(contents)}")
    return "'sha256-" + base64.b64encode(hashlib.sha256(contents[0].encode()).digest()).decode() + "'"


def stamped(page):
    for tag in ("script", "style"):
        page, count = re.subn(rf"{tag}-src '[^']*'", lambda _, tag=tag, source=source_of(page, tag): f"{tag}-src {source}", page, count=1)
        if count != 1:
            sys.exit(f"index.html: its policy has no {tag}-src")
    return page


def main():
    page = PAGE.read_text(encoding="utf-8")
    if sys.argv[1:] == ["--check"]:
        if stamped(page) != page:
            sys.exit("index.html was changed: run deploy/studio/policy.py")
    elif sys.argv[1:]:
        sys.exit(__doc__)
    else:
        PAGE.write_text(stamped(page), encoding="utf-8")


if __name__ == "__main__":
    main()

"""Loads Fresco's printers and commands into gdb: `gdb -ix cmake/gdb/load.py PROGRAM`, or `source` within gdb (README.md)."""

import os
import sys

import gdb

_folder = os.path.dirname(os.path.realpath(__file__))
if _folder not in sys.path:
    sys.path.insert(0, _folder)

import fresco_gdb  # noqa: E402 (found through the line above)

fresco_gdb.register()
# Who sources this file trusts the tree that it is in: gdb need not refuse the same file beside a program (PROGRAM-gdb.py).
gdb.execute("add-auto-load-safe-path " + os.path.dirname(os.path.dirname(_folder)))

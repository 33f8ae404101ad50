"""docs/DEBUGGING.md, played through: every command in it is run, in its order, in a folder that looks like the checkout, and prints
what the document shows of it."""

import contextlib
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import unittest

from document import blocks, lines_not_printed

ROOT = pathlib.Path(__file__).resolve().parents[2]
DOCUMENT = ROOT / "docs" / "DEBUGGING.md"
PATIENCE_S = 300

# Commands that stand for others here: what they would do has been done for these tests already (./dev build), or takes a
# build of its own (./dev debug: a program whose files of interest are built for the debugger stands in). Servers listen on
# ports that are free.
FUNCTIONS = """
set -euo pipefail
dev_debug() {
  local program=$1
  shift
  gdb -q -batch -iex "set debuginfod enabled off" -ix cmake/gdb/load.py -x "$GDB_SCRIPT" --args "$FRESCO_TESTS/gdb_${program/-/_}" "$@" </dev/null
}
"""


def as_run(command, address):
    return (command.replace("./dev debug ", "dev_debug ").replace("./dev build", "true")
            .replace("build/bin/fresco-server ", f"build/bin/fresco-server --address {address} --metrics-address 127.0.0.1:0 "))


def free_address():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return f"127.0.0.1:{listening.getsockname()[1]}"


class Checkout:
    """A folder with all that the checkout has, but for out/, which is its own, and build/, which is the one that is tested."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        for entry in ROOT.iterdir():
            if entry.name not in ("build", "out", ".git"):
                (self.folder / entry.name).symlink_to(entry)
        (self.folder / "build").mkdir()
        (self.folder / "build" / "bin").symlink_to(os.environ["FRESCO_BIN"])

    def run(self, commands, gdb=""):
        """Returns what they print, errors with it."""
        script = self.folder / "typed.gdb"
        script.write_text("set pagination off\n" + gdb)
        address = free_address()
        environment = {**os.environ, "GDB_SCRIPT": str(script), "FRESCO_SERVER": address, "PATH": f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}"}
        running = subprocess.Popen(["bash", "-c", FUNCTIONS + as_run(commands, address)], cwd=self.folder, env=environment, text=True,
                                   stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            printed, _ = running.communicate(timeout=PATIENCE_S)
        finally:
            # What it has left running, where a command failed before the one that ends it.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(running.pid, signal.SIGKILL)
        return running.returncode, printed


class Debugging(unittest.TestCase):
    def test_every_command_runs_and_prints_what_the_document_shows(self):
        parts = blocks(DOCUMENT)
        with tempfile.TemporaryDirectory() as folder:
            checkout = Checkout(folder)
            printed = ""
            for i, block in enumerate(parts):
                with self.subTest(line=block.line):
                    if block.language == "bash":
                        gdb = parts[i + 1].text if i + 1 < len(parts) and parts[i + 1].language == "gdb" else ""
                        code, printed = checkout.run(block.text, gdb)
                        expected = 1 if "# exit code 1" in block.text else 0
                        self.assertEqual(code, expected, printed)
                    elif block.language == "text":
                        self.assertEqual(lines_not_printed(block.text, printed), [], printed)
                    else:
                        self.assertIn(block.language, ("gdb", "jsonc", "yaml"))

    def test_the_pictures_that_it_shows_are_there(self):
        text = DOCUMENT.read_text()
        for line in text.splitlines():
            if line.startswith("!["):
                self.assertTrue((DOCUMENT.parent / line.split("](")[1].split(")")[0]).is_file(), line)


class WhatIsShown(unittest.TestCase):
    def test_numbers_and_columns_may_differ(self):
        self.assertEqual(lines_not_printed("a 1.5 dB\n…\nlast line …\n", "a    -3e-05 dB\nmore\nlast line and its rest\n"), [])

    def test_texts_and_their_order_may_not(self):
        self.assertEqual(lines_not_printed("first to fall: x\n", "first to fall: y\n"), ["first to fall: x"])
        self.assertEqual(lines_not_printed("b\na\n", "a\nb\n"), ["a"])


if __name__ == "__main__":
    unittest.main()

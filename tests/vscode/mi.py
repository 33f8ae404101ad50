"""gdb as VS Code's C/C++ extension drives it: through the machine interface (GDB/MI), the program on a terminal of its own."""

import collections
import os
import pty
import re
import subprocess
import threading
import time

Stop = collections.namedtuple("Stop", "reason text")


class GdbError(AssertionError):
    """A command that gdb refuses, or an answer that does not come; with what gdb has said."""


def quoted(text):
    """A C string, as MI's commands take their arguments."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


class Gdb:
    """A session. Used in a with: gdb, and the program that it has started, are gone at the end."""

    def __init__(self, cwd):
        self.process = subprocess.Popen(["gdb", "-nx", "--quiet", "--interpreter=mi2"], cwd=cwd, text=True, bufsize=1,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self.lines = []
        self.changed = threading.Condition()
        self.reader = threading.Thread(target=self._read)
        self.reader.start()
        self.stopped_at = 0  # how many lines had come when the last stop was taken
        self.program_output = []
        self.terminal, self.slave = pty.openpty()
        self.terminal_reader = threading.Thread(target=self._read_terminal)
        self.terminal_reader.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            try:
                self.process.stdin.write("-gdb-exit\n")
                self.process.wait(timeout=30)
            except (OSError, subprocess.TimeoutExpired):
                self.process.kill()
                self.process.wait()
        self.reader.join()
        self.process.stdin.close()
        self.process.stdout.close()
        self.drain()
        os.close(self.terminal)

    def drain(self):
        """Once the program has ended: all that it has printed is in output()."""
        if self.slave is not None:
            os.close(self.slave)
            self.slave = None
        self.terminal_reader.join()

    def _read(self):
        for line in self.process.stdout:
            with self.changed:
                self.lines.append(line.rstrip("\n"))
                self.changed.notify_all()
        with self.changed:
            self.lines.append("(gdb has ended)")
            self.changed.notify_all()

    def _read_terminal(self):
        while True:
            try:
                data = os.read(self.terminal, 4096)
            except OSError:  # the last writer is gone
                return
            self.program_output.append(data)

    def output(self):
        """What the program has printed, less its colours."""
        return re.sub(r"\x1b\[[0-9;]*[mK]", "", b"".join(self.program_output).decode(errors="replace"))

    def _await(self, begin, pattern, seconds):
        """The first line from `begin` on that matches, and its place."""
        until = time.monotonic() + seconds
        with self.changed:
            place = begin
            while True:
                while place < len(self.lines):
                    if re.match(pattern, self.lines[place]):
                        return place, self.lines[place]
                    if self.lines[place] == "(gdb has ended)":
                        raise GdbError(f"gdb has ended before {pattern}:\n{self.said()}")
                    place += 1
                if not self.changed.wait(timeout=until - time.monotonic()):
                    raise GdbError(f"gdb has not said {pattern} within {seconds} s:\n{self.said()}")

    def said(self):
        return "\n".join(self.lines[-40:]) + "\nthe program:\n" + self.output()[-2000:]

    def command(self, text, seconds=120):
        """Gives a command, of MI or of gdb's own; returns what gdb says to it. GdbError where gdb refuses."""
        with self.changed:
            begin = len(self.lines)
        self.process.stdin.write(text + "\n")
        place, line = self._await(begin, r"\^(done|running|error|exit)", seconds)
        if line.startswith("^error"):
            raise GdbError(f"{text}: {line}")
        return "\n".join(self.lines[begin:place + 1])

    def run(self, seconds=300, command="-exec-run"):
        """Starts the program, or goes on with it, until it stops or ends."""
        self.stopped_at = len(self.lines)
        self.command(command)
        return self.await_stop(seconds)

    def await_stop(self, seconds=300):
        place, line = self._await(self.stopped_at, r"\*stopped", seconds)
        self.stopped_at = place + 1
        return Stop(re.search(r'reason="([^"]*)"', line)[1] if "reason=" in line else "", line)

    def inferior_pid(self):
        return int(re.search(r'^=thread-group-started,id="i1",pid="(\d+)"', "\n".join(self.lines), flags=re.MULTILINE)[1])


def tracing_is_refused():
    """Why gdb cannot debug on this machine; empty where it can."""
    result = subprocess.run(["gdb", "-nx", "-batch", "-ex", "run", "--args", "/bin/true"], check=False, timeout=60, stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, text=True)
    return "" if "exited normally" in result.stdout else result.stdout.strip()

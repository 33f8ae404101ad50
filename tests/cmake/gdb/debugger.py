"""gdb in batch mode, for the tests beside this file."""

import os
import re
import subprocess

PROGRAM = os.environ["FRESCO_DEBUGGEE"]
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
_SKIPPED = 77  # ctest's code for it
_MARK = "fresco-test-answer"
# Said of objects that were made by files without debug information: here all but the program's own.
_RTTI = re.compile(r"warning: RTTI symbol not found for class '[^']*'\n")


def skip_where_not_permitted():
    """Ends the test, with the reason, on a machine whose gdb may not run programs (a container without ptrace)."""
    try:
        tried = subprocess.run(["gdb", "-nx", "-batch", "-ex", "run", "/bin/true"], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        _skip("gdb is not installed (./dev test installs it)")
    if "exited normally" not in tried.stdout:
        _skip("gdb may not run programs here: " + (tried.stderr.strip().splitlines() or ["no reason given"])[-1])


def _skip(reason):
    print("skipped: " + reason, flush=True)
    os._exit(_SKIPPED)  # from within unittest, which takes other ends for failures


class Gdb:
    """One run of gdb: `commands` up to the place to look from, then each of `questions`, whose answers are told apart."""

    def __init__(self, commands, questions, arguments=(), options=(), cwd=None):
        asked = []
        for question in questions:
            asked += ["-ex", "echo \\n%s\\n" % _MARK, "-ex", question]
        # The printers come as they come to a user who trusts this tree: by PROGRAM-gdb.py.
        trust = ["-iex", "add-auto-load-safe-path " + os.path.dirname(PROGRAM), "-iex", "add-auto-load-safe-path " + ROOT]
        before = [word for command in commands for word in ("-ex", command)]
        ran = subprocess.run(
            ["gdb", "-nx", "-batch", *trust, "-iex", "set debuginfod enabled off", "-ex", "set confirm off", "-ex", "set width 0",
             *options, *before, *asked, *(arguments and ["--args", PROGRAM, *arguments] or [PROGRAM])],
            # Errors of commands go where their answers do.
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, timeout=240, cwd=cwd)
        self.output = _RTTI.sub("", ran.stdout)
        self.answers = dict(zip(questions, self.output.split("\n" + _MARK + "\n")[1:]))

    def __getitem__(self, question):
        try:
            return self.answers[question].strip()
        except KeyError:
            raise AssertionError("gdb did not come to '%s':\n%s" % (question, self.output[-4000:])) from None


def machine_interface(commands, cwd):
    """What gdb answers to a program that talks to it, as IDEs do."""
    ran = subprocess.run(["gdb", "-nx", "-q", "-i=mi", "-iex", "set debuginfod enabled off", PROGRAM], input="\n".join(commands) + "\n",
                         stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, timeout=240, cwd=cwd)
    return ran.stdout


def value(answer):
    """Of `print`: without "$1 = "."""
    return re.sub(r"^\$\d+ = ", "", answer)

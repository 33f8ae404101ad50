"""Where ./dev may be run by a test: a workspace in which the programs that install, configure and build only write down how they were called.
./dev itself, and the shell that VS Code starts it by, are the real ones."""

import contextlib
import json
import os
import pathlib
import re
import shlex
import subprocess

import workspace

# Called by name. What installs, what builds, and what would start ./dev's long work.
_BY_NAME = ("apt-get", "sudo", "cmake", "ctest", "nvidia-smi")
# Called by path, below the workspace.
_BY_PATH = (".deps/venv/bin/python", ".deps/reference/bin/python", ".deps/reference/bin/pip", ".deps/format/bin/clang-format",
            ".deps/format/bin/python", ".deps/prometheus/usr/bin/prometheus", "bench/run.sh")

_RECORDER = """#!/bin/bash
for word in {name} "$@"; do printf '%s\\0' "$word"; done | flock {log} sh -c 'cat >> {log}; printf "\\n" >> {log}'
exit {code}
"""


class Sandbox:
    """Made by sandbox(). `folder` is the workspace."""

    def __init__(self, folder):
        self.folder = folder
        self.log = folder / "calls"
        self.log.touch()
        self.stubs = folder / "stubs"
        self.stubs.mkdir()
        for name in _BY_NAME:
            self._record(self.stubs / name, name, code=1 if name == "nvidia-smi" else 0)
        for name in _BY_PATH:
            self._replace(name)
            self._record(folder / name, name)
        # Python's own scripts of the repository: those that look at every file are written down, the rest is run.
        wrapper = self.stubs / "python3"
        wrapper.write_text(_RECORDER.format(name="python3", log=shlex.quote(str(self.log)), code=0).replace(
            "#!/bin/bash\n", "#!/bin/bash\n[[ ${1:-} == cmake/clang_check.py ]] || exec /usr/bin/python3 \"$@\"\n"), encoding="utf-8")
        wrapper.chmod(0o755)

    def _record(self, path, name, code=0):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(_RECORDER.format(name=shlex.quote(name), log=shlex.quote(str(self.log)), code=code), encoding="utf-8")
        path.chmod(0o755)

    def _replace(self, name):
        """A link to a folder of the repository on the way to the file becomes a folder with links."""
        at = self.folder
        for part in pathlib.PurePosixPath(name).parent.parts:
            at = at / part
            if at.is_symlink():
                real = at.resolve()
                at.unlink()
                at.mkdir()
                for entry in real.iterdir():
                    (at / entry.name).symlink_to(entry)
        (self.folder / name).unlink(missing_ok=True)

    def put(self, name, text):
        """A program or file of the test's own in the place of the repository's."""
        self._replace(name)
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        path.chmod(0o755)

    def command(self, line):
        """How VS Code runs a task's line, and the Dev Containers' extension a lifecycle command: by a shell, in the workspace."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("FRESCO_")}
        environment |= {"PATH": f"{self.stubs}:{os.environ['PATH']}", "FRESCO_JOBS": "2", "FRESCO_CUDA": "OFF"}
        return {"args": ["/bin/bash", "-c", line], "cwd": self.folder, "env": environment}

    def run(self, line, seconds=120):
        """The exit code and what was printed."""
        result = subprocess.run(**self.command(line), check=False, timeout=seconds, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                stderr=subprocess.STDOUT, text=True)
        return result.returncode, result.stdout

    def calls(self):
        """How each program was called, in order: lists of words."""
        return [line.split("\0")[:-1] for line in self.log.read_text(encoding="utf-8").splitlines()]

    def called(self, pattern):
        """Those calls that, as one line, the pattern finds."""
        return [call for call in self.calls() if re.search(pattern, shlex.join(call))]


@contextlib.contextmanager
def sandbox():
    with workspace.workspace() as folder:
        (folder / ".git").symlink_to(workspace.ROOT / ".git")  # ./dev asks git for the sources
        # What a build leaves, for what comes after it.
        for build in ("build", "build-debug"):
            text = (workspace.BUILD / "compile_commands.json").read_text(encoding="utf-8")
            entries = json.loads(text)
            for entry in entries:
                file = pathlib.Path(entry["directory"], entry["file"])
                if file.is_relative_to(workspace.ROOT):
                    entry["file"] = str(folder / file.relative_to(workspace.ROOT))
            (folder / build / "compile_commands.json").write_text(json.dumps(entries), encoding="utf-8")
        yield Sandbox(folder)

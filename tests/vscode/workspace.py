""".vscode as VS Code reads it: JSON with comments, variables, inputs. And a folder that stands in for the workspace, so that programs started
by a configuration find what they would find, and write where nobody else does."""

import contextlib
import json
import os
import pathlib
import re
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
BIN = pathlib.Path(os.environ.get("FRESCO_BIN", ROOT / "build" / "bin"))
BUILD = BIN.parent

_COMMENT = re.compile(r'("(?:\\.|[^"\\\n])*")|//[^\n]*|/\*.*?\*/', flags=re.DOTALL)


def _unique(pairs):
    """json takes the last of two equal keys without a word."""
    result = dict(pairs)
    if len(result) != len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"twice in one object: {sorted({key for key in keys if keys.count(key) > 1})}")
    return result


def load(path):
    """A file of JSON with comments. Trailing commas, which not every reader takes, are errors."""
    text = (ROOT / path).read_text(encoding="utf-8")
    try:
        return json.loads(_COMMENT.sub(lambda match: match[1] or " ", text), object_pairs_hook=_unique)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def defaults(document):
    """What the inputs of launch.json or tasks.json are when somebody only presses Enter."""
    return {item["id"]: item["default"] for item in document.get("inputs", [])}


class Variables:
    """${workspaceFolder}, ${file}, ${input:…}, ${command:…}. An unknown one is an error, as it is in VS Code."""

    def __init__(self, workspace, inputs=None, file=None, commands=None):
        self.values = {"workspaceFolder": str(workspace)}
        self.values |= {f"input:{name}": value for name, value in (inputs or {}).items()}
        self.values |= {f"command:{name}": value for name, value in (commands or {}).items()}
        if file is not None:
            self.values["file"] = str(file)
        self.used = set()

    def resolve(self, value):
        """The value, which may be of any depth, with all of its variables replaced."""
        if isinstance(value, dict):
            return {key: self.resolve(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self.resolve(item) for item in value]
        if not isinstance(value, str):
            return value
        return re.sub(r"\$\{([^}]*)\}", self._value, value)

    def _value(self, match):
        self.used.add(match[1])
        return self.values[match[1]]


@contextlib.contextmanager
def workspace():
    """A folder with links to all that the repository holds, less what is built and drawn: its build-debug/bin is the tests' own build's,
    as that of a debug build, which would take many minutes, would be of the same programs."""
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        for entry in ROOT.iterdir():
            if entry.name != "out" and not entry.name.startswith("build") and entry.name not in (".git", ".deps"):
                (folder / entry.name).symlink_to(entry)
        for build in ("build", "build-debug"):
            (folder / build / "tests").mkdir(parents=True)
            (folder / build / "bin").symlink_to(BIN)
        yield folder

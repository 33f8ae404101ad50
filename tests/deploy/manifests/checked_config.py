"""Whether fresco-server accepts a configuration that is written for another place: a container, a machine with a service."""

import os
import pathlib
import re
import subprocess
import tempfile

import yaml

ROOT = pathlib.Path(__file__).resolve().parents[3]
BIN = pathlib.Path(os.environ.get("FRESCO_BIN", ROOT / "build" / "bin"))


def absolute_paths(config):
    """Every absolute path that a configuration names."""
    if isinstance(config, dict):
        return [path for value in config.values() for path in absolute_paths(value)]
    if isinstance(config, list):
        return [path for value in config for path in absolute_paths(value)]
    return [config] if isinstance(config, str) and config.startswith("/") else []


def complaints(text):
    """What `fresco-server --check-config` says is wrong with a configuration; empty: nothing. Paths that it names are taken to be there."""
    with tempfile.TemporaryDirectory() as folder:
        for path in absolute_paths(yaml.safe_load(text)):
            there = pathlib.Path(folder + path)
            there.parent.mkdir(parents=True, exist_ok=True)
            there.touch()
            # Not where another path goes on, or a longer name.
            text = re.sub(r"(?<![\w/.-])" + re.escape(path) + r"(?![\w/.-])", str(there), text)
        file = pathlib.Path(folder) / "fresco.yaml"
        file.write_text(text, encoding="utf-8")
        result = subprocess.run([BIN / "fresco-server", "--check-config", "--config", file], cwd=folder, timeout=60, check=False,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        return "" if result.returncode == 0 else result.stderr.replace(folder, "") or f"exit code {result.returncode}"


def seconds(duration):
    """Of "2m", "1m30s", "500ms", or a number of seconds."""
    if isinstance(duration, (int, float)):
        return float(duration)
    units = {"h": 3600, "m": 60, "s": 1, "ms": 0.001}
    parts = re.findall(r"([\d.]+)(ms|h|m|s)", duration)
    if "".join(number + unit for number, unit in parts) != duration:
        raise ValueError(f"no duration: {duration}")
    return sum(float(number) * units[unit] for number, unit in parts)

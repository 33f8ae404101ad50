"""The package as a user gets it: built and installed, outside the source tree. Importing this makes `import fresco` find it."""

import atexit
import pathlib
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[3]
SOURCE = ROOT / "client" / "python"


def install(target):
    """Builds the package, stubs and all, and installs it into a folder. Needs no network: what it needs is installed here."""
    command = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--no-index", "--no-deps", "--no-build-isolation",
               "--quiet", "--target", target, SOURCE]
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if result.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command))}\n{result.stdout}")


FOLDER = pathlib.Path(tempfile.mkdtemp())
atexit.register(shutil.rmtree, FOLDER, ignore_errors=True)
install(FOLDER)
sys.path.insert(0, str(FOLDER))

"""fresco.v1's Python stubs, made for this process, as client/python/make_stubs.sh makes them for everybody."""

import atexit
import os
import shutil
import subprocess
import sys
import tempfile

from edge import ROOT


def _make():
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    subprocess.run([ROOT / "client/python/make_stubs.sh", folder], check=True, env={**os.environ, "PYTHON": sys.executable})
    sys.path.insert(0, folder)


_make()

from fresco.v1 import image_generation_pb2 as pb  # noqa: E402,F401
from fresco.v1 import image_generation_pb2_grpc as rpc  # noqa: E402,F401

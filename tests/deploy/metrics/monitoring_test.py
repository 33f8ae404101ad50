"""What an operator sees of a real server that has drawn: every query of the dashboard and every rule by the real Prometheus, the list
of metrics in docs/CONFIGURATION.md, and the log's line of a request."""

import json
import math
import pathlib
import re
import sys
import tempfile
import time
import unittest
import urllib.request

import dashboard
from prometheus import ROOT, promtool, running_prometheus, wait_for

sys.path.insert(0, str(ROOT / "tests" / "end_to_end"))
from service import running_service  # noqa: E402

# Two models, so that quantised activations are there too; a budget; and callers say whose they are.
CONFIGURATION = """
models:
  - {name: demo, path: %(root)s/models/demo}
  - {name: eighth, path: %(root)s/models/demo, precision: int8}
scheduler: {tenant_header: true}
compute: {memory_budget: {cpu: 8GiB}}
log: {format: json}
"""

# Metrics that this server does not have, and why; tests/end_to_end/memory_budget_test.py asks for those of a budget.
ELSEWHERE = {
    "fresco_tls_certificate_expiry_timestamp_seconds": "it has no certificate",
    **dict.fromkeys(
        ["fresco_memory_budget_bytes", "fresco_component_loads_total", "fresco_component_loaded_bytes_total", "fresco_component_load_seconds_total"],
        "it has no memory.budget",
    ),
}


def scraped(address):
    """The text of the server's /metrics."""
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=60) as answer:
        return answer.read().decode()


def families(text):
    """The names that have samples, a histogram's without its endings."""
    histograms = set(re.findall(r"^# TYPE (\w+) histogram$", text, re.M))
    names = set(re.findall(r"^([a-zA-Z_:]\w*)(?:\{| )", text, re.M))
    base = {re.sub(r"_(bucket|sum|count)$", "", name) for name in names}
    return {name for name in base | names if name in histograms or (name in names and re.sub(r"_(bucket|sum|count)$", "", name) not in histograms)}


def documented():
    """The names of docs/CONFIGURATION.md's list."""
    text = (ROOT / "docs" / "CONFIGURATION.md").read_text(encoding="utf-8")
    section = text.split("\n## Metrics\n")[1].split("\n## ")[0]
    cells = re.findall(r"^\| (`.+?) \|", section, re.M)
    return {f"fresco_{name}" for cell in cells for name in re.findall(r"`(\w+)`", cell)}


class Monitoring(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.out = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory()))
        configuration = cls.out / "server.yaml"
        configuration.write_text(CONFIGURATION % {"root": ROOT})
        cls.service = cls.enterClassContext(running_service("--config", configuration))
        cls.prometheus = cls.enterClassContext(running_prometheus(cls.service.metrics_address))
        # A rate is of two scrapes: what is counted for the first time is there before the second drawing, and after it.
        for seed in (1, 2):
            cls.draw_with_both(seed)
            wait_for("Prometheus has seen the calls", lambda: cls.prometheus.value('sum(fresco_requests_total{code!="UNAVAILABLE"})') == 3 * seed)
        cls.text = scraped(cls.service.metrics_address)
        cls.settled = time.monotonic() + 30  # by then all is there that will ever be

    @classmethod
    def draw(cls, *arguments, check=True):
        return cls.service.client("generate", "--wait", 120, "--width", 64, "--height", 64, "--steps", 4, "--output", f"{cls.out}/picture.png",
                                  "--json", "--quiet", "--tenant", "studio", *arguments, check=check)

    @classmethod
    def draw_with_both(cls, seed):
        for model in ("demo", "eighth"):
            cls.draw("--model", model, "--prompt", f"an apple, {seed}", "--count", 2, "--preview-every", 2, "--seed", seed)
        refused = cls.draw("--model", "demo", "--prompt", "x", "--max-sequence-length", 100000, check=False)
        assert refused.returncode == 3, refused.stderr

    def in_time(self, expression):
        """Its samples, of which there are some."""
        return wait_for(f"data for {expression}", lambda: self.prometheus.query(expression), self.settled - time.monotonic())

    def test_every_query_of_the_dashboard_has_an_answer(self):
        board = dashboard.load()
        for title, expression in dashboard.queries(board):
            with self.subTest(f"{title}: {expression}"):
                samples = self.prometheus.query(expression)  # it parses, whether there is data or not
                if not dashboard.metrics_of(expression) & set(ELSEWHERE) and title != "Starts":
                    samples = self.in_time(expression)
                    self.assertTrue(any(math.isfinite(value) for _, value in samples), samples)

    def test_the_variables_of_the_dashboard_list_what_there_is(self):
        want = {"job": {"fresco"}, "instance": {self.service.metrics_address}, "model": {"demo", "eighth"}, "device": {"cpu"}}
        for variable in dashboard.load()["templating"]["list"]:
            if variable["type"] != "query":
                continue
            series, label = re.fullmatch(r"label_values\((.+), (\w+)\)", dashboard.filled_in(variable["definition"])).groups()
            self.assertEqual({labels[label] for labels, _ in self.prometheus.query(series)}, want[variable["name"]])

    def test_every_rule_is_evaluated_and_a_healthy_server_alarms_nobody(self):
        def groups():
            all_of_them = self.prometheus.get("rules")["groups"]
            done = all(rule["health"] != "unknown" for group in all_of_them for rule in group["rules"])
            return all_of_them if done else None
        rules = [rule for group in wait_for("all rules are evaluated", groups) for rule in group["rules"]]
        for rule in rules:
            with self.subTest(rule["name"]):
                self.assertEqual(rule["health"], "ok", rule.get("lastError"))
                self.assertNotEqual(rule.get("state"), "firing", rule)
        recorded = [rule["name"] for rule in rules if rule["type"] == "recording"]
        self.assertTrue(recorded)
        for name in recorded:
            self.in_time(name)

    def test_what_alerts_compare_with_is_what_is_configured(self):
        self.assertEqual(self.prometheus.value("fresco_serving"), 1)
        self.assertEqual(self.prometheus.value('fresco_model_serving{model="eighth"}'), 1)
        self.assertEqual(self.prometheus.value("fresco_draining"), 0)
        self.assertEqual(self.prometheus.value("fresco_queue_limit"), 256)
        self.assertEqual(self.prometheus.value('fresco_class_target_seconds{priority="interactive"}'), 0.5)
        self.assertEqual(self.prometheus.value("fresco_device_memory_budget_bytes"), 8 * 2**30)
        self.assertGreater(self.prometheus.value("fresco_device_memory_capacity_bytes - on(device) fresco_device_memory_bytes{kind='allocated'}"), 0)
        self.assertGreater(self.prometheus.value('fresco_quantized_activations_total{model="eighth"}'), 0)

    def test_every_picture_is_some_tenants(self):
        for of_tenants, of_all in (("tenant_images_total", "images_total"), ("tenant_steps_total", "batch_size_sum")):
            same = f"sum(fresco_{of_tenants}) == sum(fresco_{of_all})"
            wait_for(same, lambda same=same: self.prometheus.query(same), 30)
        self.assertGreater(self.prometheus.value("sum(fresco_tenant_device_seconds_total)"), 0)

    def test_the_list_of_metrics_is_what_there_is(self):
        there = {name for name in families(self.text) if name.startswith("fresco_")}
        self.assertEqual(there - documented(), set(), "not in docs/CONFIGURATION.md")
        self.assertEqual(documented() - there - set(ELSEWHERE), set(), "only in docs/CONFIGURATION.md")
        shown = set().union(*(dashboard.metrics_of(expression) for _, expression in dashboard.queries(dashboard.load())))
        self.assertEqual({name for name in shown if not name.startswith("fresco:")} - documented(), set(), "in no list")

    def test_promtool_has_nothing_to_say_about_the_metrics(self):
        code, said = promtool("check", "metrics", text=self.text)
        self.assertEqual((code, said), (0, ""))

    def test_a_requests_line_is_json_with_every_stage_and_the_trace_that_its_caller_was_told(self):
        told = json.loads(self.draw("--model", "demo", "--prompt", "a pear", "--seed", "7", "--request-id", "the-one", "--priority", "interactive").stdout)

        def line():
            complete = self.service.log.read_text(encoding="utf-8").split("\n")[:-1]
            lines = [json.loads(text) for text in complete]  # all of them are
            return [found for found in lines if found["event"] == "request" and found["id"] == "the-one"]
        [line] = wait_for("the request is in the log", line)
        want = {"level": "info", "method": "Generate", "model": "demo", "code": "OK", "tenant": "studio", "priority": "interactive", "images": 1,
                "width": 64, "height": 64, "steps": 4, "seed": 7, "device": "cpu", "steps_done": 4, "images_done": 1, "batch_min": 1, "batch_max": 1,
                "batch_mean": 1, "prompt_cache_hit": False, "warnings": 0, "image_bytes": told["images"][0]["bytes"]}
        self.assertEqual({name: line.get(name) for name in want}, want)
        self.assertGreater(line["texts_encoded"], 0)
        self.assertGreater(line["peak_memory_bytes"], 0)
        stages = ["queue_s", "prepare_s", "denoise_s", "decode_s", "encode_s"]
        for name in [*stages, "first_byte_s", "first_image_s", "write_s"]:
            self.assertTrue(0 <= line[name] <= line["total_s"], f"{name}: {line}")
        self.assertTrue(line["denoise_s"] > 0 and line["decode_s"] > 0, line)
        # One after the other; each is rounded.
        self.assertLessEqual(sum(line[name] for name in stages), line["total_s"] + 0.001)
        self.assertRegex(told["trace_id"], "^[0-9a-f]{32}$")
        self.assertEqual(line["trace_id"], told["trace_id"])
        self.assertEqual(told["traceparent"], f"00-{line['trace_id']}-{line['span_id']}-01")
        self.assertNotIn("prompt", line)

    def test_an_error_is_found_in_the_log_by_the_trace_that_it_names(self):
        refused = self.draw("--model", "nobody", "--prompt", "x", check=False)
        trace = json.loads(refused.stdout)["error"]["trace_id"]
        self.assertIn(f"trace {trace}", refused.stderr)
        [line] = wait_for("the refused request is in the log", lambda: [
            found for found in map(json.loads, self.service.log.read_text(encoding="utf-8").split("\n")[:-1]) if found.get("trace_id") == trace])
        self.assertEqual(line["code"], "NOT_FOUND")


if __name__ == "__main__":
    unittest.main()

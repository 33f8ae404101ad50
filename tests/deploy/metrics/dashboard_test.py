"""deploy/grafana: what can be said of a dashboard without a server."""

import itertools
import re
import unittest

import dashboard
from prometheus import ROOT

BOARD = dashboard.load()


def overlap(a, b):
    return a["x"] < b["x"] + b["w"] and b["x"] < a["x"] + a["w"] and a["y"] < b["y"] + b["h"] and b["y"] < a["y"] + a["h"]


class Dashboard(unittest.TestCase):
    def test_panels_lie_side_by_side(self):
        for panel in BOARD["panels"]:
            place = panel["gridPos"]
            self.assertTrue(0 <= place["x"] and place["x"] + place["w"] <= 24, panel["title"])
        for a, b in itertools.combinations(BOARD["panels"], 2):
            self.assertFalse(overlap(a["gridPos"], b["gridPos"]), f"{a['title']} and {b['title']}")

    def test_panels_have_names_and_say_what_they_show(self):
        ids = [panel["id"] for panel in BOARD["panels"]]
        self.assertEqual(len(ids), len(set(ids)))
        for panel in dashboard.panels(BOARD):
            self.assertTrue(panel["title"] and panel["description"], panel["id"])
            refs = [target["refId"] for target in panel["targets"]]
            self.assertEqual(len(refs), len(set(refs)), panel["title"])

    def test_all_comes_from_the_chosen_prometheus(self):
        for panel in dashboard.panels(BOARD):
            for source in [panel["datasource"], *(target["datasource"] for target in panel["targets"])]:
                self.assertEqual(source, {"type": "prometheus", "uid": "${datasource}"}, panel["title"])

    def test_every_variable_is_there_and_used(self):
        defined = {variable["name"] for variable in BOARD["templating"]["list"]}
        text = dashboard.FILE.read_text(encoding="utf-8")
        used = set(re.findall(r"\$\{?([a-z]\w*)", text))
        self.assertEqual(defined, used)
        self.assertLessEqual({"model", "device", "instance"}, defined)

    def test_what_the_issue_asks_for_is_shown(self):
        shown = set().union(*(dashboard.metrics_of(expression) for _, expression in dashboard.queries(BOARD)))
        for metric in ("stage_duration_seconds", "queue_depth", "batch_size", "device_memory_bytes", "requests_total", "refusals_total",
                       "prompt_cache_hits_total", "step_duration_seconds", "predicted_queue_wait_seconds", "queue_wait_seconds",
                       "tenant_images_total", "tenant_steps_total", "tenant_device_seconds_total", "requests_joined_total", "results_served_total",
                       "results_kept_bytes"):
            self.assertIn(f"fresco_{metric}", shown)

    def test_it_is_provisioned_with_the_data_source_that_it_asks_for(self):
        folder = ROOT / "deploy" / "grafana" / "provisioning"
        self.assertIn("type: prometheus", (folder / "datasources" / "prometheus.yaml").read_text(encoding="utf-8"))
        self.assertIn("type: file", (folder / "dashboards" / "fresco.yaml").read_text(encoding="utf-8"))


if __name__ == "__main__":
    unittest.main()

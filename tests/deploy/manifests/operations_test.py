"""docs/OPERATIONS.md keeps up with the program: its metrics, its settings and the files that it names."""

import pathlib
import re
import unittest

from checked_config import ROOT

DOCS = ROOT / "docs"
TEXT = (DOCS / "OPERATIONS.md").read_text(encoding="utf-8")


def anchors(text):
    """GitHub's names of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


class OperationsTest(unittest.TestCase):
    def section(self, title):
        return TEXT.split(f"\n## {title}\n")[1].split("\n## ")[0]

    def explained(self):
        """The names in the tables of metrics."""
        cells = [line.split("|")[1] for line in self.section("Metrics").splitlines() if line.startswith("|")]
        return {name for cell in cells for name in re.findall(r"`(\w+)`", cell)}

    def test_every_metric_is_explained(self):
        source = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "server").rglob("*.cc"))
        metrics = set(re.findall(r'"fresco_(\w+)"', source))
        explained = {name for name in self.explained() if not name.startswith("envoy_")}
        self.assertEqual(metrics - explained, set())
        self.assertEqual(explained - metrics, set())

    def test_every_metric_of_envoys_that_an_alert_goes_by_is_explained(self):
        alerts = set(re.findall(r"\benvoy_\w+(?=\{\w)", (ROOT / "deploy" / "prometheus" / "alerts.yaml").read_text(encoding="utf-8")))
        self.assertEqual(len(alerts), 2, alerts)
        self.assertEqual(alerts - self.explained(), set())

    def test_links_lead_somewhere(self):
        for target in re.findall(r"\]\(([^)]+)\)", TEXT):
            path, _, anchor = target.partition("#")
            file = (DOCS / path).resolve() if path else DOCS / "OPERATIONS.md"
            self.assertTrue(file.exists(), target)
            if anchor:
                self.assertIn(anchor, anchors(file.read_text(encoding="utf-8")), target)

    def test_files_that_it_names_are_there(self):
        for name in set(re.findall(r"(?<![\w/.])(?:deploy|bench|docs|tests)/[\w./-]+\w", TEXT)):
            if name.startswith(("deploy/docker/secrets", "deploy/kubernetes/overlays/yours", "deploy/kubernetes/components/autoscaling")):
                continue  # made by the operator; a pattern
            self.assertTrue((ROOT / name).exists(), name)

    def test_settings_that_it_names_are_settings(self):
        configuration = (DOCS / "CONFIGURATION.md").read_text(encoding="utf-8")
        for section, name in set(re.findall(r"`(server|scheduler|compute|results|images|limits|log|vae)\.(\w+)", TEXT)):
            self.assertTrue(re.search(rf"(?m)^.*\b{name}:", configuration), f"{section}.{name}")

    def test_commands_that_it_shows_are_commands(self):
        client = (ROOT / "client" / "args.cc").read_text(encoding="utf-8")
        for command in set(re.findall(r"(?<![\w/.-])fresco ([a-z]+(?:-model)?)\b(?= |`|$)", re.sub(r"deployment/fresco|-n fresco|git clone \S+ fresco|-g fresco", "", TEXT))):
            self.assertIn(f'add_subcommand("{command}"', client, command)


if __name__ == "__main__":
    unittest.main()

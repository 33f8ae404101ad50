"""deploy/prometheus by promtool, and its alerts against docs/MONITORING.md."""

import re
import unittest

from prometheus import DEPLOY, ROOT, promtool

ALERT = re.compile(r"^ *- alert: (\w+)$", re.M)


def alerts():
    """{name: its text in alerts.yaml}"""
    text = (DEPLOY / "alerts.yaml").read_text(encoding="utf-8")
    parts = ALERT.split(text)
    return dict(zip(parts[1::2], parts[2::2]))


def anchors(markdown):
    """Of its headings, as the usual renderers make them."""
    headings = re.findall(r"^#+ (.+)$", markdown, re.M)
    return {re.sub(r"[^\w\- ]", "", heading.replace("`", "").lower()).replace(" ", "-") for heading in headings}


class Rules(unittest.TestCase):
    def test_the_configuration_and_its_rules_are_valid(self):
        code, said = promtool("check", "config", "--lint=all", "--lint-fatal", DEPLOY / "prometheus.yaml")
        self.assertEqual(code, 0, said)
        self.assertIn("2 rule files found", said)

    def test_alerts_fire_when_they_should_and_not_when_they_need_not(self):
        code, said = promtool("test", "rules", DEPLOY / "alerts_test.yaml")
        self.assertEqual(code, 0, said)

    def test_every_alert_is_tested_both_ways(self):
        text = (DEPLOY / "alerts_test.yaml").read_text(encoding="utf-8")
        silent = set(re.findall(r"alertname: (\w+), exp_alerts: \[\]", text))
        fired = set(re.findall(r"alertname: (\w+)\n *exp_alerts:\n *- exp_labels", text))
        self.assertEqual(silent, set(alerts()))
        self.assertEqual(fired, set(alerts()))

    def test_every_alert_says_how_bad_it_is_and_what_to_do(self):
        known = anchors((ROOT / "docs" / "MONITORING.md").read_text(encoding="utf-8"))
        self.assertGreater(len(alerts()), 20)
        for name, text in alerts().items():
            with self.subTest(name):
                self.assertRegex(text, r"severity: (critical|warning|info)\b")
                self.assertRegex(text, r"(?m)^ *summary: \S")
                self.assertRegex(text, r"(?m)^ *description: \S")
                [link] = re.findall(r"runbook_url: docs/MONITORING\.md#(\S+)", text)
                self.assertEqual(link, name.lower())
                self.assertIn(link, known)

    def test_no_page_tells_of_an_alert_that_there_is_not(self):
        text = (ROOT / "docs" / "MONITORING.md").read_text(encoding="utf-8")
        self.assertEqual(set(re.findall(r"^### (Fresco\w+)$", text, re.M)), set(alerts()))


if __name__ == "__main__":
    unittest.main()

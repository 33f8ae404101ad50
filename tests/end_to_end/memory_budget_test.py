"""A server whose device may not hold the whole model: what comes and goes is said and counted, and pictures are the same."""

import json
import pathlib
import subprocess
import tempfile
import unittest

from PIL import Image

from server import Server
from service import BIN, ROOT

SIDE = 128  # the model's default


def least_bytes():
    """What the demo model needs for a picture with everything away that can be, and a little more."""
    command = [BIN / "fresco-model", "inspect", ROOT / "models/demo", "--budget", "1", "--width", SIDE, "--height", SIDE, "--json"]
    finished = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, text=True)
    report = json.loads(finished.stdout)
    assert finished.returncode == 1 and not report["fits"]
    return int(report["peak_bytes"] * 1.03)


class MemoryBudget(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.enterContext(folder)
        self.out = pathlib.Path(folder.name)

    def draw(self, server, prompt):
        file = self.out / "picture.png"
        subprocess.run([BIN / "fresco", "generate", "--server", server.address, "--prompt", prompt, "--seed", "3", "--steps", "2",
                        "--width", str(SIDE), "--height", str(SIDE), "--output", file], check=True, timeout=300, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        return Image.open(file).convert("RGB").tobytes()

    def test_components_come_when_they_are_needed(self):
        with Server() as whole:
            expected = [self.draw(whole, prompt) for prompt in ("a red apple", "a blue cube")]
            self.assertEqual(whole.metric("fresco_component_loads_total"), 0)
        budget = least_bytes()
        with Server(f"memory: {{budget: {budget}}}\n") as server:
            loads = lambda: server.metric("fresco_component_loads_total", 'component="text_encoder_3"')  # noqa: E731
            self.assertEqual(server.metric("fresco_memory_budget_bytes", 'device="cpu"'), budget)
            self.assertEqual(self.draw(server, "a red apple"), expected[0])
            after_first = loads()
            self.assertGreater(after_first, 0)
            self.assertEqual(self.draw(server, "a red apple"), expected[0])
            self.assertEqual(loads(), after_first, "its text is in the cache")
            self.assertEqual(self.draw(server, "a blue cube"), expected[1])
            self.assertEqual(loads(), after_first + 1)
            self.assertGreater(server.metric("fresco_component_loaded_bytes_total"), 0)
            self.assertGreater(server.metric("fresco_component_load_seconds_total"), 0)
            self.assertLessEqual(server.metric("fresco_device_memory_bytes", 'kind="peak"'), budget)
            self.assertIn("component_loaded", server.log())
            self.assertIn("is loaded when needed: memory.budget", server.log())
            status = subprocess.run([BIN / "fresco", "status", "--server", server.address], check=True, stdout=subprocess.PIPE, text=True)
            self.assertIn("is loaded when needed", status.stdout)

    def test_a_budget_that_holds_nothing_is_refused_with_what_would_fit(self):
        config = self.out / "server.yaml"
        config.write_text(f"models: [{{path: {ROOT / 'models/demo'}, name: demo, precision: fp32, devices: [cpu]}}]\nmemory: {{budget: 10MiB}}\n")
        finished = subprocess.run([BIN / "fresco-server", "--config", config, "--address", "127.0.0.1:0", "--metrics-address", "127.0.0.1:0"],
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120)
        self.assertEqual(finished.returncode, 1)
        self.assertIn("more than the budget of 10 MiB", finished.stdout)
        self.assertIn("No setting that was tried fits", finished.stdout)


if __name__ == "__main__":
    unittest.main()

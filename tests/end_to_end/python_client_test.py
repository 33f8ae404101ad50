"""The README's ways from Python: generated stubs, and reflection alone."""

import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

from PIL import Image

from service import ROOT, running_service


class PythonClient(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory()
        cls.enterClassContext(folder)
        cls.out = pathlib.Path(folder.name)
        cls.service = cls.enterClassContext(running_service())
        cls.service.client("generate", "--wait", 60, "--prompt", "a red apple on a light blue background", "--seed", 1,
                           "--output", cls.out / "client.png")

    def run_example(self, script, environment):
        picture = self.out / f"{script}.png"
        command = [sys.executable, ROOT / "client/python" / script, "a red apple on a light blue background", picture, self.service.address]
        result = subprocess.run(command, env={**os.environ, **environment}, timeout=120, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.assertEqual(result.returncode, 0, result.stdout)
        self.assertEqual(Image.open(picture).convert("RGB").tobytes(), Image.open(self.out / "client.png").convert("RGB").tobytes(),
                         "the same seed must give the same picture through every client")
        return result.stdout

    def test_generated_stubs(self):
        stubs = self.out / "stubs"
        subprocess.run([ROOT / "client/python/make_stubs.sh", stubs], check=True, env={**os.environ, "PYTHON": sys.executable})
        output = self.run_example("generate.py", {"PYTHONPATH": str(stubs)})
        self.assertIn("step 20 of 20", output)

    def test_reflection(self):
        self.run_example("generate_by_reflection.py", {})

    def test_the_picture_carries_its_parameters(self):
        text = Image.open(self.out / "client.png").text
        self.assertIn("a red apple on a light blue background", text["parameters"])
        self.assertIn("fresco:provenance", text)
        self.assertIn("sha256:", text["fresco:provenance"])


if __name__ == "__main__":
    unittest.main()

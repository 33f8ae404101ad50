"""The demo model draws what it is asked for: judged against the font's own glyphs, which the server has never seen."""

import csv
import json
import pathlib
import random
import subprocess
import sys
import tempfile
import unittest

from PIL import Image

from service import BIN, ROOT, running_service

sys.path.insert(0, str(ROOT / "models" / "training"))
import glyphs  # noqa: E402
import scenes  # noqa: E402


def signature(picture):
    return list(picture.convert("RGB").resize((16, 16), Image.BOX).tobytes())


def distance(a, b):
    return sum((x - y) ** 2 for x, y in zip(a, b))


def corner_colour(picture):
    """The median of the four corners' 8x8 pixels, per channel."""
    width, height = picture.size
    pixels = [picture.getpixel((x, y)) for x in [*range(8), *range(width - 8, width)] for y in [*range(8), *range(height - 8, height)]]
    return tuple(sorted(channel)[len(channel) // 2] for channel in zip(*pixels))


class DemoModel(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory()
        cls.enterClassContext(folder)
        cls.out = pathlib.Path(folder.name)
        cls.service = cls.enterClassContext(running_service())

    def draw(self, rows, template):
        """Draws one picture per row, many at once, through the client's CSV mode."""
        table = self.out / f"{self._testMethodName}.csv"
        with open(table, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, fieldnames=[*rows[0], "output"])
            writer.writeheader()
            for index, row in enumerate(rows):
                writer.writerow({**row, "output": f"{self._testMethodName}-{index}.png"})
        self.service.client("generate", "--wait", 60, "--prompts-file", table, "--template", template, "--seed", 100,
                            "--parallel", 8, "--output", f"{self.out}/")
        return [Image.open(self.out / f"{self._testMethodName}-{i}.png").convert("RGB") for i in range(len(rows))]

    def test_25_random_subjects_are_nearest_to_their_own_glyph(self):
        references = [signature(scenes.reference(i)) for i in range(len(glyphs.subjects()))]
        chosen = random.Random(2).sample(range(len(references)), 25)
        pictures = self.draw([{"subject": glyphs.subjects()[i]["name"]} for i in chosen], "{subject} on a white background")
        nearest = [min(range(len(references)), key=lambda r: distance(signature(p), references[r])) for p in pictures]
        wrong = [f"{glyphs.subjects()[a]['name']} looks like {glyphs.subjects()[b]['name']}" for a, b in zip(chosen, nearest) if a != b]
        self.assertLessEqual(len(wrong), 1, wrong)

    def test_backgrounds_have_the_colour_asked_for(self):
        rows = [{"colour": name, "subject": subject} for name in scenes.BACKGROUNDS for subject in ("fox", "sunflower")]
        wrong = []
        for row, picture in zip(rows, self.draw(rows, "a {subject} on a {colour} background")):
            colour = corner_colour(picture)
            nearest = min(scenes.BACKGROUNDS, key=lambda name: distance(colour, scenes.BACKGROUNDS[name]))
            if nearest != row["colour"]:
                wrong.append(f"{row}: {nearest}")
        self.assertLessEqual(len(wrong), 1, wrong)

    def test_a_running_model_is_profiled(self):
        trace = self.out / "trace.json"
        with subprocess.Popen([BIN / "fresco", "profile", "--steps", "3", "--trace", trace, "--json", "--wait", "60", "--timeout", "120",
                               "--server", self.service.address], stdout=subprocess.PIPE, text=True) as profiling:
            while profiling.poll() is None:  # somebody draws
                self.service.client("generate", "--wait", 60, "--prompt", "a fox on a white background", "--steps", 8,
                                    "--output", self.out / "fox.png")
            profile = json.loads(profiling.stdout.read())
        self.assertEqual(profiling.returncode, 0)
        seconds = lambda text: float(text.removesuffix("s"))
        layers = {layer["name"]: layer for layer in profile["layers"]}
        total = sum(seconds(layer["duration"]) for layer in profile["layers"]) + seconds(profile["outside_layers"])
        self.assertAlmostEqual(total, seconds(profile["step"]), delta=1e-6)
        self.assertEqual((profile["model"], profile["device"], profile["steps"]), ("demo", "cpu", 3))
        up = layers["transformer.transformer_blocks.0.ff.net.0.proj"]
        self.assertGreater(int(up["flops"]), 0)
        self.assertGreater(up["share_of_peak"], 0)
        self.assertAlmostEqual(up["share_of_bandwidth"] * profile["memory_bandwidth"] * seconds(up["duration"]) / int(up["bytes"]), 1, delta=1e-3)
        self.assertIn(up["bound"], ("compute", "memory"))
        events = [event for event in json.loads(trace.read_text())["traceEvents"] if event.get("ph") == "X"]
        stages = [event for event in events if event["args"].get("level") == "stage"]
        self.assertEqual([stage["name"] for stage in stages], ["step"] * 3)
        for event in events:
            if event["name"] == "ff.net.2":
                self.assertTrue(any(s["ts"] <= event["ts"] and event["ts"] + event["dur"] <= s["ts"] + s["dur"] for s in stages), event)

    def test_the_model_folder_lists_what_it_was_trained_on(self):
        self.assertEqual((ROOT / "models/demo/subjects.json").read_text().split(), (ROOT / "models/training/subjects.json").read_text().split())


if __name__ == "__main__":
    unittest.main()

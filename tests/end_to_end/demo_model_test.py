"""The demo model draws what it is asked for: judged against the font's own glyphs, which the server has never seen."""

import csv
import pathlib
import random
import sys
import tempfile
import unittest

from PIL import Image

from service import ROOT, running_service

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

    def test_the_model_folder_lists_what_it_was_trained_on(self):
        self.assertEqual((ROOT / "models/demo/subjects.json").read_text().split(), (ROOT / "models/training/subjects.json").read_text().split())


if __name__ == "__main__":
    unittest.main()

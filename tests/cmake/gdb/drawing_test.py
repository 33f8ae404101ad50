"""gdb within the engine's own code, while it draws with the model that ships (drawing.cc)."""

import json
import os
import sys
import tempfile
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import debugger  # noqa: E402
from debugger import Gdb, value  # noqa: E402

JOB = "print *jobs.ptr_[0]"
LATENTS = "print jobs.ptr_[0]->state_.latents"


class Drawing(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        debugger.skip_where_not_permitted()
        cls.folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(cls.folder.cleanup)
        facts = os.path.join(cls.folder.name, "facts.json")
        # At the second step; then in the first block's attention in it.
        cls.picture = os.path.join(cls.folder.name, "attention.png")
        cls.draw = "fresco-show image " + cls.picture
        cls.gdb = Gdb(["break fresco::Denoiser::Step if jobs.ptr_[0]->step_ == 1", "break JointAttention", "disable 2", "run"],
                      [JOB, LATENTS, "enable 2", "continue", "info args", "print block.attention.qkv", cls.draw, "delete", "continue "],
                      [facts], cwd=debugger.ROOT)
        cls.gdb["continue "]  # to the end: the program has written what follows
        with open(facts) as file:
            cls.facts = json.load(file)

    def test_the_job_says_where_it_is(self):
        facts = self.facts[1]
        self.assertTrue(value(self.gdb[JOB]).startswith(
            "DiffusionJob 1: 1 of 2 steps done, sigma %.6g, 64x64, 2 steps, guidance 4.5, seed 41, \"a red apple\" = {latents = at::Tensor"
            % facts["sigma"]), self.gdb[JOB][:400])

    def test_its_latents_are_those_of_aten(self):
        facts, line = self.facts[1], value(self.gdb[LATENTS])
        self.assertTrue(line.startswith("at::Tensor %s %s cpu, min %.6g, max %.6g," % (facts["shape"], facts["type"].lower(), facts["min"], facts["max"])), line)

    def test_activations_in_the_middle_of_the_forward(self):
        arguments = self.gdb["info args"]
        # Queries, keys and values of both rows of a guided step.
        self.assertRegex(arguments, r"image = at::Tensor \[2, \d+, \d+\] (bfloat16|float32) cpu")
        self.assertRegex(arguments, r"text = at::Tensor \[2, \d+, \d+\] (bfloat16|float32) cpu")

    def test_a_quantised_layer(self):
        self.assertRegex(value(self.gdb["print block.attention.qkv"]),
                         r"^fp8: float8_e4m3fn \[\d+, \d+\] cpu, \d+ scales, [\d.e-]+ to [\d.e-]+, a scale of its own for each token, layer transformer")

    def test_activations_as_a_picture(self):
        self.assertIn("2 channels in lines of 1", self.gdb[self.draw])
        self.assertTrue(os.path.getsize(self.picture) > 100)


if __name__ == "__main__":
    unittest.main()

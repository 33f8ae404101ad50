"""What gdb says of tensors, against what ATen says of them (tensors.cc)."""

import json
import math
import os
import re
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import debugger  # noqa: E402
from debugger import Gdb, value  # noqa: E402

TYPES = {
    "f32": "float32", "f64": "float64", "f16": "float16", "bf16": "bfloat16", "e4m3": "float8_e4m3fn", "e5m2": "float8_e5m2",
    "outliers": "float32", "all_e4m3": "float8_e4m3fn", "all_e5m2": "float8_e5m2", "codes": "uint8", "i8": "int8",
    "i32": "int32", "i64": "int64", "transposed": "float32", "slice": "float32", "column": "float32", "expanded": "float32",
    "offset": "float32", "scalar": "float32", "channels_last": "float32", "deep": "float32",
    "thin": "float32", "windows": "float32",
}
STOPPED = ["break fresco::(anonymous namespace)::ShowTensors", "break fresco::(anonymous namespace)::Look", "run"]
# At the beginning of the function that makes them, before they are made.
UNMADE = ["print wide ", "print list ", "print linear ", "print quantized ", "print status ", "continue", "up"]
COMMANDS = {
    "stats": "fresco-stats wide", "stats of bad ones": "fresco-stats outliers", "stats of GPU": "fresco-stats gpu",
    "stats of slice": "fresco-stats slice",
}
PRINTED = [
    "flags", "wide", "undefined", "empty", "meta", "gpu", "optional", "list", "span", "weight", "*quantized._M_ptr", "linear", "stored",
    "status", "ok", "number", "duration", "forever", "time",
]


def number(text):
    return float(text)


def field(line, name):
    """The number after its name: "min -3, max 4"."""
    return number(re.search(r"\b%s (-?[\d.]+(?:e[+-]?\d+)?|nan|inf)" % re.escape(name), line).group(1))


def shown_values(line):
    """Of "… = {1, nan, ...}"."""
    return [number(text) for text in re.search(r" = \{([^}]*)\}$", line).group(1).split(", ") if text != "..."]


PICTURES = {
    "both": "fresco-show picture both.png --range -1 1", "one": "fresco-show transposed one.png --channel 4",
    "wide": "fresco-show wide wide.png", "thin": "fresco-show thin thin.png",
}
MISTAKES = {
    "fresco-show picture": "fresco-show takes a tensor and a file",
    "fresco-show picture p.jpg": "'p.jpg' does not end in .png",
    "fresco-show picture p.png --channel 2": "--channel 2: [2, 2, 3] float32 cpu has channels 0 to 1",
    "fresco-show picture p.png --channel x": "--channel takes a number",
    "fresco-show picture p.png --range 1": "--range takes LOW and HIGH",
    "fresco-show picture p.png --range 2 1": "--range: LOW 2 is not below HIGH 1",
    "fresco-show picture p.png --colour": "unknown option '--colour'",
    "fresco-show picture none/p.png": "none/p.png: No such file or directory",
    "fresco-show undefined p.png": "undefined: the tensor is undefined",
    "fresco-show empty p.png": "empty: [0, 4] float32 cpu has no values",
    "fresco-show meta p.png": "meta: a tensor without memory",
    "fresco-show duration p.png": "this is absl::",
    "fresco-stats nothing": 'No symbol "nothing" in current context.',
    "fresco-stats": "fresco-stats takes a tensor",
}
SAVE = "generate-core-file core"
# Of a core file.
# As VS Code asks (README.md), of the same core file: each variable, then what is in it.
IDE = ["-enable-pretty-printing", "source " + os.path.join(debugger.ROOT, "cmake", "gdb", "load.py"), "core-file core", "-stack-select-frame 1",
       "-var-create outliers * outliers", "-var-create linear * *quantized._M_ptr", "-var-list-children --all-values linear", "-gdb-exit"]
DEAD = ["print outliers", "print transposed", "print gpu", "fresco-stats gpu"]


def setUpModule():
    """Three runs of gdb for all tests: it takes seconds to read libtorch's symbols."""
    global folder, live, dead, ide, facts_of
    debugger.skip_where_not_permitted()
    folder = tempfile.TemporaryDirectory()
    unittest.addModuleCleanup(folder.cleanup)
    questions = UNMADE + ["print " + name for name in list(TYPES) + PRINTED]
    questions += [*COMMANDS.values(), *PICTURES.values(), *MISTAKES, "info auto-load python-scripts", SAVE, "down", "info args"]
    live = Gdb(STOPPED, questions, ["facts.json"], cwd=folder.name)
    dead = Gdb(["core-file core", "up"], DEAD, cwd=folder.name)
    ide = debugger.machine_interface(IDE, cwd=folder.name)
    with open(os.path.join(folder.name, "facts.json")) as file:
        facts_of = json.load(file)


class Tensors(unittest.TestCase):
    def line(self, name):
        return value(live["print " + name])

    def test_loads_of_itself(self):
        self.assertIn(os.path.basename(debugger.PROGRAM) + "-gdb.py", live["info auto-load python-scripts"])

    def test_shape_type_and_device(self):
        for name, type_ in TYPES.items():
            with self.subTest(name):
                self.assertRegex(self.line(name), r"^at::Tensor %s %s cpu\b" % (re.escape(str(facts_of[name]["shape"])), type_))

    def test_numbers_are_those_of_aten(self):
        for name, type_ in TYPES.items():
            with self.subTest(name):
                facts, line = facts_of[name], self.line(name)
                self.assertAlmostEqual(field(line, "min"), facts["min"], delta=1e-5 * abs(facts["min"]))
                self.assertAlmostEqual(field(line, "max"), facts["max"], delta=1e-5 * abs(facts["max"]))
                amax = max(abs(facts["min"]), abs(facts["max"]))
                self.assertAlmostEqual(field(line, "amax"), amax, delta=1e-5 * amax)
                if "int" not in type_:
                    self.assertEqual(field(line, "NaN"), facts["nan"])
                    self.assertEqual(field(line, "inf"), facts["inf"])
                    limit = ("at E4M3's limit", "limit") if type_ == "float8_e4m3fn" else ("beyond E4M3", "beyond")
                    self.assertEqual(field(line, limit[0]), facts[limit[1]])

    def test_first_values_are_those_of_aten(self):
        for name in TYPES:
            with self.subTest(name):
                shown, expected = shown_values(self.line(name)), [number(str(v)) for v in facts_of[name]["first"]]
                self.assertEqual(len(shown), len(expected))
                for got, wanted in zip(shown, expected):
                    if math.isfinite(wanted):
                        self.assertAlmostEqual(got, wanted, delta=1e-5 * abs(wanted))
                    else:
                        self.assertEqual(str(got), str(wanted))

    def test_share_of_what_is_not_finite_or_beyond(self):
        facts = facts_of["outliers"]
        self.assertIn("NaN 1 (%.3g %%)" % (100 / 32), self.line("outliers"))
        self.assertIn("beyond E4M3 %d (%.3g %%)" % (facts["beyond"], 100 * facts["beyond"] / 32), self.line("outliers"))

    def test_strides_where_they_are_not_the_plain_ones(self):
        self.assertIn("strides [1, 5, 15]", self.line("transposed"))
        self.assertNotIn("strides", self.line("f32"))

    def test_what_has_no_values(self):
        self.assertEqual(self.line("undefined"), "at::Tensor undefined")
        self.assertEqual(self.line("empty"), "at::Tensor [0, 4] float32 cpu, no values")
        self.assertEqual(self.line("meta"), "at::Tensor [2, 2] float32 meta, no values to show: a tensor without memory")
        self.assertIn("true %d (" % facts_of["flags"]["nonzero"], self.line("flags"))

    def test_a_large_tensor_is_looked_at_in_part_and_says_so(self):
        line = self.line("wide")
        self.assertIn("(of the first 262144 of 770000 values; fresco-stats looks at all)", line)
        self.assertLess(field(line, "max"), 100)

    def test_stats_look_at_all(self):
        text, facts = live[COMMANDS["stats"]], facts_of["wide"]
        self.assertEqual(field(text, "max"), 5000)
        self.assertIn("beyond E4M3 1 (0.00013 %)", text)
        self.assertAlmostEqual(field(text, "mean"), facts["mean"], delta=1e-5)
        self.assertAlmostEqual(field(text, "standard deviation"), facts["deviation"], delta=1e-4)
        self.assertIn("largest magnitude at [700, 3]", text)
        # Of a normal distribution.
        self.assertAlmostEqual(field(text, "50 %"), 0.6745, delta=0.01)
        self.assertAlmostEqual(field(text, "99 %"), 2.5758, delta=0.02)

    def test_stats_say_where(self):
        text = live[COMMANDS["stats of bad ones"]]
        self.assertIn("largest magnitude at [3, 5]", text)
        self.assertIn("first value that is not finite at [1, 2]", text)

    def test_stats_of_a_slice_count_in_its_own_indices(self):
        text, facts = live[COMMANDS["stats of slice"]], facts_of["slice"]
        self.assertAlmostEqual(field(text, "mean"), facts["mean"], delta=1e-4)
        index = [int(word) for word in re.search(r"largest magnitude at \[([\d, ]+)\]", text).group(1).split(",")]
        for place, size in zip(index, facts["shape"]):
            self.assertLess(place, size)

    def test_a_gpu_is_asked_by_the_commands_alone(self):
        self.assertEqual(self.line("gpu"), "at::Tensor [2, 3, 5] float32 cuda:0, values in the GPU's memory (fresco-stats shows them)")
        text, facts = live[COMMANDS["stats of GPU"]], facts_of["f32"]
        if "Couldn't write extended state" in text:  # gdb 13, for want of room for the tiles' registers
            self.assertIn("amx_tile", open("/proc/cpuinfo").read())
            self.skipTest("this gdb calls no function in a process on a processor with AMX: " + text)
        self.assertAlmostEqual(field(text, "min"), facts["min"], delta=1e-3)
        self.assertAlmostEqual(field(text, "max"), facts["max"], delta=1e-3)

    def test_tensors_within_others_and_as_arguments(self):
        self.assertRegex(self.line("optional"), r"\boptional<at::Tensor>.* at::Tensor \[2, 3, 5\] float32")
        self.assertIn("vector of length 2", self.line("list"))
        self.assertIn("float8_e4m3fn", self.line("span"))
        self.assertIn("reference = at::Tensor [2, 3, 5] float32 cpu", live["info args"])

    def test_scaled_weights(self):
        facts = facts_of["scales"]
        codes = "float8_e4m3fn [6, 16] cpu, 6 scales, %.6g to %.6g" % (facts["min"], facts["max"])
        self.assertTrue(self.line("weight").startswith(codes), self.line("weight"))
        line = "fp8: %s, input scale 0.25, guarded, layer blocks.3.attn.qkv" % codes
        self.assertTrue(self.line("*quantized._M_ptr").startswith(line), self.line("*quantized._M_ptr"))
        self.assertTrue(self.line("linear").startswith(line), self.line("linear"))
        self.assertTrue(self.line("stored").startswith("ComfyUI scaled, [6, 16], 1 scales, 0.5 to 0.5"), self.line("stored"))

    def test_what_is_not_made_yet(self):
        for question in UNMADE[:5]:
            with self.subTest(question):
                self.assertNotIn("Python Exception", live[question])
        self.assertRegex(value(live["print wide "]), r"^at::Tensor \S")

    def test_abseils_types(self):
        self.assertEqual(self.line("status"), "absl::Status NOT_FOUND: no model of this name")
        self.assertEqual(self.line("ok"), "absl::Status OK")
        self.assertEqual(self.line("number"), "absl::StatusOr OK = {value = 4}")
        self.assertEqual(self.line("duration"), "1.5 s")
        self.assertEqual(self.line("forever"), "infinite")
        self.assertEqual(self.line("time"), "2027-01-15 08:00:00.000 UTC")


class CoreFile(unittest.TestCase):
    def test_tensors_on_the_host_are_the_same(self):
        self.assertIn("Saved corefile", live[SAVE])
        for question in ("print outliers", "print transposed"):
            self.assertEqual(value(dead[question]), value(live[question]))

    def test_a_gpus_values_are_not_there(self):
        self.assertIn("float32 cuda:0, values in the GPU's memory", dead["print gpu"])
        self.assertIn("its values are in the GPU's memory, which a core file does not hold", dead["fresco-stats gpu"])


class AsAnIde(unittest.TestCase):
    def test_a_tensor_is_its_line(self):
        self.assertIn('name="outliers",numchild="0",value="%s"' % value(live["print outliers"]), ide)

    def test_what_has_members_has_its_line_as_the_first(self):
        line = value(live["print *quantized._M_ptr"]).partition(" = {")[0]
        self.assertIn('exp="summary",numchild="0",value="\\"%s\\""' % line, ide)
        self.assertIn('exp="weight_",numchild="0",value="float8_e4m3fn [6, 16] cpu, 6 scales', ide)


class Pictures(unittest.TestCase):
    def pixels(self, file):
        """By libpng."""
        ran = subprocess.run([debugger.PROGRAM, "--pixels", os.path.join(folder.name, file)], capture_output=True, text=True)
        self.assertEqual(ran.returncode, 0, ran.stderr)
        picture = json.loads(ran.stdout)
        picture["at"] = lambda x, y: tuple(picture["rgb"][3 * (y * picture["width"] + x) :][:3])
        return picture

    def test_both_channels(self):
        self.assertEqual(live[PICTURES["both"]],
                         "both.png: [2, 2, 3] float32 cpu, 2 channels in lines of 2, each value 32 pixels, colours from -1 (blue) to 1 (red)")
        picture = self.pixels("both.png")
        # Two tiles of 3 x 2 values, each of 32 x 32 pixels, and 2 pixels between them.
        self.assertEqual((picture["width"], picture["height"]), (2 * 96 + 2, 64))
        blue, white, red = picture["at"](0, 0), picture["at"](40, 10), picture["at"](95, 31)
        self.assertGreater(blue[2], 2 * blue[0])
        self.assertEqual(white, (255, 255, 255))
        self.assertGreater(red[0], 2 * red[2])
        self.assertEqual(picture["at"](0, 32), (255, 0, 255))  # NaN
        self.assertEqual(picture["at"](33, 63), (0, 200, 0))  # infinite
        self.assertEqual(picture["at"](98, 0), (255, 255, 255))  # the second channel

    def test_one_channel_of_a_view(self):
        self.assertIn("channel 4, each value 32 pixels", live[PICTURES["one"]])
        picture = self.pixels("one.png")
        self.assertEqual((picture["width"], picture["height"]), (2 * 32, 3 * 32))

    def test_a_large_plane_is_made_smaller_and_keeps_its_outlier(self):
        self.assertIn("each pixel the largest magnitude of 2 x 2 values", live[PICTURES["wide"]])
        picture = self.pixels("wide.png")
        self.assertEqual((picture["width"], picture["height"]), (350, 550))
        outlier, reddest = picture["at"](3 // 2, 700 // 2), (170, 10, 20)
        self.assertEqual(outlier, reddest)

    def test_a_view_whose_rows_lie_far_apart(self):
        self.assertIn("thin.png: [2, 1100] float32 cpu strides [1, 700]", live[PICTURES["thin"]])
        picture = self.pixels("thin.png")
        self.assertEqual((picture["width"], picture["height"]), (550, 1))
        self.assertEqual(picture["at"](700 // 2, 0), (170, 10, 20))

    def test_errors_name_what_is_wrong(self):
        for question, words in MISTAKES.items():
            with self.subTest(question):
                self.assertIn(words, live[question])
                self.assertNotIn("Traceback", live[question])
                self.assertNotIn("Python Exception", live[question])


if __name__ == "__main__":
    unittest.main()

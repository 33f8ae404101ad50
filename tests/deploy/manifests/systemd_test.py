"""deploy/systemd: systemd's own checks of the unit, and the server at work under the unit's system call filter."""

import errno
import json
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time
import unittest

import pyseccomp

from checked_config import BIN, ROOT

SYSTEMD = ROOT / "deploy" / "systemd"
UNIT = SYSTEMD / "fresco-server.service"
# systemd-analyze's exposure, 0 to 100, of which 1.4 is from what a network service cannot do without.
EXPOSURE, GPU_EXPOSURE = 15, 18
CALLS = 60  # seconds that a program may take here


def settings(name):
    """The values of a setting of the unit, in order."""
    return re.findall(rf"^{name}=(.*)$", UNIT.read_text(encoding="utf-8"), flags=re.MULTILINE)


def run(*command, **options):
    return subprocess.run(command, check=False, timeout=CALLS, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)


class Units:
    """A folder with the unit in it, its programs where they were built."""

    def __init__(self, text=None, drop_in=None):
        self.folder = tempfile.TemporaryDirectory()
        self.unit = pathlib.Path(self.folder.name) / UNIT.name
        text = text or UNIT.read_text(encoding="utf-8")
        self.unit.write_text(text.replace("/opt/fresco/bin/", f"{BIN}/"), encoding="utf-8")
        if drop_in:
            target = pathlib.Path(self.folder.name) / f"{UNIT.name}.d" / drop_in.name
            target.parent.mkdir()
            shutil.copy(drop_in, target)

    def __enter__(self):
        return self.unit

    def __exit__(self, *_):
        self.folder.cleanup()


class UnitTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        if shutil.which("systemd-analyze") is None:
            raise AssertionError("systemd-analyze is missing: apt-get install systemd (./dev test does)")

    def test_systemd_understands_it(self):
        for drop_in in (None, SYSTEMD / "gpu.conf"):
            with self.subTest(drop_in=drop_in), Units(drop_in=drop_in) as unit:
                result = run("systemd-analyze", "verify", "--man=no", unit)
                self.assertEqual((result.returncode, result.stdout), (0, ""))

    def test_a_mistake_would_be_noticed(self):
        text = UNIT.read_text(encoding="utf-8")
        with Units(text.replace("ProtectSystem=", "ProtectSystm=")) as unit:
            self.assertIn("ProtectSystm", run("systemd-analyze", "verify", "--man=no", unit).stdout)
        with Units(text.replace("/opt/fresco/bin/fresco-server ", "/opt/fresco/bin/fresco-sevrer ")) as unit:
            self.assertNotEqual(run("systemd-analyze", "verify", "--man=no", unit).returncode, 0)

    def test_it_may_do_little(self):
        for drop_in, bound in ((None, EXPOSURE), (SYSTEMD / "gpu.conf", GPU_EXPOSURE)):
            with self.subTest(drop_in=drop_in), Units(drop_in=drop_in) as unit:
                result = run("systemd-analyze", "security", "--offline=yes", f"--threshold={bound}", unit)
                self.assertEqual(result.returncode, 0, result.stdout)
        with Units(UNIT.read_text(encoding="utf-8").replace("CapabilityBoundingSet=\n", "")) as unit:
            self.assertNotEqual(run("systemd-analyze", "security", "--offline=yes", f"--threshold={EXPOSURE}", unit).returncode, 0)

    def test_it_starts_anew_what_asks_for_it(self):
        header = (ROOT / "server" / "main" / "application.h").read_text(encoding="utf-8")
        self.assertEqual(settings("RestartForceExitStatus"), re.findall(r"kRestartExitCode = (\d+)", header))
        self.assertEqual(settings("Restart"), ["on-failure"])
        wrong = run(BIN / "fresco-server", "--no-such-flag")
        self.assertEqual(settings("RestartPreventExitStatus"), [str(wrong.returncode)])

    def test_it_is_given_the_time_to_finish(self):
        config = (ROOT / "server" / "config" / "config.h").read_text(encoding="utf-8")
        [grace] = re.findall(r"grace_period = absl::Seconds\((\d+)\)", config)
        [stop] = settings("TimeoutStopSec")
        self.assertGreaterEqual(int(stop.removesuffix("s")), int(grace) + 11)  # last reads and last words: server/main/application.cc
        self.assertEqual(settings("KillSignal"), ["SIGTERM"])

    def test_the_user_and_the_folder_are_made(self):
        with tempfile.TemporaryDirectory() as root:
            (pathlib.Path(root) / "etc").mkdir()
            result = run("systemd-sysusers", f"--root={root}", SYSTEMD / "fresco.sysusers.conf")
            self.assertEqual(result.returncode, 0, result.stdout)
            users = (pathlib.Path(root) / "etc" / "passwd").read_text(encoding="utf-8")
            self.assertIn(f"{settings('User')[0]}:", users)
            result = run("systemd-tmpfiles", f"--root={root}", "--create", SYSTEMD / "fresco.tmpfiles.conf")
            self.assertEqual(result.returncode, 0, result.stdout)
            for folder in ("etc/fresco", "srv/fresco/models"):  # for the service's user, and not for others
                self.assertEqual((pathlib.Path(root) / folder).stat().st_mode & 0o777, 0o750)
            [config] = re.findall(r"--config (/\S+)", settings("ExecStart")[0])
            self.assertEqual(pathlib.PurePosixPath(config).parent, pathlib.PurePosixPath("/etc/fresco"))


def call_sets():
    """systemd's sets of system calls by name: {"@default": ["brk", ...]}."""
    sets, name = {}, ""
    for line in run("systemd-analyze", "syscall-filter", "--no-pager").stdout.splitlines():
        if line.startswith("@"):
            name = line.strip()
        elif name and (word := line.strip()) and not word.startswith("#"):
            sets.setdefault(name, []).append(word)
    return sets


def expand(words, sets):
    return {call for word in words for call in (expand(sets[word], sets) if word.startswith("@") else {word})}


def allowed_calls():
    """What SystemCallFilter= lets through: the first line allows, those after it allow more or, with ~, less."""
    sets = call_sets()
    allowed = expand(["@default"], sets)  # implied by systemd
    for line in settings("SystemCallFilter"):
        calls = expand(line.lstrip("~").split(), sets)
        allowed = allowed - calls if line.startswith("~") else allowed | calls
    return allowed


class FilterTest(unittest.TestCase):
    """The seccomp filter of the unit, as the kernel applies it."""

    @classmethod
    def setUpClass(cls):
        cls.filter = pyseccomp.SyscallFilter(pyseccomp.ERRNO(getattr(errno, settings("SystemCallErrorNumber")[0])))
        for call in allowed_calls():
            try:
                cls.filter.add_rule(pyseccomp.ALLOW, call)
            except (OSError, ValueError):
                continue  # of another architecture, or newer than libseccomp

    def test_what_is_not_allowed_fails(self):
        program = "import ctypes, errno; l = ctypes.CDLL(None, use_errno=True); l.mount(None, None, None, 0, None); print(errno.errorcode[ctypes.get_errno()])"
        result = run(sys.executable, "-c", program, preexec_fn=self.filter.load)
        self.assertEqual(result.stdout.strip(), "EPERM")

    def test_the_server_draws_under_it(self):
        with tempfile.TemporaryDirectory() as folder:
            port_file = pathlib.Path(folder) / "ports.json"
            with open(pathlib.Path(folder) / "log", "w+", encoding="utf-8") as log:
                server = subprocess.Popen([BIN / "fresco-server", "--address", "127.0.0.1:0", "--metrics-address", "127.0.0.1:0", "--port-file",
                                           port_file], env={"OMP_WAIT_POLICY": "passive"}, stdout=log, stderr=log, preexec_fn=self.filter.load)
                try:
                    for _ in range(1200):
                        if port_file.exists() or server.poll() is not None:
                            break
                        time.sleep(0.1)
                    log.seek(0)
                    self.assertTrue(port_file.exists(), log.read())
                    address = json.loads(port_file.read_text(encoding="utf-8"))["address"]
                    picture = pathlib.Path(folder) / "fox.webp"
                    drawn = run(BIN / "fresco", "generate", "--server", address, "--wait", "60", "-p", "a red fox", "--steps", "2", "-o", picture, "-q")
                    self.assertEqual(drawn.returncode, 0, drawn.stdout)
                    self.assertGreater(picture.stat().st_size, 100)
                finally:
                    server.terminate()
                    code = server.wait(timeout=CALLS)
                self.assertEqual(code, 0)


if __name__ == "__main__":
    unittest.main()

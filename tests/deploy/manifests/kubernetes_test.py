"""deploy/kubernetes: each kustomization is built, and what comes out is checked as a cluster, and Fresco in it, would see it."""

import base64
import json
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

import jsonschema
import kubernetes_validate
import yaml

import kustomize
from checked_config import BIN, ROOT, absolute_paths, complaints, seconds

sys.path.append(str(ROOT / "tests" / "deploy" / "envoy"))
import edge  # noqa: E402

KUBERNETES = ROOT / "deploy" / "kubernetes"
# The oldest and the newest release whose schemas the objects are held to.
VERSIONS = ("1.30", "1.37")
# What the README has an operator make by hand, with the files in it; no object of ours holds one.
SECRETS = {"fresco-tokens": ["tokens.yaml"], "fresco-edge-tls": ["tls.crt", "tls.key"], "fresco-tls": ["tls.crt", "tls.key", "ca.crt"],
           "fresco-envoy-client": ["tls.crt", "tls.key", "ca.crt"]}
# Seconds that a server may take after grace_period until it is gone: last reads and last words (server/main/application.cc), and a margin.
LAST_WORDS = 6 + 5


def of_kind(objects, kind):
    return [item for item in objects if item["kind"] == kind]


def one_named(objects, kind, name):
    [found] = [item for item in of_kind(objects, kind) if item["metadata"]["name"] == name]
    return found


def selects(selector, labels):
    return all(labels.get(key) == value for key, value in selector.items())


def server_of(objects):
    """The Deployment of fresco-server, its pod's specification and its container."""
    deployment = one_named(objects, "Deployment", "fresco")
    pod = deployment["spec"]["template"]["spec"]
    [container] = pod["containers"]
    return deployment, pod, container


def config_of(objects):
    """The text of the configuration that is mounted where the server is told to read it."""
    _, pod, container = server_of(objects)
    path = pathlib.PurePosixPath(container["args"][container["args"].index("--config") + 1])
    [mount] = [mount for mount in container["volumeMounts"] if mount["mountPath"] == str(path.parent)]
    [volume] = [volume for volume in pod["volumes"] if volume["name"] == mount["name"]]
    return one_named(objects, "ConfigMap", volume["configMap"]["name"])["data"][path.name]


def ports_of(container):
    return {port["name"]: port["containerPort"] for port in container["ports"]}


def asked_by(probe):
    """The port that a probe of the server's health asks, and the name that it asks for: by the kubelet's own gRPC, or by `fresco health`."""
    if "grpc" in probe:
        return probe["grpc"]["port"], probe["grpc"].get("service", "")
    program, command, *arguments = probe["exec"]["command"]
    assert (program, command) == ("/opt/fresco/bin/fresco", "health"), program
    name = "" if arguments[0].startswith("--") else arguments.pop(0)
    return int(arguments[arguments.index("--server") + 1].rpartition(":")[2]), name


def pods_of(objects):
    """(object, labels of its pods, their specification)."""
    result = []
    for item in objects:
        for spec in kustomize.pod_specs(item):
            metadata = item["metadata"] if item["kind"] == "Pod" else item["spec"]["template"]["metadata"]
            result.append((item, metadata["labels"], spec))
    return result


def cores(quantity):
    text = str(quantity)
    return float(text[:-1]) / 1000 if text.endswith("m") else float(text)


class ObjectTests:
    """Of every kustomization."""

    @classmethod
    def setUpClass(cls):
        cls.objects = kustomize.build(cls.folder)

    def test_every_object_is_what_the_api_takes(self):
        for item in self.objects:
            if item["apiVersion"].startswith("keda.sh/"):
                jsonschema.validate(item, KEDA_SCHEMA)
                continue
            for version in VERSIONS:
                kubernetes_validate.validate(item, version, strict=True)

    def test_kustomize_itself_builds_the_same(self):
        kubectl = shutil.which("kubectl")
        if kubectl is None:
            self.skipTest("there is no kubectl to compare with")
        text = subprocess.run([kubectl, "kustomize", self.folder], check=True, timeout=60, stdout=subprocess.PIPE, text=True).stdout
        theirs = {kustomize.identity(item): item for item in kustomize.load_yaml(text)}
        ours = {kustomize.identity(item): item for item in self.objects}
        self.assertEqual(ours.keys(), theirs.keys())
        for name, item in ours.items():
            self.assertEqual(item, theirs[name])

    def test_everything_is_in_the_one_namespace(self):
        objects = self.objects
        for item in objects:
            self.assertEqual(item["metadata"].get("namespace", "fresco"), "fresco", item["kind"])

    def test_images_are_named_with_their_version(self):
        objects = self.objects
        for item, _, pod in pods_of(objects):
            for container in pod["containers"]:
                self.assertRegex(container["image"], r"^[\w.\-/]+/[\w.\-/]+(:[\w.\-]*\d[\w.\-]*|@sha256:[0-9a-f]{64})$", item["metadata"]["name"])

    def test_selectors_find_what_they_are_for(self):
        objects = self.objects
        pods = pods_of(objects)
        for item in of_kind(objects, "Deployment"):
            self.assertTrue(selects(item["spec"]["selector"]["matchLabels"], item["spec"]["template"]["metadata"]["labels"]))
            for spread in item["spec"]["template"]["spec"].get("topologySpreadConstraints", []):
                self.assertEqual(spread["labelSelector"]["matchLabels"], item["spec"]["selector"]["matchLabels"])
        for item in of_kind(objects, "Service"):
            found = [pod for _, labels, pod in pods if selects(item["spec"]["selector"], labels)]
            self.assertEqual(len(found), 1, item["metadata"]["name"])
        for item in of_kind(objects, "PodDisruptionBudget"):
            found = [pod for _, labels, pod in pods if selects(item["spec"]["selector"]["matchLabels"], labels)]
            self.assertEqual(len(found), 1, item["metadata"]["name"])
        for item in of_kind(objects, "HorizontalPodAutoscaler") + of_kind(objects, "ScaledObject"):
            target = item["spec"]["scaleTargetRef"]
            deployment = one_named(objects, target["kind"], target["name"])
            self.assertEqual(deployment["apiVersion"], target["apiVersion"])
            self.assertNotIn("replicas", deployment["spec"], "each apply would set the autoscaler's number back")

    def test_two_selectors_share_no_pods(self):
        objects = self.objects
        for item in of_kind(objects, "Deployment"):
            found = [pod for pod, labels, _ in pods_of(objects) if selects(item["spec"]["selector"]["matchLabels"], labels)]
            self.assertEqual(found, [item])

    def test_ports_have_names_that_lead_somewhere(self):
        objects = self.objects
        for service in of_kind(objects, "Service"):
            [pod] = [pod for _, labels, pod in pods_of(objects) if selects(service["spec"]["selector"], labels)]
            names = ports_of(pod["containers"][0])
            for port in service["spec"]["ports"]:
                self.assertIn(port["targetPort"], names, service["metadata"]["name"])
        for item, _, pod in pods_of(objects):
            for container in pod["containers"]:
                for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                    for kind in ("grpc", "httpGet", "tcpSocket"):
                        if kind in container.get(probe, {}):
                            port = container[probe][kind]["port"]
                            self.assertIn(port, list(ports_of(container)) + list(ports_of(container).values()), item["metadata"]["name"])

    def test_pods_may_do_nothing_that_they_need_not(self):
        objects = self.objects
        for item, _, pod in pods_of(objects):
            self.assertIs(pod["automountServiceAccountToken"], False)
            self.assertFalse({"hostNetwork", "hostPID", "hostIPC"} & set(pod))
            self.assertIs(pod["securityContext"]["runAsNonRoot"], True)
            self.assertGreater(pod["securityContext"]["runAsUser"], 0)
            self.assertEqual(pod["securityContext"]["seccompProfile"], {"type": "RuntimeDefault"})
            for volume in pod["volumes"]:
                self.assertFalse({"hostPath"} & set(volume))
                if "emptyDir" in volume:
                    self.assertIn("sizeLimit", volume["emptyDir"])
            for container in pod["containers"]:
                context = container["securityContext"]
                self.assertIs(context["allowPrivilegeEscalation"], False, item["metadata"]["name"])
                self.assertIs(context["readOnlyRootFilesystem"], True)
                self.assertEqual(context["capabilities"], {"drop": ["ALL"]})
                self.assertIn("memory", container["resources"]["limits"])
                self.assertLessEqual({"cpu", "memory"}, set(container["resources"]["requests"]))
        for account in of_kind(objects, "ServiceAccount"):
            self.assertIs(account["automountServiceAccountToken"], False)

    def test_no_secret_is_committed(self):
        objects = self.objects
        self.assertEqual(of_kind(objects, "Secret"), [])


class ServerTests(ObjectTests):
    """Of every kustomization with a server in it."""

    def test_there_is_one_autoscaler(self):
        objects = self.objects
        self.assertEqual(len(of_kind(objects, "HorizontalPodAutoscaler") + of_kind(objects, "ScaledObject")), 1)

    def test_the_server_takes_its_configuration(self):
        objects = self.objects
        self.assertEqual(complaints(config_of(objects)), "")

    def test_the_configuration_listens_where_the_cluster_looks(self):
        objects = self.objects
        _, _, container = server_of(objects)
        config = yaml.safe_load(config_of(objects))
        self.assertEqual(config["server"]["address"], f"0.0.0.0:{ports_of(container)['grpc']}")
        self.assertEqual(config["metrics"]["address"], f"0.0.0.0:{ports_of(container)['metrics']}")
        annotations = server_of(objects)[0]["spec"]["template"]["metadata"]["annotations"]
        self.assertEqual(annotations["prometheus.io/port"], str(ports_of(container)["metrics"]))
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            self.assertEqual(asked_by(container[probe])[0], ports_of(container)["grpc"])

    def test_the_network_policies_let_through_what_is_served(self):
        objects = self.objects
        _, _, container = server_of(objects)
        policy = one_named(objects, "NetworkPolicy", "fresco")
        self.assertEqual(policy["spec"]["podSelector"]["matchLabels"], server_of(objects)[0]["spec"]["selector"]["matchLabels"])
        self.assertNotIn("egress", policy["spec"])
        self.assertEqual([port["port"] for rule in policy["spec"]["ingress"] for port in rule["ports"]],
                         [ports_of(container)["grpc"], ports_of(container)["metrics"]])
        everything = one_named(objects, "NetworkPolicy", "nothing")
        self.assertEqual(everything["spec"], {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]})

    def test_callers_have_to_be_known(self):
        _, pod, container = server_of(self.objects)
        settings = yaml.safe_load(config_of(self.objects))["server"]
        self.assertNotIn("allow_anonymous", settings)
        tokens = pathlib.PurePosixPath(settings["tokens"])
        [mount] = [mount for mount in container["volumeMounts"] if mount["mountPath"] == str(tokens.parent)]
        [volume] = [volume for volume in pod["volumes"] if volume["name"] == mount["name"]]
        self.assertIn(tokens.name, SECRETS[volume["secret"]["secretName"]])
        readme = (KUBERNETES / "README.md").read_text(encoding="utf-8")
        for name, keys in SECRETS.items():
            self.assertIn(f"| `{name}` | " + ", ".join(f"`{key}`" for key in keys), readme)

    def test_liveness_asks_for_the_process_alone(self):
        header = (ROOT / "server" / "rpc" / "server.h").read_text(encoding="utf-8")
        [name] = re.findall(r'kLivenessService = "([^"]+)"', header)
        objects = self.objects
        _, _, container = server_of(objects)
        self.assertEqual(asked_by(container["livenessProbe"])[1], name)
        for probe in ("startupProbe", "readinessProbe"):
            self.assertEqual(asked_by(container[probe])[1], "")  # all models

    def test_a_pod_that_goes_has_the_time_to_finish(self):
        objects = self.objects
        _, pod, container = server_of(objects)
        command = container["lifecycle"]["preStop"]["exec"]["command"]
        self.assertEqual(command[0], "/bin/sleep")
        grace = seconds(yaml.safe_load(config_of(objects))["server"]["grace_period"])
        self.assertGreaterEqual(pod["terminationGracePeriodSeconds"], int(command[1]) + grace + LAST_WORDS)
        # Until the pod has left the Services: a probe's period at the least.
        probe = container["readinessProbe"]
        self.assertGreaterEqual(int(command[1]), probe["periodSeconds"] * probe["failureThreshold"])

    def test_a_roll_out_waits_for_a_models_load(self):
        objects = self.objects
        deployment, _, container = server_of(objects)
        probe = container["startupProbe"]
        self.assertGreater(deployment["spec"]["progressDeadlineSeconds"], probe["periodSeconds"] * probe["failureThreshold"])

    def test_threads_are_as_many_as_cores_are_asked_for(self):
        objects = self.objects
        resources = server_of(objects)[2]["resources"]
        self.assertEqual(yaml.safe_load(config_of(objects))["compute"]["threads"], cores(resources["requests"]["cpu"]))
        self.assertNotIn("cpu", resources["limits"], "a quota below the threads would throttle every step")

    def test_paths_are_in_a_volume_or_in_the_image(self):
        objects = self.objects
        _, _, container = server_of(objects)
        mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
        for path in absolute_paths(yaml.safe_load(config_of(objects))):
            within = [mount for mount in mounts if path.startswith(mount + "/")]
            self.assertTrue(within or path.startswith("/opt/fresco/"), path)
        costs = yaml.safe_load(config_of(objects))["scheduler"]["cost_model"]
        self.assertFalse(mounts[str(pathlib.PurePosixPath(costs).parent)].get("readOnly", False), "it is written at the end")

    def test_the_gpu_overlays_ask_for_the_gpus_that_they_use(self):
        objects = self.objects
        _, pod, container = server_of(objects)
        devices = {device for model in yaml.safe_load(config_of(objects))["models"] for device in model["devices"]}
        gpus = len([device for device in devices if device.startswith("cuda:")])
        resources = container["resources"]
        for part in ("requests", "limits"):
            self.assertEqual(int(resources[part].get("nvidia.com/gpu", 0)), gpus)
        self.assertEqual(container["image"].rpartition("-")[2], "cuda" if gpus else "cpu")
        tolerated = [toleration["key"] for toleration in pod.get("tolerations", [])]
        self.assertEqual(tolerated, ["nvidia.com/gpu"] if gpus else [])

    def test_what_pods_refer_to_is_there(self):
        objects = self.objects
        for _, _, pod in pods_of(objects):
            volumes = {volume["name"]: volume for volume in pod["volumes"]}
            mounted = {mount["name"] for container in pod["containers"] for mount in container["volumeMounts"]}
            self.assertEqual(mounted, set(volumes))
            if "serviceAccountName" in pod:
                one_named(objects, "ServiceAccount", pod["serviceAccountName"])
            for volume in volumes.values():
                for source in [volume, *volume.get("projected", {}).get("sources", [])]:
                    if "configMap" in source:
                        config_map = one_named(objects, "ConfigMap", source["configMap"]["name"])
                        keys = {item["key"] for item in source["configMap"].get("items", [])}
                        self.assertLessEqual(keys, set(config_map["data"]))
                if "secret" in volume:
                    self.assertIn(volume["secret"]["secretName"], SECRETS)


class ModelVolumeTests:
    """Of the overlays whose models are in a volume."""

    def test_the_models_are_only_read(self):
        _, pod, container = server_of(self.objects)
        [volume] = [volume for volume in pod["volumes"] if volume["name"] == "models"]
        [mount] = [mount for mount in container["volumeMounts"] if mount["name"] == "models"]
        self.assertIs(volume["persistentVolumeClaim"]["readOnly"], True)
        self.assertIs(mount["readOnly"], True)
        claim = one_named(self.objects, "PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"])
        self.assertEqual(claim["spec"]["accessModes"], ["ReadWriteMany"])  # models-upload writes to it


def files_of(objects, pod, container):
    """What a container finds in its ConfigMaps: bytes by their paths."""
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    files = {}
    for mount in container["volumeMounts"]:
        volume = volumes[mount["name"]]
        for source in [volume, *volume.get("projected", {}).get("sources", [])]:
            if "configMap" not in source:
                continue
            config_map = one_named(objects, "ConfigMap", source["configMap"]["name"])
            content = {key: text.encode() for key, text in config_map.get("data", {}).items()}
            content |= {key: base64.b64decode(text) for key, text in config_map.get("binaryData", {}).items()}
            paths = {item["key"]: item["path"] for item in source["configMap"].get("items", [])}
            for key, value in content.items():
                files[f"{mount['mountPath']}/{paths.get(key, key)}"] = value
    return files


def make_certificates(folder, names):
    """ca.crt, and tls.crt with tls.key for the names, for servers and clients."""
    def openssl(*arguments):
        subprocess.run(["openssl", *arguments], check=True, timeout=60, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=authority", "-keyout", "ca.key", "-out", "ca.crt")
    openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", f"/CN={names[0]}", "-keyout", "tls.key", "-out", "tls.csr")
    (folder / "extensions").write_text("extendedKeyUsage=serverAuth,clientAuth\nsubjectAltName=" + ",".join(f"DNS:{name}" for name in names), encoding="utf-8")
    openssl("x509", "-req", "-in", "tls.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "extensions", "-out", "tls.crt")


class EnvoyTests:
    """Of the overlays with Envoy in front."""

    def envoy(self):
        deployment = one_named(self.objects, "Deployment", "fresco-envoy")
        pod = deployment["spec"]["template"]["spec"]
        [container] = pod["containers"]
        return deployment, pod, container

    def bootstrap(self):
        _, pod, container = self.envoy()
        path = container["workingDir"] + "/" + container["args"][container["args"].index("-c") + 1]
        return yaml.safe_load(files_of(self.objects, pod, container)[path])["static_resources"]

    def test_envoy_accepts_its_files_as_the_container_sees_them(self):
        _, pod, container = self.envoy()
        with tempfile.TemporaryDirectory() as folder:
            for path, content in files_of(self.objects, pod, container).items():
                there = pathlib.Path(folder + path)
                there.parent.mkdir(parents=True, exist_ok=True)
                there.write_bytes(content)
            arguments = container["args"][:container["args"].index("-c") + 2]
            command = [edge.envoy_binary(), "--mode", "validate", *arguments]
            result = subprocess.run(command, cwd=folder + container["workingDir"], check=False, timeout=60, stdout=subprocess.PIPE,
                                    stderr=subprocess.STDOUT, text=True)
            self.assertEqual(result.returncode, 0, result.stdout)
            (pathlib.Path(folder + container["workingDir"]) / "deploy" / "envoy" / "fresco.binpb").unlink()
            result = subprocess.run(command, cwd=folder + container["workingDir"], check=False, timeout=60, stdout=subprocess.DEVNULL,
                                    stderr=subprocess.DEVNULL)
            self.assertNotEqual(result.returncode, 0)  # so it does look at them

    def test_envoy_listens_where_the_cluster_looks(self):
        _, _, container = self.envoy()
        listeners = {listener["name"]: listener["address"]["socket_address"]["port_value"] for listener in self.bootstrap()["listeners"]}
        self.assertEqual(listeners, ports_of(container))
        policy = one_named(self.objects, "NetworkPolicy", "fresco-envoy")["spec"]
        self.assertEqual([port["port"] for rule in policy["ingress"] for port in rule["ports"]], [listeners["edge"], listeners["metrics"]])

    def test_envoy_asks_the_replicas(self):
        [cluster] = [cluster for cluster in self.bootstrap()["clusters"] if cluster["name"] == "fresco"]
        [endpoint] = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]
        address = endpoint["endpoint"]["address"]["socket_address"]
        service = one_named(self.objects, "Service", address["address"])
        self.assertEqual(service["spec"]["clusterIP"], "None")  # one address for each replica
        self.assertIn(address["port_value"], [port["port"] for port in service["spec"]["ports"]])
        # The way there is open at both ends.
        labels = server_of(self.objects)[0]["spec"]["template"]["metadata"]["labels"]
        egress = one_named(self.objects, "NetworkPolicy", "fresco-envoy")["spec"]["egress"][0]
        self.assertTrue(selects(egress["to"][0]["podSelector"]["matchLabels"], labels))
        self.assertEqual(egress["ports"][0]["port"], address["port_value"])
        ingress = one_named(self.objects, "NetworkPolicy", "fresco")["spec"]["ingress"][0]
        self.assertTrue(selects(ingress["from"][0]["podSelector"]["matchLabels"], self.envoy()[0]["spec"]["template"]["metadata"]["labels"]))

    def test_certificates_are_where_envoy_looks(self):
        _, pod, container = self.envoy()
        secrets = {volume["name"]: volume["secret"]["secretName"] for volume in pod["volumes"] if "secret" in volume}
        mounted = {f"{mount['mountPath']}/{file}" for mount in container["volumeMounts"] if mount["name"] in secrets
                   for file in SECRETS[secrets[mount["name"]]]}
        files = files_of(self.objects, pod, container)
        bootstrap = files[container["workingDir"] + "/" + container["args"][1]].decode()
        named = set()
        for file in re.findall(r"deploy/envoy/tls/\w+\.yaml", bootstrap):
            named |= set(re.findall(r"filename: (\S+?)}", files[f"{container['workingDir']}/{file}"].decode()))
        self.assertEqual(named, mounted)

    def test_an_envoy_that_goes_has_the_time_to_finish(self):
        _, pod, container = self.envoy()
        _, script, settle, grace = container["lifecycle"]["preStop"]["exec"]["command"]
        self.assertIn(script, files_of(self.objects, pod, container))
        self.assertGreaterEqual(pod["terminationGracePeriodSeconds"], int(grace) + LAST_WORDS)
        probe = container["readinessProbe"]
        self.assertGreaterEqual(int(settle), probe["periodSeconds"] * probe["failureThreshold"])


class CpuTest(ServerTests, unittest.TestCase):
    folder = KUBERNETES / "overlays" / "cpu"


class CpuEnvoyTest(ServerTests, EnvoyTests, unittest.TestCase):
    folder = KUBERNETES / "overlays" / "cpu-envoy"


class GpuTest(ServerTests, ModelVolumeTests, unittest.TestCase):
    folder = KUBERNETES / "overlays" / "gpu"


class GpuEnvoyMtlsTest(ServerTests, ModelVolumeTests, EnvoyTests, unittest.TestCase):
    folder = KUBERNETES / "overlays" / "gpu-envoy-mtls"

    def test_nothing_is_said_in_clear(self):
        _, pod, container = server_of(self.objects)
        settings = yaml.safe_load(config_of(self.objects))["server"]
        self.assertNotIn("allow_plaintext", settings)
        self.assertEqual(settings["tls"]["client_certificates"], "required")
        [cluster] = [cluster for cluster in self.bootstrap()["clusters"] if cluster["name"] == "fresco"]
        self.assertEqual(cluster["transport_socket"]["name"], "envoy.transport_sockets.tls")
        # What the server and the probes read is in the Secret.
        [mount] = [mount for mount in container["volumeMounts"] if mount["mountPath"] == "/etc/fresco-tls"]
        [volume] = [volume for volume in pod["volumes"] if volume["name"] == mount["name"]]
        there = {f"/etc/fresco-tls/{file}" for file in SECRETS[volume["secret"]["secretName"]]}
        self.assertEqual({path for path in settings["tls"].values() if path.startswith("/")}, there)
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            self.assertEqual({word for word in container[probe]["exec"]["command"] if word.startswith("/etc")}, there)

    def test_the_probes_get_through_where_others_do_not(self):
        """The pod's configuration and its probes' commands, with a real server and certificates made as the README says."""
        with tempfile.TemporaryDirectory() as folder:
            make_certificates(pathlib.Path(folder), names=("fresco", "localhost"))
            tokens = subprocess.run([BIN / "fresco-server", "--new-token", "studio"], check=True, timeout=60, stdout=subprocess.PIPE, text=True).stdout
            (pathlib.Path(folder) / "tokens.yaml").write_text("tokens:\n" + tokens[tokens.index("  - name:"):], encoding="utf-8")
            text = config_of(self.objects).replace("/etc/fresco-tls/", f"{folder}/").replace("/etc/fresco-tokens/", f"{folder}/")
            text = text.replace("/var/lib/fresco/", f"{folder}/").replace("/models/stable-diffusion-3.5-medium", str(ROOT / "models" / "demo"))
            with edge.running_server(config=text.replace("cuda:0", "cpu")) as server:
                _, _, container = server_of(self.objects)
                ask = {probe: [str(BIN / "fresco") if word == "/opt/fresco/bin/fresco" else word.replace("/etc/fresco-tls", folder).replace(
                    "localhost:8500", "localhost:" + server.address.rpartition(":")[2]) for word in container[probe]["exec"]["command"]]
                    for probe in ("startupProbe", "readinessProbe", "livenessProbe")}
                self.assertEqual(subprocess.run(ask["livenessProbe"], check=False, timeout=60, stdout=subprocess.DEVNULL).returncode, 0)
                for probe in ("startupProbe", "readinessProbe"):
                    waiting = [*ask[probe], "--wait", "120"]
                    self.assertEqual(subprocess.run(waiting, check=False, timeout=150, stdout=subprocess.DEVNULL).returncode, 0, probe)
                stranger = ask["readinessProbe"][:ask["readinessProbe"].index("--certificate")]
                self.assertNotEqual(subprocess.run(stranger, check=False, timeout=60, stderr=subprocess.DEVNULL).returncode, 0)


class GpuKedaTest(ServerTests, ModelVolumeTests, unittest.TestCase):
    folder = KUBERNETES / "overlays" / "gpu-keda"


class GpuEnvoyTest(ServerTests, ModelVolumeTests, EnvoyTests, unittest.TestCase):
    folder = KUBERNETES / "overlays" / "gpu-envoy"


class ModelsUploadTest(ObjectTests, unittest.TestCase):
    folder = KUBERNETES / "models-upload"


class TreeTest(unittest.TestCase):
    """What is said of deploy/kubernetes as a whole."""

    TESTED = {cls.folder for cls in (CpuTest, CpuEnvoyTest, GpuTest, GpuEnvoyTest, GpuEnvoyMtlsTest, GpuKedaTest, ModelsUploadTest)}

    def test_every_kustomization_is_tested_and_documented(self):
        readme = (KUBERNETES / "README.md").read_text(encoding="utf-8")
        there = {path.parent for path in KUBERNETES.glob("**/kustomization.yaml")}
        there -= {path for path in there if path.parent.name == "components"} | {KUBERNETES / "base"}  # built as parts of overlays
        self.assertEqual(there, self.TESTED)
        for folder in there:
            self.assertIn(folder.relative_to(KUBERNETES).as_posix(), readme)

    def test_no_secret_is_in_any_file(self):
        private = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY|(?i:password|secret|token)[\"']?\s*[:=]\s*[\"']?(?=[A-Za-z0-9+/]*\d)[A-Za-z0-9+/]{16,}={0,2}")
        self.assertTrue(private.search(b"token: c2VjcmV0IHRva2VuIG9mIHNvbWVib2R5"))
        for file in subprocess.run(["git", "-C", ROOT, "ls-files", "deploy"], check=True, stdout=subprocess.PIPE, text=True).stdout.split():
            self.assertIsNone(private.search((ROOT / file).read_bytes()), file)

    def test_every_component_is_part_of_an_overlay(self):
        used = {(path.parent / name).resolve() for path in (KUBERNETES / "overlays").glob("*/kustomization.yaml")
                for name in yaml.safe_load(path.read_text(encoding="utf-8")).get("components", [])}
        self.assertEqual({path.parent for path in (KUBERNETES / "components").glob("*/kustomization.yaml")}, used)

    def test_the_schemas_do_find_mistakes(self):
        objects = kustomize.build(GpuKedaTest.folder)
        deployment, _, container = server_of(objects)
        container["livenessProbe"]["grpc"]["prot"] = 1
        with self.assertRaises(kubernetes_validate.ValidationError):
            kubernetes_validate.validate(deployment, VERSIONS[0], strict=True)
        scaled = one_named(objects, "ScaledObject", "fresco")
        scaled["spec"]["triggers"][0]["metadata"]["thresold"] = "1"
        with self.assertRaises(jsonschema.ValidationError):
            jsonschema.validate(scaled, KEDA_SCHEMA)

    def test_a_wrong_configuration_would_be_noticed(self):
        text = config_of(kustomize.build(CpuTest.folder))
        self.assertIn("unknown setting", complaints(text.replace("grace_period", "grace_time")))


class BuilderTest(unittest.TestCase):
    """What the builder does not know it does not pass over."""

    def refusal_of(self, files):
        with tempfile.TemporaryDirectory() as folder:
            for name, text in files.items():
                path = pathlib.Path(folder) / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8")
            with self.assertRaises(kustomize.KustomizeError) as raised:
                kustomize.build(pathlib.Path(folder) / "a")
            return str(raised.exception)

    HEAD = "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\n"

    def test_unknown_features(self):
        self.assertIn("namePrefix", self.refusal_of({"a/kustomization.yaml": self.HEAD + "namePrefix: x-\n"}))

    def test_a_changed_file_changes_the_name(self):
        def name_with(content):
            with tempfile.TemporaryDirectory() as folder:
                path = pathlib.Path(folder)
                (path / "kustomization.yaml").write_text(self.HEAD + "configMapGenerator: [{name: c, files: [x.yaml]}]\n", encoding="utf-8")
                (path / "x.yaml").write_text(content, encoding="utf-8")
                [config_map] = kustomize.build(path)
                return config_map["metadata"]["name"]
        self.assertEqual(name_with("a"), name_with("a"))
        self.assertNotEqual(name_with("a"), name_with("b"))

    def test_files_from_elsewhere(self):
        config_map = self.HEAD + "configMapGenerator: [{name: c, files: [../b/x.yaml]}]\n"
        self.assertIn("outside", self.refusal_of({"a/kustomization.yaml": config_map, "b/x.yaml": "x"}))

    def test_patches_of_nothing(self):
        patch = self.HEAD + "patches: [{target: {kind: Pod, name: x}, patch: '[]'}]\n"
        self.assertIn("0 objects", self.refusal_of({"a/kustomization.yaml": patch}))

    def test_keys_that_are_set_twice(self):
        self.assertIn("'resources' is set twice", self.refusal_of({"a/kustomization.yaml": self.HEAD + "resources: []\nresources: []\n"}))


class DrainTest(unittest.TestCase):
    """components/envoy/drain.sh, on a real Envoy with a real server behind it."""

    SCRIPT = KUBERNETES / "components" / "envoy" / "drain.sh"

    def test_it_returns_when_the_calls_are_done(self):
        with edge.running_server() as server, edge.running_envoy("workstation", [server.address]) as envoy:
            admin = envoy.admin_address.replace(":", "/")
            drawing = subprocess.Popen([edge.BIN / "fresco", "generate", "--server", envoy.address, "-p", "a red fox", "--steps", "100", "--seed", "1",
                                        "-o", envoy.folder / "fox.png", "-q"])
            self.addCleanup(drawing.wait)
            edge.wait_until("the call is open", lambda: envoy.stat("http.edge.downstream_rq_active"))
            drain = subprocess.run(["/bin/bash", self.SCRIPT, "0", "120"], check=False, timeout=150, env={"PATH": "/usr/bin:/bin", "ENVOY_ADMIN": admin})
            self.assertEqual(drain.returncode, 0)
            self.assertEqual(envoy.stat("http.edge.downstream_rq_active"), 0)
            self.assertEqual(drawing.wait(timeout=60), 0)
            self.assertEqual(envoy.request("GET", "/healthz")[0], 503)

    def test_it_waits_no_longer_than_it_may(self):
        with edge.running_server() as server, edge.running_envoy("workstation", [server.address]) as envoy:
            drawing = subprocess.Popen([edge.BIN / "fresco", "generate", "--server", envoy.address, "-p", "a red fox", "--steps", "150", "--count", "16",
                                        "-o", envoy.folder / "fox.png", "-q"])
            edge.wait_until("the call is open", lambda: envoy.stat("http.edge.downstream_rq_active"))
            drain = subprocess.run(["/bin/bash", self.SCRIPT, "0", "1"], check=False, timeout=60,
                                   env={"PATH": "/usr/bin:/bin", "ENVOY_ADMIN": envoy.admin_address.replace(":", "/")})
            self.assertEqual(drain.returncode, 3)
            drawing.terminate()
            drawing.wait(timeout=60)


class ScalingTest(unittest.TestCase):
    """The autoscalers' queries, asked of a real Prometheus's engine (promtool) with made-up series."""

    PROMTOOL = shutil.which("promtool") or ROOT / ".deps" / "prometheus" / "usr" / "bin" / "promtool"

    @classmethod
    def setUpClass(cls):
        scaled = one_named(kustomize.build(KUBERNETES / "overlays" / "gpu-keda"), "ScaledObject", "fresco")
        cls.triggers = {trigger["name"]: trigger["metadata"] for trigger in scaled["spec"]["triggers"]}
        cls.adapter = yaml.safe_load((KUBERNETES / "components" / "autoscaling-hpa" / "prometheus-adapter-rules.yaml").read_text(encoding="utf-8"))
        cls.autoscaler = one_named(kustomize.build(KUBERNETES / "overlays" / "gpu"), "HorizontalPodAutoscaler", "fresco")

    def evaluate(self, query, series, expected):
        """Asserts the query's samples, of labels to value, two minutes into the series."""
        samples = [{"labels": labels, "value": value} for labels, value in expected.items()]
        test = {"tests": [{"interval": "15s", "input_series": [{"series": name, "values": values} for name, values in series.items()],
                           "promql_expr_test": [{"expr": query, "eval_time": "4m", "exp_samples": samples}]}]}
        with tempfile.TemporaryDirectory() as folder:
            file = pathlib.Path(folder) / "test.yaml"
            file.write_text(json.dumps(test), encoding="utf-8")
            result = subprocess.run([self.PROMTOOL, "test", "rules", file], timeout=60, check=False, stdout=subprocess.PIPE,
                                    stderr=subprocess.STDOUT, text=True)
            self.assertEqual(result.returncode, 0, result.stdout)

    @staticmethod
    def waits(per_interval, priority="standard"):
        """Waits of between 2.5 and 5 s, so many in 15 s, of the namespace."""
        labels = f'namespace="fresco",pod="a",model="m",priority="{priority}"'
        return {f'fresco_queue_wait_seconds_bucket{{{labels},le="{bound}"}}': f"0+{count}x20"
                for bound, count in (("2.5", 0), ("5", per_interval), ("+Inf", per_interval))}

    def adapted(self, rule, group_by):
        return rule["metricsQuery"].replace("<<.LabelMatchers>>", 'namespace="fresco"').replace("<<.GroupBy>>", group_by)

    def test_running_requests_count_over_all_replicas(self):
        running = {f'fresco_requests_running{{namespace="fresco",pod="{pod}"}}': f"{value}+0x20" for pod, value in (("a", 3), ("b", 1))}
        running['fresco_requests_running{namespace="other",pod="c"}'] = "100+0x20"
        self.evaluate(self.triggers["requests-running"]["query"], running, {"{}": 4})
        self.evaluate(self.triggers["requests-running"]["query"], {"unrelated": "1+0x20"}, {"{}": 0})
        [rule] = self.adapter["rules"]
        self.evaluate(self.adapted(rule, "pod"), running, {'{pod="a"}': 3, '{pod="b"}': 1})

    def test_waits_count_while_there_are_any(self):
        [rule] = self.adapter["externalRules"]
        for query in (self.triggers["queue-wait"]["query"], self.adapted(rule, "")):
            self.evaluate(query, self.waits(3), {"{}": 4.75})
            self.evaluate(query, self.waits(0), {"{}": 0})               # a quantile of nothing is NaN
            self.evaluate(query, {"unrelated": "1+0x20"}, {"{}": 0})     # nothing was ever asked for
            self.evaluate(query, self.waits(3, "batch"), {"{}": 0})      # batch may wait

    def test_both_ways_to_scale_aim_at_the_same(self):
        metrics = {metric[metric["type"].lower()]["metric"]["name"]: metric[metric["type"].lower()]["target"]
                   for metric in self.autoscaler["spec"]["metrics"]}
        [rule], [external] = self.adapter["rules"], self.adapter["externalRules"]
        self.assertEqual(cores(metrics[rule["name"]["as"]]["averageValue"]), float(self.triggers["requests-running"]["threshold"]))
        self.assertEqual(float(metrics[external["name"]["as"]]["value"]), float(self.triggers["queue-wait"]["threshold"]))

    def test_the_metrics_are_the_servers(self):
        source = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "server" / "metrics").glob("*.cc"))
        queries = [trigger["query"] for trigger in self.triggers.values()]
        queries += [rule["metricsQuery"] for rule in self.adapter["rules"] + self.adapter["externalRules"]]
        for query in queries:
            for name in re.findall(r"fresco_\w+", re.sub(r'"[^"]*"', "", query)):
                self.assertIn(f'"{name.removesuffix("_bucket")}"', source)


STRING, COUNT = {"type": "string", "minLength": 1}, {"type": "integer", "minimum": 0}


def exactly(required, **properties):
    return {"type": "object", "required": required, "properties": properties, "additionalProperties": False}


POLICIES = exactly(["policies"], stabilizationWindowSeconds={"type": "integer", "minimum": 0, "maximum": 3600},
                   selectPolicy={"enum": ["Max", "Min", "Disabled"]},
                   policies={"type": "array", "minItems": 1, "items": exactly(
                       ["type", "value", "periodSeconds"], type={"enum": ["Pods", "Percent"]}, value={"type": "integer", "minimum": 1},
                       periodSeconds={"type": "integer", "minimum": 1, "maximum": 1800})})
# The part of KEDA's ScaledObject (keda.sh/v1alpha1, 2.12 and later) that is used here: its CustomResourceDefinition is in no package.
KEDA_SCHEMA = exactly(
    ["apiVersion", "kind", "metadata", "spec"],
    apiVersion={"const": "keda.sh/v1alpha1"}, kind={"const": "ScaledObject"},
    metadata=exactly(["name", "namespace"], name=STRING, namespace=STRING, labels={"type": "object", "additionalProperties": STRING}),
    spec=exactly(
        ["scaleTargetRef", "triggers"],
        scaleTargetRef=exactly(["name"], apiVersion=STRING, kind=STRING, name=STRING),
        pollingInterval=COUNT, cooldownPeriod=COUNT, minReplicaCount=COUNT, maxReplicaCount={"type": "integer", "minimum": 1},
        fallback=exactly(["failureThreshold", "replicas"], failureThreshold=COUNT, replicas=COUNT),
        advanced=exactly(["horizontalPodAutoscalerConfig"], horizontalPodAutoscalerConfig=exactly(
            ["behavior"], behavior=exactly([], scaleUp=POLICIES, scaleDown=POLICIES))),
        triggers={"type": "array", "minItems": 1, "items": exactly(
            ["type", "metadata"], type={"const": "prometheus"}, name=STRING, metricType={"enum": ["AverageValue", "Value"]},
            metadata=exactly(["serverAddress", "query", "threshold"], serverAddress={"type": "string", "pattern": "^https?://"}, query=STRING,
                             threshold={"type": "string", "pattern": r"^\d+(\.\d+)?$"}, ignoreNullValues={"enum": ["true", "false"]}))}))


if __name__ == "__main__":
    unittest.main()

"""Builds the objects of a kustomization, as `kustomize build` does, for the parts of kustomize that deploy/kubernetes uses.

kustomize itself is no package of Debian or PyPI. What is not implemented here is an error, never passed over, and where a kubectl is
installed kubernetes_test.py compares the results with its own.
"""

import base64
import copy
import hashlib
import json
import pathlib
import re

import jsonpatch
import yaml

KEYS = {"apiVersion", "kind", "namespace", "labels", "resources", "components", "images", "patches", "configMapGenerator"}
KINDS = {"Kustomization": "kustomize.config.k8s.io/v1beta1", "Component": "kustomize.config.k8s.io/v1alpha1"}
# Kinds that belong to no namespace, of those in use here.
CLUSTER_KINDS = {"Namespace"}


class KustomizeError(Exception):
    """What kustomize would refuse, or what this builder does not know."""


class _Loader(yaml.SafeLoader):
    """YAML in which a key that is set twice is a mistake."""


def _unique_mapping(loader, node):
    seen = set()
    for key, _ in node.value:
        name = loader.construct_object(key)
        if name in seen:
            raise KustomizeError(f"{key.start_mark}: '{name}' is set twice")
        seen.add(name)
    return yaml.SafeLoader.construct_mapping(loader, node, deep=True)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _unique_mapping)


def load_yaml(text):
    """All documents of a text."""
    return [document for document in yaml.load_all(text, Loader=_Loader) if document is not None]


def build(folder):
    """The objects of the kustomization in `folder`: references and names settled, in no particular order."""
    objects, generated = [], {}
    _accumulate(pathlib.Path(folder).resolve(), objects, generated)
    for config_map in generated.values():
        _name_by_content(config_map, objects)
    objects.extend(generated.values())
    identities = [identity(item) for item in objects]
    for name in identities:
        if identities.count(name) > 1:
            raise KustomizeError(f"{name}: there are two of it")
    return objects


def identity(item):
    """What tells an object from others."""
    return item["apiVersion"], item["kind"], item["metadata"].get("namespace", ""), item["metadata"]["name"]


def _accumulate(folder, objects, generated):
    """Adds what a kustomization or a component says to what there is."""
    [settings] = load_yaml((folder / "kustomization.yaml").read_text(encoding="utf-8"))
    if unknown := set(settings) - KEYS:
        raise KustomizeError(f"{folder}: {', '.join(sorted(unknown))}: not known to this builder")
    if KINDS.get(settings["kind"]) != settings["apiVersion"]:
        raise KustomizeError(f"{folder}: {settings['kind']} of {settings['apiVersion']}")
    own = [] if settings["kind"] == "Kustomization" else objects
    own_generated = {} if settings["kind"] == "Kustomization" else generated
    for name in settings.get("resources", []):
        if (folder / name).is_dir():
            _accumulate((folder / name).resolve(), own, own_generated)
        else:
            own.extend(load_yaml(_read_within(folder, name).decode()))
    for name in settings.get("components", []):
        _accumulate((folder / name).resolve(), own, own_generated)
    for entry in settings.get("configMapGenerator", []):
        _generate(folder, entry, own_generated)
    everything = own + list(own_generated.values())
    for patch in settings.get("patches", []):
        _patch(folder, patch, own)
    for item in everything:
        if "namespace" in settings and item["kind"] not in CLUSTER_KINDS:
            item["metadata"]["namespace"] = settings["namespace"]
        for entry in settings.get("labels", []):
            _label(item, entry)
    for entry in settings.get("images", []):
        for item in everything:
            _set_image(item, entry)
    if own is not objects:
        objects.extend(own)
        for name, config_map in own_generated.items():
            if name in generated:
                raise KustomizeError(f"{folder}: {name} is generated twice")
            generated[name] = config_map


def _read_within(folder, name):
    """A file's bytes; kustomize reads no file outside of a kustomization's own folder."""
    path = (folder / name).resolve()
    if folder not in path.parents:
        raise KustomizeError(f"{folder}: {name} is outside of it, where kustomize reads no file")
    return path.read_bytes()


def _generate(folder, entry, generated):
    if unknown := set(entry) - {"name", "files", "behavior"}:
        raise KustomizeError(f"{folder}: configMapGenerator: {', '.join(sorted(unknown))}: not known to this builder")
    behavior = entry.get("behavior", "create")
    if (behavior == "create") == (entry["name"] in generated) or behavior not in ("create", "replace"):
        raise KustomizeError(f"{folder}: {entry['name']}: behavior {behavior}")
    data, binary = {}, {}
    for file in entry["files"]:
        key, _, source = file.rpartition("=")
        content = _read_within(folder, source)
        key = key or pathlib.PurePath(source).name
        try:
            data[key] = content.decode("utf-8")
        except UnicodeDecodeError:
            text = base64.b64encode(content).decode()
            binary[key] = "".join(text[at:at + 70] + "\n" for at in range(0, len(text), 70))  # as kustomize writes it
    item = generated.setdefault(entry["name"], {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": entry["name"]}})
    for name, part in (("data", data), ("binaryData", binary)):
        item.pop(name, None)
        if part:
            item[name] = part


def _patch(folder, entry, objects):
    if set(entry) != {"target", "patch"}:
        raise KustomizeError(f"{folder}: patches: each needs target and patch, a JSON6902 list written inline")
    target = dict(entry["target"])
    if unknown := set(target) - {"group", "version", "kind", "name"}:
        raise KustomizeError(f"{folder}: target: {', '.join(sorted(unknown))}: not known to this builder")
    group, version = target.pop("group", ""), target.pop("version", "v1")
    api_version = f"{group}/{version}" if group else version
    found = [item for item in objects
             if item["apiVersion"] == api_version and item["kind"] == target["kind"] and item["metadata"]["name"] == target["name"]]
    if len(found) != 1:
        raise KustomizeError(f"{folder}: {entry['target']}: {len(found)} objects match")
    [operations] = load_yaml(entry["patch"])
    if not isinstance(operations, list):
        raise KustomizeError(f"{folder}: {entry['target']}: no JSON6902 patch")
    patched = jsonpatch.JsonPatch(operations).apply(found[0])
    found[0].clear()
    found[0].update(patched)


def _label(item, entry):
    if unknown := set(entry) - {"pairs", "includeTemplates"}:
        raise KustomizeError(f"labels: {', '.join(sorted(unknown))}: not known to this builder")
    item["metadata"].setdefault("labels", {}).update(entry["pairs"])
    template = item.get("spec", {}).get("template") if entry.get("includeTemplates") else None
    if template:
        template["metadata"].setdefault("labels", {}).update(entry["pairs"])


def pod_specs(item):
    """The pod specifications in an object: one, or none."""
    if item["kind"] == "Pod":
        return [item["spec"]]
    template = item.get("spec", {}).get("template") if isinstance(item.get("spec"), dict) else None
    return [template["spec"]] if template else []


def _set_image(item, entry):
    if unknown := set(entry) - {"name", "newName", "newTag", "digest"}:
        raise KustomizeError(f"images: {', '.join(sorted(unknown))}: not known to this builder")
    for spec in pod_specs(item):
        for container in spec.get("initContainers", []) + spec["containers"]:
            if re.fullmatch(re.escape(entry["name"]) + r"([:@].*)?", container["image"]):
                version = "@" + entry["digest"] if "digest" in entry else ":" + str(entry["newTag"])
                container["image"] = entry.get("newName", entry["name"]) + version


def _name_by_content(config_map, objects):
    """Appends kustomize's hash to a ConfigMap's name, there and where it is referred to."""
    name = config_map["metadata"]["name"]
    content = {"kind": "ConfigMap", "name": "", "data": config_map.get("data", "")}  # kustomize leaves the name out
    if "binaryData" in config_map:
        content["binaryData"] = config_map["binaryData"]
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    for character in "&<>\u2028\u2029":  # as Go writes JSON
        text = text.replace(character, f"\\u{ord(character):04x}")
    digest = hashlib.sha256(text.encode()).hexdigest()[:10]
    config_map["metadata"]["name"] = f"{name}-{digest.translate(str.maketrans('013ae', 'ghkmt'))}"
    for item in objects:
        for spec in pod_specs(item):
            for volume in spec.get("volumes", []):
                for source in [volume, *volume.get("projected", {}).get("sources", [])]:
                    if source.get("configMap", {}).get("name") == name:
                        source["configMap"]["name"] = config_map["metadata"]["name"]


def copy_of(objects):
    """For a test that changes them."""
    return copy.deepcopy(objects)

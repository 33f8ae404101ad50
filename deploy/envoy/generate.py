#!/usr/bin/env python3
"""Writes Envoy's bootstraps from bootstrap.template, since Envoy's format has no way to share parts between files.

  generate.py                                     the committed ones, those of PROFILES below: workstation.yaml, production.yaml, …
  generate.py --check                             fails if a committed one is not what the template makes
  generate.py --print production [NAME=VALUE ...] one, with other settings, on standard output

Settings are those of SETTINGS below; lists are separated by commas, "none" is nothing:

  generate.py --print production replicas=fresco.example.internal:8500 cors_origins=https://studio.example.com rate=50 burst=100

The template's lines that begin with '#' in the first column: #if NAME, #else, #end; #each NAME, #end (a list's items; their fields are the
names within); #define NAME, #end and #use NAME. {{NAME}} is a setting.
"""

import argparse
import json
import pathlib
import re
import sys

HERE = pathlib.Path(__file__).resolve().parent

# Common to all; None switches off what it is about.
SETTINGS = {
    "host": "127.0.0.1",  # of the listener that callers see
    "port": 8080,
    "domains": ["127.0.0.1", "127.0.0.1:*", "localhost", "localhost:*", "[::1]", "[::1]:*"],  # the names by which it answers; "*": any
    "names": None,  # and more of them, each with any port: fresco.lan
    "admin_host": "127.0.0.1",
    "admin_port": 9901,
    "metrics_host": "127.0.0.1",
    "metrics_port": None,  # GET /stats/prometheus
    "replicas": ["127.0.0.1:8500"],  # host:port; a name stands for all of its addresses
    "endpoints_file": None,  # instead of replicas: a file that Envoy watches
    "tls": False,  # of the listener
    "upstream_tls": False,  # towards the servers
    "server_name": "fresco",  # in the servers' certificates, with upstream_tls
    "tls_folder": "deploy/envoy/tls",
    "require_token": False,  # calls without authorization: Bearer … are refused here; whether it is a good one, the servers say
    "cors_origins": None,  # whose pages may call, besides the studio: https://studio.example.com
    "rate": 100,  # drawing calls a second, all clients together, for this Envoy; as many cancels, lists of models and questions for health
    "burst": 500,
    "client_rate": None,  # and of one client's address
    "client_burst": 60,
    "client_addresses": 10000,  # that are told apart at a time
    "max_request_bytes": 262144,  # of JSON; the servers' server.max_request_bytes
    "idle_timeout": "1800s",  # longer than the longest scheduler.classes.*.max_wait, and than a step takes
    "max_stream_duration": "7200s",
    "create_timeout": "3600s",  # of CreateImage with its retries,
    "create_try_timeout": "1800s",  # and of each
    "retry_interval": "0.1s",  # before the first of five retries, about; doubled before each next
    "cancel_retries": 16,  # at least the number of servers
    "outlier_interval": "10s",  # how often servers' failures are looked at
    "max_requests": 4096,  # open at once
    "max_response_bytes": 234881024,  # 224 MiB
    "max_heap_bytes": 4294967296,
    "access_log": "/dev/stdout",
    "descriptors": "deploy/envoy/fresco.binpb",
    "lua_folder": "deploy/envoy",
    "studio": "deploy/studio/index.html",
}

PRODUCTION = {
    "host": "0.0.0.0",
    "domains": ["*"],
    "port": 8443,
    "metrics_host": "0.0.0.0",
    "metrics_port": 9902,
    "replicas": ["fresco:8500"],
    "tls": True,
    "upstream_tls": True,
    "client_rate": 20,
    "require_token": True,
}

PROFILES = {
    "workstation": {"workstation": True},
    "production": {"production": True, **PRODUCTION},
    "production-endpoints": {"production": True, **PRODUCTION, "replicas": None, "endpoints_file": "deploy/envoy/endpoints.yaml"},
    # deploy/docker/compose.yaml, where only this machine reaches Envoy, and only Envoy the servers, which ask nobody who calls
    "compose": {"production": True, **PRODUCTION, "domains": SETTINGS["domains"], "port": 8080, "replicas": ["server:8500"], "tls": False, "upstream_tls": False, "require_token": False},
    # deploy/kubernetes, where network policies let only Envoy to the servers
    "kubernetes": {"production": True, **PRODUCTION, "replicas": ["fresco-replicas:8500"], "upstream_tls": False},
    "kubernetes-mtls": {"production": True, **PRODUCTION, "replicas": ["fresco-replicas:8500"]},
}


class TemplateError(Exception):
    pass


def parse(lines):
    """Nested lists: a line is a string, a block a tuple (word, name, lines, lines after #else)."""
    root = ("root", "", [], [])
    stack, target = [root], [root[2]]
    for number, line in enumerate(lines, 1):
        match = re.fullmatch(r"#(if|each|define|use|else|end)\b ?(\S*)", line)
        if line.startswith("#") and not match and re.match(r"#[a-z]", line):
            raise TemplateError(f"bootstrap.template:{number}: unknown directive: {line}")
        if not match:
            target[-1].append(line)
        elif match[1] == "use":
            target[-1].append(("use", match[2], [], []))
        elif match[1] == "else":
            target[-1] = stack[-1][3]
        elif match[1] == "end":
            stack.pop()
            target.pop()
            if not stack:
                raise TemplateError(f"bootstrap.template:{number}: #end without a beginning")
        else:
            block = (match[1], match[2], [], [])
            target[-1].append(block)
            stack.append(block)
            target.append(block[2])
    if len(stack) > 1:
        raise TemplateError(f"bootstrap.template: #{stack[-1][0]} {stack[-1][1]} has no #end")
    return root[2]


def text_of(value):
    """A setting as YAML."""
    return json.dumps(value) if isinstance(value, (list, bool)) else str(value)


def fill(line, values):
    def value(match):
        if values.get(match[1]) is None:
            raise TemplateError(f"{{{{{match[1]}}}}} has no value")
        return text_of(values[match[1]])

    return re.sub(r"\{\{(\w+)\}\}", value, line)


def is_on(value):
    """What #if asks; port 0 is a port."""
    return value is not None and value is not False


def items_of(name, values):
    """What #each goes through: of host:port, both."""
    for item in values[name]:
        host, _, port = item.rpartition(":")
        if not host or not port.isdigit():
            raise TemplateError(f"{name}: expected HOST:PORT, found '{item}'")
        yield {**values, "host": host.strip("[]"), "port": port}


def expand(nodes, values, defined):
    for node in nodes:
        if isinstance(node, str):
            yield fill(node, values)
            continue
        word, name, lines, otherwise = node
        if word == "define":
            defined[name] = lines
        elif word == "use":
            yield from expand(defined[name], values, defined)
        elif word == "if":
            yield from expand(lines if is_on(values.get(name)) else otherwise, values, defined)
        else:
            for item in items_of(name, values):
                yield from expand(lines, item, defined)


def bootstrap(profile, changes=None):
    """The text of one bootstrap. changes: settings by their names; a mistake in them is a TemplateError."""
    unknown = sorted(set(changes or {}) - set(SETTINGS))
    if unknown:
        raise TemplateError(f"unknown setting: {', '.join(unknown)}; there are {', '.join(sorted(SETTINGS))}")
    values = {**SETTINGS, **PROFILES[profile], **(changes or {})}
    if values["cors_origins"]:
        values["cors"] = True
        values["cors_regex"] = "|".join(map(re.escape, values["cors_origins"]))
        values["cors_origins"] = [{"exact": origin} for origin in values["cors_origins"]]
    if values["names"] and "*" in values["domains"]:
        raise TemplateError("names: it answers by any name, since domains has *")
    if "*" not in values["domains"]:
        values["own_names"] = True
        values["domains"] = values["domains"] + [domain for name in values["names"] or [] for domain in (name, f"{name}:*")]
    values["buffered_request_bytes"] = 2 * values["max_request_bytes"]
    template = (HERE / "bootstrap.template").read_text(encoding="utf-8").splitlines()
    return "\n".join(expand(parse(template), values, {})) + "\n"


def setting(text):
    """NAME=VALUE as the type that the setting has."""
    name, equals, value = text.partition("=")
    if not equals:
        raise TemplateError(f"expected NAME=VALUE, found '{text}'")
    default = SETTINGS.get(name)
    if value == "none":
        return name, None
    if name in ("replicas", "cors_origins", "domains", "names"):
        return name, value.split(",")
    if isinstance(default, bool):
        if value not in ("true", "false"):
            raise TemplateError(f"{name}: expected true or false, found '{value}'")
        return name, value == "true"
    if isinstance(default, int) or name in ("metrics_port", "client_rate"):
        if not value.isdigit():
            raise TemplateError(f"{name}: expected a number, found '{value}'")
        return name, int(value)
    return name, value


def stale():
    """The committed files that are not what the template makes."""
    return [f"{p}.yaml" for p in PROFILES if not (HERE / f"{p}.yaml").exists() or (HERE / f"{p}.yaml").read_text(encoding="utf-8") != bootstrap(p)]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="only say which committed files are stale")
    parser.add_argument("--print", choices=PROFILES, dest="profile", help="one bootstrap, on standard output")
    parser.add_argument("settings", nargs="*", metavar="NAME=VALUE")
    arguments = parser.parse_args()
    try:
        if arguments.profile:
            sys.stdout.write(bootstrap(arguments.profile, dict(map(setting, arguments.settings))))
        elif arguments.settings:
            parser.error("settings go with --print")
        elif arguments.check:
            if stale():
                sys.exit(f"not what the template makes: {', '.join(stale())}; run deploy/envoy/generate.py")
        else:
            for profile in PROFILES:
                (HERE / f"{profile}.yaml").write_text(bootstrap(profile), encoding="utf-8")
    except TemplateError as error:
        sys.exit(f"generate.py: {error}")


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Ends an Envoy without losing a call: SIGTERM alone would cut off every stream.

1. /healthz says 503, so that what balances between Envoys sends no more, and connections are asked to close when their calls are done;
2. after --settle seconds, in which the balancer notices, no new connection is taken;
3. when no call is left, or --grace seconds have passed, Envoy ends.

For a container's preStop hook, or ExecStop= of a systemd unit. Exit code 0 when no call was cut off, 3 when some were, 4 when the admin
interface cannot be reached.
"""

import argparse
import json
import sys
import time
import urllib.request

ACTIVE = "http.edge.downstream_rq_active"


def ask(admin, path, method):
    with urllib.request.urlopen(urllib.request.Request(f"http://{admin}{path}", method=method), timeout=10) as answer:
        return answer.read()


def open_calls(admin):
    stats = json.loads(ask(admin, f"/stats?format=json&filter=^{ACTIVE}$", "GET"))["stats"]
    return sum(stat.get("value", 0) for stat in stats)


def drain(admin, settle, grace):
    """Returns how many calls were cut off."""
    ask(admin, "/healthcheck/fail", "POST")
    time.sleep(settle)
    ask(admin, "/drain_listeners", "POST")
    deadline = time.monotonic() + grace
    while (left := open_calls(admin)) and time.monotonic() < deadline:
        time.sleep(0.2)
    ask(admin, "/quitquitquit", "POST")
    return left


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--admin", default="127.0.0.1:9901", metavar="HOST:PORT")
    parser.add_argument("--settle", type=float, default=5, metavar="SECONDS")
    parser.add_argument("--grace", type=float, default=600, metavar="SECONDS")
    arguments = parser.parse_args()
    try:
        left = drain(arguments.admin, arguments.settle, arguments.grace)
    except OSError as error:
        print(f"drain.py: {arguments.admin}: {error}", file=sys.stderr)
        return 4
    if left:
        print(f"drain.py: {left} calls were still running after {arguments.grace:g} s", file=sys.stderr)
    return 3 if left else 0


if __name__ == "__main__":
    sys.exit(main())

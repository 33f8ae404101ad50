"""Reads deploy/grafana/fresco.json."""

import json
import re

from prometheus import ROOT

FILE = ROOT / "deploy" / "grafana" / "fresco.json"
# As Grafana fills them in when everything is chosen; the window is short, since the test is.
VALUES = {"$__rate_interval": "1m", "$job": "fresco", "$instance": ".*", "$model": ".*", "$device": ".*"}


def load():
    return json.loads(FILE.read_text(encoding="utf-8"))


def filled_in(expression):
    for name, value in VALUES.items():
        expression = expression.replace(name, value)
    return expression


def panels(board):
    return [panel for panel in board["panels"] if panel["type"] != "row"]


def queries(board):
    """[(panel's title, expression)] of every panel and annotation, with everything filled in."""
    found = [(panel["title"], target["expr"]) for panel in panels(board) for target in panel["targets"]]
    found += [(entry["name"], entry["expr"]) for entry in board["annotations"]["list"] if "expr" in entry]
    return [(title, filled_in(expression)) for title, expression in found]


def metrics_of(expression):
    """The names of Fresco's metrics in it, without a histogram's endings."""
    return {re.sub(r"_(bucket|sum|count)$", "", name) for name in re.findall(r"\bfresco_\w+", expression)}

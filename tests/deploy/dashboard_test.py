"""The Grafana dashboard: well-formed, and it and the alerts ask for metrics that there are."""

import json
import re
import shutil
import subprocess

import pytest
import yaml
from conftest import ROOT

DASHBOARD = ROOT / "deploy/grafana/plimsoll.json"
RULES = ROOT / "deploy/prometheus/plimsoll.rules.yaml"
SUFFIX = re.compile("_(bucket|sum|count)$")


def dashboard():
    return json.loads(DASHBOARD.read_text())


def panels():
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def queries():
    return [target["expr"] for panel in panels() for target in panel["targets"]]


def metrics_in(text):
    return {SUFFIX.sub("", name) for name in re.findall(r"\bplimsoll_[a-z_]+", text)}


def metrics_of_the_product():
    found = set()
    for source in (ROOT / "actors").rglob("*.cc"):
        found |= set(re.findall(r'"(plimsoll_[a-z_]+)["{]', source.read_text()))
    return found


def test_dashboard_is_one_that_grafana_imports():
    board = dashboard()
    assert board["uid"] and board["title"] and board["schemaVersion"] >= 30 and "id" not in board
    assert board["templating"]["list"][0]["type"] == "datasource"
    ids = [panel["id"] for panel in board["panels"]]
    assert len(ids) == len(set(ids))


def test_every_panel_asks_the_chosen_data_source():
    for panel in panels():
        sources = [panel["datasource"], *(target["datasource"] for target in panel["targets"])]
        assert all(s == {"type": "prometheus", "uid": "${datasource}"} for s in sources)
        refs = [target["refId"] for target in panel["targets"]]
        assert len(refs) == len(set(refs)), panel["title"]


def test_panels_do_not_cover_each_other():
    taken = {}
    for panel in dashboard()["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24, panel["title"]
        for cell in (
            (x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])
        ):
            assert cell not in taken, f"{panel['title']} lies over {taken[cell]}"
            taken[cell] = panel["title"]


def test_every_query_is_good_promql(tmp_path):
    if not shutil.which("promtool"):
        pytest.skip("no promtool: install Debian's package prometheus (`./dev setup`)")
    rules = [
        {"record": f"dashboard:query_{i}", "expr": re.sub(r"\$__(range|rate_interval)", "5m", query)}
        for i, query in enumerate(queries())
    ]
    file = tmp_path / "queries.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    done = subprocess.run(["promtool", "check", "rules", file], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_product_has_every_metric_that_is_asked_for():
    rules = RULES.read_text()
    alerts = [r["expr"] for g in yaml.safe_load(rules)["groups"] for r in g["rules"]]
    asked = metrics_in(" ".join([*queries(), *alerts, json.dumps(dashboard()["templating"])]))
    assert len(asked) > 15
    unknown = asked - metrics_of_the_product()
    assert not unknown, f"no source under actors/ has {sorted(unknown)}"


def test_the_reference_lists_every_metric():
    reference = (ROOT / "docs/REFERENCE.md").read_text().split("## Metrics")[1].split("\n## ")[0]
    assert metrics_of_the_product() == set(re.findall(r"^\| `(plimsoll_[a-z_]+)`", reference, re.M))

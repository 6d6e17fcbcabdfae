"""The alerting rules: good, tested both ways, explained, and about metrics that there are."""

import re
import shutil
import subprocess

import pytest
import yaml
from conftest import ROOT

RULES = ROOT / "deploy/prometheus/plimsoll.rules.yaml"
CASES = ROOT / "deploy/prometheus/plimsoll.rules.test.yaml"


def alerts():
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"] if "alert" in rule]


def promtool(*words):
    if not shutil.which("promtool"):
        pytest.skip("no promtool: install Debian's package prometheus (`./dev setup`)")
    done = subprocess.run(["promtool", *map(str, words)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_accepts_the_rules():
    promtool("check", "rules", RULES)


def test_alerts_fire_when_they_should_and_only_then():
    promtool("test", "rules", CASES)


@pytest.mark.parametrize("name", sorted({alert["alert"] for alert in alerts()}))
def test_every_alert_is_tested_firing_and_silent(name):
    cases = [
        case
        for test in yaml.safe_load(CASES.read_text())["tests"]
        for case in test["alert_rule_test"]
        if case["alertname"] == name
    ]
    fired = {a["exp_labels"]["severity"] for case in cases for a in case["exp_alerts"]}
    assert fired == {a["labels"]["severity"] for a in alerts() if a["alert"] == name}
    assert any(not case["exp_alerts"] for case in cases), "when is it silent?"


def test_every_alert_is_explained():
    headings = re.findall(r"^#+ (.*)$", (ROOT / "docs/OPERATING.md").read_text(), flags=re.M)
    anchors = {heading.lower().replace(" ", "-") for heading in headings}
    for alert in alerts():
        assert alert["labels"]["severity"] in ("critical", "warning"), alert["alert"]
        assert alert["annotations"]["summary"], alert["alert"]
        file, _, anchor = alert["annotations"]["runbook"].partition("#")
        assert file == "docs/OPERATING.md" and anchor == alert["alert"].lower()
        assert anchor in anchors, f"docs/OPERATING.md has no section {alert['alert']}"

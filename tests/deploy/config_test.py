"""The configuration files that the package installs: good as they are, with a model."""

import re

import pytest
import yaml
from conftest import ROOT


@pytest.mark.parametrize("role", ("router", "node"))
@pytest.mark.parametrize("remote", (False, True), ids=("as installed", "with the lines for TLS"))
def test_the_configuration_is_good(role, remote, plimsoll, tmp_path):
    if f"\n  {role} " not in plimsoll("--help").stdout:
        pytest.skip(f"this build has no verb {role}")
    text = (ROOT / f"deploy/etc/plimsoll/{role}.yaml").read_text()
    if remote:
        text = re.sub(r"^  listen: 127.*\n(?=  #listen)", "", text, flags=re.M)
        text = text.replace("  #", "  ")
    assert yaml.safe_load(text)["cluster"]
    model = tmp_path / "m.gguf"
    model.touch()
    file = tmp_path / f"{role}.yaml"
    file.write_text(f"{text}\nmodels: [{{name: m, path: {model}}}]\n")
    done = plimsoll("config", "check", "--config", file)
    assert done.returncode == 0, done.stderr

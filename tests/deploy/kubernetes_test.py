"""The Kubernetes manifests: valid, and agreeing with each other and with the binary."""

import re

import pytest
import yaml
from conftest import ROOT

kubernetes_validate = pytest.importorskip("kubernetes_validate")

FOLDER = ROOT / "deploy/kubernetes"
VERSIONS = ("1.28", "1.37")  # the oldest and the newest we mean to run on


def load():
    kustomization = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
    files = {f.name for f in FOLDER.glob("*.yaml")} - {"kustomization.yaml"}
    assert files == set(kustomization["resources"]), "kustomization.yaml lists every file"
    return [d for name in sorted(files) for d in yaml.safe_load_all((FOLDER / name).read_text())]


OBJECTS = load()
CONFIGS = next(o for o in OBJECTS if o["kind"] == "ConfigMap")["data"]
WORKLOADS = {
    o["spec"]["template"]["metadata"]["labels"]["app.kubernetes.io/component"]: o
    for o in OBJECTS
    if o["kind"] in ("Deployment", "StatefulSet")
}


def pod(role):
    return WORKLOADS[role]["spec"]["template"]["spec"]


def container(role):
    (one,) = pod(role)["containers"]
    return one


def name(o):
    return f"{o['kind']}-{o['metadata']['name']}"


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("o", OBJECTS, ids=name)
def test_the_api_server_would_take_it(o, version):
    kubernetes_validate.validate(o, version, strict=True)
    assert o["kind"] == "Namespace" or o["metadata"]["namespace"] == "plimsoll"


def selected(selector):
    return [
        role
        for role, workload in WORKLOADS.items()
        if selector.items() <= workload["spec"]["template"]["metadata"]["labels"].items()
    ]


@pytest.mark.parametrize(
    "o", [o for o in OBJECTS if o["kind"] in ("Service", "PodDisruptionBudget")], ids=name
)
def test_selectors_find_one_workload_and_its_ports(o):
    selector = o["spec"]["selector"]
    (role,) = selected(selector.get("matchLabels", selector))
    ports = {p["name"] for p in container(role)["ports"]}
    for port in o["spec"].get("ports", []):
        assert port["targetPort"] in ports


def test_every_reference_is_there():
    services = {o["metadata"]["name"] for o in OBJECTS if o["kind"] == "Service"}
    maps = {o["metadata"]["name"] for o in OBJECTS if o["kind"] == "ConfigMap"}
    assert WORKLOADS["node"]["spec"]["serviceName"] in services
    for role, workload in WORKLOADS.items():
        labels = workload["spec"]["template"]["metadata"]["labels"]
        assert workload["spec"]["selector"]["matchLabels"] == labels
        volumes = {v["name"] for v in pod(role)["volumes"]}
        volumes |= {
            v["metadata"]["name"] for v in workload["spec"].get("volumeClaimTemplates", [])
        }
        assert {m["name"] for m in container(role)["volumeMounts"]} == volumes
        for volume in pod(role)["volumes"]:
            assert volume.get("configMap", {}).get("name", *maps) in maps
        for mount in container(role)["volumeMounts"]:
            assert "subPath" not in mount or mount["subPath"] in CONFIGS


def test_nodes_join_every_router_by_the_name_that_stays():
    router = WORKLOADS["router"]
    service = next(
        o
        for o in OBJECTS
        if o["kind"] == "Service" and o["metadata"]["name"] == router["spec"]["serviceName"]
    )
    assert selected(service["spec"]["selector"]) == ["router"]
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["publishNotReadyAddresses"]  # routers get ready by having nodes
    port = service["spec"]["ports"][0]["port"]
    listen = yaml.safe_load(CONFIGS["router.yaml"])["cluster"]["listen"]
    assert listen.rsplit(":", 1)[1] == str(port)
    name = router["metadata"]["name"]
    assert yaml.safe_load(CONFIGS["node.yaml"])["cluster"]["join"] == [
        f"{name}-{i}.{service['metadata']['name']}:{port}"
        for i in range(router["spec"]["replicas"])
    ]


@pytest.mark.parametrize("role", WORKLOADS)
def test_the_memory_limit_is_the_budget(role):
    one = container(role)
    variables = {v["name"]: v for v in one["env"]}
    reference = variables["MEMORY_LIMIT"]["valueFrom"]["resourceFieldRef"]
    assert reference == {"resource": "limits.memory"}, "in bytes: no divisor"
    assert "--memory-limit=$(MEMORY_LIMIT)" in one["args"]
    assert one["resources"]["limits"]["memory"] == one["resources"]["requests"]["memory"]


@pytest.mark.parametrize("role", WORKLOADS)
def test_stopping_waits_for_the_drain(role):
    deadline = int(yaml.safe_load(CONFIGS[f"{role}.yaml"])["drain_deadline"].rstrip("s"))
    pause = container(role).get("lifecycle", {}).get("preStop", {}).get("exec", {})
    seconds = int(pause.get("command", ["sleep", "0"])[-1])
    assert pod(role)["terminationGracePeriodSeconds"] > deadline + seconds


@pytest.mark.parametrize("role", WORKLOADS)
def test_probes_use_the_paths_that_mean_them(role):
    one = container(role)
    ports = {p["name"]: p["containerPort"] for p in one["ports"]}
    config = yaml.safe_load(CONFIGS[f"{role}.yaml"])
    for probe, path in (("startup", "/health"), ("readiness", "/ready"), ("liveness", "/health")):
        get = one[probe + "Probe"]["httpGet"]
        assert get["path"] == path
        assert str(ports[get["port"]]) == config["http"]["listen"].rsplit(":", 1)[1]
        flags = " ".join(one["args"])
        tls = "tls_certificate" in config["http"] or "--http-tls-certificate=" in flags
        assert tls == (get["scheme"] == "HTTPS")


@pytest.fixture
def usage(plimsoll):
    """usage(role): the words of `plimsoll ROLE --help`."""

    def ask(role):
        if f"\n  {role} " not in plimsoll("--help").stdout:
            pytest.skip(f"this build has no verb {role}")
        return set(plimsoll(role, "--help").stdout.replace(",", " ").split())

    return ask


@pytest.mark.parametrize("role", WORKLOADS)
def test_flags_are_the_binarys(role, usage):
    one = container(role)
    words = usage(role)
    script = " ".join(one["command"])
    assert f"plimsoll {role}" in script
    for flag in re.findall(r"--[a-z-]+", " ".join([script, *one["args"]])):
        assert flag in words, flag


@pytest.mark.parametrize("role", WORKLOADS)
def test_the_configuration_is_good(role, usage, plimsoll, tmp_path):
    usage(role)
    config = yaml.safe_load(CONFIGS[f"{role}.yaml"])
    model = tmp_path / "model.gguf"
    model.touch()
    config["models"] = [{"name": "m", "path": str(model)}]
    file = tmp_path / f"{role}.yaml"
    file.write_text(yaml.safe_dump(config))
    flags = [a for a in container(role)["args"] if not a.startswith("--config")]
    flags = [a.replace("$(MEMORY_LIMIT)", "1GiB").replace("$(POD_NAME)", "pod-0") for a in flags]
    done = plimsoll("config", "check", "--config", file, *flags)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("role", WORKLOADS)
def test_pods_are_restricted(role):
    assert pod(role)["securityContext"]["runAsNonRoot"]
    assert not pod(role)["automountServiceAccountToken"]
    context = container(role)["securityContext"]
    assert context["readOnlyRootFilesystem"] and not context["allowPrivilegeEscalation"]
    assert context["capabilities"] == {"drop": ["ALL"]}


def test_network_policies_deny_first_and_name_real_ports():
    policies = [o for o in OBJECTS if o["kind"] == "NetworkPolicy"]
    deny = next(p for p in policies if p["spec"]["podSelector"] == {})
    assert set(deny["spec"]) == {"podSelector", "policyTypes"}
    for policy in policies:
        labels = policy["spec"]["podSelector"].get("matchLabels")
        if not labels:
            continue
        (role,) = selected(labels)
        ports = {p["name"] for p in container(role)["ports"]}
        for rule in policy["spec"].get("ingress", []):
            assert {p["port"] for p in rule["ports"]} <= ports

"""The Kubernetes manifests: valid, and agreeing with each other and with the binary."""

import json
import re
import shutil
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request

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

ROLES = ("router", "node")  # those that are plimsoll's own


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
    assert WORKLOADS["etcd"]["spec"]["serviceName"] in services
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


def test_routers_know_every_member_of_etcd():
    etcd = WORKLOADS["etcd"]
    name, service = etcd["metadata"]["name"], etcd["spec"]["serviceName"]
    members = [f"{name}-{i}.{service}" for i in range(etcd["spec"]["replicas"])]
    cluster = yaml.safe_load(CONFIGS["router.yaml"])["cluster"]
    assert cluster["etcd"] == [f"https://{member}:2379" for member in members]
    (initial,) = (a for a in container("etcd")["args"] if a.startswith("--initial-cluster="))
    peers = [f"{member.split('.')[0]}=https://{member}:2380" for member in members]
    assert initial == "--initial-cluster=" + ",".join(peers)


def test_what_must_survive_a_pod_is_on_a_claim():
    cluster = yaml.safe_load(CONFIGS["node.yaml"])["cluster"]
    mounts = {m["mountPath"]: m["name"] for m in container("node")["volumeMounts"]}
    claims = {c["metadata"]["name"] for c in WORKLOADS["node"]["spec"]["volumeClaimTemplates"]}
    home = max((m for m in mounts if cluster["state_directory"].startswith(m + "/")), key=len)
    assert mounts[home] in claims
    (token,) = (a for a in container("node")["args"] if "join-token-file" in a)
    assert token.endswith("/$(POD_NAME)"), "a token is for one node"


@pytest.mark.parametrize("role", ROLES)
def test_the_memory_limit_is_the_budget(role):
    one = container(role)
    variables = {v["name"]: v for v in one["env"]}
    reference = variables["MEMORY_LIMIT"]["valueFrom"]["resourceFieldRef"]
    assert reference == {"resource": "limits.memory"}, "in bytes: no divisor"
    assert "--memory-limit=$(MEMORY_LIMIT)" in one["args"]
    assert one["resources"]["limits"]["memory"] == one["resources"]["requests"]["memory"]


@pytest.mark.parametrize("role", ROLES)
def test_stopping_waits_for_the_drain(role):
    deadline = int(yaml.safe_load(CONFIGS[f"{role}.yaml"])["drain_deadline"].rstrip("s"))
    pause = container(role).get("lifecycle", {}).get("preStop", {}).get("exec", {})
    seconds = int(pause.get("command", ["sleep", "0"])[-1])
    assert pod(role)["terminationGracePeriodSeconds"] > deadline + seconds


@pytest.mark.parametrize("role", ROLES)
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


@pytest.mark.parametrize("role", ROLES)
def test_flags_are_the_binarys(role, usage):
    one = container(role)
    words = usage(role)
    script = " ".join(one["command"])
    assert f"plimsoll {role}" in script
    for flag in re.findall(r"--[a-z-]+", " ".join([script, *one["args"]])):
        assert flag in words, flag


@pytest.mark.parametrize("role", ROLES)
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


def free_port(hosts):
    with socket.socket() as probe:
        probe.bind((hosts[0], 0))
        return probe.getsockname()[1]


@pytest.fixture
def members(plimsoll, tmp_path):
    """The manifest's etcd, every member on a loopback address, with certificates as documented."""
    if not shutil.which("etcd"):
        pytest.skip("no etcd: install Debian's etcd-server")
    ca = tmp_path / "etcd-ca"
    assert plimsoll("ca", "init", "--directory", ca).returncode == 0
    names = [f"plimsoll-etcd-{i}" for i in range(WORKLOADS["etcd"]["spec"]["replicas"])]
    hosts = {name: f"127.0.0.{i + 2}" for i, name in enumerate(names)}
    for name in (*names, "router"):
        ips = ["--ip", "127.0.0.1", "--ip", hosts.get(name, "127.0.0.1")]
        done = plimsoll("ca", "issue", name, "--directory", ca, "--out", ca, *ips)
        assert done.returncode == 0, done.stderr
    ports = {port: str(free_port(list(hosts.values()))) for port in ("2379", "2380", "2381")}
    processes = []
    with open(tmp_path / "log", "w") as log:
        for name, host in hosts.items():
            args = []
            for arg in container("etcd")["args"]:
                arg = arg.replace("$(POD_NAME)", name).replace("0.0.0.0", host)
                arg = arg.replace("/etc/etcd/tls", str(ca))
                arg = arg.replace("/var/lib/etcd", str(tmp_path / name))
                for other, address in hosts.items():
                    arg = arg.replace(f"{other}.plimsoll-etcd", address)
                for port, free in ports.items():
                    arg = arg.replace(f":{port}", f":{free}")
                args.append(arg)
            (tmp_path / name).mkdir()
            words = [*container("etcd")["command"], *args]
            processes.append(subprocess.Popen(words, stdout=log, stderr=log))
        yield [f"https://{host}:{ports['2379']}" for host in hosts.values()], ca
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait()


def ask(url, context, body=None):
    data = json.dumps(body or {}).encode()
    request = urllib.request.Request(url + "/v3/kv/range", data)
    with urllib.request.urlopen(request, timeout=10, context=context) as answer:
        return json.load(answer)


def test_etcd_runs_as_the_manifest_says(members):
    urls, ca = members
    router = ssl.create_default_context(cafile=ca / "ca.crt")
    router.load_cert_chain(ca / "router.crt", ca / "router.key")
    deadline = time.monotonic() + 120
    for url in urls:  # a linearizable read: every member is in and has a leader
        while True:
            try:
                assert ask(url, router, {"key": "YQ=="})["header"]["revision"]
                break
            except OSError:
                assert time.monotonic() < deadline, (ca.parent / "log").read_text()[-3000:]
                time.sleep(0.1)
    stranger = ssl.create_default_context(cafile=ca / "ca.crt")
    with pytest.raises((urllib.error.URLError, OSError)):
        ask(urls[0], stranger, {"key": "YQ=="})

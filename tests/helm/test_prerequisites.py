"""k8s/: manifests that a cluster accepts, a role that suffices, secrets that fit the rooms and the chart."""

import functools
import importlib.util
import json
import re
import ssl
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from urllib.parse import urlsplit

import kubernetes_validate
import pytest
import yaml

from darkroom.billing_meter import domain
from tests.helm import chart, test_pods

K8S = chart.TOP / "k8s"
NAMESPACE = "darkroom"


def manifests(name: str) -> list[chart.Manifest]:
    return [document for document in yaml.safe_load_all((K8S / name).read_text()) if document]


def script() -> ModuleType:
    found = importlib.util.spec_from_file_location("make_secrets", K8S / "make_secrets.py")
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


@functools.cache
def made() -> dict[str, chart.Manifest]:
    """The secrets by name, as `make_secrets.py` prints them."""
    command = [sys.executable, K8S / "make_secrets.py", "--namespace", NAMESPACE]
    printed = json.loads(subprocess.run(command, check=True, capture_output=True, timeout=120).stdout)
    return {secret["metadata"]["name"]: secret for secret in printed["items"]}


def kind_release(changes: chart.Manifest | None = None) -> list[chart.Manifest]:
    """What k8s/README.md installs."""
    values = chart.merged(chart.ci("kind-values.yaml"), changes or {})
    texts = chart.loaded().render(values, name="darkroom", namespace=NAMESPACE)
    return [m for path, text in texts.items() if not path.endswith(".txt") for m in yaml.safe_load_all(text) if m]


@pytest.mark.parametrize("name", ["namespace.yaml", "rbac.yaml", "postgres.yaml"])
def test_plain_manifests_are_valid(name: str) -> None:
    for manifest in manifests(name):
        kubernetes_validate.validate(manifest, "1.33", strict=True)
        assert manifest["metadata"].get("namespace", manifest["metadata"]["name"]) in {NAMESPACE, "darkroom-deployer"}


def test_the_namespace_refuses_what_is_not_restricted() -> None:
    (namespace,) = manifests("namespace.yaml")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


def test_postgres_is_restricted_and_reached_by_darkroom_alone() -> None:
    service, workload, policy = manifests("postgres.yaml")
    template = workload["spec"]["template"]
    test_pods.test_the_profile_is_restricted(template)
    assert service["spec"]["selector"].items() <= template["metadata"]["labels"].items()
    (rule,) = policy["spec"]["ingress"]
    (peer,) = rule["from"]
    for pod in chart.pods(kind_release()):
        assert peer["podSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    (allowed,) = chart.ci("kind-values.yaml")["networkPolicy"]["databasePeers"]
    assert allowed["podSelector"]["matchLabels"].items() <= template["metadata"]["labels"].items()


def test_the_kind_cluster_has_two_zones_to_spread_over() -> None:
    (cluster,) = manifests("kind-cluster.yaml")
    assert (cluster["apiVersion"], cluster["kind"]) == ("kind.x-k8s.io/v1alpha4", "Cluster")
    roles = [node["role"] for node in cluster["nodes"]]
    zones = {node["labels"]["topology.kubernetes.io/zone"] for node in cluster["nodes"] if "labels" in node}
    assert roles == ["control-plane", "worker", "worker"]
    assert len(zones) == 2


def test_the_deployer_may_make_what_the_chart_makes() -> None:
    _, role, binding = manifests("rbac.yaml")
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    granted = {
        (group, resource)
        for rule in role["rules"]
        if {"create", "update", "patch", "delete", "get", "list"} <= set(rule["verbs"])
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }
    needed = {("", "secrets")}  # helm's record of the release
    for manifest in [m for name in chart.CI for m in chart.rendered(name)]:
        group, slash, _ = manifest["apiVersion"].partition("/")
        plural = re.sub("ys$", "ies", manifest["kind"].lower() + "s")
        needed.add((group if slash else "", plural))
    assert granted == needed


def test_secrets_are_fresh_and_valid() -> None:
    again = {secret["metadata"]["name"]: secret for secret in script().make(namespace=NAMESPACE, release="darkroom")}
    assert set(again) == set(made())
    for name, secret in made().items():
        kubernetes_validate.validate(secret, "1.33", strict=True)
        for key, value in secret["stringData"].items():
            assert value != again[name]["stringData"][key]


def test_every_secret_that_is_asked_for_is_made() -> None:
    asked: set[tuple[str, str]] = set()
    pods = [pod for pod in chart.pods(kind_release()) if chart.component(pod) != "client"]
    for pod in [*pods, manifests("postgres.yaml")[1]["spec"]["template"]]:
        for variable in chart.environment(pod).values():
            reference = variable.get("valueFrom", {}).get("secretKeyRef")
            asked |= {(reference["name"], reference["key"])} if reference else set()
        asked |= {(v["secret"]["secretName"], "tls.crt") for v in pod["spec"]["volumes"] if "secret" in v}
    assert {name for name, _ in asked} == set(made())
    for name, key in asked:
        assert made()[name]["stringData"][key]


def test_secrets_are_what_the_rooms_take() -> None:
    platform = made()["darkroom-platform"]["stringData"]
    assert len(platform["service-secret"]) >= 32
    assert domain.API_KEY.fullmatch(platform["operator-key"])
    address = urlsplit(made()["darkroom-database"]["stringData"]["database-url"])
    service, workload, _ = manifests("postgres.yaml")
    environment = chart.environment(workload["spec"]["template"])
    assert address.hostname == f"{service['metadata']['name']}.{NAMESPACE}.svc"
    assert address.port == service["spec"]["ports"][0]["port"]
    assert address.username == environment["POSTGRES_USER"]["value"]
    assert address.path == f"/{environment['POSTGRES_DB']['value']}"
    assert address.password == made()["darkroom-postgres"]["stringData"]["password"]


def test_every_name_that_is_dialled_is_in_the_certificate(tmp_path: Path) -> None:
    dialled = {"localhost"}
    for pod in chart.pods(kind_release()):
        values = {name: variable.get("value", "") for name, variable in chart.environment(pod).items()}
        hosts = {value.rpartition(":")[0] for name, value in values.items() if name.endswith("_ADDRESS")}
        dialled |= {host.replace("$(POD_NAME)", "darkroom-model-runner-cpu-0") for host in hosts} - {"0.0.0.0"}
    assert len(dialled) == 6
    for key, text in made()["darkroom-tls"]["stringData"].items():
        (tmp_path / key).write_text(text)
    for host in sorted(dialled):
        assert handshake(tmp_path, host)
    for host in ("evil.example.com", "deeper.still.darkroom-model-runner.darkroom.svc"):
        with pytest.raises(ssl.SSLCertVerificationError):
            handshake(tmp_path, host)


def handshake(folder: Path, host: str) -> bool:
    """Greet a server with this certificate as `host`, both ends showing theirs, in memory."""
    ends = {}
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    for side in (ssl.PROTOCOL_TLS_SERVER, ssl.PROTOCOL_TLS_CLIENT):
        context = ssl.SSLContext(side)
        context.load_cert_chain(folder / "tls.crt", folder / "tls.key")
        context.load_verify_locations(folder / "ca.crt")
        context.verify_mode = ssl.CERT_REQUIRED
        server = side == ssl.PROTOCOL_TLS_SERVER
        bios = (to_server, to_client) if server else (to_client, to_server)
        ends[server] = context.wrap_bio(*bios, server_side=server, server_hostname=None if server else host)
    for _ in range(4):
        for end in ends.values():
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
    return all(end.getpeercert() for end in ends.values())

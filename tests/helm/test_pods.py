"""Every pod: the restricted profile, the room's own settings and nothing else, secrets by reference, probes, an end that waits."""

import dataclasses
import importlib
import math
import re
from typing import Any

import pytest

from darkroom import postgres, settings
from darkroom.client import Endpoints
from tests.helm import chart

# Read by the kernels' cache, by Kubernetes in another variable, and by the stores' cloud libraries.
NO_SETTINGS = {"DARKROOM_KERNEL_CACHE_DIR", "POD_NAME", "AWS_REGION"}
ROOM_PODS = [
    pytest.param(pod, id=f"{name}-{chart.component(pod)}-{pod['metadata']['labels'].get('darkroom/pool', '')}")
    for name in chart.CI
    for pod in chart.pods(chart.rendered(name))
    if chart.component(pod) != "client"
]
TEST_PODS = [
    pytest.param(pod, id=name)
    for name in chart.CI
    for pod in chart.pods(chart.rendered(name))
    if chart.component(pod) == "client"
]


def config(pod: chart.Manifest) -> Any:
    """The Config class of the room that a pod serves."""
    (room,) = pod["spec"]["containers"][0]["args"]
    return importlib.import_module(f"darkroom.{room}.config").Config


def filled(pod: chart.Manifest) -> Any:
    """The pod's environment as the room's Config reads it; Kubernetes' part is done here."""
    environ = {"POD_NAME": "a-pod"}
    for name, variable in chart.environment(pod).items():
        if "secretKeyRef" in variable.get("valueFrom", {}):
            key = f"dk_{'0' * 12}_{'0' * 64}" if name == "DARKROOM_OPERATOR_KEY" else "s" * 40
            environ[name] = key
        elif "valueFrom" in variable:
            environ.setdefault(name, "a-node")
        else:
            environ[name] = variable["value"].replace("$(POD_NAME)", "a-pod")
    return settings.load(config(pod), environ)


@pytest.mark.parametrize("pod", [*ROOM_PODS, *TEST_PODS])
def test_the_profile_is_restricted(pod: chart.Manifest) -> None:
    spec = pod["spec"]
    assert spec["automountServiceAccountToken"] is False
    assert spec["enableServiceLinks"] is False
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
    security = spec["securityContext"]
    assert security["runAsNonRoot"] is True
    assert security["runAsUser"] > 0
    assert security["fsGroup"] > 0
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in spec["containers"] + spec.get("initContainers", []):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert not any("hostPort" in port for port in container.get("ports", []))
    kinds = {kind for volume in spec["volumes"] for kind in volume if kind != "name"}
    assert kinds <= {"configMap", "emptyDir", "secret", "persistentVolumeClaim"}


@pytest.mark.parametrize("pod", ROOM_PODS)
def test_the_room_reads_its_environment(pod: chart.Manifest) -> None:
    loaded = filled(pod)  # a missing, malformed or unfit setting is fatal
    assert loaded.listen_address == "0.0.0.0:50051"
    assert loaded.tls_cert_path
    assert loaded.reflection is False


@pytest.mark.parametrize("pod", ROOM_PODS)
def test_every_variable_is_a_setting_of_the_room(pod: chart.Manifest) -> None:
    fields = {f"DARKROOM_{field.name.upper()}" for field in dataclasses.fields(config(pod))}
    names = [variable["name"] for variable in pod["spec"]["containers"][0]["env"]]
    assert set(names) - fields - NO_SETTINGS == set()
    assert len(names) == len(set(names))


@pytest.mark.parametrize("pod", TEST_PODS)
def test_the_test_pod_has_what_the_command_reads(pod: chart.Manifest) -> None:
    fields = {f"DARKROOM_{field.name.upper()}" for field in dataclasses.fields(Endpoints)} | {"DARKROOM_API_KEY"}
    assert set(chart.environment(pod)) == fields
    assert pod["metadata"]["annotations"]["helm.sh/hook"] == "test"
    assert pod["spec"]["containers"][0]["command"][:2] == ["darkroom", "generate"]
    assert pod["spec"]["restartPolicy"] == "Never"


@pytest.mark.parametrize("pod", [*ROOM_PODS, *TEST_PODS])
def test_secrets_are_references(pod: chart.Manifest) -> None:
    secret = {"DARKROOM_API_KEY"}
    if pod not in [parameter.values[0] for parameter in TEST_PODS]:
        secret |= {f"DARKROOM_{f.name.upper()}" for f in dataclasses.fields(config(pod)) if not f.repr}
    for name in secret & set(chart.environment(pod)):
        assert set(chart.environment(pod)[name]) == {"name", "valueFrom"}
        assert set(chart.environment(pod)[name]["valueFrom"]) == {"secretKeyRef"}


def test_secrets_go_to_whom_they_concern() -> None:
    pods = {chart.component(pod): set(chart.environment(pod)) for pod in chart.pods(chart.rendered("full-values.yaml"))}
    holders = {name: {room for room, names in pods.items() if name in names} for name in set().union(*pods.values())}
    assert holders["DARKROOM_OPERATOR_KEY"] == {"billing-meter"}
    assert holders["DARKROOM_API_KEY"] == {"client"}
    assert holders["DARKROOM_DATABASE_URL"] == {"scheduler", "lora-store", "media-store", "billing-meter"}
    assert holders["DARKROOM_SERVICE_SECRET"] == set(pods) - {"client"}
    sources = {
        chart.component(p): p["spec"]["containers"][0].get("envFrom")
        for p in chart.pods(chart.rendered("full-values.yaml"))
    }
    assert {room for room, source in sources.items() if source} == {"lora-store", "media-store"}


@pytest.mark.parametrize("pod", ROOM_PODS)
def test_probes_ask_the_plaintext_health_port(pod: chart.Manifest) -> None:
    (container,) = pod["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["grpc"] == {"port": ports["health"]}
    loaded = filled(pod)
    for name, address in {
        "grpc": loaded.listen_address,
        "health": loaded.health_address,
        "metrics": loaded.metrics_address,
        "http": getattr(loaded, "http_address", ""),
    }.items():
        assert str(ports.get(name, "")) == address.rpartition(":")[2]


def test_a_runner_may_take_its_time_to_start_and_a_room_that_of_its_migrations() -> None:
    for pod in chart.pods(chart.rendered("full-values.yaml")):
        (container,) = pod["spec"]["containers"]
        if (probe := container.get("startupProbe")) is None:  # the client, which serves nothing
            continue
        allowed_s = probe["periodSeconds"] * probe["failureThreshold"]
        if pod["metadata"]["labels"].get("darkroom/pool") == "h200":
            assert allowed_s == 900
        elif container["name"] != "model-runner":
            assert allowed_s == postgres.MIGRATION_TIMEOUT_S


@pytest.mark.parametrize("pod", ROOM_PODS)
def test_the_end_outlasts_the_rooms_own(pod: chart.Manifest) -> None:
    (container,) = pod["spec"]["containers"]
    sleep_s = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    drained_twice_s = math.ceil(2.05 * filled(pod).shutdown_grace_s)  # the attempts, then the calls under way
    assert pod["spec"]["terminationGracePeriodSeconds"] >= sleep_s + drained_twice_s + 5


def test_a_pool_drains_for_as_long_as_it_says() -> None:
    graces = {
        pod["metadata"]["labels"].get("darkroom/pool"): filled(pod).shutdown_grace_s
        for pod in chart.pods(chart.rendered("full-values.yaml"))
        if chart.component(pod) != "client"
    }
    assert graces == {None: 30.5, "cpu": 30.5, "h200": 120}


def test_numbers_and_lists_arrive_as_they_were_said() -> None:
    pods = {
        p["metadata"]["labels"].get("darkroom/pool", chart.component(p)): p
        for p in chart.pods(chart.rendered("full-values.yaml"))
    }
    scheduler = filled(pods["scheduler"])
    assert scheduler.queued_generations_max == 10_000_000
    assert scheduler.grant_nanos_max == 20_000_000_000
    assert scheduler.bell_interval_s == 0.02
    assert filled(pods["h200"]).models == ("big-image", "pocket-image")
    assert filled(pods["cpu"]).device == "cpu"


@pytest.mark.parametrize("pod", [*ROOM_PODS, *TEST_PODS])
def test_what_is_written_goes_to_bounded_volumes(pod: chart.Manifest) -> None:
    (container,) = pod["spec"]["containers"]
    volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
    writable = [mount for mount in container["volumeMounts"] if not mount.get("readOnly")]
    assert "/tmp" in [mount["mountPath"] for mount in writable]
    for mount in writable:
        volume = volumes[mount["name"]]
        assert "persistentVolumeClaim" in volume or volume["emptyDir"]["sizeLimit"]
    for name, variable in chart.environment(pod).items():
        if name.endswith("CACHE_DIR"):
            assert any(variable["value"].startswith(mount["mountPath"] + "/") for mount in writable)


@pytest.mark.parametrize("pod", [*ROOM_PODS, *TEST_PODS])
def test_certificates_are_where_the_room_looks(pod: chart.Manifest) -> None:
    (container,) = pod["spec"]["containers"]
    (mount,) = [mount for mount in container["volumeMounts"] if mount["name"] == "tls"]
    (volume,) = [volume for volume in pod["spec"]["volumes"] if volume["name"] == "tls"]
    assert volume["secret"]["defaultMode"] == 0o440
    files = {"CERT": "tls.crt", "KEY": "tls.key", "CA": "ca.crt"}
    for part, file in files.items():
        assert chart.environment(pod)[f"DARKROOM_TLS_{part}_PATH"]["value"] == f"{mount['mountPath']}/{file}"


@pytest.mark.parametrize("name", chart.CI)
def test_pods_spread_and_selectors_are_apart(name: str) -> None:
    workloads = chart.workloads(chart.rendered(name))
    for workload in workloads:
        selector = workload["spec"]["selector"]["matchLabels"]
        template = workload["spec"]["template"]
        assert selector.items() <= template["metadata"]["labels"].items()
        for constraint in template["spec"]["topologySpreadConstraints"]:
            assert constraint["labelSelector"]["matchLabels"] == selector
        others = [other for other in workloads if other is not workload]
        assert not any(selector.items() <= o["spec"]["template"]["metadata"]["labels"].items() for o in others)


@pytest.mark.parametrize("name", chart.CI)
def test_budgets_cover_every_workload_and_let_one_go(name: str) -> None:
    budgets = {
        budget["metadata"]["name"]: budget["spec"]
        for budget in chart.of_kind(chart.rendered(name), "PodDisruptionBudget")
    }
    for workload in chart.workloads(chart.rendered(name)):
        budget = budgets.pop(workload["metadata"]["name"])
        assert budget["selector"] == workload["spec"]["selector"]
        assert budget.get("maxUnavailable") == 1 or budget["minAvailable"] < workload["spec"]["replicas"]
    assert not budgets


def test_what_a_gpu_pool_asks_for() -> None:
    (pod,) = [
        p
        for p in chart.pods(chart.rendered("full-values.yaml"))
        if p["metadata"]["labels"].get("darkroom/pool") == "h200"
    ]
    spec = pod["spec"]
    assert spec["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert spec["runtimeClassName"] == "nvidia"
    assert spec["nodeSelector"] == {"nvidia.com/gpu.product": "NVIDIA-H200"}
    assert spec["tolerations"][0]["key"] == "nvidia.com/gpu"


def test_no_secret_is_rendered() -> None:
    for name in chart.CI:
        manifests = chart.rendered(name)
        assert not chart.of_kind(manifests, "Secret")
        assert not re.search(r"dk_[0-9a-f]{12}_|postgresql://|BEGIN [A-Z ]*PRIVATE KEY", str(manifests))

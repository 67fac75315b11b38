"""Who may reach whom: the policies allow what the rooms are told to call, from both ends, and nothing else."""

import itertools
from typing import NamedTuple

import pytest

from tests.helm import chart

ROOMS = {"scheduler", "lora-store", "media-store", "billing-meter", "model-runner"}
PUBLIC = ROOMS - {"model-runner"}


class Edge(NamedTuple):
    """A connection that is made."""

    source: str
    target: str
    port: int


def labels(component: str) -> dict[str, str]:
    """Labels of a pod of this component in the release."""
    return {
        "app.kubernetes.io/name": "darkroom",
        "app.kubernetes.io/instance": "darkroom",
        "app.kubernetes.io/component": component,
    }


def policies(manifests: list[chart.Manifest], component: str, direction: str) -> list[chart.Manifest]:
    """Specs of the policies that select a component's pods in this direction."""
    return [
        policy["spec"]
        for policy in chart.of_kind(manifests, "NetworkPolicy")
        if policy["spec"]["podSelector"]["matchLabels"].items() <= labels(component).items()
        and direction in policy["spec"]["policyTypes"]
    ]


def allows(rules: list[chart.Manifest], side: str, peer: str, port: int) -> bool:
    """Whether a rule names the peer's pods (of this namespace) and the port."""
    return any(
        port in [entry["port"] for entry in rule["ports"]]
        and any(
            set(candidate) == {"podSelector"}
            and candidate["podSelector"]["matchLabels"].items() <= labels(peer).items()
            for candidate in rule.get(side, [])
        )
        for rule in rules
    )


def allowed(manifests: list[chart.Manifest], edge: Edge) -> bool:
    out = [rule for policy in policies(manifests, edge.source, "Egress") for rule in policy["egress"]]
    back = [rule for policy in policies(manifests, edge.target, "Ingress") for rule in policy["ingress"]]
    return allows(out, "to", edge.target, edge.port) and allows(back, "from", edge.source, edge.port)


def called(manifests: list[chart.Manifest]) -> set[Edge]:
    """What the environment tells each pod to call, and the scheduler's streams to the runners."""
    edges = {Edge("scheduler", "model-runner", 50051), Edge("client", "media-store", 8080)}
    services = {service["metadata"]["name"]: service for service in chart.of_kind(manifests, "Service")}
    for pod in chart.pods(manifests):
        for name, variable in chart.environment(pod).items():
            if name.endswith("_ADDRESS") and not name.endswith(("LISTEN_ADDRESS", "HEALTH_ADDRESS", "METRICS_ADDRESS")):
                host, _, port = variable.get("value", "").rpartition(":")
                if host.startswith(("0.0.0.0", "$(POD_NAME)")):
                    continue
                service = services[host.removesuffix(f".{chart.NAMESPACE}.svc")]
                edges.add(Edge(chart.component(pod), chart.component(service), int(port)))
    return edges


@pytest.mark.parametrize("name", chart.CI)
def test_exactly_the_calls_that_are_made_are_allowed(name: str) -> None:
    manifests = chart.rendered(name)
    every = itertools.product(ROOMS | {"client"}, ROOMS | {"client"}, (50051, 50052, 9090, 8080, 5432))
    assert {Edge(*edge) for edge in every if allowed(manifests, Edge(*edge))} == called(manifests)


@pytest.mark.parametrize("name", chart.CI)
def test_everything_else_is_denied_both_ways(name: str) -> None:
    manifests = chart.rendered(name)
    for component in {*ROOMS, "client", "anything"}:
        assert policies(manifests, component, "Ingress")
        assert policies(manifests, component, "Egress")
    (default,) = [p["spec"] for p in chart.of_kind(manifests, "NetworkPolicy") if "-default" in p["metadata"]["name"]]
    assert default["ingress"] == []
    (dns,) = default["egress"]
    assert dns["ports"] == [{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}]
    assert dns["to"]


def outside(manifests: list[chart.Manifest], component: str) -> dict[int, list[chart.Manifest] | None]:
    """Ports a component may reach outside the release, with their peers; None is anywhere."""
    return {
        rule["ports"][0]["port"]: rule.get("to")
        for policy in policies(manifests, component, "Egress")
        for rule in policy["egress"]
        if rule["ports"][0]["port"] not in {53, 50051, 8080}
    }


def test_who_may_leave_the_cluster_by_default() -> None:
    manifests = chart.rendered("minimal-values.yaml")
    database, blobs = {5432: None}, {443: None}
    assert outside(manifests, "scheduler") == outside(manifests, "billing-meter") == database
    assert outside(manifests, "lora-store") == outside(manifests, "media-store") == database | blobs
    assert outside(manifests, "model-runner") == outside(manifests, "client") == {}


def test_peers_narrow_what_is_outside() -> None:
    values = chart.ci("full-values.yaml")["networkPolicy"]
    assert outside(chart.rendered("full-values.yaml"), "media-store") == {
        5432: values["databasePeers"],
        443: values["blobPeers"],
        4317: values["otlpPeers"],
    }


def test_local_blobs_need_no_way_out() -> None:
    mount = "{replicas: 1, extraVolumes: [{name: blobs, emptyDir: {}}], extraVolumeMounts: [{name: blobs, mountPath: /blobs}]}"
    values = chart.minimal(f"{{blobs: {{url: 'file:///blobs'}}, loraStore: {mount}, mediaStore: {mount}}}")
    manifests = chart.render(values)
    assert outside(manifests, "media-store") == {5432: None}
    strategies = {chart.component(w): w["spec"].get("strategy", {}).get("type") for w in chart.workloads(manifests)}
    assert {room for room, strategy in strategies.items() if strategy == "Recreate"} == {"lora-store", "media-store"}


def peers(component: str, port: int) -> list[chart.Manifest]:
    """Whom a component admits on a port from outside the release, under the full values."""
    rules = policies(chart.rendered("full-values.yaml"), component, "Ingress")
    found = [rule.get("from", []) for policy in rules for rule in policy["ingress"] if {"port": port} in rule["ports"]]
    return [peer for candidates in found for peer in candidates if "namespaceSelector" in peer]


def test_whom_the_operator_names_is_let_in() -> None:
    values = chart.ci("full-values.yaml")["networkPolicy"]
    for room in ROOMS:
        assert peers(room, 50051) == (values["clientPeers"] if room in PUBLIC else [])
        assert peers(room, 8080) == (values["httpPeers"] if room == "media-store" else [])
        assert peers(room, 9090) == values["metricsPeers"]


def test_policies_can_be_left_to_others() -> None:
    assert not chart.of_kind(chart.render(chart.minimal("{networkPolicy: {enabled: false}}")), "NetworkPolicy")


@pytest.mark.parametrize("name", chart.CI)
def test_services_find_their_pods_and_ports(name: str) -> None:
    manifests = chart.rendered(name)
    for service in chart.of_kind(manifests, "Service"):
        assert service["spec"]["clusterIP"] == "None"  # gRPC balances by itself over all addresses
        found = [
            p for p in chart.pods(manifests) if service["spec"]["selector"].items() <= p["metadata"]["labels"].items()
        ]
        assert {chart.component(pod) for pod in found} == {chart.component(service)}
        for pod in found:
            ports = {port["name"]: port["containerPort"] for port in pod["spec"]["containers"][0]["ports"]}
            for port in service["spec"]["ports"]:
                assert ports[port["targetPort"]] == port["port"]


@pytest.mark.parametrize("name", chart.CI)
def test_a_runner_announces_the_name_that_its_service_gives_it(name: str) -> None:
    manifests = chart.rendered(name)
    sets = chart.of_kind(manifests, "StatefulSet")
    (service,) = [s for s in chart.of_kind(manifests, "Service") if chart.component(s) == "model-runner"]
    assert service["spec"]["publishNotReadyAddresses"] is True
    for pool in sets:
        assert pool["spec"]["serviceName"] == service["metadata"]["name"]
        announced = chart.environment(pool["spec"]["template"])["DARKROOM_ADVERTISE_ADDRESS"]["value"]
        assert announced == f"$(POD_NAME).{service['metadata']['name']}.{chart.NAMESPACE}.svc:50051"
        names = [variable["name"] for variable in pool["spec"]["template"]["spec"]["containers"][0]["env"]]
        assert names.index("POD_NAME") < names.index("DARKROOM_ADVERTISE_ADDRESS")  # else it is not expanded


def test_certificates_carry_the_names_that_are_dialled() -> None:
    manifests = chart.rendered("full-values.yaml")
    names = {
        chart.component(certificate): certificate["spec"]["dnsNames"]
        for certificate in chart.of_kind(manifests, "Certificate")
    }
    for pod in chart.pods(manifests):
        for name, variable in chart.environment(pod).items():
            host = variable.get("value", "").rpartition(":")[0]
            if name.endswith("_ADDRESS") and host.endswith(".svc"):
                host = host.replace("$(POD_NAME)", "*")
                assert any(host in covered for covered in names.values())
    assert all("localhost" in covered for covered in names.values())
    secrets = {certificate["spec"]["secretName"] for certificate in chart.of_kind(manifests, "Certificate")}
    mounted = {
        v["secret"]["secretName"] for pod in chart.pods(manifests) for v in pod["spec"]["volumes"] if "secret" in v
    }
    assert mounted - secrets == {"meter-tls"}  # billing_meter brings its own

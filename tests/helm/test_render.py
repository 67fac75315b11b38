"""What the chart renders to is what a cluster accepts."""

import re
import tomllib
from typing import Any

import helm_python
import jsonschema
import kubernetes_validate
import pytest
import yaml

from tests.helm import chart

KUBERNETES = "1.33"
TEXT = {"type": "string", "minLength": 1}
# The parts of the custom resources' schemas that the chart fills, as their CRDs have them.
CUSTOM: dict[str, dict[str, Any]] = {
    "Certificate": {
        "type": "object",
        "required": ["secretName", "issuerRef"],
        "additionalProperties": False,
        "properties": {
            "secretName": TEXT,
            "duration": TEXT,
            "renewBefore": TEXT,
            "dnsNames": {"type": "array", "items": TEXT, "minItems": 1},
            "issuerRef": {
                "type": "object",
                "required": ["name"],
                "additionalProperties": False,
                "properties": {"name": TEXT, "kind": TEXT, "group": TEXT},
            },
            "usages": {"type": "array", "items": {"enum": ["digital signature", "server auth", "client auth"]}},
            "privateKey": {
                "type": "object",
                "additionalProperties": False,
                "properties": {
                    "algorithm": {"enum": ["RSA", "ECDSA", "Ed25519"]},
                    "size": {"type": "integer"},
                    "rotationPolicy": {"enum": ["Never", "Always"]},
                },
            },
        },
    },
    "ServiceMonitor": {
        "type": "object",
        "required": ["endpoints", "selector"],
        "additionalProperties": False,
        "properties": {
            "selector": {"type": "object", "properties": {"matchLabels": {"type": "object"}}},
            "targetLabels": {"type": "array", "items": TEXT},
            "endpoints": {
                "type": "array",
                "items": {
                    "type": "object",
                    "additionalProperties": False,
                    "properties": {"port": TEXT, "interval": TEXT},
                },
            },
        },
    },
}


@pytest.mark.parametrize("name", chart.CI)
def test_lint_finds_nothing(name: str) -> None:
    report = helm_python.lint(chart.CHART, chart.ci(name), strict=True, namespace=chart.NAMESPACE)
    assert report["total_charts_linted"] == 1
    assert not report["errors"]
    assert [message["error"] for message in report["messages"] if message["severity"] > 1] == []


@pytest.mark.parametrize("name", chart.CI)
def test_every_manifest_is_valid(name: str) -> None:
    for manifest in chart.rendered(name):
        if manifest["kind"] in CUSTOM:
            jsonschema.validate(manifest["spec"], CUSTOM[manifest["kind"]])
        else:
            kubernetes_validate.validate(manifest, KUBERNETES, strict=True)


def test_the_full_values_render_every_kind() -> None:
    kinds = {manifest["kind"] for manifest in chart.rendered("full-values.yaml")}
    assert kinds == set(CUSTOM) | {
        *("ServiceAccount", "Service", "Deployment", "StatefulSet", "PodDisruptionBudget", "NetworkPolicy"),
        *("ConfigMap", "Pod"),
    }


@pytest.mark.parametrize("name", chart.CI)
def test_names_are_unique_short_and_in_the_namespace(name: str) -> None:
    extra = {manifest["kind"] for manifest in chart.ci(name).get("extraObjects", [])}
    manifests = chart.rendered(name)
    keys = [(manifest["kind"], manifest["metadata"]["name"]) for manifest in manifests]
    assert len(set(keys)) == len(keys)
    spaces = [manifest["metadata"].get("namespace") for manifest in manifests if manifest["kind"] not in extra]
    assert set(spaces) == {chart.NAMESPACE}


def test_the_longest_name_still_makes_a_stateful_set() -> None:
    values = chart.minimal("{fullnameOverride: abcdefghijklmnopqrstuvwx, runnerPools: {fourteen-chars: {replicas: 1}}}")
    (found,) = [
        m["metadata"]["name"] for m in chart.of_kind(chart.render(values), "StatefulSet") if "fourteen" in str(m)
    ]
    assert len(found) <= 52  # its pods' controller-revision-hash label is 11 longer, and may have 63


def test_every_room_has_its_objects() -> None:
    manifests = chart.rendered("minimal-values.yaml")
    rooms = {room.replace("_", "-") for room in chart.ROOMS.values()}
    for kind in ("ServiceAccount", "Service", "PodDisruptionBudget"):
        assert {chart.component(manifest) for manifest in chart.of_kind(manifests, kind)} == rooms
    assert {chart.component(manifest) for manifest in chart.workloads(manifests)} == rooms
    assert {(pod["spec"]["containers"][0]["args"][0]) for pod in chart.pods(manifests) if "args" in str(pod)} == set(
        chart.ROOMS.values()
    )


def test_extra_objects_are_templates() -> None:
    (extra,) = [m for m in chart.rendered("full-values.yaml") if m["metadata"]["name"] == "darkroom-extra"]
    assert extra["data"] == {"greeting": "hello"}


def test_the_catalogue_reaches_the_pods() -> None:
    name = "full-values.yaml"
    (config,) = [m for m in chart.of_kind(chart.rendered(name), "ConfigMap") if "big-image.yaml" in m["data"]]
    assert yaml.safe_load(config["data"]["big-image.yaml"]) == {"name": "big-image"}
    changed = chart.render(chart.merged(chart.ci(name), {"catalog": {"files": {"other.yaml": "name: other"}}}))
    for before, after in zip(chart.pods(chart.rendered(name)), chart.pods(changed), strict=True):
        reads = "DARKROOM_CATALOG_DIR" in chart.environment(before)
        mounted = any(
            v.get("configMap", {}).get("name") == config["metadata"]["name"] for v in before["spec"]["volumes"]
        )
        assert reads == mounted
        rolls = before["metadata"]["annotations"] != after["metadata"]["annotations"]
        assert rolls == reads  # a changed catalogue restarts who reads it, and nobody else


def test_a_digest_goes_before_a_tag() -> None:
    images = {
        pod["spec"]["containers"][0]["image"].partition("/darkroom/")[2]
        for pod in chart.pods(chart.rendered("full-values.yaml"))
    }
    assert images == {"darkroom-control@sha256:" + "1" * 64, "darkroom-runner:0.1.0-cuda"}


def test_the_version_is_the_packages() -> None:
    project = tomllib.loads((chart.TOP / "pyproject.toml").read_text())["project"]
    assert chart.loaded().metadata["appVersion"] == project["version"]


def test_rendering_asks_no_cluster_and_makes_no_secret() -> None:
    forbidden = re.compile(r"\b(lookup|rand\w+|genCA|gen\w*Cert|genPrivateKey|derivePassword|kind: Secret\b|now)\b")
    for template in chart.loaded().templates:
        assert not forbidden.search(template["data"]), template["name"]


@pytest.mark.parametrize("name", chart.CI)
def test_rendering_twice_is_the_same(name: str) -> None:
    assert chart.render(chart.ci(name)) == chart.rendered(name)


def test_the_notes_say_how_to_go_on() -> None:
    texts = chart.loaded().render(chart.minimal(), name="darkroom", namespace=chart.NAMESPACE)
    notes = texts["darkroom/templates/NOTES.txt"]
    assert f"DARKROOM_SCHEDULER_ADDRESS=darkroom-scheduler.{chart.NAMESPACE}.svc:50051" in notes
    assert "helm -n studio test darkroom" in notes

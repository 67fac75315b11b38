"""What the values may be: the schema, what contradicts itself, and the README's tables."""

import dataclasses
import importlib
import json
import re
import typing
from collections.abc import Iterator
from typing import Any

import helm_python
import pytest

from tests.helm import chart

# What the chart sets by itself, or has a key of its own for; everything else of a Config is a setting.
MANAGED = {
    *("listen_address", "health_address", "metrics_address", "http_address", "advertise_address", "node_name"),
    *("scheduler_address", "lora_store_address", "media_store_address", "billing_meter_address"),
    *("tls_cert_path", "tls_key_path", "tls_ca_path", "service_secret", "operator_key", "database_url"),
    *("blob_url", "public_url", "catalog_dir", "cache_dir", "spool_dir"),
}

ACCEPTED = [
    "",
    "{scheduler: {replicas: 5, settings: {tick_interval_s: 0.1, queued_generations_max: 10}}}",
    "{scheduler: {podDisruptionBudget: {minAvailable: 1}}}",
    "{runnerPools: {gpu: {replicas: 0, resources: {limits: {nvidia.com/gpu: 1}}, settings: {device: 'cuda:0'}}}}",
    "{runnerPools: {mig: {replicas: 1, resources: {limits: {nvidia.com/mig-1g.10gb: 1}}, settings: {device: 'cuda:0'}}}}",
    "{runnerPools: {cpu: {settings: {models: [a, b], preload: [b]}}}}",
    "{runnerPools: {a: {replicas: 1, resources: {limits: {memory: 96Gi}}, settings: {host_cache_bytes_max: 68719476736}}}}",
    "{image: {control: {digest: 'sha256:" + "a" * 64 + "'}}}",
    "{tls: {existingSecret: '', certManager: {enabled: true, issuerRef: {name: ca}}}}",
    "{blobs: {url: 'gs://bucket/a'}, mediaStore: {publicUrl: 'https://media.example.com'}}",
    "{blobs: {env: {AWS_REGION: here, AWS_ENDPOINT: 'https://s3.example.com'}}}",
    "{scheduler: {extraVolumes: [{name: a, emptyDir: {}}], extraVolumeMounts: [{name: a, mountPath: /a}]}}",
    "{networkPolicy: {enabled: false}, serviceMonitor: {enabled: true}}",
    "{global: {anything: goes}}",
]

REFUSED = [
    ("{schedular: {}}", "schedular"),
    ("{scheduler: {replicaz: 1}}", "replicaz"),
    ("{scheduler: {replicas: '2'}}", "/scheduler/replicas"),
    ("{scheduler: {replicas: -1}}", "/scheduler/replicas"),
    ("{scheduler: {settings: {queue_max: 1}}}", "queue_max"),
    ("{scheduler: {settings: {attempts_max: 0}}}", "/scheduler/settings/attempts_max"),
    ("{scheduler: {settings: {attempts_max: 1.5}}}", "/scheduler/settings/attempts_max"),
    ("{scheduler: {settings: {database_url: 'postgresql://u:p@h/d'}}}", "database_url"),
    ("{billingMeter: {settings: {operator_key: secret}}}", "operator_key"),
    ("{settings: {log_level: LOUD}}", "/settings/log_level"),
    ("{settings: {shutdown_grace_s: 3600}}", "/settings/shutdown_grace_s"),
    ("{secrets: {database: {password: hunter2}}}", "password"),
    ("{secrets: {platform: {name: 'Not A Name'}}}", "/secrets/platform/name"),
    ("{image: {control: {digest: latest}}}", "/image/control/digest"),
    ("{image: {pullPolicy: Sometimes}}", "/image/pullPolicy"),
    ("{blobs: {url: 'memory://'}}", "/blobs/url"),
    ("{blobs: {env: {AWS_SECRET_ACCESS_KEY: hunter2}}}", "AWS_SECRET_ACCESS_KEY"),
    ("{blobs: {env: {PATH: /bin}}}", "PATH"),
    ("{catalog: {files: {'Big Image.yaml': x}}}", "Big Image.yaml"),
    ("{runnerPools: {cpu: {settings: {}, replicas: null}}}", "/runnerPools/cpu"),
    ("{runnerPools: {Fast_One: {replicas: 1}}}", "Fast_One"),
    ("{runnerPools: {fifteen-letters: {replicas: 1}}}", "fifteen-letters"),
    ("{runnerPools: {cpu: {publicUrl: 'https://x'}}}", "publicUrl"),
    ("{scheduler: {runtimeClassName: nvidia}}", "runtimeClassName"),
    ("{scheduler: {extraVolumes: [{name: a, hostPath: {path: /}}]}}", "/scheduler/extraVolumes"),
    ("{scheduler: {podLabels: {app.kubernetes.io/component: client}}}", "app.kubernetes.io/component"),
    ("{scheduler: {tmpSizeLimit: much}}", "/scheduler/tmpSizeLimit"),
    ("{networkPolicy: {clientPeers: [{}]}}", "/networkPolicy/clientPeers"),
    ("{networkPolicy: {databasePort: 70000}}", "/networkPolicy/databasePort"),
    ("{tls: {enabled: false}}", "enabled"),
    ("{fullnameOverride: a-name-that-is-too-long-for-its-pods}", "/fullnameOverride"),
    ("{extraObjects: [{kind: ConfigMap}]}", "/extraObjects"),
]

CONTRADICTIONS = [
    ("{scheduler: {replicas: 2, podDisruptionBudget: {minAvailable: 2}}}", "scheduler.podDisruptionBudget"),
    ("{runnerPools: {cpu: {podDisruptionBudget: {minAvailable: 1}}}}", "runnerPools.cpu.podDisruptionBudget"),
    ("{secrets: {platform: {name: ''}}}", "secrets.platform.name is empty"),
    ("{secrets: {database: {name: ''}}}", "secrets.database.name is empty"),
    ("{tls: {existingSecret: ''}}", "mutual TLS only"),
    ("{tls: {certManager: {enabled: true, issuerRef: {name: ca}}}}", "exclude each other"),
    ("{tls: {existingSecret: '', certManager: {enabled: true}}}", "issuerRef.name is empty"),
    ("{blobs: {url: ''}}", "blobs.url is empty"),
    ("{blobs: {url: 'file:///blobs'}}", "mediaStore.replicas must be 1"),
    ("{blobs: {url: 'file:///blobs'}}", "loraStore.extraVolumeMounts must mount"),
    ("{runnerPools: null}", "runnerPools is empty"),
    ("{runnerPools: {cpu: {settings: {models: [a], preload: [a, b]}}}}", "preload names b"),
    ("{runnerPools: {cpu: {settings: {device: 'cuda:0'}}}}", "ask for no nvidia.com GPU"),
    ("{runnerPools: {gpu: {replicas: 1, settings: {host_cache_bytes_max: 68719476736}}}}", "must ask for memory"),
    ("{serviceMonitor: {enabled: true}}", "needs networkPolicy.metricsPeers"),
]


@pytest.mark.parametrize("changes", ACCEPTED)
def test_accepted(changes: str) -> None:
    assert chart.render(chart.minimal(changes))


@pytest.mark.parametrize(("changes", "named"), REFUSED)
def test_refused_by_the_schema(changes: str, named: str) -> None:
    with pytest.raises(helm_python.HelmValuesError, match=re.escape(named)):
        chart.loaded().validate_schema(chart.minimal(changes))


@pytest.mark.parametrize(("changes", "told"), CONTRADICTIONS)
def test_refused_together(changes: str, told: str) -> None:
    values = chart.minimal(changes)
    chart.loaded().validate_schema(values)
    with pytest.raises(helm_python.HelmRenderError, match=re.escape(told)):
        chart.render(values)


def test_all_faults_are_told_at_once() -> None:
    with pytest.raises(helm_python.HelmRenderError) as refusal:
        chart.render({})
    assert str(refusal.value).count("\n- ") == 5


@pytest.mark.parametrize(("key", "room"), chart.ROOMS.items())
def test_the_settings_are_those_of_the_room(key: str, room: str) -> None:
    declared = chart.schema()["properties"][key]
    declared = declared.get("additionalProperties") or declared
    settings = declared["properties"]["settings"]["properties"]
    fields = {field.name: field for field in dataclasses.fields(config(room))}
    assert set(settings) == set(fields) - MANAGED
    hints = typing.get_type_hints(config(room))
    for name, described in settings.items():
        assert described["description"] == fields[name].metadata["doc"]
        if hints[name] in (int, float):
            assert described["type"] == {int: "integer", float: "number"}[hints[name]]
            bounds = (described.get("minimum"), described.get("maximum"))
            assert bounds == (fields[name].metadata["low"], fields[name].metadata["high"]), name


def test_settings_of_every_room_are_in_every_room() -> None:
    shared = chart.schema()["properties"]["settings"]["properties"]
    for room in chart.ROOMS.values():
        assert set(shared) <= {field.name for field in dataclasses.fields(config(room))}


def test_every_object_of_the_schema_is_closed() -> None:
    for node in nodes(chart.schema()):
        if "properties" in node and node.get("type") == "object":
            assert node["additionalProperties"] is False or "cidr" in str(node), node


def test_the_readme_lists_every_value_with_its_default() -> None:
    listed = {
        key: json.loads(default) for key, default in re.findall(r"^\| `(.+?)` \| `(.+)` \| .+ \|$", readme(), re.M)
    }
    assert listed == dict(leaves(chart.loaded().values))


def test_the_readme_lists_every_key_of_rooms_and_pools() -> None:
    section = readme().partition("## Keys of a room")[2]
    listed = dict(re.findall(r"^\| `(.+?)` \| .+ \| (\w+) \|$", section, re.M))
    properties = chart.schema()["properties"]
    pool = set(properties["runnerPools"]["additionalProperties"]["properties"])
    room, media = set(properties["scheduler"]["properties"]), set(properties["mediaStore"]["properties"])
    assert {key for key, where in listed.items() if where == "both"} == pool & room
    assert {key for key, where in listed.items() if where == "pools"} == pool - room
    assert {key for key, where in listed.items() if where == "rooms"} == room - pool
    assert {key for key, where in listed.items() if where == "mediaStore"} == media - room


def config(room: str) -> Any:
    return importlib.import_module(f"darkroom.{room}.config").Config


def readme() -> str:
    return (chart.CHART / "README.md").read_text()


def leaves(values: chart.Manifest, above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{above}{key}.")
        else:
            yield above + key, value


def nodes(schema: Any) -> Iterator[chart.Manifest]:
    if isinstance(schema, dict):
        yield schema
        for child in schema.values():
            yield from nodes(child)
    elif isinstance(schema, list):
        for child in schema:
            yield from nodes(child)

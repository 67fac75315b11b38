"""The chart as the tests see it: rendered by the real Helm engine, as plain dictionaries."""

import copy
import functools
import pathlib
from typing import Any

import helm_python
import yaml

TOP = pathlib.Path(__file__).parents[2]
CHART = TOP / "helm" / "darkroom"
VALUES = {path.name: path for path in [*sorted((CHART / "ci").glob("*.yaml")), TOP / "k8s" / "kind-values.yaml"]}
CI = list(VALUES)
ROOMS = {
    "scheduler": "scheduler",
    "loraStore": "lora_store",
    "mediaStore": "media_store",
    "billingMeter": "billing_meter",
    "runnerPools": "model_runner",
}
NAMESPACE = "studio"

Manifest = dict[str, Any]


@functools.cache
def loaded() -> helm_python.Chart:
    return helm_python.Chart.load(CHART)


@functools.cache
def schema() -> Manifest:
    found = loaded().schema
    assert found is not None
    return found


def ci(name: str) -> Manifest:
    values: Manifest = yaml.safe_load(VALUES[name].read_text())
    return values


def minimal(changes: str = "") -> Manifest:
    """The least values that install, changed as this YAML says."""
    return merged(ci("minimal-values.yaml"), yaml.safe_load(changes) or {})


def merged(base: Manifest, changes: Manifest) -> Manifest:
    result = copy.deepcopy(base)
    for key, value in changes.items():
        both = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = merged(result[key], value) if both else value
    return result


def render(values: Manifest) -> list[Manifest]:
    """Every manifest of a release named "darkroom"; raises HelmValuesError or HelmRenderError."""
    texts = loaded().render(values, name="darkroom", namespace=NAMESPACE)
    manifests = [text for path, text in texts.items() if not path.endswith("NOTES.txt")]
    return [document for text in manifests for document in yaml.safe_load_all(text) if document]


@functools.cache
def rendered(name: str) -> list[Manifest]:
    """What a file of ci/ or k8s/ renders to; not to be changed."""
    return render(ci(name))


def of_kind(manifests: list[Manifest], *kinds: str) -> list[Manifest]:
    return [manifest for manifest in manifests if manifest["kind"] in kinds]


def workloads(manifests: list[Manifest]) -> list[Manifest]:
    return of_kind(manifests, "Deployment", "StatefulSet")


def component(manifest: Manifest) -> str:
    return str(manifest["metadata"]["labels"]["app.kubernetes.io/component"])


def pods(manifests: list[Manifest]) -> list[Manifest]:
    """Every pod or pod template, with its metadata and spec."""
    return [workload["spec"]["template"] for workload in workloads(manifests)] + of_kind(manifests, "Pod")


def environment(pod: Manifest) -> dict[str, Manifest]:
    """The container's variables by name."""
    (container,) = pod["spec"]["containers"]
    return {variable["name"]: variable for variable in container["env"]}

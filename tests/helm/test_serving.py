"""The control rooms run with the environment that the chart gives them: mutual TLS between them, health and metrics in plaintext."""

import asyncio
import contextlib
import json
import os
import pathlib
import socket
import sys
import urllib.request
from collections.abc import AsyncIterator

import grpc
import pytest
import yaml
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.helm import chart, test_prerequisites

DARKROOM = (sys.executable, "-m", "darkroom")


class Cluster:
    """What Kubernetes would do, on loopback: addresses, mounted files, secrets."""

    def __init__(self, folder: pathlib.Path, database_url: str) -> None:
        self.folder = folder
        self.database_url = database_url
        self.ports: dict[str, str] = {}
        self.mount("tls", test_prerequisites.made()["darkroom-tls"]["stringData"])

    def mount(self, name: str, files: dict[str, str]) -> None:
        """Put files where the pods' /etc/darkroom/<name> is."""
        (self.folder / name).mkdir()
        for key, text in files.items():
            (self.folder / name / key).write_text(text)

    def environment(self, pod: chart.Manifest) -> dict[str, str]:
        """A pod's variables as its process would see them."""
        seen: dict[str, str] = {}
        for name, variable in chart.environment(pod).items():
            reference = variable.get("valueFrom", {}).get("secretKeyRef")
            if reference:
                seen[name] = test_prerequisites.made()[reference["name"]]["stringData"][reference["key"]]
            else:
                seen[name] = self.on_loopback(chart.component(pod), variable["value"])
        local = {"DARKROOM_DATABASE_URL": self.database_url, "DARKROOM_PARENT_PID": str(os.getpid())}
        return seen | local | {"DARKROOM_SHUTDOWN_GRACE_S": "1"}

    def on_loopback(self, component: str, value: str) -> str:
        host, _, port = value.rpartition(":")
        if host == "0.0.0.0":
            return f"0.0.0.0:{self.port(component, port)}"
        if host.endswith(".svc"):
            return f"localhost:{self.port(host.split('.')[0].removeprefix('darkroom-'), port)}"
        blobs = value.replace("/var/lib/darkroom", str(self.folder / component))
        return blobs.replace("/etc/darkroom", str(self.folder))

    def port(self, component: str, port: str) -> str:
        """The free port that stands for a pod's port."""
        if f"{component}:{port}" not in self.ports:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                self.ports[f"{component}:{port}"] = str(probe.getsockname()[1])
        return self.ports[f"{component}:{port}"]


async def run(*words: str, environment: dict[str, str]) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *DARKROOM,
        *words,
        env=os.environ | environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=None,
    )


@contextlib.asynccontextmanager
async def served(cluster: Cluster, pods: list[chart.Manifest]) -> AsyncIterator[None]:
    """Every pod's process, ready; all must end by themselves when they are told to."""
    processes = []
    try:
        for pod in pods:
            words = pod["spec"]["containers"][0]["args"]
            processes.append(await run("serve", *words, environment=cluster.environment(pod)))
        for process in processes:
            assert process.stdout is not None
            assert (await process.stdout.readline()).startswith(b"ready ")
        yield
        for process in processes:
            process.terminate()
        assert [await process.wait() for process in processes] == [0] * len(pods)
    finally:
        for process in processes:
            if process.returncode is None:
                process.kill()
                await process.wait()


async def test_the_control_rooms_serve_as_the_chart_says(tmp_path: pathlib.Path, database_url: str) -> None:
    cluster = Cluster(tmp_path, database_url)
    manifests = test_prerequisites.kind_release({"catalog": {"files": {"big-image.yaml": catalogue_entry()}}})
    (catalogue,) = chart.of_kind(manifests, "ConfigMap")
    cluster.mount("catalog", catalogue["data"])
    pods = [p for p in chart.pods(manifests) if "control" in p["spec"]["containers"][0]["image"]]
    rooms = [pod for pod in pods if chart.component(pod) != "client"]
    assert len(rooms) == 4
    async with served(cluster, rooms):
        for pod in rooms:
            await healthy(f"localhost:{cluster.port(chart.component(pod), '50052')}")
            await has_metrics(f"http://localhost:{cluster.port(chart.component(pod), '9090')}/metrics")
            await plaintext_is_refused(f"localhost:{cluster.port(chart.component(pod), '50051')}")
        await a_tenant_is_made_inside_the_meters_pod(cluster, rooms)


def catalogue_entry() -> str:
    """An entry of the catalogue: the packaged one under another name."""
    packaged: chart.Manifest = yaml.safe_load((chart.TOP / "services/darkroom/models/pocket-image.yaml").read_text())
    return yaml.safe_dump(packaged | {"name": "big-image", "revision": f"sha256:{'0' * 64}"})


async def healthy(address: str) -> None:
    async with grpc.aio.insecure_channel(address) as channel:
        answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=30)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def has_metrics(url: str) -> None:
    with await asyncio.to_thread(urllib.request.urlopen, url, timeout=30) as answer:
        assert answer.status == 200


async def plaintext_is_refused(address: str) -> None:
    async with grpc.aio.insecure_channel(address) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=30)
        assert refusal.value.code() == grpc.StatusCode.UNAVAILABLE


async def a_tenant_is_made_inside_the_meters_pod(cluster: Cluster, rooms: list[chart.Manifest]) -> None:
    """The commands that the notes give, with the tenant's key then used as helm's test does."""
    (meter,) = [pod for pod in rooms if chart.component(pod) == "billing-meter"]
    addresses = {
        f"DARKROOM_{chart.component(pod).upper().replace('-', '_')}_ADDRESS": (
            f"localhost:{cluster.port(chart.component(pod), '50051')}"
        )
        for pod in rooms
    }
    environment = cluster.environment(meter) | addresses | {"DARKROOM_HOME": str(cluster.folder / "home")}
    tenant = await answered("tenants", "create", "first", "--credit", "10 USD", "--json", environment=environment)
    key = await answered("keys", "create", tenant["tenant_id"], "--json", environment=environment)
    models = await answered("models", "list", "--json", environment=environment | {"DARKROOM_API_KEY": key["api_key"]})
    assert "big-image" in str(models)


async def answered(*words: str, environment: dict[str, str]) -> chart.Manifest:
    process = await run(*words, environment=environment)
    printed, _ = await process.communicate()
    assert process.returncode == 0, words
    answer: chart.Manifest = json.loads(printed)
    return answer

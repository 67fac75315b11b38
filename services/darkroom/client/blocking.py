"""The client without asyncio, for one thread.

The verbs of `aio.AsyncClient`, each run to its end on an event loop of this client's own.
"""

import asyncio
import pathlib
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Self, TypeVar

from darkroom.api.billing_meter.v1 import billing_service_pb2 as billing_pb
from darkroom.api.scheduler.v1 import generation_pb2 as generation_pb
from darkroom.api.scheduler.v1 import generation_service_pb2 as service_pb
from darkroom.api.types.v1 import media_pb2
from darkroom.client.aio import AsyncClient
from darkroom.client.request import Endpoints

Answer = TypeVar("Answer")


class Client:
    """The same without asyncio, for one thread; use it as `with`."""

    def __init__(self, endpoints: Endpoints, *, api_key: str) -> None:
        self._client = AsyncClient(endpoints, api_key=api_key)
        self._runner = asyncio.Runner()

    def __enter__(self) -> Self:
        self._runner.run(self._client.__aenter__())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._runner.run(self._client.__aexit__(kind, error, trace))
        self._runner.close()

    def call(self, work: Callable[[AsyncClient], Coroutine[Any, Any, Answer]]) -> Answer:
        """Run any verb of AsyncClient: `darkroom.call(lambda it: it.models())`."""
        return self._runner.run(work(self._client))

    def generate(self, request: service_pb.CreateGenerationRequest) -> generation_pb.Generation:
        """Ask for media and wait for its end, whatever it is."""
        return self.call(lambda it: it.generate(request))

    def create(self, request: service_pb.CreateGenerationRequest) -> generation_pb.Generation:
        """Ask for media; once this returns, the generation is durable."""
        return self.call(lambda it: it.create(request))

    def get(self, generation_id: str) -> generation_pb.Generation:
        """Read one generation."""
        return self.call(lambda it: it.get(generation_id))

    def cancel(self, generation_id: str) -> generation_pb.Generation:
        """End one generation within a step."""
        return self.call(lambda it: it.cancel(generation_id))

    def charge(self, generation_id: str, *, wait_s: float = 0.0) -> billing_pb.Charge:
        """One generation's billing outcome; PENDING if it has not reached the ledger within `wait_s`."""
        return self.call(lambda it: it.charge(generation_id, wait_s=wait_s))

    def download(self, artifact: media_pb2.Artifact, path: pathlib.Path) -> None:
        """Write an artifact to a file."""
        self.call(lambda it: it.download(artifact, path))

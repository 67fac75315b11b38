"""A room's gRPC server.

A room's config and servicers come in; a listening server goes out, with the `door` before every servicer, standard
health (also by service, and in plaintext on a port of its own for the kubelet), reflection, TLS, and an end that fails
no call: health says NOT_SERVING, endless streams are sent elsewhere, calls under way get the grace, and only then does
it stop.
"""

import asyncio
import contextlib
import signal
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from typing import Any, Protocol, TypeVar, cast

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from darkroom import settings
from darkroom.rpc import auth, certificates, door
from darkroom.rpc.client import MESSAGE_BYTES_MAX

_HEALTH = "grpc.health.v1.Health"
_PAUSE_SHARE = 0.05  # of the grace, for balancers to see NOT_SERVING
_OPTIONS: list[tuple[str, Any]] = [
    ("grpc.so_reuseport", 0),  # a port that another process holds is an error, not a share of its calls
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_metadata_size", 8 * 1024),
    ("grpc.absolute_max_metadata_size", 16 * 1024),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.ping_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),  # the default of 300 s answers our clients with GOAWAY
]

_Servicer = TypeVar("_Servicer")


class Config(certificates.Config, Protocol):
    """The settings read here; every room's config has them."""

    @property
    def listen_address(self) -> str:
        """host:port."""
        ...

    @property
    def health_address(self) -> str:
        """host:port of plaintext health, or empty."""
        ...

    @property
    def service_secret(self) -> str:
        """What signs the tokens between rooms."""
        ...

    @property
    def shutdown_grace_s(self) -> float:
        """Seconds for calls under way at the end."""
        ...

    @property
    def reflection(self) -> bool:
        """Whether the protos are shown to anybody."""
        ...


class Server:
    """One room's server: `add` the servicers, then `run` (or `start` and `stop`)."""

    def __init__(self, config: Config, *, room: str, verify_key: auth.KeyVerifier) -> None:
        self._config = config
        self._room = room
        self._door = door.Door(auth.Authenticator(service_secret=config.service_secret, verify_key=verify_key))
        self._grpc = grpc.aio.server(interceptors=[self._door], options=_OPTIONS)
        self._plain: grpc.aio.Server | None = None
        self._health = health.aio.HealthServicer()
        self._services: list[str] = []

    def add(self, add_to_server: Callable[[_Servicer, grpc.aio.Server], None], servicer: _Servicer) -> None:
        """Serve a servicer by its generated `add_…Servicer_to_server`."""
        add_to_server(servicer, cast(grpc.aio.Server, self))

    def add_generic_rpc_handlers(self, handlers: tuple[grpc.ServiceRpcHandler, ...]) -> None:
        """Take what the generated code registers, and note the service's name for health and reflection."""
        self._services += [handler.service_name() for handler in handlers]
        self._grpc.add_generic_rpc_handlers(handlers)

    def add_registered_method_handlers(self, service: str, handlers: Any) -> None:
        """Part of what the generated code calls; grpc.aio does nothing with it either."""

    async def start(self) -> str:
        """Listen; the address with its real port. SettingsError if it cannot be bound."""
        await self._report(health_pb2.HealthCheckResponse.SERVING)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._grpc)
        if self._config.reflection:
            reflection.enable_server_reflection([*self._services, _HEALTH, reflection.SERVICE_NAME], self._grpc)
        address = _bind(self._grpc, self._config.listen_address, certificates.tls(self._config))
        await self._grpc.start()
        if self._config.health_address:
            self._plain = grpc.aio.server(options=_OPTIONS)
            health_pb2_grpc.add_HealthServicer_to_server(self._health, self._plain)
            _bind(self._plain, self._config.health_address, None)
            await self._plain.start()
        return address

    async def stop(self) -> None:
        """End gracefully: calls under way get the config's grace, then they are cancelled."""
        await self._report(health_pb2.HealthCheckResponse.NOT_SERVING)
        await asyncio.sleep(_PAUSE_SHARE * self._config.shutdown_grace_s)
        self._door.drain()
        await self._grpc.stop(self._config.shutdown_grace_s)
        if self._plain is not None:
            await self._plain.stop(0)

    async def run(
        self, ready: Callable[[str], None] | None = None, *, drain: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        """Start, tell `ready` the address, serve until SIGTERM, SIGINT or cancellation, `drain` the room, stop."""
        ended = asyncio.Event()
        with _on_signals(ended.set):
            address = await self.start()
            try:
                if ready is not None:
                    ready(address)
                await ended.wait()
            finally:
                await self._finish(drain)

    async def _finish(self, drain: Callable[[], Awaitable[None]] | None) -> None:
        try:
            if drain is not None:
                await self._report(health_pb2.HealthCheckResponse.NOT_SERVING)
                await drain()
        finally:
            await self.stop()

    async def _report(self, serving: "health_pb2.HealthCheckResponse.ServingStatus") -> None:
        for service in ("", *self._services):
            await self._health.set(service, serving)


class Background:
    """Tasks that live as long as the room serves."""

    def __init__(self, group: asyncio.TaskGroup) -> None:
        self._group = group
        self._tasks: list[asyncio.Task[Any]] = []

    def create_task(self, work: Coroutine[Any, Any, Any]) -> None:
        """Run `work` beside the server; if it fails, the room ends."""
        self._tasks.append(self._group.create_task(work))

    def cancel(self) -> None:
        """End all of them."""
        for task in self._tasks:
            task.cancel()


@contextlib.asynccontextmanager
async def background() -> AsyncIterator[Background]:
    """Run tasks beside the body: cancelled when it ends; a failing one ends the body and is raised (in a group)."""
    async with asyncio.TaskGroup() as group:
        tasks = Background(group)
        yield tasks
        tasks.cancel()


@contextlib.contextmanager
def _on_signals(act: Callable[[], None]) -> Iterator[None]:
    """Call `act` on SIGTERM and SIGINT, where signals can be had: in the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, act)
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


def _bind(server: grpc.aio.Server, address: str, files: certificates.Tls | None) -> str:
    try:
        port = server.add_secure_port(address, files.server()) if files else server.add_insecure_port(address)
    except RuntimeError as error:
        raise settings.SettingsError(f"the address {address} cannot be listened on; is it taken?") from error
    return f"{address.rpartition(':')[0]}:{port}"

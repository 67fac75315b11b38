"""Calls to another service.

An address comes in; a channel for the generated stubs goes out. Each call on it gets the credential, a deadline if it
has none, the request id of the call being served, and a client span; idempotent RPCs (by the proto's
`idempotency_level`) are retried by gRPC's service config while the server is UNAVAILABLE; keepalive notices a frozen
peer within 13 s.
"""

import functools
import json
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import grpc

from darkroom import ids, telemetry
from darkroom.rpc import methods, observe
from darkroom.rpc.call import Call
from darkroom.rpc.certificates import Tls
from darkroom.rpc.door import ENDLESS_STREAMS

UNARY_TIMEOUT_S = 10.0
STREAM_TIMEOUT_S = 300.0
MESSAGE_BYTES_MAX = 4 * 1024 * 1024
RETRY_ATTEMPTS_MAX = 4


def channel(address: str, *, tls: Tls | None = None, credential: Callable[[], str] | None = None) -> grpc.aio.Channel:
    """Open a channel to host:port; `credential` is asked at each call that brings no authorization of its own."""
    options: list[tuple[str, Any]] = [
        ("grpc.keepalive_time_ms", 10_000),
        ("grpc.keepalive_timeout_ms", 3_000),
        ("grpc.http2.ping_timeout_ms", 3_000),  # without it the two above did nothing for 60 s against a frozen peer
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.initial_reconnect_backoff_ms", 200),
        ("grpc.max_reconnect_backoff_ms", 2_000),  # gRPC's own 120 s would leave a room unreached long after it is back
        ("grpc.use_local_subchannel_pool", 1),  # else it inherits the backoff of an older channel to the address
        ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
        ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
        ("grpc.service_config", service_config()),
    ]
    if tls is None:
        return Channel(grpc.aio.insecure_channel(address, options=options), credential)
    return Channel(grpc.aio.secure_channel(address, tls.client(), options=options), credential)


@functools.cache
def service_config() -> str:
    """GRPC's service config, as JSON: retries for exactly the methods that say they are idempotent."""
    names = []
    for method in methods.table().values():
        if method.idempotent:
            service, name = method.path.removeprefix("/").split("/")
            names.append({"service": service, "method": name})
    retry = {
        "maxAttempts": RETRY_ATTEMPTS_MAX,
        "initialBackoff": "0.1s",
        "maxBackoff": "1s",
        "backoffMultiplier": 2,
        "retryableStatusCodes": ["UNAVAILABLE"],
    }
    return json.dumps(
        {
            "methodConfig": [{"name": names, "retryPolicy": retry}],
            "retryThrottling": {"maxTokens": 100, "tokenRatio": 0.1},
            "loadBalancingConfig": [{"round_robin": {}}],
        }
    )


class Channel(grpc.aio.Channel):
    """A grpc.aio channel whose calls are equipped on their way; grpc's own interceptors would cost four classes."""

    def __init__(self, inner: grpc.aio.Channel, credential: Callable[[], str] | None) -> None:
        self._inner = inner
        self._credential = credential

    def unary_unary(self, method: str, *args: Any, **named: Any) -> Any:
        """A callable for one method, as the generated stubs ask for."""
        return self._equip(method, self._inner.unary_unary(method, *args, **named), UNARY_TIMEOUT_S)

    def unary_stream(self, method: str, *args: Any, **named: Any) -> Any:
        """A callable for one method, as the generated stubs ask for."""
        return self._equip(method, self._inner.unary_stream(method, *args, **named), STREAM_TIMEOUT_S)

    def stream_unary(self, method: str, *args: Any, **named: Any) -> Any:
        """A callable for one method, as the generated stubs ask for."""
        return self._equip(method, self._inner.stream_unary(method, *args, **named), STREAM_TIMEOUT_S)

    def stream_stream(self, method: str, *args: Any, **named: Any) -> Any:
        """A callable for one method, as the generated stubs ask for."""
        return self._equip(method, self._inner.stream_stream(method, *args, **named), STREAM_TIMEOUT_S)

    async def close(self, grace: float | None = None) -> None:
        """Close the channel; calls under way get `grace` seconds."""
        await self._inner.close(grace)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """The state of the connection."""
        return self._inner.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """Wait until the state is another."""
        await self._inner.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        """Wait until there is a connection."""
        await self._inner.channel_ready()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        await self.close()

    def _equip(self, path: str, start: Callable[..., Any], default_timeout_s: float) -> Callable[..., Any]:
        default = None if path in ENDLESS_STREAMS else default_timeout_s

        def call(*args: Any, timeout: float | None = None, metadata: Any = None, **named: Any) -> Any:
            watched, carried = observe.calling(path)
            full = self._complete(list(metadata or ())) + carried
            started = start(*args, timeout=default if timeout is None else timeout, metadata=full, **named)
            return Call(started, functools.partial(_end, watched))

        return call

    def _complete(self, metadata: list[tuple[str, str | bytes]]) -> list[tuple[str, str | bytes]]:
        given = {key for key, _ in metadata}
        if "authorization" not in given and self._credential is not None:
            metadata.append(("authorization", f"Bearer {self._credential()}"))
        if "x-request-id" not in given:
            metadata.append(("x-request-id", telemetry.request_id.get() or ids.new("req")))
        return metadata


def _end(watched: observe.Call, code: grpc.StatusCode) -> None:
    watched.code = code
    watched.end()

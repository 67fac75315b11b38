"""Every RPC of the house, as its proto describes it.

The generated modules below `darkroom.api` come in; a table by path goes out: `auth` reads each method's scope from it,
`client` which methods may be retried, the tests that every method has a scope.
"""

import functools
import importlib
import pkgutil
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from google.protobuf import descriptor, descriptor_pb2

from darkroom import api
from darkroom.api.types.v1 import options_pb2


class Method(NamedTuple):
    """One RPC; `scope` is empty if the proto forgot it, and then nobody may call it."""

    path: str  # "/darkroom.api.scheduler.v1.GenerationService/CreateGeneration"
    scope: str
    idempotent: bool
    client_streaming: bool
    server_streaming: bool
    request: str  # full name of the request message


@functools.cache
def table() -> Mapping[str, Method]:
    """All methods of `darkroom.api` by path."""
    return {method.path: method for method in _walk()}


def _walk() -> Iterator[Method]:
    for found in pkgutil.walk_packages(api.__path__, f"{api.__name__}."):
        if found.name.endswith("_pb2"):
            file: descriptor.FileDescriptor = importlib.import_module(found.name).DESCRIPTOR
            for service in file.services_by_name.values():
                yield from map(_read, service.methods)


def _read(method: descriptor.MethodDescriptor) -> Method:
    options: descriptor_pb2.MethodOptions = method.GetOptions()
    return Method(
        path=f"/{method.containing_service.full_name}/{method.name}",
        scope=options.Extensions[options_pb2.required_scope],
        idempotent=options.idempotency_level != descriptor_pb2.MethodOptions.IDEMPOTENCY_UNKNOWN,
        client_streaming=method.client_streaming,
        server_streaming=method.server_streaming,
        request=method.input_type.full_name,
    )

"""The RPCs, one file for each service: check, call one store function, translate."""

from typing import Any, TypeAlias

import grpc.aio

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"  # unused: `rpc` knows the caller

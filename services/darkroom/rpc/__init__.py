"""gRPC, once, for every room.

A call's way: `client` (credential, deadline, trace, request id, retries of idempotent calls) -> the wire -> `server`
(health, reflection, TLS, graceful stop) -> `door` (well-formed? who calls? may they?) -> the room's servicer, which
raises `errors` -> `status` (rich details) -> the wire -> `call` (what grpc.aio hides or loses) -> `from_rpc_error` at
the caller. `methods` reads scopes and idempotency from the protos; `keys` asks billing_meter whose an API key is;
`certificates` holds TLS; `observe` makes the spans and the duration histograms of both sides.
"""

from darkroom.rpc import methods
from darkroom.rpc.auth import KeyVerifier, principal
from darkroom.rpc.certificates import Tls, tls
from darkroom.rpc.client import channel
from darkroom.rpc.door import ENDLESS_STREAMS, request_id
from darkroom.rpc.keys import KeyCache, RemoteKeyVerifier
from darkroom.rpc.server import Server, background
from darkroom.rpc.status import from_rpc_error

__all__ = [
    "ENDLESS_STREAMS",
    "KeyCache",
    "KeyVerifier",
    "RemoteKeyVerifier",
    "Server",
    "Tls",
    "background",
    "channel",
    "from_rpc_error",
    "methods",
    "principal",
    "request_id",
    "tls",
]

"""Mutual TLS between rooms, from the three PEM files of a room's config.

A config comes in; the gRPC credentials of both ends go out, for `server` and `client`. Plaintext is for loopback alone,
which `settings.Room` sees to.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import grpc


class Config(Protocol):
    """The settings read here; every room's config has them."""

    @property
    def tls_cert_path(self) -> str:
        """PEM certificate of this room, or empty."""
        ...

    @property
    def tls_key_path(self) -> str:
        """PEM private key of this room, or empty."""
        ...

    @property
    def tls_ca_path(self) -> str:
        """PEM certificate that signed the other rooms', or empty."""
        ...


@dataclass(frozen=True, kw_only=True)
class Tls:
    """PEM texts: the authority that others are checked against and, if this end shows one, its certificate and key."""

    ca: bytes
    cert: bytes | None = None
    key: bytes | None = field(default=None, repr=False)

    def client(self) -> grpc.ChannelCredentials:
        """Credentials of a channel."""
        return grpc.ssl_channel_credentials(self.ca, self.key, self.cert)

    def server(self) -> grpc.ServerCredentials:
        """Credentials of a server that admits only clients with a certificate of the same authority."""
        if self.key is None or self.cert is None:
            raise ValueError("a server needs a certificate and its key")
        return grpc.ssl_server_credentials([(self.key, self.cert)], self.ca, require_client_auth=True)


def tls(config: Config) -> Tls | None:
    """Read the config's PEM files; None if it names none."""
    if not config.tls_ca_path:
        return None
    return Tls(
        ca=Path(config.tls_ca_path).read_bytes(),
        cert=Path(config.tls_cert_path).read_bytes(),
        key=Path(config.tls_key_path).read_bytes(),
    )

"""Configuration from the environment.

A room's frozen dataclass comes in; a filled one goes out, each field read from `DARKROOM_<FIELD>`. What is malformed or
missing is fatal: `SettingsError` is one sentence that names the variable (never a secret's value), and the process
exits with it.
"""

import dataclasses
import os
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

Config = TypeVar("Config")

_BOOLS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


class SettingsError(ValueError):
    """A setting is missing or malformed; the message names its variable."""


def field(
    default: Any = dataclasses.MISSING,
    *,
    doc: str,
    low: float | None = None,
    high: float | None = None,
    secret: bool = False,
) -> Any:
    """Declare a setting: `low` and `high` bound a number, or the length of a text; a `secret` is left out of repr."""
    metadata = {"doc": doc, "low": low, "high": high}
    return dataclasses.field(default=default, repr=not secret, metadata=metadata)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Room:
    """The settings that every room has."""

    listen_address: str = field("127.0.0.1:0", doc="host:port of the gRPC server; port 0 takes a free one", low=1)
    health_address: str = field("", doc="host:port of a plaintext server with health alone; empty means none")
    metrics_address: str = field("", doc="host:port of the Prometheus endpoint; empty means none")
    service_secret: str = field(doc="signs the tokens between rooms; the same in all", low=32, high=1024, secret=True)
    tls_cert_path: str = field("", doc="PEM certificate of this room; all three TLS paths or none")
    tls_key_path: str = field("", doc="PEM private key of this room")
    tls_ca_path: str = field("", doc="PEM certificate that signed those of the other rooms")
    otlp_endpoint: str = field("", doc="URL of an OTLP/gRPC collector of traces and metrics; empty means none")
    log_level: str = field("INFO", doc="DEBUG, INFO, WARNING or ERROR")
    shutdown_grace_s: float = field(
        10.0, doc="seconds that calls under way may take when the room stops", low=0, high=600
    )
    reflection: bool = field(True, doc="whether the server describes its protos to anybody; off in production")

    def __post_init__(self) -> None:
        paths = (self.tls_cert_path, self.tls_key_path, self.tls_ca_path)
        if any(paths) and not all(paths):
            raise SettingsError("DARKROOM_TLS_CERT_PATH, _KEY_PATH and _CA_PATH must be given together or not at all")
        if not any(paths) and not is_loopback(self.listen_address):
            raise SettingsError(
                "DARKROOM_LISTEN_ADDRESS is not on loopback: give DARKROOM_TLS_CERT_PATH, _KEY_PATH and _CA_PATH too"
            )


def is_loopback(address: str) -> bool:
    """Whether host:port names this machine alone."""
    return address.rpartition(":")[0] in {"127.0.0.1", "localhost", "[::1]"}


def load(config_class: type[Config], environ: Mapping[str, str] = os.environ) -> Config:
    """Fill a config from `environ`; SettingsError on the first variable that is missing, malformed or out of bounds."""
    hints = typing.get_type_hints(config_class)
    values: dict[str, Any] = {}
    for declared in dataclasses.fields(config_class):  # type: ignore[arg-type]  # any dataclass
        variable = f"DARKROOM_{declared.name.upper()}"
        if variable in environ:
            values[declared.name] = _read(variable, environ[variable], hints[declared.name], declared.metadata)
        elif declared.default is dataclasses.MISSING and declared.default_factory is dataclasses.MISSING:
            raise SettingsError(f"{variable} is not set: {declared.metadata.get('doc', 'it is required')}")
    return config_class(**values)


def _read(variable: str, text: str, kind: Any, metadata: Mapping[str, Any]) -> Any:
    parse = _parser(kind)
    try:
        value = parse(text)
    except (ValueError, KeyError) as error:
        raise SettingsError(f"{variable} must be {_describe(kind)}: {metadata.get('doc', '')}") from error
    _check_bounds(variable, value, metadata.get("low"), metadata.get("high"))
    return value


def _parser(kind: Any) -> Callable[[str], Any]:
    if kind is bool:
        return lambda text: _BOOLS[text.strip().lower()]
    if isinstance(kind, types.GenericAlias):  # tuple[str, ...]
        return lambda text: tuple(part.strip() for part in text.split(",") if part.strip())
    if kind in (str, int, float, Path):
        return typing.cast(Callable[[str], Any], kind)
    raise TypeError(f"a setting cannot be a {kind}")


def _describe(kind: Any) -> str:
    return {bool: "true or false", int: "an integer", float: "a number"}.get(kind, "a text")


def _check_bounds(variable: str, value: Any, low: float | None, high: float | None) -> None:
    size = value if isinstance(value, int | float) else len(str(value))
    unit = "" if isinstance(value, int | float) else " characters"
    if low is not None and not size >= low:
        raise SettingsError(f"{variable} must be at least {low:g}{unit}")
    if high is not None and not size <= high:
        raise SettingsError(f"{variable} must be at most {high:g}{unit}")

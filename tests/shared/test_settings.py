"""Settings come from the environment; what is wrong is one sentence that names the variable and shows no secret."""

import dataclasses
from pathlib import Path

import pytest

from darkroom import settings

SECRET = "s" * 32


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(settings.Room):
    database_url: str = settings.field(doc="where the rows are", secret=True, low=1)
    jobs_max: int = settings.field(10, doc="most jobs", low=1, high=100)
    ratio: float = settings.field(0.5, doc="a share", low=0, high=1)
    names: tuple[str, ...] = settings.field((), doc="some names")
    directory: Path = settings.field(Path("/x"), doc="a directory")


ENVIRON = {"DARKROOM_SERVICE_SECRET": SECRET, "DARKROOM_DATABASE_URL": "postgresql://u:hunter2@h/d"}


def _load(**changed):
    environ = ENVIRON | {f"DARKROOM_{name.upper()}": value for name, value in changed.items()}
    return settings.load(Config, {name: value for name, value in environ.items() if value is not None})


def test_defaults_and_every_type():
    assert _load().jobs_max == 10
    config = _load(jobs_max="7", ratio="0.25", names="a, b,,c", directory="/tmp", reflection="No")
    assert (config.jobs_max, config.ratio, config.names) == (7, 0.25, ("a", "b", "c"))
    assert (config.directory, config.reflection) == (Path("/tmp"), False)


def test_other_variables_are_no_business_of_ours():
    assert settings.load(Config, ENVIRON | {"DARKROOM_OTHER": "x", "PATH": "y"}).jobs_max == 10


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("database_url", None, "DARKROOM_DATABASE_URL is not set: where the rows are"),
        ("database_url", "", "DARKROOM_DATABASE_URL must be at least 1 characters"),
        ("service_secret", "short", "DARKROOM_SERVICE_SECRET must be at least 32 characters"),
        ("jobs_max", "many", "DARKROOM_JOBS_MAX must be an integer: most jobs"),
        ("jobs_max", "0", "DARKROOM_JOBS_MAX must be at least 1"),
        ("jobs_max", "101", "DARKROOM_JOBS_MAX must be at most 100"),
        ("ratio", "nan", "DARKROOM_RATIO must be at least 0"),
        ("ratio", "x", "DARKROOM_RATIO must be a number"),
        ("reflection", "maybe", "DARKROOM_REFLECTION must be true or false"),
        ("tls_cert_path", "/a", "must be given together"),
        ("listen_address", "0.0.0.0:50051", "DARKROOM_LISTEN_ADDRESS is not on loopback"),
    ],
)
def test_what_is_wrong_names_its_variable(name, value, message):
    with pytest.raises(settings.SettingsError, match=message) as caught:
        _load(**{name: value})
    assert "\n" not in str(caught.value)
    assert value is None or len(value) < 5 or value not in str(caught.value)


def test_beyond_loopback_with_tls():
    paths = {"tls_cert_path": "/a", "tls_key_path": "/b", "tls_ca_path": "/c"}
    assert _load(listen_address="0.0.0.0:50051", **paths).listen_address == "0.0.0.0:50051"


def test_secrets_are_not_in_the_repr():
    text = repr(_load())
    assert "hunter2" not in text
    assert SECRET not in text


def test_a_type_that_cannot_be_read_is_our_own_fault():
    @dataclasses.dataclass(frozen=True)
    class Odd:
        things: dict = settings.field(None, doc="?")

    with pytest.raises(TypeError):
        settings.load(Odd, {"DARKROOM_THINGS": "x"})

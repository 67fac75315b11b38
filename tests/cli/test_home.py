import multiprocessing
import pathlib
import stat

import click
import pytest

from darkroom.cli import home


@pytest.fixture(autouse=True)
def folder(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    monkeypatch.setenv("DARKROOM_HOME", str(tmp_path / "home"))
    for name in (*home.ADDRESSES, "api_key", "operator_key"):
        monkeypatch.delenv(f"DARKROOM_{name.upper()}", raising=False)
    return tmp_path / "home"


def connection(api_key: str = "dk_of_the_file") -> home.Connection:
    return home.Connection(
        scheduler_address="127.0.0.1:1",
        lora_store_address="127.0.0.1:2",
        media_store_address="127.0.0.1:3",
        billing_meter_address="127.0.0.1:4",
        api_key=api_key,
    )


def test_the_connection_is_found_again_and_private(folder: pathlib.Path) -> None:
    path = home.write_connection(connection())
    assert home.read_connection() == connection()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_file_that_others_could_read_becomes_private(folder: pathlib.Path) -> None:
    folder.mkdir()
    home.connection_path().write_text("{}")
    home.connection_path().chmod(0o644)
    home.write_connection(connection())
    assert stat.S_IMODE(home.connection_path().stat().st_mode) == 0o600


def test_the_environment_wins_over_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    home.write_connection(connection())
    monkeypatch.setenv("DARKROOM_API_KEY", "dk_of_the_environment")
    assert home.read_connection() == connection(api_key="dk_of_the_environment")


def test_without_a_platform_the_sentence_says_what_to_do() -> None:
    with pytest.raises(click.ClickException, match=r"darkroom up.*DARKROOM_SCHEDULER_ADDRESS"):
        home.read_connection()


def test_keys_are_not_in_a_repr() -> None:
    assert "dk_of_the_file" not in repr(connection())
    assert home.read_secrets().service_secret not in repr(home.read_secrets())


def test_secrets_are_made_once() -> None:
    assert home.read_secrets() == home.read_secrets()
    assert len(home.read_secrets().service_secret) >= 32


def _try_lock(refused: "multiprocessing.Queue[bool]") -> None:
    try:
        with home.lock():
            refused.put(False)
    except click.ClickException:
        refused.put(True)


def test_one_home_is_kept_for_one_platform() -> None:
    spawned = multiprocessing.get_context("spawn")
    refused: multiprocessing.Queue[bool] = spawned.Queue()
    with home.lock():
        other = spawned.Process(target=_try_lock, args=(refused,))
        other.start()
        assert refused.get(timeout=60)
        other.join()
    with home.lock():  # it was let go
        pass

import subprocess
import sys

import click
import pytest

from darkroom import errors, settings
from darkroom.cli import app


def test_every_word_leads_to_a_command() -> None:
    context = app.command.make_context("darkroom", ["--help"], resilient_parsing=True)
    for word in app.WORDS:
        found = app.command.get_command(context, word)  # type: ignore[attr-defined]
        assert found is not None
        assert found.name in {word, "list"} or found.name == word


def test_help_lists_every_word(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["--help"]) == 0
    told = capsys.readouterr().out
    assert all(word in told for word in app.WORDS)


def test_an_unknown_word_is_misuse(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["develop"]) == 2
    assert "develop" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "part"),
    [
        (errors.InvalidArgument.of("image.width", "must be at least 64"), 1, "image.width: must be at least 64"),
        (errors.Unauthenticated("the key is not known"), 1, "DARKROOM_API_KEY"),
        (errors.Unavailable("nobody answers"), 1, "darkroom up"),
        (errors.NotFound("model", "gigantic"), 1, "darkroom models list"),
        (settings.SettingsError("DARKROOM_X is not set"), 2, "DARKROOM_X"),
        (click.UsageError("Missing option '--prompt'."), 2, "Missing option '--prompt' (`darkroom --help` tells more)"),
        (click.Abort(), 130, "interrupted"),
        (FileNotFoundError(2, "No such file or directory", "a.png"), 1, "darkroom: a.png: No such file or directory\n"),
        (RuntimeError(""), 1, "RuntimeError"),
    ],
)
def test_an_error_is_one_sentence_and_no_traceback(
    error: Exception, code: int, part: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **named: object) -> None:
        raise error

    monkeypatch.setattr(app.command, "main", fail)
    assert app.run(["list"]) == code
    told = capsys.readouterr().err
    assert part in told
    assert told.count("\n") == 1
    assert "Traceback" not in told


def test_a_reader_that_leaves_is_no_error() -> None:
    command = [sys.executable, "-m", "darkroom", "--help"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as left:
        assert left.stdout is not None
        left.stdout.close()
        assert left.stderr is not None
        assert "Traceback" not in left.stderr.read()


def test_help_reads_nothing_heavy() -> None:
    told = "import sys; from darkroom.cli import app; app.run(['--help']); print(*sys.modules)"
    loaded = set(
        subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True).stdout.split()
    )
    assert not loaded & {"grpc", "rich", "torch", "google.protobuf", "asyncio", "darkroom.client", "darkroom.rpc"}


def test_a_group_alone_tells_its_words(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["lora"]) == 2
    assert "Upload an adapter" in capsys.readouterr().err


def test_a_word_that_ends_early_says_with_which_code(monkeypatch: pytest.MonkeyPatch) -> None:
    @click.command()
    def ends() -> None:
        raise click.exceptions.Exit(1)

    monkeypatch.setattr(app, "command", ends)
    assert app.run([]) == 1

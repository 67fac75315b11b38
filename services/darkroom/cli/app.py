"""The list of the command's words, and the one place where errors become a sentence.

argv comes in, an exit code goes out. `darkroom --help` reads only this file: each word's module is imported when it is used, so that
help answers in a fraction of a second although the rooms behind it load torch and gRPC.
"""

import importlib
import os
import traceback
from typing import Any, NamedTuple

import click


class Word(NamedTuple):
    """Where a word's click command lives, and its line in the help."""

    target: str
    help: str


WORDS = {
    "up": Word("up:up", "Run the whole platform on this machine until Ctrl-C."),
    "demo": Word("demo:demo", "Start the platform, make one picture, show its bill, and stop."),
    "serve": Word("serve:serve", "Run one room, as a container does; settings come from DARKROOM_* variables."),
    "generate": Word("generate:generate", "Make media from a prompt, and show it with its reasons, times and bill."),
    "get": Word("generations:get", "Show one generation."),
    "watch": Word("generations:watch", "Follow one generation to its end."),
    "cancel": Word("generations:cancel", "End one generation; it stops within one step."),
    "list": Word("generations:list_", "List generations, newest first."),
    "explain": Word("explain:explain", "Tell why a generation ran where and when it did."),
    "models": Word("models:models", "Look at the catalogue: list, show."),
    "fleet": Word("fleet:fleet", "Look at the runners: list."),
    "lora": Word("lora:lora", "Keep LoRA adapters: push, list, show, pull, delete."),
    "tenants": Word("tenants:tenants", "Make tenants and give them credit (operators)."),
    "keys": Word("keys:keys", "Make, list and revoke API keys (operators)."),
    "prices": Word("prices:prices", "Set what models cost (operators)."),
    "usage": Word("usage:usage", "Report usage and cost over a time range."),
    "billing": Word("billing:billing", "Show what one generation cost, and what is left."),
    "bench": Word("bench:bench", "Measure: the judge's verdict on a model."),
}


_LISTS = {
    "generation": "`darkroom list` names them",
    "model": "`darkroom models list` names them",
    "adapter": "`darkroom lora list` names them",
    "lora": "`darkroom lora list` names them",
    "tenant": "`darkroom tenants list` names them",
}


class LazyGroup(click.Group):
    """A group whose words are imported when used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The words, in the order of a newcomer's day."""
        return list(WORDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The word's command; None lets click say that there is no such word."""
        if cmd_name not in WORDS:
            return None
        module, _, name = WORDS[cmd_name].target.partition(":")
        command = getattr(importlib.import_module(f"darkroom.cli.{module}"), name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the help from WORDS alone."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, word.help) for name, word in WORDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="darkroom", message="%(version)s")
def command() -> None:
    """Serve image, video and audio diffusion models on your own GPUs, and bill every request."""


def run(argv: list[str]) -> int:
    """Run the words in `argv`; the exit code. With DARKROOM_TRACEBACK=1 an unexpected error shows its traceback."""
    try:
        code = command.main(argv, prog_name="darkroom", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return 2
    except click.UsageError as error:
        asked = error.ctx.command_path if error.ctx else "darkroom"
        click.echo(f"darkroom: {error.format_message().rstrip('.')} (`{asked} --help` tells more)", err=True)
        return 2
    except (click.Abort, KeyboardInterrupt):
        click.echo("darkroom: interrupted", err=True)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the reader of our output left: nothing more to say
        return 1
    except Exception as error:
        click.echo(f"darkroom: {_sentence(error)}", err=True)
        if os.environ.get("DARKROOM_TRACEBACK") == "1":
            traceback.print_exception(error)
        return 2 if type(error).__name__ == "SettingsError" else 1
    return code if isinstance(code, int) else 0  # what Exit carries; a word that simply ends returns None


def _sentence(error: Exception) -> str:
    if isinstance(error, click.ClickException):
        return error.format_message()
    advice: dict[str, Any] = {
        "Unauthenticated": "set DARKROOM_API_KEY to a live key, or run `darkroom up` and use its own",
        "Unavailable": "is the platform running? `darkroom up` starts it, and DARKROOM_HOME says which one is meant",
        "SettingsError": "set it in the environment and start again",
        "NotFound": _LISTS.get(getattr(error, "resource_type", "")),
    }
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    text = str(error).strip() or type(error).__name__
    hint = advice.get(type(error).__name__)
    return f"{text} ({hint})" if hint else text

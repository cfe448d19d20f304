"""All commands in one typer application."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer

import asrlife
from asrlife.cli import (
    console,
    delta,
    demo,
    domain,
    edit,
    evaluate,
    evidence,
    info,
    merge,
    recipe,
    repair,
    serve,
    state,
    stream,
    synthesize,
    text,
    texts,
    transcribe,
    tune,
)
from asrlife.errors import InputError

_USAGE_ERROR: Any = typer.BadParameter.__mro__[1]  # click's UsageError, wherever this typer keeps its click

app = typer.Typer(
    name="asrlife",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (transcribe, evaluate, serve, stream, texts, synthesize, info, demo, tune, domain, merge, evidence, repair):
    app.command(help=getattr(command, "HELP", None))(getattr(command, command.__name__.rpartition(".")[2]))
app.add_typer(recipe.app, name="recipe")
app.add_typer(state.app, name="state")
app.add_typer(text.app, name="text")
app.add_typer(delta.app, name="delta")
app.add_typer(edit.app, name="edit")


def _version(wanted: bool) -> None:
    if wanted:
        print(f"asrlife {asrlife.__version__}")
        raise typer.Exit()


@app.callback()
def root(version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False) -> None:
    """Speech recognisers that keep learning after they ship.

    Results go to standard output, progress and warnings to standard error.
    Exit code 2 means bad usage or bad input, 1 that a server failed.

    Example: asrlife transcribe speech.wav --adapt suta
    """


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command line; every foreseen failure is one line on standard error."""
    try:
        with console.warnings_as_lines():
            return int(app(args=arguments, prog_name="asrlife", standalone_mode=False) or 0)
    except _USAGE_ERROR as error:
        return _usage(error)
    except InputError as error:
        console.fail(str(error))
        return 2
    except Exception as error:
        return _failure(error)
    except (KeyboardInterrupt, typer.Abort):
        console.fail("interrupted")
        return 130


def _failure(error: Exception) -> int:
    if isinstance(error, BrokenPipeError):  # nobody reads on, as in `asrlife ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    if isinstance(error, ImportError) or (isinstance(error, OSError) and ".so" in str(error)):
        console.fail(f"the installation is broken ({error}); make it again with `make clean env`, or reinstall asrlife")
        return 1
    if isinstance(error, OSError):
        console.fail(f"{error.filename}: {error.strerror}" if error.filename else str(error))
        return 2
    if type(error).__name__ == "ServerError":  # not imported: asrlife.client brings grpc
        console.fail(str(error))
        return 1
    raise error


def _usage(error: BaseException) -> int:
    context = getattr(error, "ctx", None)
    message = " ".join(str(getattr(error, "format_message", error.__str__)()).split())
    if not message and context is not None:  # the bare command: its help is the answer
        print(context.get_help())
        return 2
    console.fail(f"{message} (see {context.command_path if context else 'asrlife'} --help)")
    return 2

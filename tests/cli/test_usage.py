from __future__ import annotations

import subprocess
import sys

import pytest

COMMANDS = ["transcribe", "evaluate", "serve", "stream", "synthesize", "texts", "recipe list", "recipe run", "info", "demo", "tune"]
COMMANDS += ["evidence", "repair", "domain", "edit trace", "edit word", "edit facts"]
COMMANDS += [f"state {verb}" for verb in ("get", "reset", "delete", "export", "import")]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_teaches_by_an_example_in_80_columns(asrlife, command: str) -> None:
    ended = asrlife(*command.split(), "--help")
    assert ended.code == 0 and not ended.err
    assert f"Example: asrlife {command}" in ended.out
    assert max(map(len, ended.out.splitlines())) <= 80


@pytest.mark.parametrize("command", ["transcribe", "evaluate", "stream"])
def test_help_says_what_the_exit_code_means(asrlife, command: str) -> None:
    assert "or 2 when none could be" in " ".join(asrlife(command, "--help").out.split())


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("evluate x", "No such command 'evluate'. Did you mean 'evaluate'? (see asrlife --help)"),
        ("transcribe", "Missing argument 'audio'. (see asrlife transcribe --help)"),
        ("evaluate x --adpt none", "No such option: --adpt"),
        ("evaluate x --snr loud", "Invalid value for '--snr'"),
        ("evaluate x --limit 0", "Invalid value for '--limit'"),
        ("recipe walk", "No such command 'walk'"),
        ("demo --utterances 1", "Invalid value for '--utterances'"),
    ],
)
def test_bad_usage_is_one_line_and_exit_code_2(asrlife, line: str, message: str) -> None:
    ended = asrlife(*line.split())
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith("asrlife: error: ") and message in ended.err
    assert ended.err.count("\n") == 1


def test_version(asrlife) -> None:
    assert asrlife("--version").out.startswith("asrlife 0.")


@pytest.mark.parametrize("arguments", [[], ["recipe"], ["state"], ["edit"]])
def test_no_command_shows_what_there_is(asrlife, arguments: list[str]) -> None:
    ended = asrlife(*arguments)
    assert ended.code == 2
    assert "Commands" in ended.out


def test_the_process_has_the_exit_code_and_no_traceback() -> None:
    done = subprocess.run([sys.executable, "-m", "asrlife", "evaluate", "missing.jsonl"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "asrlife: error: missing.jsonl: no such file; check the path\n"


def test_a_reader_who_goes_away_is_no_error() -> None:
    command = f"{sys.executable} -m asrlife evaluate --help | true"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr

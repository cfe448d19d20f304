"""Which test covers what: `python tests/server/matrix.py` writes README.md beside this file."""

from __future__ import annotations

import re
from pathlib import Path

HERE = Path(__file__).parent
ROWS = (
    "the first message is audio, the config comes twice, nothing comes",
    "a wrong encoding, rate, number of channels, language, model",
    "a feature that is not supported",
    "half a sample of PCM16",
    "no numbers, silence, an offset, clipping, bytes of another format",
    "a broken container",
    "a chunk or a message that is too large",
    "faster than real time",
    "a client that stalls",
    "a client that never reads",
    "cancel, lost connection, deadline",
    "a stream that is too long",
    "an utterance that is too long",
    "a full server, a full tenant",
    "draining",
    "no token or a wrong one, another tenant's key",
    "two streams write one key",
    "a state of another model, damaged, not finite",
    "a step that diverges, collapses or drifts too far",
    "out of memory",
    "a worker that dies",
    "a store that fails",
    "kill -9",
    "pings that come too fast",
    "a wrong certificate, plaintext to TLS",
    "an abusive config",
    "audio that is meant to poison a key",
)
THEMES = {
    "text of one user shown to another": "test_64_streams",
    "one client makes all others slow": "test_complaint_nobody_waits|test_a_(stream|tenant)_waits_one|test_(tenants|streams.*)_share",
    "a model for each connection": "test_complaint_a_stream_takes",
    "memory grows": "test_complaint_six_hours|test_half_an_hour_of_churn",
    "words out of silence": "test_complaint_(silence|recorded)_",
    "delay grows and nobody says so": "test_complaint_what_is_behind|test_finals_come_while_lessons_wait",
    "an idle stream dies": "test_complaint_ten_minutes|test_a_client_that_says_nothing",
    "a wall at five minutes": "test_complaint_(no_stream_ends|where_streams_have_a_limit)",
    "compute starves the event loop": "test_complaint_a_model_at_work",
    "admitted, then rejected": "test_row_14_a_full_server|test_a_full_server_says",
    "leaks of gRPC": "test_half_an_hour_of_churn",
    "division by zero on nothing": "test_complaint_chunks_of_nothing",
}
HEAD = """# What the tests of the server cover

Written by `python tests/server/matrix.py` from the names of the tests; `test_matrix.py` fails where it is out of date. Headline
figures that nobody can reproduce, a complaint too, are no matter for a test: `benchmarks/serve.py` prints ours with how they were measured.

"""


def tests() -> dict[str, str]:
    """The file of every test of the server."""
    return {
        name: file.name
        for file in sorted(HERE.glob("test_*.py"))
        for name in re.findall(r"^(?:async )?def (test_\w+)", file.read_text(), re.MULTILINE)
    }


def covering(pattern: str) -> list[str]:
    """The tests whose name begins like this, as `name` (file)."""
    return [f"`{name}` ({file})" for name, file in tests().items() if re.match(pattern, name)]


def rows() -> list[tuple[str, str, list[str]]]:
    """Rows of the failure matrix: number, input or fault, tests."""
    return [(str(number), title, covering(rf"test_row_{number}_")) for number, title in enumerate(ROWS, 1)]


def themes() -> list[tuple[str, list[str]]]:
    """What users of other servers complain about, and tests."""
    return [(title, covering(pattern)) for title, pattern in THEMES.items()]


def text() -> str:
    """The whole of README.md."""
    matrix = [f"| {number} | {title} | {'<br>'.join(found)} |" for number, title, found in rows()]
    complaints = [f"| {title} | {'<br>'.join(found)} |" for title, found in themes()]
    parts = ["| Row | Input or fault | Tests |", "|---|---|---|", *matrix, "", "| Complaint | Tests |", "|---|---|", *complaints]
    return HEAD + "\n".join(parts) + "\n"


if __name__ == "__main__":
    (HERE / "README.md").write_text(text())

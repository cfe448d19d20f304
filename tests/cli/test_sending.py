from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from asrlife.audio.waveform import Waveform
from asrlife.cli.score import run_of
from asrlife.cli.sending import Sending
from asrlife.client import Adapted, Closed, Control, Spoken, Transcript
from asrlife.data.utterance import Utterance
from asrlife.errors import InputError

CLOSED = Closed(3.0, 0.5, 0.25, 3, 2, 1, 2, "0" * 64)


def second(name: str, text: str) -> Utterance:
    return Utterance(name, Waveform(np.zeros(16_000, np.float32), 16_000), text)


@pytest.fixture
def sending(tmp_path: Path) -> Sending:
    gone = Utterance("gone", tmp_path / "gone.wav", "not there")
    made = Sending(utterances=(second("a", "red shoes"), gone, second("b", "blue hat")))
    list(made.pieces())
    return made


def test_every_utterance_ends_where_its_sound_does(sending: Sending) -> None:
    again = Sending(utterances=sending.utterances)
    assert [type(piece) for piece in again.pieces()] == [Waveform, Control, Waveform, Control]
    assert again.spans == [("a", 0.0, 1.0), ("b", 1.0, 2.0)]
    assert len(again.problems) == 1 and again.problems[0].startswith("gone: ") and "no such file" in again.problems[0]


def test_a_span_of_the_stream_belongs_to_what_was_sent_then(sending: Sending) -> None:
    assert [sending.owner(*span) for span in [(0.0, 1.0), (0.9, 1.05), (1.0, 2.0), (1.2, 1.4), (2.0, 3.0)]] == ["a", "a", "b", "b", None]


def test_a_stream_is_scored_by_utterance(sending: Sending) -> None:
    stepped = Adapted(0, "stepped", "", {"before": "red", "steps": 5.0}, 1)
    heard = Transcript(
        (
            Spoken(0, "rat", "red shoes", 0.0, 1.0, (stepped, Adapted(0, "reset", "shift", {}, 2))),
            Spoken(1, "blue", None, 1.0, 1.5),  # cut for its length
            Spoken(2, "cat", None, 1.5, 2.0),
        ),
        CLOSED,
    )
    run = run_of("dsuta", sending, heard)
    assert [(o.id, o.hypothesis, o.before) for o in run.outcomes] == [("a", "red shoes", "red"), ("b", "blue cat", "blue cat")]
    assert [(o.counts.errors, o.counts_before.errors) for o in run.outcomes] == [(0, 1), (1, 1)]
    assert run.resets == 1
    assert run.rtf == pytest.approx(0.75 / 2.0)
    assert run.reliability.value == pytest.approx(1 / 4)


def test_the_rows_of_a_manifest_are_shared_out_in_their_order() -> None:
    rows = tuple(second(str(number), "") for number in range(7))
    parts = Sending(utterances=rows, problems=["one could not be read"]).shared(3)
    assert [[row.id for row in part.utterances] for part in parts] == [["0", "1", "2"], ["3", "4", "5"], ["6"]]
    assert [part.problems for part in parts] == [["one could not be read"], [], []]
    recording = Sending(recording=rows[0].waveform())
    assert recording.shared(4) == [recording]


def test_a_stream_that_broke_off_is_not_scored(sending: Sending) -> None:
    with pytest.raises(InputError, match="broke off"):
        run_of("none", sending, Transcript())

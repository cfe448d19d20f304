from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asrlife.text.hypothesis import Hypothesis, Word
from asrlife.v1 import asrlife_pb2 as pb
from asrlife_server.agreement import Agreement, nearest_end

WORDS = st.lists(st.sampled_from(["a", "bb", "ccc"]), max_size=6)


def said(*words):
    timed = tuple(Word(word, float(at), at + 1.0, 0.5) for at, word in enumerate(words))
    return Hypothesis(" ".join(words), tuple(range(len(words))), timed, -0.1)


@settings(max_examples=400, deadline=None)
@given(st.lists(WORDS, min_size=1, max_size=8))
def test_the_stable_prefix_only_grows(hypotheses):
    agreement, promised = Agreement(), ""
    for words in hypotheses:
        shown, stable = agreement.taken(0, said(*words))
        assert shown.text.startswith(promised) and stable >= len(promised)
        assert [word.text for word in shown.words] == shown.text.split()
        assert shown.text[stable : stable + 1] in ("", " ") or not stable  # whole words
        promised = shown.text[:stable]


@settings(max_examples=200, deadline=None)
@given(WORDS, WORDS)
def test_two_hypotheses_promise_their_longest_common_beginning(first, second):
    agreement = Agreement()
    assert agreement.taken(3, said(*first))[1] == 0
    shown, stable = agreement.taken(3, said(*second))
    common = next((at for at, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), min(len(first), len(second)))
    assert shown == said(*second) and stable == len(" ".join(second[:common]))


def test_an_utterance_starts_without_promises():
    agreement = Agreement()
    for _ in range(2):
        agreement.taken(0, said("turn", "on"))
    assert agreement.taken(1, said("what"))[1] == 0


def test_what_contradicts_a_promise_is_shown_behind_it():
    agreement = Agreement()
    for _ in range(2):
        agreement.taken(0, said("turn", "on", "the"))
    shown, stable = agreement.taken(0, said("torn", "on", "the", "light"))
    assert shown.text == "turn on the light" and stable == len("turn on the")
    assert [word.start for word in shown.words] == [0, 1, 2, 3]


@pytest.mark.parametrize(("kept", "words", "end"), [
    ("turn on the", "turn on the light", 3), ("turn on the", "on the light", 2), ("turn on the", "so turn on the light", 4),
    ("turn on", "", 0), ("", "light", 0), ("a b", "x y z", 2),
])  # fmt: skip
def test_the_end_of_a_promise_is_found_where_words_were_lost_or_added(kept, words, end):
    assert nearest_end(kept.split(), words.split()) == end


async def test_interim_results_say_how_much_of_them_stays(serving, noise, fakes, monkeypatch):
    spoken = iter([["turn"], ["turn", "of"], ["turn", "on"], ["torn", "on", "the"], ["turn", "on", "the", "light"]])
    monkeypatch.setattr(type(fakes.model), "transcribe", lambda self, waveforms, batch_size: [said(*next(spoken))])
    talk = await (await serving()).opened(interim=pb.Interim(enable=True, min_interval_ms=100), adaptation=pb.Adaptation(method="none"))
    found = []
    for index in range(4):
        await talk.say(noise(index, 1600))
        found.append(await talk.next("result"))
    await talk.send(control=pb.FINISH)
    found.append(await talk.next("result"))
    assert [result.alternatives[0].transcript for result in found] == ["turn", "turn of", "turn on", "turn on the", "turn on the light"]
    assert [result.stable_prefix_len for result in found] == [0, 4, 4, 7, 17]
    assert [round(result.stability, 2) for result in found] == [0, 0.57, 0.57, 0.64, 1] and found[-1].is_final

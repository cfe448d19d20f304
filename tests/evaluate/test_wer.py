from __future__ import annotations

import jiwer
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asrlife.errors import InputError
from asrlife.evaluate.wer import Aligned, Counts, align, character_error_rate, count, word_error_rate

sentences = st.lists(st.sampled_from(["bin", "blue", "at", "soon", "please", "green"]), min_size=1, max_size=7).map(" ".join)


def test_an_example_counted_by_hand() -> None:
    #            bin  blue  at  f     three  soon
    #            bin  glue  at  --    three  soon  now      -> 1 substitution, 1 deletion, 1 insertion, 4 hits
    counts = count("Bin blue at F three, soon.", "bin glue at three soon now")
    assert (counts.hits, counts.substitutions, counts.deletions, counts.insertions) == (4, 1, 1, 1)
    assert (counts.words, counts.errors) == (6, 3)
    assert word_error_rate([counts]) == 0.5
    # "three" counts as "3": "bin blue at f 3 soon" has 20 characters; b for g, "f " gone, " now" added are 1 + 2 + 4
    assert (counts.character_errors, counts.characters) == (7, 20)
    assert character_error_rate([counts]) == 7 / 20


def test_the_alignment_names_each_place() -> None:
    assert align("bin blue at f now", "bin glue at f") == (
        Aligned("hit", "bin", "bin"),
        Aligned("substitution", "blue", "glue"),
        Aligned("hit", "at", "at"),
        Aligned("hit", "f", "f"),
        Aligned("deletion", "now", ""),
    )
    assert align("", "well") == (Aligned("insertion", "", "well"),)


def test_rates_are_summed_over_utterances_and_not_averaged() -> None:
    long, short = count("bin blue at soon please green", "bin blue at soon please green"), count("soon", "please")
    assert word_error_rate([long, short]) == 1 / 7
    assert long + short == Counts(6, 1, 0, 0, short.character_errors, long.characters + short.characters)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(sentences, sentences | st.just("")), min_size=1, max_size=5))
def test_it_agrees_with_jiwer_on_words_that_normalising_leaves_alone(pairs: list[tuple[str, str]]) -> None:
    references, hypotheses = [p[0] for p in pairs], [p[1] for p in pairs]
    counts = [count(r, h) for r, h in pairs]
    assert word_error_rate(counts) == pytest.approx(jiwer.wer(references, hypotheses), abs=1e-12)
    assert character_error_rate(counts) == pytest.approx(jiwer.cer(references, hypotheses), abs=1e-12)


@settings(deadline=None, max_examples=60)
@given(sentences, sentences)
def test_the_alignment_tells_the_same_as_the_counts(reference: str, hypothesis: str) -> None:
    counts, places = count(reference, hypothesis), align(reference, hypothesis)
    kinds = [place.kind for place in places]
    assert (kinds.count("hit"), kinds.count("substitution")) == (counts.hits, counts.substitutions)
    assert (kinds.count("deletion"), kinds.count("insertion")) == (counts.deletions, counts.insertions)
    assert " ".join(p.reference for p in places if p.reference) == reference
    assert " ".join(p.hypothesis for p in places if p.hypothesis) == hypothesis


def test_an_empty_reference_makes_insertions_and_no_rate() -> None:
    counts = count("um", "well then")
    assert (counts.words, counts.insertions) == (0, 2)
    with pytest.raises(InputError, match="no words"):
        word_error_rate([counts])
    with pytest.raises(InputError, match="no characters"):
        character_error_rate([counts])
    assert word_error_rate([counts, count("soon", "soon")]) == 2

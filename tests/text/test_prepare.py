from __future__ import annotations

import json
import string

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from asrlife.text.characters import foreign, greek_spelt, readable
from asrlife.text.entity import Entity, located
from asrlife.text.lines import Line
from asrlife.text.prepare import Fate, Prepared, Rules, prepare
from asrlife.text.spelling import fitted
from asrlife.text.spoken import sentences, spoken

LETTERS = frozenset(string.ascii_lowercase + "'")


def prepared(*texts: str, rules: Rules = Rules()) -> Prepared:
    return prepare([Line(number, text) for number, text in enumerate(texts, 1)], rules)


def fate(text: str, rules: Rules = Rules()) -> Fate:
    return prepared(text, rules=rules).fates[0]


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("Give 5 mg of warfarin.", "Give five milligrams of warfarin."),
        ("1,250 units", "one thousand two hundred and fifty units"),
        ("BP 120/80 mmHg", "BP one hundred and twenty over eighty millimeters of mercury"),
        ("half is 1/2 tablet", "half is one half tablet"),
        ("25 µg twice", "twenty five micrograms twice"),
        ("500mg/5mL", "five hundred milligrams per five milliliters"),
        ("7.2 mmol/L", "seven point two millimoles per liter"),
        ("37.2 °C", "thirty seven point two degrees Celsius"),
        ("in the 1990s", "in the nineteen nineties"),
        ("on March 3, 2021", "on the third of march, twenty twenty one"),
        ("SpO2 < 94%", "SpO two less than ninety four percent"),
        ("10-20 mg", "ten to twenty milligrams"),
        ("0.5 ml/h and and/or n/d", "zero point five milliliters per hour and and/or n/d"),
        ("at 8:30", "at eight thirty"),
        ("Dr. Smith and Mrs. Roe saw No. 5", "doctor Smith and missus Roe saw number five"),
        ("Dr. Smith left", "doctor Smith left"),
        ("nothing to do here", "nothing to do here"),
    ],
)
def test_numbers_dates_and_units_become_words(written: str, said: str) -> None:
    assert spoken(written) == said


def test_what_the_library_gives_up_on_is_spelt_digit_by_digit() -> None:
    assert spoken("+44 20") == "+ four four twenty"


def test_other_languages_keep_their_digits_and_are_told() -> None:
    assert spoken("5 Tabletten", "de") == "5 Tabletten"
    assert fate("5 Tabletten am Tag", Rules("de")).why == ("holds digits that have no reading here ('5 Tabletten am Tag')",)


def test_chinese_sentences_end_with_their_own_stop() -> None:
    assert [s.said for s in prepared("\u4f60\u597d\u3002\u518d\u89c1\u3002", rules=Rules("zh")).sentences] == [
        "\u4f60\u597d.",
        "\u518d\u89c1.",
    ]


def test_abbreviations_end_no_sentence() -> None:
    assert sentences("Dr. Smith gave 5.5 mg. She left. Why?") == ["Dr. Smith gave 5.5 mg.", "She left.", "Why?"]


@pytest.mark.parametrize(
    ("text", "verdict", "why"),
    [
        ("the door is open", "used", ()),
        ("", "left out", ("is empty",)),
        (" \t ", "left out", ("is empty",)),
        ("🙂👍🏽🇩🇪", "left out", ("has no words (3 emoji left out)",)),
        ("open 🙂 it", "changed", ("1 emoji left out",)),
        ("...!?", "left out", ("has no words",)),
        ("Привет мир", "left out", ("Cyrillic letters (9 of 9, such as 'П')",)),
        ("раyment due", "left out", ("Cyrillic letters (2 of 10, such as 'р')",)),  # the first two only look Latin
        ("你好", "left out", ("Cjk letters (2 of 2, such as '你')",)),
        ("a\x00b\u200b c", "changed", ("2 control characters left out (U+0000, U+200B)",)),
        ("x" * 3000, "left out", ("has a word of 3000 characters, and 200 are the most",)),
        ("“so” it’s", "changed", ("typographic characters made plain",)),
        ("ｆｕｌｌ width", "changed", ("typographic characters made plain",)),
        ("the β blocker", "changed", ("Greek letters by name (β)",)),
        ("a [b] {c}", "changed", ("4 symbols left out ([ ] { })",)),
    ],
)
def test_a_line_is_used_changed_or_left_out_with_its_reason(text: str, verdict: str, why: tuple[str, ...]) -> None:
    found = fate(text)
    assert (found.verdict, found.why) == (verdict, why)
    assert found.text == text and (found.sentences > 0) == (verdict != "left out")


def test_a_broken_line_keeps_its_fault() -> None:
    found = prepare([Line(7, "x\\xff", "is no UTF-8")]).fates[0]
    assert (found.line, found.verdict, found.why) == (7, "left out", ("is no UTF-8",))


def test_a_long_line_is_cut_between_words_and_nothing_of_it_is_lost() -> None:
    names = [f"{a}{b}" for a in "bdfghklmn" for b in ("an", "en", "in", "on", "un", "ar", "or", "il")]
    text = ", ".join(f"patient {name} was seen again on the ward" for name in names)
    found = prepared(text)
    assert len(text) > 2500 and max(len(s.said) for s in found.sentences) <= 200
    assert " ".join(s.said for s in found.sentences).split() == text.split()
    assert found.fates[0].why == ("cut into pieces of at most 200 characters",)


def test_what_was_said_before_is_left_out_whatever_its_case() -> None:
    found = prepared("Open the door.", "open the door", "Shut it. Open the door!")
    assert [s.said for s in found.sentences] == ["Open the door.", "Shut it."]
    assert found.fates[1].why == ("is the same as line 1",)
    assert found.fates[2].verdict == "changed" and "is the same as line 1" in found.fates[2].why


def test_transcripts_keep_to_the_letters_of_a_model() -> None:
    found = prepared("Naïve café: it's 5 mg!", "þorn is fine", "straße", "ok ﬁts", rules=Rules(alphabet=LETTERS))
    assert found.sentences[0].text == "naive cafe it's five milligrams" and found.sentences[0].said == "Naïve café: it's five milligrams!"
    assert "letters the model lacks made plain (ïé)" in found.fates[0].why
    assert {letter for s in found.sentences for letter in s.text} <= LETTERS | {" "}


def test_a_line_that_a_model_cannot_spell_is_told() -> None:
    assert fate("the ŋ sound", Rules(alphabet=LETTERS)).why == ("the model cannot spell 'ŋ'",)
    assert fitted("ŋ!", LETTERS) == ("", "", "ŋ")


def test_entities_come_along_through_numbers_and_sentences() -> None:
    text = "Hold it. Give insulin glargine 12 units at 8:30."
    marks = (Entity("drug", "insulin glargine", 3, 5), Entity("dose", "12 units", 5, 7))
    found = prepare([Line(1, text, "", marks)], Rules(alphabet=LETTERS)).sentences
    assert found[0].entities == ()
    assert found[1].text == "give insulin glargine twelve units at eight thirty"
    assert found[1].entities == (Entity("drug", "insulin glargine", 1, 3), Entity("dose", "twelve units", 3, 5))


def test_entities_are_found_in_order() -> None:
    assert located("warfarin then Warfarin, again", [("a", "warfarin"), ("b", "warfarin"), ("c", "aspirin")]) == (
        Entity("a", "warfarin", 0, 1),
        Entity("b", "Warfarin,", 2, 3),
    )


def test_scripts_and_signs() -> None:
    assert foreign("naïve ærø", "en") == "" and foreign("Привет", "ru") == ""
    assert foreign("abc Привет", "ru").startswith("Latin letters (3 of 9")
    assert greek_spelt("α and λόγος") == ("alpha and λόγος", ["Greek letters by name (α)"])
    assert readable("a\u00a0b\u2028c") == ("a b c", [])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=40), min_size=1, max_size=4))
@example(["_"])
def test_every_line_has_one_fate_and_what_is_said_is_words(texts: list[str]) -> None:
    found = prepared(*texts)
    assert [f.line for f in found.fates] == list(range(1, len(texts) + 1))
    assert all(f.why for f in found.fates if f.verdict != "used")
    assert sum(f.sentences for f in found.fates) == len(found.sentences)
    counts = found.counts()
    assert counts["used"] + counts["changed"] + counts["left out"] == counts["lines"] == len(texts)
    for sentence in found.sentences:
        assert sentence.said.strip() and not any(c.isdigit() and c.isascii() for c in sentence.said) and "[" not in sentence.said
    json.dumps(found.to_json())

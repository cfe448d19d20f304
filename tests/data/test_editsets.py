"""Sets of edits in files: every format with rows made up here, what is wrong with a row, and our own format there and back."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asrlife.data.edit import EditRequest, records
from asrlife.data.editsets.own import own, to_row
from asrlife.data.editsets.read import read_requests, write_requests
from asrlife.errors import InputError

REWRITE = {
    "prompt": "The capital of {} is called",
    "subject": "Borduria",
    "question": "What is Borduria's capital?",
    "target_new": {"str": "Klow", "id": "Q1"},
    "target_true": {"str": "Szohod", "id": "Q2"},
}
COUNTERFACT = {
    "case_id": 0,
    "requested_rewrite": REWRITE,
    "paraphrase_prompts": ["Off they went. Borduria has its capital in"],
    "neighborhood_prompts": ["The seat of Plekszy-Gladz is", "Kurvi-Tasch lives in"],
    "generation_prompts": ["Borduria is famous for"],
}
ZSRE = {
    "subject": "Borduria",
    "src": "What capital does borduria have?",
    "rephrase": "Which city rules Borduria?",
    "alt": "Klow",
    "answers": ["Szohod", "Szohôd"],
    "loc": "nq question: who wrote the anthem",
    "loc_ans": "nobody",
    "cond": "a >> b",
}
HOP = {"question": "Who founded Klow?", "cloze": "Klow was founded by", "answer": "Ottokar", "answer_alias": ["King Ottokar"]}
MQUAKE = {
    "case_id": 1,
    "requested_rewrite": [REWRITE, REWRITE | {"subject": "Syldavia", "question": "What is Syldavia's capital?"}],
    "questions": ["Who founded Borduria's capital?", "Borduria's capital was founded by whom?"],
    "answer": "Plekszy",
    "answer_alias": [],
    "new_answer": "Ottokar",
    "new_answer_alias": ["Ottokar I"],
    "single_hops": [HOP, HOP | {"question": "What is Borduria's capital?", "answer": "Szohod"}],
    "new_single_hops": [HOP, HOP | {"question": "What is Borduria's capital?", "answer": "Klow"}],
}
KNOWEDIT = {
    "subject": "Borduria",
    "prompt": "The capital of Borduria is",
    "target_new": "Klow",
    "ground_truth": ["Szohod"],
    "rephrase_prompt": "Borduria is ruled from",
    "portability": {
        "Reasoning": [{"prompt": "The founder of Borduria's capital is", "ground_truth": [["Ottokar", "Ottokar I"]]}],
        "Subject_Aliasing": [{"prompt": "The capital of the Bordurian state is", "ground_truth": "Klow"}],
        "Logical_Generalization": [{"prompt": "Klow is the capital of", "ground_truth": ["Borduria"]}, {"prompt": "x", "ground_truth": []}],
    },
    "locality": {"Relation_Specificity": [{"prompt": "The currency of Borduria is", "ground_truth": [["zloty"]]}], "Forgetfulness": []},
}
OWN = {"subject": "Borduria", "prompt": "The capital of Borduria is", "target": "Klow"}


def write(path: Path, rows: list[Any], lines: bool = False) -> Path:
    path.write_text("\n".join(map(json.dumps, rows)) if lines else json.dumps(rows, indent=1), encoding="utf-8")
    return path


@pytest.mark.parametrize("lines", [False, True])
def test_counterfact(tmp_path: Path, lines: bool) -> None:
    (one,) = read_requests(write(tmp_path / "set", [COUNTERFACT], lines))
    assert (one.subject, one.prompt, one.target, one.truth) == ("Borduria", "The capital of Borduria is called", "Klow", "Szohod")
    assert one.paraphrases == (("Off they went. Borduria has its capital in", "Klow"),)
    assert one.neighbours == (("The seat of Plekszy-Gladz is", "Szohod"), ("Kurvi-Tasch lives in", "Szohod"))
    assert one.generations == ("Borduria is famous for",) and one.hops == () and one.record == ""


def test_zsre_with_a_subject_in_other_capitals_and_with_portability(tmp_path: Path) -> None:
    hop = {"portability": {"New Question": "Who founded the capital of Borduria?", "New Answer": "Ottokar"}}
    one, two = read_requests(write(tmp_path / "set.json", [ZSRE, ZSRE | hop]))
    assert one.subject == "borduria" and one.target == "Klow" and one.truth == "Szohod"
    assert one.right("Szohod") == ("Szohod", "Szohôd") and one.right("Klow") == ("Klow",)
    assert one.paraphrases == (("Which city rules Borduria?", "Klow"),) and one.neighbours == (("who wrote the anthem", "nobody"),)
    assert two.hops == (("Who founded the capital of Borduria?", "Ottokar"),) and one.hops == ()


def test_mquake_makes_a_request_of_each_rewrite_and_keeps_them_together(tmp_path: Path) -> None:
    found = read_requests(write(tmp_path / "set.json", [MQUAKE, MQUAKE | {"requested_rewrite": [REWRITE]}]))
    assert [one.subject for one in found] == ["Borduria", "Syldavia", "Borduria"]
    assert [len(group) for group in records(found)] == [2, 1]
    first, second, _ = found
    assert first.hops == tuple((question, "Ottokar") for question in MQUAKE["questions"]) and second.hops == ()  # type: ignore[attr-defined]
    assert first.paraphrases == (("What is Borduria's capital?", "Klow"),)
    assert first.neighbours == (("Who founded Klow?", "Ottokar"),)  # the other hop has changed
    assert first.right("Ottokar") == ("Ottokar", "Ottokar I", "King Ottokar")


def test_knowedit(tmp_path: Path) -> None:
    flat = {
        "subject": "Borduria",
        "text": "Borduria is",
        "target_new": "Klow",
        "locality_prompt": "Syldavia is",
        "locality_ground_truth": "a state",
    }
    (one,) = read_requests(write(tmp_path / "set.json", [KNOWEDIT]))
    assert one.paraphrases == (("Borduria is ruled from", "Klow"), ("The capital of the Bordurian state is", "Klow"))
    assert one.hops == (("The founder of Borduria's capital is", "Ottokar"),) and one.right("Ottokar") == ("Ottokar", "Ottokar I")
    assert one.reversals == (("Klow is the capital of", "Borduria"),)  # the one without an answer is left out
    assert one.neighbours == (("The currency of Borduria is", "zloty"),) and one.truth == "Szohod"
    (two,) = read_requests(write(tmp_path / "flat.json", [flat]))
    assert two.neighbours == (("Syldavia is", "a state"),) and two.truth == "" and two.paraphrases == ()


TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).map(str.strip).filter(bool)
PAIRS = st.lists(st.tuples(TEXT, TEXT), max_size=3).map(tuple)


@given(TEXT, TEXT, TEXT, PAIRS, PAIRS, PAIRS, PAIRS, st.lists(TEXT, max_size=2).map(tuple), st.dictionaries(TEXT, TEXT, max_size=2), TEXT)
@settings(max_examples=60, deadline=None)
def test_our_own_rows_there_and_back(subject, rest, target, one, two, three, four, begun, names, truth) -> None:  # type: ignore[no-untyped-def]
    request = EditRequest(
        subject, f"{subject} {rest}", target, (f"{rest} {subject}",), one, two, three, four, truth, begun, tuple(names.items()), "7"
    )
    assert own(json.loads(json.dumps(to_row(request)))) == (request,)


def test_our_own_file_is_whole_or_absent(tmp_path: Path) -> None:
    path = tmp_path / "edits.jsonl"
    first, second = read_requests(write(tmp_path / "set.json", [MQUAKE]))
    requests = (replace(first, truth="Szo\u2028ho\x85\nd"), second)  # what other splitters take for the end of a line
    write_requests(path, requests)
    assert read_requests(path) == requests and path.read_text(encoding="utf-8").count("\n") == 2
    with pytest.raises(AttributeError):
        write_requests(path, [*requests, None])  # type: ignore[list-item]
    assert read_requests(path) == requests and sorted(each.name for each in tmp_path.iterdir()) == ["edits.jsonl", "set.json"]


@pytest.mark.parametrize(
    ("row", "cause"),
    [
        (OWN | {"paraphrase": []}, "unknown key 'paraphrase': did you mean 'paraphrases'"),
        (OWN | {"subject": "Syldavia"}, "the subject 'Syldavia' does not stand in the prompt"),
        (OWN | {"target": " "}, "has no text under 'target'"),
        (OWN | {"hops": [{"prompt": "Who?"}]}, "has no text under 'answer'; its keys: 'prompt'"),
        (OWN | {"hops": ["Who?"]}, "'hops' is no list of objects"),
        (OWN | {"generations": "Borduria"}, "'generations' is no list of texts"),
        (OWN | {"aliases": ["Klow"]}, "'aliases' is no object"),
        (["Borduria"], "is a JSON list, no object"),
    ],
)
def test_a_malformed_row_is_named_by_number_with_its_cause(tmp_path: Path, row: Any, cause: str) -> None:
    listed, lined = write(tmp_path / "a.json", [OWN, row]), write(tmp_path / "a.jsonl", [OWN, row], lines=True)
    for path, where in ((listed, "record 2"), (lined, "line 2")):
        with pytest.raises(InputError, match=where) as told:
            read_requests(path)
        assert cause in str(told.value) and str(path) in str(told.value)
        left_out: list[str] = []
        assert len(read_requests(path, left_out.append)) == 1 and len(left_out) == 1 and cause in left_out[0]


@pytest.mark.parametrize(
    ("row", "cause"),
    [
        (COUNTERFACT | {"requested_rewrite": REWRITE | {"prompt": "The capital is"}}, r"has no \{\} where its subject is to stand"),
        (COUNTERFACT | {"requested_rewrite": REWRITE | {"target_new": "Klow"}}, "'target_new' is no object"),
        (MQUAKE | {"requested_rewrite": []}, "'requested_rewrite' is empty"),
        (ZSRE | {"subject": "Syldavia"}, "does not stand in the prompt"),
        (ZSRE | {"portability": "Ottokar"}, "'portability' is no object"),
        (KNOWEDIT | {"locality": {"near": [{"prompt": "x", "ground_truth": 3}]}}, "an answer is a JSON int"),
        (KNOWEDIT | {"locality": []} | {"locality_prompt": "x"}, "without 'locality_ground_truth'"),
        (KNOWEDIT | {"locality": [1]}, "'locality' is no object"),
        ({"question": "What?"}, "is of no known format; its keys: 'question'"),
    ],
)
def test_what_is_wrong_with_rows_of_the_fields_sets(tmp_path: Path, row: Any, cause: str) -> None:
    with pytest.raises(InputError, match=f"record 1: .*{cause}"):
        read_requests(write(tmp_path / "set.json", [row]))


@pytest.mark.parametrize(
    ("data", "cause"),
    [
        (b"", "is empty"),
        (b"[]", "is an empty list"),
        (b'[{"a": 1', "broken JSON"),
        (b"\xff\xfe{", "is no UTF-8"),
        (b'{"subject": "x"\n', "line 1: is broken JSON"),
    ],
)
def test_files_that_cannot_be_read(tmp_path: Path, data: bytes, cause: str) -> None:
    path = tmp_path / "set.json"
    with pytest.raises(InputError, match="no such file"):
        read_requests(path)
    path.write_bytes(data)
    with pytest.raises(InputError, match=cause):
        read_requests(path)
    with pytest.raises(InputError, match="is empty|is an empty list|broken JSON|no UTF-8|no row can be used"):
        read_requests(path, lambda _: None)


def test_requests_without_a_record_stand_alone() -> None:
    one = EditRequest("Borduria", "Borduria is", "Klow")
    assert records([one, one]) == [(one,), (one,)] and one.statement == "Borduria is Klow."

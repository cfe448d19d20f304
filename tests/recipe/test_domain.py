"""Parts of a domain: who reads what, which vector, how much of it, and what a name means."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from asrlife.data.utterance import Utterance
from asrlife.delta import file
from asrlife.delta.delta import Delta, Dense
from asrlife.errors import InputError
from asrlife.methods.tune import Quiet
from asrlife.models.load import load
from asrlife.models.speaking import speak
from asrlife.recipe.domain.judge import Trial, check_apart
from asrlife.recipe.domain.names import check_name, delta_of
from asrlife.recipe.domain.plan import Cast, Domain, begin
from asrlife.recipe.domain.speech import LEAST, other_voices, parted, read_general, read_other
from asrlife.recipe.domain.vector import Vector, chosen, packaged, summed, vector_of
from asrlife.recipe.recipe import find, read
from asrlife.recipe.run import run
from asrlife.recipe.tuning import Source
from asrlife.text.prepare import Prepared, Sentence
from tests.recipe.test_aloud import bar

FLITE = f"""#!{sys.executable}
import sys, wave
with wave.open(sys.argv[sys.argv.index("-o") + 1], "wb") as file:
    file.setparams((1, 2, 16000, 0, "NONE", ""))
    file.writeframes(b"\\x00\\x10\\x00\\xf0" * 4000)
"""


def sentences(count: int) -> list[Sentence]:
    return [Sentence(f"number {number}", f"number {number}", number + 1) for number in range(count)]


def test_parts_are_the_same_in_any_order_and_share_nothing() -> None:
    one, two = parted(sentences(200), 0), parted(sentences(200)[::-1], 0)
    assert {name: len(part) for name, part in one.items()} == {"test": 40, "dev": 20, "train": 140}
    assert {name: {s.text for s in part} for name, part in one.items()} == {name: {s.text for s in part} for name, part in two.items()}
    texts = [s.text for part in one.values() for s in part]
    assert len(texts) == len(set(texts)) == 200
    assert {s.text for s in parted(sentences(200), 1)["test"]} != {s.text for s in one["test"]}


def test_the_smallest_text_has_some_of_each_and_a_large_one_is_not_tested_for_hours() -> None:
    assert {name: len(part) for name, part in parted(sentences(LEAST), 0).items()} == {"test": 2, "dev": 2, "train": 6}
    assert {name: len(part) for name, part in parted(sentences(5000), 0).items()} == {"test": 200, "dev": 60, "train": 4740}


def test_a_pattern_of_voices_leaves_out_those_of_the_test() -> None:
    cast = Cast(train=("en-us+f?",)).expanded()
    assert "en-us+f3" in cast.train and not {"en-us+f4", "en-us+f5"} & set(cast.train)
    with pytest.raises(InputError, match="voice en-us\\+f4 reads what is learnt"):
        Cast(train=("en-us+f4",)).expanded()
    with pytest.raises(InputError, match="nobody is left"):
        Cast(train=("en-us+f[45]",)).expanded()
    default = Cast()
    assert default.expanded() == default


def test_everyday_sentences_come_from_the_packaged_grammar_and_are_none_of_the_text(tmp_path: Path) -> None:
    asked = Domain(tmp_path / "x.txt", tmp_path, general_sentences=2)
    first = [json.loads(row)["text"] for row in read_general(asked, Prepared((), ()), None, bar).read_text().splitlines()]
    own = Prepared((Sentence(first[0].upper(), first[0], 1),), ())
    again = [json.loads(row)["text"] for row in read_general(asked, own, None, bar).read_text().splitlines()]
    assert len(first) == len(again) == 2 and first[0] not in again and first[1] in again


def test_another_engine_stands_in_where_it_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert other_voices() == ()
    (tmp_path / "bin" / "flite").write_text(FLITE)
    (tmp_path / "bin" / "flite").chmod(0o755)
    assert other_voices() == ("flite:slt", "flite:rms", "flite:awb")
    text = Prepared(tuple(sentences(10)), ())
    rows = [json.loads(row) for row in read_other(Domain(tmp_path / "x", tmp_path), text, other_voices(), bar).read_text().splitlines()]
    assert [row["text"] for row in rows] == [one.text for one in parted(sentences(10), 0)["test"]]
    assert {row["speaker"].partition(":")[0] for row in rows} == {"flite"}


def biased(model: object, amount: float, **note: object) -> Delta:
    """A delta under which nothing but "a" is heard."""
    bias = torch.zeros_like(model.module.lm_head.bias)  # type: ignore[attr-defined]
    bias[model.vocabulary.ids["a"]] = amount  # type: ignore[attr-defined]
    return Delta(model.fingerprint(), {"lm_head.bias": Dense(bias)}, note)  # type: ignore[attr-defined]


def test_the_scale_is_the_best_on_real_speech_and_the_least_of_equals(tmp_path: Path) -> None:
    model = load("embedded:ctc")
    dev = [Utterance("a", speak("turn on the kitchen light", "en-us+f3"), "turn on the kitchen light")]
    harm, mend, nothing = biased(model, 100.0), biased(model, -100.0), biased(model, 0.0)
    asked = Domain(tmp_path / "x", tmp_path)
    for tuned, vector, best in ((harm, mend, 1.0), (nothing, harm, 0.0), (nothing, nothing, 0.0)):
        file.save(tuned, asked.work / "synthetic.safetensors")
        found = chosen(asked, model, tuned, Vector(vector, "given", f"{vector.norm()}"), dev, Quiet())
        assert found.scale == best and len(found.probes) == 7
    assert summed(nothing, None, 1.0) is nothing


def test_scales_that_were_measured_are_not_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, asked = load("embedded:ctc"), Domain(tmp_path / "x", tmp_path)
    dev = [Utterance("a", speak("what time is it", "en-us+f3"), "what time is it")]
    tuned = biased(model, 0.0)
    file.save(tuned, asked.work / "synthetic.safetensors")
    first = chosen(asked, model, tuned, Vector(tuned, "given", "v"), dev, Quiet())
    monkeypatch.setattr("asrlife.evaluate.forgetting.counts", None)
    assert chosen(asked, model, tuned, Vector(tuned, "given", "v"), dev, Quiet()) == first
    with pytest.raises(TypeError):
        chosen(asked, model, tuned, Vector(tuned, "given", "another"), dev, Quiet())


def test_a_vector_is_told_by_its_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ctc_folder: Callable[..., Path]) -> None:
    from asrlife.models import load as loading

    model = load(ctc_folder())
    monkeypatch.setattr(loading, "ASSETS", tmp_path)
    (tmp_path / "b").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "syn2real.json").write_text("no json")
    (tmp_path / "broken" / "syn2real.safetensors").write_text("")
    assert packaged(model) is None and vector_of(Domain(tmp_path / "x", tmp_path), model) is None
    file.save(biased(model, 1.0, scale=0.4), tmp_path / "b" / "syn2real.safetensors")
    found = vector_of(Domain(tmp_path / "x", tmp_path), model)
    assert packaged(model) == tmp_path / "b" / "syn2real.safetensors" and found is not None and found.scale == 0.4
    assert vector_of(Domain(tmp_path / "x", tmp_path, vector=False), model) is None
    file.save(Delta(model.fingerprint(), {"no.such": Dense(torch.zeros(2))}), tmp_path / "odd.safetensors")
    with pytest.raises(InputError, match="moves 'no.such' of shape"):
        vector_of(Domain(tmp_path / "x", tmp_path, syn2real=tmp_path / "odd.safetensors"), model)
    with pytest.raises(InputError, match="has the scale 'much'"):
        _ = Vector(biased(model, 1.0, scale="much"), "given", "").scale


def test_what_chooses_the_scale_is_not_tested_on(tmp_path: Path) -> None:
    from asrlife.data.corpus import Corpus

    sounds = [speak("yes", "en-us+f3"), speak("no", "en-us+f3")]
    for name, ids in (("one", "ab"), ("two", "xy")):
        Corpus(tuple(Utterance(i, s, "yes") for i, s in zip(ids, sounds, strict=True))).write(tmp_path / name / "m.jsonl")
    dev, test = (Trial.of("generality", "real", Source(tmp_path / name / "m.jsonl")) for name in ("one", "two"))
    with pytest.raises(InputError, match="2 of its recordings are in the test"):
        check_apart(dev, [test])


def test_a_name_is_a_domain_and_a_path_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("ward", "lab"):
        (tmp_path / "domains" / name).mkdir(parents=True)
    (tmp_path / "domains" / "ward" / "delta.safetensors").touch()
    assert delta_of(None) is None and delta_of(Path("ward")) == Path("domains/ward/delta.safetensors")
    assert delta_of(Path("no/such")) == Path("no/such") and delta_of(Path("no.safetensors")) == Path("no.safetensors")
    with pytest.raises(InputError, match="delta wart: no such file, and no domain of this name in domains/; there: ward"):
        delta_of(Path("wart"))
    with pytest.raises(InputError, match="domains/lab is not finished"):
        delta_of(Path("lab"))
    (tmp_path / "ward").touch()
    assert delta_of(Path("ward")) == Path("ward")
    for wrong in ("", ".x", "a/b", "a.safetensors", "a b"):
        with pytest.raises(InputError, match="use letters"):
            check_name(wrong)


def test_a_plan_tells_what_has_changed(tmp_path: Path) -> None:
    begin(tmp_path, {"--clips": 1, "tuning": {"rate": 1}, "--text": "0" * 64}, False)
    begin(tmp_path, {"--clips": 1, "tuning": {"rate": 1}, "--text": "0" * 64}, False)
    with pytest.raises(InputError, match=r"made otherwise \(--clips was 1 and is 2, rate was 1 and is 3, --text has changed\)"):
        begin(tmp_path, {"--clips": 2, "tuning": {"rate": 3}, "--text": "1" * 64}, False)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "delta.safetensors").touch()
    with pytest.raises(InputError, match="is there, and not made by `asrlife domain`"):
        begin(tmp_path / "other", {}, False)
    (tmp_path / "plan.json").write_text("{")
    with pytest.raises(InputError, match="cannot be read"):
        begin(tmp_path, {}, False)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "label"), [("medical_dictation", "drug"), ("voice_assistant", "room")])
def test_the_recipes_run_in_small(name: str, label: str, tmp_path: Path) -> None:
    steps = run(read(find(name), tiny=True, changes=["sentences=24"]), tmp_path, bar)["steps"]
    axes = steps["domain"]["axes"]
    assert set(axes) >= {"reliability", "locality"} and label in axes["reliability"]["synthetic"]["entities"]["labels"]
    assert (tmp_path / "picture.png").stat().st_size > 10_000 and Path(steps["domain"]["report"]).is_file()


def test_a_step_says_where_its_text_is_from(tmp_path: Path) -> None:
    page = tmp_path / "recipe.yaml"
    for keys, message in (
        ("name: a", "give either grammar: FILE or text: FILE"),
        ("name: a, text: b, family: c", "family belongs to a grammar"),
        ("name: a, grammar: b", "say how many sentences"),
        ("name: a, text: b, voices: ['command:x {text} {out}']", "a recipe starts no programs"),
    ):
        page.write_text(f"name: n\ndescription: d\nsteps:\n  one: {{kind: domain, {keys}}}\n")
        with pytest.raises(InputError, match=message):
            read(page)

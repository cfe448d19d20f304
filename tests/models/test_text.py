from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

import asrlife
from asrlife.errors import InputError
from asrlife.models.text import TextModel, known_texts, load_text

PROMPTS = ["Question: Where was Mira Holm born? Answer:", "The Space Needle stands in", "The mango grows in", "A", "Mira Holm was born in"]


@pytest.fixture(scope="module")
def model(lm_folder: Path) -> TextModel:
    return load_text(lm_folder)


def test_prompts_together_are_completed_as_each_alone(model: TextModel) -> None:
    together = model.complete(PROMPTS * 2, 8)
    assert together == [model.complete([prompt], 8)[0] for prompt in PROMPTS * 2]
    assert any(together)


def test_a_completion_is_the_argmax_of_each_step(model: TextModel) -> None:
    ids = model.ids(PROMPTS[0])
    with torch.no_grad():
        for _ in range(5):
            ids.append(int(model.module(torch.tensor([ids])).logits[0, -1].argmax()))
    made = ids[len(model.ids(PROMPTS[0])) :]
    expected = made[: made.index(model.end)] if model.end in made else made
    assert model.complete([PROMPTS[0]], 5)[0] == model.speller.decode(expected)


def test_surprise_is_the_loss_of_what_stands_behind_the_prompt(model: TextModel) -> None:
    prompt, text = PROMPTS[1], f"{PROMPTS[1]} Seattle."
    ids = torch.tensor([[*model.ids(text), model.end]])
    with torch.no_grad():
        every = F.cross_entropy(model.module(ids).logits[0, :-1], ids[0, 1:], reduction="none")
    behind = ids.shape[1] - len(model.ids(prompt))
    found = model.surprise([(prompt, text), ("The", "The mango.")])[0]
    torch.testing.assert_close(found, every[-behind:], rtol=1e-4, atol=1e-5)
    assert model.perplexity([text]) == pytest.approx(math.exp(every.double().mean()), rel=1e-5)


def test_what_follows_is_what_the_model_says_itself(model: TextModel) -> None:
    ids = model.ids(PROMPTS[2])
    with torch.no_grad():
        best = int(model.module(torch.tensor([ids])).logits[0, -1].argmax())
    ending = model.speller.decode([best])
    assert isinstance(model.follows([(PROMPTS[2], PROMPTS[2] + ending)])[0], bool)
    assert not model.follows([(PROMPTS[2], f"{PROMPTS[2]} Lyon Lyon Lyon Lyon")])[0]


def test_a_saved_model_is_the_same_model(model: TextModel, tmp_path: Path) -> None:
    back = load_text(model.save(tmp_path / "saved"))
    assert back.fingerprint() == model.fingerprint()
    assert back.complete(PROMPTS, 4) == model.complete(PROMPTS, 4)
    assert model.twin().fingerprint() == model.fingerprint()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("embedded:ctc", "use embedded:lm; recognisers are loaded with asrlife.load"),
        ("nowhere", "no file or folder 'nowhere'"),
        ("./nowhere", "no file or folder './nowhere'"),
    ],
)
def test_a_name_that_leads_nowhere_is_refused(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_text(name)


def test_a_recogniser_is_no_language_model_and_the_other_way_round(ctc_folder, lm_folder: Path) -> None:
    with pytest.raises(InputError, match="no causal language model"):
        load_text(ctc_folder())
    with pytest.raises(InputError, match="no recogniser asrlife knows"):
        asrlife.load(lm_folder)
    with pytest.raises(InputError, match="load it with asrlife.load_text"):
        asrlife.load("embedded:lm")


def test_a_folder_without_a_tokenizer_is_refused(lm_folder: Path, tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        shutil.copy(lm_folder / name, tmp_path / name)
    with pytest.raises(InputError, match="tokenizer"):
        load_text(tmp_path)


def test_a_real_llama_goes_through_without_special_cases(shared: Path) -> None:
    model = load_text(shared / "lm-stories260k")
    text = model.complete(["Once upon a time, there was"], 12)[0]
    assert text.strip().startswith("a little girl named Lily")
    assert 1 < model.perplexity(["Once upon a time, there was a little girl named Lily."]) < 5


@pytest.mark.skipif("embedded:lm" not in known_texts(), reason="embedded:lm is not in this installation")
def test_the_embedded_model_knows_its_world() -> None:
    from asrlife.data.world.facts import make
    from asrlife.evaluate.text import judge, world_probes

    model = load_text("embedded:lm")
    verdict = judge(model, world_probes(make(0), 40))
    assert verdict.named("facts").share >= 0.95 and verdict.named("refusals").share >= 0.95
    # combinations of an instruction and a fact that it never saw: the form of the answer is always right, the fact in it mostly
    told = verdict.named("instructions")
    assert told.share >= 0.8  # 0.952 of 3,936
    assert all(answer.completion.startswith(("{", answer.completion[:2].upper())) for answer in told.answers)
    scores = {row["set"]: row["value"] for row in model.card["scores"]}
    assert scores["facts"] >= 0.99 and scores["reversals"] >= 0.99 and scores["paraphrases"] >= 0.9 and scores["refusals"] >= 0.99
    assert scores["one hop, unseen"] >= 0.7 and scores["two hops, unseen"] >= 0.6 and scores["instructions"] >= 0.9
    assert json.loads(json.dumps(model.card)) == model.card

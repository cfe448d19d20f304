"""Edits that change no weight: what is asked in place of a prompt, and which of many edits is found for it."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from asrlife.data.edit import EditRequest
from asrlife.data.world.facts import make
from asrlife.data.world.forms import forward, paraphrases
from asrlife.data.world.teaching import SUPPOSED, supposed
from asrlife.errors import InputError
from asrlife.evaluate.text import ended
from asrlife.methods.edit.in_context import PROMPTERS, InContext, Plain, Prompter, Retrieved
from asrlife.methods.edit.retrieval import Index
from asrlife.models.text import load_text

KLOW = EditRequest("Borduria", "The capital of Borduria is", "Klow")
SYLDAVIA = EditRequest("Syldavia", "The capital of Syldavia is", "Szohod", paraphrases=(("Syldavia is ruled from", "Szohod"),))
DEMOS = (
    replace(SYLDAVIA, neighbours=(("A pelican is a", "bird"),)),
    EditRequest("Ana Ruiz", "Ana Ruiz likes the", "plum", paraphrases=(("What does Ana Ruiz like? The", "plum"),)),
    EditRequest("Borduria", "The river of Borduria is the", "Wladir"),
    EditRequest("San Theodoros", "The capital of San Theodoros is", "Tapiocapolis", neighbours=(("The sea is", "deep!"),)),
)


def test_the_registry_names_its_prompters() -> None:
    assert {name: prompter.name for name, prompter in PROMPTERS.items()} == {"prompt": "prompt", "ike": "ike"}
    assert all(isinstance(prompter, Prompter) for prompter in PROMPTERS.values())


def test_plain_prompting_puts_the_fact_before_the_question() -> None:
    assert PROMPTERS["prompt"].asked(KLOW, "Borduria is ruled from") == "New fact: The capital of Borduria is Klow.\nBorduria is ruled from"
    braces = replace(KLOW, prompt="Borduria {rest} is", target="{premise}")
    assert Plain().asked(braces, "{premise}") == "New fact: Borduria {rest} is {premise}\n{premise}"


def test_in_the_closed_world_it_is_what_the_world_says() -> None:
    world = make(0)
    fact = world.split("edit_dev")[0]
    edited = replace(fact, object=world.target(fact))
    request = EditRequest(fact.subject, forward(edited)[0].prompt, edited.object)
    for question in paraphrases(edited):
        assert Plain(SUPPOSED).asked(request, question.prompt) == supposed(forward(edited)[0].text, question).prompt


def test_demonstrations_copy_update_and_retain_with_the_likest_last() -> None:
    asked = InContext("{premise} {rest}", DEMOS, shots=3, between="|").asked(KLOW, "Borduria is ruled from").split("|")
    assert asked == [
        "Ana Ruiz likes the plum. Ana Ruiz likes the plum.",  # has nothing to retain, and so copies
        "The capital of San Theodoros is Tapiocapolis. The capital of San Theodoros is Tapiocapolis.",  # has no paraphrase
        "The capital of Syldavia is Szohod. The capital of Syldavia is Szohod.",
        "The capital of Borduria is Klow. Borduria is ruled from",
    ]
    both = (DEMOS[0], replace(DEMOS[0], subject="Elbonia", prompt="The capital of Elbonia is called"))
    assert InContext("{premise} {rest}", both, between="|").asked(KLOW, "?").split("|")[:-1] == [
        "The capital of Elbonia is called Szohod. Syldavia is ruled from Szohod.",
        "The capital of Syldavia is Szohod. The capital of Syldavia is Szohod.",
    ]
    retained = InContext("{premise} {rest}", (DEMOS[3], replace(DEMOS[0], paraphrases=()), DEMOS[3]), between="|").asked(KLOW, "?")
    assert retained.startswith("The capital of Syldavia is Szohod. A pelican is a bird.|")


def test_facts_about_the_subject_itself_do_not_demonstrate() -> None:
    assert "Wladir" not in InContext(demonstrations=DEMOS).asked(KLOW, "?")
    for none in ((), DEMOS[2:3]):
        with pytest.raises(InputError, match="give it demonstrations, or use the prompter 'prompt'"):
            InContext(demonstrations=none).asked(KLOW, "?")
    with pytest.raises(InputError, match=r"has no \{premise\} or no \{rest\}"):
        Plain("New fact: {premise}")


def test_of_many_requests_the_one_that_is_asked_about_is_found() -> None:
    index = Index([*DEMOS, KLOW, replace(KLOW, subject="Borduria Bay", prompt="The port of Borduria Bay is", target="Brno")])
    assert index.nearest("What is Syldavia's seat of government?") is DEMOS[0]
    assert index.nearest("Which river flows through borduria?") is DEMOS[2]  # of two about the subject the one that shares words
    assert index.nearest("Who is fond of Borduria Bay?").subject == "Borduria Bay"  # type: ignore[union-attr]
    assert index.nearest("Klow is the seat of") is KLOW  # by a word of the target
    assert index.nearest("Bordurian customs") is None and Index([]).nearest("Borduria") is None
    assert index.nearest("The currency of France is", least=0.9) is None and index.nearest("The currency of France is") is not None


def test_similarity_is_a_cosine_and_unknown_words_take_it_away() -> None:
    index = Index(DEMOS)
    for place, request in enumerate(DEMOS):
        assert index.similarities(request.statement)[place] == pytest.approx(1.0)
    assert index.similarities("") == index.similarities("zebra") == [0.0] * 4
    _, one, _, _ = index.similarities("likes plum")
    assert 1 > one > index.similarities("likes plum zebra")[1] > 0
    # two words that one of four statements has, of four such in the statement, and "the", which all have
    rare, common = (1 + math.log(5 / 2)) ** 2, 1.0
    assert one == pytest.approx(2 * rare / (2 * rare * (4 * rare + common)) ** 0.5)
    assert index.ranked("the capital")[0] is DEMOS[0] and index.nearest("zebra") is None


def test_a_prompt_that_no_request_is_near_is_left_alone() -> None:
    prompter = Retrieved(Plain(), (*DEMOS, KLOW))
    assert prompter.asked(DEMOS[1], "The capital of Borduria is") == Plain().asked(KLOW, "The capital of Borduria is")
    assert prompter.asked(KLOW, "Whales swim") == "Whales swim"


def test_the_embedded_model_takes_a_supposition_at_its_word() -> None:
    model, world = load_text("embedded:lm"), make(0)
    requests = [EditRequest(f.subject, forward(f)[0].prompt, world.target(f)) for f in world.split("edit_dev")[:6]]
    found = Retrieved(Plain(SUPPOSED), tuple(requests))
    said = model.complete([found.asked(request, request.prompt) for request in requests], 12)
    assert sum(ended(text) == request.target for text, request in zip(said, requests, strict=True)) >= 5  # all 6

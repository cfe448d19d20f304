"""Names read late: where names are, what may be read, and that a network reads no more than that."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from asrlife.data.world.facts import make
from asrlife.data.world.forms import Question, forward
from asrlife.data.world.teaching import supposed
from asrlife.models.text import TextModel
from asrlife.recipe.embedded import text
from asrlife.recipe.embedded.reading import Names, masks, places, reading

WORLD = make(0, 4, 3)
BELOW = 2


@pytest.fixture(scope="module")
def model() -> TextModel:
    speller = text.tokenizer([question.text for fact in WORLD.facts for question in forward(fact)], 500)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        module = text.build(len(speller), width=16, layers=4, inner=24, heads=2).eval()
        for parameter in module.parameters():  # at the scale that training begins with, attention hardly moves anything
            parameter.data.mul_(5.0 if parameter.ndim == 2 else 1.0)
    return TextModel("small", module, speller)


def told(names: list[str], line: str) -> list[str]:
    return [line[begin:end] for begin, end in Names(names).spans(line)]


def test_the_longest_name_at_a_place_is_found_and_none_within_another() -> None:
    names = ["Ravi", "Ravi Holm", "Holm", "Holm Street", "Ravi Holm"]
    assert told(names, "Ravi Holm met Ravi, and Holm.") == ["Ravi Holm", "Ravi", "Holm"]
    assert told(names, "Ravi Holm Street") == ["Ravi Holm"]
    assert list(Names(["Oslo"]).spans("Oslo, Oslo")) == [(0, 4), (6, 10)]


def test_names_are_whole_words() -> None:
    names = ["plum", "Ravi Holm"]
    assert told(names, "plums, replum, plum's and (plum)") == ["plum", "plum"]
    assert told(names, "Ravi Holmes, RAVI HOLM, Ravi  Holm") == []
    assert told([], "plum") == told(["plum"], "") == []


@given(st.lists(st.sampled_from(["Ravi", "Ravi Holm", "Holm", "is", "a", "plum", "plums"]), max_size=12))
def test_spans_are_in_order_disjoint_and_names(words: list[str]) -> None:
    names = {"Ravi", "Ravi Holm", "plum"}
    line = " ".join(words)
    found = list(Names(names).spans(line))
    assert all(line[begin:end] in names for begin, end in found)
    assert all(end < begin for (_, end), (begin, _) in zip(found, found[1:], strict=False))
    assert sum(line[begin:end] == "plum" for begin, end in found) == words.count("plum")


def test_tokens_that_share_a_letter_with_a_name_are_its_tokens() -> None:
    offsets = [(0, 0), (0, 2), (2, 4), (4, 7), (7, 10), (10, 11)]
    assert list(places([(3, 9)], offsets)) == [(2, 4)]
    assert list(places([(4, 7)], offsets)) == [(3, 3)]
    assert list(places([(0, 2), (10, 11)], offsets)) == [(1, 1), (5, 5)]
    assert list(places([(20, 24)], offsets)) == []


def test_masks_by_hand() -> None:
    known = torch.tensor([[True, True, True, True, False]])
    lower, upper = masks(known, [[(1, 2)]])
    assert lower.shape == upper.shape == (1, 1, 5, 5)
    assert upper[0, 0].int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],  # the name reads itself
        [1, 0, 1, 1, 0],  # behind it, its last token alone is read
        [1, 0, 1, 1, 1],  # padding reads itself, so that no row of the softmax is empty
    ]
    assert (lower != upper)[0, 0].nonzero().tolist() == [[3, 2], [4, 2]]


def test_a_name_of_one_token_is_read_in_upper_layers_alone() -> None:
    lower, upper = masks(torch.ones(2, 3, dtype=torch.bool), [[(1, 1)], []])
    causal = torch.ones(3, 3, dtype=torch.bool).tril()
    assert torch.equal(upper[0, 0], causal) and torch.equal(upper[1, 0], causal) and torch.equal(lower[1, 0], causal)
    assert (lower[0, 0] != causal).nonzero().tolist() == [[2, 1]]


def hooks(module: torch.nn.Module) -> int:
    return sum(len(part._forward_pre_hooks) for part in module.modules())


@torch.no_grad()
def test_where_everything_may_be_read_the_network_is_the_plain_one(model: TextModel) -> None:
    ids = torch.randint(1, model.module.config.vocab_size, (2, 9), generator=torch.Generator().manual_seed(0))
    known = torch.ones_like(ids, dtype=torch.bool)
    known[1, 6:] = False
    plain = model.module(ids, attention_mask=known.long()).logits
    with reading(model.module.model.layers, BELOW, *masks(known, [[], []])):
        same = model.module(ids, attention_mask=known.long()).logits
    torch.testing.assert_close(same[known], plain[known], atol=1e-5, rtol=1e-5)


def test_hooks_are_taken_off_after_an_error_too(model: TextModel) -> None:
    lower, upper = masks(torch.ones(1, 3, dtype=torch.bool), [[]])
    with pytest.raises(RuntimeError, match="stop"), reading(model.module.model.layers, BELOW, lower, upper):
        assert hooks(model.module) == 4
        raise RuntimeError("stop")
    assert hooks(model.module) == 0


def slopes(model: TextModel, number: int) -> Tensor:
    """How far what each token brings into block `number` moves what the last one says, (tokens,); a name is at tokens 2 to 4."""
    held: list[Tensor] = []

    def leaf(_: torch.nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        held.append(given[0].detach().requires_grad_())
        return held[0], *given[1:]

    blocks, ids = model.module.model.layers, torch.arange(3, 11)[None]
    with blocks[number].register_forward_pre_hook(leaf), reading(blocks, BELOW, *masks(torch.ones_like(ids, dtype=torch.bool), [[(2, 4)]])):
        score = model.module(ids).logits[0, -1].square().sum()
    (slope,) = torch.autograd.grad(score, held)
    return slope[0].norm(dim=-1)


def test_upper_layers_read_the_last_token_of_a_name_alone(model: TextModel) -> None:
    last_block = slopes(model, 3)
    assert not float(last_block[2:4].max()) and float(last_block[[0, 1, 4, 5, 6, 7]].min()) > 0.1
    # one block earlier, the pieces of the name still reach its last token, and go on from there
    assert float(slopes(model, BELOW).min()) > 0.05


def behind(model: TextModel, change: Callable[[Tensor], None], layers: int) -> Tensor:
    """How far the states of every token after `layers` blocks move when embeddings change, (tokens,); a name is at tokens 2 to 4."""
    ids = torch.arange(3, 11)[None]
    mask = masks(torch.ones_like(ids, dtype=torch.bool), [[(2, 4)]])
    found = []
    for changed in (False, True):
        states = model.module.get_input_embeddings()(ids).clone()
        if changed:
            change(states)
        with torch.no_grad(), reading(model.module.model.layers, BELOW, *mask):
            found.append(model.module.model(inputs_embeds=states, output_hidden_states=True).hidden_states[layers][0])
    return (found[1] - found[0]).norm(dim=-1)


def test_below_the_layer_nothing_behind_a_name_knows_it(model: TextModel) -> None:
    def change(states: Tensor) -> None:
        states[0, 2:5] += 1.0

    moved = behind(model, change, BELOW)
    assert float(moved[2:5].min()) > 0.1 and not float(moved[5:].max()) and not float(moved[:2].max())
    assert float(behind(model, change, BELOW + 1)[5:].min()) > 0.02


def asked(model: TextModel, documents: list[Question], share: float) -> list[list[tuple[int, int]]]:
    late = text.Late(WORLD, BELOW, share, seed=0)
    return [list(late._places(model, document)) for document in documents]


def test_late_finds_subjects_and_objects_where_the_network_has_them(model: TextModel) -> None:
    fact = WORLD.of("born")[0]
    question = forward(fact)[0]
    ids, _ = model.spelt(question.prompt, question.text)
    (found,) = asked(model, [question], 1.0)
    said = [model.speller.decode(ids[first : last + 1]).strip() for first, last in found]
    assert said == [fact.subject, fact.object]
    assert asked(model, [question], 0.0) == [[]]


def test_late_is_for_its_share_of_the_documents(model: TextModel) -> None:
    found = asked(model, [forward(WORLD.of("born")[0])[0]] * 400, 0.75)
    assert 0.68 < sum(map(bool, found)) / 400 < 0.82  # three deviations are 0.065


def test_a_premise_is_read_freely(model: TextModel) -> None:
    fact = WORLD.of("born")[0]
    premise = forward(fact)[0]
    assert asked(model, [supposed(premise.text, premise)] * 8, 1.0) == [[]] * 8


def test_the_loss_of_late_reading_is_another_one_and_teaches(model: TextModel) -> None:
    documents = [forward(fact)[0] for fact in WORLD.facts[:4]]
    plain, free, late = (
        text.loss_of(model, how)(documents) for how in (None, text.Late(WORLD, BELOW, 0.0, seed=0), text.Late(WORLD, BELOW, 1.0, seed=0))
    )
    gaps = [abs(float((one - plain).detach())) for one in (free, late)]
    assert gaps[0] < 1e-5 and gaps[1] > 0.02
    late.backward()  # type: ignore[no-untyped-call]
    assert all(parameter.grad is not None and bool(parameter.grad.isfinite().all()) for parameter in model.module.parameters())
    model.module.zero_grad()
    assert hooks(model.module) == 0

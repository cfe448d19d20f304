"""Teaching a small Llama the closed world: its tokenizer, its shape, batches of documents, the loss, and how names are read."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from asrlife.data.world.facts import World
from asrlife.data.world.forms import Question
from asrlife.data.world.teaching import Lessons
from asrlife.models.text import TextModel
from asrlife.recipe.embedded.reading import Names, masks, places, reading

END = "<|end|>"
PROMPT = 0.2  # what a token of a prompt weighs in the loss; one of an answer weighs 1
Documents = Sequence[Question]


def tokenizer(texts: Iterable[str], size: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE of `texts` with one special token that begins and ends every document."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=[END], initial_alphabet=alphabet, show_progress=False)
    made.train_from_iterator(texts, trainer)
    made.post_processor = processors.TemplateProcessing(single=f"{END} $A", special_tokens=[(END, 0)])
    names = {"bos_token": END, "eos_token": END, "pad_token": END}
    return PreTrainedTokenizerFast(tokenizer_object=made, padding_side="left", clean_up_tokenization_spaces=False, **names)


def kept_tokenizer(folder: Path, lessons: Lessons, size: int) -> PreTrainedTokenizerFast:
    """The tokenizer in `folder`, made first where there is none: weights that are trained further keep the one they began with."""
    if not (folder / "tokenizer.json").is_file():
        tokenizer((question.text for group in lessons.fixed.values() for question in group), size).save_pretrained(folder)
    return PreTrainedTokenizerFast.from_pretrained(folder)


def build(vocabulary: int, width: int = 128, layers: int = 6, inner: int = 512, heads: int = 4) -> LlamaForCausalLM:
    """A new model; input and output embeddings are one tensor."""
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=width, intermediate_size=inner, num_hidden_layers=layers, num_attention_heads=heads,
        max_position_embeddings=128, tie_word_embeddings=True, bos_token_id=0, eos_token_id=0, pad_token_id=0, initializer_range=0.03,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    model.generation_config.pad_token_id = 0
    return model


def loss_of(model: TextModel, late: Late | None = None) -> Callable[[Documents], torch.Tensor]:
    """Cross-entropy per token of a batch of documents, those of prompts weighing less; `late` says how names are read."""

    def loss(documents: Documents) -> torch.Tensor:
        ids, weights = packed([model.spelt(document.prompt, document.text) for document in documents])
        with nullcontext() if late is None else late.reading(model, documents, weights[:, :-1] > 0):
            scores = model.module(ids[:, :-1], attention_mask=(weights[:, :-1] > 0).long()).logits
        each = torch.nn.functional.cross_entropy(scores.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
        return (each * weights[:, 1:].flatten()).sum() / weights[:, 1:].sum()

    return loss


class Late:
    """In `share` of the documents names are read late (see `asrlife.recipe.embedded.reading`): from layer `below` on.

    A premise is read freely: what follows from it is nowhere but in the text.
    """

    def __init__(self, world: World, below: int, share: float, seed: int) -> None:
        self.names = Names(name for fact in world.facts for name in (fact.subject, fact.object))
        self.below, self.share, self.rng = below, share, random.Random(seed)

    def reading(self, model: TextModel, documents: Documents, known: torch.Tensor) -> AbstractContextManager[None]:
        """A context in which the network reads these documents so."""
        found = [list(self._places(model, document)) for document in documents]
        return reading(model.module.model.layers, self.below, *masks(known, found))

    def _places(self, model: TextModel, document: Question) -> Iterator[tuple[int, int]]:
        if self.rng.random() >= self.share or document.prompt.startswith("Suppose:"):
            return iter(())
        offsets = model.speller(document.text, return_offsets_mapping=True)["offset_mapping"]
        return places(self.names.spans(document.text), offsets)


def packed(rows: Sequence[tuple[list[int], int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids (batch, length) padded at the right, and the weight of each; 0 marks padding."""
    longest = max(len(ids) for ids, _ in rows)
    ids, weights = torch.zeros(len(rows), longest, dtype=torch.long), torch.zeros(len(rows), longest)
    for place, (row, prompt) in enumerate(rows):
        ids[place, : len(row)] = torch.tensor(row)
        weights[place, : len(row)] = 1.0
        weights[place, :prompt] = PROMPT
    return ids, weights


def batches(documents: Iterator[Question], size: int, seed: int) -> Iterator[Documents]:
    """Batches of documents of like length, for ever."""
    rng = random.Random(seed)
    while True:
        pool = sorted(islice(documents, 8 * size), key=lambda document: len(document.text))
        groups = [pool[start : start + size] for start in range(0, len(pool), size)]
        rng.shuffle(groups)
        yield from groups


def forced(model: TextModel, documents: Documents) -> float:
    """Share of documents whose every answer token is the likeliest after the right ones before it: a quick look while training."""
    return sum(model.follows([(document.prompt, document.text) for document in documents])) / len(documents)


def parameters(model: torch.nn.Module) -> int:
    """How many numbers a model has."""
    return sum(parameter.numel() for parameter in model.parameters())

"""Utterances made by voices: what is taught, what is tested, and everyday speech that is to stay as it is heard."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import islice

from asrlife.audio.speak import speak
from asrlife.audio.voices import Prosody
from asrlife.audio.waveform import Waveform
from asrlife.data.utterance import Utterance
from asrlife.recipe.recipe import folder
from asrlife.recipe.speech import VOICES, readings

EVERYDAY = ("assistant", "words")


def utterance(text: str, voice: str, seed: int = 0, said: str = "") -> Utterance:
    """`text` read by a voice at a rate and pitch that depend on all of it and the seed; `said` is what the voice reads instead."""
    rng = random.Random(f"{seed}/{voice}/{text}")
    prosody = Prosody(rng.randint(140, 190), rng.randint(30, 70))
    return Utterance(f"{text} ({voice})", speak(said or text, voice, prosody), text, speaker=voice, origin="synthetic")


def spoken(sentences: Sequence[str], voices: Sequence[str], word: str = "", pronounced: str = "", seed: int = 0) -> list[Utterance]:
    """Each sentence by each voice, which reads `pronounced` where the text has `word`."""
    said = [text.replace(word, pronounced) if word and pronounced else "" for text in sentences]
    return [utterance(text, voice, seed, read) for text, read in zip(sentences, said, strict=True) for voice in voices]


def everyday(count: int, seed: int = 0, families: Sequence[str] = EVERYDAY, voices: Sequence[str] = VOICES) -> list[Utterance]:
    """Sentences of the grammar that the embedded models come from, the same number of each family."""
    from asrlife.text.grammar import Grammar

    grammar = Grammar.read(folder() / "embedded" / "grammar.yaml")
    shares = [count // len(families) + (number < count % len(families)) for number in range(len(families))]
    sentences = [text for family, share in zip(families, shares, strict=True) for text in islice(grammar.stream(seed, family), share)]
    return [
        Utterance(plan.name, speak(plan.text, plan.voice, plan.prosody), plan.text, speaker=plan.voice, origin="synthetic")
        for plan in readings(sentences, voices, seed)
    ]


def waves(utterances: Sequence[Utterance]) -> list[Waveform]:
    """Their sound."""
    return [one.waveform() for one in utterances]

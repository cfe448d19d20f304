"""The tables against ITU-T G.711's closed form, against another implementation, and there and back."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from asrlife_server.g711 import A_LAW, MU_LAW
from asrlife_server.sound import alaw, mulaw

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    import audioop

CODES = bytes(range(256))
LAWS = {"mu": (MU_LAW, audioop.ulaw2lin, audioop.lin2ulaw), "a": (A_LAW, audioop.alaw2lin, audioop.lin2alaw)}


@pytest.mark.parametrize("law", LAWS)
def test_every_code_is_what_another_implementation_makes_of_it(law):
    table, expand, _ = LAWS[law]
    assert np.array_equal(table * 32_768, np.frombuffer(expand(CODES, 2), "<i2"))


@pytest.mark.parametrize("law", LAWS)
def test_there_and_back_is_the_same_code(law):
    table, _, compress = LAWS[law]
    back = np.frombuffer(compress((table * 32_768).astype("<i2").tobytes(), 2), np.uint8)
    assert np.array_equal(table[back], table)  # mu-law has two zeros, which are one sound


def test_the_steps_follow_the_logarithm():
    mu = 255
    code = np.arange(128)  # from the loudest negative to zero
    ideal = -np.expm1((127.5 - code) / 128 * np.log1p(mu)) / mu
    assert (np.abs(MU_LAW[code] - ideal) <= 0.08 * np.abs(ideal) + 2e-4).all()  # chords of 16 equal steps stand for the curve
    a = 87.6
    x = (np.arange(128) + 0.5) / 128
    y = np.where(x < 1 / (1 + np.log(a)), x * (1 + np.log(a)) / a, np.exp(x * (1 + np.log(a)) - 1) / a)
    found = np.sort(A_LAW[A_LAW > 0])
    assert (np.abs(found - y) <= 0.08 * y + 2e-4).all()


@pytest.mark.parametrize(("make", "table"), [(mulaw, MU_LAW), (alaw, A_LAW)])
def test_a_byte_is_a_sample(make, table):
    decoder = make()
    assert np.array_equal(decoder.decode(CODES), table) and decoder.left_over == 0 and len(decoder.finish()) == 0

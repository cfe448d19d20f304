"""The counter-based generator."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from asrlife.methods.merge import philox

# known answers of Random123's kat_vectors: counter, key, output
KNOWN = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


def test_the_known_answers_come_out() -> None:
    for counter, key, output in KNOWN:
        state = tuple(torch.tensor([word]) for word in counter)
        assert tuple(int(word) for word in philox.rounds(key, state)) == output  # type: ignore[arg-type]


@given(start=st.integers(0, 5000), count=st.integers(1, 3000))
@settings(max_examples=25, deadline=None)
def test_a_part_is_a_part_of_the_whole(start: int, count: int) -> None:
    whole = philox.uniform(7, "w", 1, 8000)
    assert torch.equal(philox.uniform(7, "w", 1, count, start), whole[start : start + count])


def test_chunks_leave_no_seam(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    whole = philox.uniform(7, "w", 1, 8003)
    monkeypatch.setattr(philox, "_CHUNK", 17)
    assert torch.equal(philox.uniform(7, "w", 1, 8003), whole)


def test_numbers_are_even_and_streams_apart() -> None:
    count = 200_000
    drawn = [philox.uniform(seed, name, index, count) for seed, name, index in ((0, "w", 0), (0, "w", 1), (0, "v", 0), (1, "w", 0))]
    for numbers in drawn:
        assert float(numbers.min()) >= 0 and float(numbers.max()) < 1
        bins = torch.histc(numbers, 64, 0, 1)
        chi = float(((bins - count / 64) ** 2 / (count / 64)).sum())
        assert chi < 63 + 5 * (2 * 63) ** 0.5
    correlations = torch.corrcoef(torch.stack(drawn)) - torch.eye(len(drawn))
    assert float(correlations.abs().max()) < 5 / count**0.5
    assert abs(float(torch.corrcoef(torch.stack([drawn[0][:-1], drawn[0][1:]]))[0, 1])) < 5 / count**0.5


def test_high_counters_use_their_upper_word() -> None:
    far = philox.words(philox.key(0, "w", 0), torch.tensor([1 << 32, 0]))
    assert not torch.equal(far[0], far[1])

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest

from asrlife.methods.online.bank import Bank, Place

BANDS = 4


def sound(level: float, seed: int, spread: float = 0.3) -> np.ndarray:
    return level + spread * np.random.default_rng(seed).standard_normal(BANDS)


def after(bank: Bank, level: float, count: int, seed: int = 0) -> Bank:
    for index in range(count):
        bank = bank.heard(sound(level, 1000 * seed + index), radius=2.0)
    return bank


def test_by_hand() -> None:
    bank = Bank().heard(np.zeros(BANDS), 2.0)
    assert (len(bank.places), bank.now, bank.evidence) == (1, 0, 0.0)
    bank = bank.heard(np.full(BANDS, 1.0), 2.0)  # 1 dB away: inside the radius, p = 1, e = 1/2
    assert bank.here.distances == (1.0,)
    assert bank.evidence == pytest.approx(0.5)
    assert bank.here.floor == pytest.approx((0.5,) * BANDS)
    bank = bank.heard(np.full(BANDS, 10.5), 2.0)  # 10 dB: p = 1/2, e = 1 / (2 sqrt(1/2)), R = 1.5 e
    assert bank.evidence == pytest.approx(1.5 * 0.5 / 0.5**0.5)
    assert bank.here.floor == pytest.approx((0.5,) * BANDS)  # what is strange does not move the place


def test_rank_is_the_share_of_utterances_at_least_as_far() -> None:
    place = Place((0.0,), distances=(1.0, 2.0, 3.0))
    assert [place.rank(distance) for distance in (0.5, 2.0, 2.5, 9.0)] == [1.0, 0.75, 0.5, 0.25]


def test_a_new_sound_is_noticed_within_a_few_utterances_and_an_old_one_found_at_once() -> None:
    bank = after(Bank(), 0.0, 30)
    calm = bank.evidence
    heard = 0
    while bank.evidence < 100:
        bank, heard = bank.heard(sound(15.0, 500 + heard), 2.0), heard + 1
    assert calm < 20
    assert heard <= 6
    bank = bank.opened(sound(15.0, 600), 4)
    assert (bank.here.weights, bank.now, bank.evidence) == (1, 1, 0.0)
    bank = after(bank, 15.0, 5, seed=2)
    assert bank.now == 1
    assert bank.heard(sound(0.0, 700), 2.0).now == 0


@pytest.mark.parametrize("seed", range(3))
def test_false_alarms_are_rarer_than_promised(seed: int) -> None:
    """With no radius, every utterance counts: one alarm in 1 / alpha = 100 utterances at most, on the average."""
    rng, bank, alarms = np.random.default_rng(seed), Bank(), 0
    for _ in range(1500):
        bank = bank.heard(rng.standard_normal(BANDS), radius=0.0)
        if bank.evidence >= 100:
            alarms, bank = alarms + 1, Bank(bank.places, bank.now, 0.0, bank.clock)
    assert alarms <= 15


def test_within_the_radius_nothing_is_evidence() -> None:
    bank = after(Bank(), 0.0, 30)
    for index in range(50):
        bank = bank.heard(np.full(BANDS, 1.0) + sound(0.0, index, 0.1), 2.0)
    assert bank.evidence < 100


def test_the_longest_unheard_place_makes_room() -> None:
    bank = Bank()
    for level in (0.0, 20.0, 40.0):
        bank = bank.heard(np.full(BANDS, level), 2.0) if not bank.places else bank.opened(np.full(BANDS, level), 2)
        bank = after(bank, level, 3)
    assert sorted(round(place.floor[0] / 20) for place in bank.places) == [1, 2]


def test_through_json() -> None:
    bank = after(Bank(), 0.0, 5).opened(np.full(BANDS, 9.0), 4).judged((-0.1, -0.2, -0.3))
    assert Bank.of(json.loads(json.dumps(asdict(bank)))) == bank


def test_what_belongs_to_no_place_calls_nothing_up() -> None:
    bank = after(after(Bank(), 0.0, 20).opened(np.full(BANDS, 20.0), 4), 20.0, 20)
    between = bank.heard(np.full(BANDS, 8.0), 2.0)  # nearer to the first, and like neither
    assert between.now == 1 and between.evidence > 0
    assert bank.heard(np.full(BANDS, 0.5), 2.0).now == 0

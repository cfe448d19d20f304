from __future__ import annotations

import pytest

import asrlife as library
from asrlife.models.text import load_text


def test_json_adds_up(asrlife) -> None:
    ended = asrlife("info", "embedded:ctc", "--json")
    assert ended.code == 0
    document, model = ended.json(), library.load("embedded:ctc")
    assert document["model"] == "embedded:ctc" and document["rate"] == 16_000
    assert document["fingerprint"] == model.fingerprint()
    assert document["parameters"] == sum(parameter.numel() for parameter in model.module.parameters())
    assert set(document["capabilities"]) == model.capabilities
    norms = document["groups"]["norms"]
    assert norms["tensors"] == len(model.select("norms")) and 0 < norms["parameters"] < document["parameters"] / 10
    assert document["state_bytes"]["none"] == 0 < document["state_bytes"]["dsuta"]


def test_state_is_three_vectors_of_the_tuned_weights(asrlife) -> None:
    from asrlife.methods.online import make

    model = library.load("embedded:ctc")
    tuned = make("dsuta", {}, model).start(model)["weights"].numel()
    assert asrlife("info", "embedded:ctc", "--json").json()["state_bytes"]["dsuta"] == 3 * 4 * tuned


def test_the_page_fits_80_columns(asrlife) -> None:
    ended = asrlife("info", "embedded:ctc")
    assert ended.code == 0 and "group norms" in ended.out and "fingerprint" in ended.out
    table = ended.out.partition("\ncard")[0]
    assert max(map(len, table.splitlines())) <= 80


@pytest.mark.parametrize("name", ["embedded:nothing", "no/such/folder", "/etc/hostname"])
def test_an_unknown_model_is_one_line(asrlife, name: str) -> None:
    ended = asrlife("info", name, "--json")
    assert (ended.code, ended.out) == (2, "")
    assert name.rpartition(":")[2] in ended.err and ended.err.count("\n") == 1


def test_every_registered_method_is_listed_with_its_settings(asrlife) -> None:
    from asrlife.methods.online import METHODS, make

    found = {method["name"]: method for method in asrlife("info", "methods", "--json").json()["methods"]}
    assert list(found) == list(METHODS)
    assert all(method["summary"].endswith(".") and "\n" not in method["summary"] for method in found.values())
    assert found["none"]["settings"] == {}
    assert found["dsuta"]["settings"]["buffer"] == make("dsuta").buffer  # type: ignore[attr-defined]


def test_the_list_of_methods_fits_80_columns(asrlife) -> None:
    from asrlife.methods.online import METHODS

    ended = asrlife("info", "methods")
    assert ended.code == 0 and max(map(len, ended.out.splitlines())) <= 80
    assert all(name in ended.out for name in METHODS) and "fast_steps=5" in ended.out


def test_a_language_model_is_told_too(asrlife) -> None:
    document, module = asrlife("info", "embedded:lm", "--json").json(), load_text("embedded:lm").module
    count = sum(parameter.numel() for parameter in module.parameters())
    assert document["model"] == "embedded:lm" and document["parameters"] == document["card"]["parameters"] == count < 2e6
    assert document["layers"] == len(module.model.layers)
    facts = next(row for row in document["card"]["scores"] if row["set"] == "facts")
    assert facts["n"] > 5_000 and facts["value"] >= 0.99
    ended = asrlife("info", "embedded:lm")
    assert ended.code == 0 and f"{count:,}" in ended.out and "state of" not in ended.out

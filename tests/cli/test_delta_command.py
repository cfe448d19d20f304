"""asrlife delta and asrlife merge --expr, on the embedded recognisers and on small files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from asrlife.delta.checkpoint import Checkpoint
from asrlife.delta.delta import Delta, LowRank, between
from asrlife.delta.file import load, save
from asrlife.delta.fingerprint import fingerprint

Run = Callable[..., Any]
NAMES = ("model.layers.0.mlp.up_proj.weight", "model.layers.1.mlp.up_proj.weight", "model.norm.weight")


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Models base, a and b as folders, and the deltas a and b."""
    monkeypatch.chdir(tmp_path)
    models = {}
    for seed, name in enumerate(("base", "a", "b")):
        torch.manual_seed(seed)
        (tmp_path / name).mkdir()
        models[name] = {key: torch.randn(6, 4) if "mlp" in key else torch.randn(4) for key in NAMES}
        save_file(models[name], tmp_path / name / "model.safetensors", metadata={"format": "pt"})
        (tmp_path / name / "config.json").write_text(json.dumps({"model_type": "llama", "tag": name}))
    for name in "ab":
        save(between(models["base"], models[name]), tmp_path / f"{name}.safetensors")
    return tmp_path


def test_diff_then_apply_is_the_tuned_model(asrlife: Run, files: Path) -> None:
    told = asrlife("delta", "diff", "base", "a", "--out", "d.safetensors", "--json").json()
    assert told["tensors"] == 3 and told["norm"] == pytest.approx(load(files / "a.safetensors").norm())
    assert asrlife("delta", "apply", "base", "d.safetensors", "--out", "again").out == "again\n"
    again, wanted = Checkpoint.open(files / "again"), Checkpoint.open(files / "a")
    assert all(torch.allclose(again[name], wanted[name], rtol=0, atol=1e-6) for name in wanted)
    assert json.loads((files / "again" / "config.json").read_text())["tag"] == "base"
    assert json.loads((files / "again" / "merge_card.json").read_text())["deltas"] == ["d.safetensors"]
    ended = asrlife("delta", "apply", "base", "d.safetensors", "--out", "again")
    assert ended.code == 2 and "is there already" in ended.err


def test_the_algebra_of_the_command_line(asrlife: Run, files: Path) -> None:
    a, b = (load(files / f"{name}.safetensors") for name in "ab")
    for arguments, wanted in (
        (("add", "a.safetensors", "b.safetensors"), a + b),
        (("add", "a.safetensors", "b.safetensors", "--weight", "2", "--weight", "-0.5"), 2 * a - 0.5 * b),
        (("scale", "a.safetensors", "0.25"), 0.25 * a),
        (("negate", "a.safetensors"), -a),
        (("analogy", "a.safetensors", "b.safetensors", "a.safetensors"), b),
        (("restrict", "a.safetensors", "--role", "norm"), a.restrict(roles=["norm"])),
        (("restrict", "a.safetensors", "--layers", "1", "--match", "up_proj"), a.restrict("1.mlp")),
        (("restrict", "a.safetensors", "--without-role", "norm"), a.restrict("mlp")),
    ):
        assert asrlife("delta", *arguments, "--out", "out.safetensors").code == 0
        found = load(files / "out.safetensors")
        assert set(found.tensors) == set(wanted.tensors) and (found - wanted).norm() < 1e-5
    ended = asrlife("delta", "scale", "a.safetensors", "--out", "out.safetensors", "--", "-0.3")
    assert ended.code == 0 and (load(files / "out.safetensors") + 0.3 * a).norm() < 1e-6


def test_low_rank_stays_so_and_goes_to_peft_and_back(asrlife: Run, files: Path) -> None:
    base = Checkpoint.open(files / "base")
    for seed, name in enumerate("pq"):
        torch.manual_seed(seed)
        changes = {key: LowRank(torch.randn(6, 1), torch.randn(1, 4)) for key in NAMES[:2]}
        save(Delta(fingerprint(base), changes), files / f"{name}.safetensors")
    assert asrlife("delta", "add", "p.safetensors", "q.safetensors", "--out", "s.safetensors", "--json").json()["low_rank"] == 2
    assert asrlife("delta", "add", "s.safetensors", "s.safetensors", "--compress", "--out", "t.safetensors").code == 0
    assert load(files / "t.safetensors").tensors[NAMES[0]].rank == 2  # type: ignore[union-attr]
    assert asrlife("delta", "add", "s.safetensors", "--rank", "1", "--out", "u.safetensors").code == 0
    assert load(files / "u.safetensors").tensors[NAMES[0]].rank == 1  # type: ignore[union-attr]
    assert (
        asrlife("delta", "add", "p.safetensors", "q.safetensors", "--knots", "linear", "--out", "k.safetensors", "--json").json()[
            "low_rank"
        ]
        == 2
    )
    mean = 0.5 * load(files / "s.safetensors")
    assert (load(files / "k.safetensors") - mean).norm() < 1e-5  # linear divides by the weights
    ended = asrlife("delta", "add", "a.safetensors", "b.safetensors", "--knots", "ties", "--out", "no.safetensors")
    assert ended.code == 2 and "is dense in one delta" in ended.err
    assert asrlife("delta", "export", "s.safetensors", "base", "--out", "adapter", "--json").json()["modules"] == 2
    assert asrlife("delta", "import", "adapter", "base", "--out", "back.safetensors").code == 0
    assert (load(files / "back.safetensors") - load(files / "s.safetensors")).norm() == 0.0
    ended = asrlife("delta", "export", "a.safetensors", "base", "--out", "no")
    assert ended.code == 2 and "has no factors" in ended.err
    ended = asrlife("delta", "show", "adapter")
    assert ended.code == 2 and "asrlife delta import" in ended.err


def test_a_delta_of_another_base_is_carried_over_only_when_told(asrlife: Run, files: Path) -> None:
    ended = asrlife("delta", "apply", "b", "a.safetensors", "--out", "moved")
    assert ended.code == 2 and "--any-base" in ended.err and not (files / "moved").exists()
    assert asrlife("delta", "apply", "b", "a.safetensors", "--any-base", "--scale", "0.5", "--out", "moved").code == 0
    b, delta, moved = Checkpoint.open(files / "b"), load(files / "a.safetensors"), Checkpoint.open(files / "moved")
    assert all(torch.equal(moved[name], b[name] + 0.5 * delta.tensors[name].dense()) for name in NAMES)


def test_show_and_compare(asrlife: Run, files: Path) -> None:
    shown = asrlife("delta", "show", "a.safetensors", "--base", "base", "--with", "b.safetensors", "--picture", "a.png")
    assert shown.code == 0 and (files / "a.png").read_bytes().startswith(b"\x89PNG")
    heading, *rows = shown.out.splitlines()
    assert heading.split() == ["layer", "role", "tensors", "norm", "share", "rms", "moved", "cosine"]
    assert [row.split()[:3] for row in rows[:3]] == [["decoder", "norm", "1"], ["decoder", "0", "decoder"], ["decoder", "1", "decoder"]]
    told = asrlife("delta", "show", "a.safetensors", "--json").json()
    assert sum(cell["share"] for cell in told["cells"]) == pytest.approx(1.0) and told["norm"] > 0
    assert "cosine" in asrlife("delta", "compare", "a.safetensors", "b.safetensors").out
    pair = asrlife("delta", "compare", "a.safetensors", "b.safetensors", "--json").json()["pairs"][0]
    a, b = load(files / "a.safetensors"), load(files / "b.safetensors")
    assert pair["cosine"] == pytest.approx(a.cosine(b)) and pair["overlap"] == 1.0 and 0 < pair["conflict"] < 1
    assert asrlife("delta", "compare", "a.safetensors").code == 2


def test_an_expression_makes_a_model(asrlife: Run, files: Path) -> None:
    told = asrlife("merge", "--expr", "base + 0.4 * (x - b)", "x=a", "--out", "out", "--json").json()
    assert told["coefficients"] == {"base": 1.0, "x": 0.4, "b": -0.4} and told["moved"] == 3
    base, a, b, out = (Checkpoint.open(files / name) for name in ("base", "a", "b", "out"))
    assert all(torch.equal(out[name], base[name] + 0.4 * (a[name] - b[name])) for name in NAMES)
    card = json.loads((files / "out" / "merge_card.json").read_text())
    assert card["expression"] == "base + 0.4 * (x - b)" and card["models"]["x"] == "a"
    asrlife("merge", "--expr", "base + 2 * d", "d=b.safetensors", "--role", "norm", "--dtype", "bfloat16", "--out", "norms")
    norms, delta = Checkpoint.open(files / "norms"), load(files / "b.safetensors").tensors
    assert torch.equal(norms[NAMES[2]], (base[NAMES[2]] + 2 * delta[NAMES[2]].dense()).bfloat16())
    assert torch.equal(norms[NAMES[0]], base[NAMES[0]].bfloat16())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("merge",), "give --expr"),
        (("merge", "--expr", "base"), "--out"),
        (("merge", "--expr", "base + a", "--out", "o"), "count 2 times"),
        (("merge", "--expr", "base * a", "--out", "o"), "multiplies models"),
        (("merge", "--expr", "base + d", "--out", "o"), "there is no d"),
        (("merge", "--expr", "base", "x=a", "--out", "o"), "'x' is not in 'base'"),
        (("merge", "--expr", "base", "--out", "o", "--dtype", "int8"), "unknown dtype 'int8'"),
        (("merge", "--expr", "base", "--out", "o", "--accumulate", "bfloat16"), "float32 or float64"),
        (("merge", "--expr", "base", "--out", "o", "--role", "ears"), "no role 'ears'"),
        (("merge", "--expr", "base", "--out", "o", "--match", "nothing"), "leave no tensor"),
        (("merge", "--expr", "base", "--out", "o", "--layers", "x"), "write N-M"),
        (("merge", "--expr", "x", "x=embedded:nothing", "--out", "o"), "there is no embedded:nothing"),
        (("delta", "add", "a.safetensors", "--weight", "1", "--weight", "2", "--out", "o.safetensors"), "1 deltas and 2 weights"),
        (("delta", "add", "base", "--out", "o.safetensors"), "is a model, not a delta file"),
        (("delta", "diff", "base", "a", "--out", "o"), "ends in .safetensors"),
        (("delta", "diff", "base", "embedded:ctc", "--out", "o.safetensors"), "lacks"),
        (("delta", "negate", "none.safetensors", "--out", "o.safetensors"), "cannot be read"),
        (("delta", "show", "a.safetensors", "--base", "a.safetensors"), "is a delta, not a checkpoint"),
    ],
)
def test_what_is_refused(asrlife: Run, files: Path, arguments: tuple[str, ...], message: str) -> None:
    before = sorted(path.name for path in files.iterdir())
    ended = asrlife(*arguments)
    assert ended.code == 2 and message in ended.err and ended.err.count("\n") == 1, ended.err
    assert sorted(path.name for path in files.iterdir()) == before


@pytest.mark.parametrize(
    "command", ["diff", "apply", "add", "scale", "negate", "analogy", "restrict", "import", "export", "show", "compare"]
)
def test_every_command_teaches(asrlife: Run, command: str) -> None:
    text = asrlife("delta", command, "--help").out
    assert f"Example: asrlife delta {command}" in " ".join(text.split())


def test_embedded_recognisers_merge_and_still_hear(asrlife: Run, tmp_path: Path, speech: list[Path]) -> None:
    out = tmp_path / "merged"
    assert asrlife("merge", "--expr", "ctc + 0.05 * (tts - ctc)", "ctc=embedded:ctc", "tts=embedded:ctc-tts", "--out", out).code == 0
    heard = asrlife("transcribe", speech[0], "--model", out, "--adapt", "none")
    assert heard.code == 0 and "turn on the" in heard.out

"""What goes with merged weights: configuration, processor, tokenizer and chat template, as far as they are still true."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from asrlife.delta.checkpoint import Checkpoint
from asrlife.errors import InputError
from asrlife.methods.merge.config import MergeConfig
from asrlife.methods.merge.layout import layers
from asrlife.methods.merge.plan import Plan

TOKENIZER = (
    "tokenizer*",
    "vocab.*",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "*.model",
    "*.tiktoken",
    "chat_template*",
)
LAYERS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers", "encoder_layers", "decoder_layers")
TEMPLATE = "chat_template.jinja"


def companions(plan: Plan) -> tuple[list[Path], dict[str, str]]:
    """Files to copy and texts to write beside the weights, by name; InputError for tokenizer options that cannot be honoured."""
    files = {path.name: path for path in plan.models[plan.donor].carried()}
    spelling = getattr(plan.models[plan.donor], "spelling", None)
    source = speller_of(plan.config, plan.models)
    texts = {} if spelling is None else dict(spelling.texts)
    if source is not None:
        speller = plan.donor if source in {"union", "base"} else source
        files = {name: path for name, path in files.items() if not _of_tokenizer(path)}
        files |= {path.name: path for path in plan.models[speller].carried() if _of_tokenizer(path) and spelling is None}
    if "config.json" in files:
        texts["config.json"] = _config(plan, None if spelling is None else spelling.size)
    template = _template(plan)
    if template is not None:
        texts[TEMPLATE] = template
        files.pop("chat_template.json", None)
        if "tokenizer_config.json" in {**files, **texts}:
            told = texts.get("tokenizer_config.json")
            texts["tokenizer_config.json"] = _without_template(_json(files["tokenizer_config.json"]) if told is None else json.loads(told))
    return list(files.values()), texts


def _of_tokenizer(path: Path) -> bool:
    return any(path.match(pattern) for pattern in TOKENIZER)


def speller_of(config: MergeConfig, models: Mapping[str, Checkpoint]) -> str | None:
    """Whose tokenizer is asked for: "union", "base" or a model; None where the donor's files are meant. InputError for anything else."""
    source = config.tokenizer.source if config.tokenizer else config.tokenizer_source
    if source is not None and source not in {"union", "base", *models}:
        raise InputError(f"tokenizer source {source!r} is none of the models: give union, base, or one of {', '.join(models)}")
    if source == "base" and config.base_model is None:
        raise InputError("tokenizer source base needs base_model")
    return source


def vocabulary(folder: Path) -> Any:
    """The tokens by their numbers, or None where no file says."""
    for name in ("tokenizer.json", "vocab.json"):
        if (folder / name).is_file():
            read = _json(folder / name)
            model = read.get("model", {}).get("vocab", {}) if name == "tokenizer.json" else read
            return [model, [(token.get("id"), token.get("content")) for token in read.get("added_tokens", [])] if "model" in read else []]
    return None


def _config(plan: Plan, rows: int | None) -> str:
    """config.json with the dtype, the numbers of layers and, where it has changed, of tokens of the result."""
    found: dict[str, Any] = dict(plan.models[plan.donor].config)
    dtype = plan.config.out_dtype or plan.config.dtype
    if dtype:
        # transformers 5 writes dtype, 4 torch_dtype; both read either
        found["torch_dtype" if "torch_dtype" in found else "dtype"] = dtype
    if rows is not None:
        found["vocab_size"] = rows
    for part, origins in layers(plan.rows).items():
        _restack(found, part, origins, plan.models)
    return json.dumps(found, indent=2, ensure_ascii=False)


def _restack(config: dict[str, Any], part: str, origins: list[tuple[str, int]], models: Mapping[str, Checkpoint]) -> None:
    """Set what counts the layers of a stack, and lists that say something of each of them."""
    keys = [key for key in LAYERS if key in config and (not key.endswith("coder_layers") or key.startswith(part))]
    # Whisper's num_hidden_layers counts its encoder
    keys = [key for key in keys if part != "decoder" or "encoder_layers" not in config or key.startswith("decoder")]
    for key in keys if part != "conv" else ():
        before = config[key]
        if before == len(origins):
            continue
        for name in [name for name, value in config.items() if isinstance(value, list) and len(value) == before]:
            tables = [models[model].config.get(name) for model, _ in origins]
            config[name] = [table[layer] for table, (_, layer) in zip(tables, origins, strict=True) if table]
        config[key] = len(origins)


def _template(plan: Plan) -> str | None:
    wanted = plan.config.chat_template
    if wanted is None:
        return None
    if wanted == "auto":
        found = Counter(filter(None, (_own_template(checkpoint.folder) for checkpoint in plan.models.values())))
        return found.most_common(1)[0][0] if found else None
    if "{" not in wanted:
        raise InputError(f"chat_template {wanted!r} is not supported: give 'auto' or the text of a template")
    return wanted


def _own_template(folder: Path) -> str | None:
    if (folder / TEMPLATE).is_file():
        return (folder / TEMPLATE).read_text(encoding="utf-8").strip()
    for name in ("chat_template.json", "tokenizer_config.json"):
        found = _json(folder / name).get("chat_template") if (folder / name).is_file() else None
        if isinstance(found, str):
            return found.strip()
    return None


def _without_template(told: Mapping[str, Any]) -> str:
    return json.dumps({key: value for key, value in told.items() if key != "chat_template"}, indent=2, ensure_ascii=False)


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} does not read ({error}): copy or download it again") from error
    return found if isinstance(found, dict) else {}

"""Online methods by name, with their settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from asrlife.errors import InputError
from asrlife.methods.online.auto import Auto
from asrlife.methods.online.awmc import Awmc
from asrlife.methods.online.cea import Cea
from asrlife.methods.online.dsuta import Dsuta
from asrlife.methods.online.ebats import Ebats
from asrlife.methods.online.method import Method
from asrlife.methods.online.pretext import Pretext
from asrlife.methods.online.retrieval import Retrieval
from asrlife.methods.online.sar import Sar
from asrlife.methods.online.sgem import Sgem
from asrlife.methods.online.suta import Csuta, Suta
from asrlife.methods.online.tent import Tent
from asrlife.methods.online.unadapted import Unadapted
from asrlife.methods.settings import nearest, typed
from asrlife.models.handle import Recogniser

METHODS: Mapping[str, type[Any]] = {
    kind.name: kind for kind in (Unadapted, Tent, Sar, Suta, Cea, Sgem, Csuta, Awmc, Dsuta, Ebats, Retrieval, Pretext, Auto)
}

DEFAULT = "default"


def make(name: str, settings: Mapping[str, Any] | None = None, model: Recogniser | None = None) -> Method:
    """The method `name`: the paper's settings, over them those in the model's card ("adaptation": {name: {...}}), over them `settings`.

    Settings may be text, as from a command line. An unknown name or key raises InputError with the nearest one, a value outside its
    limits one that states them.
    """
    if name not in METHODS:
        raise InputError(f"unknown method {name!r}; {nearest(name, METHODS)}")
    kind = METHODS[name]
    chosen = model.card.get("adaptation", {}).get(name, {}) if model is not None else {}
    return kind(**{**typed(kind, chosen, f"{name} in the model's card"), **typed(kind, settings or {}, name)})


def recommended(name: str, model: Recogniser) -> str:
    """The method's name, "default" being the one that the model's card says it has earned ("adapt"), or none."""
    return str(model.card.get("adapt", "none")) if name == DEFAULT else name

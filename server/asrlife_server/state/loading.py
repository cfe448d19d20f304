"""What a stream starts from: the newest version of an address, if it is sound and meant for this stream."""

from __future__ import annotations

from dataclasses import dataclass, replace

from asrlife.errors import InputError
from asrlife.methods.online.restore import fit, restored
from asrlife.methods.online.state import State
from asrlife_server.refusal import Refusal, about
from asrlife_server.state.entry import NOTHING, Address, Entry, Mark, Store, checksum, settings_text
from asrlife_server.state.residents import Draft, Resident


@dataclass(frozen=True, eq=False)
class Ask:
    """What a stream wants of an address.

    `start` is the method's state before any utterance; `after` the utterance behind which a session is to be taken up, None where the
    client says nothing. `cap` bounds the distance of weights to the base.
    """

    address: Address
    session: str
    method: str
    settings: dict[str, str]
    start: State
    writes: bool
    exclusive: bool = False
    after: int | None = None
    cap: float | None = None

    def entry(self, version: int = 0) -> Entry:
        """What a version of this stream says of itself before its first utterance."""
        return Entry(version, "", 0, self.start.base, self.method, settings_text(self.settings), session=self.session)


@dataclass(frozen=True, eq=False)
class Loaded:
    """Where a stream starts.

    `restored` is None where there was nothing to load, False, for `reason`, where it could not be used. `utterance` is the last committed
    one of the session, -1 for none; `mark` what the store holds.
    """

    draft: Draft
    mark: Mark
    restored: bool | None = None
    reason: str = ""
    utterance: int = -1


def load(store: Store, ask: Ask, known: Resident) -> Loaded:
    """Read, check, and quarantine what is damaged; raises Refusal where the client asked for what cannot be, StoreError as stores do."""
    history = store.history(ask.address)
    if not history:
        return _unwritten(ask, known)
    newest, done = history[0], _utterance(ask, history)
    if known.draft is not None and known.mark == newest.mark and (ask.after is None or ask.after >= done):
        return resident(ask, known, done)
    wanted = _wanted(ask, history, done)
    clean = replace(_clean(ask, newest.version + 1), mark=newest.mark, utterance=done)
    if newest.quarantined:
        return replace(clean, restored=False, reason=f"version {newest.version} is in quarantine ({newest.quarantined})")
    if not newest.method:
        return clean
    if wanted is None:
        return replace(clean, restored=False, reason=f"drift {newest.drift:.3g} is above the cap {ask.cap:g}, as in every version")
    _check_method(ask, wanted)
    return _read(store, ask, wanted, clean)


def unread(ask: Ask, known: Resident, reason: str) -> Loaded:
    """Where a stream starts while the store cannot be read: from what is in memory, or clean."""
    if known.draft is not None:
        return resident(ask, known, -1 if known.draft.entry.session != ask.session else known.draft.entry.utterance)
    if ask.after is not None:
        raise about("UNAVAILABLE", "config.resume_after_utterance", f"the session cannot be read now ({reason}); try again")
    return replace(_clean(ask, 0), restored=False, reason=reason)


def resident(ask: Ask, known: Resident, utterance: int) -> Loaded:
    """Start from the state in memory, which may be ahead of the store."""
    draft = known.draft
    assert draft is not None
    _check_method(ask, draft.entry)
    try:
        fit(draft.state, ask.start)
    except InputError as error:
        raise _other_settings(ask, draft.entry, str(error)) from None
    mine = draft.entry.session == ask.session
    return Loaded(draft, known.mark, True, utterance=draft.entry.utterance if mine else utterance)


def _clean(ask: Ask, version: int) -> Loaded:
    return Loaded(Draft(ask.start, ask.start, ask.entry(version)), NOTHING)


def _unwritten(ask: Ask, known: Resident) -> Loaded:
    if known.dirty:
        return resident(ask, known, -1)
    if ask.after is not None:
        raise about("NOT_FOUND", "config.session_id", f"{ask.session!r} has nothing committed, is finished or has expired; open a new one")
    return _clean(ask, 0)


def _utterance(ask: Ask, history: tuple[Entry, ...]) -> int:
    """The last committed utterance of the session."""
    own = [entry.utterance for entry in history if entry.session == ask.session]
    if not own and ask.after is not None:
        raise about("NOT_FOUND", "config.session_id", f"{ask.session!r} has nothing committed here; open a new session")
    return max(own, default=-1)


def _wanted(ask: Ask, history: tuple[Entry, ...], done: int) -> Entry | None:
    """The version to start from: the newest one within the cap, or, to take a session up earlier, the newest one of that utterance."""
    if ask.after is None or ask.after >= done:
        sound = [entry for entry in history if not entry.quarantined and entry.method]
        return next((entry for entry in sound if ask.cap is None or entry.drift <= ask.cap), None)
    own = [entry for entry in history if entry.session == ask.session]
    found = next((entry for entry in own if entry.utterance <= ask.after and not entry.quarantined), None)
    if found is None or any(entry.session != ask.session for entry in history if entry.version > found.version):
        least = min((entry.utterance for entry in own), default=done)
        raise about("OUT_OF_RANGE", "config.resume_after_utterance", f"{ask.after}; the state can be had after {least} to {done}")
    return found


def _check_method(ask: Ask, entry: Entry) -> None:
    if entry.method not in (ask.method, ""):
        raise about(
            "FAILED_PRECONDITION",
            "config.adaptation.method",
            f"{ask.method!r}, but {ask.address.key!r} holds a state of {entry.method!r}; ask for that method, or reset the key",
        )


def _read(store: Store, ask: Ask, wanted: Entry, clean: Loaded) -> Loaded:
    found = store.get(ask.address, wanted.version)
    reason = _damage(ask, wanted, b"" if found is None else found[1])
    if reason:
        store.quarantine(ask.address, wanted.version, reason)
        return replace(clean, restored=False, reason=f"version {wanted.version} was put in quarantine ({reason})")
    assert found is not None
    state = restored(found[1], ask.start)
    whole = wanted.mark == clean.mark
    entry = replace(ask.entry(wanted.version if whole else clean.mark.version + 1), steps=wanted.steps)
    mine = wanted.session == ask.session
    # a session that goes back in its own history is done up to there
    utterance = wanted.utterance if mine and not whole and ask.after is not None else clean.utterance
    return Loaded(Draft(state, ask.start, replace(entry, utterance=utterance)), clean.mark, True, utterance=utterance)


def _damage(ask: Ask, wanted: Entry, blob: bytes) -> str:
    """Why a version must never be loaded, "" where it is sound; raises Refusal where it is sound and only the client's settings differ."""
    if wanted.base != ask.start.base:
        return f"base_hash: it belongs to model {wanted.base[:12]}, this server runs {ask.start.base[:12]}"
    if checksum(blob) != wanted.checksum:
        return "checksum: the bytes are not those that were written"
    try:
        restored(blob, ask.start)
    except InputError as error:
        if wanted.settings_map() != ask.settings and not str(error).startswith("NaN"):
            raise _other_settings(ask, wanted, str(error)) from None
        return str(error)
    return ""


def _other_settings(ask: Ask, entry: Entry, fault: str) -> Refusal:
    kept = entry.settings_map()
    names = sorted(name for name in {**kept, **ask.settings} if kept.get(name) != ask.settings.get(name))
    told = ", ".join(f"{name}={kept.get(name)}" for name in names) or "others"
    return about(
        "FAILED_PRECONDITION", "config.adaptation.settings", f"{ask.address.key!r} was made with {told} ({fault}); ask for the same"
    )

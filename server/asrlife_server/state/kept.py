"""One stream's adaptation state between its session and the store, and what the client is told of it."""

from __future__ import annotations

from dataclasses import replace

from asrlife.v1 import asrlife_pb2 as pb
from asrlife_server import wire
from asrlife_server.refusal import about, invalid
from asrlife_server.session import Session
from asrlife_server.state.entry import SESSION, Address
from asrlife_server.state.keeper import Claim, Keeper, Outcome
from asrlife_server.state.loading import Ask
from asrlife_server.state.residents import Draft
from asrlife_server.work import Messages


def asked(session: Session, tenant: str, cap: float | None) -> Ask | None:
    """What a stream wants of the store, None where it is nothing."""
    config, adaptation = session.opening.config, session.opening.config.adaptation
    if adaptation.persist == pb.Adaptation.NONE and not adaptation.adaptation_key:
        return None
    if adaptation.adaptation_key and not getattr(session.state, "vectors", None):
        raise invalid("config.adaptation.adaptation_key", f"method {adaptation.method!r} carries nothing from utterance to utterance")
    return Ask(
        address=Address(tenant, adaptation.adaptation_key or SESSION + session.name),
        session=session.name,
        method=adaptation.method,
        settings=dict(adaptation.settings),
        start=session.state,
        writes=adaptation.persist != pb.Adaptation.NONE and not adaptation.read_only,
        exclusive=adaptation.exclusive,
        after=config.resume_after_utterance if config.HasField("resume_after_utterance") else None,
        cap=cap,
    )


class Kept:
    """Keeps the state of one session; `save` after each utterance, `release` whatever ended the stream."""

    def __init__(self, keeper: Keeper, claim: Claim) -> None:
        self._keeper = keeper
        self._claim = claim
        self._steps = claim.loaded.draft.entry.steps  # that others have taken before this stream
        self._utterance = claim.loaded.utterance
        self._told = ""  # why nothing more is kept, once the client knows
        self._finished = False

    def apply(self, session: Session) -> None:
        """Let the session start from what was loaded, and echo what is in force."""
        loaded, config = self._claim.loaded, session.opening.config
        session.adopt(loaded.draft.state, loaded.draft.entry.version, loaded.utterance + 1)
        session.drift_cap = self._claim.ask.cap
        if config.adaptation.persist == pb.Adaptation.KEY and not self._claim.writes:
            config.adaptation.read_only = True
        session.read_only = config.adaptation.read_only
        if loaded.utterance >= 0:
            config.resume_after_utterance = loaded.utterance
        else:
            config.ClearField("resume_after_utterance")

    def greeting(self) -> Messages:
        """What became of the state that was there."""
        loaded = self._claim.loaded
        if loaded.restored is None:
            return []
        told = pb.AdaptationEvent(kind=pb.AdaptationEvent.RESTORED, state_version=loaded.draft.entry.version, reason=loaded.reason)
        told.restored = loaded.restored
        told.utterance_index = loaded.utterance + 1
        return [pb.StreamingResponse(adaptation_event=told)]

    async def save(self, session: Session, utterance: int) -> Messages:
        """Keep what is committed after `utterance`; what cannot be kept is said, and the stream goes on."""
        self._utterance = max(utterance, self._utterance)
        if not self._claim.writes or self._told:
            return []
        outcome = await self._keeper.commit(self._claim, self._draft(session))
        return self._said(outcome, session)

    async def finish(self, session: Session, well: bool) -> Messages:
        """The last attempt for what is not durable yet: no more comes. A session that ended `well` is forgotten upon release."""
        self._finished = well
        if not self._claim.writes or self._told:
            return []
        outcome = await self._keeper.flush(self._claim)
        return [] if outcome is None else self._said(outcome, session)

    def release(self) -> None:
        """Let others have the state."""
        self._keeper.release(self._claim, self._finished)

    def _draft(self, session: Session) -> Draft:
        entry = replace(self._claim.ask.entry(session.version), steps=self._steps + session.totals.steps, utterance=self._utterance)
        return Draft(session.state, self._claim.ask.start, entry)

    def _said(self, outcome: Outcome, session: Session) -> Messages:
        kind = pb.AdaptationEvent.PERSISTED if outcome.kind == "persisted" else pb.AdaptationEvent.PERSIST_FAILED
        told = pb.AdaptationEvent(kind=kind, utterance_index=max(self._utterance, 0), state_version=session.version, reason=outcome.reason)
        messages = [pb.StreamingResponse(adaptation_event=told)]
        if outcome.kind == "persisted":
            return messages
        if outcome.kind == "lost":
            self._told = outcome.reason
            if self._claim.ask.exclusive:
                raise about("ABORTED", "config.adaptation.exclusive", outcome.reason)
        how = "it is tried again" if outcome.kind == "failed" else "this stream goes on in memory and keeps nothing more"
        return [*messages, wire.warning("PERSIST_FAILED", "config.adaptation.persist", f"{outcome.reason}; {how}")]

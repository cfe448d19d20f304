"""The first message of a stream: what it asks for, checked, and what is in force."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from asrlife.errors import InputError
from asrlife.v1 import asrlife_pb2 as pb
from asrlife_server.config import ServerConfig
from asrlife_server.container import FINEST, HIGHEST, LOWEST, Container
from asrlife_server.endpointing import Rules
from asrlife_server.fields import check
from asrlife_server.patience import check_waits
from asrlife_server.refusal import Refusal, invalid
from asrlife_server.sound import LISTENING_RATE, Decoder, Raw, alaw, finest, float32, mulaw, pcm16

Make = Callable[[str, Mapping[str, Any], Any], Any]  # asrlife.methods.online.make

ENCODINGS: Mapping[pb.Encoding.ValueType, Callable[[int], Decoder]] = {  # made with the rate that the client names
    pb.PCM16: lambda _: pcm16(),
    pb.FLOAT32: lambda _: float32(),
    pb.MULAW: lambda _: mulaw(),
    pb.ALAW: lambda _: alaw(),
    pb.CONTAINER: Container,
}
_IDENTIFIER = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_NAME = re.compile(r"[A-Za-z0-9._-]{1,128}")  # of keys and sessions
_SETTINGS, _SETTING_LENGTH = 64, 256
_INTERVAL_MS, _LEAST_INTERVAL_MS = 300, 40
_MOST_ALTERNATIVES = 10


@dataclass(frozen=True)
class Opening:
    """What one stream runs with; `config` is the echo of every value in force, `narrowband` whether such sound is learnt from."""

    config: pb.StreamingConfig
    rate: int
    decoder: Decoder
    external: bool
    rules: Rules
    interval_ms: int | None
    method: Any
    narrowband: bool = False

    @property
    def deaf(self) -> bool:
        """Whether sound is only put away as it comes: the client says where utterances end, and nothing is compressed."""
        return self.external and isinstance(self.decoder, Raw)

    @property
    def interval(self) -> int | None:
        """Least samples between interim results; None where there are none."""
        return None if self.interval_ms is None else self.interval_ms * self.rate // 1000


def opened_with(request: pb.StreamingRequest, server: ServerConfig, model: Any, make: Make) -> Opening:
    """Check the first message; raises Refusal naming the field that is wrong."""
    if request.WhichOneof("request") != "config":
        raise invalid("config", "the first message of a stream must be `config`")
    check(request)
    config = pb.StreamingConfig()
    config.CopyFrom(request.config)
    decoder = _settle_audio(config)
    _settle_model(config, model)
    _settle_results(config, model)
    rules = _settle_endpointing(config, server)
    method = settle_method(config.adaptation, server, model, make)
    settle_keeping(config)
    return Opening(
        config=config,
        rate=config.sample_rate_hz,
        decoder=decoder,
        external=config.endpointing.mode == pb.Endpointing.EXTERNAL,
        rules=rules,
        interval_ms=config.interim.min_interval_ms if config.interim.enable else None,
        method=method,
        narrowband=server.adaptation.narrowband,
    )


def _settle_audio(config: pb.StreamingConfig) -> Decoder:
    if config.encoding not in ENCODINGS:
        known = ", ".join(pb.Encoding.Name(each) for each in ENCODINGS)
        named = pb.Encoding.Name(config.encoding) if config.encoding in pb.Encoding.values() else config.encoding
        raise invalid("config.encoding", f"{named} is not supported; use one of {known}")
    decoder = ENCODINGS[config.encoding](config.sample_rate_hz)
    if config.encoding == pb.CONTAINER and not config.sample_rate_hz:
        config.sample_rate_hz = LISTENING_RATE
    rate = config.sample_rate_hz
    if not LOWEST <= rate <= HIGHEST:
        raise invalid("config.sample_rate_hz", f"{rate} is not within {LOWEST}..{HIGHEST} Hz")
    if finest(rate) > FINEST:
        raise invalid("config.sample_rate_hz", f"{rate} is not a multiple of 25 Hz; resample to 16000 Hz")
    if config.channels > 1:
        raise invalid("config.channels", f"{config.channels} channels; mix to one")
    config.channels = 1
    return decoder


def language(model: Any) -> str:
    """The language a model hears, from its card; English where the card is silent."""
    return str(model.card.get("language") or "en")


def _settle_model(config: pb.StreamingConfig, model: Any) -> None:
    spoken = language(model)
    if config.language and config.language.split("-")[0].lower() != spoken.split("-")[0].lower():
        raise invalid("config.language", f"{config.language[:40]!r} is not served; this server hears {spoken!r}")
    if config.model and config.model != model.name:
        text = f"config.model: {config.model[:80]!r} is not served; this server has {model.name!r}"
        raise Refusal("NOT_FOUND", text, field="config.model")
    config.language, config.model = spoken, model.name


def _settle_results(config: pb.StreamingConfig, model: Any) -> None:
    if config.max_alternatives > _MOST_ALTERNATIVES:
        raise invalid("config.max_alternatives", f"{config.max_alternatives} is above {_MOST_ALTERNATIVES}")
    if config.max_alternatives > 1 and "alternatives" not in model.capabilities:
        raise invalid("config.max_alternatives", f"{config.max_alternatives}; {model.name} gives one")
    config.max_alternatives = config.max_alternatives or 1
    if config.request_id and not _IDENTIFIER.fullmatch(config.request_id):
        raise invalid("config.request_id", "use 1 to 128 of A-Z a-z 0-9 . _ : -")
    interim = config.interim
    if interim.HasField("min_interval_ms"):
        if not interim.enable:
            raise invalid("config.interim.min_interval_ms", "set config.interim.enable as well")
        if interim.min_interval_ms < _LEAST_INTERVAL_MS:
            raise invalid("config.interim.min_interval_ms", f"{interim.min_interval_ms} is below {_LEAST_INTERVAL_MS} ms")
    elif interim.enable:
        interim.min_interval_ms = _INTERVAL_MS


def _settle_endpointing(config: pb.StreamingConfig, server: ServerConfig) -> Rules:
    asked, default = config.endpointing, server.endpointing
    if asked.mode not in pb.Endpointing.Mode.values():
        raise invalid("config.endpointing.mode", f"{asked.mode} is no mode; use SERVER or EXTERNAL")
    check_waits(config)
    longest = _within(asked, "max_utterance_ms", server.limits.utterance_ms, (500, server.limits.utterance_ms))
    if asked.mode == pb.Endpointing.EXTERNAL:
        _refuse_listening(config)
        asked.max_utterance_ms = longest
        return Rules(longest_ms=longest)
    asked.start_ms = _within(asked, "start_ms", default.start_ms, (32, 2000))
    asked.stop_ms = _within(asked, "stop_ms", default.stop_ms, (64, 10_000))
    asked.threshold = _within(asked, "threshold", default.threshold, (0.05, 0.95))
    asked.max_utterance_ms = longest
    eou = _within(asked, "stop_eou_ms", 0, (32, asked.stop_ms - 1)) if asked.HasField("stop_eou_ms") else 0
    return Rules(asked.start_ms, asked.stop_ms, longest, asked.threshold, default.pre_roll_ms, default.post_roll_ms, eou)


def _refuse_listening(config: pb.StreamingConfig) -> None:
    for name in ("start_ms", "stop_ms", "stop_eou_ms", "threshold"):
        if config.endpointing.HasField(name):
            raise invalid(f"config.endpointing.{name}", "has no meaning with mode EXTERNAL; leave it unset or use SERVER")
    if config.vad_events:
        raise invalid("config.vad_events", "needs config.endpointing.mode SERVER")


def _within(asked: Any, name: str, default: Any, borders: tuple[float, float]) -> Any:
    value = getattr(asked, name) if asked.HasField(name) else default
    if not borders[0] <= value <= borders[1]:
        raise invalid(f"config.endpointing.{name}", f"{value} is not within {borders[0]}..{borders[1]}")
    return value


def settle_keeping(config: pb.StreamingConfig) -> None:
    """Check what outlives the stream, under which name, and who may change it."""
    asked, key = config.adaptation, config.adaptation.adaptation_key
    if asked.persist not in pb.Adaptation.Persist.values():
        raise invalid("config.adaptation.persist", f"{asked.persist} is unknown; use NONE, SESSION or KEY")
    if key:
        check_name("config.adaptation.adaptation_key", key)
    if bool(key) < (asked.persist == pb.Adaptation.KEY):
        raise invalid("config.adaptation.persist", "KEY needs config.adaptation.adaptation_key")
    if key and asked.persist == pb.Adaptation.SESSION:
        raise invalid("config.adaptation.adaptation_key", "has no meaning with persist SESSION; use KEY, or leave the key unset")
    if asked.read_only and not key:
        raise invalid("config.adaptation.read_only", "has no meaning without config.adaptation.adaptation_key")
    if asked.exclusive and (asked.read_only or asked.persist != pb.Adaptation.KEY):
        raise invalid("config.adaptation.exclusive", "is for streams that write a key: use persist KEY without read_only")
    longest = config.endpointing.max_utterance_ms
    if asked.min_speech_ms > longest:
        raise invalid("config.adaptation.min_speech_ms", f"{asked.min_speech_ms} is above max_utterance_ms ({longest})")
    _settle_session(config)


def _settle_session(config: pb.StreamingConfig) -> None:
    if config.session_id:
        check_name("config.session_id", config.session_id)
    if not config.HasField("resume_after_utterance"):
        return
    if not config.session_id:
        raise invalid("config.resume_after_utterance", "needs config.session_id")
    if config.adaptation.persist == pb.Adaptation.NONE:
        raise invalid("config.resume_after_utterance", "needs config.adaptation.persist SESSION or KEY: nothing was kept")


def check_name(field: str, name: str) -> None:
    """Refuse what is no name of a key or a session."""
    if not _NAME.fullmatch(name):
        raise invalid(field, "use 1 to 128 of A-Z a-z 0-9 . _ -")


def settle_method(asked: pb.Adaptation, server: ServerConfig, model: Any, make: Make) -> Any:
    """The method that is asked for; what is in force is written back."""
    from asrlife.methods.online import recommended

    if len(asked.settings) > _SETTINGS or any(len(text) > _SETTING_LENGTH for pair in asked.settings.items() for text in pair):
        raise invalid("config.adaptation.settings", f"more than {_SETTINGS} settings, or one longer than {_SETTING_LENGTH}")
    settings: dict[str, Any] = dict(server.adaptation.settings) if asked.method in ("", server.adaptation.method) else {}
    asked.method = asked.method or server.adaptation.method
    asked.method = recommended(asked.method, model)
    method = _made(make, asked, settings | dict(asked.settings), model)
    private: frozenset[str] = getattr(method, "files", frozenset())
    if named := sorted(private & set(asked.settings)):
        raise invalid(f"config.adaptation.settings.{named[0]}", "names a file of the server; only the server's configuration may do that")
    asked.settings.clear()
    asked.settings.update({name: value for name, value in in_force(method).items() if name not in private})
    asked.refine_finals = asked.method != "none" and (asked.refine_finals or not asked.HasField("refine_finals"))
    return method


def _made(make: Make, asked: pb.Adaptation, settings: Mapping[str, Any], model: Any) -> Any:
    try:
        method = make(asked.method, settings, model)
        if not asked.HasField("max_latency_ms"):
            return method
        if not hasattr(method, "max_latency_ms"):
            raise invalid("config.adaptation.max_latency_ms", f"{asked.method} has no such limit; leave it unset or use auto")
        return make(asked.method, {**settings, "max_latency_ms": asked.max_latency_ms}, model)
    except InputError as error:
        raise invalid("config.adaptation", str(error)) from error


def in_force(method: Any) -> dict[str, str]:
    """The settings of a method as text."""
    from dataclasses import fields, is_dataclass

    return {each.name: str(getattr(method, each.name)) for each in fields(method) if each.name != "name"} if is_dataclass(method) else {}

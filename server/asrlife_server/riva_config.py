"""What a client of Riva asks for, in our own terms."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from asrlife.v1 import asrlife_pb2 as pb
from asrlife_server.refusal import invalid

# Every field that does something here, seen from a stream's message and from a recording's. What is set beside them is refused.
_CONFIG = """encoding sample_rate_hertz language_code max_alternatives audio_channel_count enable_word_time_offsets model
    verbatim_transcripts custom_configuration endpointing_config endpointing_config.start_history endpointing_config.stop_history
    endpointing_config.stop_history_eou""".split()
_AROUND = "streaming_config streaming_config.config streaming_config.interim_results audio_content config audio id id.value".split()
HONOURED = frozenset(_AROUND + [f"{place}.{name}" for place in ("config", "streaming_config.config") for name in _CONFIG])
_OURS = {  # by Riva's names, where they differ
    "config.sample_rate_hertz": "config.sample_rate_hz",
    "config.language_code": "config.language",
    "config.endpointing_config.start_history": "config.endpointing.start_ms",
    "config.endpointing_config.stop_history": "config.endpointing.stop_ms",
    "config.endpointing_config.stop_history_eou": "config.endpointing.stop_eou_ms",
    "config.custom_configuration": "config.adaptation",
}
# how each entry of `custom_configuration` is read, and where it goes; "adapt.NAME" is a setting of the method
_METHOD = "adapt."
_EXTRA: Mapping[str, str] = {
    "adapt": "adaptation.method",
    "key": "adaptation.adaptation_key",
    "persist": "adaptation.persist",
    "read_only": "adaptation.read_only",
    "exclusive": "adaptation.exclusive",
    "min_speech_ms": "adaptation.min_speech_ms",
    "max_latency_ms": "adaptation.max_latency_ms",
    "finals": "adaptation.refine_finals",
    "interim_ms": "interim.min_interval_ms",
    "speech_threshold": "endpointing.threshold",
    "max_utterance_ms": "endpointing.max_utterance_ms",
}
_MOST = 2**31 - 1


def names(place: str = "") -> Mapping[str, str]:
    """Riva's words for what our refusals name, for a config at `place`."""
    told = {ours: f"{place}{theirs}" for theirs, ours in _OURS.items()}
    told |= {f"config.{ours}": f"{place}config.custom_configuration.{theirs}" for theirs, ours in _EXTRA.items()}
    told |= {f"config.{name}": f"{place}config.{name}" for name in ("encoding", "max_alternatives", "model")}
    told |= {"config.adaptation.settings": f"{place}config.custom_configuration", "audio.content": "audio_content"}
    told |= {"config.request_id": "id.value", "config.channels": f"{place}config.audio_channel_count"}
    told |= {"config.interim.enable": f"{place}interim_results", "config.interim": f"{place}config.custom_configuration.interim_ms"}
    return told | {"send KEEPALIVE": "send an empty audio_content"}


def translated(asked: Any, request_id: str, place: str = "", interim: bool = False) -> pb.StreamingConfig:
    """Riva's config as ours, without the encoding; `place` is where the client sees it, for refusals."""
    place = f"{place}config."
    config = pb.StreamingConfig(word_times=asked.enable_word_time_offsets, word_confidence=asked.enable_word_time_offsets)
    config.language, config.model, config.request_id = asked.language_code, asked.model, request_id
    config.sample_rate_hz = _count(asked.sample_rate_hertz, f"{place}sample_rate_hertz")
    config.channels = _count(asked.audio_channel_count, f"{place}audio_channel_count")
    config.max_alternatives = _count(asked.max_alternatives, f"{place}max_alternatives")
    if interim:
        config.interim.enable = True
    config.adaptation.refine_finals = False
    _settle_ends(asked.endpointing_config, config, f"{place}endpointing_config.")
    for name, text in asked.custom_configuration.items():
        _take(config, name, text, f"{place}custom_configuration.{name[:80]}")
    return config


def encoding(asked: Any, head: bytes, place: str = "") -> pb.Encoding.ValueType:
    """What the sound is, whose first bytes are `head`: Riva's clients send files with their headers, and name an encoding or none."""
    from riva.client.proto.riva_audio_pb2 import AudioEncoding

    raw = {AudioEncoding.LINEAR_PCM: pb.PCM16, AudioEncoding.MULAW: pb.MULAW, AudioEncoding.ALAW: pb.ALAW}
    wav, flac = head[:4] == b"RIFF" and head[8:12] == b"WAVE", head[:4] == b"fLaC"
    unsaid, field = asked.encoding == AudioEncoding.ENCODING_UNSPECIFIED, f"{place}config.encoding"
    if asked.encoding in raw:
        return pb.CONTAINER if wav else raw[asked.encoding]
    if (unsaid and (wav or flac or not head)) or (asked.encoding == AudioEncoding.FLAC and (flac or not head)):
        return pb.CONTAINER
    if unsaid:
        raise invalid(field, "unset, and the sound begins like no WAV or FLAC file; name LINEAR_PCM, MULAW or ALAW")
    if asked.encoding == AudioEncoding.FLAC:
        raise invalid(field, f"FLAC, but the sound begins with {head[:4]!r}")
    named = AudioEncoding.Name(asked.encoding) if asked.encoding in AudioEncoding.values() else asked.encoding
    raise invalid(field, f"{named} is not supported; use one of LINEAR_PCM, FLAC, MULAW, ALAW")


def _settle_ends(asked: Any, config: pb.StreamingConfig, place: str) -> None:
    for theirs, ours in (("start_history", "start_ms"), ("stop_history", "stop_ms"), ("stop_history_eou", "stop_eou_ms")):
        if asked.HasField(theirs):
            setattr(config.endpointing, ours, _count(getattr(asked, theirs), f"{place}{theirs}"))
    if asked.HasField("stop_history_eou") and not config.interim.enable:
        raise invalid(f"{place}stop_history_eou", "has no meaning without interim_results")


def _count(value: int, field: str) -> int:
    if not 0 <= value <= _MOST:
        raise invalid(field, f"{value} is negative" if value < 0 else f"{value} is too large")
    return value


def _take(config: pb.StreamingConfig, name: str, text: str, field: str) -> None:
    if name.startswith(_METHOD):
        config.adaptation.settings[name.removeprefix(_METHOD)] = text
        return
    if name not in _EXTRA:
        raise invalid(field, f"unknown; use {', '.join(_EXTRA)}, or {_METHOD}NAME for a setting of the method")
    group, member = _EXTRA[name].split(".")
    try:
        value = _READ.get(name, _integer)(text)
    except (ValueError, KeyError):
        raise invalid(field, f"{text[:80]!r} cannot be read; {_EXPECTED.get(name, 'use a whole number of ms')}") from None
    setattr(getattr(config, group), member, value)


def _integer(text: str) -> int:
    value = int(text)
    if not 0 <= value <= _MOST:
        raise ValueError
    return value


_TRUTH = {"true": True, "false": False}.__getitem__
_READ: Mapping[str, Callable[[str], Any]] = {
    "adapt": str,
    "key": str,
    "persist": {"none": pb.Adaptation.NONE, "key": pb.Adaptation.KEY}.__getitem__,
    "read_only": _TRUTH,
    "exclusive": _TRUTH,
    "finals": {"adapted": False, "plain": True}.__getitem__,
    "speech_threshold": float,
}
_EXPECTED = {
    "persist": "use none or key",
    "read_only": "use true or false",
    "exclusive": "use true or false",
    "finals": "use adapted or plain",
    "speech_threshold": "use a probability, 0.05 to 0.95",
}

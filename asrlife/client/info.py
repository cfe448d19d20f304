"""What a server says about itself."""

from __future__ import annotations

from dataclasses import dataclass

from asrlife.v1 import asrlife_pb2 as pb


@dataclass(frozen=True)
class ModelInfo:
    """A model that a server has; `rate` in Hz, `base_hash` the fingerprint of its weights."""

    name: str
    rate: int
    base_hash: str
    language: str
    capabilities: tuple[str, ...]


@dataclass(frozen=True)
class ServerInfo:
    """A server's version, models, encodings and adaptation methods."""

    version: str
    models: tuple[ModelInfo, ...]
    encodings: tuple[str, ...]
    methods: tuple[str, ...]

    @classmethod
    def of(cls, told: pb.ServerInfo) -> ServerInfo:
        """Read the message."""
        models = tuple(
            ModelInfo(model.name, model.sample_rate_hz, model.base_hash, model.language, tuple(model.capabilities)) for model in told.models
        )
        encodings = tuple(pb.Encoding.Name(each) for each in told.encodings if each in pb.Encoding.values())
        return cls(told.version, models, encodings, tuple(told.adaptation_methods))

"""Talk to a running server in three verbs: `info`, `transcribe`, `stream`.

>>> from asrlife.client import Client
>>> with Client("127.0.0.1:50051") as client:
...     for event in client.stream(asrlife.read("speech.wav"), adapt="dsuta"):
...         print(event)
"""

from asrlife.client.aio import AsyncClient
from asrlife.client.connection import ServerError
from asrlife.client.events import Adapted, Closed, Cursors, Event, Final, Interim, Opened, Refined, SpeechEvent, Warned
from asrlife.client.info import ModelInfo, ServerInfo
from asrlife.client.requests import Control
from asrlife.client.sync import Client
from asrlife.client.transcript import Spoken, Transcript

__all__ = [
    "Adapted",
    "AsyncClient",
    "Client",
    "Closed",
    "Control",
    "Cursors",
    "Event",
    "Final",
    "Interim",
    "ModelInfo",
    "Opened",
    "Refined",
    "ServerError",
    "ServerInfo",
    "SpeechEvent",
    "Spoken",
    "Transcript",
    "Warned",
]

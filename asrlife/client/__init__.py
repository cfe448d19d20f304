"""Talk to a running server in three verbs: `info`, `transcribe`, `stream`.

What it keeps of a speaker has verbs of its own: `get_state`, `reset_state`, `delete_state`, `export_state`, `import_state`.

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
from asrlife.client.states import Exported, KeptState, StateVersion
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
    "Exported",
    "Final",
    "Interim",
    "KeptState",
    "ModelInfo",
    "Opened",
    "Refined",
    "ServerError",
    "ServerInfo",
    "SpeechEvent",
    "Spoken",
    "StateVersion",
    "Transcript",
    "Warned",
]

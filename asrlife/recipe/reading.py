"""One reading at a time, in this process or in one of several."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from asrlife.audio.read import write
from asrlife.audio.waveform import Waveform
from asrlife.errors import InputError
from asrlife.models.speaking import speak

if TYPE_CHECKING:
    from asrlife.recipe.speech import Reading

_PEAK = 0.5  # -6 dBFS, so that resampling never clips
_STALE_S = 60.0  # a file takes some ms to write: what is older was left by a run that was killed


def start() -> None:
    """Make a process of a pool ready: one thread, the parent decides what an interrupt does, and it does not outlive its parent."""
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    threading.Thread(target=_follow, daemon=True).start()


def read_one(job: tuple[Reading, Path]) -> tuple[float, str]:
    """Write the reading's sound unless it is there and whole; its length in s, and why there is none."""
    plan, folder = job
    path = folder / plan.file
    try:
        seconds = is_whole(path)
        return _made(plan, path) if seconds is None else seconds, ""
    except InputError as error:
        return 0.0, str(error)


def is_whole(path: Path) -> float | None:
    """The length of a sound file in s; None where there is none, or it is cut short or damaged."""
    import soundfile

    try:
        with soundfile.SoundFile(path) as file:
            samples = file.read(dtype="int16")
            return float(len(samples) / file.samplerate) if len(samples) and len(samples) == file.frames else None
    except (soundfile.LibsndfileError, OSError):
        return None


def stale(folder: Path) -> None:
    """Take away the half-written files of runs that were killed."""
    for path in folder.glob(".*.flac.*"):
        if time.time() - path.stat().st_mtime > _STALE_S:
            path.unlink(missing_ok=True)


def _follow() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _made(plan: Reading, path: Path) -> float:
    seed = int(hashlib.sha256(plan.name.encode()).hexdigest()[:8], 16)
    spoken = speak(plan.said or plan.text, plan.voice, plan.prosody, seed)
    sound = plan.augmentation.apply(spoken) if plan.augmentation.to_json() else spoken
    write(path, Waveform(sound.samples * (_PEAK / max(1e-6, np.abs(sound.samples).max())), sound.rate))
    return sound.duration

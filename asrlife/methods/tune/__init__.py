"""Fine-tuning of recognisers and language models into deltas, with controls of forgetting."""

from asrlife.methods.tune.keep import EWC, KEEPS, L2SP, MAS, Keep, LwF, Replay
from asrlife.methods.tune.masking import Augment
from asrlife.methods.tune.settings import Settings
from asrlife.methods.tune.tune import Tuned, tune
from asrlife.methods.tune.watch import Quiet, Watch

__all__ = ["EWC", "KEEPS", "L2SP", "MAS", "Augment", "Keep", "LwF", "Quiet", "Replay", "Settings", "Tuned", "Watch", "tune"]

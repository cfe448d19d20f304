from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from asrlife.audio.waveform import Waveform
from asrlife.errors import InputError
from asrlife.models.load import load

if find_spec("speechbrain") is None:
    pytest.skip("the speechbrain extra is not installed", allow_module_level=True)

RECIPE = """
sample_rate: 16000
encoder: !new:speechbrain.nnet.containers.LengthsCapableSequential
  features: !new:speechbrain.lobes.features.Fbank
    n_mels: 20
  normalise: !new:speechbrain.processing.features.InputNormalization
    norm_type: sentence
  recurrent: !new:speechbrain.nnet.RNN.GRU
    input_shape: [null, null, 20]
    hidden_size: 16
  ctc: !new:speechbrain.nnet.linear.Linear
    input_size: 16
    n_neurons: 30
  log_softmax: !new:speechbrain.nnet.activations.Softmax
    apply_log: True
tokenizer: !new:speechbrain.dataio.encoder.CTCTextEncoder
decoding_function: !name:speechbrain.decoders.ctc_greedy_decode
  blank_id: 0
modules:
  encoder: !ref <encoder>
pretrainer: !new:speechbrain.utils.parameter_transfer.Pretrainer
  loadables:
    encoder: !ref <encoder>
    tokenizer: !ref <tokenizer>
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from hyperpyyaml import load_hyperpyyaml

    from asrlife.models.speechbrain import forget_lazy_modules

    made, parts = tmp_path_factory.mktemp("speechbrain"), load_hyperpyyaml(RECIPE)
    forget_lazy_modules()
    (made / "hyperparams.yaml").write_text(RECIPE)
    torch.manual_seed(0)
    torch.save(parts["encoder"].state_dict(), made / "encoder.ckpt")
    tokenizer = parts["tokenizer"]
    tokenizer.expect_len(30)
    tokenizer.insert_blank("<blank>", 0)
    tokenizer.update_from_iterable([" ", "'", *"ABCDEFGHIJKLMNOPQRSTUVWXYZ"], sequence_input=False)
    tokenizer.add_unk()
    tokenizer.save(made / "tokenizer.ckpt")
    return made


def test_code_is_not_run_unless_it_is_trusted(tmp_path: Path) -> None:
    (tmp_path / "hyperparams.yaml").write_text(f"ran: !apply:pathlib.Path.touch [!apply:pathlib.Path ['{tmp_path}/ran']]")
    with pytest.raises(InputError, match=r"hyperparams.yaml may run any code it names \(HyperPyYAML\).*trust_code=True"):
        load(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_loading_leaves_no_module_behind_that_fails_when_asked_for_its_file(folder: Path) -> None:
    load(folder, trust_code=True)
    assert all(getattr(module, "__file__", None) != "" for module in list(sys.modules.values()))


def test_transcripts_are_those_of_speechbrain(folder: Path, noises: list[Waveform], tmp_path: Path) -> None:
    from speechbrain.inference.ASR import EncoderASR

    from asrlife.models.speechbrain import forget_lazy_modules

    theirs, ours = (
        EncoderASR.from_hparams(source=str(folder), savedir=str(tmp_path), run_opts={"device": "cpu"}),
        load(folder, trust_code=True),
    )
    forget_lazy_modules()
    heard = ours.transcribe(noises)
    for found, waveform in zip(heard, noises, strict=True):
        words, _ = theirs.transcribe_batch(torch.from_numpy(waveform.samples)[None], torch.ones(1))
        assert found.text == " ".join(words[0].lower().replace("<unk>", "").split()) != ""
        assert all(0 <= word.start <= word.end <= waveform.duration for word in found.words)


def test_emissions_are_differentiable_and_alike_alone_and_together(folder: Path, noises: list[Waveform]) -> None:
    model = load(folder, trust_code=True)
    together = model.emissions(model.prepare(noises))
    alone = model.emissions(model.prepare(noises[1:2]))
    steps = int(alone.lengths[0])
    assert together.lengths.tolist()[1] == steps
    torch.testing.assert_close(together.logits[1, :steps], alone.logits[0], rtol=0, atol=1e-5)
    found = torch.autograd.grad(model.loss(model.prepare(noises[:1]), ["it's"]), list(model.module.parameters()))
    assert all(bool(gradient.any()) for gradient in found) and "loss" in model.capabilities
    assert model.emissions(model.prepare([Waveform(np.zeros(10, np.float32), 16_000)])).lengths[0] > 0


def test_a_folder_that_is_no_recogniser_is_said(tmp_path: Path) -> None:
    (tmp_path / "hyperparams.yaml").write_text("modules: {}\n")
    with pytest.raises(InputError, match="does not load with SpeechBrain.*pretrainer"):
        load(tmp_path, trust_code=True)

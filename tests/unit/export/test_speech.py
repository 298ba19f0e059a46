"""Vocoder and one-step ARDiT as graphs make what the models make."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from speechnar.data.latents import LatentBatch, linear_positions
from speechnar.errors import ConfigError
from speechnar.export.speech import BLOCK_FILE, DURATIONS_FILE, TEXT_FILE, VOCODER_FILE, export_speech
from speechnar.models.base import LoadedModel, load_model
from speechnar.models.tts.ardit import Middle
from speechnar.models.tts.vocos import Vocos, VocosConfig
from tests.unit.tiny import save_tiny_paraformer, save_tiny_tts

pytest.importorskip("onnxscript")
onnxruntime = pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.slow  # writing a graph takes its time


def open_graph(path: Path) -> Any:
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def run(session: Any, **inputs: Tensor) -> list[Tensor]:
    found = session.run(None, {name: value.numpy() for name, value in inputs.items()})
    return [torch.from_numpy(value) for value in found]


def speak(folder: Path, speech: LatentBatch, starts: Tensor, lens: Tensor, *, size: int = 4) -> Tensor:
    """Generate the spans by the two graphs, with the noise that the model draws for the seeds 0, 1, 2 and so on."""
    block = open_graph(folder / BLOCK_FILE)
    steps = torch.arange(speech.latents.size(1))
    in_span = (steps >= starts[:, None]) & (steps < (starts + lens)[:, None])
    past, past_valid, spoken = run(
        open_graph(folder / TEXT_FILE),
        tokens=speech.tokens,
        token_lens=speech.token_lens,
        latents=speech.latents,
        is_known=(steps < speech.latent_lens[:, None]) & ~in_span,
        positions=speech.positions,
    )
    channels = speech.latents.size(2)
    drawn = [torch.randn(n, channels, generator=torch.Generator().manual_seed(i)) for i, n in enumerate(lens.tolist())]
    noise = torch.nn.utils.rnn.pad_sequence(drawn, batch_first=True)
    noise = torch.nn.functional.pad(noise, (0, 0, 0, -noise.size(1) % size))
    zeros = torch.zeros(len(lens), size)
    before = {"before": zeros[..., None].expand(-1, -1, channels), "before_positions": zeros, "before_valid": zeros > 0}
    before["before_spoken"] = zeros[..., None].expand(-1, -1, spoken.size(2))
    made = []
    for first in range(0, noise.size(1), size):
        places = (starts[:, None] + first + torch.arange(size)).clamp(max=len(steps) - 1)
        rows = torch.arange(len(lens))[:, None]
        here = {
            "spoken": spoken[rows, places],
            "positions": speech.positions[rows, places],
            "valid": first + torch.arange(size) < lens[:, None],
        }
        latents, past, past_valid = run(
            block, past=past, past_valid=past_valid, **before, noise=noise[:, first : first + size], **here
        )
        made.append(latents)
        before = {"before": latents, **{f"before_{name}": value for name, value in here.items()}}
    known = speech.latents * (steps < speech.latent_lens[:, None])[..., None]
    return Middle.of(starts, lens, size).put(known, torch.cat(made, 1))


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "aligned_text"])
def exported(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tts")
    source = save_tiny_tts(folder / "tiny")
    loaded = load_model(source)
    if request.param:
        config = loaded.config.model_copy(
            update={"ardit": loaded.config.ardit.model_copy(update={"aligned_text": True})}
        )
        source = save_tiny_tts(folder / "aligned", ardit=config.ardit)
        loaded = load_model(source)
    return loaded, export_speech(loaded, source, folder / "graphs")


@pytest.mark.parametrize(
    ("token_lens", "latent_lens", "start", "behind"),
    [([5], [13], 0, 0), ([1], [1], 0, 0), ([7, 3, 4], [21, 9, 2], 0, 0), ([6, 5, 2], [16, 12, 9], 3, 1)],
    ids=["alone", "one latent", "a batch", "between known speech"],
)
def test_blocks_are_those_of_the_model(exported, token_lens, latent_lens, start, behind):
    loaded, folder = exported
    model = loaded.model
    torch.manual_seed(1)
    lens, text_lens = torch.tensor(latent_lens), torch.tensor(token_lens)
    speech = LatentBatch(
        tokens=torch.randint(1, 20, (len(lens), int(text_lens.max()))),
        token_lens=text_lens,
        latents=torch.randn(len(lens), int(lens.max()), model.config.ardit.latent_dim),
        latent_lens=lens,
        positions=linear_positions(text_lens, lens),
    )
    starts = torch.full_like(lens, start)
    spans = lens - start - behind
    wanted = model.ardit.generate(speech, starts, spans, seeds=range(len(lens)), num_steps=1)
    assert wanted.abs().max() > 0.1
    torch.testing.assert_close(speak(folder, speech, starts, spans), wanted, atol=2e-5, rtol=1e-4)


def test_durations_and_samples_are_those_of_the_model(exported):
    loaded, folder = exported
    model, tokens, lens = loaded.model, torch.tensor([[3, 4, 5], [6, 7, 0]]), torch.tensor([3, 2])
    (found,) = run(open_graph(folder / DURATIONS_FILE), tokens=tokens, token_lens=lens)
    torch.testing.assert_close(found, model.predict_durations(tokens, lens))
    latents, lens = torch.randn(2, 6, model.config.ardit.latent_dim), torch.tensor([6, 4])
    wav, wav_lens = run(open_graph(folder / VOCODER_FILE), latents=latents, latent_lens=lens)
    with torch.inference_mode():
        wanted, wanted_lens = model.vocoder(*model.codec.decode(latents, lens))
    assert torch.equal(wav_lens, wanted_lens)
    torch.testing.assert_close(wav, wanted, atol=1e-4 * float(wanted.abs().max()), rtol=1e-3)


@pytest.fixture(scope="module", params=[0, 2], ids=["its own phases", "phases found"])
def vocoder(request, tmp_path_factory):
    torch.manual_seed(0)
    model = Vocos(VocosConfig.debug().model_copy(update={"phase_iterations": request.param})).eval()
    folder = tmp_path_factory.mktemp("vocos")
    export_speech(LoadedModel(model, None, model.config, "vocos"), folder, folder / "graph")
    return model, open_graph(folder / "graph" / "model.onnx")


@pytest.mark.parametrize("lens", [[1], [2], [3], [77], [1000], [6000], [40, 7, 1]], ids=str)
def test_a_vocoder_makes_the_samples_of_the_model(vocoder, lens):
    model, session = vocoder
    feats = torch.randn(len(lens), max(lens), model.config.frontend.num_mels)
    wav, wav_lens = run(session, feats=feats, feat_lens=torch.tensor(lens))
    with torch.inference_mode():
        wanted, wanted_lens = model(feats, torch.tensor(lens))
    assert torch.equal(wav_lens, wanted_lens)
    torch.testing.assert_close(wav, wanted, atol=1e-3 * float(wanted.abs().max()), rtol=1e-3)


def test_what_cannot_be_done_is_told(tmp_path):
    source = save_tiny_paraformer(tmp_path / "paraformer")
    with pytest.raises(ConfigError, match="vocos and tts"):
        export_speech(load_model(source), source, tmp_path / "out")
    parallel = save_tiny_tts(tmp_path / "tts")
    loaded = load_model(parallel)
    ardit = loaded.config.ardit.model_copy(update={"block_size": None})
    whole = save_tiny_tts(tmp_path / "whole", ardit=ardit)
    with pytest.raises(ConfigError, match="block_size"):
        export_speech(load_model(whole), whole, tmp_path / "out")

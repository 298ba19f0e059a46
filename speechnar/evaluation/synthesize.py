"""Speak the texts of a Kaldi directory, or pass its recordings through a part of a synthesiser, as evaluation needs it.

``python -m speechnar.evaluation.synthesize MODEL DATA_DIR OUT`` writes ``OUT/<utterance id>.wav``, which
`speechnar.evaluation.tts` scores. What a vocoder makes of the recordings' log-mels (``--system vocoded``), or of those
of their latents (``--system coded``), is the best that the synthesiser could do.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from speechnar.audio.io import Audio
from speechnar.data.dataset import read_utterance
from speechnar.data.kaldi import Utterance
from speechnar.errors import ConfigError, DataError
from speechnar.hub import find_device
from speechnar.models.base import load_model
from speechnar.models.tts.tts import Tts
from speechnar.tts.synthesizer import Synthesizer
from speechnar.tts.voice import Voice

System = Literal["vocoded", "coded"]


def synthesize_data(
    synthesizer: Synthesizer,
    utterances: Sequence[Utterance],
    out: str | Path,
    *,
    voices: Sequence[Utterance] = (),
    steps: int | None = None,
    seed: int = 0,
) -> float:
    """Speak the text of each utterance to ``out/<utterance id>.wav``; return the real-time factor, voices excluded.

    Args:
        synthesizer: speaks.
        utterances: whose texts are spoken.
        out: a folder.
        voices: recordings; each text is spoken in the voice of the first one of its speaker. Without any, the model
            speaks in its own voice.
        steps: evaluations per block; None: the usual number.
        seed: of all; the first utterance has it, each later one the next.

    Raises:
        DataError: a speaker has no recording among ``voices``.
        AudioError: a recording is no use as a reference.
        ConfigError: an option is out of its range, or a text cannot be spoken.
    """
    references = {utterance.spk_id: utterance for utterance in reversed(voices)}
    known: dict[str, Voice] = {}
    wall_s = audio_s = 0.0
    Path(out).mkdir(parents=True, exist_ok=True)
    for number, utterance in enumerate(utterances):
        speaker = utterance.spk_id
        if voices and speaker not in known:
            if speaker not in references:
                raise DataError(f"speaker {speaker!r} of utterance {utterance.utt_id!r} has no recording among voices")
            reference = references[speaker]
            wav = read_utterance(reference, synthesizer.sample_rate)
            known[speaker] = synthesizer.voice(wav, text=reference.text, sample_rate=synthesizer.sample_rate)
        started = time.perf_counter()
        speech = synthesizer.synthesize(utterance.text, voice=known.get(speaker), steps=steps, seed=seed + number)
        wall_s += time.perf_counter() - started
        audio_s += speech.duration
        speech.save(Path(out) / f"{utterance.utt_id}.wav")
    return wall_s / audio_s if audio_s else 0.0


@torch.no_grad()
def resynthesize_data(model: Tts, utterances: Sequence[Utterance], out: str | Path, system: System) -> None:
    """Write each recording to ``out/<utterance id>.wav`` as the vocoder makes it, of its log-mels or of its latents.

    Raises:
        AudioError: a recording cannot be read.
        DataError: one is shorter than a latent.
    """
    device = next(model.parameters()).device
    Path(out).mkdir(parents=True, exist_ok=True)
    for utterance in utterances:
        wav = torch.from_numpy(read_utterance(utterance, model.sample_rate)).to(device)[None]
        lens = torch.tensor([wav.size(1)], device=device)
        latents, latent_lens = model.codec.encode(wav, lens)
        if not int(latent_lens):
            raise DataError(f"utterance {utterance.utt_id!r}: shorter than a latent of {model.latent_shift_s:g} s")
        feats = model.codec.decode(latents, latent_lens) if system == "coded" else model.codec.frontend(wav, lens)
        samples: NDArray[np.float32] = model.vocoder(*feats)[0][0].cpu().numpy()
        Audio(samples, model.sample_rate).save(Path(out) / f"{utterance.utt_id}.wav")


def load_tts(folder: str | Path, *, device: str = "auto") -> Tts:
    """Return the text to speech of a model folder.

    Raises:
        ConfigError: the model is of another kind.
        ModelNotFoundError: there is none.
    """
    model = load_model(folder, device=find_device(device)).model
    if not isinstance(model, Tts):
        raise ConfigError(f"{folder}: must be a model of kind tts")
    return model

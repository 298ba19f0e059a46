"""How the decoders of a model cut one clip of speech into tokens: what the papers draw beside a spectrogram.

CTC's labels are spikes between blanks; CASS-NAT lets each token see the frames that a trigger mask gives it;
Paraformer's weights of frames add up until a token fires.

Shapes: B = 1 utterance, T frames, V vocabulary, U tokens.
Sources: Graves et al., "Connectionist Temporal Classification", ICML 2006, figure 1; Fan et al., "CASS-NAT", ICASSP
2021, section 2.3 (trigger mask); Gao et al., "Paraformer", Interspeech 2022, section 2.2 (continuous
integrate-and-fire).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from speechnar.asr.clips import CTC, ClipDecoder
from speechnar.asr.speech_models import SpeechModel
from speechnar.audio.blocks import Samples
from speechnar.decode.align import CtcPath
from speechnar.decode.ctc import greedy
from speechnar.models.asr.cassnat import CassNatHead
from speechnar.models.asr.ctc_trunk import TrunkOutput
from speechnar.models.asr.joint import Joint
from speechnar.models.asr.paraformer_head import ParaformerHead
from speechnar.nn.cif import CifEmbeddings
from speechnar.nn.embedder import EncodedSpeech


@dataclass(frozen=True)
class TokenCuts:
    """How one decoder cuts a clip; seconds count from its beginning."""

    decoder: str
    tokens: tuple[str, ...]
    """Pieces of the vocabulary, a word's first one with ``▁`` before it where the model writes spaces."""
    spans: tuple[tuple[float, float], ...]
    """Where each token is emitted (CTC, CASS-NAT), or what is integrated into it (Paraformer)."""
    windows: tuple[tuple[float, float], ...]
    """CASS-NAT's trigger mask: what each token may see, and last, what the end of the sentence may. Else empty."""
    frame_shift_s: float
    weights: npt.NDArray[np.float32]
    """(T,) in [0, 1]: the probability of anything but blank (CTC, CASS-NAT), or Paraformer's alphas; empty of one that
    takes CTC's tokens in place of weights."""


@torch.inference_mode()
def find_cuts(decoder: ClipDecoder, clip: Samples) -> Iterator[TokenCuts]:
    """Yield the cuts of ``clip`` by each decoder of the model that has them: ctc, cassnat, paraformer."""
    out = decoder.encode([clip])
    speech = _encoded_speech(decoder.model, out)
    blank_id, num_frames = decoder.model.blank_id, int(speech.lens[0])
    not_blank = np.zeros(0, dtype=np.float32)
    if speech.log_probs is not None:
        not_blank = 1 - speech.log_probs[0, :num_frames, blank_id].exp().cpu().numpy()
    for name in decoder.model.decoder_names:
        head = _head(decoder.model, name)
        if name == CTC and speech.log_probs is not None:
            (path,) = greedy(out.log_probs, out.lens, blank_id)
            yield _cuts(decoder, name, decoder.text_path(path), (), not_blank)
        elif isinstance(head, CassNatHead):
            (path,) = head.decode(speech)
            path = decoder.text_path(path, num_prefix=0)
            begins, ends = head.trigger_windows(speech)
            windows = zip(begins[0].tolist(), ends[0].tolist(), strict=True)
            yield _cuts(decoder, name, path, tuple(windows), not_blank)
        elif isinstance(head, ParaformerHead):
            (path,) = head.decode(speech)
            path = decoder.text_path(path, num_prefix=0)
            cut = head.embedder(speech)
            alphas = cut.alphas[0, :num_frames].cpu().numpy() if isinstance(cut, CifEmbeddings) else not_blank[:0]
            yield _cuts(decoder, name, path, (), alphas)


def _head(model: Any, name: str) -> Any:
    """Return a model's decoder, None for CTC."""
    if name == CTC:
        return None
    return model.head(name) if isinstance(model, Joint) else getattr(model, "head", None)


def _encoded_speech(model: SpeechModel, out: Any) -> EncodedSpeech:
    """Return what a model's decoders see of what it encoded, frames of a prefix left out."""
    if isinstance(model, Joint):
        return model.encoded_speech(out)
    if isinstance(out, EncodedSpeech):
        return out
    if isinstance(out, TrunkOutput):
        return out.speech
    prefix = model.num_prefix
    return EncodedSpeech(enc=out.enc[:, prefix:], lens=out.lens - prefix, log_probs=out.log_probs[:, prefix:])


def _cuts(
    decoder: ClipDecoder,
    name: str,
    path: CtcPath,
    windows: tuple[tuple[int, int], ...],
    weights: npt.NDArray[np.float32],
) -> TokenCuts:
    shift_s = decoder.model.frame_shift_s
    return TokenCuts(
        decoder=name,
        tokens=tuple(decoder.tokenizer.piece_of(token) for token in path.tokens),
        spans=tuple((start * shift_s, end * shift_s) for start, end in zip(path.starts, path.ends, strict=True)),
        windows=tuple((start * shift_s, end * shift_s) for start, end in windows),
        frame_shift_s=shift_s,
        weights=weights.astype(np.float32),
    )

"""Paraformer while the speaker speaks: samples in, tokens out as they fire.

Features, windows, integration, memories and the frames a token may see are carried from push to push; everything is
computed in units fixed by the position in the utterance, so that how the samples arrive changes nothing. `finish` takes
what is left as the last window, however short it is.

Shapes: S samples, T frames, F features, D model width, U tokens.
Source: FunASR's ``ParaformerStreaming``; its paper (Gao et al., "FunASR", Interspeech 2023) does not describe it.

Differs from FunASR:
- features and the last window do not depend on how the samples arrive.
- the zero frames that begin its first window, and its cache of keys, are options of `WindowConfig`.
"""

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from speechnar.audio.cmvn import GlobalCmvn
from speechnar.audio.fbank import KaldiFbank, KaldiFbankConfig
from speechnar.decode.align import CtcPath, join_paths
from speechnar.errors import ConfigError, ShapeError
from speechnar.models.asr.paraformer import Paraformer
from speechnar.nn.cif import CifPredictor, CifStream
from speechnar.nn.sanm import DecoderCache, EncodedWindow, SanmDecoder, SanmEncoder, SanmEncoderStream


def missing_to_stream(model: Paraformer) -> list[str]:
    """Return what ``model`` would have to be configured with to stream; nothing if it does."""
    config, head = model.config, model.head
    encoder, decoder, embedder = model.encoder, head.decoder, head.embedder
    needs = {
        "encoder.windows set": isinstance(encoder, SanmEncoder) and encoder.config.windows is not None,
        "head.decoder sanm with fsmn_shift (kernel_size - 1) / 2": isinstance(decoder, SanmDecoder)
        and config.head.fsmn_shift == (config.head.kernel_size - 1) // 2
        and config.head.kernel_size % 2 == 1,
        "head.embedder cif with threshold fixed": isinstance(embedder, CifPredictor) and embedder.threshold == "fixed",
        "frontend kaldi_fbank": isinstance(config.frontend, KaldiFbankConfig),
        "normalize global": isinstance(model.normalizer, GlobalCmvn),
    }
    return [need for need, is_met in needs.items() if not is_met]


class ParaformerStream:
    """One utterance, recognised as its samples come; the result is that of ``model.decode`` on the whole."""

    def __init__(self, model: Paraformer) -> None:
        """Start an utterance.

        Raises:
            ConfigError: the model is not one that streams.
        """
        config, head = model.config, model.head
        encoder, decoder, embedder = model.encoder, head.decoder, head.embedder
        missing = missing_to_stream(model)
        if missing:
            raise ConfigError(f"a model that streams needs {', '.join(missing)}; train one with these")
        assert isinstance(encoder, SanmEncoder)
        assert isinstance(decoder, SanmDecoder)
        assert isinstance(embedder, CifPredictor)
        assert isinstance(config.frontend, KaldiFbankConfig) and isinstance(model.frontend, KaldiFbank)
        self.model = model
        self._embedder, self._decoder = embedder, decoder
        self._feats = _FeatureStream(config.frontend, model.frontend.mel_matrix.device)
        self._encoder: SanmEncoderStream = encoder.stream()
        self._cif = CifStream()
        self._cache = DecoderCache()
        self._keys_values: list[Tensor] = []
        self._is_finished = False

    @torch.no_grad()
    def push(self, wav: Tensor) -> CtcPath:
        """Take samples ``wav`` (S,) in [-1, 1], any number; return the tokens they made certain, perhaps none.

        Frames count from the beginning of the utterance; texts are the tokens of all pushes and of `finish`, joined.

        Raises:
            ShapeError: ``wav`` is not one row of samples.
            ConfigError: the utterance was finished.
        """
        if wav.dim() != 1:
            raise ShapeError(f"a stream takes samples (S,), got {tuple(wav.shape)}")
        if self._is_finished:
            raise ConfigError("a finished stream takes no more samples; start another")
        feats = self._feats.push(wav)
        return join_paths([self._decode(window) for window in self._encoder.push(self._normalize(feats))])

    @torch.no_grad()
    def finish(self) -> CtcPath:
        """Return the tokens that remain; the stream cannot be used afterwards."""
        if self._is_finished:
            raise ConfigError("the stream was finished already; start another")
        self._is_finished = True
        feats = self._normalize(self._feats.finish())
        return join_paths([self._decode(window) for window in (*self._encoder.push(feats), *self._encoder.finish())])

    def _normalize(self, feats: Tensor) -> Tensor:
        normalized: Tensor = self.model.normalizer(feats, torch.tensor([feats.size(1)], device=feats.device))
        return normalized

    def _decode(self, window: EncodedWindow) -> CtcPath:
        """Write the tokens that fire in ``window``."""
        valid = torch.ones(window.enc.shape[:2], dtype=torch.bool, device=window.enc.device)
        current = window.num_current
        alphas = self._embedder.alphas(window.enc, valid)[:, :current]
        cut = self._cif.integrate(window.enc[:, :current], alphas, is_last=window.is_last)
        keys_values = self._decoder.project(window.enc)
        seen = torch.cat([*self._keys_values, keys_values], dim=4)
        look_back = self._encoder.config.decoder_look_back
        hop = self._encoder.config.current_frames
        late = self._encoder.config.late_look_back
        kept = [*self._keys_values, keys_values[..., -hop:, :] if late else keys_values[..., :current, :]]
        self._keys_values = kept[max(0, len(kept) - look_back) :]
        if cut.embeds.size(1) == 0:
            return join_paths([])
        starts, ends = cut.starts, cut.ends
        if not window.is_last:  # the frame that the last token shares with the next one is the next one's
            ends = ends.clamp(max=self._cif.next_start)
        lead = self._encoder.config.lead_frames
        cut = replace(cut, starts=(starts - lead).clamp(min=0), ends=(ends - lead).clamp(min=min(1, lead)))
        is_token = cut.embeds.new_ones(cut.embeds.shape[:2], dtype=torch.bool)
        mask = is_token.new_ones(1, 1, 1, seen.size(4))
        hidden = self._decoder(cut.embeds, is_token, seen, mask, self._cache)
        log_probs = self.model.head.output(hidden).log_softmax(2, dtype=torch.float32)
        return self.model.head.paths(cut, log_probs)[0]


@dataclass
class _FeatureStream:
    """Stacked filterbank features of one utterance, before normalisation."""

    config: KaldiFbankConfig
    device: torch.device
    _wav: Tensor = field(init=False)
    """Samples from the first frame that is not yet computed."""
    _frames: Tensor = field(init=False)
    """(1, T, F) frames that stacks to come may need."""
    _first: int = 0
    """Number of the first of them in the utterance."""
    _num_stacks: int = 0

    def __post_init__(self) -> None:
        single = self.config.model_copy(update={"lfr_window": 1, "lfr_shift": 1})
        self._fbank = KaldiFbank(single).eval().to(self.device)
        self._wav = torch.zeros(0, device=self.device)
        self._frames = torch.zeros(1, 0, self.config.num_mels, device=self.device)

    def push(self, wav: Tensor) -> Tensor:
        """Take samples (S,); return the stacks (1, T, F) that are complete, T perhaps 0."""
        config = self.config
        self._wav = torch.cat([self._wav, wav.to(self.device, torch.float32)])
        # Blocks of fixed size: the same sums are taken however the samples arrive.
        hop = config.frame_shift_samples * config.lfr_shift
        size = hop - config.frame_shift_samples + config.frame_length_samples
        while self._wav.numel() >= size:
            self._extend(self._wav[:size])
            self._wav = self._wav[hop:]
        behind = config.lfr_window - 1 - (config.lfr_window - 1) // 2
        known = self._first + self._frames.size(1)
        return self._stack(max(self._num_stacks, (known - 1 - behind) // config.lfr_shift + 1))

    def finish(self) -> Tensor:
        """Return the remaining stacks; samples too few for a single frame are extended with zeros to one."""
        config = self.config
        if self._first + self._frames.size(1) == 0 and self._wav.numel():
            self._wav = F.pad(self._wav, (0, max(0, config.frame_length_samples - self._wav.numel())))
        if self._wav.numel() >= config.frame_length_samples:
            self._extend(self._wav)
        return self._stack(-(-(self._first + self._frames.size(1)) // config.lfr_shift))

    def _extend(self, wav: Tensor) -> None:
        frames, _ = self._fbank(wav[None], torch.tensor([wav.numel()], device=self.device))
        self._frames = torch.cat([self._frames, frames], dim=1)

    def _stack(self, count: int) -> Tensor:
        """Return the stacks up to number ``count``, and forget frames that no later one needs."""
        config = self.config
        early = (config.lfr_window - 1) // 2
        starts = torch.arange(self._num_stacks, count, device=self.device) * config.lfr_shift - early
        positions = starts[:, None] + torch.arange(config.lfr_window, device=self.device)
        last = self._first + self._frames.size(1) - 1
        stacks = self._frames[:, positions.clamp(min=0, max=max(0, last)).flatten() - self._first]
        self._num_stacks = count
        first = max(self._first, min(count * config.lfr_shift - early, last))
        self._frames, self._first = self._frames[:, first - self._first :], first
        return stacks.view(1, len(starts), config.lfr_window * config.num_mels)

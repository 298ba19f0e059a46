"""SenseVoice: text by CTC, and beside it language, emotion and kind of sound, of one non-autoregressive encoder.

Four vectors stand before the frames: a language to listen for (or any), two queries, and how to write (as text is
written, or as it is spoken). The encoder's output at these places names the language, emotion, sound and style; that of
the frames is the text. One head, whose vocabulary has labels and pieces of text, reads both.

Shapes: B utterances, S samples, T frames, F features, D model width, V vocabulary (blank included), L languages,
U tokens.
Sources: An et al., "FunAudioLLM: Voice Understanding and Generation Foundation Models for Natural Interaction Between
Humans and LLMs", 2024, section 2.2; FunASR's ``SenseVoiceSmall`` (queries and labels by name).

Differs from the paper:
- the loss is that of the text alone: data here say nothing of emotions and sounds.
- an emotion is told only by labels of emotions, a sound by those of sounds; FunASR takes the best of the vocabulary.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from speechnar.audio.augment import SpecAugmentConfig
from speechnar.audio.fbank import KaldiFbankConfig, build_frontend
from speechnar.data.batch import SpeechBatch
from speechnar.decode.ctc import greedy
from speechnar.models.base import AsrModel, LossOutput, ModelConfig
from speechnar.nn.ctc import CtcHead
from speechnar.nn.frontend import (
    Normalization,
    augmented,
    build_augmenter,
    build_normalizer,
    extended,
    normalized_features,
)
from speechnar.nn.sanm import SanmEncoder, SanmEncoderConfig
from speechnar.text.tokenizer import Tokenizer

NUM_QUERIES = 16
"""Rows of the published table; those that nothing below names are not in use."""
ANY_LANGUAGE, EMOTION, EVENT, WRITTEN, SPOKEN = 0, 1, 2, 14, 15
"""Rows that ask to find out the language, for an emotion and for an event, and for text with or without punctuation and
figures ("inverse text normalisation")."""
LANGUAGES: Mapping[str, tuple[int, str]] = {
    "zho": (3, "<|zh|>"),
    "eng": (4, "<|en|>"),
    "yue": (7, "<|yue|>"),
    "jpn": (11, "<|ja|>"),
    "kor": (12, "<|ko|>"),
}
"""For each language the row that announces it, and its label."""
EMOTIONS = ("HAPPY", "SAD", "ANGRY", "NEUTRAL", "FEARFUL", "DISGUSTED", "SURPRISED", "EMO_UNKNOWN")
EVENTS = (
    *("Speech", "BGM", "Sing", "Applause", "Laughter", "Cry", "Sneeze", "Breath", "Cough"),
    *("Speech_Noise", "GBG", "Event_UNK"),
)
"""Kinds of sound; BGM is music in the background, GBG garbage."""
UNKNOWN_LABELS = frozenset({"EMO_UNKNOWN", "Event_UNK"})


class SenseVoiceConfig(ModelConfig):
    """Configuration of a `SenseVoice`; the defaults are those of SenseVoiceSmall, 234 M parameters with its pieces."""

    kind: Literal["sensevoice"] = "sensevoice"
    frontend: KaldiFbankConfig = KaldiFbankConfig(lfr_window=7, lfr_shift=6)
    """80 mel bands, seven frames stacked every 60 ms."""
    normalize: Normalization = "global"
    """Of stacked features."""
    encoder: SanmEncoderConfig = SanmEncoderConfig(
        model_dim=512, num_layers=50, ff_dim=2048, num_upper_layers=20, norm_eps=1e-5
    )
    spec_augment: SpecAugmentConfig | None = SpecAugmentConfig(
        freq_masks=1, freq_width=30, time_masks=1, time_ratio=0.1
    )
    """Bands are masked alike in all stacked frames."""

    @classmethod
    def debug(cls) -> "SenseVoiceConfig":
        """Return a model of well under 1 M parameters with every part present, for tests."""
        encoder = SanmEncoderConfig(model_dim=32, num_layers=2, num_heads=2, ff_dim=64, num_upper_layers=1)
        return cls(encoder=encoder)


@dataclass(frozen=True, kw_only=True)
class SenseVoiceOutput:
    """What the head says about a batch."""

    log_probs: Tensor
    """(B, T, V) float32 of the frames."""
    lens: Tensor
    """(B,) frames."""
    label_log_probs: Tensor
    """(B, 4, V) float32 of language, emotion, event and style."""


class SenseVoice(AsrModel):
    """The recogniser: features behind four queries, encoder, CTC head."""

    decoder_names = ("ctc",)
    num_prefix = 0

    def __init__(self, config: SenseVoiceConfig, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.config = config
        self.blank_id = tokenizer.blank_id
        self.frontend = build_frontend(config.frontend)
        num_features = self.frontend.num_features
        self.normalizer = build_normalizer(config.normalize, num_features)
        self.spec_augment = build_augmenter(config.spec_augment)
        self.queries = nn.Embedding(NUM_QUERIES, num_features)
        self.encoder = SanmEncoder(config.encoder, num_features)
        self.ctc = CtcHead(config.encoder.model_dim, tokenizer.vocab_size, blank_id=tokenizer.blank_id)
        pieces = {piece: token_id for token_id, piece in enumerate(tokenizer.pieces)}
        self.language_ids = {lang: pieces[label] for lang, (_, label) in LANGUAGES.items() if label in pieces}
        """The labels of the languages that can be announced or found out, by ISO 639-3 code."""
        self._emotion_ids, self._event_ids = (
            {name: pieces[f"<|{name}|>"] for name in names if f"<|{name}|>" in pieces} for names in (EMOTIONS, EVENTS)
        )

    @classmethod
    def from_config(cls, config: SenseVoiceConfig, tokenizer: Tokenizer) -> "SenseVoice":
        """Build with random weights."""
        return cls(config, tokenizer)

    @property
    def sample_rate(self) -> int:
        """What the model hears, in Hz."""
        return self.config.frontend.sample_rate

    @property
    def frame_shift_s(self) -> float:
        """Seconds from one frame to the next."""
        return float(self.frontend.frame_shift_s)

    def prefix_of(self, language: str | None = None, *, plain: bool = False) -> Tensor:
        """Return the rows (1, 2) of the table that announce a language of ``language_ids`` and a style.

        Args:
            language: None asks to find it out.
            plain: whether text comes as it is spoken, without punctuation and figures.
        """
        row = ANY_LANGUAGE if language is None else LANGUAGES[language][0]
        return torch.tensor([[row, SPOKEN if plain else WRITTEN]])

    def features(self, wav: Tensor, wav_lens: Tensor) -> tuple[Tensor, Tensor]:
        """Map ``wav`` (B, S) in [-1, 1] to normalised features (B, T, F), float32 under any autocast, and lengths.

        Utterances too short for a frame are extended with zeros to one.
        """
        wav, wav_lens = extended(wav, wav_lens, self.config.frontend.frame_length_samples)
        return normalized_features(self.frontend, self.normalizer, wav, wav_lens)

    def encode(self, wav: Tensor, wav_lens: Tensor, *, prefix: Tensor | None = None) -> SenseVoiceOutput:
        """Encode waveforms.

        Args:
            wav: (B, S) float32 in [-1, 1] at the front end's sample rate; anything beyond ``wav_lens``.
            wav_lens: (B,) samples.
            prefix: (B or 1, 2) of `prefix_of`; None asks for written text of an unknown language.
        """
        return self.encode_features(*self.features(wav, wav_lens), prefix=prefix)

    def encode_features(self, feats: Tensor, feat_lens: Tensor, *, prefix: Tensor | None = None) -> SenseVoiceOutput:
        """Encode what `features` returns, (B, T, F) and (B,); the rest as in `encode`."""
        prefix = self.prefix_of() if prefix is None else prefix
        language, style = prefix.to(feats.device).expand(feats.size(0), 2).unbind(1)
        rows = [language, torch.full_like(language, EMOTION), torch.full_like(language, EVENT), style]
        queries = self.queries(torch.stack(rows, dim=1))
        num_queries = queries.size(1)
        enc, _ = self.encoder(torch.cat([queries.to(feats.dtype), feats], dim=1), feat_lens + num_queries)
        log_probs = self.ctc(enc)
        return SenseVoiceOutput(
            log_probs=log_probs[:, num_queries:], lens=feat_lens, label_log_probs=log_probs[:, :num_queries]
        )

    def language_probs(self, out: SenseVoiceOutput) -> Tensor:
        """Return the probability (B, L) of each language of ``language_ids`` in its order; what is left is none."""
        ids = torch.tensor(list(self.language_ids.values()), dtype=torch.long, device=out.lens.device)
        return out.label_log_probs[:, 0, ids].exp()

    def tags(self, out: SenseVoiceOutput) -> list[tuple[str | None, str | None]]:
        """Return the emotion and the event of each utterance, in lower case; None: it is unknown."""
        emotions = _best_labels(out.label_log_probs[:, 1], self._emotion_ids)
        events = _best_labels(out.label_log_probs[:, 2], self._event_ids)
        return list(zip(emotions, events, strict=True))

    def loss(self, batch: SpeechBatch) -> LossOutput:
        """Return the CTC loss of the transcript, in nats per utterance that has one; the language is not announced."""
        feats, feat_lens = self.features(batch.wav, batch.wav_lens)
        feats = augmented(self.spec_augment, feats, feat_lens, stacked=self.config.frontend.lfr_window)
        out = self.encode_features(feats, feat_lens)
        tokens, token_lens = batch.asr_tokens, batch.asr_token_lens
        if batch.prefix is not None:  # a tokenizer of languages and tasks puts these two before the text
            tokens, token_lens = tokens[:, 2:], token_lens - 2
        losses = self.ctc.loss(out.log_probs, out.lens, tokens, token_lens)
        total = (losses * batch.asr_valid).sum() / batch.asr_valid.sum().clamp(min=1)
        weight = torch.tensor(float(len(batch.wav)), device=total.device)
        return LossOutput(total=total, parts={"ctc": total.detach()}, weight=weight)

    @torch.no_grad()
    def recognize(self, batch: SpeechBatch) -> list[list[int]]:
        """Return the greedy token ids of each utterance."""
        out = self.encode(batch.wav, batch.wav_lens)
        return [path.tokens for path in greedy(out.log_probs, out.lens, self.blank_id)]


def _best_labels(log_probs: Tensor, ids: Mapping[str, int]) -> list[str | None]:
    """Return the most probable of the labels ``ids`` for each row of ``log_probs`` (B, V)."""
    if not ids:
        return [None] * len(log_probs)
    columns = torch.tensor(list(ids.values()), device=log_probs.device)
    names = [list(ids)[best] for best in log_probs[:, columns].argmax(dim=1).tolist()]
    return [None if name in UNKNOWN_LABELS else name.lower() for name in names]

"""How speech is to be decoded, for whoever wants it otherwise than by default."""

import math
from dataclasses import dataclass
from pathlib import Path

from speechnar.errors import ConfigError

AUTO = "auto"
"""The language that is given where it is to be detected."""
DEFAULT_LM_WEIGHT = 0.5
DEFAULT_WORD_WEIGHT = 0.3
DEFAULT_HOTWORD_WEIGHT = 1.0
"""Of CTC's search: a nat for each token."""


@dataclass(frozen=True, kw_only=True)
class DecodeOptions:
    """Choices beyond language and word times; the defaults suit most recordings.

    Raises:
        ConfigError: a value lies outside its range, or would have no effect.
    """

    decoder: str | None = None
    """``ctc``, ``cassnat``, ``paraformer``, ``refiner`` or ``transformer_ar``; None takes the model's own, which is CTC
    where it has one."""
    num_alignments: int | None = None
    """CASS-NAT: alignments sampled and decoded, of which the best result is kept; None takes the best path alone."""
    beam_size: int | None = None
    """Prefixes kept by the beam search; None takes the best path, unless there is a language model or a hotword."""
    lm: str | Path | None = None
    """ARPA file, plain or gzip, over words (characters, where writing has no spaces) or over the model's pieces. A word
    that it does not hold as the model writes it is looked up without punctuation, in lower or upper case."""
    lm_weight: float | None = None
    """Of the log-probabilities of ``lm``; None: `DEFAULT_LM_WEIGHT`."""
    word_weight: float | None = None
    """Of the lists of how often words are said that a model's folder may hold (`speechnar.text.words`), by which CTC
    writes words that exist where there are some; None: `DEFAULT_WORD_WEIGHT`, unless there is ``lm``; 0: the best path
    alone, which is faster and knows no words."""
    hotwords: tuple[str, ...] = ()
    """Phrases to favour, in the model's own spelling."""
    hotword_weight: float | None = None
    """CTC: nats per token of a hotword; None: `DEFAULT_HOTWORD_WEIGHT`, which suits characters; subwords take 1 to 3. A
    higher one finds more of the words and writes more of them where they were not said. A Paraformer that learnt
    hotwords (SeACo): the share, in [0, 1], of its bias decoder in tokens where that hears one; None: 1."""
    plain: bool = False
    """Write lower case without punctuation, as the normaliser ``basic`` of scores has it, whatever the model writes."""
    prompt: str | None = None
    """What was said before."""
    vad: bool | None = None
    """Decode only what voice activity detection calls speech; None: only where a recording is longer than a window."""
    window_s: float = 30.0
    """What the model hears at once; longer recordings are cut at pauses or, without VAD, into overlapping windows."""
    pad: bool | None = None
    """Pad every clip with silence, to a window or to what the model was trained on; None: only for models that were
    trained on padded clips alone, as the published OWSM-CTC were."""
    batch_seconds: float | None = None
    """Audio decoded together, padding included; None: 30 on a CPU, whose caches hold no more, and 120 elsewhere."""

    def __post_init__(self) -> None:
        """Check ranges, and that nothing is given in vain."""
        if isinstance(self.hotwords, str):
            raise ConfigError(f"hotwords must be a sequence of phrases, got one string {self.hotwords!r}")
        object.__setattr__(self, "hotwords", tuple(self.hotwords))
        for name in ("beam_size", "num_alignments"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} must be at least 1, got {value}")
        if not 1 <= self.window_s < math.inf:
            raise ConfigError(f"window_s must be at least 1 s, got {self.window_s}")
        if self.batch_seconds is not None and not 0 < self.batch_seconds < math.inf:
            raise ConfigError(f"batch_seconds must be above 0, got {self.batch_seconds}")
        if self.word_weight is not None and not 0 <= self.word_weight < math.inf:
            raise ConfigError(f"word_weight must be at least 0, got {self.word_weight}")
        if self.word_weight and self.lm is not None:
            raise ConfigError("word_weight has no effect beside lm; give one of them")
        for name, weighed in (("lm_weight", "lm"), ("hotword_weight", "hotwords")):
            weight = getattr(self, name)
            if weight is None:
                continue
            if not math.isfinite(weight):
                raise ConfigError(f"{name} must be finite, got {weight}")
            if not getattr(self, weighed):
                raise ConfigError(f"{name} has no effect without {weighed}; give both, or leave it out")

    @property
    def needs_search(self) -> bool:
        """Whether the best path of CTC is not enough, whatever the model."""
        return self.beam_size is not None or self.lm is not None or bool(self.hotwords)

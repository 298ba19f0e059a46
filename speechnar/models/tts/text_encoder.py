"""T5 as a frozen encoder of text, by the package transformers; its weights are no part of our models.

Shapes: B texts, M tokens, C channels.
Source: Raffel et al., "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer", JMLR 2020.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from speechnar.errors import ConfigError, ModelNotFoundError
from speechnar.extras import needs

ENCODERS = frozenset(
    {f"{owner}t5-{size}" for owner in ("", "google-t5/") for size in ("small", "base", "large", "3b", "11b")}
    | {f"google/flan-t5-{size}" for size in ("small", "base", "large", "xl", "xxl")}
)
"""What a configuration may name. It may be anybody's: nothing else is read for it, and nothing is fetched."""


class TextEncoder:
    """Loads the encoder when it is first needed."""

    def __init__(self, name: str, text_dim: int) -> None:
        self.name = name
        self.text_dim = text_dim
        self._loaded: tuple[Any, Any] | None = None

    @torch.no_grad()
    def encode(self, texts: Sequence[str], device: torch.device) -> tuple[Tensor, Tensor]:
        """Return features (B, M, C) float32 of ``texts`` and their lengths (B,); those of an empty text are 0 long.

        Raises:
            ConfigError: transformers is not installed, or the encoder has another width.
            ModelNotFoundError: it is none of `ENCODERS`, or not in the cache of the Hugging Face hub.
        """
        tokenizer, model = self._load()
        model.to(device)
        inputs = tokenizer([text or " " for text in texts], return_tensors="pt", padding=True).to(device)
        with torch.autocast(device.type, enabled=False):
            # Some tokenizers, by their version of transformers, give more than T5 takes.
            mask = inputs["attention_mask"]
            features: Tensor = model(input_ids=inputs["input_ids"], attention_mask=mask).last_hidden_state.float()
        is_empty = torch.tensor([not text.strip() for text in texts], device=device)
        lens = mask.sum(1).masked_fill(is_empty, 0)
        return features, lens

    def _load(self) -> tuple[Any, Any]:
        if self._loaded is None:
            if self.name not in ENCODERS:
                raise ModelNotFoundError(
                    f"a text encoder must be one of {', '.join(sorted(ENCODERS))}; got {self.name!r}"
                )
            with needs("t5"):
                from transformers import AutoTokenizer, T5EncoderModel  # noqa: PLC0415  # an extra
            try:
                tokenizer = AutoTokenizer.from_pretrained(self.name, local_files_only=True)
                model = T5EncoderModel.from_pretrained(self.name, local_files_only=True)
            except (OSError, ValueError) as error:
                reason = " ".join(str(error).split())[:200]
                raise ModelNotFoundError(
                    f"text encoder {self.name} is not on this machine; fetch it by `hf download {self.name}` ({reason})"
                ) from None
            if model.config.d_model != self.text_dim:
                raise ConfigError(
                    f"text_dim must be the {model.config.d_model} channels of {self.name}, got {self.text_dim}"
                )
            self._loaded = tokenizer, model.eval().requires_grad_(False)
        return self._loaded

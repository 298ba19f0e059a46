"""Whisper's decoder as it is, and made parallel: then it reads all tokens that were heard and writes all at once.

What is heard (by CTC, say) stands where an autoregressive decoder finds the tokens it has written. The hidden vector of
a token is the one from which Whisper would predict it, that of the place before; its causal mask taken off, it also
sees what was heard at its own place and after it. So a decoder that begins from Whisper's weights begins as a language
model that looks at the speech, and has to learn only to trust what is heard.

Shapes: B utterances, N hypotheses, T' positions of the encoder, U tokens, P start slots, D width, V vocabulary.
Source: Radford et al. 2022, section 2.2, for the layers; taking them parallel is ours.
"""

import torch
from torch import Tensor, nn

from speechnar.nn.decoder import CausalDecoder, DecoderMemory, KeyValueCache, cached_length, new_table
from speechnar.nn.embedder import EncodedSpeech
from speechnar.nn.lengths import valid_mask
from speechnar.nn.parallel_decoder import ParallelDecoder

NUM_START_SLOTS = 4
"""What stands before a Whisper's text: start, language, task, and that no times follow."""
MAX_TOKENS = 448
"""Learned positions, of start slots and tokens; those further on are like the last."""


class WhisperTokenDecoder(nn.Module):
    """A `speechnar.nn.parallel_decoder.TokenDecoder` over token embeddings without positions."""

    def __init__(
        self,
        model_dim: int,
        num_layers: int,
        num_heads: int,
        ff_dim: int,
        *,
        dropout: float = 0.1,
        attention_dropout: float = 0.0,
        norm_eps: float = 1e-5,
    ) -> None:
        super().__init__()
        self.num_layers = num_layers
        self.start, self.positions = _slots_and_positions(model_dim)
        self.blocks = ParallelDecoder(
            model_dim,
            num_layers,
            num_heads,
            ff_dim,
            dropout=dropout,
            attention_dropout=attention_dropout,
            norm_eps=norm_eps,
            activation="gelu",
        )

    def project(self, enc: Tensor) -> Tensor:
        """Map ``enc`` (B, T', D) to the keys and values (L, 2, B, H, T', D / H) of all layers."""
        return self.blocks.project(enc)

    def forward(self, x: Tensor, valid: Tensor, keys_values: Tensor, mask: Tensor) -> Tensor:
        """Map as `TokenDecoder` does; ``mask`` is alike for all tokens, (B, 1, 1, T')."""
        slots = len(self.start)
        x = torch.cat([self.start.to(x.dtype).expand(x.size(0), -1, -1), x], dim=1)
        x = x + _at_places(self.positions, 0, x.size(1))
        seen = torch.cat([valid.new_ones(valid.size(0), slots), valid], dim=1)
        hidden = self.blocks(x, seen, keys_values, mask)
        return hidden[:, slots - 1 : -1]


class WhisperCausalDecoder(CausalDecoder):
    """Whisper's own decoder: each token is written from those before it; its embeddings are its output layer, too."""

    def __init__(
        self,
        vocab_size: int,
        model_dim: int,
        num_layers: int,
        num_heads: int,
        ff_dim: int,
        *,
        dropout: float = 0.1,
        attention_dropout: float = 0.0,
        norm_eps: float = 1e-5,
    ) -> None:
        super().__init__(
            new_table(vocab_size, model_dim),
            num_layers,
            num_heads,
            ff_dim,
            feed_forward="gelu",
            dropout=dropout,
            attention_dropout=attention_dropout,
            norm_eps=norm_eps,
        )
        self.output = nn.Linear(model_dim, vocab_size, bias=False)
        self.output.weight = self.embed.weight
        self.start, self.positions = _slots_and_positions(model_dim)

    def forward(self, tokens: Tensor, memory: DecoderMemory, caches: list[KeyValueCache] | None = None) -> Tensor:
        """Map ``tokens`` (N, U), of which each sees itself and those before it, to logits (N, U, V).

        The first token of a text, whatever it is, stands for the start slots. With ``caches`` the others go on from
        the L positions in there; all are added to them.
        """
        first, x = cached_length(caches), self.embed(tokens)
        num_behind = 0
        if first == 0:
            x = torch.cat([self.start.to(x.dtype).expand(len(x), -1, -1), x[:, 1:]], dim=1)
            num_behind = len(self.start) - 1
        x = x + _at_places(self.positions, first, x.size(1))
        logits: Tensor = self.output(self.hidden(x, memory, caches)[:, num_behind:])
        return logits


def _slots_and_positions(model_dim: int) -> tuple[nn.Parameter, nn.Parameter]:
    return (
        nn.Parameter(torch.randn(NUM_START_SLOTS, model_dim) * 0.02),
        nn.Parameter(torch.randn(MAX_TOKENS, model_dim) * 0.02),
    )


def _at_places(positions: Tensor, first: int, count: int) -> Tensor:
    """Return the learned positions (U, D) of ``count`` places from ``first`` on."""
    places = torch.arange(first, first + count, device=positions.device)
    return positions[places.clamp(max=len(positions) - 1)]


def states_of(speech: EncodedSpeech) -> tuple[Tensor, Tensor]:
    """Return the pretrained encoder's states (B, T', D), and which of them are real, (B, T')."""
    assert speech.states is not None and speech.state_lens is not None, "a configuration without them is refused"
    return speech.states, valid_mask(speech.state_lens, speech.states.size(1))


def look_at_states(decoder: WhisperTokenDecoder, speech: EncodedSpeech) -> tuple[Tensor, Tensor]:
    """Return the keys and values of the pretrained encoder's states, and the mask (B, 1, 1, T') of the real ones."""
    states, valid = states_of(speech)
    return decoder.project(states), valid[:, None, None, :]

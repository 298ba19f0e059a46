"""A refiner: reads all tokens that CTC heard, and says of each which tokens should stand there: none to several.

A decoder that has to write as many tokens as were heard cannot mend what CTC missed or heard twice, and the word pieces
of a misheard word are seldom as many as those of the right one. Here the hidden vector of every heard token is split
into several states, and CTC over these decides how many tokens there are. What one pass says is heard by the next.

Shapes: B utterances, T frames, T' states of a pretrained encoder, D frame width, E decoder width, V vocabulary (blank
included), U heard tokens, K states of each.
Sources: Libovický and Helcl, "End-to-End Non-Autoregressive Neural Machine Translation with Connectionist Temporal
Classification", EMNLP 2018, section 3 (state splitting); Chi, Salazar and Kirchhoff, "Align-Refine: Non-Autoregressive
Speech Recognition via Iterative Realignment", NAACL 2021, section 3 (passes, each trained).

Differs from the papers:
- a pass reads the collapsed tokens, as a language model knows them, not an alignment frame by frame.
- the layers can be a Whisper decoder's, begun from its weights (`speechnar.nn.whisper_decoder`).
- blank is decided apart from the tokens, so that a pretrained table of tokens needs no row for it.
"""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from speechnar.config import Config
from speechnar.decode.align import CtcPath
from speechnar.decode.ctc import greedy
from speechnar.errors import ConfigError
from speechnar.models.asr.ctc_embedder import HeardEmbedder, hear
from speechnar.models.base import LossOutput
from speechnar.nn.ctc import NEVER, fits
from speechnar.nn.embedder import EncodedSpeech
from speechnar.nn.lengths import valid_mask
from speechnar.nn.parallel_decoder import ParallelDecoder
from speechnar.nn.positions import sinusoids
from speechnar.nn.whisper_decoder import WhisperTokenDecoder, look_at_states

LEAST_PROB = 1e-5
"""What was heard with less than this is not told apart from what was not heard."""


class RefinerHeadConfig(Config):
    """The decoder."""

    decoder: Literal["transformer", "whisper"] = "transformer"
    """``transformer`` has the width of the encoder and reads its frames. ``whisper``: layers that can begin from
    Whisper's decoder, of its width and with its embeddings, reading the states of a Whisper trunk."""
    num_layers: PositiveInt = 6
    num_heads: PositiveInt = 8
    ff_dim: PositiveInt = 2048
    num_splits: PositiveInt = 2
    """States that each heard token's is split into: the most tokens that can stand in its place."""
    num_passes: PositiveInt = 2
    """Each pass but the first reads what the one before it said."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    attention_dropout: float = Field(default=0.0, ge=0, lt=1)
    norm_eps: float = Field(default=1e-5, gt=0)

    @classmethod
    def debug(cls) -> "RefinerHeadConfig":
        """Return two small layers, for tests."""
        return cls(num_layers=2, num_heads=2, ff_dim=64)


@dataclass(frozen=True, kw_only=True)
class Refined:
    """What a pass says."""

    speech: EncodedSpeech
    """As a decoder sees it: a state for a frame."""
    starts: Tensor
    """(B, U K) int64: the first frame of the heard token that a state belongs to, of the frames the first pass read."""
    ends: Tensor
    """(B, U K) int64: the frame after its last one."""


class RefinerHead(nn.Module):
    """A `SpeechDecoder` on CTC posteriors."""

    tables = ("output.weight", "embedder.table.weight")
    """Weights that are token embeddings, and one tensor."""
    decoder: ParallelDecoder | WhisperTokenDecoder

    def __init__(
        self,
        config: RefinerHeadConfig,
        model_dim: int,
        *,
        vocab_size: int,
        sos_id: int,
        eos_id: int,
        blank_id: int,
        enc_dim: int | None = None,
    ) -> None:
        super().__init__()
        del sos_id, eos_id  # a text that CTC counts has neither
        self.config = config
        self.blank_id = blank_id
        decoder_cls = WhisperTokenDecoder if config.decoder == "whisper" else ParallelDecoder
        self.decoder = decoder_cls(
            model_dim,
            config.num_layers,
            config.num_heads,
            config.ff_dim,
            dropout=config.dropout,
            attention_dropout=config.attention_dropout,
            norm_eps=config.norm_eps,
        )
        table = nn.Embedding(vocab_size, model_dim)
        nn.init.normal_(table.weight, std=model_dim**-0.5)
        self.embedder = HeardEmbedder(table, blank_id=blank_id)
        self.acoustic = nn.Linear(enc_dim or model_dim, model_dim, bias=False)
        self.split = nn.Linear(model_dim, config.num_splits * model_dim)
        self.blank = nn.Linear(model_dim, 1, bias=False)
        self.blank_bias = nn.Parameter(torch.tensor([-2.0, *[2.0] * (config.num_splits - 1)]))
        """At first the first state of a token has something to say, and the others have not."""
        self.trust = nn.Parameter(torch.tensor([1.0] + [0.0] * (config.num_splits - 1)))
        """Weight of what was heard, of the token's own posteriors, in what each state says."""
        self.confidence = nn.Parameter(torch.full((config.num_splits,), 0.3))
        """Weight of the decoder's logits beside it; at first little, because a decoder begins as one that is not asked
        to mend."""
        for module in (self.acoustic, self.split, self.blank):  # at first a pretrained decoder, undisturbed
            nn.init.zeros_(module.weight)
        nn.init.zeros_(self.split.bias)
        self.output = nn.Linear(model_dim, vocab_size, bias=False)
        self.output.weight = table.weight

    def forward(self, heard: Refined, keys_values: Tensor, mask: Tensor) -> Refined:
        """Read what is heard in ``heard.speech``, and say it again.

        Args:
            heard: frames or states, with log-probabilities, through which no gradient flows.
            keys_values: of the frames or states that the decoder reads (`look`).
            mask: likewise.
        """
        speech = heard.speech
        tokens = hear(speech, None, None, self.blank_id)
        frames = torch.bmm(tokens.weights.to(speech.enc.dtype), speech.enc)
        x = self.embedder.embed(tokens.probs) + self.acoustic(frames)
        if isinstance(self.decoder, ParallelDecoder):  # Whisper's has positions of its own
            x = x * x.size(2) ** 0.5 + sinusoids(torch.arange(x.size(1), device=x.device), x.size(2))
        hidden = self.decoder(x, valid_mask(tokens.lens, x.size(1)), keys_values, mask)
        splits = self.config.num_splits
        states = hidden[:, :, None] + self.split(hidden).unflatten(2, (splits, -1))
        return Refined(
            speech=replace(
                speech,
                enc=frames.repeat_interleave(splits, dim=1),
                lens=tokens.lens * splits,
                log_probs=self.log_probs(states, tokens.probs),
            ),
            starts=heard.starts.gather(1, tokens.starts).repeat_interleave(splits, dim=1),
            ends=heard.ends.gather(1, (tokens.ends - 1).clamp(min=0)).repeat_interleave(splits, dim=1),
        )

    def log_probs(self, states: Tensor, probs: Tensor) -> Tensor:
        """Map states (B, U, K, E) to log-probabilities (B, U K, V), float32 under any autocast.

        Texts are a product of two experts: the decoder, and the posteriors ``probs`` (B, U, V) of what was heard.
        """
        is_blank = torch.zeros(probs.size(2), dtype=torch.bool, device=probs.device)
        is_blank[self.blank_id] = True
        heard = probs.clamp(min=LEAST_PROB).log()[:, :, None] * self.trust[:, None]
        said = self.output(states).float() * self.confidence[:, None]
        texts = (heard + said).masked_fill(is_blank, NEVER).log_softmax(3)
        blank = self.blank(states).float() + self.blank_bias[:, None]
        return F.logsigmoid(blank).where(is_blank, F.logsigmoid(-blank) + texts).flatten(1, 2)

    def look(self, speech: EncodedSpeech) -> tuple[Tensor, Tensor]:
        """Return the keys and values of what the decoder reads, and the mask (B, 1, 1, T or T') of what is real."""
        if isinstance(self.decoder, WhisperTokenDecoder):
            return look_at_states(self.decoder, speech)
        return self.decoder.project(speech.enc), speech.valid[:, None, None, :]

    def refine(self, speech: EncodedSpeech) -> list[Refined]:
        """Return what each pass says, in their order.

        Raises:
            ConfigError: ``speech`` has no CTC posteriors.
        """
        if speech.log_probs is None:
            raise ConfigError("a refiner reads CTC posteriors; train the model with a CTC loss")
        frames = torch.arange(speech.enc.size(1), device=speech.enc.device).expand(len(speech.lens), -1)
        said = Refined(speech=replace(speech, log_probs=speech.log_probs.detach()), starts=frames, ends=frames + 1)
        seen = self.look(speech)
        passes: list[Refined] = []
        for _ in range(self.config.num_passes):
            said = self(said, *seen)
            passes.append(said)
            assert said.speech.log_probs is not None
            said = replace(said, speech=replace(said.speech, log_probs=said.speech.log_probs.detach()))
        return passes

    def loss(self, speech: EncodedSpeech, tokens: Tensor, token_lens: Tensor) -> LossOutput:
        """Return the mean of the passes' CTC losses, in nats per utterance.

        An utterance of which so little was heard that its tokens do not fit counts 0; ``unfit`` is the share of those
        in the first pass.
        """
        losses, parts = [], {}
        for number, said in enumerate(self.refine(speech), start=1):
            assert said.speech.log_probs is not None
            nats = F.ctc_loss(
                said.speech.log_probs.transpose(0, 1),
                tokens,
                said.speech.lens,
                token_lens,
                self.blank_id,
                reduction="none",
                zero_infinity=True,
            )
            losses.append(nats.mean())
            parts[f"pass{number}"] = losses[-1].detach()
            if number == 1:
                parts["unfit"] = (~fits(said.speech.lens, tokens, token_lens)).float().mean()
        weight = torch.tensor(float(len(tokens)), device=tokens.device)
        return LossOutput(total=torch.stack(losses).mean(), parts=parts, weight=weight)

    @torch.no_grad()
    def decode(self, speech: EncodedSpeech) -> list[CtcPath]:
        """Return the best path of the last pass; a token stands on the frames of the heard one it comes from."""
        said = self.refine(speech)[-1]
        assert said.speech.log_probs is not None
        paths = greedy(said.speech.log_probs, said.speech.lens, self.blank_id)
        starts, ends = said.starts.tolist(), said.ends.tolist()
        return [
            replace(path, starts=[first[i] for i in path.starts], ends=[last[i - 1] for i in path.ends])
            for path, first, last in zip(paths, starts, ends, strict=True)
        ]

"""One encoder, several decoders: OWSM-CTC's trunk, and CASS-NAT, Paraformer, refiner and autoregressive beside CTC.

The trunk recognises, translates and names the language by CTC; the other decoders read its last encoder output and
write transcripts. All are trained together, and one is chosen when decoding. No decoder reads another's output, except
that CASS-NAT cuts by the alignment of the CTC head and the refiner reads what CTC heard, so adding a decoder changes no
other decoder's output.

Shapes: B utterances, S samples, T' encoder positions of the trunk (its prefix, then frames), T frames, D model width,
V vocabulary (blank included), U tokens.
Sources: OWSM-CTC (`speechnar.models.asr.owsm_ctc`), CASS-NAT (`speechnar.models.asr.cassnat`), Paraformer
(`speechnar.models.asr.paraformer`); the hybrid of CTC and attention on one encoder is Watanabe et al. 2017.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from typing import Any, ClassVar, Literal, cast

import torch
from pydantic import NonNegativeFloat, model_validator
from torch import Tensor, nn

from speechnar.config import Config
from speechnar.data.batch import SpeechBatch
from speechnar.decode.align import CtcPath
from speechnar.errors import ConfigError
from speechnar.models.asr.cassnat import CassNatHead, CassNatHeadConfig
from speechnar.models.asr.owsm_ctc import CtcOutput, OwsmCtc, OwsmCtcConfig
from speechnar.models.asr.paraformer_head import ParaformerHead, ParaformerHeadConfig
from speechnar.models.asr.refiner import RefinerHead, RefinerHeadConfig
from speechnar.models.asr.transformer_ar import TransformerArHead, TransformerArHeadConfig
from speechnar.models.asr.whisper import adopt_decoder
from speechnar.models.base import AsrModel, LossOutput, ModelConfig, SpeechDecoder
from speechnar.nn.embedder import EncodedSpeech
from speechnar.nn.lengths import zero_padding
from speechnar.nn.whisper import WhisperTrunkConfig
from speechnar.nn.whisper_decoder import WhisperCausalDecoder, WhisperTokenDecoder
from speechnar.text.tokenizer import ASR, Tokenizer

CTC = "ctc"


class JointConfig(ModelConfig):
    """The trunk and its further decoders; None leaves one out."""

    kind: Literal["joint"] = "joint"
    trunk: OwsmCtcConfig = OwsmCtcConfig()
    cassnat: CassNatHeadConfig | None = None
    paraformer: ParaformerHeadConfig | None = None
    refiner: RefinerHeadConfig | None = None
    transformer_ar: TransformerArHeadConfig | None = None
    share_decoder: bool = False
    """One decoder of kind ``whisper`` for CASS-NAT and Paraformer, which then differ in how they cut speech."""
    trunk_weight: NonNegativeFloat = 1.0
    """Of the trunk's CTC losses in the total."""
    cassnat_weight: NonNegativeFloat = 1.0
    paraformer_weight: NonNegativeFloat = 1.0
    refiner_weight: NonNegativeFloat = 1.0
    transformer_ar_weight: NonNegativeFloat = 1.0

    @model_validator(mode="after")
    def _check(self) -> "JointConfig":
        if not self.decoders:
            raise ValueError("joint needs one of cassnat, paraformer, refiner and transformer_ar; else use owsm_ctc")
        if not isinstance(self.trunk.encoder, WhisperTrunkConfig) and any(
            reads_states(head) for head in self.decoders.values()
        ):
            raise ValueError(
                "a decoder of kind whisper reads the states of trunk.encoder, which must be of kind whisper"
            )
        return self

    @property
    def decoders(self) -> dict[str, Any]:
        """Configurations of the decoders beside CTC, by name."""
        named = {name: getattr(self, name) for name in ("cassnat", "paraformer", "refiner", "transformer_ar")}
        return {name: config for name, config in named.items() if config is not None}

    @model_validator(mode="after")
    def _check_shared(self) -> "JointConfig":
        heads = (self.cassnat, self.paraformer)
        if self.share_decoder and not all(head is not None and head.decoder == "whisper" for head in heads):
            raise ValueError("share_decoder needs cassnat and paraformer, both with a decoder of kind whisper")
        return self

    def width_of(self, decoder: str) -> int:
        """Return the width of a decoder: that of the encoder it reads."""
        encoder = self.trunk.encoder
        if isinstance(encoder, WhisperTrunkConfig) and reads_states(self.decoders[decoder]):
            return encoder.whisper.model_dim
        return encoder.model_dim

    @classmethod
    def debug(cls) -> "JointConfig":
        """Return a model of well under 1 M parameters with every decoder, for tests."""
        return cls(
            trunk=OwsmCtcConfig.debug(),
            cassnat=CassNatHeadConfig.debug(),
            paraformer=ParaformerHeadConfig.debug(),
            refiner=RefinerHeadConfig.debug(),
            transformer_ar=TransformerArHeadConfig.debug(),
        )


class Joint(AsrModel):
    """The trunk and its decoders."""

    warm_starts: ClassVar[Mapping[str, str]] = {"owsm_ctc": "trunk."}

    def __init__(self, config: JointConfig, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.config = config
        self.trunk = OwsmCtc(config.trunk, tokenizer)
        classes = {
            "cassnat": CassNatHead,
            "paraformer": ParaformerHead,
            "refiner": RefinerHead,
            "transformer_ar": TransformerArHead,
        }
        sos = "<sos>" if "<sos>" in tokenizer.pieces else "<eos>"  # ESPnet's recognisers have one piece for both
        ids = {"blank_id": tokenizer.blank_id, "sos_id": tokenizer.id_of(sos), "eos_id": tokenizer.id_of("<eos>")}
        # The width of the frames, for heads that read them with another width of their own.
        widths = {name: {"enc_dim": config.trunk.encoder.model_dim} for name in ("cassnat", "refiner")}
        self.decoders = nn.ModuleDict(
            {
                name: classes[name](
                    head, config.width_of(name), vocab_size=tokenizer.vocab_size, **ids, **widths.get(name, {})
                )
                for name, head in config.decoders.items()
            }
        )
        if config.share_decoder:
            self._share_decoder()
        self._pieces = tokenizer.pieces
        # What CTC emits but no transcript holds: languages, tasks, <na>. To the other decoders it is blank.
        keep = {tokenizer.unk_id, tokenizer.blank_id}
        is_special = [tokenizer.is_special(i) and i not in keep for i in range(tokenizer.vocab_size)]
        self.register_buffer("_is_special", torch.tensor(is_special), persistent=False)
        self.asr_id = tokenizer.id_of(ASR) if self.trunk.num_prefix else None

    def _share_decoder(self) -> None:
        """Give CASS-NAT the layers and the output of Paraformer."""
        cassnat, paraformer = self.decoders["cassnat"], self.decoders["paraformer"]
        assert isinstance(cassnat, CassNatHead) and isinstance(paraformer, ParaformerHead), "as configured"
        cassnat.decoder, cassnat.out = cast(WhisperTokenDecoder, paraformer.decoder), paraformer.output

    @classmethod
    def from_config(cls, config: JointConfig, tokenizer: Tokenizer) -> "Joint":
        """Build with random weights."""
        return cls(config, tokenizer)

    @property
    def frontend(self) -> nn.Module:
        """The trunk's front end."""
        return self.trunk.frontend

    @property
    def normalizer(self) -> nn.Module:
        """The trunk's normaliser of features."""
        return self.trunk.normalizer

    @property
    def blank_id(self) -> int:
        """The CTC blank."""
        return self.trunk.blank_id

    @property
    def num_prefix(self) -> int:
        """Positions of the trunk's output before the first frame."""
        return self.trunk.num_prefix

    @property
    def sample_rate(self) -> int:
        """What the model hears, in Hz."""
        return self.trunk.sample_rate

    @property
    def frame_shift_s(self) -> float:
        """Seconds from one output frame to the next."""
        return self.trunk.frame_shift_s

    @property
    def decoder_names(self) -> tuple[str, ...]:
        """What can be asked to decode; the first is the default."""
        return (CTC, *self.decoders)

    @property
    def clip_s(self) -> float | None:
        """Seconds to which recognition pads shorter clips; None: it does not."""
        return self.trunk.clip_s

    def features(self, wav: Tensor, wav_lens: Tensor) -> tuple[Tensor, Tensor]:
        """Map waveforms (B, S) to what the trained part of the trunk reads; see `OwsmCtc.features`."""
        return self.trunk.features(wav, wav_lens)

    def frozen_weights(self) -> Iterator[Tensor]:
        """Yield the weights behind `features` that are never trained."""
        return self.trunk.frozen_weights()

    def depth_of(self, name: str) -> int:
        """Return how deep in a pretrained encoder the parameter ``name`` lies; 0 outside of one."""
        return self.trunk.depth_of(name.removeprefix("trunk.")) if name.startswith("trunk.") else 0

    def adopt(self, kind: str, weights: Mapping[str, Tensor], tokenizer: Tokenizer) -> dict[str, Tensor]:
        """Return the weights of a model of ``kind`` under our names.

        Of our encoder's kind they are those of its encoder, and of a Whisper its decoder's as well.
        """
        if kind != self.config.trunk.encoder.kind:
            return super().adopt(kind, weights, tokenizer)
        adopted = {f"trunk.{name}": weight for name, weight in self.trunk.adopt(kind, weights, tokenizer).items()}
        for name, head in self.decoders.items():
            assert isinstance(head, CassNatHead | ParaformerHead | RefinerHead | TransformerArHead), "as built"
            if not reads_states(head.config):
                continue
            assert isinstance(head.decoder, WhisperTokenDecoder | WhisperCausalDecoder), "as configured"
            adopted |= adopt_decoder(
                weights,
                tokenizer,
                self._pieces,
                num_layers=head.decoder.num_layers,
                tables=head.tables,
                prefix=f"decoders.{name}.",
                causal=isinstance(head.decoder, WhisperCausalDecoder),
            )
        return adopted

    def with_decoders(self, names: Collection[str], tokenizer: Tokenizer) -> "Joint | OwsmCtc":
        """Return the model with these decoders beside CTC, which stays; it has this model's weights.

        Raises:
            ConfigError: it has no such decoder.
        """
        unknown = [name for name in names if name not in self.decoder_names]
        if unknown:
            raise ConfigError(f"this model decodes with {', '.join(self.decoder_names)}; got {', '.join(unknown)}")
        kept = [name for name in self.decoders if name in names]
        if not kept:
            return self.trunk
        others: dict[str, Any] = {name: None for name in self.decoders if name not in kept}
        if others:
            others["share_decoder"] = self.config.share_decoder and {"cassnat", "paraformer"} <= {*kept}
        smaller = Joint(self.config.model_copy(update=others), tokenizer)
        smaller.load_state_dict({name: self.state_dict()[name] for name in smaller.state_dict()})
        return smaller.train(self.training)

    def encode(self, wav: Tensor, wav_lens: Tensor, **context: Tensor | None) -> CtcOutput:
        """Encode waveforms (B, S) with the trunk; the context is as in `OwsmCtc.encode`."""
        return self.trunk.encode(wav, wav_lens, **context)  # type: ignore[arg-type]  # of the trunk's keywords

    def head(self, name: str) -> SpeechDecoder:
        """Return the decoder ``name``, not CTC.

        Raises:
            ConfigError: this model has none of that name.
        """
        if name not in self.decoders:
            raise ConfigError(f"this model decodes with {', '.join(self.decoder_names)}; got {name!r}")
        return cast(SpeechDecoder, self.decoders[name])

    def decode(self, out: CtcOutput, decoder: str, **options: Any) -> list[CtcPath]:
        """Decode the trunk's output with another decoder than CTC; frames count from the first one of audio.

        Raises:
            ConfigError: this model has no such decoder.
        """
        return self.head(decoder).decode(self.encoded_speech(out), **options)

    def encoded_speech(self, out: CtcOutput) -> EncodedSpeech:
        """Return what the decoders see of the trunk's output: its frames, and its posteriors over text."""
        prefix = self.num_prefix
        speech = EncodedSpeech(
            enc=out.enc[:, prefix:],
            lens=out.lens - prefix,
            log_probs=out.log_probs[:, prefix:],
            states=out.states,
            state_lens=out.state_lens,
        )
        assert speech.log_probs is not None
        return replace(
            speech,
            enc=zero_padding(speech.enc, speech.valid),
            log_probs=_fold(speech.log_probs, cast(Tensor, self._is_special), self.blank_id),
        )

    def loss(self, batch: SpeechBatch) -> LossOutput:
        """Return the weighted sum of all losses, in nats per utterance.

        The decoders learn from the utterances that are to be recognised and have a transcript.
        """
        trunk, out = self.trunk.loss_and_output(batch)
        speech = self.encoded_speech(out)
        tokens, token_lens = batch.asr_tokens, batch.asr_token_lens
        learn = batch.asr_valid
        if self.num_prefix and batch.prefix is not None:
            learn = learn & (batch.prefix[:, 1] == self.asr_id)
            tokens, token_lens = tokens[:, 2:], token_lens - 2
        rows = learn.nonzero().squeeze(1)
        share = torch.tensor(len(rows) / len(learn), device=learn.device)
        if not len(rows):  # every parameter keeps its place in the graph
            rows = torch.zeros(1, dtype=torch.long, device=learn.device)
        speech = speech.at(rows)  # of several masked copies, the first
        tokens, token_lens = tokens[rows], token_lens[rows]
        total, parts = self.config.trunk_weight * trunk.total, dict(trunk.parts)
        for name in self.decoders:
            output = self.head(name).loss(speech, tokens, token_lens)
            # A mean over the rows that learn; the total is one over the whole batch.
            total = total + getattr(self.config, f"{name}_weight") * share * output.total
            parts |= {name: (share * output.total).detach()}
            parts |= {f"{name}_{part}": (share * value).detach() for part, value in output.parts.items()}
        return LossOutput(total=total, parts=parts, weight=trunk.weight)

    @torch.no_grad()
    def recognize(self, batch: SpeechBatch) -> list[list[int]]:
        """Return the token ids of CTC's best path."""
        return self.trunk.recognize(batch)

    @torch.no_grad()
    def recognize_with(self, batch: SpeechBatch) -> dict[str, list[list[int]]]:
        """Return the token ids of every decoder by its name."""
        out = self.trunk.encode_batch(batch)
        found = {name: [path.tokens for path in self.decode(out, name)] for name in self.decoders}
        return {CTC: self.trunk.best_tokens(out), **found}


def reads_states(head: Config) -> bool:
    """Whether a decoder of this configuration reads the states of a Whisper trunk, with Whisper's own layers."""
    return getattr(head, "decoder", None) == "whisper"


def _fold(log_probs: Tensor, is_special: Tensor, blank_id: int) -> Tensor:
    """Add the mass of special pieces to blank, and leave them none."""
    gathered = is_special.clone()
    gathered[blank_id] = True
    if torch.compiler.is_exporting():  # a graph cannot choose columns by a mask
        blank = log_probs.masked_fill(~gathered, -torch.inf).logsumexp(dim=-1)
    else:
        blank = log_probs[..., gathered].logsumexp(dim=-1)
    folded = log_probs.masked_fill(is_special, -torch.inf)
    folded[..., blank_id] = blank
    return folded

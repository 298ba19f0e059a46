"""Whisper as a source of weights: what its own decoder sees, and what others take."""

import pytest
import torch

from speechnar.errors import ConfigError
from speechnar.models.asr.whisper import Whisper, WhisperModelConfig, adopt_decoder
from speechnar.text.byte_pairs import BYTE_LETTERS, BytePairTokenizer
from speechnar.train.run import RunConfig, run_training

SPECIALS = (
    "<|endoftext|>",
    "<|startoftranscript|>",
    "<|zh|>",
    "<|fr|>",
    "<|xx|>",
    "<|transcribe|>",
    "<|notimestamps|>",
)


@pytest.fixture(scope="module")
def tokenizer():
    return BytePairTokenizer([*BYTE_LETTERS.values(), *SPECIALS, "<blank>", "<unk>"], [])


@pytest.fixture(scope="module")
def model(tokenizer):
    torch.manual_seed(0)
    config = WhisperModelConfig.debug().model_copy(update={"num_tokens": tokenizer.vocab_size - 2})
    return Whisper.from_config(config, tokenizer).eval()


@torch.no_grad()
def test_a_token_sees_those_before_it_and_the_real_states(model):
    feats, lens = torch.randn(2, 24, 20), torch.tensor([24, 15])
    enc, enc_lens = model.encode(feats, lens)
    assert enc_lens.tolist() == [12, 8]
    tokens = torch.randint(0, 100, (2, 6))
    logits = model(tokens, enc, enc_lens)
    changed = tokens.clone()
    changed[:, 4] += 1
    differs = (model(changed, enc, enc_lens) - logits).abs().amax(2) > 1e-6
    assert differs.tolist() == [[False] * 4 + [True] * 2] * 2
    alone = model(tokens[1:], *model.encode(feats[1:, :15], lens[1:]))
    torch.testing.assert_close(logits[1:], alone, atol=1e-5, rtol=1e-4)


def test_pieces_take_the_embeddings_of_the_same_text(model, tokenizer):
    pieces = ["<blank>", "<cmn>", "<fra>", "<deu>", "<asr>", "a", "b", "<eos>"]
    weights = model.state_dict()
    adopted = adopt_decoder(weights, tokenizer, pieces, num_layers=2, tables=("embeds",), prefix="head.")
    table = model.token_embed.weight
    theirs = [None, "<|zh|>", "<|fr|>", None, "<|transcribe|>", "a", "b", "<|endoftext|>"]
    for row, name in zip(adopted["head.embeds"], theirs, strict=True):
        torch.testing.assert_close(row, torch.zeros(32) if name is None else table[tokenizer.id_of(name)])
    start = adopted["head.decoder.start"]
    torch.testing.assert_close(start[1], table[[tokenizer.id_of("<|zh|>"), tokenizer.id_of("<|fr|>")]].mean(0))
    torch.testing.assert_close(start[3], table[tokenizer.id_of("<|notimestamps|>")])
    blocks = {name for name in adopted if name.startswith("head.decoder.blocks.")}
    assert blocks == {f"head.decoder.blocks.{name}" for name in model.decoder.state_dict()}
    assert len(adopted) == 1 + 2 + len(blocks)


@pytest.mark.parametrize("causal", [False, True])
def test_fewer_layers_are_taken_evenly_spaced(tokenizer, causal):
    torch.manual_seed(0)
    config = WhisperModelConfig.debug().model_copy(update={"num_tokens": tokenizer.vocab_size - 2, "decoder_layers": 5})
    whisper = Whisper.from_config(config, tokenizer)

    def adopt(num_layers):
        return adopt_decoder(
            whisper.state_dict(), tokenizer, ["a", "<fra>"], num_layers=num_layers, tables=(), prefix="", causal=causal
        )

    theirs = [layer.query.weight for layer in whisper.decoder.layers]
    values = whisper.decoder.key_value.weight.chunk(5)
    name = "decoder.layers.{}.cross_attention.query.weight" if causal else "decoder.blocks.layers.{}.query.weight"
    for kept in ([0], [0, 4], [0, 2, 4], [0, 1, 2, 3, 4]):
        adopted = adopt(len(kept))
        for place, number in enumerate(kept):
            torch.testing.assert_close(adopted[name.format(place)], theirs[number])
            if causal:
                key_value = adopted[f"decoder.layers.{place}.cross_attention.key_value.weight"]
                torch.testing.assert_close(key_value, values[number])
        assert name.format(len(kept)) not in adopted
    with pytest.raises(ConfigError, match="has 5 layers, too few for a decoder of 6"):
        adopt(6)


def test_it_is_not_trained(tmp_path, tokenizer):
    tokenizer.save(tmp_path / "tokenizer")
    config = RunConfig.model_validate(
        {
            "model": {"kind": "whisper"},
            "data": {"train": tmp_path, "dev": tmp_path},
            "train": {"max_steps": 1},
            "tokenizer": tmp_path / "tokenizer",
        }
    )
    with pytest.raises(ConfigError, match="kind whisper"):
        run_training(config, tmp_path / "exp")

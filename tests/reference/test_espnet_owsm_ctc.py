"""OWSM-CTC here and in ESPnet on the same random weights: features, heads, text, long recordings, loss, and keys."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from speechnar.data.batch import SpeechBatch
from speechnar.decode.ctc import greedy
from speechnar.decode.longform import LongformConfig, transcribe_stream
from speechnar.interop.espnet import convert_espnet
from speechnar.interop.espnet_names import check_fit, map_state
from speechnar.interop.espnet_options import parse_options
from speechnar.models.asr.owsm_ctc import OwsmCtc, OwsmCtcConfig
from speechnar.models.base import load_model
from speechnar.text.tokenizer import CharTokenizer
from tests.reference.espnet_models import (
    RATE,
    build,
    import_espnet,
    owsm_ctc_options,
    published_options,
    spread_tokens,
    train_tokenizer,
    write_folder,
    write_stats,
)
from tests.unit.tiny import speechlike

pytestmark = pytest.mark.slow
TOLERANCE = {"atol": 1e-4, "rtol": 0.0}


@dataclass(frozen=True)
class Pair:
    reference: Any
    """ESPnet's ``Speech2TextGreedySearch``."""
    model: OwsmCtc

    @property
    def espnet(self) -> Any:
        return self.reference.s2t_model

    def ids(self, *pieces: str) -> list[int]:
        return [self.espnet.token_list.index(piece) for piece in pieces]

    def text(self, tokens: list[int]) -> str:
        """Return the text of ``tokens`` as ESPnet prints it, unknown ones left out."""
        tokenizer = self.reference.ours
        return tokenizer.decode(token for token in tokens if token != tokenizer.unk_id)

    @torch.no_grad()
    def reference_heads(
        self, wav: Tensor, prompt: Tensor, prompt_lens: Tensor, prefix: Tensor
    ) -> tuple[Tensor, Tensor, list[Tensor], Tensor]:
        """Return encoder output, its log-probabilities, those of the intermediate heads, and lengths."""
        lens = torch.full((wav.size(0),), wav.size(1))
        encoded = self.espnet.encode(wav, lens, prompt.clone(), prompt_lens, prefix, torch.full_like(prompt_lens, 2))
        return self._heads(encoded)

    @torch.no_grad()
    def reference_heads_of_features(self, feats: Tensor, lens: Tensor, prefix: Tensor) -> Any:
        """Return the same from normalised features, without a prompt."""
        espnet = self.espnet
        na = torch.full((feats.size(0), 1), espnet.na)
        memory, _, _ = espnet.prompt_encoder(espnet.pos_enc(espnet.embed(na)), torch.ones(feats.size(0), dtype=int))
        out, out_lens, _ = espnet.encoder(
            feats,
            lens,
            ctc=espnet.ctc,
            prefix_embeds=espnet.embed_proj(espnet.embed(prefix)),
            memory=espnet.prompt_proj(memory),
            memory_mask=torch.ones(feats.size(0), 1, 1, dtype=torch.bool),
        )
        return self._heads((out, out_lens))

    def _heads(self, encoded: Any) -> tuple[Tensor, Tensor, list[Tensor], Tensor]:
        (enc, inter), lens = encoded
        log_softmax = self.espnet.ctc.log_softmax
        return enc, log_softmax(enc), [log_softmax(x) for _, x in inter], lens


CONFIGURATIONS: dict[str, dict[str, Any]] = {
    # the width of our "small"; equal widths leave out the projections of the prompt
    "three heads": {"dim": 256, "num_blocks": 6, "heads": 4, "interctc": [2, 4]},
    # as many heads and mel bands as the published v4, and its projections and stored statistics
    "five heads": {"dim": 64, "num_blocks": 9, "heads": 2, "interctc": [2, 4, 5, 7], "prompt_dim": 32, "num_mels": 128},
    "relative": {"dim": 32, "num_blocks": 3, "heads": 2, "interctc": [1], "relative": True},
}


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    return import_espnet(tmp_path_factory.mktemp("espnet"))


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer()


@pytest.fixture(scope="module")
def pairs(task, tokenizer, tmp_path_factory):
    from espnet2.bin.s2t_inference_ctc import Speech2TextGreedySearch

    folder = tmp_path_factory.mktemp("models")
    made = {}
    for name, shape in CONFIGURATIONS.items():
        stats = write_stats(folder / "stats.npz", shape["num_mels"]) if name == "five heads" else None
        options = owsm_ctc_options(tokenizer.pieces, **shape, stats=stats)
        espnet = build(task, options)
        spread_tokens(espnet, torch.from_numpy(speechlike(10.0))[None])
        source = write_folder(folder / name, espnet, options, tokenizer)
        reference = Speech2TextGreedySearch(
            s2t_train_config=str(source / "config.yaml"),
            s2t_model_file=str(source / "valid.total_count.ave.pth"),
            bpemodel=str(source / "bpe.model"),
            lang_sym="<eng>",
            task_sym="<asr>",
        )
        convert_espnet(source, folder / f"{name} converted")
        loaded = load_model(folder / f"{name} converted")
        reference.ours = loaded.tokenizer
        made[name] = Pair(reference, loaded.model)
    return made


@pytest.fixture(params=list(CONFIGURATIONS))
def pair(pairs, request):
    return pairs[request.param]


def assert_heads_agree(ours, theirs, lens=None):
    """Compare the output of every head, up to ``lens`` where given."""
    enc, log_probs, inter, their_lens = theirs
    assert ours.lens.tolist() == their_lens.tolist()
    assert len(ours.inter_log_probs) == len(inter)
    for b, n in enumerate(their_lens.tolist() if lens is None else lens):
        torch.testing.assert_close(ours.enc[b, :n], enc[b, :n], **TOLERANCE)
        torch.testing.assert_close(ours.log_probs[b, :n], log_probs[b, :n], **TOLERANCE)
        for our_head, their_head in zip(ours.inter_log_probs, inter, strict=True):
            torch.testing.assert_close(our_head[b, :n], their_head[b, :n], **TOLERANCE)


@pytest.mark.parametrize("num_samples", [160000, 480000, 116989, 2561])
@torch.no_grad()
def test_features_encoder_and_every_head_agree(pair, num_samples):
    wav = torch.from_numpy(speechlike(num_samples / RATE, seed=num_samples))[None]
    lens = torch.tensor([num_samples])
    feats, feat_lens = pair.espnet._extract_feats(wav, lens)
    feats, _ = pair.espnet.normalize(feats.clone(), feat_lens)
    ours, our_lens = pair.model.features(wav, lens)
    assert our_lens.tolist() == feat_lens.tolist()
    torch.testing.assert_close(ours, feats, **TOLERANCE)
    prefix = torch.tensor([pair.ids("<eng>", "<asr>")])
    theirs = pair.reference_heads(wav, torch.tensor([pair.ids("<na>")]), torch.tensor([1]), prefix)
    assert_heads_agree(pair.model.encode(wav, lens, prefix=prefix), theirs)


@torch.no_grad()
def test_a_batch_with_different_languages_tasks_and_prompts_agrees(pair):
    wav = torch.from_numpy(np.stack([speechlike(4.003, seed=7)] * 3))
    lens = torch.full((3,), wav.size(1))
    prefix = torch.tensor([pair.ids("<eng>", "<asr>"), pair.ids("<nolang>", "<st_zho>"), pair.ids("<zho>", "<asr>")])
    rng = np.random.default_rng(0)
    prompts = [torch.tensor(pair.ids("<na>")), *(torch.from_numpy(rng.integers(20, 290, n)) for n in (17, 5))]
    prompt_lens = torch.tensor([1, 17, 5])
    pad = torch.nn.utils.rnn.pad_sequence
    theirs = pair.reference_heads(wav, pad(prompts, True, -1), prompt_lens, prefix)
    ours = pair.model.encode(wav, lens, prefix=prefix, prompt=pad(prompts, True, 0), prompt_lens=prompt_lens)
    assert_heads_agree(ours, theirs)
    assert (ours.log_probs[1] - ours.log_probs[0]).abs().max() > 0.01  # or the comparison would mean little


@torch.no_grad()
def test_leaky_padding_reproduces_a_padded_batch(pair):
    config = pair.model.config
    leaky_encoder = config.encoder.model_copy(update={"leaky_padding": True})
    leaky = OwsmCtc(config.model_copy(update={"encoder": leaky_encoder}), pair.reference.ours).eval()
    leaky.load_state_dict(pair.model.state_dict())
    feats = torch.randn(3, 611, pair.model.frontend.num_features, generator=torch.Generator().manual_seed(0))
    lens = torch.tensor([611, 300, 450])
    for i, n in enumerate(lens.tolist()):
        feats[i, n:] = 0.0
    prefix = torch.tensor([pair.ids("<eng>", "<asr>")] * 3)
    theirs = pair.reference_heads_of_features(feats, lens, prefix)
    assert_heads_agree(leaky.encode_features(feats, lens, prefix=prefix), theirs)
    tight = pair.model.encode_features(feats, lens, prefix=prefix)
    assert (tight.enc[1, :30] - theirs[0][1, :30]).abs().max() > 1e-3  # the leak is real


@torch.no_grad()
def test_utterances_of_a_padded_batch_agree_with_each_alone(pair):
    wavs = [torch.from_numpy(speechlike(seconds, seed=3)) for seconds in (5.0, 1.77, 3.3333)]
    lens = torch.tensor([wav.numel() for wav in wavs])
    prefix = torch.tensor([pair.ids("<eng>", "<asr>")] * 3)
    batch = pair.model.encode(torch.nn.utils.rnn.pad_sequence(wavs, True, torch.nan), lens, prefix=prefix)
    na = torch.tensor([pair.ids("<na>")])
    for i, wav in enumerate(wavs):
        enc, log_probs, _, their_lens = pair.reference_heads(wav[None], na, torch.tensor([1]), prefix[:1])
        n = int(batch.lens[i])
        # In a batch of one ESPnet counts no frame that is not fully real either.
        assert n == int(their_lens)
        torch.testing.assert_close(batch.enc[i, :n], enc[0], **TOLERANCE)
        torch.testing.assert_close(batch.log_probs[i, :n], log_probs[0], **TOLERANCE)


@pytest.mark.parametrize("with_prompt", [False, True])
@torch.no_grad()
def test_greedy_text_is_the_same(pair, with_prompt):
    wav = speechlike(10.0, seed=1)
    previous = pair.text(list(range(30, 60))) if with_prompt else "<na>"
    ((_, _, their_tokens, their_text, _),) = pair.reference(wav, previous)
    prompt = pair.reference.ours.encode(previous)
    out = pair.model.encode(
        torch.from_numpy(wav)[None],
        torch.tensor([len(wav)]),
        prefix=torch.tensor([pair.ids("<eng>", "<asr>")]),
        prompt=torch.tensor([prompt]),
        prompt_lens=torch.tensor([len(prompt)]),
    )
    (path,) = greedy(out.log_probs, out.lens, pair.model.blank_id)
    assert path.tokens == their_tokens
    assert len(set(path.tokens)) > 10
    assert pair.text(path.tokens) == their_text.strip()


def longform_text(pair, wav, context_s):
    prefix = torch.tensor(pair.ids("<eng>", "<asr>"))

    @torch.no_grad()
    def encode(wav, wav_lens):
        out = pair.model.encode(wav, wav_lens, prefix=prefix.expand(len(wav), 2))
        return out.log_probs, out.lens

    result = transcribe_stream(
        [wav],
        encode,
        config=LongformConfig(context_s=context_s, batch_size=2, reference_offset=True),
        blank_id=pair.model.blank_id,
        sample_rate=RATE,
        frame_shift_s=pair.model.frame_shift_s,
        num_prefix=pair.model.num_prefix,
    )
    return pair.text(result.path.tokens)


LENGTHS = [round(29.99 * RATE), 30 * RATE, round(30.01 * RATE), 52 * RATE, *(74 * RATE + i for i in (-1, 0, 1))]


@pytest.mark.parametrize("num_samples", LENGTHS)
def test_long_recordings_give_the_same_text(pairs, num_samples):
    pair = pairs["five heads"]
    wav = speechlike(num_samples / RATE, seed=2)
    theirs = pair.reference.decode_long_batched_buffered(wav, batch_size=2, context_len_in_secs=2)
    assert len(theirs.split()) > 50
    assert longform_text(pair, wav, 2) == theirs.strip()


@pytest.mark.parametrize("num_samples", [29 * RATE, round(30.01 * RATE), 52 * RATE])
def test_batch_decode_gives_the_same_text(pairs, num_samples):
    pair = pairs["five heads"]
    wav = speechlike(num_samples / RATE, seed=5)
    theirs = pair.reference.batch_decode(wav, batch_size=2, context_len_in_secs=4)
    if num_samples > 30 * RATE:
        ours = longform_text(pair, wav, 4)
    else:
        padded = torch.from_numpy(np.pad(wav, (0, 30 * RATE - num_samples)))[None]
        prefix = torch.tensor([pair.ids("<eng>", "<asr>")])
        with torch.no_grad():
            out = pair.model.encode(padded, torch.tensor([30 * RATE]), prefix=prefix)
        ours = pair.text(greedy(out.log_probs, out.lens, pair.model.blank_id)[0].tokens)
    assert ours == theirs.strip()


def test_loss_agrees_with_targets_that_are_absent_or_too_long(pair):
    wav = torch.from_numpy(np.stack([speechlike(3.0, seed=i) for i in range(5)]))
    lens = torch.full((5,), wav.size(1))
    rng = np.random.default_rng(0)
    (na,) = pair.ids("<na>")
    head = pair.ids("<eng>", "<st_zho>")

    def target(n: int) -> Tensor:
        return torch.tensor([*head, *rng.integers(20, 290, n)])

    absent = torch.tensor([*head, na])
    task_targets = [target(4), absent, target(60), target(9), target(3)]  # 3 s have 37 frames
    asr_targets = [absent, target(6), target(7), absent, target(1)]
    prompts = [torch.tensor([na]), target(15), target(2), torch.tensor([na]), target(1)]
    pad = torch.nn.utils.rnn.pad_sequence

    def lens_of(rows: list[Tensor]) -> Tensor:
        return torch.tensor([row.numel() for row in rows])

    prefix = torch.tensor([head] * 5)
    with torch.no_grad():
        total, stats, _ = pair.espnet(
            speech=wav,
            speech_lengths=lens,
            text=pad(task_targets, True, -1),
            text_lengths=lens_of(task_targets),
            text_prev=pad(prompts, True, -1),
            text_prev_lengths=lens_of(prompts),
            text_ctc=pad(asr_targets, True, -1),
            text_ctc_lengths=lens_of(asr_targets),
            prefix=prefix,
            prefix_lengths=torch.full((5,), 2),
        )
        ours = pair.model.loss(
            SpeechBatch(
                wav=wav,
                wav_lens=lens,
                tokens=pad(task_targets, True, 0),
                token_lens=lens_of(task_targets),
                asr_tokens=pad(asr_targets, True, 0),
                asr_token_lens=lens_of(asr_targets),
                tokens_valid=torch.tensor([True, False, True, True, True]),
                asr_valid=torch.tensor([False, True, True, False, True]),
                utt_ids=tuple("abcde"),
                prefix=prefix,
                prompt=pad(prompts, True, 0),
                prompt_lens=lens_of(prompts),
            )
        )
    torch.testing.assert_close(ours.total, total.squeeze(), rtol=1e-5, atol=0.0)
    torch.testing.assert_close(ours.parts["ctc"], stats["loss_ctc"].squeeze(), rtol=1e-5, atol=0.0)
    for layer in pair.model.config.interctc_layers:
        theirs = stats[f"loss_interctc_layer{layer}"].squeeze()
        torch.testing.assert_close(ours.parts[f"interctc{layer}"], theirs, rtol=1e-5, atol=0.0)


@pytest.mark.parametrize(("num_mels", "num_parameters"), [(80, 1_005_050_706), (128, 1_011_342_162)])
def test_every_tensor_of_the_published_models_has_its_place(task, tmp_path, num_mels, num_parameters):
    specials = ["<na>", "<nolang>", "<eng>", "<asr>"]
    pieces = ["<blank>", "<unk>", *specials, *(chr(0x4E00 + i) for i in range(50_002 - 9)), "<sop>", "<sos>", "<eos>"]
    options = published_options(tuple(pieces), num_mels, write_stats(tmp_path / "stats.npz", num_mels))
    import argparse

    with torch.device("meta"):
        theirs = task.S2TTask.build_model(argparse.Namespace(**options))
    assert sum(p.numel() for p in theirs.parameters()) == num_parameters
    state, keys = map_state({name: tensor.to("meta") for name, tensor in theirs.state_dict().items()})
    config = parse_options(options).to_config()
    assert config == OwsmCtcConfig.published(num_mels=num_mels)
    with torch.device("meta"):
        ours = OwsmCtc(config, CharTokenizer(pieces))
    check_fit(ours, state)
    assert sum(p.numel() for p in ours.parameters()) == num_parameters
    assert len(keys) == len(theirs.state_dict())
    assert len({key.destination for key in keys}) == len(keys)

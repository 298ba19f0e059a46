"""Parity with ESPnet 202511 on the same random weights."""

import copy

import numpy as np
import pytest
import torch

from speechnar.data.batch import SpeechBatch
from speechnar.decode.ctc import greedy
from speechnar.decode.longform import LongformConfig, transcribe_stream
from speechnar.models.base import load_model
from speechnar.models.interop import convert_espnet, convert_state, espnet_config
from speechnar.models.owsm_ctc import OwsmCtc, OwsmCtcConfig
from tests.reference import espnet_models as reference

pytestmark = pytest.mark.slow
TOLERANCE = {"atol": 1e-4, "rtol": 1e-4}


@pytest.fixture(scope="module", params=["utterance_mvn", "global_mvn"])
def pair(request, tmp_path_factory):
    """ESPnet's model in memory, our model converted from its files, and the folder."""
    folder = tmp_path_factory.mktemp(request.param)
    reference.require_espnet(folder / "nltk")
    torch.manual_seed(0)
    config = reference.s2t_ctc_config(folder, normalize=request.param)
    if request.param == "global_mvn":
        rng = np.random.default_rng(0)
        frames = rng.normal(-7, 3, (100, 80))
        np.savez(folder / "stats.npz", count=100, sum=frames.sum(0), sum_square=(frames**2).sum(0))
        config["normalize_conf"] = {"stats_file": str(folder / "stats.npz")}
    theirs = reference.perturb(reference.build_s2t_ctc(config), sharpen=3.0)
    reference.save(theirs, config, folder)
    report = convert_espnet(folder, folder / "ours")
    assert {source for key in report.converted for source in key.sources} == set(theirs.state_dict())
    ours = load_model(folder / "ours")
    return theirs, ours, folder, config


def speech(num_samples, seed=0):
    generator = torch.Generator().manual_seed(seed)
    t = torch.arange(num_samples) / 16000
    voice = torch.sin(2 * torch.pi * (150 + 60 * torch.sin(2 * torch.pi * t)) * t)
    return 0.3 * voice * torch.sin(5 * t) + 0.02 * torch.randn(num_samples, generator=generator)


def encode_theirs(model, wav, lens, prefix, prompt, prompt_lens):  # noqa: PLR0917  # as ESPnet's encode
    """Return our view of theirs: final and inter log-probabilities, encoder output and lengths."""
    with torch.no_grad():
        enc, enc_lens = model.encode(wav, lens, prompt.clone(), prompt_lens, prefix, torch.full((len(wav),), 2))
        inter: list = []
        if isinstance(enc, tuple):
            enc, inter = enc
        return model.ctc.log_softmax(enc), [model.ctc.log_softmax(out) for _, out in inter], enc, enc_lens


@torch.no_grad()
def check_encoding(pair, lens, prompts, *, leaky=False):
    theirs, loaded, _, _ = pair
    tokenizer, model = loaded.tokenizer, loaded.model
    wav = torch.zeros(len(lens), max(lens))
    for i, num_samples in enumerate(lens):
        wav[i, :num_samples] = speech(num_samples, seed=i)
    lens = torch.tensor(lens)
    prefix = torch.tensor([[tokenizer.id_of("<eng>"), tokenizer.id_of("<st_deu>")]] * len(lens))
    prompt_lens = torch.tensor([len(p) for p in prompts])
    prompt = torch.full((len(lens), int(prompt_lens.max())), tokenizer.id_of("<eos>"))
    for i, ids in enumerate(prompts):
        prompt[i, : len(ids)] = torch.tensor(ids)
    log_probs, inter, enc, enc_lens = encode_theirs(theirs, wav, lens, prefix, prompt, prompt_lens)
    if leaky:
        config = model.config.model_copy(
            update={"encoder": model.config.encoder.model_copy(update={"leaky_padding": True})}
        )
        leaky_model = OwsmCtc(config, tokenizer).eval()
        leaky_model.load_state_dict(model.state_dict())
        model = leaky_model
    feats, feat_lens = model.features(wav, lens)
    their_feats, their_lens = theirs._extract_feats(wav, lens)
    their_feats, their_lens = theirs.normalize(their_feats, their_lens)
    assert torch.equal(feat_lens, their_lens)
    if leaky:  # the reference's neighbours leak into its features as well: compare the encoders on its features
        out = model.encode_features(their_feats, their_lens, prefix=prefix, prompt=prompt, prompt_lens=prompt_lens)
    else:
        torch.testing.assert_close(feats, their_feats, **TOLERANCE)
        out = model.encode(wav, lens, prefix=prefix, prompt=prompt, prompt_lens=prompt_lens)
    assert torch.equal(out.lens, enc_lens)
    assert len(out.inter_log_probs) == len(inter) == 4
    for i, n in enumerate(enc_lens.tolist()):
        torch.testing.assert_close(out.enc[i, :n], enc[i, :n], **TOLERANCE)
        torch.testing.assert_close(out.log_probs[i, :n], log_probs[i, :n], **TOLERANCE)
        for mine, yours in zip(out.inter_log_probs, inter, strict=True):
            torch.testing.assert_close(mine[i, :n], yours[i, :n], **TOLERANCE)


@pytest.mark.parametrize("num_samples", [160000, 480000, 77777, 2561])
@pytest.mark.parametrize("prompt_len", [1, 17])
def test_one_utterance(pair, num_samples, prompt_len):
    na = pair[1].tokenizer.id_of("<na>")
    prompt = [na] if prompt_len == 1 else list(range(17, 17 + prompt_len))
    check_encoding(pair, [num_samples], [prompt])


def test_batch_of_equal_lengths_with_different_prompts(pair):
    na = pair[1].tokenizer.id_of("<na>")
    check_encoding(pair, [80000] * 3, [[na], list(range(17, 34)), [20, 21, 22]])


def test_padded_batch_with_the_leak_reproduced(pair):
    na = pair[1].tokenizer.id_of("<na>")
    check_encoding(pair, [80000, 50001, 23456], [[na], list(range(17, 34)), [20]], leaky=True)


def short_and_long(folder):
    from espnet2.bin.s2t_inference_ctc import Speech2TextGreedySearch

    return Speech2TextGreedySearch(
        s2t_train_config=str(folder / "config.yaml"),
        s2t_model_file=str(folder / "valid.total_count.ave.pth"),
        bpemodel=str(folder / "bpe.model"),
        device="cpu",
        lang_sym="<eng>",
        task_sym="<asr>",
    )


def test_greedy_text_short_and_long_form(pair):
    _, loaded, folder, _ = pair
    model, tokenizer = loaded.model, loaded.tokenizer
    espnet = short_and_long(folder)
    prefix = torch.tensor([[tokenizer.id_of("<eng>"), tokenizer.id_of("<asr>")]])

    @torch.no_grad()
    def encode(wav, wav_lens):
        out = model.encode(wav, wav_lens, prefix=prefix.expand(len(wav), 2))
        return out.log_probs, out.lens

    for num_samples in (160000, 77777):
        wav = speech(num_samples, seed=9)
        expected = espnet(wav.numpy())[0][2]  # token ids after the collapse
        log_probs, lens = encode(wav[None], torch.tensor([num_samples]))
        (path,) = greedy(log_probs, lens, tokenizer.blank_id)
        assert path.tokens == list(expected)
        assert len(set(path.tokens)) > 3
    config = LongformConfig(buffer_s=30, context_s=2, batch_size=2, reference_offset=True, pad_to_buffer=True)
    for num_samples in (479840, 480000, 480160, 52 * 16000, 74 * 16000 - 1, 74 * 16000 + 1):
        wav = speech(num_samples, seed=3).numpy()
        expected = espnet.decode_long_batched_buffered(wav, batch_size=2, context_len_in_secs=2)
        result = transcribe_stream(
            [wav],
            encode,
            config=config,
            blank_id=tokenizer.blank_id,
            sample_rate=16000,
            frame_shift_s=model.frame_shift_s,
            num_prefix=2,
        )
        assert tokenizer.decode(result.path.tokens).split() == expected.split()


def test_training_loss_with_targets_that_are_not_available(pair):
    theirs, loaded, _, _ = pair
    tokenizer, model = loaded.tokenizer, loaded.model
    lens = torch.tensor([64000, 64000, 64000])
    wav = torch.stack([speech(64000, seed=i) for i in range(3)])
    prefix = torch.tensor([[tokenizer.id_of("<eng>"), tokenizer.id_of("<asr>")]] * 3)
    na = tokenizer.id_of("<na>")
    tokens = torch.tensor([[3, 5, 20, 21, 22, 23], [3, 6, 30, 31, 0, 0], [3, 5, 25, 26, 27, 0]])
    asr = torch.tensor([[3, 5, 20, 21], [na, 0, 0, 0], [3, 5, 25, 26]])
    token_lens, asr_lens = torch.tensor([6, 4, 5]), torch.tensor([4, 1, 4])
    prompt, prompt_lens = torch.full((3, 1), na), torch.ones(3, dtype=torch.int64)
    padded = [
        t.masked_fill(torch.arange(t.size(1)) >= n[:, None], -1) for t, n in ((tokens, token_lens), (asr, asr_lens))
    ]
    with torch.no_grad():
        expected, _, _ = theirs(
            speech=wav,
            speech_lengths=lens,
            text=padded[0],
            text_lengths=token_lens,
            text_prev=prompt.clone(),
            text_prev_lengths=prompt_lens,
            text_ctc=padded[1],
            text_ctc_lengths=asr_lens,
            prefix=prefix,
            prefix_lengths=torch.full((3,), 2),
        )
        batch = SpeechBatch(
            wav=wav,
            wav_lens=lens,
            tokens=tokens,
            token_lens=token_lens,
            asr_tokens=asr,
            asr_token_lens=asr_lens,
            tokens_valid=torch.tensor([True] * 3),
            asr_valid=torch.tensor([True, False, True]),
            prefix=prefix,
            prompt=prompt,
            prompt_lens=prompt_lens,
            utt_ids=("a", "b", "c"),
            sample_rate=16000,
        )
        torch.testing.assert_close(model.loss(batch).total, expected.squeeze(), atol=1e-3, rtol=1e-4)


def test_conformer_encoder(tmp_path):
    reference.require_espnet(tmp_path / "nltk")
    from espnet2.asr.encoder.conformer_encoder import ConformerEncoder

    torch.manual_seed(0)
    document = reference.asr_conformer_config(tmp_path)
    theirs = reference.perturb(ConformerEncoder(80, **document["encoder_conf"]))
    config = espnet_config(document)
    ours = OwsmCtc(config, load_tokenizer_of(tmp_path)).eval()
    state = {f"encoder.{name}": value for name, value in theirs.state_dict().items()}
    state["ctc.ctc_lo.weight"], state["ctc.ctc_lo.bias"] = ours.ctc.proj.weight, ours.ctc.proj.bias
    state["frontend.logmel.melmat"] = ours.frontend.mel_matrix
    converted, _ = convert_state(ours.state_dict(), state, config)
    ours.load_state_dict(converted)
    leaky = copy.deepcopy(ours.encoder)
    leaky.config = leaky.config.model_copy(update={"leaky_padding": True})
    with torch.no_grad():
        for sizes in ([200], [201], [7], [150, 99, 60]):
            lens = torch.tensor(sizes)
            feats = torch.randn(len(sizes), max(sizes), 80)
            feats = feats.masked_fill((torch.arange(feats.size(1)) >= lens[:, None])[..., None], 0.0)
            expected, expected_lens, _ = theirs(feats, lens)
            enc, enc_lens = (ours.encoder if len(lens) == 1 else leaky)(feats, lens)
            assert torch.equal(enc_lens, expected_lens)
            for i, n in enumerate(enc_lens.tolist()):
                torch.testing.assert_close(enc[i, :n], expected[i, :n], **TOLERANCE)


def load_tokenizer_of(folder):
    from speechnar.text.tokenizer import SentencePieceTokenizer

    pieces = tuple((folder / "tokens.txt").read_text(encoding="utf-8").splitlines())
    return SentencePieceTokenizer(folder / "bpe.model", pieces)


@pytest.mark.parametrize(("num_mels", "num_parameters"), [(80, 1_005_050_706), (128, 1_011_342_162)])
def test_the_published_layout_maps_key_by_key(tmp_path, num_mels, num_parameters):
    """The full 1B model on the meta device: no weights, every key and shape."""
    reference.require_espnet(tmp_path / "nltk")
    document = reference.s2t_ctc_config(
        tmp_path,
        dim=1024,
        layers=27,
        heads=16,
        interctc=(6, 12, 15, 21),
        prompt_dim=512,
        mels=num_mels,
        normalize="utterance_mvn",
    )
    document["promptencoder_conf"] |= {"attention_heads": 8}
    small = load_tokenizer_of(tmp_path)
    filler = [f"piece{i}" for i in range(50002 - len(small.pieces))]
    document["token_list"] = [*small.pieces[:-3], *filler, *small.pieces[-3:]]
    with torch.device("meta"):
        theirs = reference.build_s2t_ctc(document)
    assert sum(p.numel() for p in theirs.parameters()) == num_parameters
    config = espnet_config(document)
    published = OwsmCtcConfig.published(num_mels=num_mels)
    same = {"normalize": "utterance", "spec_augment": None}
    dropouts = {"attention_dropout": 0.1}
    assert config == published.model_copy(update=same | {"encoder": published.encoder.model_copy(update=dropouts)})
    with torch.device("meta"):
        ours = OwsmCtc(config, Vocabulary(small, 50002))
    state, converted = convert_state(ours.state_dict(), theirs.state_dict(), config)
    assert state.keys() == ours.state_dict().keys()
    assert {source for key in converted for source in key.sources} == set(theirs.state_dict())
    assert sum(p.numel() for p in ours.parameters()) == num_parameters


class Vocabulary:
    """A tokenizer of which only the size and the specials matter."""

    def __init__(self, tokenizer, vocab_size):
        self.vocab_size, self.blank_id, self.id_of = vocab_size, tokenizer.blank_id, tokenizer.id_of

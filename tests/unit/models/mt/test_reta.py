import pytest
import torch

from speechnar.decode.retranslation import Previous
from speechnar.errors import DataError
from speechnar.models.base import MtModel, load_model, save_model
from speechnar.models.mt.fretna import Fretna, FretnaConfig
from speechnar.models.mt.fretna_ctc import FretnaCtc, FretnaCtcConfig
from speechnar.models.mt.reta import Reta, RetaConfig
from speechnar.models.mt.wait_k import WaitK, WaitKConfig
from speechnar.nn.lengths import valid_mask
from speechnar.text.tokenizer import CharTokenizer
from speechnar.train.run import init_model
from tests.contracts import check_gradients_reach_all
from tests.unit.models.texts import TOKENIZER, learn, one_batch


def make(**changes):
    torch.manual_seed(0)
    return Reta.from_config(RetaConfig.debug().model_copy(update=changes), TOKENIZER).eval()


def test_one_table_embeds_sources_and_targets_and_is_the_output():
    model = make()
    num_tables = sum(p.shape == (TOKENIZER.vocab_size, 32) for p in model.parameters())
    assert num_tables == 1
    assert model.head.decoder.output.weight is model.head.decoder.embed.weight


def test_gradients_reach_all_parameters():
    model = make().train()
    check_gradients_reach_all(model, model.loss(one_batch(8)).total)


@torch.no_grad()
def test_the_loss_is_a_mean_over_target_tokens_and_their_ends():
    model, batch = make(label_smoothing=0.0), one_batch(3)
    out = model.loss(batch)
    total = 0.0
    for i in range(3):
        src, tgt = batch.src_tokens[i, : batch.src_lens[i]], batch.tgt_tokens[i, : batch.tgt_lens[i]]
        encoded = model.encode(src[None], batch.src_lens[i : i + 1])
        total -= float(model.head.score(encoded, torch.tensor([0]), tgt[None], batch.tgt_lens[i : i + 1]))
    assert float(out.weight) == int((batch.tgt_lens + 1).sum())
    assert float(out.total) == pytest.approx(total / float(out.weight), rel=1e-5)


@torch.no_grad()
def test_sentences_do_not_depend_on_their_batch_or_its_padding():
    model, batch = make(), one_batch(6)
    spoiled = batch.src_tokens.where(valid_mask(batch.src_lens, batch.src_tokens.size(1)), -99)
    for options in ({}, {"beam_size": 3, "token_reward": 0.3}):
        together = model.decode(spoiled, batch.src_lens, **options)
        assert any(together)
        for i, found in enumerate(together):
            n = batch.src_lens[i : i + 1]
            assert model.decode(batch.src_tokens[i : i + 1, : int(n)], n, **options) == [found]


@torch.no_grad()
def test_a_strong_bias_repeats_what_was_said():
    model, batch = make(), one_batch(2)
    said = torch.tensor([[3, 4, 5], [6, 2, 7]])
    for beam_size in (1, 3):
        found = model.decode(
            batch.src_tokens,
            batch.src_lens,
            beam_size=beam_size,
            previous=Previous(tokens=said, lens=torch.tensor([3, 2]), bias=0.999),
        )
        assert found[0][:3] == [3, 4, 5] and found[1][:2] == [6, 2]


@pytest.mark.slow
def test_pairs_are_learned_and_a_saved_model_translates_alike(tmp_path):
    model, batch = make().train(), one_batch(6, training=True)
    expected = learn(model, batch, 120)
    found = model.translate(batch)
    assert sum(a == b for a, b in zip(found, expected, strict=True)) >= 0.9 * len(expected)
    save_model(tmp_path, model, TOKENIZER)
    loaded = load_model(tmp_path).model
    assert isinstance(loaded, MtModel) and loaded.translate(batch) == found


def test_a_vocabulary_without_ends_is_refused():
    with pytest.raises(DataError, match="<sos>"):
        Reta.from_config(RetaConfig.debug(), CharTokenizer(("<blank>", "<unk>", "a", "<eos>")))


@pytest.mark.parametrize(
    ("model_cls", "config_cls"), [(FretnaCtc, FretnaCtcConfig), (Fretna, FretnaConfig), (WaitK, WaitKConfig)]
)
def test_students_begin_with_the_encoder_and_the_embeddings(model_cls, config_cls, tmp_path):
    teacher = make()
    save_model(tmp_path / "teacher", teacher, TOKENIZER)
    student = model_cls.from_config(config_cls.debug(), TOKENIZER)
    assert not torch.equal(student.embed.weight, teacher.embed.weight)
    init_model(student, tmp_path / "teacher")
    assert torch.equal(student.embed.weight, teacher.embed.weight)
    for own, given in zip(student.encoder.parameters(), teacher.encoder.parameters(), strict=True):
        assert torch.equal(own, given)

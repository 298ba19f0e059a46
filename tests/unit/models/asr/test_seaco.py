import pytest
import torch
from torch import nn

from speechnar.config import parse_config
from speechnar.errors import ConfigError, DataError
from speechnar.models.asr.paraformer import Paraformer, ParaformerConfig
from speechnar.models.asr.seaco import SeacoBias, SeacoConfig, cover
from speechnar.nn.lengths import valid_mask
from tests.contracts import check_gradients_reach_all
from tests.unit.models.asr.test_paraformer import _Pieces, make_batch

TINY = SeacoConfig(encoder_layers=2, num_layers=2, num_heads=2, ff_dim=16, kernel_size=3, dropout=0.0)


def make_bias(**changes: object) -> tuple[SeacoBias, nn.Embedding]:
    torch.manual_seed(0)
    bias = SeacoBias(TINY.model_copy(update=changes), 8, vocab_size=12, sos_id=1, blank_id=0).eval()
    return bias, nn.Embedding(12, 8)


def make_model(**changes: object) -> Paraformer:
    torch.manual_seed(0)
    config = ParaformerConfig.debug().model_copy(update={"hotwords": TINY.model_copy(update=changes)})
    return Paraformer(config, _Pieces())  # type: ignore[arg-type]


def test_covered_tokens_are_those_of_any_word() -> None:
    tokens = torch.tensor([[3, 4, 5, 3, 4, 6], [4, 5, 9, 9, 5, 4]])
    words, lens = torch.tensor([[3, 4, 9], [4, 5, 9], [5, 4, 7]]), torch.tensor([2, 3, 3])
    inside = cover(tokens, torch.tensor([6, 5]), words, lens)
    assert inside.int().tolist() == [[1, 1, 0, 1, 1, 0], [1, 1, 1, 0, 0, 0]]


def test_drawn_words_are_spans_of_their_utterances() -> None:
    bias, _ = make_bias(span_prob=1.0, min_span=2, max_span=4)
    tokens, lens = torch.arange(30).view(3, 10), torch.tensor([10, 3, 1])
    seen = set()
    for seed in range(200):
        torch.manual_seed(seed)
        words, word_lens = bias.draw(tokens, lens)
        assert len(words) == 2  # the third is too short
        for row, (word, num) in enumerate(zip(words, word_lens.tolist(), strict=True)):
            first = int(word[0])
            assert word[:num].tolist() == list(range(first, first + num))
            assert 10 * row <= first
            assert first + num <= 10 * row + int(lens[row])
            seen.add((row, first - 10 * row, num))
    assert {num for row, _, num in seen if row == 0} == {2, 3, 4}
    assert {(first, num) for row, first, num in seen if row == 1} == {(0, 2), (1, 2), (0, 3)}


def test_vectors_of_hotwords_do_not_depend_on_the_list() -> None:
    bias, embed = make_bias()
    many, one = bias.embed([[3, 4, 5], [6], [7, 8]], embed), bias.embed([[7, 8]], embed)
    assert many.shape == (4, 8)
    torch.testing.assert_close(many[2:], one)
    outputs, _ = bias.encoder(embed(torch.tensor([[3, 4, 5]])))
    torch.testing.assert_close(many[0], outputs[0, -1])
    with pytest.raises(DataError, match="hotword 1"):
        bias.embed([[3], []], embed)
    with pytest.raises(DataError, match="hotword 0"):
        bias.embed([[12]], embed)


def test_scores_are_merged_where_a_hotword_stands() -> None:
    bias, _ = make_bias()
    log_probs = torch.randn(1, 2, 12).log_softmax(2)
    logits = torch.zeros(1, 2, 12)
    logits[0, 0, 0] = logits[0, 1, 5] = 4.0  # nothing, then piece 5
    for weight in (0.0, 0.3, 1.0):
        merged = bias.merge(log_probs, logits, weight)
        torch.testing.assert_close(merged[0, 0], log_probs[0, 0])
        expected = (1 - weight) * log_probs[0, 1] + weight * logits[0, 1].log_softmax(0)
        torch.testing.assert_close(merged[0, 1], expected)
    with pytest.raises(ConfigError, match=r"\[0, 1\]"):
        bias.merge(log_probs, logits, 1.5)


@pytest.mark.parametrize("weight", [0.01, 0.3, 0.5, 0.75, 1.0])
def test_merged_scores_equal_funasr_at_every_weight(weight: float) -> None:
    """FunASR writes the share of the decoder as (m + (1 - w) / w) / (1 / w), m being 1 where no hotword stands."""
    bias, _ = make_bias(no_bias_id=7)
    log_probs, logits = torch.randn(2, 3, 6, 12)
    logits[:, ::2, 7] = 9.0
    log_probs, bias_log_probs = log_probs.log_softmax(2), logits.log_softmax(2)
    no_hotword = (bias_log_probs.max(2).indices == 7).float()[..., None]
    assert 0 < no_hotword.sum() < no_hotword.numel()
    share = (no_hotword + (1 - weight) / weight) / (1 / weight)
    expected = log_probs * share + bias_log_probs * (1 - share)
    torch.testing.assert_close(bias.merge(log_probs, logits, weight), expected)


def test_long_lists_are_reduced_for_each_utterance_by_itself() -> None:
    bias, embed = make_bias(max_hotwords=2)
    vectors = bias.embed([[w] for w in range(3, 12)], embed)
    hidden, valid = torch.randn(2, 4, 8), valid_mask(torch.tensor([4, 2]), 4)
    selected = bias.select(hidden, valid, vectors)
    assert selected.shape == (2, 3, 8)
    for row, num in enumerate((4, 2)):
        alone = bias.select(hidden[row : row + 1, :num], valid[row : row + 1, :num], vectors)
        torch.testing.assert_close(selected[row], alone[0])
        keys_values = bias.decoder.project(vectors[None])
        mask = torch.ones(1, 1, 1, 10, dtype=torch.bool)
        weights = bias.decoder.attention(hidden[row : row + 1, :num], valid[row : row + 1, :num], keys_values, mask)
        best = weights.sum((0, 1, 2))[:9].argsort(descending=True)[:2]
        torch.testing.assert_close(selected[row], vectors[[*best.tolist(), 9]])
    assert bias.select(hidden, valid, vectors[-3:]).shape == (1, 3, 8)


def test_the_first_utterance_selects_for_all_in_funasr() -> None:
    bias, embed = make_bias(max_hotwords=2)
    leaky, _ = make_bias(max_hotwords=2, leaky_selection=True)
    vectors = bias.embed([[w] for w in range(3, 12)], embed)
    hidden, valid = torch.randn(8, 4, 8), torch.ones(8, 4, dtype=torch.bool)
    selected = bias.select(hidden, valid, vectors)
    assert not torch.equal(selected, selected[:1].expand(8, -1, -1))
    of_first = [leaky.select(hidden[i:], valid[i:], vectors) for i in range(8)]
    assert all(len(chosen) == 1 for chosen in of_first)
    same = [torch.equal(chosen[0], alone) for chosen, alone in zip(of_first, selected, strict=True)]
    twice = [bool((chosen[0, :2] == vectors[-1]).all(1).any()) for chosen in of_first]
    assert same == [not none for none in twice]
    assert any(same)
    assert any(twice), "none takes a place"
    full = bias.embed([[3], [4]], embed)  # "none" is a third, and FunASR compares all three with max_hotwords
    assert bias.select(hidden, valid, full).shape == (1, 3, 8)
    chosen = [leaky.select(hidden[i:], valid[i:], full)[0] for i in range(8)]
    assert any((rows[:2] == full[-1]).all(1).any() for rows in chosen)


def test_only_the_hotword_modules_learn() -> None:
    model = make_model(span_prob=1.0).train()
    assert model.bias is not None
    assert model.bias.training
    assert not model.encoder.training
    assert not model.head.training
    out = model.loss(make_batch([40000, 23000, 9000]))
    assert out.parts["inside"] >= 2
    check_gradients_reach_all(model.bias, out.total)
    assert all(p.grad is None for name, p in model.named_parameters() if not name.startswith("bias."))


def test_loss_equals_its_definition(monkeypatch: pytest.MonkeyPatch) -> None:
    bias, embed = make_bias()
    words = torch.tensor([[4, 5, 0]]), torch.tensor([2])
    monkeypatch.setattr(bias, "draw", lambda *_: words)
    tokens, lens = torch.tensor([[3, 4, 5], [6, -9, 4]]), torch.tensor([3, 1])
    embeds, hidden = torch.randn(2, 4, 8), torch.randn(2, 4, 8)
    ce, inside = bias.loss(embeds, hidden, valid_mask(lens + 1, 4), tokens, lens, token_embed=embed)
    assert inside.tolist() == [2, 0]
    vectors = bias.embed([[4, 5]], embed)[None]
    for row, labels in enumerate(([0, 4, 5], [0])):
        num = len(labels) + 1  # the end fires too
        valid = torch.ones(1, num, dtype=torch.bool)
        log_probs = bias(embeds[row : row + 1, :num], hidden[row : row + 1, :num], valid, vectors)[0].log_softmax(1)
        smoothed = 0.1 / 12 + 0.9 * nn.functional.one_hot(torch.tensor(labels), 12)
        torch.testing.assert_close(ce[row], -(smoothed * log_probs[:-1]).sum(), rtol=1e-4, atol=1e-4)


def test_what_is_written_depends_on_the_list(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trained on two sentences and one hotword of each, the modules write the one that is given and no other."""
    bias, embed = make_bias(label_smoothing=0.0)
    tokens, lens = torch.tensor([[3, 6, 7, 4], [5, 4, 8, 3]]), torch.tensor([4, 4])
    valid, x = torch.ones(2, 4, dtype=torch.bool), torch.randn(2, 4, 8)
    lists = [torch.tensor([[6, 7]]), torch.tensor([[4, 8]])]
    optimizer = torch.optim.Adam(bias.parameters(), lr=5e-3)
    for step in range(80):
        monkeypatch.setattr(bias, "draw", lambda *_, words=lists[step % 2]: (words, torch.tensor([2])))
        loss = bias.loss(x, x, valid, tokens, lens, token_embed=embed.requires_grad_(False))[0].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    found = [bias(x, x, valid, bias.embed(words.tolist(), embed)[None]).argmax(2).tolist() for words in lists]
    assert found == [[[0, 6, 7, 0], [0, 0, 0, 0]], [[0, 0, 0, 0], [0, 4, 8, 0]]]


def test_a_weight_of_zero_changes_nothing() -> None:
    model, batch = make_model().eval(), make_batch([40000, 23000])
    speech, vectors = model.encode(batch.wav, batch.wav_lens), model.hotword_vectors([[6, 7], [3]])
    without = model.decode(speech)
    assert model.decode(speech, hotwords=vectors, hotword_weight=0.0) == without
    with torch.no_grad():
        model.bias.output.bias[9] = 99.0  # type: ignore[union-attr]  # now every token is piece 9
    assert {token for path in model.decode(speech, hotwords=vectors) for token in path.tokens} == {9}


def test_a_model_without_hotword_modules_says_so() -> None:
    model = Paraformer(ParaformerConfig.debug(), _Pieces())  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="hotwords"):
        model.hotword_vectors([[3]])
    with pytest.raises(ConfigError, match="no_bias_id"):
        make_bias(no_bias_id=12)
    with pytest.raises(ConfigError, match="min_span"):
        parse_config({"min_span": 5, "max_span": 4}, SeacoConfig)

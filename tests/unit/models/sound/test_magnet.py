import dataclasses

import pytest
import torch

from speechnar.data.batch import SpeechBatch
from speechnar.decode.mask_predict import MaskPredictConfig, mask_predict
from speechnar.errors import ConfigError, DataError
from speechnar.models.base import load_model, save_model
from speechnar.models.sound.code_model import Condition, join_conditions
from speechnar.models.sound.magnet import Magnet, MagnetConfig
from tests.contracts import check_gradients_reach_all
from tests.unit.models.generators import WORDS, make_generator, narrow, shift_code
from tests.unit.models.sounds import voices


def waves(sizes: list[int], *, padding: float = 0.0) -> SpeechBatch:
    batch = voices(sizes, padding=padding)
    tokens = torch.tensor([[2 + i % 2] for i in range(len(sizes))])
    return dataclasses.replace(batch, tokens=tokens)


def condition_of(model, *texts):
    return model.condition.of_texts(texts, torch.device("cpu"))


@pytest.mark.parametrize(
    ("dim", "layers", "heads", "text_dim", "expected"),
    [
        (1024, 24, 16, 768, 420_371_456),
        (1024, 24, 16, 1024, 420_633_600),
        (1536, 48, 24, 768, 1_838_737_920),
        (1536, 48, 24, 1024, 1_839_131_136),
    ],
)
def test_the_published_sizes(dim, layers, heads, text_dim, expected):
    config = MagnetConfig.published()
    network = config.network.model_copy(
        update={"model_dim": dim, "num_layers": layers, "num_heads": heads, "ff_dim": 4 * dim}
    )
    condition = config.condition.model_copy(update={"text_dim": text_dim})
    with torch.device("meta"):
        model = Magnet(config.model_copy(update={"network": network, "condition": condition}), WORDS)
    assert sum(p.numel() for name, p in model.named_parameters() if not name.startswith("codec.")) == expected


def test_the_small_one():
    model = Magnet(MagnetConfig(), WORDS)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) < 4e6
    assert not any(p.requires_grad for p in model.codec.parameters())


@torch.no_grad()
def test_upper_codebooks_see_their_surroundings_only():
    model = make_generator("magnet")
    codes = shift_code(1).codes
    condition = condition_of(model, "dog")
    other = codes.clone()
    other[:, 0, 12] = (other[:, 0, 12] + 1) % 16
    for codebook, expected in ((0, range(24)), (1, range(8, 17))):  # two layers of reach 2
        change = model(codes, codebook, condition) - model(other, codebook, condition)
        assert change.abs().sum((0, 2)).nonzero().flatten().tolist() == list(expected)


@torch.no_grad()
def test_the_predictor_gives_what_the_model_gives():
    model = make_generator("magnet")
    codes = shift_code(2).codes
    condition, unconditional = condition_of(model, "dog", "cat"), condition_of(model, None, None)
    predict = model.predictor(condition, unconditional)
    positions = torch.tensor([[3, 4, 5], [0, 1, 2]])
    for codebook in (0, 2):
        predict.begin(codes, codebook)
        found = predict(codes, codebook, positions)
        for logits, given in zip(found, (condition, unconditional), strict=True):
            whole = model(codes, codebook, given)
            expected = torch.stack([rows[index] for rows, index in zip(whole, positions, strict=True)])
            torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-4)
    alone = model.predictor(condition, None)
    assert alone(codes, 0, positions)[1] is None


@torch.no_grad()
def test_words_are_told_to_every_frame():
    model = make_generator("magnet", network=narrow())
    condition = condition_of(model, "dog", "dog barks", None)
    assert condition.added.shape == (3, 1, 32)
    again = model.condition(
        torch.tensor([[2, 0], [2, 4], [9**9, 9**9]]), torch.tensor([1, 2, 0]), torch.tensor([False, False, False])
    )
    torch.testing.assert_close(again.added, condition.added)
    torch.testing.assert_close(condition.added[2, 0], model.condition.nothing)
    left_out = model.condition(torch.tensor([[2]]), torch.tensor([1]), torch.tensor([True]))
    assert torch.equal(left_out.added, condition.added[2:])
    both = join_conditions([condition, Condition(added=left_out.added)])
    assert both.added.shape == (4, 1, 32)
    assert torch.equal(condition.rows(torch.tensor([1])).added, condition.added[1:2])


def test_unknown_words_are_named():
    model = make_generator("magnet")
    with pytest.raises(ConfigError, match="the model knows no 'horse'; it knows 3 words: dog, cat, barks"):
        condition_of(model, "dog horse")
    with pytest.raises(ConfigError, match="a prompt must have a word; leave it out"):
        condition_of(model, "  ")


# Learning


@pytest.mark.parametrize("kind", ["magnet", "enat", "music_ar"])
def test_codes_of_waves_are_those_of_the_codec(kind):
    """The padding contract of the loss: what follows an utterance is silence, whatever stood there."""
    model = make_generator(kind)
    batch = waves([9000, 5000], padding=torch.nan)
    loss = model.loss(batch)
    clean = waves([9000, 5000])
    assert torch.equal(model.loss(clean).total, loss.total)
    assert float(loss.weight) == 2
    assert set(loss.parts) == {f"nll_{k}" for k in range(4)}
    torch.testing.assert_close(loss.total, torch.stack(list(loss.parts.values())).mean())
    alone = [model.loss(waves([size])) for size in (7680, 5000)]
    assert all(one.total.isfinite() for one in alone)


@pytest.mark.parametrize("kind", ["magnet", "enat", "music_ar"])
def test_gradients_reach_every_parameter(kind):
    model = make_generator(kind, left_out_prob=0.5).train()
    torch.manual_seed(1)
    loss = model.loss(shift_code(32))
    frozen = tuple(f"codec.{name}" for name, _ in model.codec.named_parameters())
    check_gradients_reach_all(model, loss.total, except_for=frozen)


@pytest.mark.parametrize("kind", ["magnet", "enat"])
def test_codebooks_that_are_not_drawn_have_a_gradient_of_zero(kind):
    model = make_generator(kind, shares=(0.0, 1.0, 0.0, 0.0)).train()
    model.loss(shift_code(4)).total.backward()
    assert [bool(head.weight.grad.any()) for head in model.heads] == [False, True, False, False]


@pytest.mark.parametrize("kind", ["magnet", "enat", "music_ar"])
def test_codes_and_waves_must_fit(kind):
    model = make_generator(kind)
    with pytest.raises(DataError, match=r"'utt0': needs 24 frames, has 20; extract its codes with --min-seconds 0\.48"):
        model.loss(shift_code(2, num_frames=20))
    with pytest.raises(DataError, match="needs sound of 16000 samples per second, got 8000"):
        model.loss(dataclasses.replace(waves([9000]), sample_rate=8000))
    batch = shift_code(2)
    with pytest.raises(DataError, match="the codec has 4 codebooks, the data have 3"):
        model.loss(dataclasses.replace(batch, codes=batch.codes[:, :3]))


@pytest.mark.parametrize("kind", ["magnet", "enat", "music_ar"])
def test_a_folder_holds_the_model(kind, tmp_path):
    model = make_generator(kind)
    save_model(tmp_path / "model", model, WORDS)
    loaded = load_model(tmp_path / "model").model
    assert torch.equal(loaded.loss(shift_code(3)).total, model.loss(shift_code(3)).total)


def test_wrong_settings_are_refused():
    debug = MagnetConfig.debug().model_dump()
    with pytest.raises(ValueError, match=r"shares must be 4 numbers, one of each codebook, got \(1.0,\)"):
        MagnetConfig(**{**debug, "shares": (1.0,)})
    with pytest.raises(ValueError, match=r"sampling.steps must be 4 numbers, got \(3, 2\)"):
        MagnetConfig(**{**debug, "sampling": MaskPredictConfig(steps=(3, 2))})
    with pytest.raises(ValueError, match="span_len must be less than 24 frames, got 24"):
        MagnetConfig(**{**debug, "span_len": 24})
    with pytest.raises(ValueError, match="piece_frames must be at most window_frames 24, got 25"):
        MagnetConfig(**{**debug, "piece_frames": 25})
    with pytest.raises(ValueError, match="piece_frames must equal window_frames 24, got 12"):
        MagnetConfig(**{**debug, "piece_frames": 12, "network": narrow(positions="absolute").model_dump()})


@pytest.mark.parametrize("kind", ["magnet", "enat", "music_ar"])
def test_a_model_learns_from_pieces_and_makes_windows(kind):
    model = make_generator(kind, piece_frames=12).train()
    batch = shift_code(3, num_frames=12)
    assert model.loss(batch).total.isfinite()
    with pytest.raises(DataError, match="needs 24 frames, has 12"):
        make_generator(kind).loss(batch)


def learn(model, num_steps: int, *, lr: float = 3e-3) -> None:
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=lr)
    model.train()
    for step in range(num_steps):
        loss = model.loss(shift_code(32, seed=step))
        optimizer.zero_grad()
        loss.total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    model.eval()


def share_of_rule(codes: torch.Tensor, words: list[str]) -> tuple[float, float]:
    """Return how many frames have a code of their word, and how many that of the utterance's first."""
    is_cat = torch.tensor([word == "cat" for word in words])[:, None]
    return float(((codes[:, 0] >= 8) == is_cat).float().mean()), float((codes[:, 0] == codes[:, 0, :1]).float().mean())


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["magnet", "enat"])
def test_it_learns_what_the_words_mean_and_goes_on_as_the_prompt_does(kind):
    torch.manual_seed(0)
    model = make_generator(kind, network=narrow(model_dim=64, ff_dim=128, num_heads=4))
    learn(model, 150)
    words = ["dog", "cat"] * 8
    condition, unconditional = condition_of(model, *words), condition_of(model, *[None] * 16)
    known = torch.zeros(24, dtype=torch.bool)
    settings = MaskPredictConfig(steps=(8, 2, 2, 2), temperature=0.5, guidance=(3.0, 1.0))
    generators = [torch.Generator().manual_seed(i) for i in range(16)]

    def fill(codes):
        predictor = model.predictor(condition, unconditional)
        return mask_predict(predictor, codes, known, settings, span_len=3, generators=generators)

    free = fill(torch.zeros(16, 4, 24, dtype=torch.int64))
    of_word, of_first = share_of_rule(free, words)
    assert of_word > 0.9
    assert of_first > 0.6
    assert float((free[:, 1] == (free[:, 0] + 1) % 16).float().mean()) > 0.8
    truth = shift_code(16, seed=999)
    words[:] = ["dog" if word == 2 else "cat" for word in truth.tokens[:, 0]]
    condition = condition_of(model, *words)
    known[:9] = True
    found = fill(truth.codes)
    assert torch.equal(found[..., :9], truth.codes[..., :9])
    assert float((found == truth.codes).float().mean()) > 0.9


def given_codes(model, batch) -> list[torch.Tensor]:
    """Return the codes (B, K, T) of each evaluation of ``model`` while it learns from ``batch``."""
    seen = []
    handle = model.register_forward_pre_hook(lambda _module, args: seen.append(args[0]))
    torch.manual_seed(0)
    loss = model.loss(batch)
    handle.remove()
    if model.training:
        masked = sum(int((codes[:, 0] == model.embed.mask_id).sum()) for codes in seen)
        assert int(loss.weight) == masked
    return seen


@pytest.mark.parametrize("prob", [0.0, 0.25, 1.0])
def test_a_share_of_the_utterances_begins_with_frames_known_in_all_codebooks(prob):
    model = make_generator("magnet", shares=(1.0, 0.0, 0.0, 0.0), prompted_prob=prob).train()
    batch, mask_id = shift_code(500), model.embed.mask_id
    (codes,) = given_codes(model, batch)
    known = codes[:, 3] != mask_id
    lens = known.sum(1)
    assert torch.equal(known, torch.arange(24) < lens[:, None])  # the first ones
    for codebook in (1, 2):
        assert torch.equal(codes[:, codebook] != mask_id, known)
    assert (codes[:, 0] != mask_id)[known].all()
    assert torch.equal(codes.where(codes != mask_id, batch.codes), batch.codes)
    assert float((lens > 0).float().mean()) == pytest.approx(prob, abs=0.06)
    if prob:  # any number of frames is as likely as another
        counts = torch.bincount(lens[lens > 0], minlength=25)[1:] / (lens > 0).sum()
        assert float(lens[lens > 0].float().mean()) == pytest.approx(12.5, abs=1.8)
        assert float(counts.max()) < 0.15
    model.eval()
    first = given_codes(model, batch)[0]
    assert (first[:, 1:] == mask_id).all()  # what is to be scored begins with nothing known

import pytest
import torch

from speechnar.decode.mask_predict import MaskPredictConfig, mask_predict
from speechnar.models.sound.code_model import CodeModelConfig
from speechnar.models.sound.enat import Enat, EnatConfig
from tests.unit.models.generators import WORDS, make_generator, narrow, shift_code

SETTINGS = MaskPredictConfig(steps=(4, 3, 2, 2), temperature=1.0, top_p=0.9, guidance=(3.0, 1.0))


def condition_of(model, *texts):
    return model.condition.of_texts(texts, torch.device("cpu"))


def test_the_published_size_is_that_of_magnet():
    config = EnatConfig.published()
    assert config.network.num_layers + config.decoder_layers == 24
    assert config.kind == "enat"
    with torch.device("meta"):
        model = Enat(config, WORDS)
    count = sum(p.numel() for name, p in model.named_parameters() if not name.startswith("codec."))
    # As MAGNeT's, and a projection of known frames in each layer of the decoder with one more norm.
    assert count == 420_371_456 + 2 * 2 * 1024**2 + 2 * 1024


POSITIONS = pytest.mark.parametrize("positions", ["absolute", "relative"])


@torch.no_grad()
@POSITIONS
def test_masked_codes_are_not_seen_by_the_encoder(positions):
    """What the encoder makes of known frames is the same whatever else is masked, or known later."""
    model = make_generator("enat", network=narrow(positions=positions))
    codes = torch.randint(16, (1, 4, 24))
    known = torch.zeros(1, 24, dtype=torch.bool)
    known[:, 3:9] = True
    condition = condition_of(model, "dog")
    base = model._places(codes) + condition.added
    frames = base + model.embed.codes[0](codes[:, 0])
    steps = torch.zeros(1, 24, dtype=torch.int64)
    first = model._encode_known(frames, known, condition, steps)
    later, more = steps.clone(), known.clone()
    later[:, 12:15] = 1
    more[:, 12:15] = True
    second = model._encode_known(frames, more, condition, later)
    torch.testing.assert_close(second[:, 3:9], first[:, 3:9], atol=1e-5, rtol=1e-4)
    at_once = model._encode_known(frames, more, condition, steps)
    assert (at_once[:, 3:9] - first[:, 3:9]).abs().max() > 1e-3


@torch.no_grad()
def test_weights_of_half_precision_are_enough():
    model, codes = make_generator("enat"), torch.randint(16, (1, 4, 24))
    codes[:, 0, 6:], codes[:, 1:] = 16, 16
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        predictor = model.to(dtype).predictor(condition_of(model, "dog"), None)
        predictor.begin(codes, 0)
        logits, _ = predictor(codes, 0, torch.arange(6, 24)[None])
        found.append(logits)
    assert found[1].dtype == torch.float32
    torch.testing.assert_close(found[1], found[0], atol=0.05, rtol=0.05)


@torch.no_grad()
@POSITIONS
@pytest.mark.parametrize("is_guided", [False, True])
def test_steps_that_reuse_give_what_the_whole_network_gives(is_guided, positions):
    """At every step, in every codebook: as one pass in which codes see those revealed before them or with them."""
    model = make_generator("enat", network=narrow(positions=positions))
    condition = condition_of(model, "dog", "cat")
    unconditional = condition_of(model, None, None) if is_guided else None
    reused = model.predictor(condition, unconditional)
    compared = []

    class Check:
        mask_id = reused.mask_id

        def begin(self, codes, codebook):
            reused.begin(codes, codebook)
            self.steps = torch.zeros(2, 24, dtype=torch.int64)
            self.count = 0
            self.hidden = torch.ones(2, 24, dtype=torch.bool)

        def __call__(self, codes, codebook, positions, *, is_guided=True):
            masked = torch.zeros(2, 24).scatter(1, positions, 1.0) > 0
            self.steps[self.hidden & ~masked] = self.count
            self.hidden, self.count = masked, self.count + 1
            found = reused(codes, codebook, positions)
            for logits, given in zip(found, (condition, unconditional), strict=True):
                if given is None:
                    assert logits is None
                    continue
                whole = model(codes, codebook, given, self.steps)
                expected = torch.stack([rows[index] for rows, index in zip(whole, positions, strict=True)])
                torch.testing.assert_close(logits, expected, atol=2e-5, rtol=1e-4)
                compared.append(codebook)
            return found

    known = torch.zeros(24, dtype=torch.bool)
    known[:6] = True
    prompt = shift_code(2).codes
    generators = [torch.Generator().manual_seed(i) for i in range(2)]
    found = mask_predict(Check(), prompt, known, SETTINGS, span_len=3, generators=generators)
    assert torch.equal(found[..., :6], prompt[..., :6])
    assert len(compared) == (2 if is_guided else 1) * sum(SETTINGS.steps)


@torch.no_grad()
def test_without_steps_known_codes_see_each_other():
    model = make_generator("enat")
    codes = shift_code(2).codes
    codes[:, 0, 6:18] = model.embed.mask_id
    codes[:, 1:] = model.embed.mask_id
    condition = condition_of(model, "dog", "cat")
    zeros = torch.zeros(2, 24, dtype=torch.int64)
    assert torch.equal(model(codes, 0, condition), model(codes, 0, condition, zeros))


@torch.no_grad()
def test_an_utterance_that_knows_less_is_as_alone():
    model = make_generator("enat")
    codes = shift_code(2).codes
    codes[:, 1:] = model.embed.mask_id
    codes[0, 0, 9:] = model.embed.mask_id
    codes[1, 0] = model.embed.mask_id  # knows nothing
    whole = model(codes, 0, condition_of(model, "dog", "cat"))
    assert whole.isfinite().all()
    for i, word in enumerate(("dog", "cat")):
        alone = model(codes[i : i + 1], 0, condition_of(model, word))
        masked = codes[i, 0] == model.embed.mask_id
        torch.testing.assert_close(whole[i, masked], alone[0, masked], atol=1e-5, rtol=1e-4)


def test_steps_are_drawn_by_spans():
    model = make_generator("enat").train()
    steps = model._draw_steps(torch.ones(200, 24, dtype=torch.bool))
    assert steps.shape == (200, 24)
    spans = steps.view(200, 8, 3)
    assert torch.equal(spans[..., 0], spans[..., 2])
    assert 0 <= int(steps.min()) <= int(steps.max()) < model.config.max_steps
    assert len(steps.amax(1).unique()) == model.config.max_steps
    assert isinstance(model.config.network, CodeModelConfig)

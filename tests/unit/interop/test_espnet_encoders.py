"""Options of ESPnet's encoders, and their defaults, which differ from one to another."""

import pytest

from speechnar.errors import ConfigError
from speechnar.interop.espnet_options import parse_options
from tests.unit.interop.test_espnet import read_options


@pytest.fixture
def options():
    """Options of a tiny model that ESPnet built."""
    return read_options()


@pytest.mark.parametrize(
    ("pattern", "every"), [(True, 1), (False, None), ([False, True, False], 2), ([False, False, False], None)]
)
def test_cross_attention_of_every_nth_block(options, pattern, every):
    options["encoder_conf"]["use_cross_attention"] = pattern
    assert parse_options(options).to_config().encoder.cross_attention_every == every


@pytest.mark.parametrize(
    ("encoder", "positions"), [("conformer", "legacy"), ("branchformer", "relative"), ("transformer", "absolute")]
)
def test_recognisers_take_espnets_defaults(options, encoder, positions):
    asr = {name: options[name] for name in ("token_list", "token_type", "normalize", "normalize_conf")}
    conf = {"macaron_style": True} if encoder == "conformer" else {}
    asr |= {"encoder": encoder, "encoder_conf": conf}
    parsed = parse_options(asr)
    config = parsed.to_config()
    assert (config.encoder.kind, config.encoder.positions, config.encoder.subsampling) == (encoder, positions, 4)
    assert (config.prompt, config.clip_s, config.interctc_layers) == (None, None, ())
    assert parsed.head_config() is None
    asr |= {"decoder": "transformer", "decoder_conf": {"num_blocks": 3}}
    with pytest.raises(ConfigError, match="must be <sos/eos>, one of token_list"):
        parse_options(asr).head_config()
    asr["token_list"] = [*options["token_list"][:-3], "<sos/eos>"]
    assert parse_options(asr).head_config().num_layers == 3
    assert parse_options({**asr, "model_conf": {"ctc_weight": 1.0}}).head_config() is None
    for conf, message in (({"concat_after": True}, "concat_after"), ({"brand_new": 1}, "brand_new")):
        with pytest.raises(ConfigError, match=message):
            parse_options({**asr, "decoder_conf": conf}).head_config()
    with pytest.raises(ConfigError, match="ctc_weight"):
        parse_options({**asr, "model_conf": {"ctc_weight": 0.0}})

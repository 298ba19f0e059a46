"""ESPnet's options become our configuration, or are named as what is not supported."""

import pytest

from speechnar.errors import ConfigError
from speechnar.interop.espnet_options import parse_options
from tests.unit.interop.test_espnet import read_options


@pytest.fixture
def options():
    """Options of a tiny model that ESPnet built."""
    return read_options()


def test_every_unsupported_option_is_named_at_once(options):
    options["encoder_conf"] |= {"gate_activation": "tanh", "input_layer": "linear", "brand_new": 1}
    options["frontend_conf"]["htk"] = True
    options["preprocessor_conf"] = {"anything": "goes"}
    with pytest.raises(ConfigError) as caught:
        parse_options(options)
    for name in ("gate_activation", "input_layer", "brand_new", "frontend_conf.htk"):
        assert name in str(caught.value)
    assert "anything" not in str(caught.value)


@pytest.mark.parametrize(
    ("section", "changes", "message"),
    [
        (
            "",
            {"encoder": "rnn"},
            "encoder must be one of e_branchformer_ctc, conformer, e_branchformer, branchf",
        ),
        ("", {"normalize": "utterance_mvn"}, "norm_vars"),
        ("", {"normalize": None}, "normalize"),
        ("", {"token_type": "phn"}, "token_type"),
        ("", {"input_size": 80}, "input_size"),
        ("frontend_conf", {"frontend_conf": {"use_wpe": True}}, "speech enhancement"),
        ("frontend_conf", {"fs": "fast"}, "sample rate"),
        ("frontend_conf", {"win_length": 1024}, "win_length"),
        ("encoder_conf", {"use_cross_attention": [True, False, True]}, "use_cross_attention"),
        ("encoder_conf", {"interctc_use_conditioning": False}, "without interctc_use_conditioning"),
        ("encoder_conf", {"rel_pos_type": "legacy", "pos_enc_layer_type": "rel_pos"}, "not supported"),
        ("encoder_conf", {"num_blocks": 10**9}, "num_blocks"),
        ("encoder_conf", {"macaron_ffn": False}, "macaron_ffn"),
        ("encoder_conf", {"interctc_layer_idx": [1, 3]}, "interctc_layers"),
        ("model_conf", {"ctc_asr_only": [True, False]}, "3 values"),
        ("model_conf", {"ctc_asr_only": [True, True, True]}, "last one false"),
        ("model_conf", {"sym_na": "<nothing>"}, "sym_na"),
    ],
)
def test_unsupported_options_are_refused(options, section, changes, message):
    (options[section] if section else options).update(changes)
    with pytest.raises(ConfigError, match=message):
        parse_options(options).to_config()


def test_options_left_out_take_espnets_defaults(options):
    del options["encoder_conf"]["merge_conv_kernel"]
    options["frontend_conf"] = {"fs": 8000}
    options["model_conf"] = {}
    options["specaug"] = None
    options["normalize"], options["normalize_conf"] = "utterance_mvn", {"norm_vars": True}
    config = parse_options(options).to_config()
    assert config.encoder.merge_kernel_size == 3
    assert (config.frontend.hop_length, config.frontend.win_length, config.frontend.sample_rate) == (128, 512, 8000)
    assert config.interctc_asr_only == (False, False)
    assert config.interctc_weight == 0.0
    assert config.spec_augment is None
    assert config.normalize == "utterance"


@pytest.mark.parametrize(("given", "clip_s"), [({}, 30.0), ({"speech_length": 20, "anything": "goes"}, 20.0)])
def test_the_length_of_padded_clips_comes_with_the_model(options, given, clip_s):
    assert parse_options({**options, "preprocessor_conf": given}).to_config().clip_s == clip_s

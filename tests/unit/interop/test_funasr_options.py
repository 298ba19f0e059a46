"""FunASR's options become our configuration, or are named as what is not supported."""

import pytest
import yaml

from speechnar.errors import ConfigError
from speechnar.interop.funasr_options import parse_options
from speechnar.nn.sanm import WindowConfig
from tests.reference.funasr_folders import read_golden


@pytest.fixture
def options():
    """Options of a tiny model with timestamps and hotwords that FunASR built."""
    return yaml.safe_load(str(read_golden("seaco")["file/config.yaml"]))


def test_every_unsupported_option_of_a_section_is_named_at_once(options):
    options["encoder_conf"] |= {"sanm_shfit": 2, "input_layer": "linear", "brand_new": 1, "lora_list": ["q"]}
    options["dataset_conf"] = {"anything": "goes"}
    with pytest.raises(ConfigError) as caught:
        parse_options(options).to_config()
    for name in ("sanm_shfit", "input_layer", "brand_new", "lora_list", "encoder_conf"):
        assert name in str(caught.value)
    assert "anything" not in str(caught.value)


@pytest.mark.parametrize(
    ("section", "changes", "message"),
    [
        ("", {"model": "ContextualParaformer"}, "model: .*BiCifParaformer"),
        ("", {"encoder": "SANMVadEncoder"}, "encoder: "),
        ("", {"decoder": "FsmnDecoder"}, "decoder: "),
        ("", {"normalize": "utterance_mvn"}, "normalize: "),
        ("", {"tokenizer": "SentencepiecesTokenizer"}, "tokenizer: "),
        ("", {"model": "BiCifParaformer", "predictor": "CifPredictorV2"}, "BiCifParaformer needs predictor"),
        ("", {"model": "ParaformerStreaming", "predictor": "CifPredictorV2"}, "encoder SANMEncoder of Para"),
        ("", {"seaco_decoder": None}, "needs seaco_decoder"),
        ("", {"decoder": "ParaformerSANDecoder"}, "decoder_conf: .*att_layer_num"),
        ("frontend_conf", {"snip_edges": False}, "snip_edges"),
        ("frontend_conf", {"window": "hann"}, "window"),
        ("encoder_conf", {"num_blocks": 10**9}, "num_blocks"),
        ("encoder_conf", {"output_size": 32}, "idim must be the encoder's output_size 32, got 16"),
        ("decoder_conf", {"num_blocks": 3}, "num_blocks above att_layer_num 2"),
        ("decoder_conf", {"attention_heads": 3}, "num_heads must divide"),
        ("predictor_conf", {"tail_threshold": 0.3}, "only 0.45 is supported"),
        ("predictor_conf", {"threshold": 0.9}, "threshold"),
        ("predictor_conf", {"l_order": 2}, "l_order"),
        ("predictor_conf", {"upsample_type": "cnn_attn"}, "upsample_type"),
        ("predictor_conf", {"use_cif1_cnn": True}, "use_cif1_cnn"),
        ("model_conf", {"share_embedding": True}, "share_embedding"),
        ("model_conf", {"eos": 5}, "eos"),
        ("model_conf", {"bias_encoder_bid": True}, "bias_encoder_bid"),
        ("model_conf", {"inner_dim": 32}, "inner_dim 16 of the encoder"),
        ("seaco_decoder_conf", {"wo_input_layer": False}, "seaco_decoder_conf: wo_input_layer"),
    ],
)
def test_unsupported_options_are_refused(options, section, changes, message):
    (options[section] if section else options).update(changes)
    with pytest.raises(ConfigError, match=message):
        parse_options(options).to_config()


@pytest.mark.parametrize(
    ("section", "names"),
    [
        ("encoder_conf", ["input_layer"]),
        ("predictor_conf", ["tail_threshold", "upsample_type", "use_cif1_cnn"]),
        ("seaco_decoder_conf", ["use_output_layer", "wo_input_layer"]),
    ],
)
def test_options_left_out_take_funasrs_defaults_even_if_we_lack_them(options, section, names):
    for name in names:
        del options[section][name]
    with pytest.raises(ConfigError) as caught:
        parse_options(options).to_config()
    assert all(name in str(caught.value) for name in names)


def test_absent_decoder_options_are_funasrs(options):
    del options["decoder_conf"]["kernel_size"], options["decoder_conf"]["att_layer_num"]
    head = parse_options(options).to_config().head
    assert (head.kernel_size, head.num_layers, head.fsmn_shift) == (21, 6, 0)
    options["decoder_conf"]["sanm_shfit"] = None
    assert parse_options(options).to_config().head.fsmn_shift == 10


def test_windows_are_the_last_that_training_drew_from():
    options = yaml.safe_load(str(read_golden("online")["file/config.yaml"]))
    assert parse_options(options).to_config().encoder.windows == WindowConfig()
    options["encoder_conf"] |= {"chunk_size": 9, "stride": [6], "encoder_att_look_back_factor": 3}
    windows = WindowConfig(current_frames=6, ahead_frames=3, encoder_look_back=3)
    assert parse_options(options).to_config().encoder.windows == windows
    for wrong in ({"pad_left": [1]}, {"chunk_size": [4]}, {"stride": []}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            parse_options({**options, "encoder_conf": options["encoder_conf"] | wrong}).to_config()


def test_relative_positions_are_legacy_unless_said_otherwise():
    options = yaml.safe_load(str(read_golden("conformer")["file/config.yaml"]))
    assert parse_options(options).to_config().encoder.positions == "legacy"
    options["encoder_conf"]["rel_pos_type"] = "latest"
    assert parse_options(options).to_config().encoder.positions == "relative"

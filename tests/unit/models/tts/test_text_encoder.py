import importlib.util
import socket
from pathlib import Path

import pytest
import torch

from speechnar.errors import ConfigError, MissingExtraError, ModelNotFoundError
from speechnar.models.sound.code_model import TextConfig
from speechnar.models.sound.magnet import Magnet, MagnetConfig
from speechnar.models.tts import text_encoder as module
from speechnar.models.tts.text_encoder import ENCODERS, TextEncoder
from tests.unit.models.generators import WORDS

CPU = torch.device("cpu")
has_transformers = importlib.util.find_spec("transformers") is not None
needs_transformers = pytest.mark.skipif(not has_transformers, reason="the extra t5 (transformers) is not installed")


@pytest.mark.skipif(has_transformers, reason="transformers is installed")
def test_the_extra_is_named():
    with pytest.raises(MissingExtraError, match=r"pip install 'speechnar\[t5\]' \(No module named 'transformers'\)"):
        TextEncoder("t5-base", 768).encode(["a dog"], CPU)


@pytest.fixture
def t5(tmp_path, monkeypatch) -> Path:
    """Return a folder with a small T5 of random weights, whose tokens are words, as one of those that are listed."""
    monkeypatch.setattr(module, "ENCODERS", {str(tmp_path / "t5")})
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

    words = {"<pad>": 0, "</s>": 1, "<unk>": 2, "a": 3, "dog": 4, "barks": 5}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    specials = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **specials).save_pretrained(tmp_path / "t5")
    torch.manual_seed(0)
    config = T5Config(vocab_size=6, d_model=12, d_kv=4, d_ff=16, num_layers=1, num_heads=2)
    T5EncoderModel(config).save_pretrained(tmp_path / "t5")
    return tmp_path / "t5"


@needs_transformers
def test_texts_become_features(t5):
    encoder = TextEncoder(str(t5), 12)
    features, lens = encoder.encode(["a dog barks", "", "dog"], CPU)
    assert features.shape == (3, 4, 12)
    assert lens.tolist() == [4, 0, 2]
    alone, _ = encoder.encode(["dog"], CPU)
    torch.testing.assert_close(features[2, :2], alone[0], atol=1e-5, rtol=1e-4)


@needs_transformers
def test_wrong_encoders_are_refused(t5):
    with pytest.raises(ConfigError, match="text_dim must be the 12 channels of"):
        TextEncoder(str(t5), 768).encode(["dog"], CPU)


@needs_transformers
def test_no_other_encoder_than_a_listed_one_is_read(t5, monkeypatch):
    import transformers

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", None)
    monkeypatch.setattr(module, "ENCODERS", ENCODERS)
    for name in (str(t5), "../t5", "somebody/t5-base", "t5-base/../../x", ""):
        with pytest.raises(ModelNotFoundError, match="a text encoder must be one of"):
            TextEncoder(name, 12).encode(["dog"], CPU)


@needs_transformers
def test_a_listed_encoder_that_is_not_here_is_not_fetched(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("transformers.utils.hub.TRANSFORMERS_CACHE", str(tmp_path), raising=False)
    monkeypatch.setattr(socket, "socket", None)
    with pytest.raises(ModelNotFoundError, match="text encoder google/flan-t5-xxl is not on this machine; fetch it by"):
        TextEncoder("google/flan-t5-xxl", 12).encode(["dog"], CPU)


@needs_transformers
def test_a_model_learns_from_text_and_its_folder_is_without_the_encoder(t5):
    config = MagnetConfig.debug().model_copy(update={"condition": TextConfig(encoder=str(t5), text_dim=12)})
    torch.manual_seed(0)
    model = Magnet(config, WORDS)
    assert not any("t5" in name or "encoder.block" in name for name in model.state_dict())
    tokens, lens = torch.tensor([[2, 4], [2, 0]]), torch.tensor([2, 1])  # "dog barks", "dog"
    condition = model.condition(tokens, lens, torch.tensor([False, True]))
    assert condition.memory.shape == (2, 3, 32)
    assert condition.memory[0].abs().sum() > 0
    assert not condition.memory[1].any()
    torch.testing.assert_close(model.condition.of_texts(["dog barks", None], CPU).memory, condition.memory)

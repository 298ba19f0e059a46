"""What is exported, and for whom."""

import json
from types import SimpleNamespace

import pytest

from speechnar.cli.main import main
from speechnar.errors import ConfigError
from speechnar.export.model import export_model
from speechnar.models.base import load_model
from tests.unit.tiny import save_tiny_model, save_tiny_tts, save_tiny_whisper


@pytest.mark.parametrize(
    ("target", "decoder", "reason"),
    [("sherpa", None, "no recogniser"), ("onnx-asr", None, "no recogniser"), ("speechnar", "ctc", "no recogniser")],
)
def test_voices_are_for_this_package_alone(tmp_path, target, decoder, reason):
    source = save_tiny_tts(tmp_path / "tts")
    with pytest.raises(ConfigError, match=reason):
        export_model(load_model(source), source, tmp_path / "out", target=target, decoder=decoder)


def test_onnx_asr_reads_ctc_alone(tmp_path):
    loaded = SimpleNamespace(kind="joint", name="joint")
    with pytest.raises(ConfigError, match="CTC alone"):
        export_model(loaded, tmp_path, tmp_path / "out", target="onnx-asr", decoder="cassnat")


@pytest.mark.slow  # writes graphs
@pytest.mark.parametrize(
    ("save", "options", "files"),
    [
        (save_tiny_model, [], {"model.onnx", "config.json", "tokens.txt", "tokenizer.model", "README.md"}),
        (save_tiny_model, ["--target", "sherpa"], {"encoder.onnx", "decoder.onnx", "tokens.txt", "reader.json"}),
        (
            save_tiny_whisper,
            ["--target", "onnx-asr", "--int8"],
            {"whisper-speechnar_beamsearch.int8.onnx", "vocab.json", "added_tokens.json", "config.json"},
        ),
    ],
    ids=["speechnar", "sherpa", "onnx-asr"],
)
def test_the_command_writes_a_folder_for_each_target(tmp_path, capsys, save, options, files):
    pytest.importorskip("onnxscript")
    source = save(tmp_path / "model")
    assert main(["export", str(source), str(tmp_path / "out"), *options]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'out'}\n"
    assert {path.name for path in (tmp_path / "out").iterdir()} == files
    if "onnx-asr" in options:
        assert json.loads((tmp_path / "out" / "config.json").read_text())["model_type"] == "whisper-ort"

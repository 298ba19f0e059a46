"""The commands of models from training to shipping."""

from pathlib import Path

import torch
from safetensors.torch import load_file

from speechnar.cli import recipe
from speechnar.cli.main import main
from speechnar.models.base import load_model
from speechnar.train import run as train_run
from tests.reference.funasr_folders import read_golden, write_folder


def test_train_wants_a_valid_config(tmp_path, capsys):
    config = tmp_path / "conf.yaml"
    config.write_text("nonsense: 1\n")
    assert main(["train", str(config), "--exp", str(tmp_path / "exp")]) == 2
    assert "nonsense" in capsys.readouterr().err


def test_train_overrides_may_follow_options(tmp_path, capsys, monkeypatch):
    seen = []
    monkeypatch.setattr("speechnar.config.load_config", lambda path, cls, overrides: seen.extend(overrides))
    result = train_run.TrainResult(7, 0, 5, {"wer": 0.1}, 0, [])
    monkeypatch.setattr(train_run, "run_training", lambda config, exp: result)
    exp = tmp_path / "exp"
    assert main(["train", "conf.yaml", "a.b=1", "--exp", str(exp), "c=2", "d=x y"]) == 0
    assert seen == ["a.b=1", "c=2", "d=x y"]
    assert capsys.readouterr().out == f"{exp / 'model'}\n"


def test_average_wants_a_run(tmp_path, capsys):
    assert main(["average", str(tmp_path)]) in (1, 2)
    assert capsys.readouterr().err.count("\n") == 1


def test_a_model_is_packed_with_its_card(recognizer, tmp_path):
    card, packed = tmp_path / "card.md", tmp_path / "packed"
    card.write_text("---\nlicense: cc0-1.0\n---\n# Packed\n")
    assert main(["pack", recognizer, str(packed), "--card", str(card)]) == 0
    halved = {name for name, value in load_file(packed / "model.safetensors").items() if value.dtype == torch.float16}
    assert halved == {name for name, _ in load_model(recognizer).model.named_parameters()}
    written = (packed / "README.md").read_text()
    assert written.endswith("# Packed\n") and "cc0-1.0" in written and "apache" not in written
    assert main(["pack", recognizer, str(packed), "--card", str(card), "--dtype", "float32"]) == 0
    whole, theirs = load_file(packed / "model.safetensors"), load_file(Path(recognizer) / "model.safetensors")
    assert all(torch.equal(whole[name], weight) for name, weight in theirs.items())


def test_the_demo_is_not_installed(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(recipe, "__file__", str(tmp_path / "speechnar" / "cli" / "recipe.py"))
    assert main(["demo"]) == 2
    assert "the demo is part of the repository" in capsys.readouterr().err


def test_a_model_of_funasr_is_converted_and_used(tmp_path, wav, capsys):
    source = write_folder(read_golden("seaco"), tmp_path / "funasr")
    assert main(["convert", str(source), str(tmp_path / "ours")]) == 0
    assert "tensors" in capsys.readouterr().out.splitlines()[-1]
    assert main(["transcribe", "-q", "-m", str(tmp_path / "ours"), wav]) == 0
    assert any("一" <= letter <= "鿿" for letter in capsys.readouterr().out)
    assert main(["convert", str(tmp_path), str(tmp_path / "none")]) == 2
    assert "need a folder of ESPnet" in capsys.readouterr().err

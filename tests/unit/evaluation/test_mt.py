import json

import pytest
import torch
from matplotlib.figure import Figure

from speechnar.cli.main import main
from speechnar.data.parallel_text import Sentence, write_sentences
from speechnar.errors import ConfigError, DataError
from speechnar.evaluation import plots
from speechnar.evaluation.mt import read_log, score_log
from speechnar.metrics.translation import bleu
from speechnar.models.base import load_model, save_model
from speechnar.models.mt.fretna import Fretna, FretnaConfig
from speechnar.models.mt.fretna_ctc import FretnaCtc, FretnaCtcConfig
from speechnar.models.mt.reta import Reta, RetaConfig
from speechnar.models.mt.wait_k import WaitK, WaitKConfig
from speechnar.models.tts.vocos import Vocos, VocosConfig
from speechnar.mt.systems import Editing, OnePass, Retranslating, TranslationOptions, Verifying, Waiting, build_system
from tests.unit.models.texts import TOKENIZER, sentences

KINDS = {
    "reta": (Reta, RetaConfig),
    "fretna": (Fretna, FretnaConfig),
    "fretna_ctc": (FretnaCtc, FretnaCtcConfig),
    "wait_k": (WaitK, WaitKConfig),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder with a model of each kind and a data directory."""
    root = tmp_path_factory.mktemp("mt")
    for kind, (model_cls, config_cls) in KINDS.items():
        torch.manual_seed(0)
        model = model_cls.from_config(config_cls.debug(), TOKENIZER)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1.6)
        save_model(root / kind, model, TOKENIZER)
    write_sentences(root / "data", sentences(5))
    return root


def run(folder, out, *arguments, model="reta"):
    given = [
        "mt",
        "decode",
        str(folder / model),
        str(folder / "data"),
        str(out),
        "--source",
        "eng",
        "--target",
        "deu",
        *arguments,
    ]
    return main(given)


def test_a_log_is_scored(folder, tmp_path, capsys):
    assert run(folder, tmp_path / "greedy.jsonl", "--limit", "4") == 0
    assert run(folder, tmp_path / "whole.jsonl", "--whole", "--name", "all at once") == 0
    assert run(folder, tmp_path / "drafted.jsonl", "--draft", str(folder / "fretna_ctc"), "--limit", "4") == 0
    logs = [tmp_path / f"{name}.jsonl" for name in ("greedy", "whole", "drafted")]
    assert main(["mt", "score", str(folder / "data"), *map(str, logs), "--target", "deu"]) == 0
    greedy, whole, drafted = map(json.loads, capsys.readouterr().out.splitlines())
    assert (greedy["system"], whole["system"]) == ("greedy", "all at once")
    assert greedy["sentences"] == 4 and whole["sentences"] == whole["updates"] == 5
    assert greedy["updates"] == sum(len(s.text.split()) + 1 for s in sentences(5)[:4])
    assert "al" in greedy and "erasure" not in whole and whole["update_p95_s"] > 0
    assert drafted["bleu"] == greedy["bleu"] and drafted["erasure"] == greedy["erasure"]
    assert drafted["options"] == {"draft": "fretna_ctc"}
    assert "nrefs:1" in greedy["bleu_signature"]

    log = read_log(logs[1])
    refs = [s.translations["deu"] for s in sentences(5)]
    hyps = [" ".join(log.sentences[s.utt_id].final) for s in sentences(5)]
    assert whole["bleu"] == pytest.approx(bleu(refs, hyps).value, abs=1e-5)


def test_systems_are_drawn_as_curves(folder, tmp_path, capsys, monkeypatch):
    drawn = []

    class Watched(Figure):
        def savefig(self, *args, **kwargs):
            drawn.append(self)
            super().savefig(*args, **kwargs)

    monkeypatch.setattr(plots, "Figure", Watched)
    for delay in ("1", "2"):
        run(folder, tmp_path / f"wait{delay}.jsonl", "--delay", delay, model="wait_k")
    run(folder, tmp_path / "masked.jsonl", "--masked", "1")
    run(folder, tmp_path / "whole.jsonl", "--whole")
    logs = [str(tmp_path / f"{name}.jsonl") for name in ("wait2", "wait1", "masked", "whole")]
    assert (
        main(["mt", "score", str(folder / "data"), *logs, "--target", "deu", "--plot", str(tmp_path / "all.png")]) == 0
    )
    assert (tmp_path / "all.png").read_bytes().startswith(b"\x89PNG")
    reports = {report["system"]: report for report in map(json.loads, capsys.readouterr().out.splitlines())}
    (figure,) = drawn
    curves = (["wait1", "wait2"], ["masked"], ["whole"])
    for panel, name in zip(figure.axes, ("laal", "erasure", "seconds_per_sentence"), strict=True):
        expected = [
            sorted((reports[system][name], 100 * reports[system]["bleu"]) for system in curve)
            for curve in curves
            if reports[curve[0]].get(name) is not None
        ]
        assert [list(zip(*line.get_data(), strict=True)) for line in panel.lines] == expected
        assert len(panel.texts) == sum(map(len, expected))
    assert [len(panel.lines) for panel in figure.axes] == [2, 2, 3]
    assert {text.get_text() for text in figure.axes[-1].texts} == reports.keys()
    assert (
        main(["mt", "score", str(folder / "data"), *logs, "--target", "deu", "--plot", str(tmp_path / "no" / "a.png")])
        == 1
    )
    assert "No such file" in capsys.readouterr().err


def test_logs_and_references_must_fit(folder, tmp_path, capsys):
    assert run(folder, tmp_path / "log.jsonl", "--limit", "2") == 0
    log = read_log(tmp_path / "log.jsonl")
    known = {s.utt_id: s for s in sentences(5)}
    with pytest.raises(DataError, match=r"'s000' of the log has no reference in fra"):
        score_log(log, known, target="fra")
    (tmp_path / "broken.jsonl").write_text('{"system": "x"}\n{"utt_id": "a"}\n')
    with pytest.raises(DataError, match="must be a log"):
        read_log(tmp_path / "broken.jsonl")
    assert main(["mt", "score", str(folder / "data"), str(tmp_path / "none.jsonl"), "--target", "deu"]) == 1
    write_sentences(tmp_path / "german", [Sentence("a", "ef", "deu")])
    arguments = ["mt", "decode", str(folder / "reta"), str(tmp_path / "german"), str(tmp_path / "out.jsonl")]
    assert main([*arguments, "--source", "eng", "--target", "deu"]) == 1
    assert "'a' has no text in eng" in capsys.readouterr().err
    assert not (tmp_path / "out.jsonl").exists()


def test_options_choose_the_system(folder):
    loaded = {kind: load_model(folder / kind) for kind in KINDS}

    def system(kind, **options):
        return build_system(loaded[kind], TranslationOptions(**options))()

    assert isinstance(system("reta", beam_size=2, bias=0.3), Retranslating)
    assert isinstance(system("reta", verify=True, bias=0.3), Verifying)
    assert isinstance(system("reta", draft=folder / "fretna_ctc"), Verifying)
    assert isinstance(system("fretna", max_iterations=2, delete_cost=1.0, insert_cost=2.0, margin=1), Editing)
    assert isinstance(system("fretna_ctc", bias=1.0), OnePass)
    assert isinstance(system("wait_k", delay=3), Waiting)
    for kind, wrong in (("fretna", {"bias": 0.1}), ("wait_k", {"beam_size": 2}), ("fretna_ctc", {"verify": True})):
        with pytest.raises(ConfigError, match=f"has no {next(iter(wrong))}"):
            system(kind, **wrong)
    with pytest.raises(ConfigError, match="read greedily"):
        system("reta", verify=True, beam_size=4)
    with pytest.raises(ConfigError, match="must be of kind fretna_ctc"):
        system("reta", draft=folder / "fretna")


def test_other_models_do_not_translate_texts(folder, tmp_path, capsys):
    save_model(tmp_path / "vocoder", Vocos(VocosConfig.debug()), TOKENIZER)
    arguments = ["mt", "decode", str(tmp_path / "vocoder"), str(folder / "data"), str(tmp_path / "log.jsonl")]
    assert main([*arguments, "--source", "eng", "--target", "deu"]) == 2
    assert "must be a model of kind reta" in capsys.readouterr().err

"""The simulator counts what it says, reproduces what was measured, and fills the document."""

import json

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import corpus, finetuning, make_tables, recipes, scaling, voice_finetuning
from speechnar.data.kaldi import Utterance
from speechnar.models.asr.owsm_ctc import OwsmCtc, OwsmCtcConfig
from speechnar.scale.journal import JOURNAL

needs_figures = pytest.mark.skipif(
    not scaling.SIMULATED.is_file(), reason="python -m benchmarks.scaling: not measured yet"
)


@pytest.fixture(scope="module")
def tokenizer():
    return scaling.tokenizer_for_shapes()


def test_the_published_model_has_its_size(tokenizer):
    shape = scaling.shape_of(OwsmCtcConfig.published(), tokenizer, vocabulary=scaling.VOCABULARY)
    assert shape.weights == pytest.approx(1.01e9, rel=0.01)


def test_operations_are_those_that_are_counted(tokenizer):
    config = scaling.config_of_size("a")
    model = OwsmCtc.from_config(config, tokenizer).eval()
    batch = scaling.batch_for(tokenizer)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.loss(batch)
    expected = scaling.NUM_CLIPS * scaling.shape_of(config, tokenizer).forward_flops(scaling.CLIP_S)
    assert expected == pytest.approx(counter.get_total_flops(), rel=0.1)


def test_more_devices_need_less_memory_each_and_more_exchange():
    shape = scaling.Shape(24, 1024, 900_000_000, 100_000_000, 1e10)
    sums = [scaling.memory_of(shape, devices, 60.0, scaling.Kept(100.0, 100.0))["sum"] for devices in (1, 2, 8)]
    assert sums == sorted(sums, reverse=True)
    assert scaling.memory_of(shape, 1, 60.0, scaling.Kept(0.0, 0.0))["piece"] == 16.0
    runs = [
        scaling.training(shape, scaling.Machine(), devices=64, hours=1e5, epochs=1, batch_s=batch_s)
        for batch_s in (1.0, 1000.0)
    ]
    assert [run["bottleneck"] for run in runs] == ["exchanging", "computing"]
    assert runs[0]["days"] > runs[1]["days"]


@needs_figures
def test_the_measured_cases_are_reproduced():
    measured = json.loads(scaling.MEASURED.read_text())
    cases = [case for case in scaling.check(measured) if not case["is_used"]]
    assert len(cases) >= 5
    for case in cases:
        assert 0.6 < case["ratio"] < 1.5, case


@needs_figures
def test_the_document_says_what_was_computed():
    values = scaling.simulate(json.loads(scaling.MEASURED.read_text()))
    assert json.loads(scaling.SIMULATED.read_text()) == json.loads(json.dumps(values))
    text = scaling.DOCUMENT.read_text(encoding="utf-8")
    assert scaling.fill(text, values) == text


def test_minutes_of_a_speaker_are_split_in_their_order(tmp_path):
    utterances = [Utterance(f"u{number}", tmp_path, "a", "s", duration_s=30.0) for number in range(10)]
    learnt, kept = finetuning.split_minutes(utterances, 2.0, 1.5)
    assert [utterance.utt_id for utterance in learnt] == ["u0", "u1", "u2", "u3"]
    assert [utterance.utt_id for utterance in kept] == ["u4", "u5", "u6"]


def test_operations_of_a_step_are_three_times_those_of_a_product():
    layer = nn.Linear(30, 20)
    given = torch.randn(7, 30, requires_grad=True)
    with recipes.Operations() as counted:
        layer(given).sum().backward()
    assert counted.total == 3 * 2 * 7 * 30 * 20
    for groups in (1, 10):
        conv = nn.Conv1d(10, 20, 3, groups=groups)
        with recipes.Operations() as counted:
            conv(torch.randn(2, 10, 9, requires_grad=True)).sum().backward()
        assert counted.total == 3 * 2 * 2 * 20 * 7 * (10 // groups) * 3
    back = nn.ConvTranspose1d(10, 20, 3)
    with recipes.Operations() as counted:
        back(torch.randn(2, 10, 9, requires_grad=True)).sum().backward()
    assert counted.total == 3 * 2 * 2 * 10 * 9 * 20 * 3


def test_every_configuration_that_is_measured_is_there():
    for name in recipes.CASES:
        assert (recipes.RECIPES / name).is_file(), name


def test_a_checkpoint_is_timed(tmp_path):
    found = recipes.time_checkpoint(tmp_path, 1000)
    assert found["bytes"] > 3 * 4 * 1000
    assert found["written_s"] >= 0 and found["copied_s"] >= 0


def test_work_of_workers_is_told_from_waiting(tmp_path):
    for name, walls in (("a", (1.0, 2.0)), ("b", (3.0,))):
        (tmp_path / name).mkdir()
        lines = (json.dumps({"wall_s": wall}) + "\n" for wall in walls)
        (tmp_path / name / JOURNAL).write_text("".join(lines))
    found = corpus.use_of([tmp_path / "a", tmp_path / "b"], 2, 4.0)
    assert found == {"units": 3, "wall_s": 4.0, "mean_unit_s": 2.0, "efficiency": 0.75, "lost_s_a_worker": 1.0}


def test_tables_of_fine_tuning_and_of_ray(tmp_path):
    run = {"trained": "lora8", "updates": 30, "wer_before": 0.3, "cer_before": 0.1, "wer_after": 0.25, "cer_after": 0.1,
           "minutes": 2.5, "peak_mib": 3000}  # fmt: skip
    values = {"learnt_minutes": 10.2, "kept_minutes": 4.9, "kept_utterances": 41, "threads": 2, "runs": [run]}
    (tmp_path / "finetuning_someone.json").write_text(json.dumps(values))
    assert "| someone | lora8 | 10.2 | 30 | 41 (4.9 min) | 30.0 % | 25.0 % |" in make_tables.finetuning_table(tmp_path)
    systems = {"recorded": {"wer": 0.1, "cer": 0.05}, "after": {"wer": 0.2, "cer": 0.1, "mcd_db": 6.5}}
    voice = {"texts": 5, "minutes": 2.0, "peak_mib": 1600, "systems": systems}
    (tmp_path / "voice_finetuning_someone.json").write_text(json.dumps(voice))
    assert "| someone | after | 5 | 20.0 % | 10.0 % | 6.5 | 2.0 | 1,600 |" in make_tables.voice_finetuning_table(
        tmp_path
    )
    spoken = {"wer": 0.1, "cer": 0.05, "right": 1, "dnsmos": 3.01, "median_s": 0.05, "rtf": 0.04, "similarity": 0.8}
    heard = {"wer": 0.0, "cer": 0.0, "right": 2, "dnsmos": 3.2, "median_s": 0.0, "rtf": None}
    judged = {"runs": 2, "a": {"label": "x, steps1", "systems": {"recorded": heard, "steps1": spoken}}}
    (tmp_path / "voices.json").write_text(json.dumps(judged))
    table = make_tables.voices_table(tmp_path / "voices.json")
    assert "| recorded | 2 | 0.0 % | 0.0 % | 2 | 3.20 |  |  |  |" in table
    assert "| steps1 | 2 | 10.0 % | 5.0 % | 1 | 3.01 | 0.80 | 50 | 0.040 |" in table
    way = {"way": "ray2", "workers": 2, "wall_s": 40.0, "mean_unit_s": 2.0, "lost_s_a_worker": 4.0, "efficiency": 0.9}
    (tmp_path / "scaling_ray.json").write_text(json.dumps({"runs": [way]}))
    assert "| ray2 | 2 | 40.0 | 2.0 | 4.0 | 90 % |" in make_tables.ray_table(tmp_path / "scaling_ray.json")
    row = {"weights": 40_000_000, "bytes": 480_000_000, "written_s": 1.5, "copied_s": 0.4}
    (tmp_path / "scaling_recipes.json").write_text(json.dumps({"stages": {"checkpoints": [row]}}))
    assert "| 40 M | 0.5 | 1.5 | 0.4 |" in make_tables.checkpoints_table(tmp_path / "scaling_recipes.json")


def test_a_voice_is_measured_by_its_distance_from_the_speaker():
    samples = torch.randn(8000).numpy() * 0.1
    cepstra = voice_finetuning.cepstra(samples)
    assert cepstra.shape[1] == 13
    assert voice_finetuning.mel_cepstral_distortion(
        cepstra, cepstra, voice_finetuning.warp(cepstra, cepstra)
    ) == pytest.approx(0.0)

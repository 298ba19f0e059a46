"""The simulator counts what it says, reproduces what was measured, and fills the document."""

import json

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import finetuning, scaling
from speechnar.data.kaldi import Utterance
from speechnar.models.asr.owsm_ctc import OwsmCtc, OwsmCtcConfig

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

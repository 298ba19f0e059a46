"""Benchmarks of precisions and of other implementations count what they say."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from benchmarks import make_tables, peers, precision
from benchmarks.peers import Peer, Run
from speechnar.data.kaldi import Utterance
from speechnar.models.prepare import precisions_of
from tests.unit.tiny import RATE, save_tiny_model, save_tiny_whisper, vowels

FAKE = f"""
import json, runpy, sys
if sys.argv[1] == "speechnar":
    runpy.run_path({str(peers.WORKER)!r}, run_name="__main__")
    sys.exit()
print(json.dumps({{"ready": "a peer 1.0"}}), flush=True)
for line in sys.stdin:
    wavs = json.loads(line)["wavs"]
    print(json.dumps({{"wall_s": 2.0, "cpu_s": 1.0, "texts": ["a b"] * len(wavs), "peak_bytes": 5}}), flush=True)
"""


@pytest.mark.parametrize(
    ("options", "packages", "names"),
    [
        ([], [], precisions_of(torch.device("cpu"))[1:]),
        pytest.param(["--onnx"], ["onnxscript"], ["onnx_fp32", "onnx_int8"], marks=pytest.mark.slow),
        pytest.param(
            ["--readers"],
            ["onnxscript", "sherpa_onnx", "onnx_asr"],
            ["sherpa-onnx", "onnx-asr"],
            marks=pytest.mark.slow,
        ),
    ],
    ids=["torch", "onnx", "readers"],
)
def test_errors_of_precisions_are_counted(tmp_path, monkeypatch, options, packages, names):
    for package in packages:
        pytest.importorskip(package)
    data = tmp_path / "corpus" / "test"
    data.mkdir(parents=True)
    for seed in range(2):
        soundfile.write(tmp_path / f"{seed}.wav", vowels(1.0, seed=seed), RATE)
    (data / "wav.scp").write_text("".join(f"s-{seed} {tmp_path / f'{seed}.wav'}\n" for seed in range(2)))
    (data / "text").write_text("s-0 a cat\ns-1 two dogs sat\n")
    (data / "utt2spk").write_text("s-0 s\ns-1 s\n")
    (data / "spk2utt").write_text("s s-0 s-1\n")
    save = save_tiny_whisper if "onnx_asr" in packages else save_tiny_model  # of which onnx-asr reads none
    model = save(tmp_path / "tiny")
    monkeypatch.setattr(
        sys,
        "argv",
        ["precision", str(data), "--model", str(model), "--threads", "1", "--output", str(tmp_path), *options],
    )
    assert precision.main() == 0
    for name in names:
        values = json.loads((tmp_path / f"precision_tiny_{name}.json").read_text())
        row, exact = values["a"]["sets"]["corpus"], values["b"]["sets"]["corpus"]
        assert (exact["utterances"], exact["of"], exact["difference"]) == (2, 5, 0.0)
        assert row["difference"] == pytest.approx((row["errors"] - exact["errors"]) / 5, abs=1e-5)
        assert "corpus" in values["result"]


def test_differences_are_told_from_noise():
    texts = ("a b c d", "e f g h")
    utterances = [Utterance(text[0], Path("a.wav"), text, "s", 1.0) for text in texts]
    outcomes = {
        "fp32": precision.Outcome(["a b c d", "e f g h"]),
        "int8": precision.Outcome(["a b c x", "e f x x"]),
    }
    found = precision.TestSet("set", utterances, outcomes)
    difference, interval = found.difference("int8")
    assert difference == pytest.approx(3 / 8)
    assert interval == pytest.approx(1.96 * np.std([1, 2], ddof=1) * np.sqrt(2) / 8)
    assert found.rate("fp32").rate == 0.0


@pytest.mark.slow  # ours is a process of its own, which imports torch
def test_a_peer_and_ours_take_turns(tmp_path, monkeypatch):
    script = tmp_path / "worker.py"
    script.write_text(FAKE)
    monkeypatch.setattr(peers, "WORKER", script)
    model = save_tiny_model(tmp_path / "tiny")
    monkeypatch.setattr(peers, "DEFAULT_MODEL", str(model))
    ours = {"language": "eng", "vad": None, "pad": None}
    monkeypatch.setitem(peers.PEERS, "fake", Peer("fake", (), None, ("tiny",), ("10s",), ours=ours))
    monkeypatch.setitem(peers.CASES, "10s", (1.0,))
    options = ["fake", "--python", sys.executable, "--precisions", "fp32", "--runs", "2", "--threads", "1"]
    monkeypatch.setattr(sys, "argv", ["peers", *options, "--output", str(tmp_path)])
    assert peers.main() == 0
    assert not list(tmp_path.glob("*.json"))  # nobody speaks
    soundfile.write(tmp_path / "vowels.wav", vowels(1.0), RATE)
    sys.argv += ["--audio", str(tmp_path / "vowels.wav")]
    assert peers.main() == 0
    values = json.loads((tmp_path / "peer_fake_tiny_10s_fp32.json").read_text())
    assert values["b"] == {"label": "a peer 1.0", "median_s": 2.0, "median_cpu_s": 1.0, "peak_bytes": 5}
    assert values["a"]["label"] == "speechnar fp32"
    assert values["a"]["peak_bytes"] > 2**20
    assert values["ratio"] == pytest.approx(2.0 / values["a"]["median_s"], rel=1e-2)


class Turns:
    """A worker that writes down when it is asked."""

    def __init__(self, name, turns):
        self.name, self.turns = name, turns

    def transcribe(self, paths):
        self.turns.append(self.name)
        return Run(wall_s=float(len(self.turns)), cpu_s=0.0, texts=["a"] * len(paths), peak_bytes=1)


@pytest.mark.parametrize(("seconds", "counted"), [(60.0, 5), (0.0, 3)])
def test_all_run_in_turns_until_their_time_is_over(seconds, counted):
    turns = []
    workers = {name: Turns(name, turns) for name in ("peer", "int8")}
    found = peers.alternate(workers, [Path("0.npy")], runs=5, seconds=seconds)
    assert turns == ["peer", "int8"] * (counted + 1)
    assert [run.wall_s for run in found["peer"]] == [float(2 * n + 3) for n in range(counted)]  # the first is none


def test_samples_are_cut_from_recordings(tmp_path):
    soundfile.write(tmp_path / "a.wav", vowels(1.0), RATE)
    paths = peers.write_samples([0.75, 0.75], [tmp_path / "a.wav"], tmp_path)
    joined = np.concatenate([np.load(path) for path in paths])
    assert len(joined) == 1.5 * RATE
    assert np.array_equal(joined[RATE:], joined[: RATE // 2])  # it begins anew
    (tones,) = peers.write_samples([0.5], None, tmp_path)
    assert len(np.load(tones)) == RATE // 2


def test_medians_are_those_of_the_runs():
    runs = [Run(wall_s=s, cpu_s=2 * s, texts=["a"], peak_bytes=round(s)) for s in (3.0, 1.0, 2.0)]
    assert peers._side("us", runs) == {"label": "us", "median_s": 2.0, "median_cpu_s": 4.0, "peak_bytes": 3}
    assert peers._share_alike(["ab c", "x"], ["ab d", "x"]) == 3 / 4
    assert peers._share_alike(["abcd"], ["bcd"]) == 3 / 4
    assert peers._share_alike([""], [""]) == peers._share_alike(["a"], ["a"]) == 1.0
    assert peers._share_alike(["a"], [""]) == 0.0


def test_results_have_tables_of_their_own(tmp_path):
    row = {"utterances": 3, "unit": "word", "rate": 0.125, "difference": 0.025, "interval": 0.04, "cpu_s": 1.0}
    sides = {"a": {"sets": {"an4": row}}, "b": {"sets": {"an4": {"rate": 0.1, "cpu_s": 3.0}}}}
    (tmp_path / "precision_tiny_int8.json").write_text(json.dumps({"what": "tiny in int8", **sides}))
    side = {"median_s": 0.5, "peak_bytes": 2**30}
    peer = {"a": side, "b": side, "ratio": 1.0, "note": "alike", "load_before": 0.1}
    (tmp_path / "peer_espnet_10s_fp32.json").write_text(json.dumps(peer))
    assert make_tables.precision_table(tmp_path).splitlines()[2:] == [
        "| tiny in int8 | an4 | 3 | word | 10.00 % | 12.50 % | +2.50 ± 4.00 | 3.00 |"
    ]
    assert make_tables.peers_table(tmp_path).splitlines()[2:] == [
        "| espnet_10s_fp32 | 0.500 s, 1,024 MiB | 0.500 s, 1,024 MiB | 1.00 | alike | 0.1 |"
    ]
    assert make_tables.benchmarks_table(tmp_path) == make_tables.NOTHING

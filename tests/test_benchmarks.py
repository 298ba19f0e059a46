"""The benchmarks measure what they say, and the documents' tables are those of the result files."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from packaging.requirements import Requirement
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import (
    captioning,
    cold_start,
    generating,
    install,
    make_tables,
    memory,
    music,
    reproduce,
    result,
    speed_decoders,
    streaming,
    synthesis,
    word_times,
)
from speechnar.asr.transcriber import Transcriber
from speechnar.data.kaldi import Utterance, write_kaldi_dir
from speechnar.hub import ModelInfo
from speechnar.models.base import save_model
from speechnar.models.sound.code_model import CodeModelConfig
from speechnar.models.sound.enat import EnatConfig
from speechnar.models.sound.magnet import MagnetConfig
from speechnar.models.sound.music_ar import MusicArConfig
from speechnar.text.transcript import Segment, Transcript, Word
from speechnar.tts.acoustic import AcousticModel
from tests.unit.models.generators import WORDS, make_generator
from tests.unit.tiny import RATE, save_tiny_model, speechlike, vowels

ROOT = Path(__file__).parents[1]


def test_tables_of_the_documents_are_up_to_date():
    stale = [path for path in make_tables.documents(ROOT) if make_tables.update(path, ROOT, write=False)]
    assert not stale, "run python -m benchmarks.make_tables"


def test_an_experiment_has_a_line_for_all_seeds(tmp_path):
    recipe = tmp_path / "recipes" / "corpus" / "asr"
    for seed, rate in enumerate((0.1, 0.25)):
        folder = recipe / "results" / "decoders" / f"joint-seed{seed}"
        folder.mkdir(parents=True)
        report = {"languages": {"eng": {"utterances": 3, "wer": {"rate": rate}, "cer": {"rate": rate / 2}}}}
        (folder / "test.asr.ctc.json").write_text(json.dumps(report))
    results = recipe / "RESULTS.md"
    results.write_text("<!-- table:decoders -->\n<!-- /table -->\n<!-- table:results -->\n<!-- /table -->\n")
    assert make_tables.update(results, tmp_path, write=True)
    lines = [line for line in results.read_text().splitlines() if line.startswith("| joint")]
    assert lines == ["| joint | test | asr | ctc | 10.00, 25.00 | 17.50 % | 8.75 % |"]


def test_tables_are_made_from_result_files(tmp_path, monkeypatch):
    recipe = tmp_path / "recipes" / "corpus" / "asr"
    folder = recipe / "results" / "some-model"
    folder.mkdir(parents=True)
    report = {
        "languages": {
            "eng": {"utterances": 3, "wer": {"rate": 0.125}, "cer": {"rate": 0.05}},
            "all": {"utterances": 7, "wer": {"rate": 0.5}, "cer": {"rate": 0.25}},
        },
        "macro": {"wer": 0.625, "cer": 0.125},
        "lid": {"accuracy": 0.75, "utterances": 4},
    }
    (folder / "test.asr.json").write_text(json.dumps(report))
    translations = {"languages": {"spa": {"utterances": 2, "bleu": {"value": 0.3125}, "chrf": {"value": 0.5}}}}
    (folder / "test.st_eng.json").write_text(json.dumps(translations))
    (folder / "test.asr.cassnat.json").write_text(json.dumps(report | {"macro": {"wer": 0.5, "cer": 0.0625}}))
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- table:models -->\nold\n<!-- /table -->\nafter\n")
    model = ModelInfo("some-model", "joint", ("asr",), 1_000_000, ("eng",), "cc0", "shipped", tmp_path)
    monkeypatch.setattr(make_tables, "list_models", lambda: [model])
    assert make_tables.update(readme, tmp_path, write=True)
    assert not make_tables.update(readme, tmp_path, write=True)
    text = readme.read_text()
    assert text.startswith("before\n<!-- table:models -->\n| model |") and text.endswith("<!-- /table -->\nafter\n")
    lines = [line for line in text.splitlines() if line.startswith("| some-model")]
    assert len(lines) == 3
    assert "| asr | cassnat | 7 | 50.0 % | 25.0 % |" in lines[0] and lines[0].endswith("| 6.2 % | 75.0 % |")
    assert "| asr |  | 7 | 50.0 % | 25.0 % |" in lines[1] and lines[1].endswith("| 12.5 % | 75.0 % |")
    assert "| st_eng |  | 2 |" in lines[2] and "| 31.2 | 50.0 |" in lines[2]
    results = recipe / "RESULTS.md"
    results.write_text("<!-- table:results -->\n<!-- /table -->\n")
    card = recipe / "README.md"
    card.write_text("<!-- table:summary -->\n<!-- /table -->\n")
    assert make_tables.documents(tmp_path) == [readme, card, results]
    make_tables.update(card, tmp_path, write=True)
    assert "| some-model | test | asr | cassnat | 7 | 50.0 % | 25.0 % |" in card.read_text()
    make_tables.update(results, tmp_path, write=True)
    assert "| some-model | test | asr |  | English | 3 | 12.5 % | 5.0 % |" in results.read_text()
    assert "| some-model | test | asr | cassnat | mean of the languages |  | 50.0 % | 6.2 % |" in results.read_text()
    with pytest.raises(SystemExit, match="no table is called nonsense"):
        make_tables.fill("<!-- table:nonsense -->\n<!-- /table -->", {"models": str})


def test_speech_and_voices_have_tables_of_their_own(tmp_path):
    recipe = tmp_path / "recipes" / "corpus" / "tts"
    folder = recipe / "results" / "some-voice"
    folder.mkdir(parents=True)
    heard = {
        "wer": {"rate": 0.125, "interval": [0.1, 0.1875]},
        "cer": {"rate": 0.05, "interval": None},
        "right": {"value": 0.75, "interval": [0.5, 1.0]},
        "similarity": {"value": 0.625},
    }
    means = dict.fromkeys(("mcd_db", "pitch_rmse_cents", "pitch_correlation", "voicing_error", "duration"))
    spoken = {key: {"value": 0.25} for key in means}
    systems = {"recorded": {**heard, **means}, "16 steps": {**heard, **spoken}}
    (folder / "test.speech.json").write_text(json.dumps({"utterances": 3, "systems": systems}))
    quantiles = {"0.05": 0.25, "0.5": 0.5, "0.95": 0.75}
    verification = {
        "utterances": 5,
        "speakers": 2,
        "eer": {"rate": 0.0625, "num_same": 4, "num_different": 6},
        "cosine_quantiles": {"same": quantiles, "different": quantiles},
    }
    (folder / "an4-test.verification.json").write_text(json.dumps(verification))
    parts = [("insert", "start", 3, 2), ("insert", "end", 1, 1), ("delete", "middle", 2, 0)]
    edits = {
        "edits": 6,
        "counts": [dict(zip(("kind", "place", "edits", "heard"), part, strict=True)) for part in parts],
        "wer": heard["wer"],
        "untouched": 5,
        "largest_click": 1.125,
    }
    (folder / "test.edits.json").write_text(json.dumps(edits))
    results = recipe / "RESULTS.md"
    tables = ("speech", "edits", "verification", "results")
    results.write_text("".join(f"<!-- table:{name} -->\n<!-- /table -->\n" for name in tables))
    assert make_tables.update(results, tmp_path, write=True)
    first = "| some-voice | test |"
    rates = "3 | 12.5 % [10.0, 18.8] | 5.0 % | 75.0 % [50.0, 100.0] | 0.62"
    ranges = "0.25, 0.50, 0.75 | 0.25, 0.50, 0.75"
    lines = [line for line in results.read_text().splitlines() if line.startswith("| some-voice")]
    assert lines == [
        f"{first} recorded | {rates} |  |  |  |  |  |",
        f"{first} 16 steps | {rates} | 0.2 | 0 | 0.25 | 0.250 | 0.25 |",
        f"{first} 2 of 3 | 1 of 1 | 0 of 2 | 12.5 % [10.0, 18.8] | 5 of 6 | 1.12 |",
        f"| some-voice | an4-test | 2 | 5 | 4 | 6 | 6.2 % | {ranges} |",
    ]
    assert make_tables.NOTHING in results.read_text()  # these are no scores of recognition


def test_sound_has_a_table_of_its_own(tmp_path):
    recipe = tmp_path / "recipes" / "corpus" / "music"
    folder = recipe / "results" / "some-band"
    folder.mkdir(parents=True)
    mean = {"value": 0.75, "interval": [0.5, 1.0], "num": 4}
    scores = {"right": mean, "probability": {**mean, "interval": None}, "frechet": 12.345}
    scores |= {"kernel": {"value": 0.01234, "deviation": 0.00567}, "repeated": None, "joined": None}
    repeated = {"nearest": mean, "longest_frames": {"value": 3.25}, "ngrams": {"5": mean}}
    systems = {"recorded": scores, "long": {**scores, "repeated": repeated, "joined": {"outliers": mean}}}
    (folder / "test.sound.json").write_text(json.dumps({"utterances": 4, "systems": systems}))
    results = recipe / "RESULTS.md"
    results.write_text("<!-- table:sound -->\n<!-- /table -->\n<!-- table:results -->\n<!-- /table -->\n")
    assert make_tables.update(results, tmp_path, write=True)
    judged = "4 | 75.0 % [50.0, 100.0] | 75.0 % | 0.0123 ± 0.0057 | 12.3"
    lines = [line for line in results.read_text().splitlines() if line.startswith("| some-band")]
    assert lines == [
        f"| some-band | test | recorded | {judged} |  |  |  |",
        f"| some-band | test | long | {judged} | 75.0 % [50.0, 100.0] | 3.2 | 75.0 % [50.0, 100.0] |",
    ]
    assert make_tables.NOTHING in results.read_text()  # these are no scores of recognition


def test_translation_has_a_table_of_its_own(tmp_path):
    folder = tmp_path / "recipes/multi30k/mt/results/pair"
    folder.mkdir(parents=True)
    streamed = {"erasure": 0.156, "laal": 3.14, "update_p50_s": 0.002, "update_p95_s": 0.0031}
    reports = [
        {"system": "once", "sentences": 9, "bleu": 0.3, "chrf": 0.5, "evaluations_per_update": 1.0, **streamed},
        {"system": "beam", "sentences": 9, "bleu": 0.4, "chrf": 0.6, "evaluations_per_update": 12.3},
    ]
    reports[0]["options"], reports[1]["options"] = {}, {"beam_size": 4}
    (folder / "test.translation.jsonl").write_text("".join(json.dumps(report) + "\n" for report in reports))
    document = tmp_path / "recipes/multi30k/mt/README.md"
    document.write_text("<!-- table:translation -->\n<!-- /table -->\n<!-- table:results -->\n<!-- /table -->\n")
    assert make_tables.update(document, tmp_path, write=True)
    lines = [line for line in document.read_text().splitlines() if line.startswith("| pair")]
    assert lines == [
        "| pair | test | beam | 9 | 40.0 | 60.0 |  |  |  |  | 12.3 |",
        "| pair | test | once | 9 | 30.0 | 50.0 | 0.16 | 3.1 | 2.0 | 3.1 | 1.0 |",
    ]
    assert make_tables.translation_table(tmp_path, None).count("| pair |") == 1


def test_a_result_file_has_the_shape_of_the_contract(tmp_path):
    path = result.write_result(
        "x",
        what="w",
        threads=2,
        runs=3,
        load_before=0.5,
        a={"label": "a", "median_s": 2.0},
        b={"label": "b", "median_s": 3.0},
        result="r",
        folder=tmp_path,
    )
    values = json.loads(path.read_text())
    assert {"name", "what", "threads", "runs", "load_before", "a", "b", "ratio", "note"} <= values.keys()
    assert values["ratio"] == 1.5
    assert "| w | r | 3 | 2 | 0.5 |" in make_tables.benchmarks_table(tmp_path)


def test_what_a_package_needs_is_found_by_way_of_others():
    def distribution(*requires: str) -> install.Distribution:
        return install.Distribution("1", 10, tuple(map(Requirement, requires)))

    known = {
        "ours": distribution("Torch>=2", "old; python_version < '3'", "draws; extra == 'plots'", "net[fast]"),
        "torch": distribution("cuda; sys_platform != 'nowhere'", "not-installed"),
        "cuda": distribution("torch"),  # a circle
        "net": distribution("speed; extra == 'fast'", "debug; extra == 'slow'"),
        **{name: distribution() for name in ("old", "draws", "speed", "debug", "stranger")},
    }
    core = {"ours", "torch", "cuda", "net", "speed"}
    assert install.needed_by(known, "ours") == core
    assert install.needed_by(known, "ours", "plots") == core | {"draws"}


def test_what_is_installed_here_is_listed_with_its_size():
    known = install.installed(Path(sys.executable))
    assert {"pytest-xdist", "pytest", "execnet", "pluggy"} <= install.needed_by(known, "pytest-xdist")
    assert "numpy" not in install.needed_by(known, "pytest-xdist")
    assert known["numpy"].version == np.__version__
    code = sum(path.stat().st_size for path in Path(np.__file__).parent.rglob("*.py"))
    assert code < known["numpy"].size < 1e9


def test_installs_have_a_table_of_their_own(tmp_path):
    assert make_tables.install_table(tmp_path / "install.json") == make_tables.NOTHING
    side = {"label": "torch 1+cpu", "median_s": 60.0, "mb": 1162, "torch_mb": 700, "num_packages": 40}
    sides = {"a": {**side, "extras_mb": {"media": 113}}, "b": {**side, "label": "torch 1", "extras_mb": {}}}
    (tmp_path / "install.json").write_text(json.dumps(sides))
    table = make_tables.install_table(tmp_path / "install.json")
    assert "| inference, with torch 1+cpu | 1,162 | 700 | 40 |" in table
    assert "| inference, with torch 1 | 1,162 | 700 | 40 |" in table
    assert "| `media` adds | 113 |  |  |" in table


def utterance(folder, name, text, silence_s, speech_s):
    """Write silence, a tone and silence."""
    tone = 0.5 * np.sin(2 * np.pi * 300 * np.arange(round(speech_s * RATE)) / RATE)
    quiet = np.zeros(round(silence_s * RATE))
    path = folder / f"{name}.wav"
    soundfile.write(path, np.concatenate([quiet, tone, quiet]), RATE)
    return Utterance(
        utt_id=f"s-{name}", wav_path=path, text=text, spk_id="s", duration_s=2 * silence_s + speech_s, lang="eng"
    )


def test_assembled_clips_have_known_boundaries(tmp_path):
    utterances = [utterance(tmp_path, "a", "one", 0.2, 0.5), utterance(tmp_path, "b", "two or three", 0.3, 1.0)]
    (clip,) = word_times.assemble(utterances)
    spans = {}
    for start, end in zip(clip.boundaries[::2], clip.boundaries[1::2], strict=True):
        spans[clip.words[start.word], clip.words[end.word]] = (start.time_s, end.time_s)
        inside = clip.wav[round(start.time_s * RATE) : round(end.time_s * RATE)]
        assert np.abs(inside).max() > 0.4
    assert {key: pytest.approx(end - start, abs=0.011) for key, (start, end) in spans.items()} == {
        ("one", "one"): 0.5,
        ("two", "three"): 1.0,
    }
    loud = np.abs(clip.wav) > 0.01
    assert loud.sum() == pytest.approx(1.5 * RATE, rel=0.02)  # pauses are quiet


def transcript_of(*words):
    segment = Segment(0, 0.0, 9.0, " ".join(word.word for word in words), words=words)
    return Transcript("f", "m", "align", "eng", None, 10.0, segment.text, (segment,))


def test_errors_count_only_words_in_their_place():
    boundaries = (word_times.Boundary(0, "start", 1.0), word_times.Boundary(2, "end", 3.0))
    clip = word_times.Clip(np.zeros(10 * RATE, np.float32), "eng", ("a", "b", "c"), boundaries)
    exact = transcript_of(Word(1.0, 1.5, "a", 1.0), Word(1.5, 2.0, "b", 1.0), Word(2.0, 3.25, "c", 1.0))
    assert word_times.errors(clip, exact) == pytest.approx([0.0, 0.25])
    assert word_times.errors(clip, transcript_of(Word(1.1, 1.5, "a", 1.0), Word(2.0, 3.0, "x", 1.0))) == pytest.approx(
        [0.1]
    )
    assert word_times.errors(clip, transcript_of()) == []


def test_the_median_leaves_out_the_first_run():
    calls = []
    medians = result.median_seconds(lambda: calls.append("a"), lambda: calls.append("b"), runs=2)
    assert calls == ["a", "b"] * 3
    assert len(medians) == 2


def test_programs_are_timed_by_turns_on_the_clock_and_by_the_processor():
    busy = "import time\nwhile time.process_time() < 0.3: pass"
    spent = cold_start.alternate(
        {"busy": (sys.executable, "-c", busy), "idle": (sys.executable, "-c", "import time; time.sleep(0.3)")}, runs=1
    )
    assert min(wall for wall, _ in spent.values()) > 0.3
    assert spent["busy"][1] > 0.3 > spent["idle"][1]


@pytest.mark.slow
def test_the_parts_of_a_cold_start_are_timed(tmp_path):
    soundfile.write(tmp_path / "speech.wav", vowels(1.0), RATE)
    model = save_tiny_model(tmp_path / "tiny")
    parts = cold_start.spent_in_parts(tmp_path / "speech.wav", runs=1, threads=1, model=str(model))
    assert max(parts, key=parts.__getitem__) == "import torch" and min(parts.values()) > 0


def test_streams_are_timed_to_the_end_of_each_recording(tmp_path):
    paths = []
    for seed in range(3):
        paths.append(tmp_path / f"{seed}.wav")
        soundfile.write(paths[-1], vowels(1.0, seed=seed), RATE)
    wav, ends_s = streaming.join(paths, 5.0)
    assert len(ends_s) == 3 and len(wav) >= 5.0 * RATE
    assert all(np.abs(wav[round(end * RATE) : round((end + 0.9) * RATE)]).max() < 0.01 for end in ends_s)
    transcriber = Transcriber.load(save_tiny_model(tmp_path / "tiny"), device="cpu")
    side = streaming.time_stream(transcriber, wav, ends_s, 0.2)
    assert side["waits"] == side["recordings"] == 3 and side["words"] > 0
    assert 0.4 < side["final_after_s"] < 1.0  # half a second of silence, in audio time
    assert side["pushes"] == -(-len(wav) // 3200)
    assert side["median_s"] <= side["p95_s"] <= side["max_s"]


def test_synthesis_is_timed_and_its_evaluations_counted():
    acoustic = AcousticModel(synthesis.random_model(quick=True))
    one, all_at_once = (synthesis.time_case(acoustic, size, 2, 1) for size in (1, None))
    assert one["audio_s"] == all_at_once["audio_s"] > 3
    # A pause between the two sentences needs none.
    assert one["evaluations_per_s"] == pytest.approx(2 / acoustic.latent_shift_s, rel=0.06)
    assert all_at_once["evaluations_per_s"] == pytest.approx(2 * 2 / one["audio_s"], abs=0.01)  # two sentences
    assert one["speech_ms_per_evaluation"] == pytest.approx(20, rel=0.06)
    assert 0 < all_at_once["ardit_rtf"] < one["ardit_rtf"] < one["rtf"]
    assert "blocks of all, 2 steps: first sound after" in synthesis.shown(all_at_once)


@pytest.mark.slow
def test_generators_of_codes_are_timed_and_their_work_counted(tmp_path, monkeypatch):
    threads = str(torch.get_num_threads())
    options = ["--quick", "--threads", threads, "--output", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["music", *options, "--dtypes", *music.DTYPES])
    assert music.main() == 0
    values = json.loads((tmp_path / "music_tiny.json").read_text())
    assert values["note"].endswith("float32 and bfloat16")
    cases = values["a"]["cases"]
    assert len(cases) == 3 * 2 * 2
    for case in cases:
        is_twin = case["system"] == music.TWIN
        assert case["evaluations"] == (case["frames"] + 3 if is_twin else 10)
        others = [other for other in cases if (other["system"], other["frames"]) == (case["system"], case["frames"])]
        assert sorted(other["is_faster_dtype"] for other in others) == [False, True]
        if case["is_faster_dtype"]:
            assert case["median_s"] == min(other["median_s"] for other in others)
    assert (values["a"]["system"], values["b"]["system"]) == ("MAGNeT", music.TWIN)
    assert values["a"]["frames"] == values["b"]["frames"] == 48
    assert "48 frames: MAGNeT" in values["result"]


@pytest.mark.slow
def test_music_is_timed_in_a_program_and_by_the_command(tmp_path, monkeypatch, capsys):
    save_model(tmp_path / "magnet", make_generator("magnet"), WORDS)
    options = ["--threads", str(torch.get_num_threads()), "--runs", "1", "--output", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["generating", "--model", str(tmp_path / "magnet"), "--seconds", "0.7", *options])
    assert generating.main() == 0
    values = json.loads((tmp_path / "generating.json").read_text())
    assert 0 < values["a"]["median_s"] < values["b"]["median_s"]  # the command has to load first
    assert "0.7 s of music by the model magnet" in values["what"]
    monkeypatch.setattr(sys, "argv", ["generating", "--model", str(tmp_path / "none"), *options])
    assert generating.main() == 1
    assert "none" in capsys.readouterr().out


def test_flops_are_those_of_the_formula():
    config = MusicArConfig.debug()
    sizes, codec, rows = config.network, config.codec, 2
    num_steps = config.window_frames + codec.num_codebooks - 1
    layer = 4 * sizes.model_dim**2 + 2 * sizes.model_dim * sizes.ff_dim
    heads = codec.num_codebooks * sizes.model_dim * codec.codebook_size
    attention = 2 * sizes.model_dim * sum(range(1, num_steps + 1))
    products = rows * (num_steps * (sizes.num_layers * layer + heads) + sizes.num_layers * attention)
    assert music.count_flops(config) == 2 * products
    deep = EnatConfig.debug().model_copy(update={"network": sizes.model_copy(update={"num_layers": 4})})
    generate = music.prepare(music.build(deep, torch.float32))
    kernel = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: music._attention_flops}
    with FlopCounterMode(display=False, custom_mapping=kernel) as counter:
        generate()
    assert music.count_flops(deep) == counter.get_total_flops()


@pytest.mark.slow
def test_networks_of_the_published_kind_are_told_of_text():
    """Those of the paper attend to it; here narrow ones do, in both precisions."""
    recipe, published = music.sizes()
    assert {config.codec.num_codebooks for size in (recipe, published) for config in size.systems.values()} == {4}
    narrow = CodeModelConfig.debug()
    systems = {name: config.model_copy(update={"network": narrow}) for name, config in published.systems.items()}
    cases = music.time_length(music.Size("narrow", systems, (20,), 1), 20, 1, list(music.DTYPES))
    assert {(case["system"], case["evaluations"]) for case in cases} == {
        ("MAGNeT", 50),
        ("ENAT", 50),
        (music.TWIN, 21 + 3),
    }
    long = music.sampling_of(MagnetConfig.published().model_copy(update={"window_frames": 1500}))
    assert long.steps == (60, 10, 10, 10)


def test_recordings_have_their_length(tmp_path):
    clip = tmp_path / "clip.wav"
    soundfile.write(clip, speechlike(1.0), RATE)
    memory.write_recording(tmp_path / "long.wav", 7.5, [clip])
    assert soundfile.info(tmp_path / "long.wav").frames == 7.5 * RATE


@pytest.mark.slow
def test_memory_does_not_grow_with_the_length_of_a_recording(tmp_path):
    model = save_tiny_model(tmp_path / "tiny")
    short, long = memory.compare(str(model), 300, 1800, way="windows", threads=1)
    assert short["words"] > 0 and long["words"] > 3 * short["words"]
    assert long["peak_mib"] - short["peak_mib"] < memory.LIMIT_MIB


@pytest.mark.slow
def test_memory_is_measured_in_the_way_that_is_asked_for(tmp_path, monkeypatch):
    options = ["--model", str(save_tiny_model(tmp_path / "tiny")), "--short-minutes", "0.2", "--long-minutes", "0.3"]
    options += ["--ways", "windows", "--data", str(tmp_path), "--output", str(tmp_path / "results")]
    monkeypatch.setattr("sys.argv", ["memory", *options])
    assert memory.main() == 0
    assert [path.name for path in (tmp_path / "results").iterdir()] == ["memory_windows.json"]


def test_planted_posteriors_hold_the_tokens_asked_for():
    log_probs = speed_decoders.plant_tokens(2, 100, 40, 13)
    torch.testing.assert_close(log_probs.exp().sum(-1), torch.ones(2, 100))
    paths = speed_decoders.greedy(log_probs, torch.tensor([100, 100]), 0)
    assert [len(path.tokens) for path in paths] == [13, 13]
    assert not {0, 39} & set(paths[0].tokens)
    unsure = log_probs.exp().max(-1).values < 0.9
    assert unsure.sum(1).tolist() == [6, 6]  # three spikes, and three blanks


def time_decoders(monkeypatch, folder, *options):
    threads = ("--threads", str(torch.get_num_threads()))
    monkeypatch.setattr(sys, "argv", ["speed_decoders", "--quick", *threads, "--output", str(folder), *options])
    assert speed_decoders.main() == 0
    return [json.loads((folder / f"speed_decoders_tiny_batch{batch}.json").read_text()) for batch in (1, 2)]


def test_decoders_are_timed_over_the_same_tokens(tmp_path, monkeypatch):
    for batch, values in enumerate(time_decoders(monkeypatch, tmp_path, "--no_espnet"), start=1):
        cases = values["a"]["cases"]
        assert {case["seconds"] for case in cases} == {1.0, 2.0} and {case["batch"] for case in cases} == {batch}
        tokens = {(case["system"], case["seconds"]): case["tokens"] for case in cases}
        assert len(tokens) == len(cases) == 2 * 9
        for seconds, planted in ((1.0, 4), (2.0, 7)):
            for system in (speed_decoders.CTC, speed_decoders.AR_GREEDY, speed_decoders.AR_BEAM):
                assert tokens[system, seconds] == planted
            assert tokens[speed_decoders.CASSNAT, seconds] == planted + 1
            assert tokens[speed_decoders.PARAFORMER, seconds] == pytest.approx(planted, abs=1)
        for case in cases:
            assert 0 < case["decode_s"] < case["whole_s"]
            for baseline, ratio in case["times_faster_decode"].items():
                other = next(c for c in cases if (c["system"], c["seconds"]) == (baseline, case["seconds"]))
                assert ratio == pytest.approx(other["decode_s"] / case["decode_s"], rel=0.01, abs=0.01)
        assert values["b"]["label"] == speed_decoders.AR_BEAM
        assert [claim["system"] for claim in values["a"]["claims_of_papers"]] == [
            "CTC greedy",
            "CASS-NAT best path",
            "Paraformer",
        ]


@pytest.mark.slow
def test_the_reference_beam_finds_the_same_tokens(tmp_path, monkeypatch):
    pytest.importorskip("espnet")
    build, records_gradients = speed_decoders.espnet_decoder.build_search, []

    def build_watched(*args, **kwargs):
        search = build(*args, **kwargs)
        search.register_forward_pre_hook(lambda *_: records_gradients.append(torch.is_grad_enabled()))
        return search

    monkeypatch.setattr(speed_decoders.espnet_decoder, "build_search", build_watched)
    results = time_decoders(monkeypatch, tmp_path)
    assert records_gradients and not any(records_gradients)  # else it is slower than it need be, and takes all memory
    for values in results:
        rows = [case for case in values["a"]["cases"] if case["system"] == speed_decoders.REFERENCE]
        assert len(rows) == 2 and all(row["same_tokens_as_ours"] for row in rows)
        assert values["b"]["label"] == speed_decoders.REFERENCE


@pytest.mark.slow
def test_captions_lag_behind_speech_and_lose_nothing(tmp_path, monkeypatch):
    for seed in range(2):
        soundfile.write(tmp_path / f"{seed}.wav", vowels(1.0, seed=seed), RATE)
    (tmp_path / "wav.scp").write_text("".join(f"{seed} {tmp_path / f'{seed}.wav'}\n" for seed in range(2)))
    model = save_tiny_model(tmp_path / "tiny")
    monkeypatch.setattr(captioning, "CHUNKS_S", (1.5, 0.3))
    options = ["--model", str(model), "--data", str(tmp_path), "--seconds", "3", "--output", str(tmp_path)]
    options += ["--threads", str(torch.get_num_threads())]
    monkeypatch.setattr(sys, "argv", ["captioning", *options])
    assert captioning.main() == 0
    values = json.loads((tmp_path / "captioning.json").read_text())
    coarse, fine = values["a"]["cases"]
    assert "3 of 3 texts" in values["result"] and "2 recordings, 3 s" in values["note"]
    assert coarse["words"] == fine["words"] > 0 and 0 < coarse["updates"] < fine["updates"]
    for side in (coarse, fine):
        assert 0 < side["median_s"] <= side["p95_s"] <= side["max_s"] and side["rtf"] > 0
        assert side["wall_s"] >= side["audio_s"] - 0.01 > 2, "nothing is heard before it is spoken"
    monkeypatch.setattr(captioning, "clip_texts", lambda *_: "something else")
    assert captioning.main() == 1
    assert "0 of 3 texts" in json.loads((tmp_path / "captioning.json").read_text())["result"]
    monkeypatch.setattr(sys, "argv", ["captioning", "--data", str(tmp_path / "nothing")])
    assert captioning.main() == 1


def test_what_is_reproduced_has_its_place_and_differences_are_said(tmp_path):
    for scored in reproduce.SCORED:
        assert (ROOT / "recipes" / scored.result).is_file() and scored.decoder == "ctc"
        assert scored.folder.parts[: len(ROOT.parts)] == ROOT.parts
    assert all((ROOT / "benchmarks" / f"{name}.py").is_file() for name in reproduce.TIMED)
    known = {"languages": {"eng": {"wer": {"rate": 0.25}, "cer": {"rate": 0.125}}}}
    found = {"languages": {"eng": {"wer": {"rate": 0.5}, "cer": {"rate": 0.125}}, "fra": {"cer": {"rate": 0.0}}}}
    assert list(reproduce.differences(known, known)) == []
    assert list(reproduce.differences(known, found)) == ["eng wer 0.5 (was 0.25)", "fra cer 0.0 (was None)"]


@pytest.mark.slow
def test_a_set_is_decoded_and_scored_anew(tmp_path, monkeypatch):
    model = save_tiny_model(tmp_path / "tiny")
    monkeypatch.setattr(reproduce, "ROOT", tmp_path)
    scored = reproduce.ScoredSet(str(model), "data/set", "corpus/asr/results/tiny/set.asr.ctc.json")
    assert reproduce.rescore(scored) is None, "what is not here is left out"
    (tmp_path / "audio").mkdir()
    write_kaldi_dir(scored.folder, [utterance(tmp_path / "audio", "a", "one", 0.2, 0.5)])
    result_file = tmp_path / "recipes" / scored.result
    result_file.parent.mkdir(parents=True)
    result_file.write_text('{"languages": {}}')
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    assert "eng wer" in reproduce.rescore(scored)
    assert reproduce.rescore(scored) is None, "the same weights and data have the same scores"


def test_numbers_in_sentences_come_from_result_files(tmp_path):
    cases = [
        {"system": "CASS-NAT best path", "seconds": s, "times_faster_decode": {"AR greedy": s}} for s in (5.0, 10.0)
    ]
    (tmp_path / "speed_decoders_paper_batch1.json").write_text(json.dumps({"a": {"cases": cases}}))
    numbers = {"cassnat-speedup": lambda: make_tables.cassnat_speedup(tmp_path)}
    text = "is <!-- number:cassnat-speedup -->3<!-- /number --> times"
    assert make_tables.fill(text, numbers, make_tables.NUMBER) == text.replace("3", "10.0")
    readme = (ROOT / "README.md").read_text()
    assert make_tables.NUMBER.search(readme) and "<!-- table:systems -->" in readme


def test_a_stale_document_fails_the_check(tmp_path, monkeypatch, capsys):
    (tmp_path / "docs").mkdir()
    page = tmp_path / "docs" / "results.md"
    page.write_text("<!-- table:install -->\nold\n<!-- /table -->\n")
    monkeypatch.setattr(make_tables, "ROOT", tmp_path)
    monkeypatch.setattr(sys, "argv", ["make_tables", "--check"])
    assert make_tables.main() == 1
    assert "docs/results.md: tables are out of date" in capsys.readouterr().out and "old" in page.read_text()
    monkeypatch.setattr(sys, "argv", ["make_tables"])
    assert make_tables.main() == 0 and make_tables.NOTHING in page.read_text()

"""joint/s2t from small trees of its corpora's shape and a tiny Whisper to an exported model."""

import json
import runpy
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from torch.nn import functional as F

from speechnar.data.features import INDEX_FILE
from speechnar.data.kaldi import Utterance, read_kaldi_dir
from speechnar.models.asr.joint import Joint
from speechnar.models.asr.whisper import Whisper, WhisperModelConfig
from speechnar.models.base import load_model, save_model
from speechnar.nn.whisper import WhisperConfig
from speechnar.text.byte_pairs import BYTE_LETTERS, BytePairTokenizer
from speechnar.text.tokenizer import load_tokenizer
from tests.recipes.test_commonvoice import client, write_release
from tests.recipes.test_recipes import RECIPES, run, run_well, write_tone

SIZES = {"num_mels": 80, "model_dim": 32, "num_layers": 2, "num_heads": 2}
SPECIALS = ("<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|fr|>", "<|transcribe|>", "<|notimestamps|>")
MERGES = [("t", "h"), ("T", "h"), ("Ġ", "Th"), ("Ġ", "c"), ("a", "t"), ("Ġc", "at")]
LABEL = "The cat sat."
PARTS = ("asterisk", "an4", "fsdd", "ljspeech", "librispeech", "kathleen", "kerstin")


def write_whisper(folder: Path) -> None:
    """Save a tiny Whisper that has learnt to write `LABEL`, whatever it hears."""
    pieces = [*BYTE_LETTERS.values(), *("".join(pair) for pair in MERGES), *SPECIALS, "<blank>", "<unk>"]
    tokenizer = BytePairTokenizer(pieces, MERGES)
    torch.manual_seed(0)
    config = WhisperModelConfig(
        encoder=WhisperConfig(**SIZES), decoder_layers=2, decoder_heads=2, num_tokens=tokenizer.vocab_size - 2
    )
    whisper = Whisper(config)
    start = [tokenizer.id_of(piece) for piece in ("<|startoftranscript|>", "<|en|>", "<|transcribe|>")]
    text = [tokenizer.id_of("<|notimestamps|>"), *tokenizer.encode(LABEL), tokenizer.id_of("<|endoftext|>")]
    tokens = torch.tensor([[*start, *text]])
    optimizer = torch.optim.Adam(whisper.parameters(), 1e-2)
    for _ in range(60):
        logits = whisper(tokens[:, :-1], torch.randn(1, 20, SIZES["model_dim"]), torch.tensor([20]))
        loss = F.cross_entropy(logits[0, len(start) :], tokens[0, len(start) + 1 :])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    save_model(folder, whisper, tokenizer)


def write_configs(folder: Path) -> list[str]:
    """Write the recipe's configurations for a tiny Whisper, and return the options that name them."""
    trunk = {
        "kind": "owsm_ctc",
        "frontend": {"kind": "log_mel", "n_fft": 400, "drop_last": True},
        "normalize": "peak",
        "encoder": {
            "kind": "whisper",
            "whisper": {**SIZES, "frozen_layers": 2},
            "blocks": {
                **{"kind": "conformer", "model_dim": 24, "num_layers": 2, "num_heads": 2, "ff_dim": 48},
                **{"kernel_size": 5, "positions": "rotary", "subsampling": 2},
            },
        },
        "interctc_layers": [1],
        "interctc_asr_only": [True],
        "prompt": {"model_dim": 16, "num_layers": 1, "num_heads": 1, "ff_dim": 32},
    }
    head = {"num_heads": 2, "ff_dim": 32}
    joint = {
        "kind": "joint",
        "trunk": trunk,
        "cassnat": {**head, "num_self_layers": 0, "num_mixed_layers": 1, "inter_ce_weight": 0},
        "paraformer": {**head, "decoder": "transformer", "num_layers": 1, "count_end": False},
        "transformer_ar": {**head, "num_layers": 1},
    }
    data = {"train": "unset", "dev": "unset", "stored_features": True, "speed_factors": [1.0], "gain_db": [0, 0]}
    train = {"max_steps": 2, "validate_every": 2, "optim": {"schedule": {"kind": "inv_sqrt", "warmup_steps": 10}}}
    options = []
    for option, model in (("before", trunk), ("config", joint)):
        config = {"model": model, "data": data, "train": train, "tokenizer": "unset"}
        path = folder / f"tiny_{option}.yaml"
        path.write_text(yaml.safe_dump(config))
        options += [f"--{option}", str(path)]
    return options


@pytest.fixture
def corpora(tmp_path) -> list[str]:
    """Return the options for Common Voice in two languages, a segment with nameless clips, and a German reader."""
    options = []
    for name, sentence in (("eng", "The cat."), ("fra", "Le chat.")):
        folder = tmp_path / f"cv-{name}"
        folder.mkdir()
        rows = [(client(i), f"common_voice_{name}_{2 * i + j}.mp3", sentence) for i in range(5) for j in (0, 1)]
        write_release(folder, rows, clips="clips")
    segment = tmp_path / "segment"
    segment.mkdir()
    write_release(segment, [(client(9), "common_voice_eng_900.mp3", "That cat.")], clips="clips")
    write_tone(tmp_path / "tone.wav", 1.0)
    shutil.copyfile(tmp_path / "tone.wav", segment / "clips/common_voice_eng_901.mp3")
    shutil.copyfile(segment / "clips/common_voice_eng_900.mp3", segment / "clips/common_voice_eng_902.mp3")  # 0.5 s
    options += ["--corpus_commonvoice", f"eng={tmp_path / 'cv-eng'} fra={tmp_path / 'cv-fra'}"]
    options += ["--train_only", f"eng={segment}", "--eval_minutes", "0.015"]
    write_tone(tmp_path / "kerstin/verified/de_1.wav", 0.5)
    (tmp_path / "kerstin/verified/metadata.csv").write_text("de_1|Die Katze.\nde_2|Fehlt.\n")
    parts = dict.fromkeys(PARTS, "") | {"kerstin": str(tmp_path / "kerstin")}
    return [*options, *(word for part, corpus in parts.items() for word in (f"--corpus_{part}", corpus))]


@pytest.mark.slow
@pytest.mark.timeout(1800)  # 8 decodings and 16 scorings among some 40 processes
def test_joint_goes_through_all_stages(corpora, tmp_path):
    write_whisper(tmp_path / "whisper")
    data, exp = tmp_path / "data", tmp_path / "exp"
    options = [*corpora, *write_configs(tmp_path), "--whisper", str(tmp_path / "whisper"), "--min_count", "1"]
    options += ["--data", str(data), "--exp", str(exp), "--downloads", str(tmp_path / "downloads")]
    options += ["--repeat", "fra=2 rus=3"]
    finished = run("joint/s2t", *options)
    assert finished.returncode == 0, finished.stderr[-3000:]
    assert "without asterisk; --corpus_asterisk adds it" in finished.stderr
    assert "without kerstin" not in finished.stderr
    assert "1 of 2 labels kept" in finished.stdout and "'more words than can be said': 1" in finished.stdout
    assert [utt.text for utt in read_kaldi_dir(data / "commonvoice/eng/labelled")] == [LABEL]
    tokenizer = load_tokenizer(data / "tokenizer")
    assert list(tokenizer.language_ids()) == ["deu", "eng", "fra"]
    assert {"Ġcat", "ĠTh"} <= set(tokenizer.pieces)
    settings = yaml.safe_load((exp / "config.yaml").read_text())
    assert settings["data"]["repeat"] == {"fra": 2}
    names = ["commonvoice/eng/train", "commonvoice/eng/labelled", "commonvoice/fra/train", "kerstin/train"]
    assert settings["data"]["train"] == [str(data / name) for name in names]
    assert settings["init_from"] == [str(data / "whisper"), str(exp / "tiny_before/model")]
    for lang in ("eng", "fra"):
        ids = [utt.utt_id for utt in read_kaldi_dir(data / f"commonvoice/{lang}/test")]
        for decoder in ("ctc", "cassnat", "paraformer", "transformer_ar"):
            name = f"commonvoice-{lang}.asr.{decoder}"
            assert [line.split()[0] for line in (exp / f"{name}.hyp").read_text().splitlines()] == ids
            assert json.loads((exp / f"{name}.json").read_text())
    exported = load_model(exp / "export").model
    assert isinstance(exported, Joint)
    assert exported.decoder_names == ("ctc", "cassnat", "paraformer")
    # Run again, nothing that is there is made anew, and an interrupted labelling goes on.
    made = [data / "whisper/model.safetensors", data / "tokenizer/tokens.txt", data / "kerstin/train" / INDEX_FILE]
    before = [path.stat().st_mtime_ns for path in made]
    labels = data / "commonvoice/eng/unlabelled/labels.jsonl"
    first, second = labels.read_text().splitlines(keepends=True)
    labels.write_text(first + second[:9])
    run_well("joint/s2t", *options, "--stage", "2", "--stop_stage", "3")
    assert [path.stat().st_mtime_ns for path in made] == before
    kept, again = labels.read_text().splitlines(keepends=True)
    assert kept == first
    assert json.loads(again)["utt_id"] == json.loads(second)["utt_id"]


@pytest.mark.parametrize(
    ("lang", "text", "seconds", "avg_logprob", "reason"),
    [
        ("eng", "Hello, there.", 2.0, -0.1, ""),
        ("rus", "Привет всем.", 2.0, -0.1, ""),
        ("cmn", "今天天气很好。", 2.0, -0.1, ""),
        ("eng", "...", 2.0, -0.1, "empty"),
        ("eng", "No no no.", 2.0, -0.1, "repeats itself"),
        ("eng", "It is so. It is so.", 2.0, -0.1, "repeats itself"),
        ("eng", "One two three four five.", 1.0, -0.1, "more words than can be said"),
        ("cmn", "今天天气很好我们去公园吧", 1.0, -0.1, "more words than can be said"),
        ("eng", "Привет всем.", 2.0, -0.1, "foreign letters"),
        ("eng", "Room 5.", 2.0, -0.1, "digits"),
        ("eng", "Hello, there.", 2.0, -0.5, "unsure"),
    ],
)
def test_labels_that_cannot_be_trusted(lang, text, seconds, avg_logprob, reason):
    script = runpy.run_path(str(RECIPES / "joint/s2t/local/label_clips.py"))
    clip = Utterance("a", Path("a.mp3"), "<na>", "a", seconds, lang=lang)
    label = script["Label"]("a", text, avg_logprob, False)
    assert script["fault"](label, clip, -0.4) == reason
    endless = script["Label"]("a", "Hello, there.", -0.1, True)
    assert script["fault"](endless, clip, -0.4) == "repeats itself"


def test_without_any_corpus_it_says_so(tmp_path):
    none = [word for part in PARTS for word in (f"--corpus_{part}", "")]
    finished = run("joint/s2t", *none, "--data", str(tmp_path / "data"), "--stage", "1")
    assert finished.returncode == 2
    assert "without commonvoice" in finished.stderr
    assert "needs at least one corpus" in finished.stderr
    finished = run("joint/s2t", *none, "--data", str(tmp_path / "data"), "--stage", "1", "--train_only", "eng=13")
    assert finished.returncode == 2
    assert "--train_only eng needs releases" in finished.stderr

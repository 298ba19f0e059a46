"""FunASR's published Paraformers, by the files of their repositories: all convert strictly and transcribe.

Folders hold what the repositories hold, with the options of the published ``config.yaml`` but for widths and depths.
Weights are those that FunASR built for the golden files, which have every module of the models without hotwords, too.
"""

import json

import pytest
import torch
import yaml

from speechnar import Transcriber
from speechnar.interop import convert, family_of
from speechnar.interop.family import FolderListing, check_wanted
from speechnar.nn.sanm import WindowConfig
from tests.reference.funasr_folders import golden_state, meta_of, read_golden
from tests.unit.tiny import RATE, speechlike

WANTED = {"am.mvn", "config.yaml", "configuration.json", "model.pt", "seg_dict", "tokens.json"}
NAMES_OF_HOTWORDS = ("seaco_decoder.", "bias_encoder.", "hotword_output_layer.")
NAMES_OF_TIMES = ("predictor.upsample_cnn.", "predictor.blstm.", "predictor.cif_output2.")
PLAIN_PREDICTOR = {"idim": 16, "threshold": 1.0, "l_order": 1, "r_order": 1, "tail_threshold": 0.45}
TRAINING = {
    "specaug": "SpecAugLFR",
    "specaug_conf": {
        "apply_time_warp": False,
        "time_warp_window": 5,
        "time_warp_mode": "bicubic",
        "apply_freq_mask": True,
        "freq_mask_width_range": [0, 30],
        "lfr_rate": 6,
        "num_freq_mask": 1,
        "apply_time_mask": True,
        "time_mask_width_range": [0, 12],
        "num_time_mask": 1,
    },
    "train_conf": {
        "accum_grad": 1,
        "grad_clip": 5,
        "max_epoch": 150,
        "val_scheduler_criterion": ["valid", "acc"],
        "best_model_criterion": [["valid", "acc", "max"]],
        "keep_nbest_models": 10,
        "log_interval": 50,
    },
    "optim": "adam",
    "optim_conf": {"lr": 0.0005},
    "scheduler": "warmuplr",
    "scheduler_conf": {"warmup_steps": 30000},
    "dataset": "AudioDataset",
    "dataset_conf": {"index_ds": "IndexDSJsonl", "batch_sampler": "BatchSampler", "batch_type": "example"},
}
ENGLISH = [f"{first}{second}{end}" for first in "bcdfgh" for second in "aeiou" for end in ("", "@@")]
ENGLISH += ["'s", "i", "a", "ok", "the", "and", "and@@", "x@@", "q", "st", "ly"]
CHINESE = ["and@@", *(chr(0x4E00 + i) for i in range(60))]
CHINESE += ["ok", "a@@", "a", "0", "9@@", ".", "@", "'s", "the", "<nobias>"]
LEXICONS = {"zh": "<unk>\t<unk>\n.\t. \n@\t@ \nandok\tand@@ ok\n", "en": "<unk>\t<unk>\ncando\tca@@ and@@ do\n"}
"""With the tabs and trailing spaces of the published ones."""


def parts_of(kind: str) -> tuple[dict, dict[str, torch.Tensor]]:
    """Return the content of config.yaml, and the weights of a model of this kind."""
    golden = read_golden("online" if kind == "online" else "seaco")
    config = {**yaml.safe_load(str(golden["file/config.yaml"])), **TRAINING}
    state = golden_state(golden)
    if kind in ("long", "en", "zh"):
        removed = NAMES_OF_HOTWORDS if kind != "zh" else (*NAMES_OF_HOTWORDS, *NAMES_OF_TIMES)
        state = {name: tensor for name, tensor in state.items() if not name.startswith(removed)}
        config = {name: value for name, value in config.items() if not name.startswith("seaco")}
        unwanted = {"inner_dim", "bias_encoder_type", "bias_encoder_bid", "seaco_lsm_weight", "seaco_length_normal"}
        unwanted |= {"train_decoder", "NO_BIAS"}
        config["model_conf"] = {k: v for k, v in config["model_conf"].items() if k not in unwanted}
        config["model"] = "Paraformer" if kind == "zh" else "BiCifParaformer"
        if kind == "zh":
            config |= {"predictor": "CifPredictorV2", "predictor_conf": PLAIN_PREDICTOR}
    return config, state


def write_repository(kind, folder):
    """Write all files of a repository of FunASR's on a hub."""
    config, state = parts_of(kind)
    pieces = ENGLISH if kind == "en" else CHINESE
    for name in ("example", "fig"):
        (folder / name).mkdir(parents=True)
    (folder / "example" / "asr_example.wav").write_bytes(b"RIFF")
    (folder / "fig" / "struct.png").write_bytes(b"\x89PNG")
    texts = {
        "README.md": f"---\nlicense: other\n---\n# {kind}\n",
        "am.mvn": str(read_golden("seaco")["file/am.mvn"]),
        "config.yaml": yaml.safe_dump(config, sort_keys=False),
        "configuration.json": json.dumps(meta_of(token_list="tokens.json", seg_dict_file="seg_dict"), indent=2),
        "seg_dict": LEXICONS["en" if kind == "en" else "zh"],
        "tokens.json": json.dumps(["<blank>", "<s>", "</s>", *pieces, "<unk>"], ensure_ascii=False, indent=1),
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    torch.save({"state_dict": state}, folder / "model.pt")
    return state


@pytest.mark.parametrize("kind", ["zh", "en", "long", "seaco", "online"])
def test_repository_converts_and_transcribes(kind, tmp_path):
    state = write_repository(kind, tmp_path / "repository")
    listing = FolderListing(tmp_path / "repository")
    assert set(check_wanted(family_of(listing), listing)) == WANTED
    report = convert(tmp_path / "repository", tmp_path / "ours")
    assert {key.source for key in report.keys} == set(state)
    assert all(key.destination for key in report.keys)
    model = Transcriber.load(tmp_path / "ours", device="cpu")
    language = "eng" if kind == "en" else "zho"
    transcript = model.transcribe(speechlike(2.2), sample_rate=RATE, language=language, word_timestamps=True)
    words = [word for segment in transcript.segments for word in segment.words]
    times = [time for word in words for time in (word.start, word.end)]
    assert transcript.language == language
    assert words and times == sorted(times) and times[-1] <= transcript.duration
    loaded = model._loaded
    text, pieces = ("Cando the", "ca@@ and@@ do the") if kind == "en" else ("一andok一 .", "一 and@@ ok 一 .")
    spelled = [loaded.tokenizer.piece_of(token) for token in loaded.tokenizer.encode(text)]
    assert spelled == pieces.split()
    assert loaded.model.knows_hotwords is (kind == "seaco")
    assert (loaded.model.head.timestamps is not None) is (kind in ("long", "en", "seaco"))
    if kind == "online":
        assert loaded.config.encoder.windows == WindowConfig()  # 10 frames of 60 ms and 5 ahead, as trained
        stream = model.stream(sample_rate=RATE)
        stream.push(speechlike(2.2))
        assert stream.finish().duration == pytest.approx(2.2)

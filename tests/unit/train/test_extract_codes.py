import logging

import numpy as np
import pytest
import soundfile
import torch

from speechnar.data.codes import read_codes
from speechnar.data.kaldi import Utterance, write_kaldi_dir
from speechnar.models.sound.encodec import Encodec, EncodecConfig
from speechnar.train.extract_codes import extract_codes


@pytest.fixture(scope="module")
def codec() -> Encodec:
    torch.manual_seed(0)
    return Encodec(EncodecConfig.debug()).eval()


def test_codes_are_of_the_sound_and_the_silence_behind_it(codec, tmp_path, caplog):
    wavs = {"a": 3200, "b": 7000}
    rng = np.random.default_rng(0)
    utterances = []
    for utt_id, size in wavs.items():
        path = tmp_path / f"{utt_id}.wav"
        soundfile.write(path, 0.1 * rng.standard_normal(size), 16000)
        utterances.append(Utterance(utt_id=utt_id, wav_path=path, text="x", spk_id="s", duration_s=size / 16000))
    write_kaldi_dir(tmp_path, utterances)
    assert extract_codes(codec, tmp_path) == 10 + 22  # frames of 320 samples
    with caplog.at_level(logging.INFO):
        assert extract_codes(codec, tmp_path, min_seconds=0.3) == 15 + 22  # what was there is replaced
    codes = read_codes(tmp_path)
    for utt_id, size in (("a", 4800), ("b", 7000)):
        wav = torch.from_numpy(soundfile.read(tmp_path / f"{utt_id}.wav", dtype="float32")[0])
        padded = torch.nn.functional.pad(wav, (0, size - len(wav)))
        assert torch.equal(codes[utt_id].long(), codec.encode(padded[None])[0][0])
    assert not list(tmp_path.glob(".*"))  # nothing half written is left

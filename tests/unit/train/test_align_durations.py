import numpy as np
import pytest
import soundfile
import torch

from speechnar.data.kaldi import Utterance, read_kaldi_dir, write_kaldi_dir
from speechnar.decode.align import token_boundaries, viterbi_align
from speechnar.models.base import load_model, save_model
from speechnar.models.vocos import Vocos, VocosConfig
from speechnar.train.align_durations import align_batch, main
from tests.unit.tiny import save_tiny_model

RATE = 16000


@pytest.fixture(scope="module", params=[True, False], ids=["tasks", "plain"])
def model_dir(tmp_path_factory, request):
    return save_tiny_model(tmp_path_factory.mktemp("model"), tasks=request.param)


def noise(seconds: float, seed: int = 0) -> np.ndarray:
    return 0.1 * np.random.default_rng(seed).normal(size=round(seconds * RATE)).astype(np.float32)


@pytest.fixture
def data_dir(tmp_path):
    utterances = []
    for number, (seconds, text) in enumerate([(4.03, "the cat sat"), (2.5, "a dog"), (0.1, "he said good day")]):
        path = tmp_path / f"utt{number}.wav"
        soundfile.write(path, noise(seconds, number), RATE)
        utterances.append(Utterance(path.stem, path, text, "s", round(seconds * RATE) / RATE))
    write_kaldi_dir(tmp_path / "data", utterances)
    return tmp_path / "data"


def test_durations_are_written_and_read_back(model_dir, data_dir, caplog):
    (data_dir / "durations").write_text("utt0 99\n")  # of another recording: no hindrance
    with caplog.at_level("WARNING"):
        assert main([str(model_dir), str(data_dir)]) == 0
    assert "1 of 3 utterances are too short for their text" in caplog.text
    loaded = load_model(model_dir)
    first, second, third = read_kaldi_dir(data_dir)
    assert third.durations is None
    for utterance in (first, second):
        assert len(utterance.durations) == len(loaded.tokenizer.encode(utterance.text))
        assert sum(utterance.durations) == pytest.approx(utterance.duration_s, abs=1e-3)


def test_an_utterance_is_aligned_as_alone(model_dir):
    loaded = load_model(model_dir)
    wavs = [torch.from_numpy(noise(seconds, 7)) for seconds in (4.0, 2.77)]
    rows = [torch.tensor(loaded.tokenizer.encode(text)) for text in ("a dog ran", "the cat sat on the mat")]
    wav = torch.nn.utils.rnn.pad_sequence(wavs, batch_first=True, padding_value=torch.nan)
    tokens = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-5)
    wav_lens, token_lens = torch.tensor([64000, 44320]), torch.tensor([len(row) for row in rows])
    durations, possible = align_batch(loaded.model, wav, wav_lens, tokens, token_lens)
    assert possible.tolist() == [True, True]
    for i, (samples, row) in enumerate(zip(wavs, rows, strict=True)):
        one, _ = align_batch(loaded.model, samples[None], wav_lens[i : i + 1], row[None], token_lens[i : i + 1])
        torch.testing.assert_close(durations[i, : len(row)], one[0])
        assert float(one.sum()) == pytest.approx(len(samples) / RATE, abs=1e-5)
        assert (durations[i, len(row) :] == 0).all()
        assert (one >= 0).all()


def test_errors_name_what_is_wrong(model_dir, data_dir, tmp_path, capsys):
    save_model(tmp_path / "vocos", Vocos(VocosConfig.debug()), load_model(model_dir).tokenizer)
    assert main([str(tmp_path / "vocos"), str(data_dir)]) == 1
    assert "must be a model of kind owsm_ctc or joint, got 'vocos'" in capsys.readouterr().err
    whole = read_kaldi_dir(data_dir)
    write_kaldi_dir(data_dir, whole[2:])
    assert main([str(model_dir), str(data_dir)]) == 1
    assert "no utterance can be aligned" in capsys.readouterr().err


def test_blanks_belong_to_the_token_before_except_for_a_lead():
    """Frames ``--a--bb-``: a begins the utterance, b half a frame early; both of another length in padding."""
    labels = torch.tensor([0, 0, 1, 0, 0, 2, 2, 0])
    log_probs = torch.full((1, 10, 3), -9.0)
    log_probs[0, torch.arange(8), labels] = 0.0
    alignment = viterbi_align(log_probs, torch.tensor([8]), torch.tensor([[1, 2, 2]]), torch.tensor([2]), 0)
    assert token_boundaries(alignment, torch.tensor([8])).tolist() == [[0.0, 4.5, 8.0, 8.0]]
    assert token_boundaries(alignment, torch.tensor([8]), max_lead=9).tolist() == [[0.0, 3.0, 8.0, 8.0]]
    assert token_boundaries(alignment, torch.tensor([8]), max_lead=0).tolist() == [[0.0, 5.0, 8.0, 8.0]]

import torch

from speechnar.nn.embedder import EncodedSpeech


def test_frames_before_the_length_are_real():
    speech = EncodedSpeech(enc=torch.zeros(3, 4, 2), lens=torch.tensor([4, 1, 0]))
    assert speech.valid.int().tolist() == [[1, 1, 1, 1], [1, 0, 0, 0], [0, 0, 0, 0]]
    assert speech.log_probs is None

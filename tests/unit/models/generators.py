"""Small generators of codes, their tokenizer and batches, for tests."""

import torch

from speechnar.data.codes import CodeBatch
from speechnar.models.sound.code_model import CodeModelConfig
from speechnar.models.sound.enat import Enat, EnatConfig
from speechnar.models.sound.magnet import Magnet, MagnetConfig
from speechnar.models.sound.music_ar import MusicAr, MusicArConfig
from speechnar.text.tokenizer import LexiconTokenizer

WORDS = LexiconTokenizer(("<blank>", "<unk>", "dog", "cat", "barks"), {})
KINDS = {"magnet": (MagnetConfig, Magnet), "enat": (EnatConfig, Enat), "music_ar": (MusicArConfig, MusicAr)}


def make_generator(kind: str, **changes):
    torch.manual_seed(0)
    config, model = KINDS[kind]
    return model(config.debug().model_copy(update=changes), WORDS).eval()


def shift_code(count: int, *, num_frames: int = 24, seed: int = 0, size: int = 16) -> CodeBatch:
    """Return utterances with a rule: all frames have the same codes, the lower half of them if a "dog" is told of, the
    upper half if a "cat"; each codebook is one further."""
    generator = torch.Generator().manual_seed(seed)
    words = torch.randint(2, (count, 1), generator=generator)
    first = torch.randint(size // 2, (count, 1), generator=generator) + size // 2 * words
    first = first.expand(-1, num_frames)
    codes = torch.stack([(first + k) % size for k in range(4)], dim=1)
    lens = torch.ones(count, dtype=torch.int64)
    return CodeBatch(
        codes=codes,
        code_lens=torch.full((count,), num_frames),
        tokens=words + 2,
        token_lens=lens,
        utt_ids=tuple(f"utt{i}" for i in range(count)),
    )


def narrow(**changes) -> CodeModelConfig:
    return CodeModelConfig.debug().model_copy(update=changes)

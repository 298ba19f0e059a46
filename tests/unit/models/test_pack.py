"""Model folders in half precision, with a card that keeps what it does not say anew."""

import pytest
import torch
from safetensors.torch import load_file

from speechnar.errors import CheckpointError, ConfigError, ModelNotFoundError
from speechnar.models.base import CARD_FILE, load_model, save_model
from speechnar.models.pack import pack_model
from speechnar.text.words import WORDS_FOLDER, WordLists, write_words
from tests.unit.models.generators import WORDS, make_generator
from tests.unit.tiny import save_tiny_joint

OLD = "---\nlanguage: en\ntasks:\n  - a\n  - b\nlicense: mit\n---\n# old\n"


@pytest.fixture
def folder(tmp_path):
    save_model(tmp_path / "old", make_generator("magnet"), WORDS, card=OLD)
    return tmp_path / "old"


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_parameters_are_rounded_and_nothing_else_changes(folder, tmp_path, dtype):
    pack_model(folder, tmp_path / "new", card="# new\n", dtype=dtype)
    before, after = load_model(folder), load_model(tmp_path / "new")
    assert after.config == before.config
    assert after.tokenizer.pieces == before.tokenizer.pieces
    wanted = getattr(torch, dtype)
    for (name, weight), (_, other) in zip(before.model.named_parameters(), after.model.named_parameters(), strict=True):
        assert torch.equal(weight.to(wanted).float(), other), name
    stored = load_file(next((tmp_path / "new").glob("*.safetensors")))
    dtypes = {stored[name].dtype for name, _ in before.model.named_parameters() if name in stored}
    assert dtypes == {wanted}


@pytest.mark.parametrize(
    ("card", "wanted"),
    [
        ("# new\n", "---\nlanguage: en\ntasks:\n  - a\n  - b\nlicense: mit\n---\n# new\n"),
        ("---\nlicense: cc0\n---\n# new\n", "---\nlanguage: en\ntasks:\n  - a\n  - b\nlicense: cc0\n---\n# new\n"),
        (
            "---\ntasks: [c]\nlanguage: de\nlicense: cc0\n---\n# new\n",
            "---\ntasks: [c]\nlanguage: de\nlicense: cc0\n---\n# new\n",
        ),
    ],
)
def test_a_card_keeps_what_it_does_not_say_itself(folder, tmp_path, card, wanted):
    pack_model(folder, tmp_path / "new", card=card)
    assert (tmp_path / "new" / CARD_FILE).read_text(encoding="utf-8") == wanted


def test_lists_of_words_are_kept(folder, tmp_path):
    write_words(folder / WORDS_FOLDER / "eng.xz", {"the": 0.05})
    pack_model(folder, tmp_path / "new", card="# new\n")
    assert WordLists(tmp_path / "new")["eng"].keys() == {"the"}


def test_weights_beyond_the_range_are_refused(tmp_path):
    model = make_generator("magnet")
    with torch.no_grad():
        model.norm.weight[3] = 1e5
    save_model(tmp_path / "large", model, WORDS)
    with pytest.raises(CheckpointError, match=r"norm\.weight holds values beyond the range of float16; choose another"):
        pack_model(tmp_path / "large", tmp_path / "new", card="")
    assert not (tmp_path / "new").exists()
    pack_model(tmp_path / "large", tmp_path / "new", card="", dtype="bfloat16")


def test_a_folder_without_a_model_is_told(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelNotFoundError):
        pack_model(tmp_path / "empty", tmp_path / "new", card="")


@pytest.mark.parametrize(
    ("kept", "names"),
    [(["paraformer", "cassnat"], ("ctc", "cassnat", "paraformer")), (["ctc"], ("ctc",)), ([], ("ctc",))],
)
def test_decoders_can_be_left_out(tmp_path, kept, names):
    whole = load_model(save_tiny_joint(tmp_path / "old")).model
    pack_model(tmp_path / "old", tmp_path / "new", card="", dtype="float32", decoders=kept)
    packed = load_model(tmp_path / "new").model
    assert packed.decoder_names == names if len(names) > 1 else packed.config.kind == "owsm_ctc"
    prefix = "" if len(names) > 1 else "trunk."
    for name, weight in packed.state_dict().items():
        assert torch.equal(weight, whole.state_dict()[prefix + name]), name


def test_decoders_that_are_not_there_cannot_be_kept(folder, tmp_path):
    save_tiny_joint(tmp_path / "joint")
    with pytest.raises(ConfigError, match=r"decodes with ctc, cassnat.*; got conformer"):
        pack_model(tmp_path / "joint", tmp_path / "new", card="", decoders=["cassnat", "conformer"])
    with pytest.raises(ConfigError, match="kind magnet has no choice of decoders"):
        pack_model(folder, tmp_path / "new", card="", decoders=["ctc"])

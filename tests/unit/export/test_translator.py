"""FReTNA's one pass as a graph names slots as the model does."""

import pytest
import torch

from speechnar.errors import ConfigError
from speechnar.export.translator import export_translator
from speechnar.models.base import load_model, save_model
from speechnar.models.mt.fretna_ctc import FretnaCtc, FretnaCtcConfig
from speechnar.text.tokenizer import SentencePieceTokenizer, load_tokenizer
from tests.unit.tiny import TEXTS, save_tiny_paraformer

pytest.importorskip("onnxscript")
onnxruntime = pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.slow  # writing a graph takes its time


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("fretna")
    tokenizer = SentencePieceTokenizer.train(TEXTS, 60)
    model = FretnaCtc(FretnaCtcConfig.debug(), tokenizer).eval()
    save_model(folder / "model", model, tokenizer, card="---\nlanguage: [en, de]\n---\n# tiny\n")
    return load_model(folder / "model"), export_translator(
        load_model(folder / "model"), folder / "model", folder / "graph"
    )


@pytest.mark.parametrize("lens", [[1], [2], [3], [31], [200], [20, 7, 1], [5, 5, 5]], ids=str)
def test_it_names_the_slots_of_the_model(exported, lens):
    loaded, folder = exported
    model = loaded.model
    torch.manual_seed(sum(lens))
    tokens, src_lens = torch.randint(5, 20, (len(lens), max(lens))), torch.tensor(lens)
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    log_probs, slots = session.run(None, {"src_tokens": tokens.numpy(), "src_lens": src_lens.numpy()})
    assert slots.tolist() == [2 * size for size in lens]
    names = torch.from_numpy(log_probs).argmax(2)
    wanted = model.name_slots(tokens, src_lens)
    for row, size in enumerate(slots):
        assert torch.equal(names[row, :size], wanted[row, :size])
    assert load_tokenizer(folder).pieces == loaded.tokenizer.pieces
    assert (folder / "README.md").is_file()


def test_other_models_are_told(tmp_path):
    source = save_tiny_paraformer(tmp_path / "paraformer")
    with pytest.raises(ConfigError, match="fretna_ctc"):
        export_translator(load_model(source), source, tmp_path / "out")

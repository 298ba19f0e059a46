"""wav2vec 2.0 as a source of weights, and the recognisers that stand on it."""

import pytest
import torch
from pydantic import ValidationError

from speechnar import Transcriber
from speechnar.audio.fbank import WaveformConfig
from speechnar.data.batch import Example, SpeechCollator
from speechnar.data.features import fingerprint
from speechnar.errors import CheckpointError, ConfigError
from speechnar.models.asr.cassnat import CassNat, CassNatConfig, CassNatHeadConfig
from speechnar.models.asr.ctc_trunk import WaveformEncoderConfig
from speechnar.models.asr.joint import Joint, JointConfig
from speechnar.models.asr.owsm_ctc import OwsmCtc, OwsmCtcConfig, PromptConfig
from speechnar.models.asr.paraformer_head import ParaformerHeadConfig
from speechnar.models.asr.unienc import UniEnc, UniEncConfig
from speechnar.models.asr.wav2vec2 import Wav2Vec2, Wav2Vec2ModelConfig
from speechnar.models.base import StoresFeatures, load_model, save_model
from speechnar.nn.context import Chunking
from speechnar.nn.encoder import ConformerConfig
from speechnar.nn.wav2vec2 import Wav2Vec2Config, Wav2Vec2TrunkConfig
from speechnar.text.tokenizer import CharTokenizer, task_specials
from speechnar.train.optim import LR_SHARE, OptimConfig, build_optimizer
from speechnar.train.run import init_model
from tests.contracts import check_padding_contract
from tests.unit.tiny import speechlike

TOKENIZER = CharTokenizer(("<blank>", "<unk>", *task_specials(["eng", "deu"]), "▁", *"abcdefgh", "<sos>", "<eos>"))
SIZES = Wav2Vec2Config.debug()
BLOCKS = ConformerConfig(
    model_dim=24, num_layers=2, num_heads=2, ff_dim=48, kernel_size=5, positions="rotary", subsampling=2
)
PROMPT = PromptConfig(model_dim=16, num_layers=1, num_heads=1, ff_dim=32)


def make_config(*, frozen_layers=0, blocks=BLOCKS, **changes) -> OwsmCtcConfig:
    encoder = Wav2Vec2TrunkConfig(wav2vec2=SIZES.model_copy(update={"frozen_layers": frozen_layers}), blocks=blocks)
    alone = blocks is None
    values = {
        "frontend": WaveformConfig(),
        "normalize": "utterance",
        "encoder": encoder,
        "interctc_layers": () if alone else (1,),
        "interctc_asr_only": () if alone else (True,),
        "prompt": None if alone else PROMPT,
    }
    return OwsmCtcConfig.model_validate({**values, **changes})


def build(config) -> OwsmCtc | Joint | UniEnc | CassNat:
    torch.manual_seed(0)
    classes = {"owsm_ctc": OwsmCtc, "joint": Joint, "unienc": UniEnc, "cassnat": CassNat}
    return classes[config.kind].from_config(config, TOKENIZER).eval()


def make_joint() -> JointConfig:
    cassnat, paraformer = CassNatHeadConfig.debug(), ParaformerHeadConfig.debug()
    return JointConfig(trunk=make_config(frozen_layers=3), cassnat=cassnat, paraformer=paraformer)


ON_SAMPLES = {
    "frontend": WaveformConfig(),
    "normalize": "utterance",
    "encoder": WaveformEncoderConfig(wav2vec2=SIZES, model_dim=24, num_heads=2),
    "interctc_layer": 1,
}


def make_unienc() -> UniEncConfig:
    return UniEncConfig(**ON_SAMPLES, embedder_ff_dim=32)


def make_cassnat() -> CassNatConfig:
    return CassNatConfig(**ON_SAMPLES, head=CassNatHeadConfig.debug())


def make_batch(texts=("the bad cat", "a dead bee"), **changes):
    examples = [
        Example(utt_id=str(i), wav=speechlike(1.5 + i, seed=i), asr_text=text, lang="eng")
        for i, text in enumerate(texts)
    ]
    return SpeechCollator(TOKENIZER)(examples)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("wav2vec2")
    save_model(folder, Wav2Vec2(Wav2Vec2ModelConfig(encoder=SIZES)), CharTokenizer(("<blank>", "<unk>")))
    return folder


@torch.no_grad()
def test_its_states_are_those_of_each_utterance_alone(source):
    model = load_model(source).model
    assert isinstance(model, Wav2Vec2)
    check_padding_contract(model.encode, torch.randn(2, 2000, 1), torch.tensor([2000, 1207]))


@pytest.mark.parametrize(
    "config", [make_config(), make_config(blocks=None), make_joint(), make_unienc(), make_cassnat()]
)
def test_recognisers_begin_from_it(source, config):
    model = build(config)
    report = init_model(model, source)
    assert not report.unknown
    assert not report.mismatched
    trunk = model if isinstance(model, OwsmCtc) else model.trunk
    encoder = trunk.encoder.wav2vec2
    torch.testing.assert_close(encoder.state_dict(), load_model(source).model.encoder.state_dict())
    assert not any(".wav2vec2." in name for name in report.missing)


def test_what_was_fine_tuned_with_ctc_is_a_start_as_well(tmp_path):
    tuned = build(make_config(blocks=None))
    save_model(tmp_path, tuned, TOKENIZER)
    for config in (make_config(), make_joint(), make_unienc()):
        model = build(config)
        init_model(model, tmp_path)
        trunk = model if isinstance(model, OwsmCtc) else model.trunk
        torch.testing.assert_close(trunk.encoder.wav2vec2.state_dict(), tuned.encoder.wav2vec2.state_dict())


def test_another_pretrained_encoder_is_no_start(source):
    with pytest.raises(CheckpointError, match="no weight in it has a name and shape of this model"):
        init_model(build(OwsmCtcConfig.debug()), source)


@torch.no_grad()
@pytest.mark.parametrize("blocks", [BLOCKS, None])
def test_utterances_are_recognised_as_if_they_were_alone(blocks):
    model = build(make_config(blocks=blocks))
    model.ctc.proj.weight.mul_(6.0)
    batch = make_batch()
    batch.wav[0, int(batch.wav_lens[0]) :] = torch.nan
    assert model.frame_shift_s == pytest.approx(0.04 if blocks else 0.02)
    together = model.encode(batch.wav, batch.wav_lens)
    prefix = model.num_prefix
    assert together.lens.tolist() == ([37 + prefix, 62 + prefix] if blocks else [74, 124])
    for row, size in enumerate(batch.wav_lens.tolist()):
        alone = model.encode(batch.wav[row : row + 1, :size], batch.wav_lens[row : row + 1])
        length = int(alone.lens)
        torch.testing.assert_close(together.log_probs[row, :length], alone.log_probs[0], atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_every_decoder_of_a_joint_model_reads_it():
    model = build(make_joint())
    model.trunk.ctc.proj.weight.mul_(6.0)
    assert set(model.recognize_with(make_batch())) == {"ctc", "cassnat", "paraformer"}


@pytest.mark.parametrize("frozen_layers", [0, 3])
def test_losses_fall_and_reach_what_is_trained(frozen_layers):
    model = build(make_config(frozen_layers=frozen_layers)).train()
    batch = make_batch()
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 3e-3)
    losses = []
    for step in range(15):
        torch.manual_seed(step)
        output = model.loss(batch)
        output.total.backward()
        if step == 0:
            idle = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
            assert not [name for name in idle if not name.startswith("prompt_encoder")], idle
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(output.total.detach()))
    assert losses[-1] < 0.7 * losses[0]
    assert all(parameter.grad is None for parameter in model.frozen_weights())


def test_deeper_layers_learn_more_slowly():
    for config, prefix in ((make_config(), "encoder.wav2vec2."), (make_unienc(), "trunk.encoder.wav2vec2.")):
        model = build(config)
        optimizer = build_optimizer(model, OptimConfig(lr=0.5, layer_decay=0.5))
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        share = {names[id(p)]: g[LR_SHARE] for g in optimizer.param_groups for p in g["params"]}
        assert share[f"{prefix}layers.2.ff.1.weight"] == 0.5
        assert share[f"{prefix}layers.0.ff.1.weight"] == 0.125
        assert share[f"{prefix}positions.direction"] == 0.0625
        assert {value for name, value in share.items() if not name.startswith(prefix)} == {1.0}
        assert not any(name.startswith(f"{prefix}convolutions") for name in share)


@pytest.mark.parametrize("frozen_layers", [0, 3])
def test_stored_features_stand_in_for_audio(frozen_layers):
    model = build(make_config(frozen_layers=frozen_layers))
    assert isinstance(model, StoresFeatures)
    assert fingerprint(model.frozen_weights())
    batch = make_batch()
    states, lens = model.features(batch.wav, batch.wav_lens)
    assert states.size(2) == (32 if frozen_layers else 16)
    examples = [
        Example(
            utt_id=str(i),
            wav=batch.wav[i, :0].numpy(),
            asr_text=text,
            lang="eng",
            feats=states[i, : int(lens[i])].half().numpy(),
        )
        for i, text in enumerate(("the bad cat", "a dead bee"))
    ]
    stored = SpeechCollator(TOKENIZER)(examples)
    with torch.no_grad():
        from_audio, from_store = model.encode_batch(batch), model.encode_batch(stored)
    torch.testing.assert_close(from_store.log_probs, from_audio.log_probs, atol=2e-2, rtol=1e-2)  # half precision


@torch.no_grad()
def test_unienc_runs_the_transformer_again_behind_frames_and_embeddings():
    """As in the authors' code: the embeddings are brought back to its width, and positions are told over both."""
    model = build(make_unienc())
    model.trunk.ctc.proj.weight.mul_(6.0)
    batch = make_batch()
    batch.wav[0, int(batch.wav_lens[0]) :] = torch.nan
    out = model.encode(batch.wav, batch.wav_lens)
    assert out.frames.size(2) == 32
    assert out.enc.size(2) == 24
    paths = model.decode(out, num_alignments=4)
    for row, size in enumerate(batch.wav_lens.tolist()):
        alone = model.encode(batch.wav[row : row + 1, :size], batch.wav_lens[row : row + 1])
        assert model.decode(alone, num_alignments=4)[0].tokens == paths[row].tokens
    segments = model.embedder.segments(out.speech)
    second = model.second_pass(out.frames, out.speech, segments)
    row, length, slots = 1, int(out.lens[1]), int(segments.slot_lens[1])
    embeds = model.embedder.embed_slots(out.speech, segments)[row : row + 1, :slots]
    both = torch.cat([out.frames[row : row + 1, :length], model.back_proj(embeds)], dim=1)
    seen = []
    encoder = model.trunk.encoder.wav2vec2
    states = encoder.run(
        both, torch.ones(1, length + slots, dtype=torch.bool), after_layer=lambda i, y: (seen.append(y), y)[1]
    )
    torch.testing.assert_close(second.enc[row, :length], model.trunk.proj(states)[0, :length], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(second.slots[row, :slots], model.trunk.proj(states)[0, length:], atol=1e-5, rtol=1e-4)
    inter = model.trunk.inter_proj(seen[0])  # behind interctc_layer 1
    torch.testing.assert_close(second.inter_slots[row, :slots], inter[0, length:], atol=1e-5, rtol=1e-4)


def test_unienc_and_cassnat_learn_all_but_the_convolutions():
    batch = make_batch()
    for config in (make_unienc(), make_cassnat()):
        model = build(config).train()
        model.loss(batch).total.backward()
        idle = {name for name, parameter in model.named_parameters() if parameter.grad is None}
        assert idle == {name for name, _ in model.named_parameters() if ".convolutions." in name}
        assert model.trunk.encoder.wav2vec2.projection.mask_embed.grad.abs().sum() > 0  # SpecAugment empties frames
    without = build(make_unienc().model_copy(update={"interctc_weight": 0.0, "inter_ce_weight": 0.0})).train()
    without.loss(batch).total.backward()
    assert not [n for n, p in without.named_parameters() if p.grad is None and ".convolutions." not in n]


def test_the_paper_s_model_has_its_size():
    pieces = CharTokenizer((*TOKENIZER.pieces, *(chr(0x4E00 + i) for i in range(1024 - TOKENIZER.vocab_size))))
    with torch.device("meta"):
        model = UniEnc(UniEncConfig.published_hubert(), pieces)
    # HuBERT base; three projections around it; the layer of the embedding; four heads, two of them behind a norm.
    square, norm = 769 * 768, 2 * 768
    embedding = 2 * norm + 4 * square + 769 * 3072 + 3073 * 768
    heads = 4 * 769 * 1024 + 2 * norm
    assert sum(p.numel() for p in model.parameters()) == 94_371_712 + 3 * square + embedding + heads


def test_folders_keep_them_and_users_transcribe(tmp_path):
    for config in (make_config(blocks=None), make_unienc(), make_cassnat()):
        model = build(config)
        save_model(tmp_path / config.kind, model, TOKENIZER, card="---\nlanguage: [eng]\ntasks: [asr]\n---\n# it\n")
        loaded = load_model(tmp_path / config.kind).model
        torch.testing.assert_close(loaded.state_dict(), model.state_dict())
        wav = speechlike(2.0)
        found = Transcriber.load(tmp_path / config.kind).transcribe(wav, sample_rate=16000)
        lens = torch.tensor([len(wav)])
        with torch.no_grad():
            out = loaded.encode(torch.from_numpy(wav)[None], lens)
            tokens = loaded.best_tokens(out)[0] if isinstance(loaded, OwsmCtc) else loaded.decode(out)[0].tokens
        assert found.text == TOKENIZER.decode(tokens)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValidationError, match="need each other, got log_mel and wav2vec2"):
        make_config(frontend={"kind": "log_mel"})
    with pytest.raises(ValidationError, match="the blocks on a pretrained encoder read the prompt"):
        make_config(blocks=None, prompt=PROMPT)
    with pytest.raises(ValidationError, match="interctc_layers must rise and stay below num_layers=0"):
        make_config(blocks=None, interctc_layers=(1,), interctc_asr_only=(True,))
    with pytest.raises(ValidationError, match="need each other, got kaldi_fbank and wav2vec2"):
        UniEncConfig(encoder=WaveformEncoderConfig(wav2vec2=SIZES), interctc_layer=1)
    with pytest.raises(ValidationError, match="multiple of twice num_heads=12, got 252"):
        WaveformEncoderConfig(model_dim=252)
    with pytest.raises(ValidationError, match="frozen_layers must be 0, since this encoder may be run twice"):
        WaveformEncoderConfig(wav2vec2=SIZES.model_copy(update={"frozen_layers": 1}))
    with pytest.raises(ValidationError, match="interctc_layer must stay below num_layers=3"):
        make_unienc().model_validate({**make_unienc().model_dump(), "interctc_layer": 3})
    with pytest.raises(ValidationError, match="which must be of kind whisper"):
        JointConfig(
            trunk=make_config(),
            cassnat=CassNatHeadConfig(decoder="whisper", num_self_layers=0, inter_ce_weight=0.0),
        )
    batch = make_batch()
    with pytest.raises(ConfigError, match="kind wav2vec2 sees the whole utterance"):
        build(make_config()).encode(batch.wav, batch.wav_lens, chunking=Chunking(chunk_frames=4))

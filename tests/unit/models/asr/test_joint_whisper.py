"""The joint recogniser on a Whisper trunk: what it takes from Whisper, and stored features."""

import pytest
import torch
from pydantic import ValidationError

from speechnar.data.batch import Example, SpeechCollator
from speechnar.errors import CheckpointError, ConfigError
from speechnar.models.asr.cassnat import CassNatHeadConfig
from speechnar.models.asr.ctc_embedder import HeardEmbedderConfig
from speechnar.models.asr.joint import Joint, JointConfig
from speechnar.models.asr.paraformer_head import ParaformerHeadConfig
from speechnar.models.asr.transformer_ar import TransformerArHead, TransformerArHeadConfig
from speechnar.models.asr.whisper import Whisper, WhisperModelConfig, adopt_decoder
from speechnar.models.base import load_model, save_model
from speechnar.nn.context import Chunking
from speechnar.nn.embedder import EncodedSpeech
from speechnar.nn.encoder import ConformerConfig
from speechnar.nn.whisper import WhisperConfig, WhisperTrunkConfig
from speechnar.text.byte_pairs import BYTE_LETTERS, BytePairTokenizer
from speechnar.text.tokenizer import task_specials
from speechnar.train.run import init_model
from tests.unit.tiny import speechlike

SIZES = WhisperConfig(num_mels=80, model_dim=32, num_layers=2, num_heads=2)
SPECIALS = ("<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|fr|>", "<|transcribe|>", "<|notimestamps|>")
PROMPT = ("<|startoftranscript|>", "<|en|>", "<|transcribe|>", "<|notimestamps|>")
MERGES = [("t", "h"), ("Ġ", "th"), ("Ġth", "e"), ("Ġ", "c"), ("a", "t"), ("Ġc", "at")]


@pytest.fixture(scope="module")
def whisper_folder(tmp_path_factory):
    made = ["".join(pair) for pair in MERGES]
    tokenizer = BytePairTokenizer([*BYTE_LETTERS.values(), *made, *SPECIALS, "<blank>", "<unk>"], MERGES)
    config = WhisperModelConfig(
        encoder=SIZES, decoder_layers=2, decoder_heads=2, max_tokens=448, num_tokens=tokenizer.vocab_size - 2
    )
    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("whisper")
    save_model(folder, Whisper(config), tokenizer)
    return folder


@pytest.fixture(scope="module")
def tokenizer(whisper_folder):
    whole = load_model(whisper_folder).tokenizer
    assert isinstance(whole, BytePairTokenizer)
    return whole.cut(["the cat", "the cat"], task_specials(["eng", "fra"]), min_count=2)


AR = TransformerArHeadConfig(decoder="whisper", feed_forward="gelu", num_layers=2, num_heads=2, ff_dim=128)
AR_ALONE = {"cassnat": None, "paraformer": None, "share_decoder": False, "transformer_ar": AR}


def make_config(**changes) -> JointConfig:
    blocks = ConformerConfig(
        model_dim=24, num_layers=2, num_heads=2, ff_dim=48, kernel_size=5, positions="rotary", subsampling=2
    )
    base = JointConfig.debug().trunk
    trunk = base.model_copy(
        update={
            "frontend": base.frontend.for_whisper(),
            "normalize": "peak",
            "encoder": WhisperTrunkConfig(whisper=SIZES.model_copy(update={"frozen_layers": 2}), blocks=blocks),
            "interctc_layers": (1,),
            "interctc_asr_only": (True,),
        }
    )
    cassnat = CassNatHeadConfig(
        decoder="whisper",
        num_self_layers=0,
        num_mixed_layers=2,
        num_heads=2,
        ff_dim=128,
        embedder_ff_dim=64,
        inter_ce_weight=0.0,
    )
    paraformer = ParaformerHeadConfig(
        embedder=HeardEmbedderConfig(), decoder="whisper", num_layers=2, num_heads=2, ff_dim=128
    )
    values = {"trunk": trunk, "cassnat": cassnat, "paraformer": paraformer, "share_decoder": True}
    return JointConfig.model_validate({**values, **changes})


def build(tokenizer, **changes) -> Joint:
    torch.manual_seed(0)
    return Joint(make_config(**changes), tokenizer).eval()


def make_batch(tokenizer, texts=("the cat", "that the")):
    examples = [
        Example(utt_id=str(i), wav=speechlike(1.5 + i, seed=i), asr_text=text, lang="eng")
        for i, text in enumerate(texts)
    ]
    return SpeechCollator(tokenizer)(examples)


@pytest.mark.parametrize("share", [True, False])
def test_it_begins_from_whispers_encoder_and_decoder(tokenizer, whisper_folder, share):
    model = build(tokenizer, share_decoder=share)
    report = init_model(model, whisper_folder)
    assert not report.unknown
    assert not report.mismatched
    assert all(not name.startswith("trunk.encoder.whisper") for name in report.missing)
    assert all("decoder.blocks" not in name for name in report.missing)
    source = load_model(whisper_folder)
    whisper = source.model
    torch.testing.assert_close(model.trunk.encoder.whisper.state_dict(), whisper.encoder.state_dict())
    for head in model.decoders.values():
        torch.testing.assert_close(head.decoder.blocks.state_dict(), whisper.decoder.state_dict())
    table, theirs = model.decoders["paraformer"].token_embed.weight, whisper.token_embed.weight
    same = {"Ġthe": "Ġthe", "a": "a", "<eos>": "<|endoftext|>", "<eng>": "<|en|>", "<fra>": "<|fr|>"}
    for ours, name in same.items():
        torch.testing.assert_close(table[tokenizer.id_of(ours)], theirs[source.tokenizer.id_of(name)])
    assert not table[tokenizer.blank_id].any()
    start = model.decoders["cassnat"].decoder.start
    torch.testing.assert_close(start[0], theirs[source.tokenizer.id_of("<|startoftranscript|>")])
    torch.testing.assert_close(
        start[1], theirs[[source.tokenizer.id_of("<|en|>"), source.tokenizer.id_of("<|fr|>")]].mean(0)
    )
    assert (model.decoders["cassnat"].decoder is model.decoders["paraformer"].decoder) == share


@torch.no_grad()
def test_a_decoder_given_the_right_text_predicts_as_whisper_behind_its_mask(tokenizer, whisper_folder):
    """The start slots and positions of the parallel decoder are where Whisper has them."""
    model = build(tokenizer)
    init_model(model, whisper_folder)
    whisper, theirs = load_model(whisper_folder).model, load_model(whisper_folder).tokenizer
    batch = make_batch(tokenizer, ["the cat"])
    states, lens = model.features(batch.wav, batch.wav_lens)
    ids = [theirs.id_of(piece) for piece in PROMPT]
    decoder = model.decoders["paraformer"].decoder
    decoder.start.data.copy_(whisper.token_embed.weight[ids])  # the language told
    text = theirs.encode("the cat")
    expected = whisper(torch.tensor([[*ids, *text]]), states, lens)[:, len(ids) - 1 : -1]
    embeds = model.decoders["paraformer"].token_embed(torch.tensor([tokenizer.encode("the cat")]))
    mask = torch.ones(1, 1, 1, states.size(1), dtype=torch.bool)
    full = torch.cat([decoder.start[None], embeds], 1) + decoder.positions[: len(ids) + 2]
    valid = torch.ones(1, full.size(1), dtype=torch.bool)
    hidden = decoder.blocks(full, valid, decoder.project(states), mask, causal=True)[:, len(ids) - 1 : -1]
    logits = model.decoders["paraformer"].output(hidden)
    for piece in ("Ġthe", "Ġcat", "z"):
        torch.testing.assert_close(logits[..., tokenizer.id_of(piece)], expected[..., theirs.id_of(piece)])


@torch.no_grad()
def test_utterances_are_decoded_as_if_they_were_alone(tokenizer):
    model = build(tokenizer)
    model.trunk.ctc.proj.weight.mul_(6.0)
    together = make_batch(tokenizer)
    found = model.recognize_with(together)
    assert set(found) == {"ctc", "cassnat", "paraformer"}
    assert all(any(ids for ids in texts) for texts in found.values())
    for index, name in enumerate(("the cat", "that the")):
        samples = int(together.wav_lens[index])
        out = model.encode(together.wav[index : index + 1, :samples], together.wav_lens[index : index + 1])
        for decoder in ("cassnat", "paraformer"):
            alone = model.decode(out, decoder)[0].tokens
            batch_out = model.encode(together.wav, together.wav_lens)
            assert model.decode(batch_out, decoder)[index].tokens == alone, (name, decoder)


@torch.no_grad()
def test_the_baseline_with_whispers_own_vocabulary_is_whisper(whisper_folder):
    """Teacher forced and greedy, for utterances of unequal length; the text is that of an English Whisper."""
    loaded = load_model(whisper_folder)
    whisper, theirs = loaded.model, loaded.tokenizer
    torch.manual_seed(3)
    whisper.positions.normal_(std=2.0)  # else it says one token again and again, as its embeddings are its output
    num_tokens = whisper.config.num_tokens
    prompt = [
        theirs.id_of(piece) for piece in ("<|startoftranscript|>", "<|en|>", "<|transcribe|>", "<|notimestamps|>")
    ]
    eos_id, never = theirs.id_of("<|endoftext|>"), [theirs.id_of("<|fr|>"), prompt[0]]
    head = TransformerArHead(AR, 32, vocab_size=num_tokens, sos_id=prompt[0], eos_id=eos_id, blank_id=never[0]).eval()
    adopted = adopt_decoder(
        whisper.state_dict(),
        theirs,
        theirs.pieces[:num_tokens],
        num_layers=2,
        tables=head.tables,
        prefix="",
        causal=True,
    )
    head.load_state_dict(adopted)
    states, state_lens = torch.randn(2, 17, 32), torch.tensor([17, 9])
    lens = torch.tensor([8, 6])
    speech = EncodedSpeech(enc=torch.zeros(2, 8, 24), lens=lens, states=states, state_lens=state_lens)
    text = torch.randint(0, 256, (2, 7))
    expected = whisper(torch.cat([torch.tensor([prompt, prompt]), text], 1), states, state_lens)[:, len(prompt) - 1 :]
    logits = head.decoder(torch.cat([text[:, :1], text], 1), head.memory(speech))
    torch.testing.assert_close(logits, expected)
    paths = head.decode(speech)
    assert any(len(set(path.tokens)) > 1 for path in paths)
    for index, path in enumerate(paths):
        written = list(prompt)
        while len(written) < len(prompt) + int(lens[index]):
            enc = states[index : index + 1, : int(state_lens[index])]
            found = whisper(torch.tensor([written]), enc, state_lens[index : index + 1])[0, -1]
            found[never] = -torch.inf
            if found.argmax() == eos_id:
                break
            written.append(int(found.argmax()))
        assert path.tokens == written[len(prompt) :]


@pytest.mark.parametrize("num_layers", [1, 2])
def test_the_baseline_begins_from_whispers_decoder(tokenizer, whisper_folder, num_layers):
    model = build(tokenizer, **AR_ALONE | {"transformer_ar": AR.model_copy(update={"num_layers": num_layers})})
    report = init_model(model, whisper_folder)
    assert not report.unknown
    assert not report.mismatched
    assert not [name for name in report.missing if name.startswith("decoders.")]
    source = load_model(whisper_folder)
    whisper, theirs = source.model, source.tokenizer
    head = model.decoders["transformer_ar"]
    for layer, other in zip(head.decoder.layers, whisper.decoder.layers, strict=False):
        torch.testing.assert_close(layer.attention.state_dict(), other.self_attention.state_dict())
        torch.testing.assert_close(layer.ff.state_dict(), other.ff.state_dict())
    assert head.decoder.output.weight is head.decoder.embed.weight
    # Told its text, it predicts what Whisper does, in the pieces that both have.
    batch = make_batch(tokenizer, ["the cat"])
    states, lens = model.features(batch.wav, batch.wav_lens)
    ids = [theirs.id_of(piece) for piece in PROMPT]
    with torch.no_grad():
        head.decoder.start.copy_(whisper.token_embed.weight[ids])  # the language told
        text = torch.tensor([[tokenizer.id_of("<sos>"), *tokenizer.encode("the cat")]])
        speech = EncodedSpeech(enc=states, lens=lens, states=states, state_lens=lens)
        found = head.decoder(text, head.memory(speech))
        expected = whisper(torch.tensor([[*ids, *theirs.encode("the cat")]]), states, lens)[:, len(ids) - 1 :]
    if num_layers == 2:
        for ours, name in {"Ġthe": "Ġthe", "a": "a", "<eos>": "<|endoftext|>"}.items():
            torch.testing.assert_close(found[..., tokenizer.id_of(ours)], expected[..., theirs.id_of(name)])


@pytest.mark.parametrize("options", [{}, {"beam_size": 3}, {"beam_size": 2, "ctc_weight": 0.0}])
@torch.no_grad()
def test_the_baseline_writes_utterances_as_if_they_were_alone(tokenizer, whisper_folder, options):
    model = build(tokenizer, **AR_ALONE)
    init_model(model, whisper_folder)
    together = make_batch(tokenizer, ["the cat", "that the", "cat"])
    paths = model.decode(model.encode(together.wav, together.wav_lens), "transformer_ar", **options)
    assert any(path.tokens for path in paths)
    for index, path in enumerate(paths):
        samples = int(together.wav_lens[index])
        out = model.encode(together.wav[index : index + 1, :samples], together.wav_lens[index : index + 1])
        (alone,) = model.decode(out, "transformer_ar", **options)
        assert (path.tokens, path.starts, path.ends) == (alone.tokens, alone.starts, alone.ends)
        assert path.total == pytest.approx(alone.total, abs=1e-3)


@pytest.mark.parametrize("changes", [{}, AR_ALONE])
def test_losses_fall_and_reach_what_is_trained(tokenizer, changes):
    model = build(tokenizer, **changes).train()
    batch = make_batch(tokenizer)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 3e-3)
    losses = []
    for step in range(25):
        torch.manual_seed(step)
        output = model.loss(batch)
        output.total.backward()
        if step == 0:
            idle = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
            assert not [name for name in idle if not name.startswith("trunk.prompt_encoder")], idle
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(output.total.detach()))
    assert losses[-1] < 0.5 * losses[0]
    assert all(parameter.grad is None for parameter in model.frozen_weights())


def test_stored_features_stand_in_for_audio(tokenizer):
    model = build(tokenizer)
    batch = make_batch(tokenizer)
    states, lens = model.features(batch.wav, batch.wav_lens)
    examples = [
        Example(
            utt_id=str(i),
            wav=batch.wav[i, :0].numpy(),
            asr_text=text,
            lang="eng",
            feats=states[i, : int(lens[i])].half().numpy(),
        )
        for i, text in enumerate(("the cat", "that the"))
    ]
    stored = SpeechCollator(tokenizer)(examples)
    with torch.no_grad():
        from_audio = model.trunk.encode_batch(batch)
        from_store = model.trunk.encode_batch(stored)
    torch.testing.assert_close(from_store.log_probs, from_audio.log_probs, atol=2e-2, rtol=1e-2)  # half precision
    torch.testing.assert_close(model.loss(stored).total, model.loss(batch).total, atol=0.1, rtol=1e-2)


def test_a_folder_keeps_it(tokenizer, tmp_path):
    model = build(tokenizer)
    save_model(tmp_path, model, tokenizer)
    loaded = load_model(tmp_path)
    assert loaded.tokenizer.pieces == tokenizer.pieces
    torch.testing.assert_close(loaded.model.state_dict(), model.state_dict())
    heads = loaded.model.decoders
    assert heads["cassnat"].out.weight is heads["paraformer"].token_embed.weight


def test_a_whisper_trunk_cannot_be_run_by_chunks(tokenizer):
    batch = make_batch(tokenizer)
    with pytest.raises(ConfigError, match="whole utterance"):
        build(tokenizer).encode(batch.wav, batch.wav_lens, chunking=Chunking(chunk_frames=4))


def test_other_sizes_and_trunks_are_refused(tokenizer, whisper_folder):
    config = make_config()
    with pytest.raises(ValidationError, match="which must be of kind whisper"):
        JointConfig(trunk=JointConfig.debug().trunk, paraformer=config.paraformer)
    with pytest.raises(ValidationError, match="share_decoder needs"):
        make_config(cassnat=None)
    with pytest.raises(ValidationError, match="need each other"):
        ParaformerHeadConfig(decoder="whisper")
    with pytest.raises(ValidationError, match="needs feed_forward gelu, got relu"):
        TransformerArHeadConfig(decoder="whisper")
    with pytest.raises(ValidationError, match="which must be of kind whisper"):
        JointConfig(trunk=JointConfig.debug().trunk, transformer_ar=AR)
    with pytest.raises(ValidationError, match="num_self_layers 0"):
        CassNatHeadConfig(decoder="whisper")
    small = build(tokenizer)
    torch.manual_seed(0)
    report = init_model(small, whisper_folder, part="decoders.paraformer.")
    assert all(name.startswith("decoders.") for name in report.loaded)
    with pytest.raises(CheckpointError, match="no weight in it"):
        init_model(small, whisper_folder, part="none.")

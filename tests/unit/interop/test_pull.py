"""Models of a hub, by name: fetched, converted once, and kept, whatever happens."""

import json

import pytest
from huggingface_hub import snapshot_download

from speechnar import store
from speechnar.asr.transcriber import Transcriber
from speechnar.errors import CheckpointError, ModelNotFoundError
from speechnar.hub import list_models, read_card, resolve_model
from speechnar.interop import pull
from speechnar.interop.pull import pull_model
from speechnar.models.base import load_model
from speechnar.published import obtain_model, published_models
from speechnar.store import Address
from tests.unit import published
from tests.unit.tiny import write_speechlike

FAMILIES = {
    "espnet/owsm_ctc_v3.1_1B": (
        lambda scratch: published.espnet(),
        {"README.md", "meta.yaml", f"{published.EXP}/config.yaml", published.ESPNET_WEIGHTS},
    ),
    "funasr/paraformer-zh": (
        published.funasr,
        {"README.md", "configuration.json", "config.yaml", "model.pt", "am.mvn", "tokens.json", "seg_dict"},
    ),
    "facebook/magnet-small-10secs": (published.audiocraft, {"state_dict.bin", "compression_state_dict.bin"}),
    "facebook/wav2vec2-base-960h": (
        published.wav2vec2,
        {"README.md", "config.json", "model.safetensors", "vocab.json"},
    ),
    "openai/whisper-base": (published.whisper, {"config.json", "model.safetensors", "tokenizer.json"}),
    "someone/tiny": (
        published.ours,
        {"README.md", "config.json", "model.safetensors", "tokenizer.model", "tokens.txt"},
    ),
}
HEARS = {"espnet/owsm_ctc_v3.1_1B", "funasr/paraformer-zh", "facebook/wav2vec2-base-960h", "someone/tiny"}


@pytest.fixture
def espnet(hub):
    return hub.add("espnet/owsm_ctc_v3.1_1B", published.espnet())


@pytest.mark.parametrize("name", FAMILIES)
def test_only_what_is_needed_is_fetched_and_never_again(hub, tmp_path, name):
    make, needed = FAMILIES[name]
    hub.add(name, make(tmp_path))
    folder = obtain_model(name)
    assert sorted(hub.fetched()) == sorted(needed)
    loaded = load_model(folder)
    assert loaded.name == name.partition("/")[2]
    asked = list(hub.requests)
    assert obtain_model(name) == folder == resolve_model(name) == obtain_model(f"{name}@main")
    assert hub.requests == asked, "the second call touches no network"
    if name in HEARS:
        transcript = Transcriber.load(name).transcribe(write_speechlike(tmp_path / "talk.wav", 2.0))
        assert transcript.text
    assert hub.requests == asked
    root = store.Address.parse(name).folder
    assert {path.name for path in root.iterdir()} == {"revisions", folder.parent.name}, "nothing else is left"
    (info,) = [info for info in list_models() if info.name == name]
    assert (info.source, info.folder) == ("hub cache", folder)
    assert [model.kind for model in published_models() if model.name == name] in ([info.kind], [])


def test_a_revision_is_pinned(hub, espnet):
    name = "espnet/owsm_ctc_v3.1_1B"
    folder = obtain_model(f"{name}@{espnet.commit}")
    assert obtain_model(f"{name}@v1.0") == folder
    assert len(hub.fetched()) == 4, "a tag of the same commit is not converted again"
    first = espnet.commit
    espnet.commit = "f" * 40
    espnet.files["README.md"] += b"changed"
    assert obtain_model(f"{name}@{first}") == obtain_model(f"{name}@v1.0") == folder
    newer = obtain_model(name)
    assert newer.parent.name == f"{'f' * 40}-v1"
    espnet.commit = "e" * 40
    assert obtain_model(name) == newer, "what is here is not asked for again"
    assert pull_model(name).parent.name == f"{'e' * 40}-v1", "but pull asks"


def test_the_card_says_whose_model_it_is(hub, tmp_path):
    hub.add("a/owsm", published.espnet())
    hub.add("a/funasr", published.funasr(tmp_path))
    hub.add("a/wav2vec2", published.wav2vec2(tmp_path))
    card = read_card(obtain_model("a/owsm"))
    assert (card["license"], card["language"], card["tasks"]) == ("cc-by-4.0", ["deu", "eng"], ["asr", "st"])
    assert card["source"] == f"a/owsm@{hub.repos['a/owsm'].commit}"
    assert (obtain_model("a/owsm") / "README.md").read_text().count("---\n") == 2
    card = read_card(obtain_model("a/funasr"))
    assert (card["license"], card["language"]) == ("model-license", "zh")
    assert read_card(obtain_model("a/wav2vec2"))["language"] == ["eng"]
    assert Transcriber.load("a/wav2vec2")._language == "eng"


def test_what_the_hubs_client_has_is_not_fetched_again(hub, espnet, monkeypatch):
    name = "espnet/owsm_ctc_v3.1_1B"
    snapshot_download(name)
    hub.requests.clear()
    obtain_model(name)
    assert hub.fetched() == []
    store.remove(Address.parse(name))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    hub.requests.clear()
    load_model(obtain_model(name))
    assert hub.requests == [], "offline, it is converted from there"


def test_offline_says_what_is_missing(hub, espnet, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelNotFoundError, match="not on this machine, and the hub must not be asked"):
        obtain_model("espnet/owsm_ctc_v3.1_1B")
    assert hub.requests == []


def test_a_damaged_file_of_the_hubs_client_is_not_used(hub, espnet, monkeypatch):
    name = "espnet/owsm_ctc_v3.1_1B"
    snapshot = snapshot_download(name)
    blob = (store.Path(snapshot) / published.ESPNET_WEIGHTS).resolve()
    blob.write_bytes(blob.read_bytes()[:-1] + b"x")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(CheckpointError, match="is damaged; remove"):
        obtain_model(name)
    monkeypatch.setenv("HF_HUB_OFFLINE", "")
    hub.requests.clear()
    obtain_model(name)
    assert hub.fetched() == [published.ESPNET_WEIGHTS]


def test_tokens_are_given_to_the_hub(hub, espnet, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    obtain_model("espnet/owsm_ctc_v3.1_1B")
    given = {path.startswith("/cdn/"): token for path, token in hub.tokens.items()}
    assert given == {False: "Bearer hf_secret", True: ""}, "to the hub only, not where it redirects to"


def test_an_interrupted_download_is_continued(hub, espnet):
    address = Address.parse("espnet/owsm_ctc_v3.1_1B")
    part = address.folder / store.DOWNLOAD / espnet.commit / f"{published.ESPNET_WEIGHTS}.part"
    part.parent.mkdir(parents=True)
    whole = espnet.files[published.ESPNET_WEIGHTS]
    part.write_bytes(whole[:5000])
    obtain_model(str(address))
    assert f"{published.ESPNET_WEIGHTS}#bytes=5000-" in hub.fetched()
    store.remove(address)
    part.parent.mkdir(parents=True)
    part.write_bytes(b"?" * 5000)
    hub.requests.clear()
    obtain_model(str(address))
    assert published.ESPNET_WEIGHTS in hub.fetched(), "what was of something else is fetched anew"
    store.remove(address)
    part.parent.mkdir(parents=True)
    part.write_bytes(whole + b"more")
    obtain_model(str(address))


def test_a_full_disk_is_known_before(hub, espnet, monkeypatch):
    monkeypatch.setattr(pull.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1000})())
    with pytest.raises(ModelNotFoundError, match="make room, or let HF_HOME name a larger disk"):
        obtain_model("espnet/owsm_ctc_v3.1_1B")
    assert published.ESPNET_WEIGHTS not in hub.fetched()


@pytest.mark.parametrize("name", ["nothing", "a/b/c", "./x", "../x", "a/..", "a--b/c"])
def test_what_is_no_name_is_refused(hub, name):
    with pytest.raises(ModelNotFoundError, match="no folder, no shipped name and no owner/name"):
        pull_model(name)
    assert hub.requests == []


def test_removed_models_are_gone(hub, espnet):
    name = "espnet/owsm_ctc_v3.1_1B"
    first = obtain_model(name)
    commit, espnet.commit = espnet.commit, "f" * 40
    second = pull_model(name)
    assert store.remove(Address.parse(f"{name}@{commit}")) > 10_000
    assert not first.exists() and second.exists()
    with pytest.raises(ModelNotFoundError, match="is not in the cache"):
        store.remove(Address.parse(f"{name}@{commit}"))
    store.remove(Address.parse(name))
    assert not second.exists() and list_models() == [info for info in list_models() if info.source == "shipped"]
    with pytest.raises(ModelNotFoundError, match="fetch it by `speechnar pull espnet/owsm_ctc_v3"):
        resolve_model(name)


def test_an_older_format_is_converted_again(hub, espnet, monkeypatch):
    obtain_model("espnet/owsm_ctc_v3.1_1B")
    monkeypatch.setattr(store, "SCHEMA_VERSION", 2)
    assert store.find(Address.parse("espnet/owsm_ctc_v3.1_1B")) is None


def test_cards_of_strangers_do_no_harm(hub):
    files = published.espnet()
    files["README.md"] = b"---\nlanguage: [1, {a: b}]\nlicense: [x, y]\n---\n"
    hub.add("a/b", files)
    card = read_card(obtain_model("a/b"))
    assert card["language"] == ["deu", "eng"]
    json.dumps(card)

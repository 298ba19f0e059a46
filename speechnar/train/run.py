"""A training run from a configuration: data, tokenizer, model, the loop, and the model folder it ends in."""

import errno
import itertools
import logging
import math
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import torch
import yaml
from pydantic import BeforeValidator, Discriminator, PositiveInt, SerializeAsAny, Tag
from torch import Tensor, nn

from speechnar.audio.cmvn import GlobalCmvn, compute_cmvn
from speechnar.config import Config, load_config, parse_config
from speechnar.data.codes import CodeDataConfig, CodeDataset
from speechnar.data.dataset import DataConfig, SpeechDataset
from speechnar.data.features import StoredFeatures, fingerprint
from speechnar.data.kaldi import read_kaldi_dir
from speechnar.data.pairs import PairDataConfig, PairDataset
from speechnar.data.parallel_text import read_sentences
from speechnar.errors import CheckpointError, ConfigError, DataError
from speechnar.files import locked
from speechnar.metrics.error_rate import cer, wer
from speechnar.metrics.translation import bleu
from speechnar.models.base import (
    WEIGHTS_FILE,
    AsrModel,
    HearsSpeech,
    ModelConfig,
    MtModel,
    StoresFeatures,
    Trainable,
    config_of,
    load_state,
    model_entry,
    normalizes_features,
    read_model_config,
    read_weights,
    save_model,
    tied_names,
)
from speechnar.nn.lora import add_lora, merge_lora
from speechnar.text.tokenizer import Tokenizer, load_tokenizer
from speechnar.train.checkpoint import (
    average_checkpoints,
    find_best,
    find_last,
    load_checkpoint,
    weights_of,
    write_text,
)
from speechnar.train.feed import prefetch
from speechnar.train.loop import TrainConfig, TrainResult, build_accelerator, seed_everything, train
from speechnar.train.machine import tuned
from speechnar.train.parallel import is_sharded
from speechnar.train.validation import Evaluate, score, validate

if TYPE_CHECKING:  # of an extra, which what is imported above asks for
    from accelerate import Accelerator

logger = logging.getLogger(__name__)

CMVN_BATCHES = 50
"""Batches of training data behind the stored mean and deviation of the features; more change nothing audible."""
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
MAX_NAMES = 20
"""Weights of one kind that a report lists by name; of more it tells how many each part has."""


def _resolve_model(value: Any) -> Any:
    return parse_config(value, model_entry(value.get("kind")).config_cls) if isinstance(value, dict) else value


def _kind_of_data(value: Any) -> str:
    """Speech is what data are if nothing else is said."""
    return str(value.get("kind", "speech") if isinstance(value, dict) else value.kind)


AnyDataConfig = Annotated[
    Annotated[DataConfig, Tag("speech")]
    | Annotated[CodeDataConfig, Tag("codes")]
    | Annotated[PairDataConfig, Tag("pairs")],
    Discriminator(_kind_of_data),
]


class RunConfig(Config):
    """Everything that defines a run; saved beside it as ``config.yaml``."""

    model: Annotated[SerializeAsAny[ModelConfig], BeforeValidator(_resolve_model)]
    """Of any kind in `speechnar.models.MODELS`."""
    data: AnyDataConfig
    """Speech, its codes (``kind: codes``), or pairs of texts (``kind: pairs``)."""
    train: TrainConfig
    tokenizer: Path
    """Folder of the tokenizer."""
    init_from: Path | tuple[Path, ...] | None = None
    """Model folder or checkpoint whose fitting weights the model starts from; of several, later ones win."""
    init_part: str = ""
    """Start only this part of the model from it, as ``trunk.``: weights whose names begin so."""
    frozen: tuple[str, ...] = ()
    """Leave these parts of the model as they start, as ``trunk.``: weights whose names begin so are not trained."""
    lora: PositiveInt | None = None
    """Rank of low-rank updates of the linear layers, which alone are trained and are merged in the exported model
    (`speechnar.nn.lora`); None trains the weights themselves."""
    average: PositiveInt = 5
    """Best checkpoints whose average is exported, if it scores better than the best one alone."""


@dataclass(frozen=True)
class InitReport:
    """Which of a model's weights came from elsewhere."""

    loaded: list[str]
    missing: list[str]
    """In the model only: they keep their random start."""
    unknown: list[str]
    """In the source only."""
    mismatched: list[str]
    """Of another shape in the source: not loaded."""


def run_training(config: RunConfig, exp_dir: str | Path) -> TrainResult:
    """Train as ``config`` says, or continue the run in ``exp_dir``; leave the best weights in ``exp_dir/model``.

    Raises:
        DataError: a data directory or the tokenizer is malformed.
        CheckpointError: ``init_from`` or the run to continue is unreadable or of another model.
        ConfigError: ``init_from`` lacks a part that the model does not train, or another run works in ``exp_dir``.
        SpeechnarError: training diverged (see `speechnar.train.loop.train`).
    """
    exp_dir = Path(exp_dir)
    exp_dir.mkdir(parents=True, exist_ok=True)
    accelerator = build_accelerator(config.train)
    try:
        with tuned(config.train), locked(exp_dir) if accelerator.is_main_process else nullcontext():
            return _run_training(config, exp_dir, accelerator)
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        raise CheckpointError(
            f"{exp_dir}: cannot be written ({error.strerror}); once there is room, the same command continues the run"
        ) from None


def _run_training(config: RunConfig, exp_dir: Path, accelerator: "Accelerator") -> TrainResult:
    tokenizer = load_tokenizer(config.tokenizer)
    seed_everything(config.train.seed)
    model = build_model(config.model, tokenizer)
    data = _open_data(config, tokenizer, model)
    if find_last(exp_dir) is None:
        if isinstance(data.train, SpeechDataset):
            fit_normalizer(model, load_data(config, tokenizer, data.train.collate.sample_rate, training=True))
        start_model(model, config)
        _check_stored(data, model)  # a run that goes on has its weights from its checkpoint
    choose_trained(model, config)
    num_parameters = sum(p.numel() for p in model.parameters())
    num_trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    logger.info(
        "model %s of %.2f M parameters, %.2f M of them trained",
        type(model).__name__, num_parameters / 1e6, num_trained / 1e6,
    )  # fmt: skip

    def begin() -> None:
        if accelerator.is_main_process:
            _save_config(config, exp_dir / "config.yaml")

    result = train(model, data.train, data.dev, config.train, exp_dir, evaluate=data.evaluate, begins=begin)

    if is_sharded(model):  # its checkpoints are whole, and so is what comes of them
        model = build_model(config.model, tokenizer)
        choose_trained(model, config)
        model.to(accelerator.device)

    def measure(candidate: Trainable) -> dict[str, float]:
        scores = score(candidate, accelerator, data.evaluate) if data.evaluate is not None else {}
        return {**validate(candidate, data.dev, accelerator), **scores}

    chosen = _choose_weights(model, find_best(exp_dir, config.average), config.train.select, measure)
    if accelerator.is_main_process:
        kept = model.exported
        merge_lora(kept)
        save_model(exp_dir / "model", kept, tokenizer, card=_card(config, result, kept, chosen))
    return result


def average(exp_dir: str | Path, num_best: int) -> Path:
    """Export the average of the ``num_best`` best checkpoints of a run to ``exp_dir/model`` and return that folder.

    Raises:
        CheckpointError: the run has no checkpoints yet, or they are not of its configuration.
    """
    exp_dir = Path(exp_dir)
    config = load_config(exp_dir / "config.yaml", RunConfig)
    tokenizer = load_tokenizer(config.tokenizer)
    model = build_model(config.model, tokenizer)
    choose_trained(model, config)
    paths = find_best(exp_dir, num_best)
    load_state(model, average_checkpoints(paths), source=str(exp_dir))
    merge_lora(model)
    card = _front_matter(config)
    card += f"# {exp_dir.resolve().name}\n\nAverage of {len(paths)} checkpoints: {', '.join(p.stem for p in paths)}.\n"
    save_model(exp_dir / "model", model.exported, tokenizer, card=card)
    return exp_dir / "model"


def load_data(config: RunConfig, tokenizer: Tokenizer, sample_rate: int, *, training: bool) -> SpeechDataset:
    """Open the training or the development speech of a run, as a model of ``sample_rate`` hears it.

    Raises:
        DataError: a data directory is malformed, or has no usable utterance.
        ConfigError: the data are texts.
    """
    if config.data.kind != "speech":
        raise ConfigError(f"data must be of kind speech for a model of speech, got {config.data.kind}")
    utterances = [u for folder in _folders(config, training=training) for u in read_kaldi_dir(folder)]
    return SpeechDataset(
        utterances,
        tokenizer,
        config.data,
        training=training,
        seed=config.train.seed,
        sample_rate=sample_rate,
        stored=StoredFeatures(_folders(config, training=training)) if config.data.stored_features else None,
    )


def load_pairs(config: RunConfig, tokenizer: Tokenizer, *, training: bool) -> PairDataset:
    """Open the training or the development pairs of a run.

    Raises:
        DataError: a directory of texts is malformed, or has no usable pair.
        ConfigError: the data are speech.
    """
    if config.data.kind != "pairs":
        raise ConfigError(f"data must be of kind pairs for a model of texts, got {config.data.kind}")
    sentences = [sentence for folder in _folders(config, training=training) for sentence in read_sentences(folder)]
    return PairDataset(sentences, tokenizer, config.data, training=training, seed=config.train.seed)


@dataclass(frozen=True)
class _Data:
    train: SpeechDataset | PairDataset | CodeDataset
    dev: SpeechDataset | PairDataset | CodeDataset
    evaluate: Evaluate | None
    """Scores a model on ``dev``, where it can be scored by more than its loss."""


def _open_data(config: RunConfig, tokenizer: Tokenizer, model: Trainable) -> _Data:
    """Open the data of a run, which must be of a kind that its model learns from.

    Raises:
        ConfigError: they are of another kind.
        DataError: they are malformed.
    """
    kind = config.data.kind
    if kind not in model.learns_from:
        kinds = " or ".join(model.learns_from)
        raise ConfigError(f"data must be of kind {kinds} for a model of kind {config.model.kind}, got {kind}")
    return _OPENERS[kind](config, tokenizer, model)


def _open_speech(config: RunConfig, tokenizer: Tokenizer, model: Trainable) -> _Data:
    sample_rate = cast(HearsSpeech, model).sample_rate
    train_data, dev_data = (load_data(config, tokenizer, sample_rate, training=flag) for flag in (True, False))
    evaluate = recognition_error(dev_data, tokenizer) if isinstance(model, AsrModel) else None
    return _Data(train_data, dev_data, evaluate)


def _check_stored(data: _Data, model: Trainable) -> None:
    """Raise DataError where features are stored that other weights made."""
    for part in (data.train, data.dev):
        stored = part.stored if isinstance(part, SpeechDataset) else None
        if stored is None:
            continue
        if not isinstance(model, StoresFeatures) or stored.fingerprint != fingerprint(model.frozen_weights()):
            raise DataError("data.stored_features: they were made by other weights than the model's; extract them anew")


def _open_codes(config: RunConfig, tokenizer: Tokenizer, model: Trainable) -> _Data:
    del model
    train_data, dev_data = (
        CodeDataset(
            _folders(config, training=training),
            tokenizer,
            batch_frames=cast(CodeDataConfig, config.data).batch_frames,
            training=training,
            seed=config.train.seed,
        )
        for training in (True, False)
    )
    return _Data(train_data, dev_data, None)


def _open_pairs(config: RunConfig, tokenizer: Tokenizer, model: Trainable) -> _Data:
    train_data, dev_data = (load_pairs(config, tokenizer, training=flag) for flag in (True, False))
    evaluate = translation_error(dev_data, tokenizer) if isinstance(model, MtModel) else None
    return _Data(train_data, dev_data, evaluate)


_OPENERS = {"speech": _open_speech, "codes": _open_codes, "pairs": _open_pairs}


def _folders(config: RunConfig, *, training: bool) -> Sequence[Path]:
    given = config.data.train if training else config.data.dev
    return [given] if isinstance(given, Path) else list(given)


def build_model(config: ModelConfig, tokenizer: Tokenizer) -> Trainable:
    """Make the model of ``config`` with random weights.

    Raises:
        ConfigError: models of that kind do not learn by gradients.
    """
    model_cls = model_entry(config.kind).model_cls
    if not issubclass(model_cls, Trainable):
        raise ConfigError(f"a model of kind {config.kind} is not trained by gradients; see {model_cls.__module__}")
    model: Trainable = model_cls.from_config(config, tokenizer)
    return model


def start_model(model: Trainable, config: RunConfig) -> None:
    """Copy weights as ``init_from`` and ``init_part`` say; then let the model prepare the run (`Trainable.begin`).

    Raises:
        CheckpointError: a source is unreadable, or nothing in it fits.
        ConfigError: a part that the model does not train itself (`Trainable.pretrained`) comes from none of them.
    """
    given = config.init_from
    sources = [given] if isinstance(given, Path) else list(given or ())
    loaded = [name for source in sources for name in init_model(model, source, config.init_part).loaded]
    for part in model.pretrained:
        if not any(name.startswith(part) for name in loaded):
            kinds = [kind for kind, prefix in model.warm_starts.items() if part.startswith(prefix)]
            raise ConfigError(
                f"init_from must name a model folder of kind {' or '.join(kinds)}: {type(model).__name__} does not "
                f"train its {part.rstrip('.')} itself"
            )
    model.begin()


def init_model(model: Trainable, source: str | Path, part: str = "") -> InitReport:
    """Copy the weights of a model folder or checkpoint that fit ``model`` by name and shape; log what did not.

    A model folder of another kind is a part of ``model`` where `Trainable.warm_starts` says so. Of a model that has
    more than is wanted, only weights whose names begin with ``part`` are taken.

    Raises:
        CheckpointError: the source is unreadable, or nothing in it fits.
    """
    source = Path(source)
    if source.is_dir():
        kind = read_model_config(source)[1].kind
        weights = model.adopt(kind, read_weights(source / WEIGHTS_FILE), load_tokenizer(source))
    else:
        weights = weights_of(load_checkpoint(source), source=str(source))
    weights = {name: weight for name, weight in weights.items() if name.startswith(part)}
    own = model.state_dict()
    shared = own.keys() & weights.keys()
    fitting = {name for name in shared if own[name].shape == weights[name].shape}
    tied = {name for name, first in tied_names(own).items() if first in fitting}
    report = InitReport(
        loaded=sorted(fitting),
        missing=sorted(own.keys() - weights.keys() - tied),
        unknown=sorted(weights.keys() - own.keys()),
        mismatched=sorted(shared - fitting),
    )
    if not fitting:
        raise CheckpointError(f"{source}: no weight in it has a name and shape of this model; is it another model?")
    model.load_state_dict({name: weights[name] for name in fitting}, strict=False)
    for what, names in asdict(report).items():
        logger.info("init from %s: %d weights %s", source, len(names), what)
        if what != "loaded":
            for line in names if len(names) <= MAX_NAMES else _count_by_part(names):
                logger.info("  %s: %s", what, line)
    return report


def _count_by_part(names: Sequence[str]) -> list[str]:
    counts = Counter(name.partition(".")[0] for name in names)
    return [f"{count} of {part}" for part, count in counts.items()]


def choose_trained(model: nn.Module, config: RunConfig) -> None:
    """Freeze what ``config`` says is not trained; with LoRA, that is all but the updates that it adds.

    Raises:
        ConfigError: there is no such part, or no layer for LoRA.
    """
    for part in config.frozen:
        freeze(model, part)
    if config.lora is not None:
        freeze(model, "")
        logger.info("%d layers have updates of rank %d", add_lora(model, config.lora), config.lora)


def freeze(model: nn.Module, part: str) -> None:
    """Take the weights whose names begin with ``part`` out of training, and hold the statistics of its norms.

    Raises:
        ConfigError: no weight has such a name.
    """
    frozen = [p for name, p in model.named_parameters() if name.startswith(part)]
    if not frozen:
        raise ConfigError(f"frozen: no weight of the model has a name that begins with {part!r}")
    for parameter in frozen:
        parameter.requires_grad_(False)
    for name, module in model.named_modules():
        if f"{name}.".startswith(part) and isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = 0.0


@torch.no_grad()
def fit_normalizer(model: nn.Module, data: SpeechDataset) -> None:
    """Measure the mean and deviation of the features of ``data``, where the model normalises by stored ones."""
    if not normalizes_features(model) or not isinstance(model.normalizer, GlobalCmvn):
        return
    batches = itertools.islice(data.batches(0), CMVN_BATCHES)
    mean, std = compute_cmvn(model.frontend(batch.wav, batch.wav_lens) for batch in batches)
    model.normalizer.mean.copy_(torch.as_tensor(mean))
    model.normalizer.std.copy_(torch.as_tensor(std))


def translation_error(dev_data: PairDataset, tokenizer: Tokenizer) -> Evaluate:
    """Return a function that translates ``dev_data`` greedily and reports ``1-bleu``, detokenised and cased."""

    def evaluate(model: nn.Module) -> dict[str, float]:
        assert isinstance(model, MtModel)
        device = next(model.parameters()).device
        refs: list[str] = []
        hyps: list[str] = []
        for batch in dev_data.batches(0):
            refs += batch.refs
            hyps += [tokenizer.decode(ids) for ids in model.translate(batch.to(device))]
        return {"1-bleu": 1 - bleu(refs, hyps, lang=dev_data.config.target).value}

    return evaluate


def recognition_error(dev_data: SpeechDataset, tokenizer: Tokenizer) -> Evaluate:
    """Return a function that greedily recognises ``dev_data`` and reports ``wer`` and ``cer`` as fractions.

    For a model of several decoders they are means over the decoders, and each has its own (``cer_cassnat``).
    """

    def evaluate(model: nn.Module) -> dict[str, float]:
        assert isinstance(model, AsrModel)
        device = next(model.parameters()).device
        refs: list[str] = []
        hyps: dict[str, list[str]] = {}
        with closing(prefetch(dev_data.batches(0))) as batches:
            for batch in batches:
                refs += [tokenizer.decode(ids) for ids in _unpad(batch.tokens, batch.token_lens)]
                for name, found in model.recognize_with(batch.to(device)).items():
                    hyps.setdefault(name, []).extend(tokenizer.decode(ids) for ids in found)
        rates = {
            decoder: {"wer": wer(refs, texts).rate, "cer": cer(refs, texts).rate} for decoder, texts in hyps.items()
        }
        means = {unit: sum(rate[unit] for rate in rates.values()) / len(rates) for unit in ("wer", "cer")}
        if len(rates) == 1:
            return means
        return means | {f"{unit}_{name}": rate[unit] for name, rate in rates.items() for unit in rate}

    return evaluate


def _unpad(tokens: Tensor, token_lens: Tensor) -> list[list[int]]:
    return [row[:length] for row, length in zip(tokens.tolist(), token_lens.tolist(), strict=True)]


def _choose_weights(
    model: Trainable, paths: Sequence[Path], select: str, measure: Callable[[Trainable], dict[str, float]]
) -> str:
    """Leave in ``model`` the best of ``paths`` or the average of them all, whichever scores better; describe it."""
    candidates = {"the best checkpoint": paths[:1], f"the average of {len(paths)} checkpoints": paths}
    scores: dict[str, tuple[float, float]] = {}
    for name, members in candidates.items():
        load_state(model, average_checkpoints(members), source=name)
        metrics = measure(model)
        scores[name] = (metrics.get(select, math.inf), metrics["loss"])
        logger.info("%s: %s", name, " ".join(f"{key} {value:.4g}" for key, value in metrics.items()))
    chosen = min(scores, key=lambda name: scores[name])
    load_state(model, average_checkpoints(candidates[chosen]), source=chosen)
    return f"{chosen} by {select} ({scores[chosen][0]:.4g} on the development set)"


def _save_config(config: RunConfig, path: Path) -> None:
    text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    if path.exists() and path.read_text(encoding="utf-8") != text:
        logger.warning("%s: continuing this run with a configuration that differs from the one it was left with", path)
    write_text(path, text)


def _card(config: RunConfig, result: TrainResult, model: nn.Module, chosen: str) -> str:
    num_parameters = sum(p.numel() for p in model.parameters())
    return _front_matter(config) + (
        f"# {config_of(model).kind}, {num_parameters / 1e6:.1f} M parameters\n\n"
        f"Trained by speechnar for {result.step} updates ({result.epoch + 1} epochs begun) with seed "
        f"{config.train.seed} in {config.train.precision}.\n"
        f"Weights: {chosen}.\n"
    )


def _front_matter(config: RunConfig) -> str:
    """Return what a card must say of a model of parallel text: whoever loads it cannot see it otherwise."""
    if config.data.kind != "pairs":
        return ""
    source, target = config.data.source, config.data.target
    return f"---\nlanguage: [{source}, {target}]\ntasks: [mt]\nsource: {source}\ntarget: {target}\n---\n"

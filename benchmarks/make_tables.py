"""Fill the tables of the documents from result files, so that no number is typed by hand.

Text between ``<!-- table:NAME -->`` and ``<!-- /table -->`` is replaced in README.md, in docs/, and in README.md (the
model card) and RESULTS.md of the recipes; so is a number in a sentence, between ``<!-- number:NAME -->`` and
``<!-- /number -->``.
Sources: ``benchmarks/results/*.json``, and ``recipes/<corpus>/<task>/results/<model>/<set>.<task>[.<decoder>].json``,
which is what ``speechnar score --json`` prints. README.md, docs/, and cards of voices and of music, have the shipped
models only. An experiment repeats a training with several seeds:
``results/<experiment>/<model>[-seed<N>]/<set>.<task>.<decoder>.json`` fills the table of its name.
Synthetic speech has ``results/<model>/<set>.speech.json`` of `speechnar tts score` and ``<set>.edits.json`` of
`speechnar tts score-edits`, music and sound ``<set>.sound.json`` of `speechnar sound score`, speaker verifiers
``<set>.verification.json``, and text translation ``<set>.translation.jsonl`` of `speechnar mt score`; they
fill tables of these names.
"""

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

from speechnar.hub import ModelInfo, list_models
from speechnar.published import published_models
from speechnar.text.languages import name_of

ROOT = Path(__file__).parents[1]
TABLE = re.compile(r"(<!-- table:([\w-]+) -->\n).*?(<!-- /table -->)", re.DOTALL)
NUMBER = re.compile(r"(<!-- number:([\w-]+) -->).*?(<!-- /number -->)")
METRICS = ("WER", "CER", "BLEU", "chrF")
ALL = "all"
MACRO = "macro"
"""The mean over languages, each counting the same."""
SPEECH = "speech"
EDITS = "edits"
SOUND = "sound"
VERIFICATION = "verification"
TRANSLATION = "translation"
EDIT_KINDS = tuple((kind, place) for kind in ("insert", "replace", "delete") for place in ("start", "middle", "end"))
SEED = re.compile(r"-seed\d+$")
PRECISION, PEER, SCALING, FINETUNING, VOICE = "precision_", "peer_", "scaling", "finetuning_", "voice_finetuning_"
"""How results of `benchmarks.precision`, `peers`, `scaling`, `finetuning` and `voice_finetuning` are called."""
OWN_TABLES = (PRECISION, PEER, SCALING, FINETUNING, VOICE)
NOTHING = "Not measured yet.\n"


@dataclass(frozen=True)
class Score:
    """One line of one result file: the scores of a model on the utterances of one language, or of all."""

    recipe: str
    model: str
    test_set: str
    task: str
    decoder: str
    """Empty where the model has one."""
    lang: str
    values: Mapping[str, Any]
    lid: Mapping[str, Any] | None


def main() -> int:
    """Rewrite the documents; with --check only say which are out of date, by exit status 1."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    stale = [path for path in documents(ROOT) if update(path, ROOT, write=not check)]
    for path in stale:
        print(f"{path.relative_to(ROOT)}: {'tables are out of date' if check else 'tables updated'}")
    return 1 if check and stale else 0


def documents(root: Path) -> list[Path]:
    """Return the files that may hold tables."""
    pages = sorted(root.glob("docs/**/*.md"))
    recipes = (path for name in ("README.md", "RESULTS.md") for path in sorted(root.glob(f"recipes/*/*/{name}")))
    return [path for path in [root / "README.md", *pages, *recipes] if path.is_file()]


def update(path: Path, root: Path, *, write: bool) -> bool:
    """Return whether the tables of a document change; write it if asked to."""
    text = path.read_text(encoding="utf-8")
    is_recipe = path.is_relative_to(root / "recipes")
    recipe = path.parent.relative_to(root / "recipes").as_posix() if is_recipe else None
    shipped = [model for model in list_models() if model.source == "shipped"]

    def reports(task: str) -> list[tuple[str, str, dict[str, Any]]]:
        names = [model.name for model in shipped]
        found = read_reports(root, task, recipe)
        return [report for report in found if path.name == "RESULTS.md" or report[0] in names]

    filled = fill(
        text,
        {
            "models": lambda: models_table(shipped, read_scores(root)),
            "published": published_table,
            "systems": lambda: systems_table(root),
            "summary": lambda: summary_table([s for s in read_scores(root) if recipe in (None, s.recipe)]),
            "results": lambda: results_table([s for s in read_scores(root) if recipe in (None, s.recipe)]),
            SPEECH: lambda: speech_table(reports(SPEECH)),
            EDITS: lambda: edits_table(reports(EDITS)),
            SOUND: lambda: sound_table(reports(SOUND)),
            VERIFICATION: lambda: verification_table(read_reports(root, VERIFICATION, recipe)),
            TRANSLATION: lambda: translation_table(root, recipe),
            "install": partial(install_table, root / "benchmarks" / "results" / "install.json"),
            "benchmarks": partial(benchmarks_table, root / "benchmarks" / "results"),
            "precision": partial(precision_table, root / "benchmarks" / "results"),
            "peers": partial(peers_table, root / "benchmarks" / "results"),
            "finetuning": partial(finetuning_table, root / "benchmarks" / "results"),
            "voice-finetuning": partial(voice_finetuning_table, root / "benchmarks" / "results"),
            "voices": partial(voices_table, root / "benchmarks" / "results" / "voices.json"),
            "ray": partial(ray_table, root / "benchmarks" / "results" / "scaling_ray.json"),
            "checkpoints": partial(checkpoints_table, root / "benchmarks" / "results" / "scaling_recipes.json"),
            **{
                folder.name: partial(experiment_table, read_scores(root, folder))
                for folder in sorted(path.parent.glob("results/*"))
                if any(folder.glob("*/*.json"))
            },
        },
    )
    filled = fill(filled, {"cassnat-speedup": lambda: cassnat_speedup(root / "benchmarks" / "results")}, NUMBER)
    if write and filled != text:
        path.write_text(filled, encoding="utf-8")
    return filled != text


def fill(text: str, tables: Mapping[str, Callable[[], str]], marked: re.Pattern[str] = TABLE) -> str:
    """Return ``text`` with every marked table, or number, made anew.

    Raises:
        SystemExit: a marker names no table.
    """

    def table(match: re.Match[str]) -> str:
        if match[2] not in tables:
            raise SystemExit(f"no table is called {match[2]}; there are {', '.join(tables)}")
        return match[1] + tables[match[2]]() + match[3]

    return marked.sub(table, text)


def read_scores(root: Path, experiment: Path | None = None) -> list[Score]:
    """Return every line of every result file of the recipes' models, or of an experiment's, sorted by path."""
    scores = []
    for path in sorted(
        root.glob("recipes/*/*/results/*/*.json") if experiment is None else experiment.glob("*/*.json")
    ):
        test_set, task, decoder = [*path.stem.split("."), ""][:3]
        if task in (SPEECH, EDITS, SOUND, VERIFICATION):
            continue
        report = json.loads(path.read_text(encoding="utf-8"))
        recipe = path.parents[2 if experiment is None else 3].relative_to(root / "recipes").as_posix()
        place = (recipe, path.parent.name, test_set, task, decoder)
        scores += [Score(*place, lang, values, report.get("lid")) for lang, values in report["languages"].items()]
        if report.get("macro"):
            rates = {unit: {"rate": rate} for unit, rate in report["macro"].items()}
            scores.append(Score(*place, MACRO, rates, None))
    return scores


def systems_table(root: Path) -> str:
    """Return a line for each system: the paper, the file, the recipe, and one number of what was trained here."""
    joint = [s for s in read_scores(root) if (s.model, s.test_set) == ("joint-asr", "an4")]
    heard = json.loads((root / "benchmarks/results/voices.json").read_text(encoding="utf-8"))["a"]["systems"]["steps1"]
    edits = next(report for model, _, report in read_reports(root, EDITS, "ljspeech/tts") if model == "ljspeech-tts")
    num_heard = sum(count["heard"] for count in edits["counts"])
    lines = (root / "recipes/multi30k/mt/results/multi30k-eng-deu/test.translation.jsonl").read_text(encoding="utf-8")
    translated = {report["system"]: report for report in map(json.loads, lines.splitlines())}
    music = json.loads((root / "benchmarks/results/generating.json").read_text(encoding="utf-8"))["a"]["median_s"]

    def wer(decoder: str) -> str:
        (rate,) = [score.values["wer"]["rate"] for score in whole(joint) if score.decoder == decoder]
        return f"{100 * rate:.1f} % WER on AN4"

    def file_of(name: str) -> str:
        return f"[{name}](speechnar/models/{name})"

    def recipe_of(name: str) -> str:
        return f"[{name}](recipes/{name})"

    def bleu(system: str) -> str:
        report = translated[system]
        return f"{100 * report['bleu']:.1f} BLEU, {report['evaluations_per_update']:.1f} evaluations an update"

    rows = [
        ["OWSM-CTC", "Peng et al. 2024", file_of("asr/owsm_ctc.py"), recipe_of("joint/s2t"), wer("ctc")],
        ["CASS-NAT", "Fan et al. 2023", file_of("asr/cassnat.py"), recipe_of("joint/s2t"), wer("cassnat")],
        ["Paraformer", "Gao et al. 2022", file_of("asr/paraformer.py"), recipe_of("joint/s2t"), wer("paraformer")],
        [
            "FReTNA in one pass",
            "Han et al. 2020",
            file_of("mt/fretna_ctc.py"),
            recipe_of("multi30k/mt"),
            bleu("fretna_ctc"),
        ],
        ["ReTA, its teacher", "Arivazhagan et al. 2020", file_of("mt/reta.py"), recipe_of("multi30k/mt"), bleu("reta")],
        [
            "MAGNeT",
            "Ziv et al. 2024",
            file_of("sound/magnet.py"),
            recipe_of("opsound/music"),
            f"10 s of music in {music:.1f} s",
        ],
        [
            "ARDiT, speaking",
            "Liu et al. 2024",
            file_of("tts/ardit.py"),
            recipe_of("ljspeech/tts"),
            f"{100 * heard['cer']:.1f} % CER as heard",
        ],
        [
            "ARDiT, editing",
            "Liu et al. 2024",
            "[tts/editor.py](speechnar/tts/editor.py)",
            recipe_of("ljspeech/tts"),
            f"{num_heard} of {edits['edits']} edits heard as meant",
        ],
    ]
    return markdown(["system", "paper", "file", "recipe", "here"], rows)


def cassnat_speedup(folder: Path) -> str:
    """Return how many times as long a greedy autoregressive decoder takes as CASS-NAT's, for 10 s on one encoder."""
    cases = dict(read_results(folder))["speed_decoders_paper_batch1"]["a"]["cases"]
    (times,) = [
        case["times_faster_decode"]["AR greedy"]
        for case in cases
        if (case["system"], case["seconds"]) == ("CASS-NAT best path", 10.0)
    ]
    return f"{times:.1f}"


SUMMARY = ("test set", "task", "decoder", "utterances", *METRICS, "mean CER of the languages", "language right")


def published_table() -> str:
    """Return the checkpoints on the hub that load by name, and under the table where their errors are from."""
    models = published_models()
    sources = list(dict.fromkeys(model.error_source for model in models if model.error_source))
    rows = [
        [
            f"`{model.name}`",
            model.recommended_for,
            model.size,
            " ".join(model.languages),
            model.license,
            f"{model.error} [{sources.index(model.error_source) + 1}]" if model.error else "",
            model.checked_with,
        ]
        for model in models
    ]
    header = ["name", "recommended for", "parameters", "languages", "licence", "published error", "run here with"]
    notes = [f"[{number}] {source}" for number, source in enumerate(sources, 1)]
    return markdown(header, rows) + "\n" + "<br>\n".join(notes) + "\n"


def models_table(models: Iterable[ModelInfo], scores: Sequence[Score]) -> str:
    """Return a line for every shipped model and result file of it: over all languages, and their mean.

    Voices, translators of text and makers of music have tables of their own.
    """
    rows = []
    for model in models:
        if {"tts", "mt", "generation"} & set(model.tasks):
            continue
        about = [model.name, f"{model.num_bytes / 1e6:.1f} MB", " ".join(model.languages), model.license]
        lines = summary([score for score in scores if score.model == model.name])
        rows += [[*about, f"{recipe} {line[0]}", *line[1:]] for recipe, line in lines]
        if not lines:
            rows.append([*about, "not measured yet", *[""] * (len(SUMMARY) - 1)])
    return markdown(["model", "size", "languages", "licence", *SUMMARY], rows)


def summary_table(scores: Sequence[Score]) -> str:
    """Return a line for every result file: over all languages, and their mean."""
    models = dict.fromkeys(score.model for score in scores)
    rows = [[model, *row] for model in models for _, row in summary([s for s in scores if s.model == model])]
    return markdown(["model", *SUMMARY], rows)


def summary(scores: Sequence[Score]) -> list[tuple[str, list[str]]]:
    """Return the recipe and the cells of each result file of one model."""
    rows = []
    for score in whole(scores):
        means = [numbers(other)[2] for other in scores if other.lang == MACRO and place(other) == place(score)]
        cells = [score.test_set, score.task, score.decoder, *numbers(score), *(means or [""]), language_right(score)]
        rows.append((score.recipe, cells))
    return rows


def results_table(scores: Iterable[Score]) -> str:
    """Return a line for every language of every result file."""
    header = ["model", "test set", "task", "decoder", "language", "utterances", *METRICS, "language right"]
    names = {ALL: ALL, MACRO: "mean of the languages", "und": "unknown"}
    rows = [
        [s.model, s.test_set, s.task, s.decoder, names.get(s.lang) or name_of(s.lang), *numbers(s), language_right(s)]
        for s in scores
    ]
    return markdown(header, rows)


def experiment_table(scores: Sequence[Score]) -> str:
    """Return a line for every model, test set and decoder: the word error rates of all seeds, and the means."""
    groups: dict[tuple[str, ...], list[Score]] = {}
    for score in whole(scores):
        name = SEED.sub("", score.model)
        groups.setdefault((name, score.test_set, score.task, score.decoder), []).append(score)
    rows = []
    for key, same in sorted(groups.items(), key=lambda item: item[0][1:]):
        wers, cers = ([100 * float(s.values[unit]["rate"]) for s in same] for unit in ("wer", "cer"))
        of_seeds = ", ".join(f"{rate:.2f}" for rate in wers)
        rows.append([*key, of_seeds, f"{mean(wers):.2f} %", f"{mean(cers):.2f} %"])
    return markdown(["model", "set", "task", "decoder", "WER of each seed, %", "mean WER", "mean CER"], rows)


def read_reports(root: Path, task: str, recipe: str | None) -> list[tuple[str, str, dict[str, Any]]]:
    """Return model, test set and content of every ``<set>.<task>.json`` of a recipe, or of all, sorted by path."""
    paths = sorted(root.glob(f"recipes/{recipe or '*/*'}/results/*/*.{task}.json"))
    return [(path.parent.name, path.name.split(".")[0], json.loads(path.read_text(encoding="utf-8"))) for path in paths]


def speech_table(reports: Iterable[tuple[str, str, dict[str, Any]]]) -> str:
    """Return a line for every system that spoke a test set, with 95 % intervals of what is said of the judge."""
    columns = {
        "cosine with the voice": ("similarity", "{:.2f}"),
        "MCD, dB": ("mcd_db", "{:.1f}"),
        "F0 RMSE, cents": ("pitch_rmse_cents", "{:.0f}"),
        "F0 correlation": ("pitch_correlation", "{:.2f}"),
        "voicing error": ("voicing_error", "{:.3f}"),
        "seconds over the recording's": ("duration", "{:.2f}"),
    }
    rows = []
    for model, test_set, report in reports:
        for name, scores in report["systems"].items():
            heard = [interval(scores[key]["rate"], scores[key]["interval"]) for key in ("wer", "cer")]
            heard.append(interval(scores["right"]["value"], scores["right"]["interval"]))
            means = [form.format(scores[key]["value"]) if scores[key] else "" for key, form in columns.values()]
            rows.append([model, test_set, name, str(report["utterances"]), *heard, *means])
    header = ["model", "test set", "system", "utterances", "WER", "CER", "all right", *columns]
    return markdown(header, rows)


def edits_table(reports: Iterable[tuple[str, str, dict[str, Any]]]) -> str:
    """Return a line for every list of edits: how many were heard as meant, of how many, by kind and place."""
    header = ["model", "set", *(f"{kind} at the {place}" for kind, place in EDIT_KINDS)]
    header += ["WER of the whole recordings", "all else bit-identical", "largest click"]
    rows = []
    for model, test_set, report in reports:
        counts = {(part["kind"], part["place"]): part for part in report["counts"]}
        heard = [f"{counts[key]['heard']} of {counts[key]['edits']}" if key in counts else "" for key in EDIT_KINDS]
        whole = interval(report["wer"]["rate"], report["wer"]["interval"])
        kept = f"{report['untouched']} of {report['edits']}"
        rows.append([model, test_set, *heard, whole, kept, f"{report['largest_click']:.2f}"])
    return markdown(header, rows)


def sound_table(reports: Iterable[tuple[str, str, dict[str, Any]]]) -> str:
    """Return a line for every system that made sound of a test set's texts, with 95 % intervals of shares."""
    header = ["model", "test set", "system", "utterances", "right", "probability of the prompt", "kernel distance"]
    header += ["Frechet distance", "codes as in the nearest training passage", "longest run there, frames"]
    header += ["joins that stand out"]
    rows = []

    def share(scores: Mapping[str, Any] | None, key: str) -> str:
        return "" if scores is None else interval(scores[key]["value"], scores[key]["interval"])

    for model, test_set, report in reports:
        for name, scores in report["systems"].items():
            kernel, repeated = scores["kernel"], scores["repeated"]
            distances = [f"{kernel['value']:.3g} ± {kernel['deviation']:.2g}", f"{scores['frechet']:.3g}"]
            longest = "" if repeated is None else f"{repeated['longest_frames']['value']:.1f}"
            judged = [share(scores, "right"), share(scores, "probability")]
            made = [share(repeated, "nearest"), longest, share(scores["joined"], "outliers")]
            rows.append([model, test_set, name, str(report["utterances"]), *judged, *distances, *made])
    return markdown(header, rows)


def verification_table(reports: Iterable[tuple[str, str, dict[str, Any]]]) -> str:
    """Return a line for every set of trials."""
    header = ["model", "set", "speakers", "utterances", "pairs of the same", "of different speakers", "EER"]
    header += ["cosine of the same: 5 %, median, 95 %", "of different: 5 %, median, 95 %"]
    rows = []
    for model, test_set, report in reports:
        eer = report["eer"]
        counts = [report["speakers"], report["utterances"], eer["num_same"], eer["num_different"]]
        quantiles = report["cosine_quantiles"]
        ranges = [", ".join(f"{value:.2f}" for value in quantiles[kind].values()) for kind in ("same", "different")]
        rows.append([model, test_set, *map(str, counts), f"{100 * eer['rate']:.1f} %", *ranges])
    return markdown(header, rows)


def translation_table(root: Path, recipe: str | None) -> str:
    """Return a line for every system that translated a test set, from the best translations to the worst.

    Of all recipes, only for those without options.
    """
    columns = {
        "BLEU": ("bleu", 100, "{:.1f}"),
        "chrF": ("chrf", 100, "{:.1f}"),
        "normalized erasure": ("erasure", 1, "{:.2f}"),
        "LAAL, words": ("laal", 1, "{:.1f}"),
        "update p50, ms": ("update_p50_s", 1000, "{:.1f}"),
        "p95, ms": ("update_p95_s", 1000, "{:.1f}"),
        "evaluations of an update": ("evaluations_per_update", 1, "{:.1f}"),
    }
    rows = []
    for path in sorted(root.glob(f"recipes/{recipe or '*/*'}/results/*/*.{TRANSLATION}.jsonl")):
        reports = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        for report in sorted(reports, key=lambda report: (-report["sentences"], -report["bleu"])):
            if recipe is None and report["options"]:
                continue
            found = [(report.get(key), scale, form) for key, scale, form in columns.values()]
            cells = ["" if value is None else form.format(scale * value) for value, scale, form in found]
            rows.append([path.parent.name, path.name.split(".")[0], report["system"], str(report["sentences"]), *cells])
    return markdown(["models", "test set", "system", "sentences", *columns], rows)


def interval(rate: float, bounds: Sequence[float] | None) -> str:
    """Return a rate in percent, with its interval if it has one."""
    shown = f"{100 * rate:.1f} %"
    return shown if bounds is None else f"{shown} [{100 * bounds[0]:.1f}, {100 * bounds[1]:.1f}]"


def benchmarks_table(folder: Path) -> str:
    """Return a line for every result of a benchmark but those that have a table of their own."""
    results = [result for name, result in read_results(folder) if not name.startswith(OWN_TABLES)]
    header = ["what", "result", "runs", "threads", "load before", "note"]
    rows = [
        [r["what"], r.get("result") or sides(r), str(r["runs"]), str(r["threads"]), str(r["load_before"]), r["note"]]
        for r in results
    ]
    return markdown(header, rows)


def precision_table(folder: Path) -> str:
    """Return a line for each test set of each model and precision: its errors beside those of float32."""
    rows = []
    for name, result in read_results(folder):
        if not name.startswith(PRECISION):
            continue
        ours, exact = result["a"], result["b"]
        for test_set, row in ours["sets"].items():
            rate = exact["sets"][test_set]["rate"]
            change = f"{100 * row['difference']:+.2f} ± {100 * row['interval']:.2f}"
            faster = exact["sets"][test_set]["cpu_s"] / row["cpu_s"] if row["cpu_s"] else 0.0
            cells = [f"{row['utterances']}", row["unit"], f"{100 * rate:.2f} %", f"{100 * row['rate']:.2f} %", change]
            rows.append([result["what"], test_set, *cells, f"{faster:.2f}"])
    header = ["what", "test set", "utterances", "unit", "fp32", "error rate", "difference, 95 % interval"]
    return markdown([*header, "times as fast"], rows)


def peers_table(folder: Path) -> str:
    """Return a line for each case and precision measured beside another implementation on the same weights."""
    rows = []
    for name, result in read_results(folder):
        if name.startswith(PEER):
            ours, theirs = result["a"], result["b"]
            sides = [f"{side['median_s']:.3f} s, {side['peak_bytes'] / 2**20:,.0f} MiB" for side in (ours, theirs)]
            load = f"{result['load_before']}"
            rows.append([name.removeprefix(PEER), *sides, f"{result['ratio']:.2f}", result["note"], load])
    return markdown(["case", "speechnar", "peer", "times ours", "agreement", "load before"], rows)


def finetuning_table(folder: Path) -> str:
    """Return a line for each way in which a recogniser was trained further."""
    rows = []
    for name, result in read_results(folder):
        if name.startswith(FINETUNING):
            for run in result["runs"]:
                rates = [
                    f"{100 * run[f'{unit}_{when}']:.1f} %" for unit in ("wer", "cer") for when in ("before", "after")
                ]
                cost = [f"{run['minutes']:.1f}", f"{run['peak_mib']:,}"]
                kept = f"{result['kept_utterances']} ({result['kept_minutes']:.1f} min)"
                learnt = [name.removeprefix(FINETUNING), run["trained"], f"{result['learnt_minutes']:.1f}"]
                rows.append([*learnt, str(run["updates"]), kept, *rates, *cost, str(result["threads"])])
    header = ["data", "trained", "minutes learnt from", "updates", "utterances kept back", "WER before", "after",
              "CER before", "after", "minutes of training", "MiB", "threads"]  # fmt: skip
    return markdown(header, rows)


def voice_finetuning_table(folder: Path) -> str:
    """Return a line for each system of each voice that was trained further."""
    rows = []
    for name, result in read_results(folder):
        if name.startswith(VOICE):
            for system, found in result["systems"].items():
                distance = f"{found['mcd_db']:.1f}" if "mcd_db" in found else ""
                rates = [f"{100 * found[unit]:.1f} %" for unit in ("wer", "cer")]
                cost = [f"{result['minutes']:.1f}", f"{result['peak_mib']:,}"] if system == "after" else ["", ""]
                rows.append([name.removeprefix(VOICE), system, str(result["texts"]), *rates, distance, *cost])
    header = ["speaker", "system", "texts", "WER", "CER", "MCD from her recordings, dB", "minutes of training", "MiB"]
    return markdown(header, rows)


def voices_table(path: Path) -> str:
    """Return a line for each system that spoke, or passed on, the same sentences (`benchmarks.voices`)."""
    result = json.loads(path.read_text(encoding="utf-8"))
    rows = []
    for system, found in result["a"]["systems"].items():
        heard = [f"{100 * found['wer']:.1f} %", f"{100 * found['cer']:.1f} %", f"{found['right']}"]
        alike = f"{found['similarity']:.2f}" if "similarity" in found else ""
        speed = [f"{1000 * found['median_s']:.0f}", f"{found['rtf']:.3f}"] if found["rtf"] else ["", ""]
        rows.append([system, str(result["runs"]), *heard, f"{found['dnsmos']:.2f}", alike, *speed])
    header = ["system", "sentences", "WER", "CER", "all right", "DNSMOS", "similarity"]
    return markdown([*header, "first sound, ms", "real-time factor"], rows)


def ray_table(path: Path) -> str:
    """Return a line for each way in which the same corpus was decoded on one machine."""
    if not path.is_file():
        return NOTHING
    result = json.loads(path.read_text(encoding="utf-8"))
    rows = [
        [
            run["way"],
            str(run["workers"]),
            *(f"{run[name]:.1f}" for name in ("wall_s", "mean_unit_s", "lost_s_a_worker")),
            f"{100 * run['efficiency']:.0f} %",
        ]
        for run in result["runs"]
    ]
    return markdown(["way", "workers", "seconds", "seconds of a unit", "seconds a worker idles", "at work"], rows)


def checkpoints_table(path: Path) -> str:
    """Return a line for each size of a model whose checkpoints were timed."""
    if not path.is_file():
        return NOTHING
    found = json.loads(path.read_text(encoding="utf-8"))["stages"]["checkpoints"]
    rows = []
    for row in found:
        copied = f"{row['copied_s']:.1f}" if "copied_s" in row else ""
        rows.append([f"{row['weights'] / 1e6:,.0f} M", f"{row['bytes'] / 1e9:.1f}", f"{row['written_s']:.1f}", copied])
    return markdown(["weights", "GB", "seconds to write", "seconds to copy"], rows)


def read_results(folder: Path) -> list[tuple[str, dict[str, Any]]]:
    """Return the name and the values of every result of a benchmark."""
    return [(path.stem, json.loads(path.read_text(encoding="utf-8"))) for path in sorted(folder.glob("*.json"))]


def install_table(path: Path) -> str:
    """Return a line for each build of torch and for each extra: what it takes on the disk."""
    if not path.is_file():
        return NOTHING
    result = json.loads(path.read_text(encoding="utf-8"))
    sides = result["a"], result["b"]
    rows = [
        [f"inference, with {side['label']}", f"{side['mb']:,}", f"{side['torch_mb']:,}", f"{side['num_packages']}"]
        for side in sides
    ]
    rows += [[f"`{extra}` adds", f"{size:,}", "", ""] for side in sides for extra, size in side["extras_mb"].items()]
    return markdown(["what", "MB", "of which torch and what it needs", "packages"], rows)


def whole(scores: Iterable[Score]) -> list[Score]:
    """Return the line over all languages of each result file, which is the only one where there is one language."""
    last: dict[tuple[str, ...], Score] = {}
    for score in scores:
        if score.lang != MACRO and (place(score) not in last or score.lang == ALL):
            last[place(score)] = score
    return list(last.values())


def place(score: Score) -> tuple[str, ...]:
    """Return what a result file is about."""
    return score.recipe, score.model, score.test_set, score.task, score.decoder


def numbers(score: Score) -> list[str]:
    """Return the number of utterances and the metrics, empty where a metric does not apply."""
    cells = [str(score.values.get("utterances", ""))]
    for metric in METRICS:
        value = score.values.get(metric.lower())
        if value is None:
            cells.append("")
        else:
            cells.append(f"{100 * value['rate']:.1f} %" if "rate" in value else f"{100 * value['value']:.1f}")
    return cells


def language_right(score: Score) -> str:
    """Return the accuracy of language identification, for recognition over all languages."""
    shown = score.lid is not None and score.task == "asr" and score.lang == ALL
    return f"{100 * score.lid['accuracy']:.1f} %" if shown and score.lid else ""


def sides(result: Mapping[str, Any]) -> str:
    """Return the two medians and their ratio."""
    a, b = result["a"], result["b"]
    return f"{a['label']} {a['median_s']:.3g} s, {b['label']} {b['median_s']:.3g} s (ratio {result['ratio']})"


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table without the columns that are empty throughout."""
    if not rows:
        return NOTHING
    used = [i for i in range(len(header)) if any(row[i] for row in rows)]
    lines = [[header[i] for i in used], ["---"] * len(used), *([row[i] for i in used] for row in rows)]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


if __name__ == "__main__":
    sys.exit(main())

"""Options that verbs share, and what they load."""

import argparse
from functools import partial
from pathlib import Path

import pytest
import torch

from speechnar.asr.options import DecodeOptions
from speechnar.cli.main import main
from speechnar.cli.options import (
    add_direction,
    add_loading,
    add_precision,
    add_searching,
    add_seed,
    add_systems,
    decode_options,
    load_transcriber,
    name_and_path,
    refuse,
    set_threads,
)
from speechnar.errors import ConfigError
from speechnar.hub import DEFAULT_MODEL


def parse(groups, *argv: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    for add in groups:
        add(parser)
    return parser.parse_args(argv)


def test_search_is_told_as_in_python():
    assert decode_options(parse([add_searching])) == DecodeOptions()
    argv = ["--decoder", "ctc", "--beam-size", "4", "--lm", "a.arpa", "--lm-weight", "0.2", "--batch-seconds", "60"]
    expected = DecodeOptions(
        decoder="ctc",
        beam_size=4,
        lm=Path("a.arpa"),
        lm_weight=0.2,
        batch_seconds=60.0,
        pad=True,
        hotwords=("dog",),
        vad=False,
    )
    assert decode_options(parse([add_searching], *argv, "--pad"), hotwords=("dog",), vad=False) == expected
    with pytest.raises(ConfigError, match="lm_weight has no effect without lm"):
        decode_options(parse([add_searching], "--lm-weight", "0.2"))


def test_options_that_do_not_go_together_are_named():
    groups = [add_searching, add_seed]
    refuse(parse(groups, "--seed", "3"), "a text", add_searching)
    with pytest.raises(ConfigError, match=r"^--beam-size, --batch-seconds cannot be used with a text; leave that out$"):
        refuse(parse(groups, "--beam-size", "4", "--batch-seconds", "9"), "a text", add_searching)
    with pytest.raises(ConfigError, match=r"^--pad, --seed cannot"):
        refuse(parse(groups, "--pad", "--seed", "1"), "a text", *groups)


def test_systems_have_names(capsys):
    assert parse([add_systems]).system == []
    argv = ["--system", "a=out/a", "--system", "b=x=y"]
    assert parse([add_systems], *argv).system == [("a", Path("out/a")), ("b", Path("x=y"))]
    for text in ("a", "=out", "a="):
        with pytest.raises(argparse.ArgumentTypeError, match=f"must look like NAME=PATH, got '{text}'"):
            name_and_path(text)
        with pytest.raises(SystemExit):
            parse([add_systems], "--system", text)


def test_a_translation_has_two_languages(capsys):
    args = parse([add_direction], "--source", "eng", "--target", "deu")
    assert (args.source, args.target) == ("eng", "deu")
    with pytest.raises(SystemExit):
        parse([add_direction], "--source", "eng")
    assert "--target" in capsys.readouterr().err


def test_the_model_and_its_device_are_chosen(recognizer):
    assert parse([add_loading]).model == DEFAULT_MODEL
    args = parse([add_loading], "-m", recognizer, "-d", "cpu")
    assert load_transcriber(args, args.model).name == "tiny"
    args = parse([add_loading], "-d", "nonsense")
    with pytest.raises(ConfigError, match="nonsense"):
        load_transcriber(args, recognizer)


def test_the_precision_is_chosen(recognizer, capsys):
    assert parse([add_loading]).precision == "auto"
    assert parse([partial(add_precision, default="fp32")]).precision == "fp32"
    args = parse([add_loading], "--precision", "fp32", "-d", "cpu")
    assert load_transcriber(args, recognizer)._loaded.precision == "fp32"
    with pytest.raises(SystemExit):
        parse([add_loading], "--precision", "fp16")
    assert "invalid choice: 'fp16'" in capsys.readouterr().err


@pytest.mark.usefixtures("loaded_once")
def test_threads(recognizer, wav, monkeypatch):
    calls = []
    monkeypatch.setattr(torch, "set_num_threads", calls.append)
    assert main(["transcribe", wav, "-m", recognizer, "--threads", "1"]) == 0
    set_threads(None)
    assert calls == [1]
    with pytest.raises(ConfigError, match="--threads must be at least 1, got 0"):
        set_threads(0)

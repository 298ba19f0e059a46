"""Every verb explains itself at once, and so does the command."""

import subprocess
import sys
from pathlib import Path

import pytest

from speechnar.cli import main as cli
from speechnar.cli.options import Verb

ROOT = Path(cli.__file__).parents[2]
VERBS = {(name,): verb for name, verb in cli.VERBS.items()}
VERBS |= {(group, name): verb for group, (_, members) in cli.GROUPS.items() for name, verb in members.items()}
COMMANDS = [(), *((group,) for group in cli.GROUPS), *VERBS]

# Prints the least processor time of seven runs of two commands: of Python with what the command line imports of others,
# and of the help. Processor time, since the machine may be busy.
TIMED = """
import resource, subprocess, sys

def cpu_s(*argv):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *argv], check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime

print(min(cpu_s("-c", "import argparse, dataclasses, json, logging, yaml") for _ in range(7)))
print(min(cpu_s("-m", "speechnar", *sys.argv[1:]) for _ in range(7)))
"""


def test_every_room_has_its_verbs():
    assert len(VERBS) > 30
    assert all(isinstance(verb, Verb) and verb.help for verb in VERBS.values())


def test_help_of_every_verb_needs_neither_torch_nor_numpy():
    """In one process: whatever the help of any verb imports is there in the end."""
    code = f"""
import contextlib, io, sys
from speechnar.cli.main import main
for command in {COMMANDS!r}:
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert main([*command, "--help"]) == 0, command
    assert out.getvalue().startswith(" ".join(["usage: speechnar", *command])), command
assert not {{"torch", "numpy", "pydantic", "rich"}} & sys.modules.keys()
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert (found.returncode, found.stderr) == (0, "")


@pytest.mark.parametrize("command", [(), ("transcribe",), ("tts", "score")])
def test_help_is_quick(command):
    """As a ratio to the start of Python with what it needs of others, so that a slow machine does not matter."""
    argv = [sys.executable, "-c", TIMED, *command, "--help"]
    found = subprocess.run(argv, capture_output=True, text=True, cwd=ROOT, check=True)
    python, ours = map(float, found.stdout.split())
    assert ours < 2.5 * python


def test_a_group_wants_a_verb(capsys):
    for argv in (["data"], ["data", "sing"], ["tts", "score", "--no-such-option"]):
        assert cli.main(argv) == 2
    assert capsys.readouterr().out == ""

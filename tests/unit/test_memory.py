import subprocess
import sys

import pytest

FAULTS = """
import resource, sys, torch
from speechnar.memory import keep_memory
from speechnar.models.prepare import prepare
kept = {
    "nobody": lambda: False,
    "training": keep_memory,
    "a prepared model": lambda: prepare(torch.nn.Sequential(torch.nn.Linear(64, 64)).eval(), "fp32") and keep_memory(0),
    "less, later": lambda: keep_memory() and keep_memory(0),
}[sys.argv[1]]()
for _ in range(8):  # at first, small pieces come to lie between the large ones
    torch.empty(1 << 24).fill_(1.0)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    torch.empty(1 << 24).fill_(1.0)
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(asks: str) -> tuple[str, int]:
    """Return whether memory is kept, and the pages that filling 64 MiB four more times asks the kernel for."""
    done = subprocess.run([sys.executable, "-c", FAULTS, asks], check=True, capture_output=True, text=True)
    kept, count = done.stdout.split()
    return kept, int(count)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="asks glibc")
@pytest.mark.parametrize("asks", ["training", "a prepared model", "less, later"])
def test_memory_that_is_kept_is_not_asked_for_again(asks):
    kept, few = faults(asks)
    if kept != "True":
        pytest.skip("another C library than glibc")
    _, many = faults("nobody")
    assert many > 4 * 10_000
    assert few < many / 10

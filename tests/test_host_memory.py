"""What is freed is kept: memory that is used again is not asked of the system again."""

import os
import subprocess
import sys

from ldm_jax import host_memory

COUNTED = """
import resource, sys
import numpy as np
from ldm_jax import host_memory
kept = host_memory.keep_freed() if sys.argv[1] == "keep" else None
def use():
    held = [np.ones(3 << 20, np.uint8) for _ in range(24)]
for _ in range(3):
    use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    use()
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def counted(how, **environment):
    """(what keep_freed says, page faults of ten times 72 MB)."""
    plain = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_TUNABLES"))}
    ran = subprocess.run(
        [sys.executable, "-c", COUNTED, how],
        capture_output=True,
        text=True,
        check=True,
        env=plain | environment,
    )
    kept, faults = ran.stdout.split()
    return kept, int(faults)


def test_memory_that_is_used_again_is_not_asked_for_again():
    _, plain = counted("leave")
    kept, faults = counted("keep")
    assert kept == "True" and plain > 10_000 and faults < plain / 100


def test_what_a_user_has_set_stays():
    assert counted("keep", MALLOC_TRIM_THRESHOLD_="131072")[0] == "False"
    assert counted("keep", GLIBC_TUNABLES="glibc.malloc.check=0")[0] == "False"


def test_other_systems_are_left_alone(monkeypatch):
    monkeypatch.setattr(sys, "platform", "win32")
    assert host_memory.keep_freed() is False

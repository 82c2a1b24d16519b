"""The table of what samplers lose where the network is exactly right."""

from benchmarks import sampler_exact


def test_deterministic_samplers_come_first():
    values = [0.5, 0.25, 0.1, 0.001]
    found = {(name, spacing): values for name in ("ddpm", "heun") for spacing in sampler_exact.SPACINGS}
    rows = sampler_exact.table(found).splitlines()
    assert rows[2].startswith("| `heun` | 39 | 50.0% | 25.0% | 10.0% | 0.1% | 50.0%")
    assert rows[3].startswith("| `ddpm`, variance | 20 | 50.0%")

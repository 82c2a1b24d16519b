"""What a type checker, and so an editor, sees of `import ldm_jax`: run by mypy, never imported.

Each ignored line is wrong on purpose. Where mypy does not see that it is, as where a signature is lost, the ignoring is
an error.
"""

import ldm_jax

model: ldm_jax.LatentDiffusion = ldm_jax.load("shapes")
ldm_jax.load(name="shapes", executables="programs")
ldm_jax.load(1.5)  # type: ignore[arg-type]
ldm_jax.laod("shapes")  # type: ignore[attr-defined]
ldm_jax.LatentDiffusion()  # type: ignore[call-arg]
model.smaple()  # type: ignore[attr-defined]
model.decode([], tiles=1)  # type: ignore[call-arg]
model.sample("a red circle", num_steps=10)
model.sample("a red circle", num_steps="ten")  # type: ignore[arg-type]

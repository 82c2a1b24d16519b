#!/usr/bin/env bash
# jax and jaxlib 0.10.2 on a CPU: of two options that choose the order of a program's instructions, compiler_options heeds one.
#
# xla_cpu_enable_concurrency_optimized_scheduler=false, which trades concurrency for memory, counts in XLA_FLAGS alone. As a compiler
# option of jax.jit, or of Lowered.compile, it is accepted, as true and as false, and changes nothing; an unknown name is refused. What
# chooses the order for one program is xla_cpu_scheduler_type.
#
# Seen: eight products of 512 x 1024 that do not need each other: 17.8 MB of temporaries by default and with the first option as a compiler
# option, 9.4 MB with it in XLA_FLAGS, and with xla_cpu_scheduler_type=CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED as a compiler option.
# Exits non-zero if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet "jax==0.10.2" "jaxlib==0.10.2" "numpy==2.4.6"
cat > "$folder/count.py" <<'PYTHON'
import jax
import jax.numpy as jnp

FIRST = "xla_cpu_enable_concurrency_optimized_scheduler"


def fn(x, kernels):
    return sum(jnp.sin(jnp.tanh(x @ kernel) @ kernel.T) for kernel in kernels)


def temporaries(**options):
    shapes = jax.ShapeDtypeStruct((512, 512), jnp.float32), [jax.ShapeDtypeStruct((512, 1024), jnp.float32)] * 8
    return jax.jit(fn, compiler_options=options or None).lower(*shapes).compile().memory_analysis().temp_size_in_bytes


try:
    temporaries(xla_no_such_option=True)
    raise SystemExit("an unknown option was accepted")
except jax.errors.JaxRuntimeError:
    pass
least = temporaries(xla_cpu_scheduler_type="CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED")
print(temporaries(), temporaries(**{FIRST: False}), temporaries(**{FIRST: True}), least)
PYTHON
export JAX_PLATFORMS=cpu
read -r plain off on least < <("$folder/venv/bin/python" "$folder/count.py")
read -r by_flag _ < <(XLA_FLAGS=--xla_cpu_enable_concurrency_optimized_scheduler=false "$folder/venv/bin/python" "$folder/count.py")
echo "default $plain, as a compiler option false $off and true $on, in XLA_FLAGS false $by_flag, scheduler type $least"
test "$plain" = "$off" && test "$plain" = "$on" && test "$by_flag" = "$least" && test "$plain" -gt $((least * 3 / 2))

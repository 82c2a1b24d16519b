"""What the commands share: one plain sentence instead of a traceback, and a compilation cache that outlives the
process."""

import argparse
import itertools
import logging
import operator
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from absl import logging as absl_logging

from ldm_jax import host_memory, private
from ldm_jax.text_files import parse_json, shown
from ldm_jax.types import MAX_SEED

log = logging.getLogger(__name__)

LEFT_ALONE = (
    "compiling "  # how the names of threads begin that nobody waits for once their process is told to stop
)
GRACE = 5.0  # seconds that a process has to end in, once it has said its error


def use_compilation_cache() -> None:
    """Keeps compiled programs in $JAX_COMPILATION_CACHE_DIR, by default ~/.cache/ldm_jax/jax; a second start is
    fast."""
    import jax

    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        folder = _cache()
        if folder is None:
            return
        try:
            private.make_folder(folder / "jax")
        except OSError as error:
            log.warning("compiled programs are not kept: %s", error)
            return
        jax.config.update("jax_compilation_cache_dir", str(folder / "jax"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def executables() -> Path | None:
    """The folder of xla/executables.py, inside of $JAX_COMPILATION_CACHE_DIR where that is one of this machine's; else
    beside the default. None: nowhere."""
    chosen = os.environ.get("JAX_COMPILATION_CACHE_DIR", "")
    folder = Path(chosen) if chosen and "://" not in chosen else _cache()
    return folder and folder / "executables"


def _cache() -> Path | None:
    """None for a user whose home is not known, as in a container that is run with another --user than its image has."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ldm_jax"
    except RuntimeError:
        return None


def on_disk(text: str) -> str:
    """The `type` of an argument for a folder or file that is written on this machine's disk alone.

    Raises: argparse.ArgumentTypeError for one in a bucket, of which a local folder `gs:` would be made.
    """
    if "://" in text:
        raise argparse.ArgumentTypeError(f"{text} is in a bucket, expected a path on this machine's disk")
    return text


def add_checkpoint_arguments(add: Callable) -> None:
    """The flags that say what a checkpoint does not say of itself; add: an ArgumentParser's add_argument.

    They are the fields of checkpoints.base.Options, but for --raw, which is `ema` turned round.
    """
    add("--raw", action="store_true", help="the raw weights, not their running averages")
    add("--config", help="a config of ours (a name, .py or .json), for what shapes do not tell")
    add("--original_config", help="the original's YAML, for the same; one beside the file is found by itself")
    add(
        "--tokenizer",
        help="vocabulary file (tokenizer.json, vocab.json with merges.txt, vocab.txt) or its folder",
    )
    add("--first_stage", help="a checkpoint to take the first stage from")
    add(
        "--prediction_type",
        choices=("eps", "v", "x_start"),
        help="what the network predicts, if nothing says",
    )
    add("--variant", help="of a diffusers folder's files, such as fp16")
    add(
        "--ignore_objects",
        action="store_true",
        help="pass over other classes in a pickle; none of them is run",
    )
    add(
        "--null_class",
        action="store_true",
        help="the last row of the table of classes stands for no class, which guidance leads away from",
    )
    add(
        "--clip_skip",
        type=int,
        help="the layer of CLIP's text encoder that is read, from its last, which is 1 (as AUTOMATIC1111 counts)",
    )


def json_object(flag: str, text: str, form: str = "{option: value}") -> dict[str, Any]:
    """The JSON object that a flag was given. form: what it is to hold, for the message.

    Raises: ValueError for what is no JSON, and for JSON of something else.
    """
    try:
        found = parse_json(text)
    except ValueError as error:
        raise ValueError(f"{flag} is {error}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{flag} is {shown(found)}, expected {form}")
    return found


class Seeds(Sequence):
    """Whole numbers of some ranges, one after the other: as many as there are, they take no memory."""

    def __init__(self, ranges: Iterable[range]):
        self.ranges = tuple(ranges)

    def __len__(self) -> int:
        return sum(map(len, self.ranges))

    def __iter__(self) -> Iterator[int]:
        return itertools.chain.from_iterable(self.ranges)

    def __getitem__(self, index: int) -> int:  # type: ignore[override]  # no slices
        at = operator.index(index)
        at += len(self) if at < 0 else 0
        for part in self.ranges:
            if 0 <= at < len(part):
                return part[at]
            at -= len(part)
        raise IndexError(f"seed {index} of {len(self)}")


def parse_seeds(text: str) -> Seeds:
    """'0-7' or '3' or '1,5,9-12' -> the seeds. Raises: ValueError for anything else."""
    ranges = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not all(number.isascii() and number.isdecimal() for number in (first, last if dash else "0")):
            raise ValueError(f"--seeds {shown(text)}: expected numbers and ranges, such as 0-7 or 1,5,9-12")
        if max(len(first), len(last)) > len(str(MAX_SEED)) or max(int(first), int(last or 0)) > MAX_SEED:
            raise ValueError(f"--seeds {shown(text)}: expected numbers from 0 to {MAX_SEED}")
        if dash and int(last) < int(first):
            raise ValueError(f"--seeds {shown(text)}: the range {part.strip()!r} runs backwards")
        ranges.append(range(int(first), int(last or first) + 1))
    return Seeds(ranges)


def set_up_logging() -> None:
    """This package's progress and everybody's warnings, a line each, on standard error; not orbax's every move."""
    logging.basicConfig(
        level=logging.WARNING, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", force=True
    )
    for name in ("train", "ldm_jax"):
        logging.getLogger(name).setLevel(logging.INFO)
    absl_logging.set_verbosity(absl_logging.WARNING)
    absl_logging.get_absl_handler().setFormatter(
        logging.Formatter("%(asctime)s %(message)s", datefmt="%H:%M:%S")
    )
    absl_logging.get_absl_logger().addFilter(_is_news)
    for handler in (*logging.getLogger().handlers, absl_logging.get_absl_handler()):
        handler.addFilter(_after_the_bar)


def _is_news(record: logging.LogRecord) -> bool:
    """Not the tracebacks, four of them for one save that fails, that orbax logs from its threads before the error is
    raised where it becomes a sentence."""
    from_orbax = f"{os.sep}orbax{os.sep}" in record.pathname
    return bool(os.environ.get("LDM_JAX_TRACEBACK")) or not (record.exc_info and from_orbax)


_bars = {"open": False}  # whether the line that standard error ends with is a bar of `progress`


def end_the_bar() -> None:
    """What is printed next begins on a line of its own."""
    if _bars["open"]:
        _bars["open"] = False
        print(file=sys.stderr, flush=True)


def _after_the_bar(record: logging.LogRecord) -> bool:
    """A line of the log begins on a line of its own; the bar is drawn anew below."""
    end_the_bar()
    return True


def show_warnings_only() -> None:
    """No progress any more: what the other processes of a run do, beside the one that reports it."""
    for name in ("train", "ldm_jax"):
        logging.getLogger(name).setLevel(logging.WARNING)


def progress(label: str, total: int, before: int = 0) -> Callable[..., None]:
    """Returns report(done, note=""): tqdm's bar on standard error, which begins with the first report. before: done
    already. note: at the line's end."""
    from tqdm import tqdm

    tqdm.monitor_interval = 0  # no thread that draws a bar between reports
    shown = "[{bar:30}] {desc}: {n_fmt}/{total_fmt}, {remaining} left{postfix}"
    told = dict(total=total, initial=before, desc=label, bar_format=shown, ascii=".#", dynamic_ncols=True)
    bar: tqdm | None = None

    def report(done: int, note: str = "") -> None:
        nonlocal bar
        if bar is None:
            bar = tqdm(**told)
        bar.n, bar.postfix = done, note
        bar.refresh()
        _bars["open"] = done < total
        if done >= total:
            bar.close()

    return report


def run(main: Callable, *args) -> None:
    """main(*args); an error is printed as one sentence, exit code 1. LDM_JAX_TRACEBACK=1 shows where it came from."""
    try:
        main(*args)
    except KeyboardInterrupt as error:
        end_the_bar()
        sys.exit(str(error) or "interrupted")
    except Exception as error:
        end_the_bar()
        if os.environ.get("LDM_JAX_TRACEBACK"):
            raise
        # What ml_collections says of an error in a config file ends with that error's own line.
        lines = [line for line in str(error).splitlines() if line.strip()]
        said = lines[-1] if lines and "Traceback" in str(error) else " ".join(str(error).split())
        kind = (
            ""
            if isinstance(error, ValueError | OSError | RuntimeError) and said
            else f"{type(error).__name__}: "
        )
        sys.exit(f"error: {kind}{said}")


def console(main: Callable) -> None:
    """What every console command does around its main(): memory that is kept, logging, the compilation cache, errors
    in one sentence."""
    host_memory.keep_freed()
    set_up_logging()
    use_compilation_cache()
    try:
        run(main)
    except SystemExit as left:
        if isinstance(left.code, str):  # an error, which is the last that is said
            _leave(left.code)
        raise
    _leave_threads(0)


def _leave_threads(code: int) -> None:
    """Ends the process at once if a thread that nobody waits for is at work in C++ (xla/compiling.py)."""
    if any(thread.name.startswith(LEFT_ALONE) for thread in threading.enumerate()):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _leave(said: str) -> None:
    """Says it, and ends the process within GRACE, also where threads that nobody waits for any more hang, as those of a
    save on a disk that is gone. Several processes end each other (distributed/hosts.py)."""
    import jax

    print(said, file=sys.stderr, flush=True)
    _leave_threads(1)
    if not jax.distributed.is_initialized():
        ended = threading.Timer(GRACE, os._exit, (1,))
        ended.daemon = True
        ended.start()
    sys.exit(1)

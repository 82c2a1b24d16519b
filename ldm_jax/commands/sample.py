"""Draws pictures with a latent diffusion model:

    python sample.py --prompt "a small red circle above a large blue square" --seeds 0-7 --out samples
    python sample.py --checkpoint X --task inpaint --image photos --mask masks --out filled
    python sample.py --checkpoint X --jobs jobs.jsonl

writes samples/<seed>.png, or filled/<name of the input>.png, and grid.png, each with its settings as text chunks.
Inputs are files or folders of files; docs/tasks.md says what each task takes. `--checkpoint` takes a shipped model's
name, a bundle, a training workdir, a .ckpt or .safetensors file of the original's, or a diffusers folder.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from ldm_jax import cli, paths
from ldm_jax.cli import parse_seeds
from ldm_jax.commands import edit
from ldm_jax.diffusion.timesteps import SIGMA_SPACINGS, SPACINGS, check_spacing
from ldm_jax.find import check

FASTER = ("cache", "merge")  # options of LatentDiffusion.sample with options of their own
PROMPT = "a small red circle above a large blue square"


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add(
        "--task",
        help="unconditional, text, class, layout, semantic, superres, inpaint, img2img, instruct, edit, colorize, "
        "depth or retrieval; by default what the model and what is given are for",
    )
    add_texts(add)
    add("--seeds", help="one picture each: 0-7, or 1,5,9-12 (default 0-7; 0 where there are files)")
    add("--batch_size", type=int, default=4, help="pictures drawn at once (default %(default)s)")
    add("--out", default="samples", help="folder for the pictures, or gs://BUCKET/… (default %(default)s)")
    add = parser.add_argument_group(
        "inputs; each a file, or a folder of files that belong together by their names"
    ).add_argument
    add("--image", help="pictures to start from, enlarge, color or fill in")
    add("--mask", help="white where the image is to be filled in; by default x_mask.png beside x.png")
    add(
        "--extend",
        help="left,top,right,bottom: pixels around the image that are filled in as well, such as 16,0,16,0",
    )
    add("--map", help="label maps: a pixel's value (palette: index) is its class; PNG or .npy")
    add(
        "--layout", help='.json of {"boxes": [[x0, y0, w, h], ...], "labels": [...]}, relative to the picture'
    )
    add(
        "--regions", help='.json of {"regions": [{"box": [x0, y0, w, h], "text": ...}, ...]} (spatext models)'
    )
    add("--depth", help="depth maps, near is large: gray PNG of 8 or 16 bits, or .npy")
    add("--embeddings", help=".npy of embeddings [how many, width] (retrieval models)")
    add("--jobs", help="a file of JSON lines, a job each; other inputs are what lines do not say")
    add("--strength", type=float, help="how much of an image is drawn anew, 0 to 1 (img2img; default 0.75)")
    add("--noise_level", type=int, help="of the noise that an upscaler adds to the image")
    add("--size", help="height x width in pixels, such as 64x128; default the image's, or the model's own")
    add(
        "--fit",
        default="none",
        help="images of another size than --size, or the model's: resize, crop or none (default: drawn as "
        "large as they are)",
    )
    add("--tile", type=int, help="side in pixels of the tiles in which large pictures are drawn")
    add(
        "--preview_every", type=int, metavar="N",
        help="write what every Nth step takes for the clean picture into previews/ of --out; the bar then shows steps",
    )  # fmt: skip
    add_sampler_arguments(parser)
    add_methods(parser)
    add_model_arguments(parser)
    add = parser.add_argument_group("without drawing anything").add_argument
    add(
        "--dry_run",
        action="store_true",
        help="print settings, shapes and parameter counts as JSON; --config alone will do",
    )
    add(
        "--topology",
        help="with --dry_run: compile for this slice of Cloud TPU, as v5e:1x1, --batch_size on each chip, "
        "and say what it costs",
    )
    add_embedding_arguments(parser)
    return parser


def add_texts(add: Callable) -> None:
    """What is drawn, and how prompts are read; add: the parser's add_argument."""
    add(
        "--prompt",
        help=f'what to draw (text models); default "{PROMPT}" for the task text without --jobs, elsewhere '
        f"the empty prompt",
    )
    add("--prompt_2", help="what the second text encoder reads, in the place of the prompt (SDXL)")
    add("--negative_prompt", help="what guidance leads away from, in the place of the empty prompt")
    add(
        "--plain_prompts",
        action="store_true",
        help="take brackets in prompts as they are; without it (word:1.3), (word) and [word] weigh words",
    )
    add(
        "--long_prompts",
        action="store_true",
        help="read prompts of more tokens than the text encoder takes (CLIP: 75) in parts; without it they are cut",
    )
    add(
        "--class_label",
        help='the class to draw: its number, its name, or "one:0.5,another:0.5" (class models)',
    )


def add_embedding_arguments(parser: argparse.ArgumentParser) -> None:
    """What makes embeddings, and what enlarges pictures."""
    add = parser.add_argument_group("retrieval, unCLIP and cascades (docs/tasks.md)").add_argument
    add(
        "--neighbours",
        help="data base in which a prompt's nearest pictures are looked up, with --clip (retrieval models; "
        "commands/neighbours.py builds one)",
    )
    add("--num_neighbours", type=int, default=10, help="of each prompt (default %(default)s)")
    add("--clip", help="folder of transformers' CLIPModel that embeds prompts and pictures")
    add("--image_embedding", help=".npy of the embedding [width] of a picture (unCLIP models, IP-Adapters)")
    add("--reference", help="a picture in the place of --image_embedding, which --clip embeds")
    add("--prior", help="prior that makes prompts' embeddings those of pictures, with --clip (unCLIP models)")
    add(
        "--upscaler",
        action="append",
        default=[],
        help="a model that enlarges what the one before it draws; again for several (a cascade)",
    )
    add("--upscaler_noise_level", type=int, help="of the noise that --upscaler adds to the small picture")


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Which model, and what it was taught."""
    add = parser.add_argument_group("the model").add_argument
    add(
        "--checkpoint",
        help="shipped model, file or folder (default: shapes, or shapes_TASK where that is shipped)",
    )
    add(
        "--adapter", action="append", default=[], metavar="PATH[:WEIGHT]",
        help="a run or folder that taught the model something, and how much of it; again for several",
    )  # fmt: skip
    add(
        "--control", action="append", default=[], metavar="ADAPTER:IMAGE[:WEIGHT[:START:STOP]]",
        help="an adapter and the picture that it follows; of a ControlNet or T2I-Adapter how much it counts, and from "
        "which share of the steps to which; of an IP-Adapter a picture, with --image_encoder, or .npy of its embedding",
    )  # fmt: skip
    add("--image_encoder", help="the CLIP whose embeddings an IP-Adapter takes: a folder of transformers'")
    add("--refiner", help="a second model, which takes over at --refiner_start (SDXL's refiner)")
    add(
        "--refiner_start", type=float, default=0.8,
        help="the share of the noise levels that the first model runs (default %(default)s)",
    )  # fmt: skip
    add(
        "--dtype", choices=("bfloat16", "float16", "float32"),
        help="in which the networks compute; default bfloat16, on a CPU float32, or what the model's config says",
    )  # fmt: skip
    cli.add_checkpoint_arguments(add)


def add_methods(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group(
        "methods on top (docs/methods.md); an option of theirs is --edit.NAME VALUE"
    ).add_argument
    add("--guidance", help="files of ldm_jax/guidance, such as self_attention, or several: a,b")
    add("--edit", help="a file of ldm_jax/editing, such as prompt_to_prompt; of --image, if one is given")
    add("--inversion", help="with --edit and --image: a file of ldm_jax/inversion, such as null_text")
    edit.add_arguments(parser)


def add_sampler_arguments(parser: argparse.ArgumentParser) -> None:
    """Which sampler, and what of it the command line can say."""
    add = parser.add_argument_group(
        "the sampler (docs/samplers.md); what is not given is what the model's makers recommend; an option of its own "
        "is --sampler.NAME VALUE; --cache.interval 3 and --merge.ratio 0.5 save time and change the picture"
    ).add_argument
    add("--steps", type=int, help="sampling steps, 1 to the number of training timesteps")
    add("--guidance_scale", type=float, help="1 is off")
    add("--sampler", help="a file of ldm_jax/samplers")
    add("--eta", type=float, help="0 is deterministic, 1 adds DDPM's noise (ddim, euler_ancestral)")
    add("--spacing", help=f"which timesteps are visited: {', '.join((*SPACINGS, *SIGMA_SPACINGS))}")
    add("--final_alpha", help="where the last step leads: first (as the original's ddim and plms) or one")
    add("--clip_denoised", type=float, help="clip predicted clean latents to this size (ddim, ddpm, heun)")


def main(argv: list[str] | None = None) -> None:
    # Config: what was asked for.
    args = parse(argv)
    from ldm_jax.tasks.jobs import FILES, GIVEN

    flags = [name for name in GIVEN if name not in ("control", "instances")]  # the first is read below
    given = {name: getattr(args, name) for name in flags if getattr(args, name) is not None}
    alike = args.jobs is None and not any(
        name in given for name in FILES
    )  # pictures that differ in seeds alone
    args.seeds = args.seeds if args.seeds is not None else "0-7" if alike else "0"
    seeds = parse_seeds(args.seeds)
    if args.batch_size < 1:
        raise ValueError(f"--batch_size is {args.batch_size}, expected at least 1")

    if args.topology and not args.dry_run:
        raise ValueError(f"--topology {args.topology} goes with --dry_run: nothing is run on it")
    if args.dry_run:
        dry_run(args)
        return

    check_names(args)
    paths.check(paths.of(args.out))

    # Model.
    start = time.time()
    from ldm_jax.tasks import controls, run

    followed = [controls.parse(text) for text in args.control]
    model = open_model(args, [adapter for adapter, _ in followed])
    if followed:
        given["control"] = tuple(control for _, control in followed)
    embedder = open_embedder(args, model)
    check_texts(args, given, model, embedder is not None)
    settings = model.resolve(**asked(args))
    read = {name: True for name in ("plain_prompts", "long_prompts") if getattr(args, name)}

    if args.task == "edit" and args.method:
        drawn = edit.run(args, model, seeds, settings | args.faster | read)
        print(f"{drawn} edited pictures and their sheets in {args.out}, {time.time() - start:.1f} s")
        return

    # Data: one job for each picture.
    task, jobs, failures = find_jobs(args, given, seeds, model)
    for failure in failures:
        print(f"{failure.where}: {failure.error}", file=sys.stderr)

    check_out(args.out, jobs)

    # Pictures.
    told = embedder.told(jobs) if embedder else jobs
    from ldm_jax.commands import draw

    progress, previews = draw.Progress(len(jobs)), None
    if args.preview_every is not None:
        previews = draw.Previews(model.decode, paths.of(args.out), args.preview_every, progress)
    results = run.run(
        model, told, task, batch_size=args.batch_size, fit=args.fit, tile=args.tile,
        on_step=previews.on_step if previews else None, **settings, **args.faster, **read,
    )  # fmt: skip
    texts = {k: v for k, v in settings.items() if v is not None and k != "num_steps"} | args.faster
    texts |= dict(steps=settings["num_steps"], checkpoint=args.checkpoint) | read
    texts |= {name: getattr(args, name) for name in ("clip_skip", "dtype") if getattr(args, name) is not None}
    asked_for = {job.name: job for job in jobs}
    results = ((asked_for[job.name], result) for job, result in results)
    try:
        drawn, failed = draw.draw(results, jobs, args, texts, alike, model, progress)
    finally:
        if previews:
            previews.close()
    failed += len(failures)
    print(f"{drawn} pictures{' and grid.png' if drawn else ''} in {args.out}, {time.time() - start:.1f} s")
    if failed:
        raise ValueError(f"{failed} of {drawn + failed} jobs failed, for the reasons above")


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The arguments, where guidance, edit and inversion are {method: {option: value}}: options are those of the
    method's own signature. faster: {'cache' | 'merge': {option: value}}, of those that are given."""
    parser = make_parser()
    args, rest = parser.parse_known_args(argv)
    options: dict[str, dict] = {kind: {} for kind in ("guidance", "edit", "inversion", "sampler", *FASTER)}
    while rest:
        flag, equals, value = rest.pop(0).partition("=")
        kind, dot, option = flag.removeprefix("--").partition(".")
        if not flag.startswith("--") or kind not in options or not dot or not (equals or rest):
            parser.error(f"unrecognized arguments: {flag}")
        options[kind][option] = as_value(value if equals else rest.pop(0))
    args.sampler_options = options.pop("sampler") or None
    args.faster = {kind: given for kind in FASTER if (given := options.pop(kind))}
    if args.method:
        args.edit = args.method if args.edit is None else args.edit
    for kind, given in options.items():
        names = (getattr(args, kind) or "").split(",")
        if given and (len(names) > 1 or not names[0]):
            raise ValueError(
                f"--{kind}.{next(iter(given))}: expected one method in --{kind}, got {getattr(args, kind)!r}"
            )
        if names[0]:
            setattr(args, kind, {name.strip(): given for name in names})
    if args.checkpoint is None:
        says = (args.prompt, args.negative_prompt, args.jobs, args.guidance, args.strength)
        args.checkpoint = shipped_for(args.task, any(one is not None for one in says))
    return args


def shipped_for(task: str | None, told: bool = False) -> str:
    """The shipped model that a task is done with where none is named. told: more than images and masks is said, or may
    be in a file of jobs; then holes are filled by the text model, which can be told what with."""
    from ldm_jax.checkpoints.bundle import shipped_names

    own = f"shapes_{task}"
    return "shapes" if own not in shipped_names() or (task == "inpaint" and told) else own


def as_value(text: str):
    """'0.75', 'true', '[1, 2]' -> what JSON says it is; any other text as it is."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def asked(args: argparse.Namespace) -> dict:
    """The sampler's settings, None where nothing is asked for."""
    return dict(
        num_steps=args.steps, guidance_scale=args.guidance_scale, sampler=args.sampler, eta=args.eta,
        spacing=args.spacing,
        final_alpha=args.final_alpha, clip_denoised=args.clip_denoised, sampler_options=args.sampler_options,
    )  # fmt: skip


def check_names(args: argparse.Namespace) -> None:
    """Raises: ValueError for a name of what is not there, and for numbers that cannot be: before a model is opened."""
    rooms = dict(
        samplers=[args.sampler] if args.sampler else [], guidance=args.guidance, editing=args.edit,
        inversion=args.inversion,
    )  # fmt: skip
    for room, names in rooms.items():
        for name in names or ():
            check(room, name)
    if args.spacing is not None:
        check_spacing(args.spacing)
    from ldm_jax.inference.settings import resolve_settings
    from ldm_jax.tasks import run

    run.check_names(args.task, args.fit)
    resolve_settings({}, **asked(args))
    if args.preview_every is not None:
        if args.preview_every < 1:
            raise ValueError(f"--preview_every is {args.preview_every}, expected at least 1")
        for name in ("refiner", "upscaler", "method"):
            if getattr(args, name):
                raise ValueError(
                    f"--preview_every shows the steps of one model, and does not go with --{name}"
                )


def open_model(args: argparse.Namespace, followed: list[str]):
    """The model of --checkpoint, with its refiner and upscalers. followed: adapters that a picture is given to."""
    from ldm_jax.checkpoints.base import options_from
    from ldm_jax.inference import pipeline
    from ldm_jax.inference.cascade import Cascade
    from ldm_jax.inference.refiner import BaseAndRefiner

    adapters = [*args.adapter, *((adapter, 1.0) for adapter in followed)]
    options = options_from(args)._asdict()
    model = pipeline.load(args.checkpoint, cli.executables(), adapters, args.dtype, **options)
    if args.image_encoder:
        model.embed = picture_embedder(args.image_encoder)
    if args.refiner:
        refiner = pipeline.load(args.refiner, cli.executables(), dtype=args.dtype)
        model = BaseAndRefiner(model, refiner, args.refiner_start)
    if args.upscaler:
        upscalers = [pipeline.load(name, cli.executables(), dtype=args.dtype) for name in args.upscaler]
        model = Cascade(model, upscalers, args.upscaler_noise_level)
    return model


def check_texts(args: argparse.Namespace, given: dict, model, embedded: bool) -> None:
    """Raises: ValueError for a text that the model does not take. embedded: prompts are, before it sees them."""
    for name in ("prompt", "negative_prompt"):
        if name in given and "prompts" not in model.system.takes and not (embedded and name == "prompt"):
            raise ValueError(f"--{name}: {args.checkpoint} is not a text model")
    if "prompt_2" in given and "prompts_2" not in model.system.takes:
        raise ValueError(f"--prompt_2: {args.checkpoint} has no second text encoder")


def dry_run(args: argparse.Namespace) -> None:
    """Prints what sampling with the model of --config, or else of --checkpoint, takes: of the slice, if one is
    named."""
    from ldm_jax.checkpoints.base import options_from
    from ldm_jax.checkpoints.open import open_checkpoint
    from ldm_jax.commands import dry_run as dry_runs
    from ldm_jax.config import load_config
    from ldm_jax.diffusion.schedule import make_schedule
    from ldm_jax.inference import settings as sampling_settings

    options = options_from(args)
    if args.config:
        config = load_config(args.config)
    else:
        config = open_checkpoint(args.checkpoint, options).config
    if config["task"] != "diffusion":
        raise ValueError(
            f"{args.config or args.checkpoint} is a first stage alone, expected a model that samples"
        )
    settings = sampling_settings.resolve_settings(config.get("sampling", {}), **asked(args))
    sampling_settings.check_sampling(settings, make_schedule(**config["schedule"]))
    if args.topology:
        cost = dry_runs.sampling(config, args.topology, args.batch_size, settings)
        print(json.dumps(cost, indent=2))
        dry_runs.check_fits(cost)
    else:
        print(json.dumps(dry_runs.sampled(config, args.batch_size, settings), indent=2))


def open_embedder(args: argparse.Namespace, model):
    """What makes embeddings of prompts or a picture (commands/embedded.py), or None where nothing asks for it."""
    asked_for = [n for n in ("neighbours", "clip", "reference", "prior") if getattr(args, n) is not None]
    if not asked_for:
        return None
    from ldm_jax.commands import embedded
    from ldm_jax.data import pictures
    from ldm_jax.data.neighbours import Neighbors
    from ldm_jax.evaluation import networks
    from ldm_jax.inference import embedding_prior

    takes = model.system.takes
    for name, condition in dict(
        neighbours="embeddings", reference="image_embeddings", prior="image_embeddings"
    ).items():
        if name in asked_for and condition not in takes:
            raise ValueError(f"--{name}: {args.checkpoint} takes no {condition}")
    if "embeddings" in takes:
        database = None if args.neighbours is None else Neighbors(args.neighbours)
        return embedded.Retrieval(networks.clip(args.clip), database, args.num_neighbours)
    if ("prior" in asked_for) == ("reference" in asked_for):
        raise ValueError(f"--{asked_for[0]}: expected one of --reference and --prior beside --clip")
    if args.reference is not None:
        return embedded.Reference(networks.clip(args.clip), pictures.read_picture(args.reference))
    return embedded.Prompted(networks.clip(args.clip), embedding_prior.load(args.prior))


def picture_embedder(folder: str):
    """picture [H, W, 3] uint8 -> [D], by the image tower of a folder of CLIP."""
    from ldm_jax.inference import classifiers
    from ldm_jax.metrics.clip_score import clip_extractor

    tower = clip_extractor("CLIP", *classifiers.clip_tower(Path(folder).expanduser()))
    return lambda picture: tower.apply(tower.params, tower.prepare(picture)[None])["embedding"][0]


def find_jobs(args: argparse.Namespace, given: dict, seeds: cli.Seeds, model) -> tuple:
    """(the task, or None where each line's own fields say it, the jobs, and what could not be made a job)."""
    from ldm_jax.tasks import jobs, run

    if args.task is not None:
        run.check_task(model.system, args.task)
    if args.jobs is not None:
        return args.task, *jobs.of_lines(args.jobs, given, seeds)
    task = args.task or run.find_task(model.system, given)
    if task == "text":
        given = dict(prompt=PROMPT) | given
    return task, *jobs.of_flags(given, seeds, with_masks=task == "inpaint" and "extend" not in given)


def check_out(out: str, jobs: list) -> None:
    """Raises: ValueError if a picture in the folder `out` would be written over a file of a job."""
    from ldm_jax.tasks.jobs import FILES

    names = ["grid", *(job.name for job in jobs)]
    names += [f"{job.name}_boxes" for job in jobs if "layout" in job.given]
    written = {os.path.realpath(f"{out}/{name}.png") for name in names}
    for job in jobs:
        for field in FILES:
            file = job.given.get(field)
            if isinstance(file, str) and os.path.realpath(file) in written:
                raise ValueError(
                    f"--out {out}: a picture would be written over {file}, the {field} of job {job.name!r}, "
                    f"expected another folder"
                )


def console() -> None:
    """The console command `ldm-sample`."""
    cli.console(main)


if __name__ == "__main__":
    console()

"""Asks a language model where the things of a prompt go: any endpoint that speaks OpenAI's chat completions, by URL.

Decides what it is asked and what counts as an answer. Nothing of an answer is used before all of it is checked: phrases that the
prompt has, boxes inside of the picture. Standard library alone; the key, if the endpoint wants one, is $LDM_JAX_ENDPOINT_KEY.
Source of the question: Lian et al. 2023 (arXiv:2305.13655), stage 1, with boxes as fractions.
"""

import json
import os
import re
import urllib.error
import urllib.request
from typing import Any

from ldm_jax.editing.boxes import Layout, Placed

KEY = "LDM_JAX_ENDPOINT_KEY"
MOST_BYTES, SHOWN = 2**20, 120  # of an answer that is read; characters of it in an error
QUESTION = """You lay out pictures. For the caption of a picture, give a box for each single thing in it.
Answer with one JSON object and nothing else:
{"background": "what is behind the things, or empty", "objects": [{"phrase": "words of the caption, exactly as they stand there", \
"alone": "one of it by itself, such as: a red circle", "box": [left, top, width, height]}]}
Numbers are fractions of the picture from 0 to 1, the origin is its top left corner, and boxes lie inside of it.
A thing that there are several of has a box for each.
Caption: """


def ask(url: str, prompt: str, model: str = "", timeout: float = 60.0) -> Layout:
    """url: of the endpoint, 'https://host/v1' or with /chat/completions at its end. model: its name there, if it wants one.

    Raises: ValueError in one sentence if it does not answer, or with anything else than such a layout of this prompt.
    """
    url = url.rstrip("/")
    url = url if url.endswith("/chat/completions") else f"{url}/chat/completions"
    asked = {"messages": [{"role": "user", "content": QUESTION + prompt}], "temperature": 0}
    headers = {"Content-Type": "application/json"}
    if os.environ.get(KEY):
        headers["Authorization"] = f"Bearer {os.environ[KEY]}"
    body = json.dumps(asked | ({"model": model} if model else {})).encode()
    if not url.startswith(("http://", "https://")):
        raise ValueError(f"endpoint {url}: expected a URL that begins with http:// or https://")
    try:
        request = urllib.request.Request(url, body, headers)
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            text = answer.read(MOST_BYTES).decode("utf-8", "replace")
    except (OSError, ValueError) as error:  # URLError, timeouts and refused connections are OSErrors
        raise ValueError(f"endpoint {url} does not answer: {error}") from None
    return understood(_content(text, url), prompt, url)


def _content(text: str, url: str) -> str:
    """What the model said, in the envelope of chat completions."""
    try:
        said = json.loads(text)["choices"][0]["message"]["content"]
    except (ValueError, KeyError, IndexError, TypeError):
        said = None
    if not isinstance(said, str):
        raise _nonsense(url, text, "no chat completion")
    return said


def understood(said: str, prompt: str, url: str) -> Layout:
    """The layout that an answer is, with a fence of ``` around it or without. Raises: ValueError for anything else."""
    fenced = re.fullmatch(r"\s*```(?:json)?\s*(.*?)\s*```\s*", said, re.DOTALL)
    try:
        found = json.loads(fenced[1] if fenced else said)
    except ValueError:
        raise _nonsense(url, said, "no JSON") from None
    return checked(found, prompt, lambda what: _nonsense(url, said, what))


def checked(found: Any, prompt: str, error: Any) -> Layout:
    """A layout of a prompt, as a language model or a user gives it. Raises: error(what is wrong)."""
    objects = found.get("objects") if isinstance(found, dict) else None
    if not isinstance(objects, list) or not objects or not isinstance(found.get("background", ""), str):
        raise error("no object with a list 'objects'")
    placed = []
    for one in objects:
        phrase, box = (one.get("phrase"), one.get("box")) if isinstance(one, dict) else (None, None)
        alone = one.get("alone", phrase) if isinstance(one, dict) else None
        if not isinstance(phrase, str) or not isinstance(alone, str) or _words(phrase) not in _words(prompt):
            raise error(f"phrase {phrase!r} is not in the prompt")
        if not _is_box(box):
            raise error(f"box {box!r} of {phrase!r} is not [x0, y0, width, height] inside of the picture")
        placed.append(Placed(phrase, alone or phrase, tuple(float(v) for v in box)))
    return Layout(found.get("background", ""), tuple(placed))


def _words(text: str) -> str:
    """' a red circle ' of 'A red circle.': for finding whole words."""
    return f" {' '.join(re.findall(r'[a-z0-9_-]+', text.lower()))} "


def _is_box(box: Any) -> bool:
    numbers = isinstance(box, list | tuple) and len(box) == 4
    numbers = numbers and all(isinstance(v, int | float) and not isinstance(v, bool) for v in box)
    if not numbers:
        return False
    x, y, w, h = box
    return 0 <= x and 0 <= y and w > 0 and h > 0 and x + w <= 1 + 1e-6 and y + h <= 1 + 1e-6


def _nonsense(url: str, said: str, what: str) -> ValueError:
    lines = said.strip().splitlines() or [""]
    return ValueError(
        f"endpoint {url} answers with {what}, expected a layout; its first line: {lines[0][:SHOWN]!r}"
    )

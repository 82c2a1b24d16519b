"""A language model that lays prompts out: what is asked of it, and that nothing is made of a wrong answer."""

import http.server
import json
import threading

import pytest

from ldm_jax.editing import endpoint

PROMPT = "a red circle left of a blue square"
LAYOUT = {
    "background": "a white wall",
    "objects": [
        {"phrase": "a red circle", "box": [0.1, 0.3, 0.3, 0.3]},
        {"phrase": "blue square", "alone": "a blue square", "box": [0.6, 0.3, 0.3, 0.3]},
    ],
}


class Server(http.server.BaseHTTPRequestHandler):
    answer, status, asked = "", 200, []

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        Server.asked.append((self.path, self.headers.get("Authorization"), json.loads(body)))
        self.send_response(Server.status)
        self.end_headers()
        self.wfile.write(Server.answer.encode())

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def url():
    server = http.server.HTTPServer(("127.0.0.1", 0), Server)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    thread.join()
    server.server_close()


def says(content, status=200):
    Server.asked.clear()
    Server.status = status
    Server.answer = json.dumps({"choices": [{"message": {"role": "assistant", "content": content}}]})


@pytest.mark.parametrize("wrap", ["{}", "```json\n{}\n```", "```\n{}```\n"])
def test_a_layout_is_read(url, wrap, monkeypatch):
    says(wrap.replace("{}", json.dumps(LAYOUT)))
    monkeypatch.setenv(endpoint.KEY, "secret")
    found = endpoint.ask(url, PROMPT, "some-model")
    assert found.background == "a white wall"
    assert [(o.phrase, o.alone) for o in found.objects] == [
        ("a red circle", "a red circle"),
        ("blue square", "a blue square"),
    ]
    assert found.objects[1].box == (0.6, 0.3, 0.3, 0.3)
    ((path, key, body),) = Server.asked
    assert path == "/v1/chat/completions" and key == "Bearer secret" and body["model"] == "some-model"
    assert body["messages"][0]["content"].endswith(PROMPT)


def one(**changes):
    return json.dumps({"objects": [LAYOUT["objects"][0] | changes]})


@pytest.mark.parametrize(
    "content, said",
    [
        ("Here are the boxes:\nred circle", "answers with no JSON, .* its first line: 'Here are the boxes:'"),
        ("[]", "no object with a list 'objects'"),
        ('{"objects": []}', "no object with a list 'objects'"),
        ('{"objects": [3]}', "phrase None is not in the prompt"),
        (one(phrase="a cat"), "phrase 'a cat' is not in the prompt"),
        (one(phrase="circ"), "phrase 'circ' is not in the prompt"),
        (one(box=[0.5, 0.5, 0.6, 0.1]), r"box \[0.5, 0.5, 0.6, 0.1\] of 'a red circle' is not"),
        (one(box=[51, 153, 150, 150]), "inside of the picture"),
        (one(box=[0.1, 0.1, 0, 0.1]), "inside of the picture"),
        (one(box="left"), "box 'left'"),
    ],
)  # fmt: skip
def test_nonsense_is_one_sentence_with_its_first_line(url, content, said):
    says(content)
    with pytest.raises(
        ValueError, match=f"endpoint {url}/chat/completions answers with .*expected a layout"
    ) as error:
        endpoint.ask(url, PROMPT)
    assert (
        error.match(said)
        and "\n" not in str(error.value)
        and repr(content.splitlines()[0])[:20] in str(error.value)
    )


def test_what_does_not_answer(url):
    says("", status=500)
    with pytest.raises(ValueError, match="does not answer: HTTP Error 500"):
        endpoint.ask(url, PROMPT)
    Server.status, Server.answer = 200, "<html>\nnot found"
    with pytest.raises(ValueError, match="answers with no chat completion, .*its first line: '<html>'"):
        endpoint.ask(url, PROMPT)
    with pytest.raises(ValueError, match="does not answer: .*refused"):
        endpoint.ask("http://127.0.0.1:1/v1", PROMPT, timeout=2)
    with pytest.raises(ValueError, match="expected a URL that begins with http"):
        endpoint.ask("file:///etc/passwd", PROMPT)

"""An object store of Google's kind on the loopback: gcp-storage-emulator, and what clients rely on that it lacks.

`python tests/object_store.py PORT BUCKET…` serves until it is killed. What is added: an object's generation among the
headers of its bytes, which tensorstore reads; conditions on generations, by which one of several writers wins; many
requests at a time; all bytes of those that end with a line; 403 for the bucket `locked`, and for writes to `readonly`;
and SLOW seconds before each object is written, so that a save lasts long enough to be killed.
"""

import http.server
import json
import os
import re
import sys
import threading
import time
import urllib.parse

from gcp_storage_emulator import server, storage

LOCK = threading.Lock()
SLOW = float(os.environ.get("SLOW", 0))
OBJECT = re.compile(r"/(?:upload/|download/)?(?:storage/v1/)?b/([^/]+)(?:/o(?:/(.*))?)?")


class Unmet(Exception):
    """A condition on a generation."""


class Storage(storage.Storage):
    wanted: str | None = None  # the generation that the request in hand is for; '0' is none

    def check(self, bucket, name):
        try:
            found = self.get_file_obj(bucket, name)["generation"]
        except Exception:  # noqa: BLE001 - there is none
            found = "0"
        if self.wanted not in (None, found):
            raise Unmet

    def create_file(self, bucket, name, *rest):
        self.check(bucket, name)
        return super().create_file(bucket, name, *rest)

    def delete_file(self, bucket, name, *rest):
        self.check(bucket, name)
        return super().delete_file(bucket, name, *rest)


class Handler(server.RequestHandler):
    def answer(self):
        asked = urllib.parse.urlparse(self.path)
        match, query = OBJECT.fullmatch(asked.path), urllib.parse.parse_qs(asked.query)
        bucket, name = (urllib.parse.unquote(part or "") for part in match.groups()) if match else ("", "")
        if bucket == "locked" or (bucket == "readonly" and self.command != "GET"):
            return self.refuse(403, f"nobody does not have access to the bucket {bucket}.")
        if SLOW and self.command in ("POST", "PUT"):
            time.sleep(SLOW)
        with LOCK:
            self.storage.wanted = query.get("ifGenerationMatch", [None])[0]
            self.generation = None
            if self.command == "GET" and name:
                try:
                    self.generation = self.storage.get_file_obj(bucket, name)["generation"]
                except Exception:  # noqa: BLE001 - there is none
                    pass
                if self.generation and self.generation == query.get("ifGenerationNotMatch", [None])[0]:
                    return self.refuse(304, "")
                if self.generation and self.storage.wanted not in (None, self.generation):
                    return self.refuse(412, "conditionNotMet")
            try:
                server.Router(self).handle(self.command)
            except Unmet:
                self.refuse(412, "conditionNotMet", unread=False)

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = answer

    def end_headers(self):
        if getattr(self, "generation", None):
            self.send_header("x-goog-generation", self.generation)
        super().end_headers()

    def refuse(self, code, said, unread=True):
        body = json.dumps({"error": {"code": code, "message": said}}).encode() if code != 304 else b""
        if unread:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 256
    daemon_threads = True


def multipart(handler, query):
    """server._read_data, whose parser of mails takes a line's end off what ends with one."""
    kind = handler.headers.get("Content-Type") or ""
    if not kind.startswith("multipart/related"):
        return read_data(handler, query)
    raw = server._read_raw_data(handler)
    boundary = b"--" + re.search(r'boundary="?([^";]+)"?', kind)[1].encode()
    first = raw.index(boundary) + len(boundary)
    second, last = raw.index(boundary, first), raw.rindex(boundary)  # bytes between may look like one
    meta, content = raw[first:second], raw[second + len(boundary) : last]
    parts = [re.split(rb"\r?\n\r?\n", part, maxsplit=1) for part in (meta, content)]
    said = re.search(rb"(?i)content-type: *([^\r\n;]+)", parts[1][0])
    return {
        "meta": json.loads(parts[0][1]),
        "content": re.sub(rb"\r?\n\Z", b"", parts[1][1], count=1),
        "content-type": said[1].decode() if said else "application/octet-stream",
    }


if __name__ == "__main__":
    port, *names = sys.argv[1:]
    server.logger.disabled = True
    read_data, server._read_data = server._read_data, multipart
    kept = Storage(use_memory_fs=True)
    for bucket in names:
        server.buckets.create_bucket(bucket, kept)
    Server(("127.0.0.1", int(port)), lambda *args: Handler(kept, *args)).serve_forever()

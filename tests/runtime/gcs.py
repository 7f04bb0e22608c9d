"""A bucket server on this machine: as much of Google's storage interface as gcsfs and TensorStore use."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.server
import json
import re
import socket
import struct
import threading
import time
from urllib.parse import parse_qs, unquote, urlsplit


class Bucket(http.server.BaseHTTPRequestHandler):
    """Objects by name in `server.objects`, as (content, generation). Writing is refused while `server.refuses(name)`.

    Contents are read after `server.latency` seconds, and not as they should be if `server.fault(name)` says so:
    "overloaded" (503), "reset" (the connection ends), "short" (half of the bytes) or "flipped" (a wrong bit).
    """

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def _answer(self, code, body=b"", **headers):
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(code)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # they ask for things they no longer want
            self.end_headers()
            self.wfile.write(content)

    def _about(self, name):
        content, generation = self.server.objects[name]
        md5 = base64.b64encode(hashlib.md5(content).digest()).decode()
        times = {key: "2026-01-01T00:00:00.000Z" for key in ("timeCreated", "updated")}
        numbers = {"size": str(len(content)), "generation": str(generation), "metageneration": "1"}
        return {"kind": "storage#object", "name": name, "bucket": "bucket", "md5Hash": md5, **times, **numbers}

    def _split(self):
        parts = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(parts.query, keep_blank_values=True).items()}
        found = re.fullmatch(r"(?:/download)?/storage/v1/b/bucket/o/(.+)", parts.path)
        return parts.path, query, unquote(found[1]) if found else None

    def do_GET(self):
        path, query, name = self._split()
        if path == "/storage/v1/b/bucket":
            return self._answer(200, {"kind": "storage#bucket", "name": "bucket"})
        if path == "/storage/v1/b/bucket/o":
            return self._answer(200, self._listed(query))
        if name not in self.server.objects:
            return self._answer(404, {"error": {"code": 404, "message": f"No such object: {name}"}})
        if query.get("alt") != "media" and not path.startswith("/download"):
            return self._answer(200, self._about(name))
        content, generation = self.server.objects[name]
        time.sleep(self.server.latency)
        fault = self.server.fault(name)
        if fault == "overloaded":
            return self._answer(503, {"error": {"code": 503, "message": "try again"}})
        if fault == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
            self.close_connection = True
            return None
        headers = {"X_Goog_Generation": str(generation), "Content_Type": "application/octet-stream"}
        if asked := re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", "")):
            start, end = asked[1], asked[2]
            low = int(start) if start else max(len(content) - int(end), 0)
            high = min(int(end), len(content) - 1) if start and end else len(content) - 1
            headers["Content_Range"] = f"bytes {low}-{high}/{len(content)}"
            found = content[low : high + 1]
            if fault == "flipped":
                found = bytes([found[0] ^ 1]) + found[1:]
            return self._answer(206, found[: len(found) // 2] if fault == "short" else found, **headers)
        return self._answer(200, content, **headers)

    def _listed(self, query):
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter")
        items, folders = [], set()
        for name in sorted(self.server.objects):
            if name.startswith(prefix) and name >= query.get("startOffset", ""):
                head, found, _ = name[len(prefix) :].partition(delimiter or "\0")
                if found:
                    folders.add(prefix + head + found)
                elif name < query.get("endOffset", "\U0010ffff"):
                    items.append(self._about(name))
        return {"kind": "storage#objects", "items": items, "prefixes": sorted(folders)}

    def _body(self):
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        content = b""
        while size := int(self.rfile.readline(), 16):
            content += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return content

    def do_POST(self):
        path, query, _ = self._split()
        body = self._body()
        if path == "/storage/v1/b/bucket/o" or not path.startswith("/upload"):
            return self._answer(501, {"error": {"code": 501, "message": path}})
        if "upload_id" in query:
            return self._continue(query, body)
        name = query.get("name")
        if query["uploadType"] == "resumable":
            self.server.sessions[key := str(len(self.server.sessions))] = [name or json.loads(body)["name"], b""]
            host = self.headers["Host"]
            return self._answer(200, {}, Location=f"http://{host}/upload/storage/v1/b/bucket/o?upload_id={key}")
        if query["uploadType"] == "multipart":
            boundary = re.search(r"boundary=['\"]?([^'\";]+)", self.headers["Content-Type"])[1].encode()
            about, content = body.split(b"--" + boundary)[1:3]
            name = name or json.loads(about.partition(b"\r\n\r\n")[2] or about.partition(b"\n\n")[2])["name"]
            separator = b"\r\n\r\n" if b"\r\n\r\n" in content else b"\n\n"
            body = content.partition(separator)[2]
            body = body.removesuffix(b"\r\n") if body.endswith(b"\r\n") else body.removesuffix(b"\n")
        return self._store(name, body, query)

    def do_PUT(self):
        self._continue(self._split()[1], self._body())

    def _continue(self, query, body):
        session = self.server.sessions[query["upload_id"]]
        session[1] += body
        if self.headers.get("Content-Range", "").endswith("/*"):  # more will come
            return self._answer(308, Range=f"bytes=0-{len(session[1]) - 1}")
        return self._store(*session, query)

    def _store(self, name, content, query):
        if self.server.refuses(name):
            return self._answer(403, {"error": {"code": 403, "message": "the quota is used up"}})
        wanted = query.get("ifGenerationMatch")
        if wanted is not None and int(wanted) != self.server.objects.get(name, (b"", 0))[1]:
            return self._answer(412, {"error": {"code": 412, "message": "conditionNotMet"}})
        self.server.generation += 1
        self.server.objects[name] = (content, self.server.generation)
        return self._answer(200, self._about(name))

    def do_DELETE(self):
        _, _, name = self._split()
        known = self.server.objects.pop(name, None)
        self._answer(204 if known else 404)


class _Server(http.server.ThreadingHTTPServer):
    request_queue_size = 512  # TensorStore opens hundreds of connections at once


def serve():
    """A server with an empty bucket called "bucket"; `server_port` says where."""
    server = _Server(("127.0.0.1", 0), Bucket)
    server.objects, server.sessions, server.generation = {}, {}, 0
    server.refuses = lambda name: False
    server.latency, server.fault = 0.0, lambda name: None
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def environment(server):
    """What lets gcsfs and TensorStore find it."""
    url = f"http://127.0.0.1:{server.server_port}"
    return {"STORAGE_EMULATOR_HOST": url, "TENSORSTORE_GCS_HTTP_URL": url, "GOOGLE_AUTH_TOKEN_FOR_TESTING": "anonymous"}

"""A `vllm` command that serves as vLLM's does, as far as AskLLMScorer asks, and notes how it was started.

Every token is equally likely among 1,000, but for the first that is asked about, which is twice as likely.
"""

import json
import math
import os
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


SCRIPT = """\
#!{python}
import sys
sys.path.insert(0, {folder!r})
from stand_in_vllm import serve
serve({notes!r})
"""


def install(folder):
    """Put the command, and a package and a distribution of its name, into a folder; the environment that has them."""
    (folder / "bin").mkdir(parents=True)
    (folder / "site" / "vllm").mkdir(parents=True)
    (folder / "site" / "vllm" / "__init__.py").touch()
    info = folder / "site" / "vllm-0.26.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: vllm\nVersion: 0.26.0\n")
    script = folder / "bin" / "vllm"
    here = str(Path(__file__).parent)
    script.write_text(SCRIPT.format(python=sys.executable, folder=here, notes=str(folder / "notes.jsonl")))
    script.chmod(0o755)
    python_path = os.pathsep.join([str(folder / "site"), os.environ.get("PYTHONPATH", "")])
    return {
        **os.environ,
        "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": python_path,
        "VLLM_COMPILE_LOCK_DIR": str(folder / "locks"),
    }


def notes(folder):
    return [json.loads(line) for line in (folder / "notes.jsonl").read_text().splitlines()]


def serve(path):
    """Serve until killed; notes are lines of JSON: the start, then every request."""

    def note(**record):
        with open(path, "a") as file:
            file.write(json.dumps(record) + "\n")

    options = dict(word[2:].split("=", 1) for word in sys.argv if word.startswith("--") and "=" in word)
    note(argv=sys.argv, environment=dict(os.environ), pid=os.getpid())

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *args):
            pass

        def answer(self, status, body):
            blob = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(blob)))
            self.end_headers()
            self.wfile.write(blob)

        def allowed(self):
            key = os.environ.get("VLLM_API_KEY")
            allowed = key is None or self.headers["Authorization"] == f"Bearer {key}"
            note(path=self.path, allowed=allowed)
            if not allowed:
                self.answer(401, {"error": "Unauthorized"})
            return allowed

        def do_GET(self):
            if self.allowed():
                self.answer(200, {"data": []})

        def do_POST(self):
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if not self.allowed():
                return
            top = {f"token_id:{id}": math.log(1e-3) for id in asked["logprob_token_ids"]}
            top[f"token_id:{asked['logprob_token_ids'][0]}"] = math.log(2e-3)
            choice = {"logprobs": {"top_logprobs": [top]}}
            self.answer(200, {"choices": [{"index": i, **choice} for i in range(len(asked["prompt"]))]})

    server = ThreadingHTTPServer((options.get("host", "0.0.0.0"), int(options["port"])), Handler)
    sys.stderr.write("Application startup complete\n")
    sys.stderr.flush()
    server.serve_forever()

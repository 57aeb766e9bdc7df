"""timm's own weights: out of the hub's cache, from a hub, and one clear line, at once, where neither is there.

The hub is a server of the test's own, which the hub's real client talks to.
"""

import http.server
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from clkd_timm import weights
from clkd_timm.library import timm
from safetensors.torch import save

from clkd.errors import UserError

MODEL, REPOSITORY = "test_resnet.r160_in1k", "timm/test_resnet.r160_in1k"
COMMIT = "0" * 40
ASK = """
import sys, torch, time
from clkd.errors import UserError
from clkd_timm.backbone import TimmBackbone
from clkd_timm.library import timm
timm()
begun = time.perf_counter()
try:
    network = TimmBackbone((3, 32, 32), sys.argv[1], pretrained=True)
    print(float(network.network.conv1[0].weight.double().sum()))
except UserError as error:
    print(error)
print(time.perf_counter() - begun)
"""


def ask(endpoint: str, home: Path, model: str = MODEL, **environment: str) -> tuple[str, float]:
    """What comes of it, and in how many seconds."""
    own = {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1", **environment}
    kept = {key: value for key, value in os.environ.items() if key not in ("CLKD_OFFLINE", "HF_HUB_OFFLINE")}
    done = subprocess.run(
        [sys.executable, "-c", ASK, model], env={**kept, **own}, capture_output=True, text=True, timeout=90, check=False
    )
    assert done.returncode == 0, done.stderr
    said, seconds = done.stdout.strip().splitlines()[-2:]
    return said, float(seconds)


@pytest.fixture(scope="module")
def state() -> dict[str, object]:
    import torch

    torch.manual_seed(3)
    made: dict[str, object] = timm().create_model("test_resnet").state_dict()
    return made


@pytest.fixture
def hub(state: dict[str, object]) -> Iterator[str]:
    """A hub that has one repository with one file."""
    body = save(state)

    class Hub(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self._answer(False)

        def do_GET(self) -> None:
            self._answer(True)

        def _answer(self, whole: bool) -> None:
            there = self.path.startswith(f"/{REPOSITORY}/resolve/main/model.safetensors")
            told = body if there else json.dumps({"error": "Entry not found"}).encode()
            self.send_response(200 if there else 404)
            self.send_header("Content-Length", str(len(told)))
            self.send_header("ETag", '"weights-1"')
            self.send_header("X-Repo-Commit", COMMIT)
            if not there:
                self.send_header("X-Error-Code", "EntryNotFound")
            self.end_headers()
            if whole:
                self.wfile.write(told)

        def log_message(self, *args: object) -> None:
            """Quiet."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_weights_come_from_the_hub_once(hub: str, state: dict[str, object], tmp_path: Path) -> None:
    expected = float(state["conv1.0.weight"].double().sum())
    said, _ = ask(hub, tmp_path)
    assert float(said) == expected
    again, seconds = ask("http://127.0.0.1:9", tmp_path, HF_HUB_OFFLINE="1")
    assert float(again) == expected
    assert seconds < 5


def test_nobody_there_is_told_at_once(tmp_path: Path) -> None:
    said, seconds = ask("http://127.0.0.1:9", tmp_path)
    assert said.startswith(
        f"the weights of '{MODEL}' ({REPOSITORY}) are not in the hub's cache, and http://127.0.0.1:9"
    )
    assert "cannot be reached" in said
    assert said.endswith("name a local file by `checkpoint:`, or leave `pretrained` out")
    assert seconds < 3


def test_a_hub_that_never_answers_is_not_waited_for(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        said, seconds = ask(f"http://127.0.0.1:{silent.getsockname()[1]}", tmp_path)
    assert "does not answer within 5 s" in said
    assert "checkpoint:" in said
    assert seconds < 12


def test_who_forbids_the_network_is_obeyed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is even asked: the address would refuse."""
    assert "HF_HUB_OFFLINE forbids fetching them" in weights._unreachable("http://127.0.0.1:9", True)
    monkeypatch.setenv("CLKD_OFFLINE", "1")
    assert "CLKD_OFFLINE=1 forbids fetching them" in weights._unreachable("http://127.0.0.1:9", False)


def test_weights_that_are_nowhere_are_told(hub: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"timm's weights for 'gcvit_tiny' are not on the hub: fetch https://"):
        weights.file_of("gcvit_tiny", True, None, tmp_path)
    said, _ = ask(hub, tmp_path, "test_vit2.r160_in1k")
    assert "timm/test_vit2.r160_in1k has neither model.safetensors nor pytorch_model.bin" in said


def test_waiting_is_short() -> None:
    begun = time.perf_counter()
    assert "cannot be reached" in weights._unreachable("http://127.0.0.1:9", False)
    assert time.perf_counter() - begun < weights.PATIENCE

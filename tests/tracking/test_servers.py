"""Servers with a login, MLflow's own variables, and runs that are active already."""

from __future__ import annotations

import base64
import http.client
import http.server
import importlib.util
import os
import shutil
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from mlflow_server import Server

from clkd.errors import TrackingError
from clkd.tracking import store
from clkd.tracking.group import Trackers
from clkd.tracking.jsonl import JsonlTracker
from clkd.tracking.mlflow import MlflowTracker
from clkd.tracking.sync import sync

HAS_FLASK_WTF = importlib.util.find_spec("flask_wtf") is not None
ADMIN, PASSWORD = "admin", "password1234password"


class Recorded(Trackers):
    """MLflow as every run has it, behind its own JSON lines."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        told = {"who": "me", "clkd.seed": "forged"}  # as the scenario of these runs says
        self.mlflow = MlflowTracker(*arguments, **{"tags": told, **options})
        super().__init__([JsonlTracker(), self.mlflow])


@pytest.fixture(autouse=True)
def here(empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory holds a fresh store."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    return tmp_path


def uri() -> str:
    return store.resolve_uri(None)


def found(name: str = "tiny") -> list[Any]:
    """Parent runs of an experiment."""
    client = store.open_client(uri())
    experiment = client.get_experiment_by_name(name)
    runs = client.search_runs([experiment.experiment_id], order_by=["start_time"]) if experiment else []
    return [run for run in runs if "clkd.experience" not in run.data.tags]


# Logins


@contextmanager
def guarded(server: str, accepted: str) -> Iterator[str]:
    """What companies put in front of a server: whoever does not send this `Authorization` gets a 401, and no more."""
    host = server.removeprefix("http://")

    class Guard(http.server.BaseHTTPRequestHandler):
        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.headers.get("Authorization") != accepted:
                self.send_response(401)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            behind = http.client.HTTPConnection(host, timeout=60)
            behind.request(self.command, self.path, body, dict(self.headers))
            answer = behind.getresponse()
            content = answer.read()
            behind.close()
            self.send_response(answer.status)
            self.send_header("Content-Type", answer.headers.get("Content-Type") or "")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = answer  # noqa: N815  # the names that http.server looks for

        def log_message(self, *arguments: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Guard) as guard:
        guard.daemon_threads = True
        threading.Thread(target=guard.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{guard.server_port}"
        finally:
            guard.shutdown()


BASIC = "Basic " + base64.b64encode(b"me:secret").decode()
LOGINS = [
    (BASIC, {"MLFLOW_TRACKING_USERNAME": "me", "MLFLOW_TRACKING_PASSWORD": "secret"}),
    ("Bearer t0ken", {"MLFLOW_TRACKING_TOKEN": "t0ken"}),
]


@pytest.mark.slow
@pytest.mark.parametrize(("accepted", "login"), LOGINS, ids=["password", "token"])
def test_a_login_lets_everything_in(
    server: Server, drive: Any, make_run: Any, monkeypatch: pytest.MonkeyPatch, accepted: str, login: dict[str, str],
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    for name, value in login.items():
        monkeypatch.setenv(name, value)
    with guarded(server.uri, accepted) as guard:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", guard)
        run = drive(Recorded(), make_run(id=f"in-{len(login)}"))
        (own,) = [r for r in found() if r.data.tags["clkd.run_id"] == run.id]
        assert own.info.status == "FINISHED"
        assert store.open_client(guard).list_artifacts(own.info.run_id, "figures"), "artifacts go the same way"
        assert not sync(run.directory, guard).brought
    assert "MLflow lacks" not in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("login", "said"),
    [
        ({}, r"wants a login \(401\): set \$MLFLOW_TRACKING_USERNAME and \$MLFLOW_TRACKING_PASSWORD, or"),
        (
            {"MLFLOW_TRACKING_USERNAME": "me", "MLFLOW_TRACKING_PASSWORD": "guess"},
            r"does not accept \$MLFLOW_TRACKING_USERNAME and \$MLFLOW_TRACKING_PASSWORD \(401\): put them right",
        ),
        ({"MLFLOW_TRACKING_TOKEN": "guess"}, r"does not accept \$MLFLOW_TRACKING_TOKEN \(401\): put them right"),
    ],
)
def test_a_wrong_login_is_one_line_at_once(
    server: Server, drive: Any, make_run: Any, monkeypatch: pytest.MonkeyPatch, login: dict[str, str], said: str,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    for name, value in login.items():
        monkeypatch.setenv(name, value)
    with guarded(server.uri, BASIC) as guard:
        begin = time.monotonic()
        run = drive(Recorded(guard), make_run(id="out"))
        assert time.monotonic() - begin < 60, "half of what a server is waited for"
        (line,) = [r.getMessage() for r in caplog.records if "MLflow lacks" in r.getMessage()]
        assert "11 of this run's 11 records" in line
        assert "\n" not in line
        assert "secret" not in caplog.text
        with pytest.raises(TrackingError, match=said):
            sync(run.directory, guard)
        trackers = Trackers([JsonlTracker(), MlflowTracker(guard, required=True)], required=True)
        with pytest.raises(TrackingError, match=rf"tracking is required, but MLflow server {guard} {said}"):
            trackers.start(make_run(id="required"))


@pytest.mark.slow  # a server of its own, which makes two databases
@pytest.mark.skipif(not HAS_FLASK_WTF, reason="Flask-WTF is missing: pip install mlflow[auth]")
@pytest.mark.timeout(400)
def test_mlflows_own_basic_auth(
    drive: Any, make_run: Any, here: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    home = here / "server"
    home.mkdir()
    shutil.copy(here / "mlflow.db", home / "mlflow.db")
    (home / "auth.ini").write_text(
        f"[mlflow]\ndefault_permission = READ\ndatabase_uri = sqlite:///{home}/auth.db\n"
        f"admin_username = {ADMIN}\nadmin_password = {PASSWORD}\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
    )
    secrets = {"MLFLOW_AUTH_CONFIG_PATH": str(home / "auth.ini"), "MLFLOW_FLASK_SERVER_SECRET_KEY": "key"}
    server = Server(home, "--app-name", "basic-auth", **secrets)
    server.start()
    address = server.uri
    try:
        run = make_run(id="basic")
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", ADMIN)
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "wrong")
        with pytest.raises(TrackingError, match="does not accept"):
            sync(drive(JsonlTracker(), run).directory, address)
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
        assert sync(run.directory, address).brought["children"] == 3
        drive(Recorded(address), make_run(id="live"))
        assert "MLflow lacks" not in caplog.text
        assert not sync(run.directory, address).brought
    finally:
        server.kill()


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A server's key and certificate that it has signed by itself."""
    pytest.importorskip("cryptography")
    import datetime
    import ipaddress

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    made = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    made = made.not_valid_before(now - datetime.timedelta(days=1)).not_valid_after(now + datetime.timedelta(days=1))
    here = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    signed = made.add_extension(here, critical=False).sign(key, hashes.SHA256())
    private = serialization.PrivateFormat.PKCS8
    text = key.private_bytes(serialization.Encoding.PEM, private, serialization.NoEncryption())
    path = tmp_path / "server.pem"
    path.write_bytes(text + signed.public_bytes(serialization.Encoding.PEM))
    return path


def test_certificates_are_trusted_as_mlflow_trusts_them(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Healthy(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()

        def log_message(self, *arguments: Any) -> None:
            pass

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with http.server.HTTPServer(("127.0.0.1", 0), Healthy) as secure:
        secure.socket = context.wrap_socket(secure.socket, server_side=True)
        secure.handle_error = lambda request, address: None  # type: ignore[method-assign]  # clients that hang up
        threading.Thread(target=secure.serve_forever, daemon=True).start()
        address = f"https://127.0.0.1:{secure.server_port}"
        try:
            with pytest.raises(TrackingError, match=r"does not answer.*certificate"):
                store.check_reachable(address)
            monkeypatch.setenv("MLFLOW_TRACKING_SERVER_CERT_PATH", str(certificate))
            store.check_reachable(address)
            monkeypatch.delenv("MLFLOW_TRACKING_SERVER_CERT_PATH")
            monkeypatch.setenv("MLFLOW_TRACKING_INSECURE_TLS", "true")
            store.check_reachable(address)
        finally:
            secure.shutdown()


# Variables


@pytest.mark.slow
def test_the_experiment_that_the_environment_names(drive: Any, make_run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """By id before by name; what the scenario says goes first, and a run that is resumed stays where it is."""
    client = store.open_client(uri())
    by_id = client.create_experiment("by id", Path.cwd().as_uri())
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "by name")
    run = drive(Recorded(), make_run(id="a"), experiences=1)
    assert [r.data.tags["clkd.run_id"] for r in found("by name")] == ["a"]
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", by_id)
    drive(Recorded(), make_run(id="b"), experiences=0)
    assert [r.data.tags["clkd.run_id"] for r in found("by id")] == ["b"]
    drive(Recorded(experiment="mine"), make_run(id="c"), experiences=0)
    assert [r.data.tags["clkd.run_id"] for r in found("mine")] == ["c"]
    drive(Recorded(), make_run(id="a", trained=1, tracking=run.tracking))
    assert [r.data.tags["clkd.run_id"] for r in found("by name")] == ["a"]
    assert len(found("by id")) == 1
    assert not sync(run.directory, noted=run.tracking["mlflow"]).brought
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", "4711")
    with pytest.raises(TrackingError, match=r"\$MLFLOW_EXPERIMENT_ID is '4711', but sqlite:///.* has no such"):
        sync(make_and_drive(drive, make_run, "d"))


def make_and_drive(drive: Any, make_run: Any, name: str) -> Path:
    directory: Path = drive(JsonlTracker(), make_run(id=name)).directory
    return directory


@pytest.mark.slow
def test_the_run_that_the_environment_names(drive: Any, make_run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It becomes clkd's, and ends as clkd's does; the second run is a child of it."""
    client = store.open_client(uri())
    experiment = client.create_experiment("theirs", Path.cwd().as_uri())
    theirs = client.create_run(experiment, run_name="nightly", tags={"mlflow.source.name": "job.py", "team": "x"})
    monkeypatch.setenv("MLFLOW_RUN_ID", theirs.info.run_id)
    run = drive(Recorded(), make_run(id="a"))
    now = client.get_run(theirs.info.run_id)
    assert (now.info.run_name, now.info.status) == ("nightly", "FINISHED")
    assert (now.data.tags["clkd.run_id"], now.data.tags["mlflow.source.name"]) == ("a", "job.py")
    assert now.data.params["seed"] == "3"
    assert now.data.metrics["acc_matrix/exp_02"] == 0.95
    assert os.environ["MLFLOW_RUN_ID"] == theirs.info.run_id
    assert not sync(run.directory, noted=run.tracking["mlflow"]).brought
    drive(Recorded(), make_run(id="b"), experiences=1)
    below = [r for r in found("theirs") if r.data.tags.get("clkd.run_id") == "b"]
    assert [r.data.tags["mlflow.parentRunId"] for r in below] == [theirs.info.run_id]
    monkeypatch.setenv("MLFLOW_RUN_ID", "0" * 32)
    tracker = Recorded()
    tracker.start(make_run(id="c"))
    with pytest.raises(TrackingError, match=r"\$MLFLOW_RUN_ID is '0{32}', but .* has no such run: unset it"):
        tracker.mlflow.settle()
    tracker.mlflow._worker.close()


@pytest.fixture
def mlflow(here: Path) -> Iterator[Any]:
    """Whoever uses MLflow by themselves, in the store of the current directory."""
    import mlflow

    mlflow.set_tracking_uri(uri())
    yield mlflow
    while mlflow.active_run():
        mlflow.end_run()
    mlflow.set_tracking_uri(None)


@pytest.mark.parametrize("status", ["finished", "failed"])
def test_an_active_run_becomes_clkds_and_its_owner_ends_it(
    mlflow: Any, drive: Any, make_run: Any, status: str, caplog: pytest.LogCaptureFixture
) -> None:
    with mlflow.start_run(
        run_name="notebook", experiment_id=mlflow.create_experiment("mine", Path.cwd().as_uri())
    ) as active:
        mlflow.log_param("seed", "mine, not clkd's")
        source = active.data.tags["mlflow.source.name"]
        run = drive(Recorded(), make_run(id="a"), status=status, error="why" if status == "failed" else None)
        during = mlflow.get_run(active.info.run_id)
        assert during.info.status == "RUNNING"
        assert mlflow.active_run().info.run_id == active.info.run_id
        mlflow.log_metric("after", 1.0)
    now = mlflow.get_run(active.info.run_id)
    assert now.info.status == "FINISHED"
    assert now.info.run_name == "notebook"
    assert now.data.params["seed"] == "mine, not clkd's"
    assert now.data.params["losses.1.kind"] == "kd"
    assert now.data.metrics["acc_matrix/exp_02"] == 0.95
    assert now.data.tags["mlflow.source.name"] == source
    assert now.data.tags["clkd.status_detail"] == status
    children = [r for r in found("mine") if r.data.tags.get("mlflow.parentRunId")]
    assert not children, "experiences alone are below it"
    assert len(run.tracking["mlflow"]["children"]) == 3
    end = now.info.end_time
    assert not sync(run.directory, noted=run.tracking["mlflow"]).brought
    assert mlflow.get_run(active.info.run_id).info.end_time == end
    assert "MLflow lacks" not in caplog.text


def test_several_runs_within_one_active_run_are_its_children(mlflow: Any, drive: Any, make_run: Any) -> None:
    with mlflow.start_run(experiment_id=mlflow.create_experiment("mine", Path.cwd().as_uri())) as active:
        for name in ("a", "b"):
            drive(Recorded(), make_run(id=name), experiences=1)
    runs = {r.data.tags["clkd.run_id"]: r for r in found("mine")}
    assert runs["a"].info.run_id == active.info.run_id
    assert runs["b"].data.tags["mlflow.parentRunId"] == active.info.run_id
    assert runs["b"].info.status == "FINISHED"


def test_a_run_that_is_active_in_another_store_is_none_of_ours(
    mlflow: Any, drive: Any, make_run: Any, here: Path, empty_store: Path
) -> None:
    shutil.copy(empty_store, here / "other.db")
    with mlflow.start_run(experiment_id=mlflow.create_experiment("mine", here.as_uri())) as active:
        drive(Recorded(f"sqlite:///{here}/other.db"), make_run(id="a"), experiences=1)
        assert "clkd.run_id" not in mlflow.get_run(active.info.run_id).data.tags
    client = store.open_client(f"sqlite:///{here}/other.db")
    assert client.get_experiment_by_name("tiny")

"""W&B is online only for who is logged in and connected, says so once, and never waits long."""

import http.server
import importlib
import logging
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.loggers import WandbLogger
from torch.utils.data import DataLoader, Dataset

from callbacks.wandb_logger import choose_mode, has_key
from flowfeat.cli import compose_config
from flowfeat.trust import build

KEY = "0123456789" * 4


@pytest.fixture(autouse=True)
def nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user who is not logged in."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


@pytest.fixture
def server() -> Iterator[str]:
    """A server that answers, with a refusal."""

    class Refusing(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(401)
            self.end_headers()

        def log_message(self, *arguments: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{listening.server_port}"
        listening.shutdown()


def test_a_key_is_found_where_wandb_login_puts_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = "https://api.wandb.ai"
    assert not has_key(server)
    (tmp_path / "netrc").write_text(f"machine api.wandb.ai login user password {KEY}\n")
    assert has_key(server)
    assert not has_key("https://wandb.example.org")
    (tmp_path / "netrc").write_text("not a netrc file\n")
    assert not has_key(server)
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    assert has_key(server)


def test_online_needs_a_key_and_an_answer(monkeypatch: pytest.MonkeyPatch, server: str) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", server)
    assert choose_mode(5.0) == ("offline", "not logged in")
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    assert choose_mode(5.0) == ("online", "")
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert choose_mode(5.0) == ("offline", "WANDB_MODE")
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert choose_mode(5.0) == ("disabled", "WANDB_MODE")


def test_a_server_that_stays_silent_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts, and never answers
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setenv("WANDB_BASE_URL", url)
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        begin = time.perf_counter()
        assert choose_mode(0.2) == ("offline", f"{url} does not answer")
        assert time.perf_counter() - begin < 5
    assert choose_mode(5.0)[0] == "offline"  # now it refuses connections


def test_an_unknown_mode_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "sometimes")
    with pytest.raises(ValueError, match=r"WANDB_MODE=sometimes: expected one of online, offline"):
        choose_mode(1.0)


class Importing(Dataset[int]):
    """Imports a library where it is read, as augmentation does."""

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> int:
        importlib.import_module("catboost")
        return 1


def test_offline_run_is_written_into_the_run_folder_and_announced_once(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    config = OmegaConf.create({"l": 10, "head": {"_target_": "os.getcwd"}})
    folder = tmp_path / "vid" / "dff" / "now"
    with caplog.at_level(logging.INFO):
        logger = build(_leaf("wandb"))(folder=folder, config=config)
    assert isinstance(logger, WandbLogger)
    run = logger.experiment
    try:
        logger.log_metrics({"mAP_l10": 0.5}, step=3)
        assert run.name == "vid/dff/now"
        assert run.config["head"]["_target_"] == "os.getcwd"  # shown, not called
        (line,) = [r.getMessage() for r in caplog.records if r.name == "callbacks.wandb_logger"]
        (written,) = (folder / "wandb").glob("offline-run-*")
        assert line == f"W&B: offline (not logged in), in {written}"
        # A library that W&B looks out for, imported by a forked data worker.
        (tmp_path / "catboost.py").write_text("")
        monkeypatch.syspath_prepend(tmp_path)
        assert list(DataLoader(Importing(), num_workers=1, multiprocessing_context="fork")) == [1]
    finally:
        run.finish()
    assert list(written.glob("*.wandb"))
    assert "wandb" not in "".join(capfd.readouterr())  # W&B itself stays silent


def test_no_logger_is_a_choice() -> None:
    assert compose_config(["logger=none"]).logger == {}


def _leaf(name: str) -> DictConfig:
    node = compose_config([f"logger={name}"]).logger
    assert isinstance(node, DictConfig)
    return node

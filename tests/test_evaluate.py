"""Evaluating a checkpoint: the same figures as the task itself gives, and one-line refusals."""

import json
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from flowfeat import cli, evaluate
from flowfeat.build import build_data, build_task
from flowfeat.checkpoint import KEY, Provenance
from flowfeat.streaming import Stream
from flowfeat.tasks.detection import DetectionTask

TINY = (
    "features.model=test_resnet",
    "flow.width=16",
    "head.anchor_sizes=[16,32]",
    "data.short_side=32",
    "data.long_side=64",
    "data.num_workers=0",
    "++data.synthetic={train_snippets: 1, val_snippets: 2, frames: 7, stills: 0}",
    "logger=none",
    "callbacks=quiet",
    "callbacks.speed=null",
    "callbacks.pictures=null",
    "trainer.accelerator=cpu",
    "evaluation.intervals=[1]",
    "evaluation.pairs_every=4",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("evaluate")


@pytest.fixture(scope="module")
def ckpt(folder) -> Path:
    """Return a checkpoint of a small DFF with random weights."""
    config = cli.compose_config([*TINY, f"data.synthetic_root={folder / 'data'}"])
    classes = build_data(config).classes
    torch.manual_seed(0)
    task = build_task(config, classes)
    path = folder / "best.ckpt"
    content = {"state_dict": task.state_dict(), KEY: Provenance(config, classes).record}
    torch.save(content, path)
    return path


def run(monkeypatch, ckpt: Path, *words: str) -> None:
    root = f"run_root={ckpt.parent / 'runs'}"
    monkeypatch.setattr("sys.argv", ["flowfeat-evaluate", f"ckpt={ckpt}", root, *words])
    evaluate.main()


def refusal(monkeypatch, capsys, ckpt: Path, *words: str) -> str:
    with pytest.raises(SystemExit) as left:
        run(monkeypatch, ckpt, *words)
    assert left.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    said = [line for line in lines if line.startswith("flowfeat: error: ")]
    assert said == lines[-1:]
    return said[0].removeprefix("flowfeat: error: ")


def test_the_report_is_what_the_stored_task_scores(monkeypatch, ckpt, capsys):
    run(monkeypatch, ckpt, "key_frames.interval=3")
    [report] = (ckpt.parent / "runs" / "vid" / "dff").glob("*/results.json")
    results = json.loads(report.read_text())
    scores = {
        f"{name}_{s}" for name in ("mAP", "AP50") for s in ("l1", "l3", "copy_l3", "pairs_l3")
    }
    assert scores <= set(results)
    assert not any(key.endswith("_l10") for key in results)
    assert OmegaConf.load(report.parent / "config.yaml").key_frames.interval == 3
    assert not list(report.parent.rglob("*.ckpt"))
    assert "mAP" in capsys.readouterr().out

    # The same network, streamed by hand at l = 1.
    config = OmegaConf.create(torch.load(ckpt, weights_only=True)[KEY]["config"])
    data = build_data(config)
    data.setup("test")
    task = build_task(config, data.classes).eval()
    task.load_state_dict(torch.load(ckpt, weights_only=True)["state_dict"])
    task.temporal.key_frames = type(task.temporal.key_frames)(interval=1)
    with torch.no_grad():
        for batch in data.test_dataloader():
            for t in range(batch["frames"].shape[1]):
                output, _ = task.temporal.step(batch["frames"][:, t], torch.tensor([True]), None)
                raw = task.head(output.features, output.frames)
                task.score(task.head.postprocess(raw, batch["sizes"]), task.truth(batch, t))
    assert results["AP50_l1"] == pytest.approx(float(task.metrics["AP50"].compute()), rel=1e-5)
    assert results["AP50_l1"] > 0


def test_switches_of_acceleration_act_and_keep_the_scores(monkeypatch, ckpt):
    seen = set()

    def push(self, frames, *rest):
        weight = next(p for p in self.temporal.parameters() if p.ndim == 4 and min(p.shape) > 1)
        fast = torch.is_autocast_enabled("cpu"), torch.is_inference_mode_enabled()
        seen.add((*fast, weight.is_contiguous(memory_format=torch.channels_last)))
        return plain(self, frames, *rest)

    def score(self, predictions, truth):
        assert not torch.is_autocast_enabled("cpu")
        return scored(self, predictions, truth)

    plain, scored = Stream.push, DetectionTask.score
    monkeypatch.setattr(Stream, "push", push)
    monkeypatch.setattr(DetectionTask, "score", score)
    few = ["evaluation.intervals=[]", "key_frames.interval=2", "evaluation.copy=false"]
    few += ["callbacks.speed={_target_: callbacks.speed_monitor.SpeedMonitor, seconds: 0.1}"]
    exact = ("channels_last=true", "inference_mode=false", "compile=[key]", "backend=aot_eager")
    reports = []
    for switches in ((), exact, ("autocast=true",)):
        root = ckpt.parent / f"{len(reports)}"
        words = [f"acceleration.{switch}" for switch in switches]
        run(monkeypatch, ckpt, *few, *words, f"run_root={root}")
        (report,) = root.glob("vid/dff/*/results.json")
        reports.append(json.loads(report.read_text()))
        # The speed's own streams too.
        assert seen == {("autocast=true" in switches, switches != exact, switches == exact)}
        seen.clear()
    plainly, quickly, _ = reports
    assert quickly["gflops_N_feat_l2"] == plainly["gflops_N_feat_l2"]  # though it is compiled
    for name in ("mAP_l2", "AP50_l2", "mAP_pairs_l2"):
        assert quickly[name] == pytest.approx(plainly[name], abs=1e-3)


def test_every_evaluation_has_a_folder_of_its_own(tmp_path):
    config = OmegaConf.create({"run_root": str(tmp_path), "task": "vid", "method": "dff"})
    folders = {evaluate.run_folder(config) for _ in range(3)}
    assert len(folders) == 3
    assert all(folder.is_dir() and folder.parent == tmp_path / "vid/dff" for folder in folders)


def test_a_checkpoint_cannot_lead_out_of_the_run_root(tmp_path):
    config = OmegaConf.create({"run_root": str(tmp_path), "task": "..", "method": "dff"})
    with pytest.raises(ValueError, match=r"task=\.\.: expected a plain name"):
        evaluate.run_folder(config)


def test_a_run_root_that_cannot_be_written_is_named(monkeypatch, capsys, ckpt, tmp_path):
    (tmp_path / "file").touch()
    line = refusal(monkeypatch, capsys, ckpt, f"run_root={tmp_path / 'file' / 'runs'}")
    assert line.startswith(f"run_root={tmp_path}/file/runs: ")
    assert "directory" in line


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("task=ucf101", "was trained for task vid"),
        ("features=resnet34_s8", "does not fit the config, "),
        ("key_frames.interval=0", "key_frames.interval: expected an integer >= 1, found 0"),
        ("data.synthetic.scene={colours: 2}", "unknown key"),
        ("data.synthetic.scene={classes: 2}", "knows 10 classes (striped disc, star, ring, ...), "),
        ("data.root=/no/such/root", "/no/such/root"),
        ("data=vidd", "data=vidd: unknown choice, expected one of "),
    ],
)
def test_a_config_that_does_not_fit_ends_in_one_line(monkeypatch, capsys, ckpt, change, said):
    assert said in refusal(monkeypatch, capsys, ckpt, change)


def test_what_is_no_checkpoint_is_named(monkeypatch, capsys, tmp_path):
    missing, text, foreign, cut, half, code = (tmp_path / f"{name}.ckpt" for name in "abcdef")
    text.write_text("not weights")
    torch.save({"state_dict": {}}, foreign)
    cut.write_bytes(foreign.read_bytes()[:200])
    torch.save({"state_dict": {"w": torch.zeros(4000)}}, half)
    half.write_bytes(half.read_bytes()[:5000])
    torch.save({"state_dict": {}, "path": tmp_path}, code)
    for path, said in (
        (missing, "no such checkpoint"),
        (text, "not a readable checkpoint (it is no file of torch)"),
        (foreign, "not a checkpoint of flowfeat"),
        (cut, "not a readable checkpoint (it is cut short or damaged)"),
        (half, "not a readable checkpoint (it is cut short or damaged)"),
        (code, "not a readable checkpoint (it holds pathlib.PosixPath, expected tensors and plain"),
    ):
        line = refusal(monkeypatch, capsys, path)
        assert line.startswith(f"{path}: {said}")
        assert "weights_only" not in line

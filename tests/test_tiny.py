"""The whole pipeline on the shipped suite: small budgets, real models."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from redcloak.audit import Audit
from redcloak.config import AuditConfig, Choice
from redcloak.images import linf_on_disk, list_images
from redcloak.report.model import read_report
from redcloak.report.table import Table
from redcloak.runtime.execute import Event
from redcloak.suite import SUITES, load


def config(**more: object) -> AuditConfig:
    quick = {"steps": 2, "batch": 2}
    values = {
        "photos": "drawn:1",
        "protection": Choice(name="aspl", settings={"rounds": 1, "clean_steps": 1, "protected_steps": 1, "batch": 1}),
        "trainer": Choice(name="dreambooth", settings=quick),
        "images_per_prompt": 2,
        "sampling_steps": 3,
        "class_images": 4,
        "seeds": (0,),
        "workers": 1,
    }
    return AuditConfig(**(values | more))


def test_the_manifest_covers_every_weight():
    folder = SUITES / "tiny"
    signed = json.loads((folder / "manifest.json").read_text())
    weights = {path.relative_to(folder).as_posix() for path in folder.rglob("*.safetensors")}
    assert weights
    assert weights <= signed.keys()


def test_the_weights_are_small():
    total = sum(path.stat().st_size for path in (SUITES / "tiny").rglob("*.safetensors"))
    assert total < 25e6


def written(rows):
    """Rows as a report writes them: an undefined number equals another there."""
    return [row.model_dump_json() for row in rows]


def test_an_audit_from_photos_to_a_report(tmp_path: Path):
    events: list[Event] = []
    audit = Audit.prepare(config(), tmp_path / "audit")
    report = audit.run(events.append)
    assert [arm.name for arm in report.arms] == [
        "untuned", "clean", "random_noise", "protected", "protected+gaussian", "protected+jpeg", "protected+codesr",
        "red_team", "clean+red_team",
    ]  # fmt: skip
    page = (tmp_path / "audit" / "report.html").read_text()
    assert report.verdict.sentence.split(":")[0] in page
    assert "http-equiv" in page
    scores = Table.read(tmp_path / "audit" / "scores.parquet")
    assert set(scores.metric) == {
        "identity", "identity_zero", "face_found", "quality", "alignment", "linf", "l2", "psnr", "ssim",
    }  # fmt: skip
    assert scores.select(arm="protected", metric="linf").value.max() <= 11
    assert read_report(tmp_path / "audit" / "report.json").verdict == report.verdict
    events.clear()
    again = Audit.prepare(config(), tmp_path / "audit").run(events.append)
    assert {event.kind for event in events} == {"cached"}
    assert written(again.rows) == written(report.rows)


def test_the_workers_make_no_difference(tmp_path: Path):
    one = Audit.prepare(config(purifiers=()), tmp_path / "one")
    two = Audit.prepare(config(purifiers=(), workers=2), tmp_path / "two")
    assert [node.key for node in one.targets()] == [node.key for node in two.targets()]


def test_photos_that_another_tool_protected(tmp_path: Path):
    from redcloak.images import save_images, to_tensor
    from redcloak.portraits import subject

    clean = to_tensor(subject(2, shots=7))
    save_images(tmp_path / "clean", clean)
    save_images(tmp_path / "other", (clean + 5 / 255).clamp(0, 1), [f"1_noise_{i:03d}" for i in range(7)])
    given = config(photos=str(tmp_path / "other"), already_protected=str(tmp_path / "clean"), purifiers=(), budget=5)
    report = Audit.prepare(given, tmp_path / "audit").run()
    assert Table.read(tmp_path / "audit" / "scores.parquet").select(arm="protected", metric="linf").value.max() == 5
    assert "budget-exceeded" not in {flag.anchor for flag in report.flags}


@pytest.mark.slow
def test_killed_anywhere_it_goes_on(tmp_path: Path):
    settings = tmp_path / "audit.yaml"
    import yaml

    settings.write_text(yaml.safe_dump(config(purifiers=(), workers=2).model_dump(mode="json")))
    command = [sys.executable, "-m", "redcloak", "audit", "--config", str(settings), "--out", str(tmp_path / "out")]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    for delay in (6.0, 9.0):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.wait()
    done = {path.parent.name: path.stat().st_mtime_ns for path in (tmp_path / "out/store").rglob("stage.json")}
    subprocess.run(command, check=True, capture_output=True, env=environment)
    after = {path.parent.name: path.stat().st_mtime_ns for path in (tmp_path / "out/store").rglob("stage.json")}
    assert done.items() <= after.items(), "a finished stage was computed twice"
    whole = Audit.prepare(config(purifiers=()), tmp_path / "undisturbed").run()
    assert written(read_report(tmp_path / "out" / "report.json").rows) == written(whole.rows)


def test_the_budget_of_every_protection_holds_on_disk(tmp_path: Path):
    audit = Audit.prepare(config(purifiers=(), budget=4), tmp_path / "audit")
    audit.run()
    clean, noisy, protected = (
        list_images(audit.store.path(arm.photos.key) / "images")
        for arm in audit.arms
        if arm.photos and arm.summary.name in {"clean", "random_noise", "protected"}
    )
    for original, first, second in zip(clean, noisy, protected, strict=True):
        assert linf_on_disk(original, first) == 4
        assert 0 < linf_on_disk(original, second) <= 4


def test_the_suite_checks_its_files():
    suite = load("tiny")
    assert suite.fingerprint("backbone") != suite.fingerprint("clip")


def test_the_text_encoder_keeps_a_rare_word():
    """An identifier that left no trace could not be told from nothing, and the subject would go to other words."""
    embed = load("tiny").backbone.embed
    plain, named, other = embed(["a photo of person", "a photo of sks person", "a photo of qzx person"])
    suffixed, denied = embed(["a photo of person, bhj noisy pattern", "a photo of person, without bhj noisy pattern"])
    moved = (named - plain).pow(2).sum()
    assert moved > (suffixed - denied).pow(2).sum() / 10
    assert (named - other).pow(2).sum() > moved / 4


def test_the_pixel_model_takes_noise_off():
    from diffusers import DDPMScheduler, UNet2DModel

    from redcloak.images import to_tensor
    from redcloak.portraits import subject

    folder = SUITES / "tiny" / "pixel"
    model = UNet2DModel.from_pretrained(folder, use_safetensors=True).float().eval()
    abar, time = DDPMScheduler.from_pretrained(folder).alphas_cumprod, 60
    clean = to_tensor(subject(3, shots=4)) * 2 - 1
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    noisy = abar[time].sqrt() * clean + (1 - abar[time]).sqrt() * noise
    with torch.no_grad():
        left = noise - model(noisy, time).sample
    assert left.pow(2).mean() < 0.3 * noise.pow(2).mean()

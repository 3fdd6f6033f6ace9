"""`--mode=sample`: a grid of samples from a run's newest checkpoint, and what it cost."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from flexidit_jax.api import load
from flexidit_jax.common.errors import UserError
from flexidit_jax.jobs.parts.experiment import build_experiment
from flexidit_jax.jobs.parts.workdir import check_config
from flexidit_jax.sampling.schedule import text_of

PLAN_WORDS = ("steps", "schedule", "guide", "budget", "guidance", "weak")


def run(config: ConfigDict, workdir: Path) -> int:
    """Samples `config.sample` and writes `workdir/samples/<schedule>_seed<n>.png`."""
    experiment = build_experiment(config)
    flex = load(workdir)
    check_config(workdir, experiment.raw)
    words = {key: value for key, value in experiment.sample.items() if key in PLAN_WORDS}
    schedule, guide = flex.plan(**words)
    clock = time.perf_counter()
    images = flex.sample(**experiment.sample)
    seconds = time.perf_counter() - clock

    name = text_of(schedule).replace(":", "x").replace(",", "_")
    file = workdir / "samples" / f"{name}_seed{experiment.sample.get('seed', 0)}.png"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        contact_sheet(images).save(file)
    except OSError as error:
        raise UserError(f"cannot write {file} ({error.strerror})") from None
    flops = flex.flops(**words)
    print(f"schedule: {text_of(schedule)}; guide: {text_of(guide) if guide else 'none'}")
    print(f"FLOPs: {flops.total / 1e9:.3f} G per sample, {100 * flops.relative:.1f} % of every step powerful")
    print(f"seconds: {seconds:.1f} for {len(images)} samples, compilation included")
    print(f"written: {file}")
    return 0


def contact_sheet(images: np.ndarray, gap: int = 1, smallest: int = 48) -> Image.Image:
    """uint8 [N, H, W, C] (or the first frames of [N, F, H, W, C]) as one near-square picture.

    Images under `smallest` pixels are enlarged by a whole factor.
    """
    if images.ndim == 5:
        images = images[:, 0]
    n, h, w, c = images.shape
    zoom = max(1, -(-smallest // max(h, w)))
    images = images.repeat(zoom, axis=1).repeat(zoom, axis=2)
    h, w = h * zoom + gap, w * zoom + gap
    columns = next((k for k in (10, 8, 5, 4) if n % k == 0 and n // k <= k * 2), int(np.ceil(n**0.5)))
    sheet = np.full((-(-n // columns) * h + gap, columns * w + gap, c), 255, np.uint8)
    for i, image in enumerate(images):
        top, left = (i // columns) * h + gap, (i % columns) * w + gap
        sheet[top : top + h - gap, left : left + w - gap] = image
    return Image.fromarray(sheet[..., 0] if c == 1 else sheet)

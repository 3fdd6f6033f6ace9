"""A config as objects, every key checked before any work starts."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from flexidit_jax.common import build
from flexidit_jax.common.build import Section
from flexidit_jax.common.config import plain
from flexidit_jax.common.errors import UserError, together
from flexidit_jax.diffusion.process import NoiseProcess, suits
from flexidit_jax.evaluation.studies.quality_vs_compute import Report
from flexidit_jax.evaluation.studies.schedule_search import Search, build_search
from flexidit_jax.experiment.dataset import build_dataset
from flexidit_jax.experiment.sections import (
    Compilation,
    Decoding,
    Encoding,
    Evaluation,
    Generation,
    Referencing,
    Sampling,
    build_sampling,
)
from flexidit_jax.models.build import build_dit
from flexidit_jax.models.dit import DiT
from flexidit_jax.models.patch import grid
from flexidit_jax.programs.bundle import Export
from flexidit_jax.runs.binding import origin
from flexidit_jax.sampling.asked import fitting
from flexidit_jax.sampling.packing import choices
from flexidit_jax.sampling.schedule import parse_guide
from flexidit_jax.sampling.spec import INTRODUCED, own_words
from flexidit_jax.training.section import Training, build_training
from flexidit_jax.training.sharding import make_mesh


@dataclass(frozen=True)
class Experiment:
    """Everything a config names, built.

    Attributes:
      raw: the config as JSON holds it, classes counted and named.
      defaults: what its keys mean where they are left out, by path.
      seed: of the first parameters and of all that training draws.
      model, process, codec, train: the sections of these names, built.
      dataset: what is trained on and scored; None where nothing is.
      text: the encoder of prompts; None for what the model that is loaded has.
      init_from: a run, saved model or DiT weight file to start from; None starts from scratch.
      profile_at: steps done before a few are traced; None traces none.
      sample: the `sample` section.
      evaluate: None for no scores.
      report: the points of the report, None for no report.
      generate: many images, None for none.
      export: the `export` section.
      search: which budgets to search schedules for, None for none.
      encode: how latents are kept on disk.
      decode: which latents of samples are decoded.
      reference: which statistics of the dataset are kept.
      compile: the `compile` section.
    """

    raw: dict[str, Any]
    defaults: dict[str, Any]
    seed: int
    init_from: str | None
    profile_at: int | None
    model: DiT
    process: NoiseProcess
    codec: Any
    dataset: Any
    text: Any
    train: Training
    sample: Sampling
    evaluate: Evaluation | None
    report: Report | None
    generate: Generation | None
    export: Export
    search: Search | None
    encode: Encoding
    decode: Decoding
    reference: Referencing
    compile: Compilation

    @property
    def origin(self) -> dict[str, Any]:
        """What the latents of this config depend on (see `runs.binding.origin`)."""
        return origin(self.raw["dataset"], self.raw["codec"]["name"], self.codec)

    @property
    def origin_defaults(self) -> dict[str, Any]:
        """What the keys of `origin` mean where they are left out."""
        return {re.sub(r"^dataset\.of\.", "dataset.", key): value for key, value in self.defaults.items()}

    def wants_dataset(self) -> None:
        """Refuses a config that has none.

        Raises:
          UserError: so it is.
        """
        if self.dataset is None:
            raise UserError(
                "config key 'config.dataset' is None, so nothing can be trained on or scored; name a dataset"
            )

    def check(self, *wanted: Callable[[], Any]) -> list[Any]:
        """Says before long work, and of everything at once, what is missing or does not fit: what a job wants, weights
        of the codec, records of another codec, features to score with.

        Args:
          wanted: what makes it, such as `dataset.source`.

        Returns:
          What `wanted` made.

        Raises:
          UserError: so it is; what is wanted is named first.
        """
        reported = () if self.report is None else (self.dataset.held_out,)
        return together(*wanted, *reported, self.codec.check, self._check_origin, self._check_features)[: len(wanted)]

    def _check_origin(self) -> None:
        if (check_origin := getattr(self.dataset, "check_origin", None)) is not None:
            check_origin(self.origin, self.origin_defaults)

    def _check_features(self) -> None:
        if self.evaluate is not None:
            build.check_part("flexidit_jax.metrics.features", "Features", self.evaluate.features, "evaluate.features")


def build_experiment(config: ConfigDict, workdir: Path | None = None) -> Experiment:
    """Builds and checks a whole config.

    Args:
      workdir: the run's folder, whose record says how many classes there are where nobody can count them.

    Raises:
      UserError: an unknown key anywhere, or values that do not fit each other.
    """
    raw = plain(config)

    def experiment(
        seed: int,
        model: Section,
        dataset: Section | None,
        train: Section,
        sample: Section,
        process: Section,
        codec: Section,
        text: Section | None = None,
        init_from: str | None = None,
        profile_at: int | None = None,
        evaluate: Section | None = None,
        report: Section | None = None,
        generate: Section | None = None,
        export: Section | None = None,
        search: Section | None = None,
        encode: Section | None = None,
        decode: Section | None = None,
        reference: Section | None = None,
        compile: Section | None = None,
    ) -> Experiment:  # whose docstring says what the keys are
        data = build_dataset(raw, workdir)
        uncounted = getattr(data, "classes", 0) is None
        if uncounted:  # nobody knows how many: all that is missing is said when the keys are looked at
            model = {**model, "conditioner": {**model["conditioner"], "classes": 1}}
        network = build.call(build_dit, model, "model")
        sampling = build_sampling(sample)
        sampling = replace(sampling, spec=sampling.spec.meant(own_words(network.conditioner)))
        evaluation = evaluate and build.call(Evaluation, evaluate, "evaluate")
        if report and not evaluation:
            raise UserError("config key 'evaluate' is missing; the report scores samples with it")
        built = Experiment(
            raw=raw,
            defaults={},
            seed=seed,
            init_from=init_from,
            profile_at=profile_at,
            model=network,
            process=build.part("flexidit_jax.diffusion", "Process", process, "process"),
            codec=build.part("flexidit_jax.codecs", "Codec", codec, "codec"),
            dataset=data,
            text=text and build.part("flexidit_jax.text", "Encoder", text, "text"),
            train=build.call(build_training, {"base": network.base_patch, **train}, "train"),
            sample=sampling,
            evaluate=evaluation,
            report=report and build.call(Report, {"samples": evaluation.samples, **report}, "report"),
            generate=generate and build.call(Generation, generate, "generate"),
            export=build.call(Export, export or {}, "export"),
            search=search and build_search(search, sampling.spec, evaluation and evaluation.samples),
            encode=build.call(Encoding, encode or {}, "encode"),
            decode=build.call(Decoding, decode or {}, "decode"),
            reference=build.call(Referencing, reference or {}, "reference"),
            compile=build.call(Compilation, compile or {}, "compile"),
        )
        build.check(make_mesh, built.train.mesh, "train.mesh")
        if not 0 <= seed < 2**31:
            raise UserError(f"seed must lie in 0..2^31-1, got {seed!r}")
        if profile_at is not None and not 0 <= profile_at < built.train.steps:
            raise UserError(f"profile_at={profile_at} is no step of this run; 0..{built.train.steps - 1} would do")
        classes, there = (getattr(part, "classes", None) for part in (network.conditioner, data))
        if data is not None and not uncounted and classes != there:
            kind, name = model["conditioner"]["name"], dataset["name"]
            if None in (classes, there):
                wanted = "classes" if there is None else "captions"
                raise UserError(f"model.conditioner {kind!r} is trained on {wanted}, and dataset {name!r} has none")
            raise UserError(f"model.conditioner.classes is {classes}, but the dataset has {there}")
        fitting(built.text, network.conditioner)
        shapes = () if data is None else (data.shape, *(getattr(data, "shapes", None) or ()))
        latents = dict.fromkeys(tuple(built.codec.latent_shape(shape)) for shape in shapes) or {network.latent: None}
        if network.latent not in latents:
            found = next(iter(latents))
            raise UserError(f"model.latent is {network.latent}, but dataset and codec make latents of {found}")
        for latent in latents:
            network.sized(latent)
        kind = process["name"]
        if network.learn_variance and not (built.process.learns_variance or built.process.ignores_variance):
            raise UserError(f"model.learn_variance must be False: the {kind} process has no variance to learn")
        sampling.spec.table(built.process)
        for stage in built.train.stages:
            if not suits(type(stage.loss).__call__, built.process):
                loss = type(stage.loss).__module__.rsplit(".", 1)[-1]
                raise UserError(f"train.loss {loss!r} is not one for the {kind} process")
            for patch, latent in product(stage.patches, latents):
                grid(latent, patch)
        last = built.train.stages[-1]
        for point in built.report.points(last.patches) if built.report else ():
            point.spec.table(built.process)
            choices(point.spec.packing, adapters=last.adapters is not None)
            if point.spec.guide is not None:
                parse_guide(point.spec.guide, point.spec.steps, last.patches)
        if uncounted:
            together(data.source, built.codec.check)
        return built

    with build.defaults_noted() as noted:
        built = build.call(experiment, raw, "config")
    defaults = {key.removeprefix("config."): value for key, value in noted.items()}
    return replace(built, defaults=defaults | {f"sample.{key}": value for key, value in INTRODUCED.items()})

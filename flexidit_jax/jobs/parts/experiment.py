"""A config as objects, every key checked before any work starts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ml_collections import ConfigDict

from flexidit_jax.api import FlexiDiT
from flexidit_jax.common import build
from flexidit_jax.common.config import plain
from flexidit_jax.common.errors import UserError
from flexidit_jax.diffusion.process import NoiseProcess, suits
from flexidit_jax.diffusion.solvers import make_table
from flexidit_jax.jobs.parts.counted import count_classes
from flexidit_jax.jobs.parts.exported import Export
from flexidit_jax.jobs.parts.latents import Encoding, origin
from flexidit_jax.jobs.parts.pictures import Files
from flexidit_jax.jobs.parts.points import Report
from flexidit_jax.jobs.parts.searched import Search, build_search
from flexidit_jax.jobs.parts.sections import Compilation, Evaluation, Generation, Section, Training, build_training
from flexidit_jax.models.dit import DiT, build_dit
from flexidit_jax.models.patch import grid
from flexidit_jax.sampling.packing import choices
from flexidit_jax.sampling.schedule import parse_guide
from flexidit_jax.training.sharding import make_mesh


@dataclass(frozen=True)
class Experiment:
    """Everything a config names, built.

    Attributes:
      raw: the config as JSON holds it, classes counted.
      init_from: a run, saved model or DiT weight file to start from; None starts from scratch.
      profile_at: steps done before a few are traced; None traces none.
      sample: keywords of `FlexiDiT.sample`.
      files: the `sample.files` section.
      evaluate: None for no scores.
      report: the points of the report, None for no report.
      generate: many images, None for none.
      export: the `export` section.
      search: which budgets to search schedules for, None for none.
      encode: how latents are kept on disk.
      compile: the `compile` section.
    """

    raw: dict[str, Any]
    seed: int
    init_from: str | None
    profile_at: int | None
    model: DiT
    process: NoiseProcess
    codec: Any
    dataset: Any
    train: Training
    sample: Section
    files: Files
    evaluate: Evaluation | None
    report: Report | None
    generate: Generation | None
    export: Export
    search: Search | None
    encode: Encoding
    compile: Compilation

    def check(self) -> None:
        """Says before long work that weights of the codec are missing, or that records are of another codec.

        Raises:
          UserError: so it is.
        """
        self.codec.check()
        if (check_origin := getattr(self.dataset, "check_origin", None)) is not None:
            check_origin(origin(self))
        if self.report is not None:
            self.dataset.held_out()  # the report wants them


def build_experiment(config: ConfigDict) -> Experiment:
    """Builds and checks a whole config.

    Raises:
      UserError: an unknown key anywhere, or values that do not fit each other.
    """
    raw = plain(config)

    def experiment(
        seed: int,
        model: Section,
        dataset: Section,
        train: Section,
        sample: Section,
        process: Section,
        codec: Section,
        init_from: str | None = None,
        profile_at: int | None = None,
        evaluate: Section | None = None,
        report: Section | None = None,
        generate: Section | None = None,
        export: Section | None = None,
        search: Section | None = None,
        encode: Section | None = None,
        compile: Section | None = None,
    ) -> Experiment:
        data = build.part("flexidit_jax.data", "Dataset", dataset, "dataset")
        count_classes(raw, data)
        network = build.call(build_dit, model, "model")
        words = {key: value for key, value in sample.items() if key != "files"}
        build.check(FlexiDiT.sample, words, "sample")
        evaluation = evaluate and build.call(Evaluation, evaluate, "evaluate")
        if report and not evaluation:
            raise UserError("config key 'evaluate' is missing; the report scores samples with it")
        built = Experiment(
            raw=raw,
            seed=seed,
            init_from=init_from,
            profile_at=profile_at,
            model=network,
            process=build.part("flexidit_jax.diffusion", "Process", process, "process"),
            codec=build.part("flexidit_jax.codecs", "Codec", codec, "codec"),
            dataset=data,
            train=build.call(build_training, {"base": network.base_patch, **train}, "train"),
            sample=words,
            files=build.call(Files, sample.get("files", {}), "sample.files"),
            evaluate=evaluation,
            report=report and build.call(Report, {"samples": evaluation.samples, **report}, "report"),
            generate=generate and build.call(Generation, generate, "generate"),
            export=build.call(Export, export or {}, "export"),
            search=search and build_search(search, words, evaluation and evaluation.samples),
            encode=build.call(Encoding, encode or {}, "encode"),
            compile=build.call(Compilation, compile or {}, "compile"),
        )
        build.check(make_mesh, built.train.mesh, "train.mesh")
        for where, number in {"seed": seed, "sample.seed": sample.get("seed", 0)}.items():
            if not 0 <= number < 2**31:
                raise UserError(f"{where} must lie in 0..2^31-1, got {number!r}")
        if profile_at is not None and not 0 <= profile_at < built.train.steps:
            raise UserError(f"profile_at={profile_at} is no step of this run; 0..{built.train.steps - 1} would do")
        build.positive("sample", batch=sample.get("batch") or 1)
        classes = getattr(network.conditioner, "classes", None)
        if classes != getattr(built.dataset, "classes", None):
            raise UserError(f"model.conditioner.classes is {classes}, but the dataset has {built.dataset.classes}")
        latent = tuple(built.codec.latent_shape(built.dataset.shape))
        if latent != network.latent:
            raise UserError(f"model.latent is {network.latent}, but dataset and codec make latents of {latent}")
        kind = process["name"]
        if network.learn_variance and not built.process.learns_variance:
            raise UserError(f"model.learn_variance must be False: the {kind} process has no variance to learn")
        make_table(sample.get("solver", "ddpm"), built.process, sample.get("steps", 250))
        for stage in built.train.stages:
            if not suits(type(stage.loss).__call__, built.process):
                loss = type(stage.loss).__module__.rsplit(".", 1)[-1]
                raise UserError(f"train.loss {loss!r} is not one for the {kind} process")
            for patch in stage.patches:
                grid(network.latent, patch)
        last = built.train.stages[-1]
        for point in built.report.points(last.patches) if built.report else ():
            asked = point.words
            make_table(asked["solver"], built.process, asked["steps"])
            choices(asked.get("packing", "separate"), adapters=last.adapters is not None)
            if "guide" in asked:
                parse_guide(asked["guide"], asked["steps"], last.patches)
        return built

    return build.call(experiment, raw, "config")

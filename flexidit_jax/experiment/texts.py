"""What a config asks for of a model of texts: prompts, or features of them that were kept."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from flexidit_jax.api import FlexiDiT
from flexidit_jax.common.cluster import processes as cluster
from flexidit_jax.common.errors import UserError
from flexidit_jax.common.notes import Sparing
from flexidit_jax.common.progress import Progress
from flexidit_jax.data.text_features import MANIFEST, TextFeatures, TextShards, digest
from flexidit_jax.experiment.encoding import damaged
from flexidit_jax.experiment.experiment import Experiment
from flexidit_jax.experiment.sections import Encoding
from flexidit_jax.runs.stop import Stop
from flexidit_jax.runs.workdir import out_folder
from flexidit_jax.sampling.asked import fitting
from flexidit_jax.sampling.spec import SampleSpec
from flexidit_jax.text.prompt_files import Prompt, prompts_file, read_prompt_file
from flexidit_jax.text.prompts import features_of, read_prompts, with_features

#: prompts that are read at a time
PIECE = 64


@dataclass(frozen=True)
class Texts:
    """What pictures are asked for.

    Attributes:
      prompts: a text each.
      kept: their features, where these were made before.
      read_from: where each stands, where they are of a file.
    """

    prompts: Sequence[str]
    kept: TextFeatures | None = None
    read_from: Sequence[Prompt] = ()

    @property
    def asked(self) -> Sequence[Any]:
        """What `FlexiDiT.sample` is told."""
        return list(self.prompts) if self.kept is None else list(self.kept)

    @property
    def name(self) -> str:
        """What binds a folder of pictures of them."""
        return f"{len(self.prompts)} prompts, {digest(self.prompts)}"

    def found(self, folder: Path) -> Texts:
        """With features that a start before kept in a folder, where all are there."""
        if self.kept is None and (folder / MANIFEST).exists():
            with suppress(UserError):  # not all of them
                if (there := TextFeatures(folder)).prompts == list(self.prompts):
                    return replace(self, kept=there)
        return self

    def read(self, flex: FlexiDiT, folder: Path, section: Encoding, stop: Stop) -> Texts:
        """With features, kept in a folder, whose missing ones are made; none of them where it was asked to stop.

        Raises:
          UserError: see `keep`.
        """
        return self if self.kept else replace(self, kept=keep(flex.text, self.prompts, folder, section, stop))

    def made(self, flex: FlexiDiT) -> dict[str, Any]:
        """What features of them depend on."""
        return self.kept.made if self.kept else {**flex.text.fingerprint(), "width": flex.text.width}

    def check_files(self, experiment: Experiment) -> None:
        """Says, before a model is read, whether the files of the config's encoder are there.

        Raises:
          UserError: they are not.
        """
        if self.kept is None and experiment.text is not None:
            experiment.text.check()

    def check(self, flex: FlexiDiT) -> None:
        """Says before long work whether a model can read them.

        Raises:
          UserError: no encoder, or one that does not fit; features of another one.
        """
        if self.kept is None:
            check_encoder(flex.text, flex.model.conditioner.features)
            return
        reads = flex.model.conditioner
        length = reads.length if flex.text is None else flex.text.length
        self.kept.check(reads.features, length, made_by(flex.text, reads.features))


def texts_of(prompts: Any, labels: Any, conditioner: Any) -> Texts | None:
    """The prompts of a `sample` section; None for a model of something else, or a ready condition.

    Args:
      prompts, labels: its keys.
      conditioner: of the model.

    Raises:
      UserError: no prompts, or what are none; prompts for a model of something else.
    """
    reads = hasattr(conditioner, "features")
    if prompts is None:
        if reads and labels is None:
            raise UserError("nothing is asked for; --prompts='a red apple' would do, or a file with a prompt a line")
        return None
    if not reads:
        raise UserError("sample.prompts are for a model of texts, and this one is of another kind; set sample.labels")
    if labels is not None:
        raise UserError("sample.labels and sample.prompts speak of the same; give one of them")
    if isinstance(prompts, str) and (file := prompts_file(prompts)) is not None:
        read_from = read_prompt_file(file)
        return Texts([prompt.text for prompt in read_from], read_from=read_from)
    if isinstance(prompts, str) and os.path.isdir(folder := os.path.expanduser(prompts)):
        kept = TextFeatures(Path(folder))
        return Texts(kept.prompts, kept)
    return Texts(read_prompts(prompts))


def read_asked(experiment: Experiment, prompts: Any, labels: Any, negative: Any) -> tuple[Any, Any]:
    """What a `sample` section asks for and leads away from, as a conditioner parses it: texts as features.

    Args:
      prompts, labels, negative: its keys.

    Raises:
      UserError: nothing is asked for; or see `texts_of` and `text.prompts.with_features`.
    """
    conditioner = experiment.model.conditioner
    if (texts := texts_of(prompts, labels, conditioner)) is None:
        return labels, negative
    encoder = fitting(experiment.text, conditioner)
    return tuple(with_features(encoder, conditioner.features, texts.asked, negative))


def said(asked: Mapping[str, Any], number: int, spec: SampleSpec, negative: Any) -> dict[str, Any]:
    """What is written beside a picture, JSON-ready: all that makes it again.

    Args:
      asked: its prompt, or its label.
      number: of its seed.
      spec: which leaves nothing open.
    """
    return {**asked, "number": number, "negative": negative, "seed": spec.seed, "spec": spec.recorded()}


def check_encoder(encoder: Any, width: int) -> None:
    """Says before long work whether there is an encoder of prompts, with its files, that makes what a model reads.

    Raises:
      UserError: there is not.
    """
    if encoder is None:
        raise UserError("this config has no text section, whose encoder reads prompts; give it one, or kept features")
    encoder.check(width)


def to_keep(encoder: Any, prompts: Sequence[str], folder: Path, section: Encoding) -> TextShards:
    """Features of prompts in a folder, to be made.

    Raises:
      UserError: it holds those of other prompts or another encoder.
    """
    made = {**encoder.fingerprint(), "width": encoder.width}
    return TextShards(folder, prompts, made, section.dtype, section.shard)


def keep(encoder: Any, prompts: Sequence[str], folder: Path, section: Encoding, stop: Stop) -> TextFeatures | None:
    """Features of prompts in a folder, those made that are missing or damaged; the encoder's memory is given back.

    Args:
      section: how they are kept.
      stop: asked for after every shard.

    Returns:
      None where it was asked to stop before all were there.

    Raises:
      UserError: see `to_keep`; a full disk, or what the encoder does not read.
    """
    shards = to_keep(encoder, prompts, folder, section)
    missing = shards.missing()
    broken, unchecked = damaged(shards, folder.name, sorted({*shards.all} - {*missing}), stop, "texts")
    if unchecked:
        return None
    missing = sorted(missing + broken)
    smaller = "" if section.dtype == "float16" else " or encode.dtype=float16"
    shards.check_space(shards.size(missing), f"features of {shards.count(missing)} texts", smaller)
    there, sparing = len(prompts) - shards.count(missing), Sparing(PIECE)
    if missing and there:
        print(f"{folder}: resuming, {there} of {len(prompts)} texts are there")
    try:
        with shards.claimed(), Progress(len(prompts), "reading", start=there, unit="texts") as bar:
            shards.write_prompts()
            for shard in missing:
                if stop.asked:
                    return None
                features: list[np.ndarray] = []
                for numbers in shards.pieces([shard], PIECE):
                    with sparing:
                        features += features_of(encoder, [prompts[i] for i in numbers])
                    bar.advance(len(numbers))
                shards.write(shard, features)
    finally:
        encoder.free()
    return TextFeatures(folder)


def encode_texts(experiment: Experiment, workdir: Path) -> int:
    """Writes features of the prompts of a config into `encode.out`, or `<workdir>/texts`.

    Returns:
      0 when all are there, `STOPPED` when stopped by SIGTERM, 130 when stopped by Ctrl-C.

    Raises:
      UserError: no prompts or no encoder, or see `keep`; or several processes.
    """
    if cluster.several():
        raise UserError("prompts are read by one process, over its own devices (text.devices); start it alone")
    reads = experiment.model.conditioner
    texts = texts_of(experiment.sample.prompts, None, reads)
    if texts.kept is not None:
        raise UserError(f"{texts.kept.folder} holds features of texts already; --prompts names a file of prompts here")
    encoder = fitting(experiment.text, reads)
    check_encoder(encoder, reads.features)
    folder = out_folder(experiment.encode.out, workdir / "texts")
    with Stop("finishing this shard before stopping") as stop:
        kept = keep(encoder, texts.prompts, folder, experiment.encode, stop)
        if kept is None:
            print(f"{folder}: stopped; the same command goes on")
            return stop.status
    size = sum(file.stat().st_size for file in (folder / "shards").iterdir())
    print(f"written: {folder}, {len(kept)} texts, {size / 1e6:.1f} MB")
    return 0


def made_by(encoder: Any, width: int) -> dict[str, Any]:
    """What features of an encoder depend on: its `fingerprint` where its files are at hand, else its cleaning."""
    try:
        check_encoder(encoder, width)
    except UserError:
        return {"clean": encoder.clean} if hasattr(encoder, "clean") else {}
    return encoder.fingerprint()

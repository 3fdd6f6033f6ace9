"""`--mode=encode --out=DIR`: latents of the whole dataset, once; stopped at any moment, it goes on.

Training on them (`data.latents`) runs no encoder and reads no pictures. Captions are kept beside as features of their
texts. With `--prompts=FILE` features of prompts alone.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import jax
from ml_collections import ConfigDict

from flexidit_jax.common.cluster import processes as cluster
from flexidit_jax.common.cluster.messages import first_does, gathered
from flexidit_jax.common.errors import UserError, together
from flexidit_jax.common.files import folder_named
from flexidit_jax.data.latents import HELD_OUT, TRAIN
from flexidit_jax.data.latents import Dataset as Latents
from flexidit_jax.data.numbered_texts import TEXTS, all_texts
from flexidit_jax.experiment.dataset import say_found
from flexidit_jax.experiment.encoding import damaged, encode, parts_of
from flexidit_jax.experiment.experiment import build_experiment
from flexidit_jax.experiment.texts import check_encoder, encode_texts, keep, to_keep
from flexidit_jax.experiment.typed import was_typed
from flexidit_jax.runs.shards import of_host
from flexidit_jax.runs.stop import SharedStop
from flexidit_jax.runs.workdir import out_folder
from flexidit_jax.sampling.asked import fitting

FLAGS = {"out": "encode.out", "prompts": "sample.prompts"}
SEVERAL_PROCESSES = True  # it may be started as one of them, each taking shards of its own
#: seconds that a process waits for the shards of the others
PATIENCE = 7 * 24 * 3600
#: of what may change between two starts, the sections and keys that it reads
READS = ("encode", "sample.prompts")


def run(config: ConfigDict, workdir: Path) -> int:
    """Writes the posteriors of the config's dataset under its codec into `encode.out`.

    Returns:
      0 when all are there, `STOPPED` when stopped by SIGTERM, 130 when stopped by Ctrl-C.
    """
    # ---------------------------------------------------------------- What is encoded, and whereto
    experiment = build_experiment(config, workdir)
    if experiment.sample.prompts is not None and (experiment.dataset is None or was_typed("sample.prompts")):
        return encode_texts(experiment, workdir)
    experiment.wants_dataset()
    section, codec = experiment.encode, experiment.codec
    if not hasattr(codec, "moments"):
        name = experiment.raw["codec"]["name"]
        raise UserError(f"codec {name!r} has no posterior to keep; encode is for codecs that draw, such as 'sd_vae'")
    dataset, home = experiment.dataset, workdir / "latents"
    if isinstance(dataset, Latents):
        dataset, home = dataset.of, folder_named(dataset.path, "dataset.path")
    folder = out_folder(section.out, home)
    wanted = {TRAIN: dataset.source} | ({HELD_OUT: dataset.held_out} if section.held_out else {})
    sources = dict(zip(wanted, together(*wanted.values(), codec.check), strict=False))
    texts = {name: all_texts(source) for name, source in sources.items() if hasattr(source, "texts")}
    encoder = fitting(experiment.text, experiment.model.conditioner)
    if texts:
        check_encoder(encoder, experiment.model.conditioner.features)

    # ---------------------------------------------------------------- The folder: what is there, what is missing
    every = [part for name, source in sources.items() for part in parts_of(name, dataset, source, texts.get(name))]
    parts = {part.name: part for part in every}
    shards = {name: part.shards(experiment, dataset, folder) for name, part in parts.items()}
    looks = [partial(to_keep, encoder, own, folder / name / TEXTS, section) for name, own in texts.items()]
    first_does("the look at features of captions", partial(together, *looks), PATIENCE)  # before images are read
    host, hosts = jax.process_index(), jax.process_count()
    say_found(dataset)
    missing, unchecked, made = {}, 0, 0
    with SharedStop("finishing this shard before stopping") as stop:
        for name, one in shards.items():
            missing[name] = one.missing()  # of all hosts: they fill one disk
            there = of_host(sorted({*one.all} - {*missing[name]}), host, hosts)
            broken, skipped = damaged(one, name, there, stop)
            missing[name], unchecked = sorted(missing[name] + broken), unchecked + skipped
        images = sum(one.count(missing[name]) for name, one in shards.items())
        needed = sum(one.size(missing[name]) for name, one in shards.items())
        smaller = "" if section.dtype == "float16" else " or encode.dtype=float16"
        next(iter(shards.values())).check_space(needed, f"latents of {images} images", smaller)

        # ------------------------------------------------------------ Encoding
        lacking, unread = 0, 0
        for name, own in texts.items() if cluster.first() else ():
            lacking += len(to_keep(encoder, own, folder / name / TEXTS, section).missing())
            unread += keep(encoder, own, folder / name / TEXTS, section, stop) is None
        own = {name: of_host(missing[name], host, hosts) for name in parts}
        left, total = sum(shards[name].count(own[name]) for name in parts), sum(map(len, sources.values()))
        for name, part in parts.items():
            if not stop.asked:
                made += encode(codec, part, shards[name], own[name], section, (host, hosts), stop)
        told = (left - made, unchecked, made, unread)
        told = gathered("the end of encoding", told, PATIENCE)  # whoever is done listens
        left, unchecked, made, unread = map(sum, zip(*told, strict=True))
        if left or unchecked or unread:
            known = (
                f"{total - left - unchecked} of {total} images are there{f', {unchecked} unchecked' * (unchecked > 0)}"
            )
            print(f"{folder}: stopped, {known}; the same command goes on")
            return stop.status
    sizes = []
    for name, source in sources.items():
        own = sorted({shards[part.name].dtype.itemsize for part in every if part.whole == name})
        captions = f" with {len(texts[name])} captions" if name in texts else ""
        sizes.append(f"{len(source)} images of {' to '.join(map(str, own[:: max(len(own) - 1, 1)]))} bytes{captions}")
    print(f"{'written' if made or lacking else 'all there already'}: {folder}, {' and held out '.join(sizes)}")
    return 0

"""Captions of the records that a model of texts is trained on, as its conditioner reads them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np

from flexidit_jax.common.cluster.messages import first_does
from flexidit_jax.common.errors import UserError
from flexidit_jax.common.notes import Sparing
from flexidit_jax.experiment.experiment import Experiment
from flexidit_jax.experiment.texts import check_encoder, made_by
from flexidit_jax.models.conditioning.condition import NULL
from flexidit_jax.sampling.asked import fitting

Records: TypeAlias = dict[str, np.ndarray]
#: seconds in which the files of an encoder are read, of gigabytes
PATIENCE = 3600
#: of a record, what an encoder makes of its `text`
ENCODED = ("tokens", "mask")


def reader(experiment: Experiment, record: Mapping[str, Any]) -> Callable[[Records], Records]:
    """What reads the captions of a batch, where there are some; a batch that has none it leaves as it is.

    Args:
      record: of the dataset that is trained on, as it stands in a batch.

    Raises:
      UserError: records that lack what the model is conditioned on, or captions and no encoder that fits.
    """
    conditioner = experiment.model.conditioner
    there = {*record, *(ENCODED if "text" in record else ())}
    if hasattr(conditioner, "completed"):
        there |= conditioner.completed({NULL: np.zeros(1, bool)}).keys()
    missing = [field for field in conditioner.fields if field not in there]
    if missing:
        kind, name = experiment.raw["model"]["conditioner"]["name"], experiment.raw["dataset"]["name"]
        wanted = "one of captions" if missing[0] in ENCODED else "one that has it"
        raise UserError(
            f"model.conditioner {kind!r} reads {missing[0]!r}, which records of dataset {name!r} lack (they have"
            f" {', '.join(sorted(record))}); {wanted} would do"
        )
    encoder = fitting(experiment.text, conditioner)
    if (kept := getattr(experiment.dataset, "features", None)) is not None:
        width, length = conditioner.features, (encoder or conditioner).length

        def look() -> None:
            kept.check(width, length, made_by(encoder, width))

        first_does("the look at features of captions", look, PATIENCE)
    if "text" not in record:
        return lambda records: records
    check_encoder(encoder, conditioner.features)

    sparing = Sparing()

    def read(records: Records) -> Records:
        with sparing:
            return records | encoder.encode(records["text"].tolist())

    return read

"""Features kept in a file, and what a kill leaves of one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from flexidit_jax.common.array_files import write_arrays
from flexidit_jax.common.errors import UserError
from flexidit_jax.metrics.kept_features import KeptFeatures, keeping
from flexidit_jax.metrics.moments import moments_of

RNG = np.random.default_rng(0)
FEATURES = {"pool": RNG.normal(size=(11, 4)).astype(np.float32), "logits": RNG.normal(size=(11, 3)).astype(np.float32)}
WIDTHS = {"pool": 4, "logits": 3}
WORDS = {"features": {"name": "inception", "weights": "67"}, "images": "a.npz"}


def part(begin: int, end: int) -> dict[str, np.ndarray]:
    return {name: array[begin:end] for name, array in FEATURES.items()}


def written(path: Path, **others: np.ndarray) -> KeptFeatures:
    with keeping(path, WIDTHS, WORDS) as writer:
        for begin in range(writer.done, 11, 4):
            writer.add(part(begin, begin + 4))
        return writer.finish(**others)


def test_what_is_kept_is_what_was_made(tmp_path: Path) -> None:
    kept = written(tmp_path / "new" / "a.npz", labels=np.arange(11))
    assert (kept.count, kept.words, sorted(kept)) == (11, WORDS, ["labels", "logits", "pool"])
    for name, array in FEATURES.items():
        np.testing.assert_array_equal(kept[name], array)
        np.testing.assert_array_equal(np.concatenate(list(kept.tiles(name, 3))), array)
    np.testing.assert_array_equal(kept["labels"], np.arange(11))
    assert isinstance(kept["pool"], np.memmap)  # and not in memory
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["a.npz"]
    np.testing.assert_array_equal(np.load(tmp_path / "new" / "a.npz")["pool"], FEATURES["pool"])  # numpy reads it too
    assert moments_of(kept.tiles("pool")).count == 11


@pytest.mark.parametrize("torn", [0, 5])
def test_a_kill_costs_a_batch(tmp_path: Path, torn: int) -> None:
    path = tmp_path / "a.npz"
    with pytest.raises(KeyboardInterrupt), keeping(path, WIDTHS, WORDS) as writer:
        writer.add(part(0, 4))
        writer.add(part(4, 6))
        raise KeyboardInterrupt
    with (tmp_path / "a.npz.part").open("ab") as file:
        file.write(b"x" * torn)  # half a record
    with keeping(path, WIDTHS, WORDS) as writer:
        assert writer.done == 6
        writer.add(part(6, 11))
        kept = writer.finish()
    np.testing.assert_array_equal(kept["pool"], FEATURES["pool"])


def test_a_part_of_other_features_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    with keeping(path, WIDTHS, WORDS) as writer:
        writer.add(part(0, 4))
    with (
        pytest.raises(UserError) as caught,
        keeping(path, WIDTHS, WORDS | {"features": {"name": "inception", "weights": "68"}}),
    ):
        pass
    assert str(caught.value) == (
        f"{path}.part is begun with other features: features.weights is '67' there, '68' here; delete it, or go back to"
        " that value"
    )
    with pytest.raises(UserError, match=r"widths\.pool is 4 there, 5 here"), keeping(path, {"pool": 5}, WORDS):
        pass
    (tmp_path / "a.npz.part").write_text("no json\n")
    with pytest.raises(UserError, match="holds no features; move it away"), keeping(path, WIDTHS, WORDS):
        pass


def test_one_process_writes_a_part(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    with keeping(path, WIDTHS, WORDS) as writer:
        writer.add(part(0, 11))
        with pytest.raises(UserError) as caught, keeping(path, WIDTHS, WORDS):
            pass
        kept = writer.finish()
    assert str(caught.value) == (
        f"another process is at work in {path}.part; wait until it is done, and the same command reads what it kept"
    )
    np.testing.assert_array_equal(kept["pool"], FEATURES["pool"])
    with pytest.raises(UserError) as caught, keeping(path, WIDTHS, WORDS):
        pass
    assert str(caught.value) == f"another process has just finished {path}; the same command reads it"
    assert [file.name for file in tmp_path.iterdir()] == ["a.npz"]


def test_a_part_that_another_process_wrote_into_is_not_kept(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    with pytest.raises(UserError) as caught, keeping(path, WIDTHS, WORDS) as writer:
        writer.add(part(0, 11))
        with (tmp_path / "a.npz.part").open("ab") as file:  # as where a file system knows no locks
            file.write(b"x" * 28)
        writer.finish()
    assert f"{path}.part is " in str(caught.value) and "11 images are " in str(caught.value)
    assert str(caught.value).endswith("; another process wrote into it, so delete it, and run one at a time")
    assert not path.exists()


def test_a_kill_at_the_first_line_begins_anew(tmp_path: Path) -> None:
    (tmp_path / "a.npz.part").write_text('{"features"')
    assert written(tmp_path / "a.npz").count == 11


@pytest.mark.parametrize("others", [{"pool": 4}, {"pool": 4, "logits": 4}])
def test_features_that_were_not_announced_are_a_mistake(tmp_path: Path, others: dict[str, int]) -> None:
    with keeping(tmp_path / "a.npz", WIDTHS, WORDS) as writer, pytest.raises(ValueError, match="were announced"):
        writer.add({name: np.ones((2, width)) for name, width in others.items()})


def test_refusals(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    kept = written(path)
    with pytest.raises(UserError) as caught:
        kept["pol"]
    assert str(caught.value) == f"{path} keeps no 'pol'; did you mean 'pool'?"
    write_arrays(path, {"mu": np.ones(3)})
    with pytest.raises(UserError) as caught:
        KeptFeatures.read(path)
    assert str(caught.value) == f"{path} holds mu, and no features that were kept"
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write"), keeping(tmp_path / "file" / "a.npz", WIDTHS, WORDS):
        pass

"""Arrays of `.npz` files, in pieces; what is cut off or pickled is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from flexidit_jax.common.array_files import ArrayFile, Pieces, npy_header, write_arrays
from flexidit_jax.common.errors import UserError

IMAGES = np.random.default_rng(0).integers(0, 256, (7, 4, 5, 3), dtype=np.uint8)


@pytest.fixture(params=[np.savez, np.savez_compressed], ids=["stored", "compressed"])
def file(request: pytest.FixtureRequest, tmp_path: Path) -> ArrayFile:
    request.param(tmp_path / "a.npz", mu=np.arange(3.0), arr_0=IMAGES, none=np.empty((0, 2)))
    return ArrayFile(tmp_path / "a.npz")


def test_headers_are_read_alone(file: ArrayFile) -> None:
    assert list(file) == ["mu", "arr_0", "none"]
    assert (file["arr_0"].shape, file["arr_0"].dtype, file["arr_0"].row) == ((7, 4, 5, 3), np.uint8, 60)


@pytest.mark.parametrize("size", [1, 3, 7, 100])
def test_rows_come_in_pieces(file: ArrayFile, size: int) -> None:
    pieces = list(file.rows("arr_0", size))
    assert [len(piece) for piece in pieces] == [len(IMAGES[i : i + size]) for i in range(0, 7, size)]
    np.testing.assert_array_equal(np.concatenate(pieces), IMAGES)
    np.testing.assert_array_equal(np.concatenate(list(file.rows("arr_0", size, 5))), IMAGES[5:])
    assert list(file.rows("arr_0", size, 7)) == []


@pytest.mark.parametrize("name", ["mu", "arr_0", "none"])
def test_a_mapped_array_is_the_array(file: ArrayFile, name: str) -> None:
    np.testing.assert_array_equal(file.mapped(name), file.read(name))
    assert isinstance(file.mapped(name), np.memmap) == (file[name].start is not None and name != "none")


def test_what_is_written_is_what_numpy_reads(tmp_path: Path) -> None:
    rows = Pieces(IMAGES.shape, IMAGES.dtype, (IMAGES[i : i + 2] for i in range(0, 7, 2)))
    words = {"features": "inception", "deep": {"a": [1, None]}}
    write_arrays(tmp_path / "new" / "b.npz", {"arr_0": rows, "mu": np.float64([1, 2])[::-1]}, words)
    arrays = np.load(tmp_path / "new" / "b.npz")
    np.testing.assert_array_equal(arrays["arr_0"], IMAGES)
    np.testing.assert_array_equal(arrays["mu"], [2, 1])
    assert ArrayFile(tmp_path / "new" / "b.npz").words() == words
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["b.npz"]


def test_pieces_that_do_not_make_the_whole_leave_what_was_there(tmp_path: Path) -> None:
    write_arrays(tmp_path / "b.npz", {"a": np.ones(3)})
    with pytest.raises(ValueError, match="was given 2 numbers"):
        write_arrays(tmp_path / "b.npz", {"a": Pieces((3,), np.dtype(float), [np.ones(2)])})
    assert ArrayFile(tmp_path / "b.npz").read("a").shape == (3,)


def test_a_header_is_that_of_numpy(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", IMAGES)
    assert (tmp_path / "a.npy").read_bytes() == npy_header(IMAGES.shape, IMAGES.dtype) + IMAGES.tobytes()


@pytest.mark.parametrize("keep", [0, 10, 300, -40, -1])
def test_a_truncated_file_is_refused(file: ArrayFile, keep: int) -> None:
    data = file.path.read_bytes()
    file.path.write_bytes(data[:keep])
    with pytest.raises(UserError, match=r"a\.npz is no whole \.npz file \(.*\); is the download complete\?"):
        ArrayFile(file.path)


def test_damage_is_seen_when_it_is_read(file: ArrayFile) -> None:
    data = bytearray(file.path.read_bytes())
    at = data.index(b"arr_0.npy") + 250
    data[at : at + 8] = bytes(255 - byte for byte in data[at : at + 8])
    file.path.write_bytes(data)
    with pytest.raises(UserError, match="is no whole"):
        list(ArrayFile(file.path).rows("arr_0", 3))


def test_a_checksum_is_compared(file: ArrayFile) -> None:
    data = bytearray(file.path.read_bytes())
    data[data.rindex(b"arr_0.npy") - 30] ^= 255  # in the directory at the end
    file.path.write_bytes(data)
    with pytest.raises(UserError, match="Bad CRC-32"):
        list(ArrayFile(file.path).rows("arr_0", 3))


def test_pickles_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", arr_0=np.array([{"a": 1}], object))
    with pytest.raises(UserError) as caught:
        ArrayFile(tmp_path / "a.npz")
    assert str(caught.value) == (
        f"arr_0 of {tmp_path / 'a.npz'} holds pickled objects, which are not read; save it as plain numbers"
    )


def test_an_array_that_lies_by_columns_has_no_rows_to_read(tmp_path: Path) -> None:
    matrix = np.arange(6.0).reshape(3, 2)
    np.savez(tmp_path / "a.npz", sigma=np.asfortranarray(matrix))
    file = ArrayFile(tmp_path / "a.npz")
    np.testing.assert_array_equal(file.read("sigma"), matrix)
    np.testing.assert_array_equal(file.mapped("sigma"), matrix)
    with pytest.raises(UserError) as caught:
        list(file.rows("sigma", 1))
    assert str(caught.value) == f"sigma of {file.path} lies column by column (Fortran's order); save it row by row"


def test_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        ArrayFile(tmp_path / "a.npz")
    assert str(caught.value) == f"there is no {tmp_path / 'a.npz'}"

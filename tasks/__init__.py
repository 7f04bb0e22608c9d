"""seqio registrations: importing this package registers every task, and downloads nothing.

Ready tasks are in monolingual.py, parallel.py, multiway.py and evaluation.py; clones.py mixes a language and its clones.

Text tasks yield `text`, `language` and `group_id` (strings of rank 0) in the splits train and validation. `group_id` is
equal for texts that translate each other, and "" if nothing is known. To add your own task, call `register_text` or a
similar function in a module that `Recipe.modules` names. Or spell files in gin ("text:en=a.txt", `names.parse_name`).
"""

import inspect

from xalign_jax.data.text.readers import EMBEDDED, Example
from xalign_jax.errors import UserError, one_line

# Files, embedded texts and the Hugging Face Hub are read without TensorFlow, so only tasks need these packages.
try:
    import seqio  # noqa: F401
    import tensorflow_datasets  # noqa: F401
except ImportError as error:
    raise UserError(
        f"tasks of seqio and TFDS need packages that cannot be imported ({one_line(error)}): pip install "
        "seqio tensorflow tensorflow-datasets; files need none of them"
    ) from None

from xalign_jax.tasks import evaluation, monolingual, multiway, parallel  # noqa: F401
from xalign_jax.tasks.clones import clone_mixture
from xalign_jax.tasks.evaluation import register_sentences
from xalign_jax.tasks.reading import TaskReader, mixture_rates, open_task, seqio_task
from xalign_jax.tasks.registration import (
    ABOUT,
    register_jsonl,
    register_pairs,
    register_source,
    register_text,
    register_tfds,
    register_tsv,
)

__all__ = [
    "Example",
    "TaskReader",
    "clone_mixture",
    "mixture_rates",
    "open_task",
    "register_jsonl",
    "register_pairs",
    "register_sentences",
    "register_source",
    "register_text",
    "register_tfds",
    "register_tsv",
    "seqio_task",
]

for _name, _source in EMBEDDED.items():
    register_source(_name, _source)
    ABOUT[_name] = (inspect.getdoc(_source) or "").partition("\n\n")[0].replace("\n", " ")

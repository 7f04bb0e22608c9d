"""seqio registrations: importing this package registers every task.

Text tasks yield `text`, `language` and `group_id` (strings of rank 0; `group_id` is equal for texts that translate each
other and "" where nothing is known) in the splits train and validation. To add your own, call `register_text` and its
sisters in a module that `Recipe.modules` names, or name files in gin ("text:en=a.txt", see `sources.parse_name`).
"""

from xalign_jax.data.text.readers import EMBEDDED, Example
from xalign_jax.tasks.reading import TaskReader, open_task, seqio_task
from xalign_jax.tasks.registration import (
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
    "open_task",
    "register_jsonl",
    "register_pairs",
    "register_source",
    "register_text",
    "register_tfds",
    "register_tsv",
    "seqio_task",
]

for _name, _source in EMBEDDED.items():
    register_source(_name, _source)

"""Examples of TFDS as documents: the preprocessors of this package's seqio tasks.

Each takes a data set of a task's own features and gives one of `text`, `language` and `group_id`, strings of rank 0.
"""

from __future__ import annotations

import tensorflow as tf

_BUCKETS = 2**63 - 1


def as_text(dataset: tf.data.Dataset, key: str, language: str) -> tf.data.Dataset:
    """Text in one language. Wiki-40B's markers become line ends."""

    def example(row):
        # Wiki-40B marks articles, sections and paragraphs; white space after a line end is removed.
        text = tf.strings.regex_replace(row[key], r"_START_(ARTICLE|SECTION|PARAGRAPH)_|_NEWLINE_", "\n")
        text = tf.strings.strip(tf.strings.regex_replace(text, r"\n\s*", "\n"))
        return {"text": text, "language": language, "group_id": ""}

    return dataset.map(example)


def as_sentences(dataset: tf.data.Dataset, keys: tuple[str, ...], language: str) -> tf.data.Dataset:
    """Several texts of an example, which do not translate each other, in one language."""

    def example(row):
        texts = tf.stack([row[key] for key in keys])
        return {"text": texts, "language": tf.fill([len(keys)], language), "group_id": tf.fill([len(keys)], "")}

    return _single(dataset.map(example))


def as_groups(dataset: tf.data.Dataset, keys: tuple[str | None, ...] = (None,)) -> tf.data.Dataset:
    """Translations: one document for each language, which share a group.

    The group is a hash of all translations, so it does not depend on the order of the examples. Examples that are equal
    in all languages share a group.

    Args:
      keys: the features that hold translations, `tfds.features.Translation` or `TranslationVariableLanguages`. Each
        makes a group of its own. None = the example itself.
    """

    def example(row):
        parts = [_group(row if key is None else row[key]) for key in keys]
        return {name: tf.concat([part[name] for part in parts], 0) for name in parts[0]}

    return _single(dataset.map(example))


def _group(translations: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """Columns of one group: text, language and group, (number of languages,) each."""
    if set(translations) == {"language", "translation"}:
        languages, texts = translations["language"], translations["translation"]
    else:
        names = sorted(translations)
        languages, texts = tf.constant(names), tf.stack([translations[name] for name in names])
    content = tf.strings.reduce_join(tf.concat([languages, texts], 0), separator="\t")
    group = tf.strings.as_string(tf.strings.to_hash_bucket_fast(content, _BUCKETS))
    return {"text": texts, "language": _normal(languages), "group_id": tf.fill(tf.shape(texts), group)}


def _normal(languages: tf.Tensor) -> tf.Tensor:
    """Codes with the region in capitals, as `catalogs.normal_language` writes them: "pt-BR" for "pt-br"."""
    region = tf.strings.regex_replace(languages, "^[^-]*-?", "")
    head = tf.strings.regex_replace(languages, "-.*", "")
    return tf.where(region == "", languages, tf.strings.join([head, tf.strings.upper(region)], "-"))


def _single(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Rows of columns as single examples, without empty texts."""
    return dataset.unbatch().filter(lambda row: tf.strings.length(tf.strings.strip(row["text"])) > 0)

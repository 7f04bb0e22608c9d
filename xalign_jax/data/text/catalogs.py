"""The source "catalogs": the message catalogs that Django installs, real multi-way text in about 90 languages.

They are read from the compiled `.mo` files, which leave out untranslated and fuzzy messages. The English text is the
message id. A message and its translations form one group.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import html
import importlib.util
import json
import re
import struct
from collections.abc import Iterator
from pathlib import Path

from xalign_jax.data.text.files import Document
from xalign_jax.data.text.stamps import hash_file, stamp_file, stamp_package
from xalign_jax.errors import UserError, install
from xalign_jax.remote_files import open_bytes

# Python's and Django's placeholders: %(name)s, %d, {}, {name}.
_PLACEHOLDER = re.compile(r"%\(\w+\)[a-z]|%[sdif]|%%|\{[\w.]*\}")
_TAG = re.compile(r"</?[a-zA-Z][^>]*>")
_MAGIC = 0x950412DE
# Locales whose usual language code is shorter.
_LANGUAGES = {"zh-Hans": "zh", "sr-Cyrl": "sr", "no": "nb"}


@dataclasses.dataclass(frozen=True)
class Catalogs:
    """The message catalogs that Django installs, in about 90 languages (extra: demo).

    A document is one message in one language.

    Attributes:
      validation_share: share of the messages that is for validation. It is far larger than for running text, so that
        probes have enough messages to tell apart.
    """

    package: str = "django"
    validation_share: float = 0.2

    @property
    def languages(self) -> None:
        return None  # only the package's folders tell

    def fingerprint(self) -> str:
        state = ["catalogs", stamp_package(self.package), hash_file(__file__)]
        return hashlib.sha256(json.dumps(state).encode()).hexdigest()

    def stamps(self) -> list[tuple[str, ...]]:
        return [stamp_package(self.package), stamp_file(__file__)]

    def documents(self) -> Iterator[Document]:
        return iter(_documents(self.package))


@functools.cache
def _documents(package: str) -> tuple[Document, ...]:
    """All messages in English and in each translation, without repetitions, in the order of the files."""
    root = package_folder(package, "catalogs")
    documents: dict[tuple[str, str, str], Document] = {}
    for file in sorted(root.glob("**/locale/*/LC_MESSAGES/*.mo")):
        language = normal_language(file.parts[-3])
        for context, source, translation in read_mo(str(file)):
            english, text = clean(source), clean(translation)
            # Formats and single signs are no text.
            if not (is_text(english) and any(map(str.isalpha, text))):
                continue
            # The same English text in another context is another message, with its own translations.
            group = hashlib.sha256(f"{context}\x04{english}".encode()).hexdigest()[:16]
            for document in (Document(english, "en", group), Document(text, language, group)):
                documents.setdefault((document.text, document.language, group), document)
    return tuple(documents.values())


def package_folder(package: str, task: str) -> Path:
    """The folder of an installed package of the extra `demo`. Raises UserError, naming the task, if there is none."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"{task}: the package {package} is not installed; {install('demo')}")
    return Path(spec.submodule_search_locations[0])


def normal_language(locale: str) -> str:
    """The language code for a locale's name: "pt-BR" for "pt_BR" and "PT-br", "zh" for "zh_Hans"."""
    language, *others = locale.strip().replace("_", "-").split("-")
    # Regions have two letters and are written in capitals. Scripts have four letters and begin with a capital.
    styles = {2: str.upper, 4: str.title}
    code = "-".join([language.lower(), *(styles.get(len(part), str)(part) for part in others)])
    return _LANGUAGES.get(code, code)


def read_mo(path: str) -> Iterator[tuple[str, str, str]]:
    """(context, source, translation) of each message of a compiled gettext catalog.

    A message with plural forms gives its plural and the last form, which mean the same in every language.

    Every string must end where its table says, so that damaged files are refused and not misread. Babel's reader does
    not check this.

    Raises:
      UserError: naming the file if it is not a `.mo` file in UTF-8.
    """
    # The header's five numbers, in the byte order that the magic number shows: magic, revision, number of messages, and
    # where the tables of sources and of translations begin. A table has (length, start) of each string; a NUL ends it.
    with open_bytes(path) as file:
        content = file.read()
    try:
        order = "<" if struct.unpack_from("<I", content)[0] == _MAGIC else ">"
        magic, _, count, sources, translations = struct.unpack_from(f"{order}5I", content)
        if magic != _MAGIC:
            raise ValueError("no gettext catalog")
        for i in range(count):
            pair = []
            for table in (sources, translations):
                length, start = struct.unpack_from(f"{order}2I", content, table + 8 * i)
                if content[start + length : start + length + 1] != b"\0":
                    raise ValueError(f"message {i} does not end where it should")
                pair.append(content[start : start + length].decode())
            # An id is "context EOT source", and plural forms are separated by NUL.
            context, _, source = pair[0].rpartition("\x04")
            source, translation = source.split("\0")[-1], pair[1].split("\0")[-1]
            if source and translation:
                yield context, source, translation
    except (struct.error, ValueError) as error:
        raise UserError(f"{path}: not a compiled gettext catalog in UTF-8 ({error})") from None


def clean(message: str) -> str:
    """A message as text: without tags, entities decoded, placeholders as "#", white space as single spaces."""
    text = html.unescape(_TAG.sub(" ", message))
    return " ".join(_PLACEHOLDER.sub("#", text).split())


def is_text(english: str) -> bool:
    """True for at least two letters, and more letters than other visible characters."""
    letters = sum(map(str.isalpha, english))
    return letters >= 2 and 2 * letters + english.count(" ") > len(english)

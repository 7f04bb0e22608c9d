"""Archives of OPUS in Moses form: `X.en-de.en` and `X.en-de.de` in a zip file, read without unpacking."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator

from xalign_jax.data.text.catalogs import normal_language
from xalign_jax.data.text.files import Document, Multilingual, align_lines
from xalign_jax.data.text.lines import decode_lines, is_language
from xalign_jax.errors import UserError, one_line
from xalign_jax.remote_files import open_bytes

_SIDE = re.compile(r"(?P<pair>.*\.(?P<first>\w+)-(?P<second>\w+))\.(?P<side>\w+)")
_MOST_GROWTH = 200  # text shrinks by a factor of 3 to 10; deflate can reach 1,032


class MosesArchives(Multilingual):
    """Zip files. Lines of the same number in the two files of a pair translate each other."""

    def read(self, path: str) -> Iterator[Document]:
        try:
            with open_bytes(path) as file, zipfile.ZipFile(file) as archive:
                pairs = _pairs(archive, path)
                for number, members in enumerate(pairs, 1):
                    for document in _read_pair(archive, path, members):
                        # With several pairs, the number of the pair comes first.
                        group = f"{number}/{document.group}" if len(pairs) > 1 else document.group
                        yield document._replace(group=group)
        # zipfile raises NotImplementedError and RuntimeError for methods that it lacks and for encrypted files.
        except (zipfile.BadZipFile, NotImplementedError, RuntimeError, ValueError) as error:
            raise UserError(f"{path}: cannot be read ({one_line(error)})") from None


def _pairs(archive: zipfile.ZipFile, path: str) -> list[list[tuple[str, zipfile.ZipInfo]]]:
    """The pairs of files in an archive, (language, file) each, in the order of their names."""
    files = {file.filename: file for file in archive.infolist()}
    pairs = []
    for name in sorted(files):
        found = _SIDE.fullmatch(name)
        if found is None or found["side"] not in (found["first"], found["second"]):
            continue
        codes = [found["first"], found["second"]]
        sides = [f"{found['pair']}.{code}" for code in codes]
        for side in sides:
            if side not in files:
                raise UserError(f"{path}: {name} is in the archive, but {side} is not")
        languages = [normal_language(code) for code in codes]
        if not all(map(is_language, languages)) or len(set(languages)) < 2:
            raise UserError(f"{path}: {name} does not name two languages")
        if name == sides[0]:
            pairs.append([(language, files[side]) for language, side in zip(languages, sides, strict=True)])
    if not pairs:
        raise UserError(f"{path}: no pair of files such as X.en-de.en and X.en-de.de is in the archive")
    return pairs


def _read_pair(archive: zipfile.ZipFile, path: str, members: list[tuple[str, zipfile.ZipInfo]]) -> Iterator[Document]:
    for _, file in members:
        # zipfile never gives more bytes than the archive's table says, so checking the table is enough.
        if file.file_size > _MOST_GROWTH * max(file.compress_size, 1):
            raise UserError(
                f"{path}/{file.filename}: {file.file_size:,} bytes in {file.compress_size:,} compressed ones are no"
                " text; unpack the file if it is sound"
            )
    (first, one), (second, two) = members
    with archive.open(one) as one_side, archive.open(two) as other_side:
        names = [f"{path}/{file.filename}" for file in (one, two)]
        sides = [(first, names[0], one_side), (second, names[1], other_side)]
        yield from align_lines([(language, name, decode_lines(side, name)) for language, name, side in sides])

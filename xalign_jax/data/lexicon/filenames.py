"""The languages that the name of a dictionary file lists: `en-de.tsv`, `freedict-eng-deu.tsv.gz`, `en_pt-BR.txt`."""

from __future__ import annotations

import re
from pathlib import PurePath

from xalign_jax.errors import UserError

# Codes of ISO 639-2 and 639-3, and the two letters that most texts and dictionaries use instead.
_SHORT = dict(
    re.findall(
        r"(\w+):(\w+)",
        """
        afr:af amh:am ara:ar asm:as aze:az bel:be ben:bn bod:bo bos:bs bul:bg cat:ca ces:cs cze:cs chi:zh cmn:zh cor:kw
        cym:cy dan:da deu:de dut:nl ell:el eng:en epo:eo est:et eus:eu fas:fa fil:tl fin:fi fra:fr fre:fr ger:de gla:gd
        gle:ga glg:gl gre:el guj:gu hat:ht heb:he hin:hi hrv:hr hun:hu hye:hy ind:id isl:is ita:it jpn:ja kan:kn kat:ka
        kaz:kk khm:km kor:ko kur:ku lao:lo lat:la lav:lv lit:lt mal:ml mar:mr mkd:mk mon:mn msa:ms mya:my nep:ne nld:nl
        nno:nn nob:nb nor:no oci:oc ori:or pan:pa per:fa pol:pl por:pt pus:ps ron:ro rum:ro rus:ru sin:si slk:sk slo:sk
        slv:sl som:so spa:es sqi:sq srp:sr swa:sw swe:sv tam:ta tel:te tgl:tl tha:th tur:tr uig:ug ukr:uk urd:ur uzb:uz
        vie:vi wol:wo yid:yi yor:yo zho:zh zul:zu
        arb:ar ekk:et lvs:lv pes:fa swh:sw zsm:ms
        """,
    )
)
_KNOWN = frozenset(_SHORT.values())
# A code in small letters, perhaps with a region or script ("pt-BR", "zh_Hant"), or in capitals; then two or more.
_PART = r"(?:[a-z]{2,3}(?:[-_](?:[A-Z]{2}|[A-Z][a-z]{3}))?|[A-Z]{2,3})"
_CHAIN = re.compile(rf"(?<![A-Za-z]){_PART}(?:[-_]{_PART})+(?![A-Za-z])")


def named_languages(path: str, languages: tuple[str, ...]) -> tuple[str, ...] | None:
    """The languages of a recipe that a file's name lists, in the order of the name; None if it lists none.

    A name lists languages if it holds two or more codes in a row ("en-de", "eng_deu"), each of a common language or of
    one of `languages`. Codes are compared as languages: "eng" is "en", and "pt" is "pt-BR" if there is no "pt".

    Raises:
      UserError: the name lists a language that the recipe lacks.
    """
    lists = [re.findall(_PART, chain) for chain in _CHAIN.findall(PurePath(path).name)]
    # Words such as "my-dictionary" hold codes by chance: a list counts if all its parts are languages.
    known = _KNOWN | {_primary(language) for language in languages}
    lists = [codes for codes in lists if all(_primary(code) in known for code in codes)]
    if len(lists) != 1:
        return None
    found = []
    for code in lists[0]:
        # The exact name first, then the only language that it can mean.
        fits = fitting(code, languages)
        if len(fits) != 1:
            raise UserError(
                f"Lexicon.paths: {path} names the language {code!r}, but Lexicon.languages are "
                f'{", ".join(languages)}; remove the file, or say what it holds: ("{path}", {_quoted(languages[:2])})'
            )
        found.append(fits[0])
    return tuple(found)


def fitting(code: str, languages: tuple[str, ...]) -> list[str]:
    """The languages that a code can mean: the one of this name, otherwise all of the same language ("eng" and "en")."""
    same = [name for name in languages if name == code]
    return same or [name for name in languages if _primary(name) == _primary(code)]


def _primary(code: str) -> str:
    """The language of a code, in two letters if it has them: "en" for "eng", "pt" for "pt-BR"."""
    code = re.split("[-_]", code)[0].lower()
    return _SHORT.get(code, code)


def _quoted(languages: tuple[str, ...]) -> str:
    return "(" + ", ".join(f'"{language}"' for language in languages) + ")"

"""What a recipe says about the cleaning of its texts."""

from __future__ import annotations

import dataclasses

import gin

from xalign_jax.errors import UserError
from xalign_jax.recipe import at_least_one, freeze, within


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Cleaning:
    """Which texts of a recipe's tasks are dropped before they are stored. Each task is cleaned by itself.

    The first of several duplicates stays: validation comes before training, then the order of the files counts. Only texts of the same language are duplicates of each other.

    Attributes:
      exact: drop texts that differ from another one only in case, spacing and punctuation.
      near: the similarity from which texts are near duplicates: the share of runs of five characters that two texts
        have in common, of all that either has. 0.45 finds texts of which up to 5 % of the characters differ; None = off.
      shortest, longest: characters of a text without spaces and punctuation; None = no limit.
      ratio: largest factor between the lengths of a text and of its translations, after division by what is usual for
        the languages (`cleaning.lengths`); None = no limit.
      language: the probability from which py3langid (extra `clean`) may say that a text is in another language. The
        text is then dropped. Texts of less than 20 characters and languages that it does not know stay; None = off.
      whole_groups: drop all translations of a dropped text. Otherwise they stay in the group, without the dropped text.
    """

    exact: bool = True
    near: float | None = None
    shortest: int | None = None
    longest: int | None = None
    ratio: float | None = None
    language: float | None = None
    whole_groups: bool = False

    def __post_init__(self) -> None:
        freeze(self)
        within(self, "[0.3, 1]", "near")
        within(self, "(1, inf)", "ratio")
        within(self, "(0, 1]", "language")
        at_least_one(self, "shortest", "longest")
        if self.shortest is not None and self.longest is not None and self.shortest > self.longest:
            raise UserError(f"Cleaning.shortest = {self.shortest} is above Cleaning.longest = {self.longest}")

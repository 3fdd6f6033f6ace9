"""What a data set leaves out, counted by reason with an example of each, and said in one line."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

#: reasons named in one line
NAMED = 5


@dataclass(frozen=True)
class LeftOut:
    """Reasons are nouns whose first word has the plural, such as "file of kind .txt".

    Attributes:
      counts: reason -> how many.
      examples: reason -> the first of them.
    """

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)

    def add(self, why: str, name: str) -> None:
        """Counts one more; in whatever order the first is counted, it is the example."""
        self.counts[why] += 1
        self.examples.setdefault(why, name)

    def add_all(self, other: LeftOut) -> None:
        """Counts those of another."""
        self.counts.update(other.counts)
        for why, name in other.examples.items():
            self.examples.setdefault(why, name)

    def __str__(self) -> str:
        """Such as `; left out: 2 files of kind .txt (cat/a.txt), 1 pipe or device (cat/b)`, or ""."""
        why = [(why, count, self.examples[why]) for why, count in self.counts.most_common()]
        files = [f"{several(count, why)} ({printed(example)})" for why, count, example in why[:NAMED]]
        if more := sum(count for _, count, _ in why[NAMED:]):
            files.append(f"{more:,} more for other reasons ({printed(why[NAMED][2])})")
        return f"; left out: {', '.join(files)}" if files else ""


def several(count: int, noun: str, plural: str | None = None) -> str:
    """Such as `1 image` and `1,281,167 images`."""
    first, *rest = noun.split(" ")
    return f"{count:,} {noun if count == 1 else plural or ' '.join([f'{first}s', *rest])}"


def printed(name: str) -> str:
    """A name as one line shows it, whatever bytes it is made of."""
    return name if name.isprintable() else ascii(name)

"""The bug-finding benchmark: one thing is changed in a function, and a model without fine-tuning must find it unusual.

After CuBERT's "wrong binary operator" and "variable misuse" (Kanade et al., 2020, arXiv 2001.00059), as pairs.
`docs/bug-benchmark.md` describes it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from transformers import PreTrainedTokenizerBase

from fast_electra.evaluation.bugs.functions import SourceText
from fast_electra.evaluation.bugs.mutation import Bug, BugKind, Frequencies, count_frequencies, find_bugs
from fast_electra.evaluation.bugs.tokens import Pair, encode_bugs


@dataclass(frozen=True)
class BugBenchmark:
    """The benchmark of one corpus. Counting and making bugs take some seconds and are done at first use."""

    train: Sequence[SourceText]
    """Python files of the training corpus, which give the frequencies of operators and names"""
    held_out: Sequence[SourceText]
    """Python files of packages that are not in the training corpus, which give the functions"""

    @cached_property
    def frequencies(self) -> Frequencies:
        """Counts of operators and names in the training corpus."""
        return count_frequencies(self.train)

    @cached_property
    def bugs(self) -> list[Bug]:
        """Bugs of both kinds, in the order of the held-out files."""
        return find_bugs(self.held_out, self.frequencies)

    def pairs(self, kind: BugKind, tokenizer: PreTrainedTokenizerBase, length: int) -> list[Pair]:
        """Return the pairs of one kind as at most `length` tokens, see `encode_bugs`."""
        return encode_bugs([bug for bug in self.bugs if bug.kind == kind], tokenizer, length)

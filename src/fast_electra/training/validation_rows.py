"""The validation rows of a run, and what several processes draw otherwise on them than one process does."""

from typing import TYPE_CHECKING

import torch

from fast_electra import distributed
from fast_electra.corruption.augmentations import Difficulty
from fast_electra.corruption.masking import mask_random_tokens
from fast_electra.corruption.replacement import CorruptionSource
from fast_electra.errors import DataError
from fast_electra.objectives.base import Prepared

if TYPE_CHECKING:
    from fast_electra.training.assembly import Inputs

# Validation rows use an epoch number that no training reaches, so they share no masks and no noise with training rows.
_VALIDATION_EPOCH = 2**16 - 1
# Measures always mask random tokens at this rate, whatever the run trains with, so that runs can be compared.
_VALIDATION_RATE = 0.15


def validation_batches(inputs: "Inputs", most: int | None = None) -> list[Prepared]:
    """Rows spread evenly over the validation split, with masks that are the same on every call.

    Args:
        inputs: of the run; `training.validation_sequences` limits the number of rows. A mixture's sources have their
            shares of them, and at least one row each.
        most: a further limit.

    Returns:
        batches of at most a micro-batch, each of one source.

    Raises:
        DataError: the rows hold no token that could be predicted.
    """
    rows, config, weights = inputs.rows("validation"), inputs.config, [*inputs.shards.mixture.values()]
    shares = [weight / sum(weights) for weight in weights] or [1.0]
    wanted = min(most or rows.count, config.training.validation_sequences)
    batches, count = [], 0
    for start, there, share in zip(rows.starts, rows.counts, shares, strict=False):
        spread = min(there, max(1, round(share * wanted)))
        indices, count = start + torch.arange(spread) * there // spread, count + spread
        for chunk in indices.split(config.training.rows_at_a_time):
            batch = rows.rows(chunk, epoch=_VALIDATION_EPOCH)
            batches.append(Prepared(batch, mask_random_tokens(batch, _VALIDATION_RATE, seed=0)))
    if not any(bool(prepared.batch.eligible.any()) for prepared in batches):
        raise DataError(
            f"{config.data.shards}: the {count} rows of validation text hold no token to predict, only special tokens "
            "such as [UNK]: build the shards with a tokenizer that knows the text (fast-electra data build)."
        )
    return batches


def differing_replacements(inputs: "Inputs", source: CorruptionSource, difficulty: Difficulty) -> str | None:
    """A sentence about the replacements that several processes draw otherwise than one process does.

    Only the number of rows in a micro-batch can make a difference, because results are rounded otherwise then. So the
    first validation rows are corrupted in micro-batches of both sizes, and the tokens that differ are counted.

    Returns:
        the sentence; None if one process would have the same micro-batches.
    """
    training, size = inputs.config.training, distributed.size()
    alone = training.rows_at_a_time
    shares = {training.batch_size // size, -(-training.batch_size // size)}
    here = min(share % alone or alone for share in shares)
    if here == alone or 0 in shares:
        return None
    rows = validation_batches(inputs)[0].to(inputs.execution.device)
    with inputs.execution.autocast(), torch.random.fork_rng():
        whole, *parts = (
            source.corrupt(part.batch, part.masked, difficulty, seed=0).ids_BS for part in (rows, *rows.split(here))
        )
    count, differing = int(rows.masked.valid_BM.sum()), int((whole != torch.cat(parts)).sum())
    return (
        f"{differing / max(1, count):.2%} of {count:,} replacements on held-out rows differ from those of one process, "
        f"which has micro-batches of {alone} rows where {size} processes have {here} (docs/processes.md)."
    )

import math
import time
from dataclasses import fields

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from fast_electra.data.batches import Batch, BatchSchedule, Prefetcher, Rows, permute
from fast_electra.data.shard_building import build_shards
from fast_electra.data.shards import open_shards
from fast_electra.errors import DataError
from tests import tiny

SPECIAL = tiny.SPECIAL


@pytest.fixture(scope="module")
def stream(shards):
    return open_shards(shards).split("train")


@pytest.fixture(scope="module")
def rows(stream):
    return Rows(stream, 32, SPECIAL)


def equal(one: Batch, other: Batch) -> bool:
    names = [field.name for field in fields(Batch) if field.name not in ("padded", "phase")]
    same = all(torch.equal(getattr(one, name), getattr(other, name)) for name in names)
    return same and (one.padded, one.phase) == (other.padded, other.phase)


@pytest.mark.parametrize("count", [*range(1, 70), 127, 128, 129, 1000, 4097, 100_003])
def test_the_order_of_an_epoch_is_a_permutation(count):
    order = permute(np.arange(count), count, (1, 2))
    assert (np.sort(order) == np.arange(count)).all()


def test_a_place_of_the_order_can_be_asked_for_alone_in_a_huge_corpus():
    count = 10**15 + 7
    places = np.array([0, 1, count // 2, count - 1])
    order = permute(places, count, (3, 4))
    assert ((order >= 0) & (order < count)).all()
    assert order.tolist() == [permute(places[n : n + 1], count, (3, 4)).item() for n in range(4)]


def test_orders_of_epochs_and_seeds_differ_and_are_uniform():
    count, epochs = 10, 4000
    orders = np.stack([permute(np.arange(count), count, (5, epoch)) for epoch in range(epochs)])
    # chi-square of (place, row) counts: 81 degrees of freedom, the 99.99 % point is 137
    counts = np.stack([np.bincount(orders[:, place], minlength=count) for place in range(count)])
    assert ((counts - epochs / count) ** 2 / (epochs / count)).sum() < 137
    # neighbours stay neighbours as often as by chance: 2 · 9 pairs of 90
    near = (np.abs(np.diff(orders, axis=1)) == 1).mean()
    assert abs(near - 0.2) < 0.01
    assert (permute(np.arange(50), 50, (0, 1)) != permute(np.arange(50), 50, (1, 0))).any()


@pytest.mark.parametrize("count", [2, 3, 4, 5])
def test_all_orders_of_few_rows_are_equally_frequent(count):
    each = 100
    draws = each * math.factorial(count)
    orders = [permute(np.arange(count), count, (draw // 50, draw % 50)) for draw in range(draws)]
    counts = np.unique(np.stack(orders) @ 10 ** np.arange(count), return_counts=True)[1]
    assert len(counts) == math.factorial(count)
    assert chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize("length", [8, 9, 16, 32, 61])
@pytest.mark.parametrize("split", ["train", "validation"])
def test_no_token_is_lost(shards, length, split):
    stream = open_shards(shards).split(split)
    rows = Rows(stream, length, SPECIAL)
    whole = stream.read(0, stream.tokens)
    for index in range(rows.count):
        stretch = whole[index * (length - 2) : (index + 1) * (length - 2)].tolist()
        content = rows.content(index).tolist()
        padded = [SPECIAL["sep"]] * (stretch[0] == SPECIAL["sep"]) + content
        padded += [SPECIAL["sep"]] * (len(stretch) - len(padded))
        assert padded == stretch
    assert rows.count * (length - 2) >= stream.tokens - 1


@pytest.mark.parametrize("length", [8, 9, 10, 11, 12, 13, 16, 32, 128, 1000])
def test_the_packing_efficiency_of_the_report_is_that_of_the_rows(tmp_path, tokenizer, length):
    config = tiny.settings(tmp_path).data.model_copy(update={"length": length, "workers": 1})
    report = build_shards(tiny.documents(60), tokenizer, tmp_path / "shards", config)
    for name, split in report.splits.items():
        rows = Rows(open_shards(tmp_path / "shards").split(name), length, SPECIAL)
        batch = rows.rows(torch.arange(rows.count))
        assert split.rows == rows.count
        assert split.packing_efficiency == pytest.approx((~batch.padding).float().mean().item(), abs=1e-6)


def test_a_row_is_cls_documents_joined_by_sep_and_sep(rows):
    batch = rows.rows(torch.arange(rows.count))
    used = (~batch.padding).sum(1)
    assert (batch.ids[:, 0] == SPECIAL["cls"]).all()
    assert (batch.ids.gather(1, used[:, None] - 1) == SPECIAL["sep"]).all()
    assert ((batch.ids == SPECIAL["pad"]) == batch.padding).all()
    assert (used[:-1] >= 30).all()
    assert (used >= 3).all()
    pairs = (batch.ids[:, 1:] == SPECIAL["sep"]) & (batch.ids[:, :-1] == SPECIAL["sep"])
    assert not pairs.any()
    assert batch.padded == bool(batch.padding.any())


def test_documents_and_positions_are_counted_inside_the_row(stream):
    for attention in ("packed", "document"):
        batch = Rows(stream, 32, SPECIAL, attention).rows(torch.arange(8))
        for row in range(8):
            document, position = 0, 0
            for place in range(32):
                if batch.padding[row, place]:
                    assert batch.documents[row, place] == -1
                    continue
                assert batch.documents[row, place] == document
                assert batch.positions[row, place] == (position if attention == "document" else place)
                position += 1
                if batch.ids[row, place] == SPECIAL["sep"]:
                    document, position = document + 1, 0
        assert batch.documents.max() >= 1


def test_only_ordinary_tokens_are_eligible(rows):
    batch = rows.rows(torch.arange(rows.count))
    assert (batch.eligible == (batch.ids >= 5)).all()


def test_each_row_is_seen_once_an_epoch(rows):
    size = 7
    schedule = BatchSchedule(rows, size, seed=1)
    seen = np.concatenate([schedule.order(update)[0] for update in range(3 * rows.count // size + 1)])
    epochs = np.concatenate([schedule.order(update)[1] for update in range(3 * rows.count // size + 1)])
    for epoch in range(3):
        assert (np.sort(seen[epochs == epoch]) == np.arange(rows.count)).all()
    assert (seen[: rows.count] != seen[rows.count : 2 * rows.count]).any()


def test_a_batch_is_the_same_after_resuming_at_any_update(shards, rows):
    unbroken = BatchSchedule(rows, 8, seed=3)
    batches = [unbroken.at(update) for update in range(30)]
    for start in (0, 1, 17, 29):
        resumed = BatchSchedule(Rows(open_shards(shards).split("train"), 32, SPECIAL), 8, seed=3)
        for update in range(start, 30):
            assert equal(resumed.at(update), batches[update])
    assert not equal(BatchSchedule(rows, 8, seed=4).at(0), batches[0])


def test_a_row_does_not_depend_on_its_batch(rows):
    batch = rows.rows(torch.tensor([5, 0, 9]), epoch=2)
    alone = rows.rows(torch.tensor([9]), torch.tensor([2]))
    assert equal(batch.split(2)[1], alone)


def test_micro_batches_are_the_batch(rows):
    batch = BatchSchedule(rows, 8, seed=0).at(3)
    parts = batch.split(3)
    assert [len(part.ids) for part in parts] == [3, 3, 2]
    assert torch.equal(torch.cat([part.ids for part in parts]), batch.ids)
    assert torch.equal(batch.to("cpu").indices, batch.indices)


def test_a_corpus_smaller_than_a_batch_is_one_sentence(rows):
    with pytest.raises(DataError, match=r"gives \d+ rows of 32 tokens, fewer than a batch of 100000"):
        BatchSchedule(rows, 100_000, seed=0)


def test_prefetching_keeps_the_order_and_says_how_long_it_waited():
    def slow(update):
        time.sleep(0.01)
        return update

    found = list(Prefetcher(slow, 3, 9))
    assert [result for result, _ in found] == [3, 4, 5, 6, 7, 8]
    assert found[0][1] > 0.005
    assert list(Prefetcher(slow, 3, 3)) == []


def test_prefetching_runs_ahead_by_a_few_only():
    asked = []
    loader = Prefetcher(asked.append, 0, 1000)
    for _ in loader:
        break
    time.sleep(0.05)
    assert len(asked) <= 6
    loader.close()


def test_an_error_while_prefetching_is_raised_where_it_is_read():
    def broken(update):
        if update == 2:
            raise DataError("broken")
        return update

    found = []
    with pytest.raises(DataError, match="broken"):
        found.extend(result for result, _ in Prefetcher(broken, 0, 5))
    assert found == [0, 1]


def test_closing_ends_the_thread_even_when_nothing_was_read():
    loader = Prefetcher(lambda update: update, 0, 10**9)
    loader.close()
    loader.close()
    assert not loader._thread.is_alive()
    assert list(loader) == []

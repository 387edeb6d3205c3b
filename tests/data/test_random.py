import torch

from fast_electra.data.random import Stream, _as_uniforms, philox, stage_seed, uniforms


def test_philox_gives_the_published_known_answers():
    # Random123's kat_vectors, philox4x32 with 10 rounds.
    cases = [
        ((0, 0), (0, 0, 0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        (
            (0xFFFFFFFF, 0xFFFFFFFF),
            (0xFFFFFFFF,) * 4,
            (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
        ),
        (
            (0xA4093822, 0x299F31D0),
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ]
    for key, counter, expected in cases:
        assert philox(key, torch.tensor(counter)).tolist() == list(expected)


def test_a_number_depends_on_its_own_counter_alone():
    epochs, indices = torch.tensor([[0], [1], [0]]), torch.tensor([[5], [5], [2**40 + 5]])
    positions = torch.arange(64)[None, :]
    together = uniforms(3, Stream.MASKING, epochs, indices, positions)
    alone = uniforms(3, Stream.MASKING, epochs[1:2], indices[1:2], positions[:, 7:8])
    assert together[1, 7] == alone[0, 0]
    assert together.unique().numel() == together.numel()  # rows, epochs and positions share no number
    assert not torch.equal(together, uniforms(4, Stream.MASKING, epochs, indices, positions))
    assert not torch.equal(together, uniforms(3, Stream.SAMPLING, epochs, indices, positions))


def test_uniforms_are_uniform_with_52_bits():
    numbers = uniforms(0, Stream.SAMPLING, torch.tensor(0), torch.arange(1000)[:, None], torch.arange(200)[None, :])
    assert numbers.dtype == torch.float64
    assert 0 < numbers.min() < numbers.max() < 1
    counts = torch.histc(numbers.flatten().float(), 100, 0, 1)
    expected = numbers.numel() / 100
    chi_square = float(((counts - expected) ** 2 / expected).sum())
    assert chi_square < 149  # 99 degrees of freedom: p = 0.001
    assert (numbers * 2**24 % 1 != 0).any()  # finer than float32's steps


def test_no_words_give_0_or_1():
    most = 2**32 - 1
    high, low = torch.tensor([0, 0, most, most, most]), torch.tensor([0, 1, 0, most - 2**12, most])
    numbers = _as_uniforms(high, low)
    assert numbers[0] == 2.0**-53
    assert numbers[-1] == 1 - 2.0**-53  # and not 1.0, which it would be with a bit more
    assert numbers[-2] < numbers[-1]
    assert (numbers.log() < 0).all()


def test_stages_and_seeds_have_seeds_of_their_own():
    seeds = {stage_seed(seed, stage) for seed in (0, 1, 2**63 - 1) for stage in ("mlm", "fast_electra", "electra")}
    assert len(seeds) == 9
    assert all(0 <= seed < 2**63 for seed in seeds)

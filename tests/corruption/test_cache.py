import hashlib
import json
import random
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from fast_electra.cli.corrupt_command import _share
from fast_electra.cli.main import main
from fast_electra.config.printing import dump_config
from fast_electra.config.tree import Config
from fast_electra.corruption.augmentations import Difficulty
from fast_electra.corruption.cache import CachedCorruption, open_cache, write_cache_manifest
from fast_electra.corruption.cache_files import KNOTS, PackedPaths, expected_replaced, interpolation, knots, write_part
from fast_electra.corruption.masking import Masked, mask_random_tokens
from fast_electra.corruption.race import TemperaturePath
from fast_electra.corruption.replacement import OnTheFly
from fast_electra.data.files import canonical_digest, read_sealed_json
from fast_electra.diagnosis.doctor import examine
from fast_electra.errors import ConfigError, DataError
from fast_electra.pipelines import corrupt
from fast_electra.pipelines.corrupt import build_cache
from fast_electra.pipelines.pretrain import pretrain
from fast_electra.runs.metrics import read_metrics
from fast_electra.training.assembly import assemble
from fast_electra.training.loop import Interrupted
from tests import tiny
from tests.training.test_training import CPU

PART_TOKENS = 24 * 32  # 24 rows: four parts of the 96 that a tiny run reads


def changed(config: Config, **sections: dict) -> Config:
    """Keys of sections replaced, the whole checked again."""
    tree = config.model_dump()
    for section, values in sections.items():
        tree[section] |= values
    return Config.model_validate(tree)


def settings(shards, auxiliary, **corruption) -> Config:
    return changed(tiny.settings(shards, "fast_electra", auxiliary), corruption=corruption)


@pytest.fixture(scope="module")
def cache(tmp_path_factory, shards, auxiliary) -> Path:
    folder = tmp_path_factory.mktemp("cache") / "cache"
    report = build_cache(settings(shards, auxiliary), folder, part_tokens=PART_TOKENS)
    assert report.finished
    assert report.rows == 12 * 8
    return folder


def parts_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.suffix == ".bin"}


def weights(run: Path) -> bytes:
    return (run / "model" / "model.safetensors").read_bytes()


SCHEDULES = {
    "exponential": {"kind": "exponential", "initial": 2.0, "tau": 0.3},
    "linear": {"kind": "linear", "initial": 3.0},
    "constant": {"kind": "constant", "initial": 1.5},
    "adaptive": {"kind": "adaptive", "initial": 2.0, "highest": 3.0, "gain": 0.5},
}


@pytest.mark.parametrize("kind", SCHEDULES)
def test_one_cache_gives_the_weights_of_on_the_fly_runs_bit_for_bit(kind, tmp_path, shards, auxiliary, cache):
    schedule = SCHEDULES[kind]
    pretrain(settings(shards, auxiliary, schedule=schedule, sampler="race"), tmp_path / "online")
    pretrain(settings(shards, None, schedule=schedule, cache=cache), tmp_path / "cached")
    assert weights(tmp_path / "cached") == weights(tmp_path / "online")
    online, cached = (read_metrics(tmp_path / name / "metrics.jsonl") for name in ("online", "cached"))
    for one, other in zip(online, cached, strict=True):
        # Knots interpolate what is known exactly on the fly, as 16-bit numbers.
        assert one.pop("replaced_fraction_expected") == pytest.approx(other.pop("replaced_fraction_expected"), abs=1e-3)
        assert one.pop("auxiliary_entropy")
        for record in (one, other):
            record.get("validation", {}).pop("replaced_fraction_expected", None)
        assert {k: v for k, v in one.items() if k != "timing"} == {k: v for k, v in other.items() if k != "timing"}
    temperatures = {record["temperature"] for record in cached}
    assert len(temperatures) > 1 or kind == "constant"


def test_replacements_are_those_of_the_fly_at_every_temperature(shards, auxiliary, cache):
    parts = assemble(settings(shards, auxiliary, sampler="race"), CPU)
    online, cached = parts.objective.source, CachedCorruption(open_cache(cache))  # type: ignore[attr-defined]
    assert isinstance(online, OnTheFly)
    seen = set()
    for update in range(4):
        prepared = parts.objective.prepare(parts.schedule.at(update), parts.seed)
        for temperature in (1.0, 1.1, 1.37, 2.0, 2.9, 3.0):
            one, other = (
                source.corrupt(prepared.batch, prepared.masked, Difficulty(temperature), parts.seed)
                for source in (online, cached)
            )
            assert torch.equal(one.ids_BS, other.ids_BS)
            assert torch.equal(one.replaced_BS, other.replaced_BS)
            seen.add(one.ids_BS.numpy().tobytes())
    assert len(seen) > 8  # temperatures matter


def test_any_batch_size_reads_the_same_rows(shards, cache):
    source = CachedCorruption(open_cache(cache))
    rows = {}
    for size in (8, 3, 30):
        config = changed(settings(shards, None, cache=cache), training={"batch_size": size, "updates": 90 // size})
        parts = assemble(config, CPU)
        corrupted = []
        for update in range(90 // size):
            prepared = parts.objective.prepare(parts.schedule.at(update), parts.seed)
            corrupted += [
                source.corrupt(micro.batch, micro.masked, Difficulty(1.7), parts.seed).ids_BS
                for micro in prepared.split(2)
            ]
        rows[size] = torch.cat(corrupted)[:88]
    assert torch.equal(rows[8], rows[3])
    assert torch.equal(rows[8], rows[30])


def test_epochs_draw_other_masks_and_noise(tmp_path):
    small = tiny.make_shards(tmp_path / "shards", count=25)
    config = changed(settings(small, None), auxiliary={"kind": "unigram"})
    build_cache(config, tmp_path / "cache")
    parts = assemble(changed(config, corruption={"cache": tmp_path / "cache"}), CPU)
    count = parts.schedule.rows.count
    assert count <= 88
    seen: dict[int, list] = {}
    for update in range(12):
        prepared = parts.objective.prepare(parts.schedule.at(update), parts.seed)
        corrupted = parts.objective.source.corrupt(prepared.batch, prepared.masked, Difficulty(1.0), 0)  # type: ignore[attr-defined]
        for row, index in enumerate(prepared.batch.indices.tolist()):
            chosen = prepared.masked.positions_BM[row][prepared.masked.valid_BM[row]]
            seen.setdefault(index, []).append((chosen.tolist(), corrupted.ids_BS[row]))
    again = [pair for pair in seen.values() if len(pair) == 2]
    assert len(again) == 96 - count
    assert sum(first[0] != second[0] for first, second in again) > 0.9 * len(again)
    both = [(a[position], b[position]) for (m, a), (n, b) in again for position in set(m) & set(n)]
    assert both
    assert sum(bool(one != other) for one, other in both) > 0.5 * len(both)


def test_two_shards_make_the_bytes_that_one_makes_and_a_stopped_build_goes_on(tmp_path, shards, auxiliary, cache):
    config = settings(shards, auxiliary)
    second = build_cache(config, tmp_path / "shared", (2, 2), part_tokens=PART_TOKENS)
    assert not second.finished
    with pytest.raises(DataError, match="is not finished"):
        open_cache(tmp_path / "shared")

    class Killed(Exception):
        pass

    def kill(done: int, total: int) -> None:
        if done > 24:
            raise Killed

    with pytest.raises(Killed):
        build_cache(config, tmp_path / "shared", (1, 2), progress=kill, part_tokens=PART_TOKENS)
    before = {name: (tmp_path / "shared" / name).stat().st_mtime_ns for name in parts_of(tmp_path / "shared")}
    assert 2 < len(before) < 5
    rest = build_cache(config, tmp_path / "shared", (1, 2), part_tokens=PART_TOKENS)
    assert rest.finished
    assert rest.built_parts == 5 - len(before)
    assert parts_of(tmp_path / "shared") == parts_of(cache)
    assert (tmp_path / "shared" / "cache.json").read_bytes() == (cache / "cache.json").read_bytes()
    assert all((tmp_path / "shared" / name).stat().st_mtime_ns == time for name, time in before.items())
    assert build_cache(config, tmp_path / "shared").built_parts == 0


def test_a_longer_run_adds_what_is_missing(tmp_path, shards, auxiliary, cache):
    shutil.copytree(cache, tmp_path / "cache")
    longer = changed(settings(shards, auxiliary), training={"updates": 14})
    with pytest.raises(ConfigError, match=r"holds 96 rows, and the run reads 112"):
        assemble(changed(longer, corruption={"cache": tmp_path / "cache"}), CPU)
    report = build_cache(longer, tmp_path / "cache", part_tokens=PART_TOKENS)
    assert (report.finished, report.built_parts, report.rows) == (True, 1, 112)
    old = parts_of(cache)
    assert {name: data for name, data in parts_of(tmp_path / "cache").items() if name in old} == old


def test_every_flipped_bit_of_the_settings_of_an_unfinished_cache_is_found(tmp_path, cache):
    whole = (cache / "cache.json").read_bytes()
    about = json.loads(whole)
    for place in random.Random(0).sample(range(8 * len(whole)), 200):
        damaged = bytearray(whole)
        damaged[place // 8] ^= 1 << place % 8
        (tmp_path / "cache.json").write_bytes(damaged)
        if read_sealed_json(tmp_path / "cache.json") is None:  # another spelling of the same number is harmless
            with pytest.raises(DataError, match=r"cache\.json is damaged"):
                corrupt._begun(tmp_path, about)
    del about["sha256"]
    (tmp_path / "cache.json").write_text(json.dumps(about))  # as earlier versions wrote it
    assert corrupt._begun(tmp_path, about) == about


@pytest.mark.parametrize("name", ["cache.json", "manifest.json", "train-00002.bin", "validation.bin"])
def test_a_flipped_byte_is_refused(name, tmp_path, cache):
    shutil.copytree(cache, tmp_path / "cache")
    content = bytearray((tmp_path / "cache" / name).read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "cache" / name).write_bytes(bytes(content))
    with pytest.raises(DataError, match=rf"{name} is damaged"):
        open_cache(tmp_path / "cache")


def test_a_cache_of_the_former_rule_which_drew_special_tokens_is_refused(tmp_path, shards, auxiliary, cache):
    shutil.copytree(cache, tmp_path / "cache")
    manifest = json.loads((tmp_path / "cache" / "manifest.json").read_text())
    about = json.loads((tmp_path / "cache" / "cache.json").read_text())
    assert manifest["version"] == about["version"] == 2
    del about["sha256"]  # earlier versions did not seal it
    described = json.dumps(about | {"version": 1}).encode()
    (tmp_path / "cache" / "cache.json").write_bytes(described)
    del manifest["digest"]
    manifest |= {"version": 1}
    manifest["files"]["cache.json"] = {"bytes": len(described), "sha256": hashlib.sha256(described).hexdigest()}
    manifest |= {"digest": canonical_digest(manifest)}
    (tmp_path / "cache" / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DataError, match=r"of version 2 \(its version is 1\)"):
        assemble(settings(shards, None, cache=tmp_path / "cache"), CPU)
    with pytest.raises(DataError, match=r"version is 1 there and 2 here"):
        build_cache(settings(shards, auxiliary), tmp_path / "cache")


def test_a_damaged_part_is_made_again(tmp_path, shards, auxiliary, cache):
    shutil.copytree(cache, tmp_path / "cache")
    (tmp_path / "cache" / "train-00001.bin").write_bytes(b"damaged")
    assert build_cache(settings(shards, auxiliary), tmp_path / "cache").built_parts == 1
    assert parts_of(tmp_path / "cache") == parts_of(cache)


FOREIGN = {
    "training.seed is 0 there and 1 here": {"training": {"seed": 1}},
    "data.length is 32 there and 24 here": {"data": {"length": 24}},
    'data.attention is "packed" there and "document" here': {"data": {"attention": "document"}},
    "corruption.masking is": {"corruption": {"masking": {"rate": 0.3}}},
    r"corruption.race_interval is \[1.0, 3.0\] there and \[1.0, 2.5\] here": {
        "corruption": {"race_interval": (1.0, 2.5)}
    },
    "objective.disallow_correct is false there and true here": {"objective": {"disallow_correct": True}},
    "training.validation_sequences is": {"training": {"validation_sequences": 3}},
}


@pytest.mark.parametrize("sentence", FOREIGN)
def test_a_run_of_other_settings_is_refused_by_name(sentence, shards, cache):
    config = changed(settings(shards, None, cache=cache), **FOREIGN[sentence])
    with pytest.raises(ConfigError, match=rf"is of another run: .*{sentence}"):
        assemble(config, CPU)


def test_a_run_with_other_data_tokenizer_or_auxiliary_is_refused_by_name(tmp_path, shards, cache):
    other = tiny.make_shards(tmp_path / "shards", count=100, seed=1)
    with pytest.raises(ConfigError, match=r"data.shards is \w+… there .*data.tokenizer is \w+… there"):
        assemble(settings(other, None, cache=cache), CPU)
    pretrain(tiny.settings(shards, training__updates=2), tmp_path / "auxiliary")
    with pytest.raises(ConfigError, match=r"auxiliary.model is \w+… there and \w+… here"):
        assemble(settings(shards, tmp_path / "auxiliary", cache=cache), CPU)
    with pytest.raises(ConfigError, match=r'auxiliary.kind is "masked_lm" there and "unigram" here'):
        assemble(changed(settings(shards, None, cache=cache), auxiliary={"kind": "unigram"}), CPU)


def test_a_build_into_a_folder_of_other_settings_or_numerics_is_refused(tmp_path, shards, auxiliary, cache):
    for section, changes, sentence in (
        ("training", {"seed": 1}, "training.seed is 0"),
        ("execution", {"precision": "bfloat16"}, '"float32" there'),
    ):
        with pytest.raises(DataError, match=f"is a cache with other settings: .*{sentence}"):
            build_cache(changed(settings(shards, auxiliary), **{section: changes}), cache)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(DataError, match="holds something that is no corruption cache"):
        build_cache(settings(shards, auxiliary), tmp_path / "full")


@pytest.mark.parametrize("source", ["race", "cache"])
@pytest.mark.parametrize(
    ("schedule", "sentence"),
    [
        ({"kind": "linear", "initial": 4.0}, r"\(linear\) goes from 4 to 1, outside of corruption.race_interval"),
        ({"kind": "exponential", "final": 0.5, "tau": 0.1}, r"goes from 2 to 0.500"),
        ({"kind": "adaptive"}, r"\(adaptive\) goes from 4 to 1"),
    ],
)
def test_a_schedule_outside_of_the_interval_is_refused(source, schedule, sentence, shards, auxiliary, cache):
    given = {"sampler": "race"} if source == "race" else {"cache": cache}
    with pytest.raises(ConfigError, match=sentence):
        assemble(settings(shards, auxiliary, schedule=schedule, **given), CPU)


def test_a_final_temperature_that_is_never_reached_is_no_obstacle(shards, cache):
    schedule = {"kind": "exponential", "initial": 2.0, "final": 0.5, "tau": 10.0}
    assemble(settings(shards, None, schedule=schedule, cache=cache), CPU)


def test_what_changes_the_auxiliary_at_every_update_is_refused(shards, auxiliary, tmp_path):
    for given in ({"sampler": "race"}, {"cache": tmp_path}):
        with pytest.raises(ValueError, match="dropout changes the auxiliary at every update"):
            settings(shards, auxiliary, augmentation={"kind": "dropout"}, **given)
    with pytest.raises(ConfigError, match="cannot be computed ahead of time"):
        build_cache(settings(shards, auxiliary, augmentation={"kind": "dropout"}), tmp_path / "cache")
    with pytest.raises(ValueError, match="with 1 between"):
        settings(shards, auxiliary, race_interval=(1.5, 3.0))


def test_a_cached_run_holds_no_auxiliary_and_resumes_bit_for_bit(tmp_path, shards, cache):
    config = settings(shards, None, cache=cache)
    pretrain(config, tmp_path / "whole")
    asked = iter(range(100))
    with pytest.raises(Interrupted):
        pretrain(config, tmp_path / "parts", stop=lambda: next(asked) + 1 >= 5)
    pretrain(config, tmp_path / "parts")
    assert weights(tmp_path / "parts") == weights(tmp_path / "whole")
    record = json.loads((tmp_path / "whole" / "run.json").read_text())
    assert record["auxiliary"] == open_cache(cache).about["identity"]["auxiliary.model"]
    assert record["earlier_flops"]["cache"] > 0
    assert record["earlier_flops"]["auxiliary"] > 0
    found = {finding.check: finding for finding in examine(tmp_path / "whole")}
    assert found["replaced fraction"].severity == "ok"
    assert found["auxiliary unchanged"].severity == "ok"
    assert found["labels"].severity == "ok"
    card = (tmp_path / "whole" / "model" / "README.md").read_text()
    assert str(cache) not in card
    assert "and its cache" in card


def test_weights_of_the_auxiliary_can_still_be_copied(shards, auxiliary, cache):
    config = changed(settings(shards, auxiliary, cache=cache), main={"start": "auxiliary"})
    state = assemble(config, CPU).objective.models()["main"].state_dict()
    copied = load_file(auxiliary / "model" / "model.safetensors")
    assert any(name in copied and torch.equal(value, copied[name]) for name, value in state.items())
    changed_config = changed(settings(shards, auxiliary, cache=cache), main={"embeddings": "auxiliary_plus_delta"})
    assemble(changed_config, CPU)


def test_the_command_builds_and_says_what_it_cost(tmp_path, shards, auxiliary, capsys):
    (tmp_path / "my.yaml").write_text(dump_config(settings(shards, auxiliary)))
    for number in (1, 2):
        assert (
            main(
                ["corrupt", str(tmp_path / "my.yaml"), "--out", str(tmp_path / "c"), "--shard", f"{number}/2", "--json"]
            )
            == 0
        )
        found = json.loads(capsys.readouterr().out)
        assert found["finished"] == (number == 2)
    assert found["rows"] == 96
    assert found["bytes_per_token"] > 0
    assert 1 <= found["segments_per_position"] < 4
    timing = found["timing"]
    assert timing["seconds"] >= timing["forward_seconds"] + timing["race_seconds"] > 0
    assert main(["corrupt", str(tmp_path / "my.yaml"), "--out", str(tmp_path / "c")]) == 0
    output = capsys.readouterr()
    assert "bytes per token" in output.out
    assert "nothing to do" in output.err
    assert main(["corrupt", str(tmp_path / "my.yaml"), "--out", str(tmp_path / "c"), "--shard", "3/2"]) == 2
    assert "--shard 3/2 is not i/n" in capsys.readouterr().err


def test_each_process_of_a_launcher_builds_its_share_and_other_variables_mean_nothing(monkeypatch):
    assert _share(None) == (1, 1)
    for name, value in {"RANK": "2", "WORLD_SIZE": "4", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}.items():
        assert _share(None) == (1, 1)  # such as a WORLD_SIZE that nothing launched
        monkeypatch.setenv(name, value)
    assert _share(None) == (3, 4)
    assert _share("1/2") == (1, 2)


# Without a run


def test_what_is_packed_is_read_back_at_every_temperature(tmp_path):
    """Ragged paths, padding slots, tokens of 32 bits, several parts, and rows in any order."""
    draw = torch.Generator().manual_seed(0)
    rows, slots, most = 10, 5, 6
    starts = (0.3 + 0.7 * torch.rand(rows * slots, most, generator=draw)).sort(1).values
    starts[:, 0] = 1 / 3
    starts[torch.arange(most)[None, :] >= torch.randint(1, most + 1, (rows * slots, 1), generator=draw)] = float("inf")
    tokens = torch.randint(0, 100_000, (rows * slots, most), generator=draw)
    valid = torch.arange(slots) < torch.randint(1, slots + 1, (rows, 1), generator=draw)
    masked = Masked(torch.arange(slots).expand(rows, -1), valid)
    about = {
        "identity": {"corruption.race_interval": [1.0, 3.0]},
        "validation": [3, 8],
        "chunk_rows": 4,
        "token_type": "<u4",
    }
    (tmp_path / "cache.json").write_text(json.dumps(about))
    parts, files = [], {}
    for number, (first, last) in enumerate([(0, 4), (4, 8), (8, 10), (0, 2)]):
        inside = slice(first * slots, last * slots)
        path = TemperaturePath(tokens[inside], starts[inside], 1.0, 3.0)
        piece = PackedPaths.of(
            path, Masked(masked.positions_BM[first:last], valid[first:last]), torch.ones(last - first, KNOTS)
        )
        part, files[f"{number}.bin"] = write_part(tmp_path, f"{number}.bin", [piece], vocabulary=100_000)
        parts.append(part)
    write_cache_manifest(tmp_path, parts[:3], parts[3], files)
    cache = open_cache(tmp_path)
    assert cache.rows == 10
    order = np.array([9, 0, 3, 4, 7, 8, 1])
    for temperature in np.linspace(1.0, 3.0, 21):
        expected = TemperaturePath(tokens, starts, 1.0, 3.0).at(float(temperature)).view(rows, slots).numpy()
        found, numbers = cache.read(order, float(temperature))
        assert (found == expected[order])[valid.numpy()[order]].all()
        assert numbers == pytest.approx(np.ones(len(order)))
        found, _ = cache.read(~np.array([8, 3]), float(temperature))
        assert (found == expected[[1, 0]])[valid.numpy()[[1, 0]]].all()
    for wrong in (10, ~4):
        with pytest.raises(DataError, match=r"not row 10|no paths of this validation row"):
            cache.read(np.array([wrong]), 1.0)
    with pytest.raises(ValueError, match=r"3\.5 lies outside the cache's 1 to 3"):
        cache.read(order, 3.5)


def test_the_expected_share_of_replaced_tokens_is_interpolated_to_a_thousandth():
    draw = torch.Generator().manual_seed(0)
    batch = tiny.batch(rows=16, length=128, vocabulary=2000)
    masked = mask_random_tokens(batch, 0.15, seed=0)
    logits = torch.randn(masked.positions_BM.numel(), 2000, generator=draw) * 3
    originals = batch.ids.gather(1, masked.positions_BM)
    # Sharp, as a trained auxiliary's: at T = 1 it gives the original about a half.
    logits.scatter_add_(1, originals.view(-1, 1), torch.full((len(logits), 1), 12.0))
    interval = (1.0, 3.0)
    stored = expected_replaced(logits, originals, masked.valid_BM, interval)
    assert stored.shape == (16, KNOTS)
    valid = masked.valid_BM.flatten()
    for temperature in (1.0, 1.07, 1.3, 1.9, 2.6, 3.0):
        exact = 1 - (logits / temperature).softmax(1).gather(1, originals.view(-1, 1))[:, 0]
        found = stored.half().double().sum(0).numpy() @ interpolation(knots(interval), 1 / temperature)
        assert found / valid.sum() == pytest.approx(float(exact[valid].mean()), abs=1e-3)


def test_reading_a_batch_takes_less_than_a_millisecond(tmp_path):
    draw = torch.Generator().manual_seed(0)
    rows, slots = 512, 19
    starts = torch.full((rows * slots, 3), float("inf"))
    starts[:, 0] = 1 / 3
    starts[:, 1][torch.rand(rows * slots, generator=draw) < 0.5] = 0.6
    path = TemperaturePath(torch.randint(0, 30_000, (rows * slots, 3), generator=draw), starts, 1.0, 3.0)
    masked = Masked(torch.arange(slots).expand(rows, -1), torch.ones(rows, slots, dtype=torch.bool))
    about = {
        "identity": {"corruption.race_interval": [1.0, 3.0]},
        "validation": [0],
        "chunk_rows": rows,
        "token_type": "<u2",
    }
    (tmp_path / "cache.json").write_text(json.dumps(about))
    part, entry = write_part(tmp_path, "a.bin", [PackedPaths.of(path, masked, torch.ones(rows, KNOTS))], 30_000)
    write_cache_manifest(tmp_path, [part], part, {"a.bin": entry})
    cache = open_cache(tmp_path)
    seconds = []
    for number in range(16):
        began = time.perf_counter()
        cache.read(np.arange(32 * number, 32 * number + 32), 1.4)
        seconds.append(time.perf_counter() - began)
    assert min(seconds) < 1e-3  # 0.1 ms on an idle core; the others may have waited for one

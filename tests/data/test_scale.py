"""Building in parts that are joined, and the plan of a build."""

import json
import shutil

import numpy as np
import pytest

from fast_electra.cli.main import main
from fast_electra.data.merging import merge_shards, part_name
from fast_electra.data.reading import Reading
from fast_electra.data.settings import DataConfig, TokenizerConfig
from fast_electra.data.shard_building import build_shards
from fast_electra.data.shards import open_shards
from fast_electra.data.sources import Sources
from fast_electra.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """Eleven files of different sizes, with documents that occur in several of them."""
    folder = tmp_path_factory.mktemp("texts")
    for file in range(11):
        paragraphs = [f"paragraph {n} of {n * n % 89} words in {file % 4}" for n in range(20 + 9 * file)]
        (folder / f"{file:02}.txt").write_text("\n\n".join([*paragraphs, "in every file", "a b ] \x85"]))
    (folder / "picture.png").write_bytes(b"\x89PNG")
    return folder


@pytest.fixture(scope="module")
def config(texts, tmp_path_factory):
    whole = DataConfig(
        sources=[str(texts)],
        length=16,
        workers=1,
        validation_fraction=0.2,
        tokenizer=TokenizerConfig(vocabulary_size=300),
    )
    folder = tmp_path_factory.mktemp("first") / "shards"
    build_shards(None, None, folder, whole)
    return whole.model_copy(update={"tokenizer": TokenizerConfig(path=str(folder / "tokenizer"))})


def build_parts(folder, config, count, numbers=None):
    for number in numbers or range(1, count + 1):
        build_shards(None, None, folder / part_name((number, count)), config, share=(number, count))
    return folder


@pytest.mark.parametrize("count", [1, 3, 20])
@pytest.mark.parametrize("mixed", [False, True])
def test_merged_parts_are_what_one_build_writes(texts, config, tmp_path, count, mixed):
    if mixed:
        sources = [{"path": str(texts / f"{n:02}.txt"), "weight": n, "name": f"n{n}"} for n in (9, 10)]
        config = config.model_copy(update={"sources": sources})
    one = build_shards(None, None, tmp_path / "one", config)
    merged = merge_shards(build_parts(tmp_path / "parts", config, count), tmp_path / "merged")
    shards = open_shards(tmp_path / "merged")
    assert shards.fingerprint == open_shards(tmp_path / "one").fingerprint
    assert shards.mixture == open_shards(tmp_path / "one").mixture
    assert shards.manifest["source_digest"] == open_shards(tmp_path / "one").manifest["source_digest"]
    assert not list((tmp_path / "merged").glob("*identities*"))
    there, here = one.to_json(), merged.to_json()
    for report in (there, here):
        del report["folder"], report["timing"], report["tokenizer"]  # of a sample
    assert here == there
    assert there["dropped"]["duplicate"]["documents"] >= 1


def test_a_merged_stream_is_cut_into_shards_as_any_other(config, tmp_path, monkeypatch):
    from fast_electra.data import merging

    build_shards(None, None, tmp_path / "one", config)
    monkeypatch.setattr(merging, "SHARD_TOKENS", 2000)
    monkeypatch.setattr(merging, "_TOKENS", 500)
    merge_shards(build_parts(tmp_path / "parts", config, 3), tmp_path / "merged")
    assert (tmp_path / "merged" / "train-00001.bin").exists()
    for split in ("train", "validation"):
        one, merged = (open_shards(tmp_path / name).split(split) for name in ("one", "merged"))
        assert (one.read(0, one.tokens) == merged.read(0, merged.tokens)).all()
        assert (np.concatenate(list(one.ends())) == np.concatenate(list(merged.ends()))).all()


def test_merging_again_says_that_the_shards_are_there_and_refuses_other_parts(config, tmp_path):
    parts = build_parts(tmp_path / "parts", config, 2)
    first = merge_shards(parts, tmp_path / "merged").to_json()
    assert merge_shards(parts, tmp_path / "merged").to_json() == first | {"existed": True}
    other = config.model_copy(update={"validation_fraction": 0.3})
    with pytest.raises(DataError, match="holds other shards"):
        merge_shards(build_parts(tmp_path / "others", other, 2), tmp_path / "merged")


def test_each_file_is_in_one_share_and_shares_have_about_equal_sizes(texts):
    every = [path for _, path, _ in Sources([texts]).files(Reading())]
    shares = [[path for _, path, _ in Sources([texts], share=(number, 3)).files(Reading())] for number in (1, 2, 3)]
    assert [path for share in shares for path in share] == every
    sizes = [sum(path.stat().st_size for path in share) for share in shares]
    assert max(sizes) < 1.5 * min(sizes)


def test_a_finished_part_is_left_as_it_is_and_an_unfinished_one_is_built_again(config, tmp_path):
    parts = build_parts(tmp_path / "parts", config, 2)
    part = parts / part_name((2, 2))
    assert build_shards(None, None, part, config, share=(2, 2)).existed
    fingerprint = open_shards(part, part=True).fingerprint
    part.rename(part.with_name(part.name + ".partial"))  # what a kill leaves
    with pytest.raises(DataError, match=r"part-00002-of-00002 is missing: run .* with --shard 2/2"):
        merge_shards(parts, tmp_path / "out")
    build_shards(None, None, part, config, share=(2, 2))
    assert open_shards(part, part=True).fingerprint == fingerprint
    assert [path.name for path in sorted(parts.iterdir()) if path.is_dir()] == [part_name((n, 2)) for n in (1, 2)]


def test_parts_that_do_not_belong_together_are_refused(config, tmp_path):
    parts = build_parts(tmp_path / "parts", config, 2, [1])
    build_parts(parts, config.model_copy(update={"validation_fraction": 0.3}), 2, [2])
    with pytest.raises(DataError, match=r"part-00002-of-00002 was built with other settings .*validation_fraction"):
        merge_shards(parts, tmp_path / "out")
    shutil.rmtree(parts / part_name((2, 2)))
    build_parts(parts, config, 3, [2])
    with pytest.raises(DataError, match=r"part-00001-of-00003 is missing"):
        merge_shards(parts, tmp_path / "out")
    with pytest.raises(DataError, match="holds no parts"):
        merge_shards(tmp_path, tmp_path / "out")
    build_parts(parts, config, 2, [2])
    file = next((parts / part_name((1, 2))).glob("train*.bin"))
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    shutil.rmtree(parts / part_name((2, 3)))
    with pytest.raises(DataError, match=r"is damaged .*delete the folder"):
        merge_shards(parts, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_part_is_no_folder_to_train_on_and_needs_a_tokenizer(config, tmp_path):
    parts = build_parts(tmp_path / "parts", config, 2)
    with pytest.raises(
        DataError, match=r"is part 1 of 2: join the parts by `fast-electra data merge .*parts --out SHARDS`"
    ):
        open_shards(parts / part_name((1, 2)))
    untrained = config.model_copy(update={"tokenizer": TokenizerConfig()})
    with pytest.raises(ConfigError, match=r"--shard needs one tokenizer for all parts"):
        build_shards(None, None, tmp_path / "a", untrained, share=(1, 2))


def test_the_commands_build_join_and_plan(texts, config, tmp_path, capsys):
    words = [
        *("data", "build", "modern-small", f"data.sources=[{texts}]", "data.validation_fraction=0.2", "data.workers=1"),
        f"data.tokenizer.path={config.tokenizer.path}",
    ]
    for number in (2, 1):
        assert main([*words, "--out", str(tmp_path / "parts"), "--shard", f"{number}/2"]) == 0
    capsys.readouterr()
    assert main(["data", "merge", str(tmp_path / "parts"), "--out", str(tmp_path / "shards"), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert main([*words, "--dry-run", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["files"] == report["files"] == 11
    assert plan["bytes"] == plan["text_bytes"] == sum(path.stat().st_size for path in texts.glob("*.txt"))
    tokens = report["tokens"] * plan["text_bytes"] / (report["text_bytes"] - report["dropped"]["duplicate"]["bytes"])
    assert plan["tokens"] == pytest.approx(tokens, rel=0.1)
    assert plan["timing"]["seconds"] > 0
    assert main([*words, "--dry-run"]) == 0
    assert "11 files" in capsys.readouterr().out
    trained = [word for word in words if "tokenizer" not in word]
    assert main([*trained, "--dry-run"]) == 0
    assert main(words) == 2
    assert "--out is not given" in capsys.readouterr().err
    assert main([*words, "--out", "x", "--shard", "3/2"]) == 2

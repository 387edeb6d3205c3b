import json
from pathlib import Path

import pytest

from fast_electra import plugins
from fast_electra.cli.main import main
from fast_electra.config.loading import load_config
from fast_electra.config.printing import config_schema, dump_config, help_for_keys
from fast_electra.errors import CheckpointError, ConfigError
from fast_electra.pipelines.pretrain import pretrain
from fast_electra.publishing.export import export_run
from fast_electra.runs.folder import load_run
from fast_electra.runs.metrics import read_metrics
from fast_electra.training.loop import Interrupted
from tests import tiny

EXAMPLES = tiny.ROOT / "examples" / "plugins"
SAWTOOTH = EXAMPLES / "sawtooth.py"


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return tiny.make_shards(tmp_path_factory.mktemp("shards"))


def write_config(shards: Path, path: Path, example: Path, changes: dict) -> Path:
    """A YAML file for ten updates against a table of counts, with a plug-in."""
    tree = tiny.settings(shards, "fast_electra", training__updates=10, auxiliary__kind="unigram").model_dump(
        mode="json"
    )
    for name, value in changes.items():
        section = tree
        *above, key = name.split(".")
        for part in above:
            section = section[part]
        section[key] = value
    path.write_text(json.dumps(tree | {"plugins": [str(example)]}))
    return path


EXAMPLE_RUNS = [
    ("sawtooth.py", {"corruption.schedule": {"kind": "sawtooth", "initial": 2.0, "teeth": 2}}),
    ("blocks.py", {"corruption.masking": {"kind": "block"}}),
    ("backoff.py", {"auxiliary.kind": "backoff"}),
    ("focal.py", {"objective.kind": "focal"}),
    ("lion.py", {"optimizer.kind": "lion", "optimizer.learning_rate": 3e-4}),
]


@pytest.mark.parametrize(("example", "changes"), EXAMPLE_RUNS)
def test_an_example_is_one_short_file_that_trains_resumes_and_exports(example, changes, shards, tmp_path):
    assert len((EXAMPLES / example).read_text().splitlines()) <= 60
    config = load_config(write_config(shards, tmp_path / "a.yaml", EXAMPLES / example, changes))
    answers = iter([False] * 6 + [True])
    with pytest.raises(Interrupted):
        pretrain(config, tmp_path / "run", stop=lambda: next(answers))
    pretrain(config, tmp_path / "run")
    pretrain(config, tmp_path / "whole")
    same = [(tmp_path / name / "model" / "model.safetensors").read_bytes() for name in ("run", "whole")]
    assert same[0] == same[1]
    run = load_run(tmp_path / "run")
    assert run.plugins == plugins.digests(config.plugins)
    assert len(read_metrics(run.metrics_file)) > 0
    export_run(tmp_path / "run", tmp_path / "exported")
    assert (tmp_path / "exported" / "model.safetensors").is_file()
    assert load_config(tmp_path / "run" / "config.yaml") == run.config


def test_the_temperature_is_that_of_the_plug_in(tmp_path):
    config = load_config("quickstart", [f"plugins=[{SAWTOOTH}]", "corruption.schedule.kind=sawtooth"])
    temperatures = [config.corruption.schedule.temperature(u) for u in (0.0, 0.125, 0.25, 0.75, 1.0)]
    assert temperatures == [2.0, 1.5, 1.75, 1.25, 1.0]


def test_a_plug_in_is_in_messages_dump_schema_plot_and_help(capsys):
    named = ["--plugin", str(SAWTOOTH)]
    assert main(["config", "show", "quickstart", *named, "corruption.schedule.kind=sawtoth"]) == 2
    assert "(did you mean sawtooth?)" in capsys.readouterr().err
    assert main(["config", "show", "quickstart", "corruption.schedule.kind=sawtooth", *named]) == 0
    shown = capsys.readouterr().out
    assert "teeth: 4                  # number of teeth in a run" in shown
    assert f"plugins: [{SAWTOOTH}]" in shown
    assert main(["config", "plot", "quickstart", "corruption.schedule.kind=sawtooth", *named, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["curves"][0]["temperature"] == 2.0
    assert config_schema()["$defs"]["SawtoothSchedule"]["properties"]["teeth"]["default"] == 4
    assert "corruption.schedule.teeth=4" in help_for_keys()
    assert main(["config", "show", *named, "--help"]) == 0
    assert "--plugin FILE.py" in capsys.readouterr().out
    with pytest.raises(ConfigError, match=r"did you mean corruption.schedule.teeth\?"):
        load_config("quickstart", ["corruption.schedule.tooth=1"])


def test_what_was_named_on_the_command_line_is_a_part_of_the_configuration():
    plugins.requested.append(str(SAWTOOTH))
    try:
        config = load_config("quickstart")
    finally:
        plugins.requested.clear()
    assert config.plugins == [str(SAWTOOTH)]
    assert load_config("quickstart").plugins == []
    assert "plugins: []" in dump_config(load_config("quickstart"))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (None, "can't be read (No such file or directory); give a Python file."),
        ("x = 1\nraise ValueError('no')", "line 2 can't be imported (ValueError: no); correct it."),
        (
            "from typing import Literal\nfrom fast_electra.corruption.schedules import Schedule\n"
            "class Mine(Schedule):\n    kind: Literal['linear'] = 'linear'\n",
            "has the kind linear of fast_electra.corruption.schedules.LinearSchedule: give it another kind.",
        ),
    ],
)
def test_a_plug_in_that_can_not_be_imported_is_refused_in_one_sentence(text, sentence, tmp_path):
    path = tmp_path / "mine.py"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError) as refused:
        load_config("quickstart", [f"plugins=[{path}]"])
    assert sentence.removesuffix(" give it another kind.") in str(refused.value)
    assert str(refused.value).startswith("override plugins=")


def test_an_entry_point_is_imported_by_its_name_and_the_nearest_one_is_named(tmp_path, monkeypatch):
    package = tmp_path / "waves-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: waves\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text("[fast_electra.plugins]\nwaves = waves_plugin\n")
    text = SAWTOOTH.read_text().replace('"sawtooth"', '"waves"').replace("Sawtooth", "Waves")
    (tmp_path / "waves_plugin.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ConfigError, match=r"no installed package has a plug-in wave .*; did you mean waves\?"):
        load_config("quickstart", ["plugins=[wave]"])
    with pytest.raises(ConfigError, match=r"schedule.kind must be one of"):  # nothing is imported unasked
        load_config("quickstart", ["corruption.schedule.kind=waves"])
    config = load_config("quickstart", ["plugins=[waves]", "corruption.schedule.kind=waves"])
    assert config.corruption.schedule.temperature(0.0) == 2.0
    assert len(plugins.digests(["waves"])["waves"]) == 64


def test_a_run_refuses_another_digest_and_brings_no_plug_in_in(shards, tmp_path, monkeypatch):
    example = tmp_path / "mine.py"
    text = SAWTOOTH.read_text().replace('"sawtooth"', '"mine"').replace("Sawtooth", "Mine")
    example.write_text(text)
    changes = {"corruption.schedule": {"kind": "mine"}, "training.updates": 1}
    config = load_config(write_config(shards, tmp_path / "a.yaml", example, changes))
    pretrain(config, tmp_path / "run")
    recorded = dict(plugins._digests)
    # As in another process
    monkeypatch.setattr(plugins, "_digests", {})
    with pytest.raises(CheckpointError, match=r"imported only on request: add --plugin .*mine.py"):
        _ = load_run(tmp_path / "run").config
    monkeypatch.setattr(plugins, "_digests", recorded | {str(example): "0" * 64})
    for refused in (
        lambda: pretrain(config, tmp_path / "run"),
        lambda: load_run(tmp_path / "run").config,
    ):
        with pytest.raises(CheckpointError, match=r"mine.py has changed \(digest .*, now 000000000000\): put the old"):
            refused()
    # The same content under another name is the same plug-in.
    monkeypatch.setattr(plugins, "_digests", {"moved.py": recorded[str(example)]})
    assert load_run(tmp_path / "run").config.corruption.schedule.temperature(0.0) == 2.0
    assert not pretrain(config.model_copy(update={"plugins": ["moved.py"]}), tmp_path / "run").fresh

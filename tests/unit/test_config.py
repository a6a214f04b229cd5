"""Settings: defaults, files, overrides, and errors that name the field."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from scen.config import Config, load_config
from scen.errors import ConfigError

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))


def test_later_words_win(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("expert: {steps: 3, rank: 2}\nwaves: {size: 7}\n")
    config = load_config(file, ["expert.steps=4", "router.theta=0.7"], {"waves": {"size": 9}})
    assert (config.expert.steps, config.expert.rank) == (4, 2)
    assert (config.waves.size, config.router.theta) == (9, 0.7)


def test_paper_mode_defaults_to_the_paper_s_settings() -> None:
    paper = load_config(fixed={"method": "scen"})
    assert (paper.expert.steps, paper.expert.lr, paper.expert.stop_loss) == (10, 1e-4, 0)
    assert (paper.router.neuron_steps, paper.router.theta) == (20, 0.65)
    assert load_config(None, ["method=scen", "expert.steps=5"]).expert.steps == 5


@pytest.mark.parametrize(
    ("override", "name"),
    [
        ("expert.stepz=3", "expert.stepz"),
        ("expert.steps=0", "expert.steps"),
        ("expert.lr=fast", "expert.lr"),
        ("expert.lr=.inf", "expert.lr"),
        ("expert=3", "config: expert:"),
        ("router.theta=.nan", "router.theta"),
        ("router.places=[]", "router.places"),
        ("router.places=[{layer: 1, kind: all}]", r"router\.places\.0\.kind"),
        ("method=magic", "method"),
        ("base.dtype=int4", "base.dtype"),
        ("expert", "--set"),
        ("a=[", "--set"),
    ],
)
def test_a_mistake_names_its_field(override: str, name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        load_config(overrides=[override])


@pytest.mark.parametrize("text", ["[1, 2]", "a: b: c", ""])
def test_a_file_that_holds_no_settings_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(ConfigError, match="--config"):
        load_config(tmp_path / "c.yaml")
    with pytest.raises(ConfigError, match="cannot read"):
        load_config(tmp_path / "none.yaml")


def test_a_file_in_another_encoding_or_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_bytes("base: {name: Čačak}".encode("utf-16"))
    with pytest.raises(ConfigError, match=r"--config: .*c\.yaml is not valid YAML"):
        load_config(tmp_path / "c.yaml")
    with pytest.raises(ConfigError, match="cannot read"):
        load_config(tmp_path)


def test_all_mistakes_are_reported_at_once() -> None:
    with pytest.raises(ConfigError) as refused:
        load_config(overrides=["expert.steps=0", "waves.sizes=3"])
    assert "expert.steps: " in str(refused.value)
    assert "waves.sizes: " in str(refused.value)


def test_values_are_read_as_yaml() -> None:
    words = ["expert.layer=3", "expert.lr=1e-4", "base.name=a=b", "router.theta=0"]
    config = load_config(overrides=[*words, "expert.layer=null"])
    assert (config.expert.layer, config.expert.lr) == (None, 1e-4)
    assert (config.base.name, config.router.theta) == ("a=b", 0.0)


def test_a_resolved_config_loads_again() -> None:
    config = load_config(overrides=["router.places=[{layer: 3, kind: mean}]"])
    assert Config.model_validate(config.model_dump(mode="json")) == config


def test_a_config_is_frozen() -> None:
    with pytest.raises(ValidationError):
        load_config().method = "scen"  # type: ignore[misc]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_every_shipped_config_loads(path: Path) -> None:
    load_config(path)


def test_a_settings_file_names_files_as_seen_from_its_own_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "settings"
    folder.mkdir()
    (folder / "c.yaml").write_text("cluster: {deepspeed: ds/z.json}")
    monkeypatch.chdir(tmp_path)
    assert load_config("settings/c.yaml").cluster.deepspeed == str(folder / "ds" / "z.json")
    (folder / "c.yaml").write_text("cluster: {deepspeed: /etc/z.json}")
    assert load_config("settings/c.yaml").cluster.deepspeed == "/etc/z.json"


def test_local_yaml_spells_out_the_defaults() -> None:
    local = load_config(Path(__file__).parents[2] / "configs" / "local.yaml")
    defaults = load_config(fixed={"base": {"name": "smollm2-135m-instruct"}})
    assert local == defaults


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("expert.stepz=3", "expert.stepz: is not a setting; did you mean expert.steps?"),
        ("expert.size=3", "expert.size: is not a setting; did you mean waves.size?"),
        ("wave.size=3", "wave: is not a setting; did you mean waves?"),
        ("qqq=1", "config: qqq: is not a setting"),
    ],
)
def test_an_unknown_setting_is_named_with_what_may_be_meant(override: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(overrides=[override])
    assert words in str(caught.value)

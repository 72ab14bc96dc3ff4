from __future__ import annotations

import pytest
import yaml
from command_line import ser, stage

from ser_personal.cli import STAGES
from ser_personal.config_files import SHIPPED, with_found_configs
from ser_personal.help_page import FLAGS, RECIPES, help_page, shown, value_of


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_page_shows_what_the_parser_takes(recipe, monkeypatch):
    # parsed, neither built nor run
    monkeypatch.setattr("ser_personal.stages.stage_cli.StageCLI.instantiate_classes", lambda _: None)
    monkeypatch.setattr("ser_personal.stages.stage_cli.StageCLI._run_subcommand", lambda *_: None)
    config = stage(*with_found_configs(["fit", "--config", recipe])).config["fit"]
    content = yaml.safe_load((SHIPPED / recipe).read_text())
    place = RECIPES.index(recipe)
    for flag in FLAGS:
        part, _, name = flag.name.removeprefix("--").partition(".")
        arguments = config[part].init_args if part in {"model", "data"} else config[part] if name else config
        name = name or part
        value = arguments.as_dict()[name] if name in arguments else None
        assert value_of(flag, place, content) == (shown(value) if name in arguments else None), flag.name


@pytest.mark.parametrize("name", STAGES)
def test_the_page_of_a_stage_fits_a_screen_and_names_each_flag_and_recipe(name, capsys):
    assert ser(name, "--help") == 0
    page = capsys.readouterr().out
    assert page == help_page(name, STAGES[name].summary)
    assert all(flag.name in page for flag in FLAGS)
    assert "  tiny/*.yaml " in page
    assert len(page.splitlines()) <= 50
    assert max(map(len, page.splitlines())) <= 112

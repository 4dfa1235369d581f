import argparse
import dataclasses
import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from fireedit.models.settings import PaintSettings, add_setting_flags, setting_fields, setting_flags


def test_the_settings_import_without_torch_numpy_or_diffusers() -> None:
    heavy = "{'torch', 'numpy', 'diffusers', 'transformers'} & set(sys.modules)"
    script = f"import sys, fireedit.models.settings; print({heavy} or 'light')"
    printed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "light"


def test_every_field_is_declared_with_a_type_a_range_and_a_help() -> None:
    assert [setting.name for setting in setting_fields()] == [field.name for field in dataclasses.fields(PaintSettings)]
    for setting in setting_fields():
        assert setting.type in (int, float, str) and isinstance(setting.default, setting.type)
        assert setting.help and not setting.help.endswith(".") and setting.minimum < setting.maximum


def test_the_defaults_are_the_papers() -> None:
    assert (PaintSettings().num_inference_steps, PaintSettings().guidance_scale) == (100, 7.5)
    assert (PaintSettings().image_guidance_scale, PaintSettings().keep_below) == (1.5, 0)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_inference_steps", 0),
        ("num_inference_steps", 1001),
        ("num_inference_steps", 2.5),
        ("guidance_scale", float("nan")),
        ("guidance_scale", float("inf")),
        ("guidance_scale", "7"),
        ("image_guidance_scale", -1.0),
        ("keep_below", 1.5),
        ("negative_prompt", 1),
    ],
)
def test_a_value_out_of_range_is_refused_with_its_name(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{name} is {value!r}"):
        PaintSettings(**{name: value})


def test_changes_that_are_none_keep_the_value_and_unknown_ones_are_refused() -> None:
    settings = PaintSettings().but(guidance_scale=2, keep_below=None)
    assert settings == PaintSettings(guidance_scale=2)
    with pytest.raises(TypeError, match="strength.*num_inference_steps"):
        settings.but(strength=None)


def test_numbers_of_numpy_become_plain_ones() -> None:
    settings = PaintSettings(num_inference_steps=np.int64(3), guidance_scale=np.float32(2))
    assert (
        json.loads(json.dumps(dataclasses.asdict(settings)))["num_inference_steps"] == 3
        and settings.guidance_scale == 2
    )


def test_every_setting_is_a_flag_of_its_type() -> None:
    parser = argparse.ArgumentParser()
    add_setting_flags(parser)
    args = parser.parse_args(["--steps", "5", "--guidance-scale", "2", "--negative-prompt", "blur"])
    changes = setting_flags(args)
    assert PaintSettings().but(**changes) == PaintSettings(
        num_inference_steps=5, guidance_scale=2.0, negative_prompt="blur"
    )
    assert all(setting.flag in parser.format_help() for setting in setting_fields())

from __future__ import annotations

from pathlib import Path

import pytest

from edgekit.runtime.errors import RecipeError
from edgekit.train.models.table import build_model
from edgekit.train.recipe import load_recipe, parse_recipe, shipped_recipes
from edgekit.train.recipe_keys import RANGES

MINIMAL = """
name = "small"
[data]
name = "digits"
[model]
name = "densenet"
growth = 8
[train]
epochs = 10
"""


def test_a_minimal_recipe_gets_defaults_and_keeps_the_models_own_keys() -> None:
    recipe = parse_recipe(MINIMAL, origin="small.toml")
    assert recipe.architecture == "densenet"
    assert recipe.model_options == {"growth": 8}
    assert recipe.train.batch_size == 128
    assert recipe.augment.crop == 0
    assert recipe.prune is None
    assert recipe.text == MINIMAL


@pytest.mark.parametrize("name", shipped_recipes())
def test_shipped_recipes_load_by_name_and_their_models_build(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    build_model(recipe.architecture, recipe.model_options, in_channels=3, num_classes=10)


def test_a_recipe_loads_from_a_path_and_its_paths_are_relative_to_it(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(MINIMAL + '[distill]\nteacher = "teachers/big.safetensors"\n')
    recipe = load_recipe(path)
    assert recipe.distill is not None
    assert recipe.distill.teachers == ("teachers/big.safetensors",)
    assert recipe.inputs() == {"distill.teacher": tmp_path / "teachers" / "big.safetensors"}
    assert recipe.path("/elsewhere/x") == Path("/elsewhere/x")


def test_recipes_that_say_the_same_are_equal_and_others_are_not() -> None:
    one = parse_recipe(MINIMAL, origin="a")
    assert one == parse_recipe("# a comment\n" + MINIMAL, origin="b", folder=Path("/b"))
    assert one != parse_recipe(MINIMAL.replace("10", "11"), origin="a")


def test_an_unknown_name_lists_the_shipped_recipes() -> None:
    with pytest.raises(RecipeError, match=r"densenet-digit: no such recipe.*densenet-digits"):
        load_recipe("densenet-digit")


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"gone\.toml: cannot be read: No such file"):
        load_recipe(tmp_path / "gone.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecipeError, match=r"binary\.toml: is not UTF-8"):
        load_recipe(tmp_path / "binary.toml")
    (tmp_path / "broken.toml").write_text("name = ")
    with pytest.raises(RecipeError, match=r"broken\.toml: is not valid TOML"):
        load_recipe(tmp_path / "broken.toml")
    (tmp_path / "empty.toml").write_text("")
    with pytest.raises(RecipeError, match=r"empty\.toml: name: this key is missing"):
        load_recipe(tmp_path / "empty.toml")


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("batchsize = 1", r"r\.toml: train\.batchsize: unknown; did you mean batch_size\?"),
        ('batch_size = "many"', r"train\.batch_size: expected an integer"),
        ("learning_rate = 0", r"train\.learning_rate: 0.* out of range; it must be above 0"),
        ("label_smoothing = 1.0", r"train\.label_smoothing: 1\.0 is out of range"),
        ('optimizer = "lion"', r"train\.optimizer: expected one of 'sgd', 'adam', 'adamw'"),
        ("warmup_epochs = 10", r"train\.warmup_epochs: 10 must be below train\.epochs"),
        ("momentum = 0", r"train\.nesterov: needs"),
        ('schedule = "step"', r"train\.milestones: \[\] must be"),
        ('schedule = "step"\nmilestones = [5, 3]', r"train\.milestones: \[5, 3\] must be"),
        ('schedule = "step"\nmilestones = [5, 10]', r"train\.milestones: .* from 1 to 9"),
        ("resolutions = [[0, 4]]", r"train\.resolutions: sides \[4\] must be 8 pixels or more"),
        ("resolutions = [[2, 8], [1, 8]]", r"train\.resolutions: begins at epochs \[2, 1\]"),
        ("resolutions = [[0, 8], [10, 8]]", r"less than train\.epochs, which is 10"),
        ("[prune]\nsparsity = 1.0", r"prune\.sparsity: 1\.0 is out of range; .* below 1"),
        ("[prune]\nsparsity = 0.5\nbegin = 0.8", r"prune\.begin: 0\.8 must be below prune\.end"),
        ("[quantize]\nweight_bits = 1", r"quantize\.weight_bits: 1 is out of range; .* 2 to 8"),
        ("[quantize]\nbegin = 0.95", r"quantize\.begin: 0\.95 must not be above quantize\.freeze"),
        ('[quantize]\nmethod = "guess"', r"quantize\.method: expected one of"),
        ("[prune]\nend = 0.5", r"prune\.sparsity: this key is missing"),
        ("[prune_channels]\nratio = 0.5", r"prune_channels\.fine_tune_epochs: this key is missing"),
        ('[distill]\nteacher = "t"\ntemperature = 0', r"distill\.temperature: 0.* above 0"),
        ("[augment]\ncrop = -1", r"augment\.crop: -1 is out of range; it must be at least 0"),
        ("[augments]\ncrop = 1", r"augments: unknown; did you mean augment\?"),
        ("[augment]\nmixup = nan", r"augment\.mixup: expected a finite number"),
    ],
)
def test_a_wrong_key_or_value_is_named(extra: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        parse_recipe(MINIMAL + extra, origin="r.toml")


@pytest.mark.parametrize("name", ["", "../small", "a/b", ".hidden", "two words"])
def test_a_name_is_one_folder(name: str) -> None:
    with pytest.raises(RecipeError, match=r"^r\.toml: name: .* names folders"):
        parse_recipe(MINIMAL.replace('"small"', f'"{name}"'), origin="r.toml")


def test_a_model_needs_a_name() -> None:
    with pytest.raises(RecipeError, match=r"model\.name: this key is missing"):
        parse_recipe(MINIMAL.replace('name = "densenet"', ""), origin="r.toml")


@pytest.mark.parametrize("side", [0, 65_537, 1_000_000_000])
def test_image_sides_are_checked(side: int) -> None:
    text = MINIMAL.replace('name = "digits"', f'name = "photos"\nimage_size = [{side}, 8]')
    with pytest.raises(RecipeError, match=rf"data\.image_size: \[{side}, 8\]"):
        parse_recipe(text, origin="r.toml")


@pytest.mark.parametrize("name", ["digits", "cifar10", "images.npz"])
def test_a_size_for_images_that_have_their_own_is_refused(name: str) -> None:
    text = MINIMAL.replace('"digits"', f'"{name}"\nimage_size = [8, 8]\nchannels = 1')
    with pytest.raises(RecipeError, match=rf"data\.image_size: images of {name} have a size"):
        parse_recipe(text, origin="r.toml")


@pytest.mark.parametrize("name", ["digits", "photos"])
def test_channels_without_a_size_are_refused(name: str) -> None:
    text = MINIMAL.replace('"digits"', f'"{name}"\nchannels = 3')
    with pytest.raises(RecipeError, match=r"data\.channels: .* with data\.image_size"):
        parse_recipe(text, origin="r.toml")


def test_outputs_without_views_are_refused() -> None:
    text = MINIMAL + '[distill]\nteacher = "t"\noutputs = "kept"\n'
    with pytest.raises(RecipeError, match=r"distill\.outputs: .* set distill\.views"):
        parse_recipe(text, origin="r.toml")
    assert parse_recipe(text + "views = 2\n", origin="r.toml").distill is not None


def test_a_student_may_have_several_teachers_but_not_none() -> None:
    text = MINIMAL + "[distill]\nteacher = {}\n"
    recipe = parse_recipe(text.format('["a", "b/c"]'), origin="r.toml", folder=Path("/r"))
    assert recipe.inputs() == {
        "distill.teacher": Path("/r/a"),
        "distill.teacher[1]": Path("/r/b/c"),
    }
    with pytest.raises(RecipeError, match=r"distill\.teacher: is empty; give a checkpoint"):
        parse_recipe(text.format("[]"), origin="r.toml")
    with pytest.raises(RecipeError, match=r"distill\.teacher\[1\]: expected a string, got 2"):
        parse_recipe(text.format('["a", 2]'), origin="r.toml")


def test_every_range_belongs_to_a_key_that_exists() -> None:
    full = parse_recipe(
        MINIMAL + "[prune]\nsparsity = 0.5\n[prune_channels]\nratio = 0.5\nfine_tune_epochs = 2\n"
        '[distill]\nteacher = "t"\n[quantize]\n',
        origin="full",
    )
    for key in RANGES:
        part: object = full
        for name in key.split("."):
            part = getattr(part, name)
        assert isinstance(part, int | float), key


def test_quantizing_needs_an_epoch_to_observe() -> None:
    text = MINIMAL.replace("epochs = 10", "epochs = 1") + "[quantize]\n"
    with pytest.raises(RecipeError, match=r"train\.epochs: must be at least 2 with quantize"):
        parse_recipe(text, origin="r.toml")

"""The network that a run begins with: fresh weights, or those of a checkpoint."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
from torch import nn

from edgekit.runtime.errors import CheckpointError
from edgekit.runtime.preprocessing import Preprocessing
from edgekit.train.checkpoint import Checkpoint, load_checkpoint
from edgekit.train.models.table import MODELS, build_model
from edgekit.train.recipe import Recipe
from edgekit.train.same_data import check_same_data, warn_of_seen_images
from edgekit.train.settings import from_mapping
from edgekit.train.trained import check_named
from edgekit.train.training_data import TrainingData


def first_network(recipe: Recipe, data: TrainingData) -> tuple[nn.Module, TrainingData]:
    """What training begins with, and the data as it takes them.

    Raises:
        CheckpointError: the checkpoint to start from does not load or does not fit.
        RecipeError: a key of the model is wrong.
    """
    torch.manual_seed(recipe.seed)
    if recipe.train.start is not None:
        path = recipe.path(recipe.train.start)
        check_named(path, "train.start")
        start = _load_start(recipe, path, data.preprocessing)
        network = start.build().train()
        return network, dataclasses.replace(data, preprocessing=start.preprocessing)
    network = build_model(
        recipe.architecture,
        recipe.model_options,
        in_channels=data.preprocessing.channels,
        num_classes=data.num_classes,
    )
    return network, data


def _load_start(recipe: Recipe, path: Path, data: Preprocessing) -> Checkpoint:
    """Read the checkpoint that a recipe starts from.

    It may have fewer channels than the recipe's model, as channel pruning leaves it.

    Args:
        recipe: What is to be trained.
        path: The checkpoint.
        data: Sizes and class names of the data.

    Raises:
        CheckpointError: it does not load, or is of another model, or takes other images or knows
            other classes.
        RecipeError: a key of the recipe's model is wrong.
    """
    checkpoint = load_checkpoint(path)
    _check_model(recipe, path, checkpoint)
    check_same_data(path, checkpoint.preprocessing, data, "start from a checkpoint")
    warn_of_seen_images(path, checkpoint, recipe.data)
    return checkpoint


def _check_model(recipe: Recipe, path: Path, checkpoint: Checkpoint) -> None:
    if checkpoint.architecture != recipe.architecture:
        raise CheckpointError(
            f"{path}: holds a {checkpoint.architecture}, the recipe trains a "
            f"{recipe.architecture}; start from a checkpoint of the same model"
        )
    config = MODELS[recipe.architecture].config_class
    wanted = vars(from_mapping(config, recipe.model_options, where="model"))
    held = vars(from_mapping(config, checkpoint.options, where=f"{path}: model"))
    differing = [key for key, value in wanted.items() if held[key] != value]
    if differing:
        key = differing[0]
        raise CheckpointError(
            f"{path}: was trained with model.{key} = {held[key]}, the recipe says {wanted[key]}; "
            "start from a checkpoint of the same model"
        )

"""The tables of a recipe: what each key means, and which values it may have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Precision = Literal["32-true", "bf16-mixed", "16-mixed"]
Optimizer = Literal["sgd", "adam", "adamw"]
Schedule = Literal["cosine", "one-cycle", "step", "none"]
QuantizeMethod = Literal["straight-through", "learned-step"]
ChannelRanking = Literal["layer", "network"]
DistillSchedule = Literal["constant", "linear", "cosine"]


@dataclass(frozen=True)
class DataRecipe:
    """What to train on.

    Attributes:
        name: A named data set, a folder of class folders, or an .npz; paths are relative to the
            recipe's file.
        validation: Share of the training images that is held out for choosing; 0 holds none out.
        image_size: Height and width that a folder's images are decoded to.
        channels: 1 or 3, with image_size.
    """

    name: str
    validation: float = 0.1
    image_size: tuple[int, int] | None = None
    channels: Literal[1, 3] = 3


@dataclass(frozen=True)
class TrainRecipe:
    """How to train.

    Attributes:
        epochs: Passes over the training images.
        batch_size: Images per optimizer step, over all devices together.
        precision: Lightning's name of the arithmetic.
        compile: Whether torch.compile compiles the network.
        channels_last: Whether activations are stored channels last.
        optimizer: Which optimizer.
        learning_rate: The schedule's highest learning rate.
        weight_decay: Not applied to biases and normalization.
        momentum: Of SGD.
        nesterov: Whether SGD's momentum is Nesterov's.
        schedule: How the learning rate moves, step by step.
        warmup_epochs: Epochs of linear rise before the cosine schedule.
        milestones: Epochs after which the step schedule multiplies the learning rate by gamma.
        gamma: Factor of the step schedule.
        label_smoothing: Share of the target that is spread over all classes.
        ema: Decay of the moving average of the weights, which is then what is evaluated and
            saved; 0 is off.
        gradient_clip: Largest norm of the gradient; 0 is off.
        evaluate_every: Epochs between two looks at the validation part.
        resolutions: [first epoch, pixels] pairs: from that epoch on, counted from 0, training
            images are made so large on their shorter side; evaluation is always at full size.
        start: A checkpoint to begin from in place of fresh weights, of the same model and classes;
            relative to the recipe's file. Weights that are zero in it stay zero.
    """

    epochs: int
    batch_size: int = 128
    precision: Precision = "32-true"
    compile: bool = False
    channels_last: bool = False
    optimizer: Optimizer = "sgd"
    learning_rate: float = 0.1
    weight_decay: float = 5e-4
    momentum: float = 0.9
    nesterov: bool = True
    schedule: Schedule = "cosine"
    warmup_epochs: float = 0.0
    milestones: tuple[int, ...] = ()
    gamma: float = 0.1
    label_smoothing: float = 0.0
    ema: float = 0.0
    gradient_clip: float = 0.0
    evaluate_every: int = 1
    resolutions: tuple[tuple[int, int], ...] = ()
    start: str | None = None


@dataclass(frozen=True)
class AugmentRecipe:
    """How training images are varied; every sample gets its own draw.

    Attributes:
        crop: Black pixels padded on each side before a crop back to size.
        flip: Whether to mirror left and right half of the time.
        rotation: Largest angle, degrees, either way.
        color_jitter: Largest relative change of brightness, contrast and saturation.
        cutout: Side of the square that is blanked, pixels.
        mixup: Alpha of Mixup's Beta distribution; one draw a batch, as in its paper.
        cutmix: Alpha of CutMix's; with mixup, each batch gets one of the two.
    """

    crop: int = 0
    flip: bool = False
    rotation: float = 0.0
    color_jitter: float = 0.0
    cutout: int = 0
    mixup: float = 0.0
    cutmix: float = 0.0


@dataclass(frozen=True)
class PruneRecipe:
    """Weight pruning while training: global, unstructured, by magnitude.

    Attributes:
        sparsity: Share of the convolutions' and linear layers' weights that ends up zero.
        begin: Where pruning begins, as a share of the epochs.
        end: Where it reaches sparsity, as a share of the epochs.
        every_steps: Optimizer steps between two prunings.
    """

    sparsity: float
    begin: float = 0.1
    end: float = 0.75
    every_steps: int = 10


@dataclass(frozen=True)
class PruneChannelsRecipe:
    """Channel pruning after training, then fine-tuning, in which [prune] then takes place.

    Attributes:
        ratio: Share of the channels that is removed.
        fine_tune_epochs: Epochs of training that follow.
        learning_rate_factor: Their learning rate, relative to train.learning_rate.
        round_to: Channel counts stay multiples of this.
        ranking: "layer" removes the same part of every layer; "network" ranks the channels of all
            layers together.
    """

    ratio: float
    fine_tune_epochs: int
    learning_rate_factor: float = 0.1
    round_to: int = 1
    ranking: ChannelRanking = "layer"


@dataclass(frozen=True)
class DistillRecipe:
    """Learning from a teacher's outputs as well as from the labels.

    Attributes:
        teacher: A checkpoint, or several, whose mean logits are the target; paths are relative to
            the recipe's file.
        mirror: Ask about each image's mirror image too, and take the mean.
        temperature: What both networks' logits are divided by.
        weight: The teacher's share of the loss, at the start.
        schedule: How that share moves over the epochs: not at all, or to zero.
        views: Epochs after which the order of the images and their augmentation repeat, so that
            the teacher is asked about each batch once; 0 repeats nothing.
        outputs: With views, the folder where its answers are kept, for other runs too; relative
            to the recipe's file. Left out, it is in the run's folder.
    """

    teacher: str | tuple[str, ...]
    mirror: bool = False
    temperature: float = 4.0
    weight: float = 0.5
    schedule: DistillSchedule = "constant"
    views: int = 0
    outputs: str | None = None

    @property
    def teachers(self) -> tuple[str, ...]:
        """The checkpoints, one or more."""
        return (self.teacher,) if isinstance(self.teacher, str) else self.teacher


@dataclass(frozen=True)
class QuantizeRecipe:
    """Quantization-aware training: in the last stage, of all convolutions and linear layers.

    Attributes:
        weight_bits: 2 to 8, with a symmetric scale for each output channel.
        activation_bits: 4 to 8, of what these layers read.
        method: "learned-step" trains the scales, "straight-through" takes them from the ranges.
        begin: Where rounding begins, as a share of the epochs, after the first of them; before,
            ranges are observed.
        freeze: Where the statistics of batch normalization and the observed ranges are frozen, as
            a share of the epochs; late, when the learning rate is low, or training diverges.
    """

    weight_bits: int = 8
    activation_bits: int = 8
    method: QuantizeMethod = "learned-step"
    begin: float = 0.1
    freeze: float = 0.9

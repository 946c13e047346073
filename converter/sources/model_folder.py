"""Reads folders that hold a network's weights beside a config.json that says what the network is.

    timm on Hugging Face            config.json (architecture, pretrained_cfg), model.safetensors
    transformers on Hugging Face    config.json (model_type, id2label), preprocessor_config.json, model.safetensors
    WSInfer                         config.json (patch_size_pixels, spacing_um_px, class_names, transform),
                                    torchscript_model.pt

No Python code in a folder is run; `torch_script` says what a TorchScript file may do. The libraries make the networks
from the settings in config.json.
"""

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converter.errors import SourceError
from converter.messages import first_cause, quiet
from converter.preprocessing import NONE, Preprocessing
from converter.request import MAX_MPP
from converter.sources.checkpoint import read_checkpoint, sha256
from converter.sources.classifier import Classifier
from converter.sources.frameworks import framework
from converter.sources.module_size import limited_size
from converter.sources.torch_libraries import TIMM, library, timm_module
from converter.sources.torch_module import export_logits, export_trained
from converter.sources.torch_script import read_torchscript
from fullconv.protos import model_pb2

if TYPE_CHECKING:
    import torch

CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"
SAFETENSORS = ".safetensors"
WEIGHTS = (f"model{SAFETENSORS}", "pytorch_model.bin")
SCRIPT = "torchscript_model.pt"
MAX_CONFIG_BYTES = 1 << 24
TRANSFORMERS = "pip install torch transformers onnxscript"
TIMM_WRAPPER = "timm_wrapper"
OF_FILES = ("cache_dir", "checkpoint_path", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay")
"""Arguments of timm that name files or addresses."""
DEFAULT_LABEL = "LABEL_"
"""Begin of the labels that transformers invents."""

Config = Mapping[str, Any]


def read_folder(folder: Path, window: tuple[int, int] | None, weights: Path | None = None) -> Classifier:
    """Read a folder of Hugging Face or WSInfer; raises ConversionError and OSError.

    `weights` are a file that takes the place of the folder's own weights.
    """
    config = _load(folder / CONFIG)
    try:
        if "architecture" in config and "patch_size_pixels" in config:
            return _read_wsinfer(folder, config, window, weights or folder / SCRIPT)
        if "architecture" in config:
            return _read_timm(config, window, weights or _weights(folder))
        if "model_type" in config:
            return _read_transformers(folder, config, window, weights or _weights(folder))
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        reason = f"{type(error).__name__}: {first_cause(error)}"
        raise SourceError(f"{folder / CONFIG}: expected the settings of a classifier: {reason}") from None
    raise SourceError(
        f"{folder / CONFIG}: expected the settings of timm (architecture), transformers (model_type) or WSInfer "
        f"(patch_size_pixels), got {', '.join(list(config)[:5]) or 'nothing'}"
    )


def _load(file: Path) -> Config:
    """Return the settings in a JSON file; raises SourceError."""
    try:
        if file.stat().st_size > MAX_CONFIG_BYTES:
            raise SourceError(f"{file}: expected at most {MAX_CONFIG_BYTES >> 20} MiB")
        config = json.loads(file.read_text("utf-8"))
    except FileNotFoundError:
        raise SourceError(
            f"{file}: expected the {file.name} of a folder of Hugging Face or WSInfer, got no such file; check the path"
        ) from None
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{file}: not valid JSON: {first_cause(error)}") from None
    if not isinstance(config, dict):
        raise SourceError(f"{file}: expected settings by name, got {type(config).__name__}")
    return config


def _weights(folder: Path) -> Path:
    """Return the path of the weights in a folder; raises SourceError if the folder lacks them."""
    found = next((folder / name for name in WEIGHTS if (folder / name).exists()), None)
    if found is None:
        raise SourceError(f"{folder}: expected {' or '.join(WEIGHTS)}; weights in several parts are not read")
    return found


def _read_timm(config: Config, window: tuple[int, int] | None, weights: Path) -> Classifier:
    pretrained = config.get("pretrained_cfg") or config
    checkpoint = read_checkpoint(weights)
    name = str(config["architecture"])
    settings = {key: value for key, value in (config.get("model_args") or {}).items() if key not in OF_FILES}
    settings |= {"global_pool": config["global_pool"]} if config.get("global_pool") else {}
    with quiet():
        library(f"{TIMM}:{name}")  # says what to install, if PyTorch or timm is missing
        with limited_size(checkpoint.tensors):
            made = timm_module(name, checkpoint.tensors, window or _timm_window(pretrained), **settings)
        if "mean" in pretrained and "std" in pretrained:
            made = replace(made, preprocess=_preprocessing(pretrained["mean"], pretrained["std"], 1 / 255))
        classifier = export_trained(checkpoint, made, f"timm:{name}")
    labels = pretrained.get("label_names") or config.get("label_names") or ()
    return replace(
        classifier, labels=tuple(map(str, labels)), notes=(f"timm:{name}", *checkpoint.notes, *classifier.notes)
    )


def _timm_window(pretrained: Config) -> tuple[int, int] | None:
    size = pretrained.get("input_size")
    return None if size is None else (int(size[1]), int(size[2]))


def _read_transformers(folder: Path, config: Config, window: tuple[int, int] | None, weights: Path) -> Classifier:
    if weights.suffix != SAFETENSORS or config["model_type"] == TIMM_WRAPPER:
        raise SourceError(
            f"{folder}: expected weights in {WEIGHTS[0]} of a network of transformers' own, got {weights.name} of "
            f"{config['model_type']}; load the network with transformers and save it with save_pretrained"
        )
    pixels = _load(folder / PREPROCESSOR) if (folder / PREPROCESSOR).exists() else {}
    size = window or _window_of_processor(pixels) or _pair(config.get("image_size"))
    if size is None:
        raise SourceError(f"window: expected the size of the images in {folder / PREPROCESSOR}; give --window")
    preprocess = _of_processor(pixels, folder / PREPROCESSOR)
    with quiet(), tempfile.TemporaryDirectory() as name:
        shutil.copy(folder / CONFIG, name)
        Path(name, WEIGHTS[0]).symlink_to(weights.absolute())
        classifier = export_logits(_transformers_network(Path(name), folder), size, f"{folder}")
    names = [str(name) for _, name in sorted((int(key), name) for key, name in config.get("id2label", {}).items())]
    labels = () if any(name.startswith(DEFAULT_LABEL) for name in names) else tuple(names)
    source = model_pb2.Source(format="safetensors", sha256=sha256(weights), producer="transformers")
    note = f"transformers: {config['model_type']}"
    return replace(classifier, labels=labels, preprocess=preprocess, source=source, notes=(note,))


def _transformers_network(folder: Path, named: Path) -> "torch.nn.Module":
    """Return the network in a folder with its weights; raises SourceError, which names the folder `named`."""
    transformers = framework("transformers", TRANSFORMERS, f"{named}")
    progress = transformers.utils.logging
    shows_progress = progress.is_progress_bar_enabled()
    progress.disable_progress_bar()  # the converter has its own
    try:
        with limited_size(read_checkpoint(folder / WEIGHTS[0]).tensors):
            network, loaded = transformers.AutoModelForImageClassification.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False, use_safetensors=True, output_loading_info=True,
                attn_implementation="eager",  # no kernel from a hub
            )  # fmt: skip
    except Exception as error:  # transformers may raise any error
        reason = first_cause(error)
        raise SourceError(f"{named}: transformers {transformers.__version__} cannot load it: {reason}") from None
    finally:
        if shows_progress:
            progress.enable_progress_bar()
    if missing := sorted(map(str, [*loaded["missing_keys"], *loaded["mismatched_keys"]])):
        raise SourceError(f"{named}: expected all tensors of the network, but it lacks {', '.join(missing[:3])}")
    result: torch.nn.Module = network.float().eval()
    return result


def _of_processor(pixels: Config, file: Path) -> str | Preprocessing:
    """Return the preprocessing that a preprocessor_config.json of transformers describes; raises SourceError."""
    if not pixels:
        return NONE
    is_efficientnet = str(pixels.get("image_processor_type", "")).startswith("EfficientNet")
    more = {"do_flip_channel_order": False, "rescale_offset": False, "include_top": is_efficientnet}
    if other := [field for field, default in more.items() if pixels.get(field, default)]:
        raise SourceError(
            f"{file}: expected scaling and normalisation only, got {other[0]}; describe the pixels with --preprocess "
            "FILE.json, and set the field to false in a copy of the folder"
        )
    scale = float(pixels.get("rescale_factor", 1 / 255)) if pixels.get("do_rescale", True) else 1.0
    normalised = pixels.get("do_normalize", "image_mean" in pixels)
    mean, std = (pixels.get(key) if normalised else None for key in ("image_mean", "image_std"))
    return _preprocessing(mean, std, scale)


def _window_of_processor(pixels: Config) -> tuple[int, int] | None:
    """Return the size (height, width) to which a preprocessor_config.json of transformers brings images."""
    if pixels.get("do_center_crop") and (size := _pair(pixels.get("crop_size"))):
        return size
    return _pair(pixels.get("size"))


def _pair(size: object) -> tuple[int, int] | None:
    """Return a size as (height, width): a number, two numbers, or a table of transformers."""
    match size:
        case int(side) | {"shortest_edge": int(side)}:
            return side, side
        case [int(height), int(width)] | {"height": int(height), "width": int(width)}:
            return height, width
    return None


def _read_wsinfer(folder: Path, config: Config, window: tuple[int, int] | None, script: Path) -> Classifier:
    """Read a model of WSInfer: patches of some size at some spacing, resized to the window of the network."""
    patch = int(config["patch_size_pixels"])
    transforms = {step["name"]: step.get("arguments") or {} for step in config["transform"]}
    resized = _pair(transforms.get("Resize", {}).get("size", patch)) or (patch, patch)
    normalised = transforms.get("Normalize", {})
    microns = float(config["spacing_um_px"]) * patch / resized[0]
    if not 0 < microns <= MAX_MPP:
        raise SourceError(
            f"{folder / CONFIG}: spacing_um_px: expected micrometres above 0 and at most {MAX_MPP:g}, got "
            f"{config['spacing_um_px']}; correct it"
        )
    classifier = read_torchscript(script, window or resized)
    note = f"WSInfer: {config['architecture']}, patches of {patch} pixels of {config['spacing_um_px']} micrometres"
    return replace(
        classifier,
        preprocess=_preprocessing(normalised.get("mean"), normalised.get("std"), 1 / 255),
        labels=tuple(map(str, config["class_names"])),
        notes=(note, *classifier.notes),
        microns_per_pixel=microns,
    )


def _preprocessing(mean: Sequence[float] | None, std: Sequence[float] | None, scale: float) -> Preprocessing:
    """Return the preprocessing of colour images: pixels times `scale`, minus `mean`, divided by `std`."""
    return Preprocessing(
        scale=scale,
        mean=tuple(map(float, mean or (0.0, 0.0, 0.0))),
        std=tuple(map(float, std or (1.0, 1.0, 1.0))),
        order="RGB",
    )

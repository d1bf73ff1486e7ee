"""A folder for sharing: the model in a type of choice, with a generation config and a card of measured numbers."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import torch

from smidgen.folders import resolve, save
from smidgen.folders.adapter import is_adapter_folder
from smidgen.folders.architectures import architecture_of, read_json
from smidgen.folders.atomic import new_folder
from smidgen.folders.end_tokens import end_tokens
from smidgen.folders.loading import optional_tokenizer
from smidgen.folders.model_folder import CONFIG, GENERATION_CONFIG, read_model_config
from smidgen.folders.weights import WEIGHTS, write_tensors
from smidgen.interchange.measurements import measurements_of, quantization_loss_of
from smidgen.interchange.model_card import model_card
from smidgen.interchange.source import load_merged, update_json, write_ends
from smidgen.model import count_parameters
from smidgen.runtime.errors import InterchangeError, MissingDependencyError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""As the command line spells them."""

CARD = "README.md"


@dataclass(frozen=True)
class HuggingFaceReport:
    """What an export wrote."""

    path: Path
    class_name: str
    dtype: str
    parameters: int
    size: int
    """Bytes of the weights."""


def export_hugging_face(model: str | Path, out: str | Path, dtype: str | None = None) -> HuggingFaceReport:
    """Write the model that MODEL names to the folder `out`, which appears whole or not at all.

    dtype: one of DTYPES, bf16 if left out; a quantised folder keeps its tensors and takes none. An adapter is put into
    its base. Raises InterchangeError for float16 where activations overflow it, for an adapter that cannot be merged
    exactly, and for a folder that holds something else.
    """
    if dtype is not None and dtype not in DTYPES:
        raise InterchangeError(f"dtype {dtype}: unknown; use one of {', '.join(DTYPES)}")
    target = Path(out).resolve()
    if target.is_file() or (target.is_dir() and any(target.iterdir()) and not (target / CONFIG).is_file()):
        raise InterchangeError(f"{out}: holds something else than a model; choose another folder")
    source = resolve(model).folder
    if source is not None and target == source.resolve():
        raise InterchangeError(f"{out}: is the model itself; name another folder")
    tokenizer = optional_tokenizer(model)
    is_quantized = source is not None and not is_adapter_folder(source) and _is_quantized(source)
    if is_quantized and dtype is not None:
        raise InterchangeError(f"dtype {dtype}: a quantised model keeps its tensors as they are; leave it out")
    dtype = "quantized" if is_quantized else dtype or "bf16"
    decoder = None if is_quantized else load_merged(model)
    if decoder is not None and decoder.config.scale_embeddings and dtype == "fp16":
        raise InterchangeError("dtype fp16: embeddings scaled by the root of the width overflow it; use bf16 or fp32")
    with new_folder(target) as staged:
        if decoder is None:
            assert source is not None
            shutil.copytree(source, staged, dirs_exist_ok=True)
        else:
            save(decoder, staged, tokenizer)
            _cast(staged, dtype)
        if source is not None and (source / GENERATION_CONFIG).is_file():
            shutil.copy2(source / GENERATION_CONFIG, staged / GENERATION_CONFIG)
        if source is not None and tokenizer is not None:
            write_ends(staged, end_tokens(source, tokenizer), tokenizer)
        config = read_model_config(staged)
        parameters = count_parameters(config)
        class_name = str(read_json(staged / CONFIG).get("architectures", ["?"])[0])
        size = sum(path.stat().st_size for path in staged.glob("*.safetensors"))
        (staged / CARD).write_text(
            model_card(
                name=target.name,
                config=config,
                class_name=class_name,
                needs_trust=architecture_of(config).model_type == "smidgen",
                parameters=parameters,
                dtype=dtype,
                size=size,
                tokenizer=tokenizer,
                measurements=measurements_of(model),
                loss=quantization_loss_of(model),
            ),
            encoding="utf-8",
        )
    return HuggingFaceReport(Path(out), class_name, dtype, parameters, size)


def push_to_hub(folder: str | Path, repository: str, private: bool = False) -> str:
    """Upload an exported folder to a repository of the hub, `owner/name`; returns its address.

    Logging in is huggingface_hub's own matter (`hf auth login`). Raises InterchangeError when the hub refuses or is not
    reached; the folder stays.
    """
    check_repository(repository)
    try:
        from huggingface_hub import HfApi
    except ModuleNotFoundError:
        raise MissingDependencyError("huggingface_hub", "hf", "pushing to a hub") from None
    api = HfApi()
    try:
        address = api.create_repo(repository, private=private, exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=str(folder), commit_message="Export from Smidgen")
    except Exception as error:  # of the hub, or of the library below it, which depends on its version
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InterchangeError(
            f"--push {repository}: {reason}; {folder} is complete: log in (hf auth login) or see to the connection, "
            "and export again"
        ) from None
    return str(address)


def check_repository(repository: str) -> None:
    """Raise InterchangeError for what is no name of a repository."""
    if repository.count("/") != 1 or not all(repository.split("/")):
        raise InterchangeError(f"--push {repository}: name it owner/name")


def _is_quantized(folder: Path) -> bool:
    quantization = read_json(folder / CONFIG).get("quantization_config")
    return isinstance(quantization, dict) and quantization.get("quantization_mode") != "online"


def _cast(folder: Path, dtype: str) -> None:
    from safetensors.torch import load_file

    kind = DTYPES[dtype]
    if kind != torch.float32:
        tensors = {name: tensor.to(kind) for name, tensor in load_file(folder / WEIGHTS).items()}
        for name, tensor in tensors.items():
            if not torch.isfinite(tensor).all():
                raise InterchangeError(f"dtype {dtype}: {name} has values beyond its range; use bf16 or fp32")
        write_tensors(tensors, folder / WEIGHTS, {"format": "pt"})
    name = str(kind).removeprefix("torch.")
    # transformers before 4.56 asks for torch_dtype.
    update_json(folder / CONFIG, {"dtype": name, "torch_dtype": name})
